"""reference.py in Numba: one loop, so that each array is read and written once. Serial: memory is the limit.

Numbers come in the arrays' dtype: a float64 among float32 would halve the width of every vector instruction.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

Array = Any
# Of fastmath only the fused multiply-add: NaN stays NaN.
OPTIONS: dict[str, Any] = {"cache": True, "error_model": "numpy", "fastmath": {"contract"}}


@njit(inline="always", **OPTIONS)
def _gradient(p: float, g: float, scale: float, limit: float, decay: float) -> float:
    return min(max(scale * g, -limit), limit) + decay * p


@njit(**OPTIONS)
def sgd(p: Array, g: Array, scale: float, limit: float, decay: float, lr: float) -> None:
    for i in range(p.size):
        p[i] -= lr * _gradient(p[i], g[i], scale, limit, decay)


@njit(**OPTIONS)
def momentum(
    p: Array, g: Array, b: Array, scale: float, limit: float, decay: float, lr: float, mu: float, nesterov: bool
) -> None:
    ahead, now = (mu, 1) if nesterov else (1, 0)
    for i in range(p.size):
        gi = _gradient(p[i], g[i], scale, limit, decay)
        b[i] = mu * b[i] + gi
        p[i] -= lr * (ahead * b[i] + now * gi)


@njit(**OPTIONS)
def adam(
    p: Array, g: Array, m: Array, v: Array, scale: float, limit: float, decay: float,
    b1: float, b2: float, eta: float, floor: float, shrink: float,
) -> None:  # fmt: skip
    for i in range(p.size):
        gi = _gradient(p[i], g[i], scale, limit, decay)
        m[i] = b1 * m[i] + gi
        v[i] = b2 * v[i] + gi * gi
        p[i] = shrink * p[i] - eta * m[i] / (np.sqrt(v[i]) + floor)


@njit(**OPTIONS)
def adamax(
    p: Array, g: Array, m: Array, u: Array, scale: float, limit: float, decay: float,
    b1: float, b2: float, eta: float, eps: float,
) -> None:  # fmt: skip
    for i in range(p.size):
        gi = _gradient(p[i], g[i], scale, limit, decay)
        m[i] = b1 * m[i] + gi
        u[i] = max(b2 * u[i], abs(gi) + eps)
        p[i] -= eta * m[i] / u[i]


@njit(**OPTIONS)
def rmsprop(
    p: Array, g: Array, v: Array, b: Array, scale: float, limit: float, decay: float,
    lr: float, alpha: float, eps: float, mu: float,
) -> None:  # fmt: skip
    for i in range(p.size):
        gi = _gradient(p[i], g[i], scale, limit, decay)
        v[i] = alpha * v[i] + (p.dtype.type(1) - alpha) * gi * gi
        b[i] = mu * b[i] + gi / (np.sqrt(v[i]) + eps)
        p[i] -= lr * b[i]


@njit(**OPTIONS)
def adagrad(p: Array, g: Array, h: Array, scale: float, limit: float, decay: float, lr: float, eps: float) -> None:
    for i in range(p.size):
        gi = _gradient(p[i], g[i], scale, limit, decay)
        h[i] += gi * gi
        p[i] -= lr * gi / (np.sqrt(h[i]) + eps)


@njit(**OPTIONS)
def ema(average: Array, p: Array, rest: float) -> None:
    for i in range(p.size):
        average[i] += rest * (p[i] - average[i])
