"""reference.py in CUDA C. The gradients are laid one after the other first: one launch then does all."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from micrognm.kernels import cuda

Array = Any
module = cuda.module(__file__)
THREADS = 256
BLOCKS = 1024  # at most: enough for the largest card, and the order of a sum is then the same on all


def _gradient(gradients: tuple[Array, ...]) -> Array:
    flat = module.float32(*gradients)
    return flat[0] if len(flat) == 1 else np.concatenate(flat)


def _blocks(n: int) -> int:
    return min(cuda.ceil_div(n, THREADS), BLOCKS)


def _run(name: str, gradients: tuple[Array, ...], p: Array, *rest: Any) -> None:
    module.float32(p)
    module.launch(name, _blocks(p.size), THREADS, p, *rest, _gradient(gradients), p.size)


def sgd(
    p: Array, average: Array | None, scale: float, limit: float, decay: float, rest: float,
    lr: float, *gradients: Array,
) -> None:  # fmt: skip
    _run("sgd", gradients, p, average, scale, limit, decay, rest, lr)


def momentum(
    p: Array, b: Array, average: Array | None, scale: float, limit: float, decay: float, rest: float,
    lr: float, mu: float, nesterov: bool, *gradients: Array,
) -> None:  # fmt: skip
    ahead, now = (mu, 1.0) if nesterov else (1.0, 0.0)
    _run("momentum", gradients, p, b, average, scale, limit, decay, rest, lr, mu, ahead, now)


def adam(
    p: Array, m: Array, v: Array, average: Array | None, scale: float, limit: float, decay: float, rest: float,
    b1: float, b2: float, eta: float, floor: float, shrink: float, *gradients: Array,
) -> None:  # fmt: skip
    _run("adam", gradients, p, m, v, average, scale, limit, decay, rest, b1, b2, eta, floor, shrink)


def adamax(
    p: Array, m: Array, u: Array, average: Array | None, scale: float, limit: float, decay: float, rest: float,
    b1: float, b2: float, eta: float, eps: float, *gradients: Array,
) -> None:  # fmt: skip
    _run("adamax", gradients, p, m, u, average, scale, limit, decay, rest, b1, b2, eta, eps)


def rmsprop(
    p: Array, v: Array, b: Array, average: Array | None, scale: float, limit: float, decay: float, rest: float,
    lr: float, alpha: float, eps: float, mu: float, *gradients: Array,
) -> None:  # fmt: skip
    _run("rmsprop", gradients, p, v, b, average, scale, limit, decay, rest, lr, alpha, eps, mu)


def adagrad(
    p: Array, h: Array, average: Array | None, scale: float, limit: float, decay: float, rest: float,
    lr: float, eps: float, *gradients: Array,
) -> None:  # fmt: skip
    _run("adagrad", gradients, p, h, average, scale, limit, decay, rest, lr, eps)


def ema(average: Array, p: Array, rest: float) -> None:
    module.float32(p)
    module.launch("ema", _blocks(p.size), THREADS, average, p, rest, p.size)


def norm(*gradients: Array) -> float:
    g = _gradient(gradients)
    sums = np.zeros_like(g, shape=BLOCKS)
    module.launch("squares", _blocks(g.size), THREADS, g, sums, g.size)
    return math.sqrt(np.sum(sums, dtype=np.float64).item())
