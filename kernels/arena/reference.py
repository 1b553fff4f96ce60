"""One step of each optimiser on flat arrays, in place: the formulas as their papers write them.

p: parameters; then the moments, all of p's size and dtype. average: an exponential moving average of p, which follows
when the step is done, or None. gradients: flat arrays that make up p's gradient one after the other; they stay as they
are. scale, limit, decay make the gradient that counts, clip(scale g, -limit, limit) + decay p.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = Any


def _gradient(p: Array, gradients: tuple[Array, ...], scale: float, limit: float, decay: float) -> Array:
    return np.clip(scale * np.concatenate(gradients), -limit, limit) + decay * p


def sgd(
    p: Array, average: Array | None, scale: float, limit: float, decay: float, rest: float,
    lr: float, *gradients: Array,
) -> None:  # fmt: skip
    """p -= lr g"""
    p -= lr * _gradient(p, gradients, scale, limit, decay)
    ema(average, p, rest)


def momentum(
    p: Array, b: Array, average: Array | None, scale: float, limit: float, decay: float, rest: float,
    lr: float, mu: float, nesterov: bool, *gradients: Array,
) -> None:  # fmt: skip
    """b = mu b + g; p -= lr b, or lr (g + mu b) with nesterov."""
    g = _gradient(p, gradients, scale, limit, decay)
    b[...] = mu * b + g
    p -= lr * (g + mu * b) if nesterov else lr * b
    ema(average, p, rest)


def adam(
    p: Array, m: Array, v: Array, average: Array | None, scale: float, limit: float, decay: float, rest: float,
    b1: float, b2: float, eta: float, floor: float, shrink: float, *gradients: Array,
) -> None:  # fmt: skip
    """m = b1 m + g; v = b2 v + g^2; p = shrink p - eta m / (sqrt(v) + floor); eta, floor hold 1 - b1, 1 - b2."""
    g = _gradient(p, gradients, scale, limit, decay)
    m[...] = b1 * m + g
    v[...] = b2 * v + g * g
    p[...] = shrink * p - eta * m / (np.sqrt(v) + floor)
    ema(average, p, rest)


def adamax(
    p: Array, m: Array, u: Array, average: Array | None, scale: float, limit: float, decay: float, rest: float,
    b1: float, b2: float, eta: float, eps: float, *gradients: Array,
) -> None:  # fmt: skip
    """m = b1 m + g; u = max(b2 u, |g| + eps); p -= eta m / u"""
    g = _gradient(p, gradients, scale, limit, decay)
    m[...] = b1 * m + g
    u[...] = np.maximum(b2 * u, np.abs(g) + eps)
    p -= eta * m / u
    ema(average, p, rest)


def rmsprop(
    p: Array, v: Array, b: Array, average: Array | None, scale: float, limit: float, decay: float, rest: float,
    lr: float, alpha: float, eps: float, mu: float, *gradients: Array,
) -> None:  # fmt: skip
    """v = alpha v + (1 - alpha) g^2; b = mu b + g / (sqrt(v) + eps); p -= lr b"""
    g = _gradient(p, gradients, scale, limit, decay)
    v[...] = alpha * v + (1 - alpha) * g * g
    b[...] = mu * b + g / (np.sqrt(v) + eps)
    p -= lr * b
    ema(average, p, rest)


def adagrad(
    p: Array, h: Array, average: Array | None, scale: float, limit: float, decay: float, rest: float,
    lr: float, eps: float, *gradients: Array,
) -> None:  # fmt: skip
    """h += g^2; p -= lr g / (sqrt(h) + eps)"""
    g = _gradient(p, gradients, scale, limit, decay)
    h += g * g
    p -= lr * g / (np.sqrt(h) + eps)
    ema(average, p, rest)


def ema(average: Array | None, p: Array, rest: float) -> None:
    """average += rest (p - average)"""
    if average is not None:
        average += rest * (p - average)


def norm(*gradients: Array) -> float:
    """The Euclidean norm of all of them together, summed in float64."""
    return math.sqrt(sum(np.sum(np.square(g, dtype=np.float64)).item() for g in gradients))
