"""One step of each optimiser on flat arrays, in place: the formulas as their papers write them.

p: parameters; g: gradient, left as it is; then the moments. scale, limit, decay make the gradient that counts,
clip(scale g, -limit, limit) + decay p. All arrays have one size and one floating dtype; numbers have that dtype too.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any


def _gradient(p: Array, g: Array, scale: float, limit: float, decay: float) -> Array:
    return np.clip(scale * g, -limit, limit) + decay * p


def sgd(p: Array, g: Array, scale: float, limit: float, decay: float, lr: float) -> None:
    """p -= lr g"""
    p -= lr * _gradient(p, g, scale, limit, decay)


def momentum(
    p: Array, g: Array, b: Array, scale: float, limit: float, decay: float, lr: float, mu: float, nesterov: bool
) -> None:
    """b = mu b + g; p -= lr b, or lr (g + mu b) with nesterov."""
    g = _gradient(p, g, scale, limit, decay)
    b[...] = mu * b + g
    p -= lr * (g + mu * b) if nesterov else lr * b


def adam(
    p: Array, g: Array, m: Array, v: Array, scale: float, limit: float, decay: float,
    b1: float, b2: float, eta: float, floor: float, shrink: float,
) -> None:  # fmt: skip
    """m = b1 m + g; v = b2 v + g^2; p = shrink p - eta m / (sqrt(v) + floor); eta, floor hold 1 - b1, 1 - b2."""
    g = _gradient(p, g, scale, limit, decay)
    m[...] = b1 * m + g
    v[...] = b2 * v + g * g
    p[...] = shrink * p - eta * m / (np.sqrt(v) + floor)


def adamax(
    p: Array, g: Array, m: Array, u: Array, scale: float, limit: float, decay: float,
    b1: float, b2: float, eta: float, eps: float,
) -> None:  # fmt: skip
    """m = b1 m + g; u = max(b2 u, |g| + eps); p -= eta m / u"""
    g = _gradient(p, g, scale, limit, decay)
    m[...] = b1 * m + g
    u[...] = np.maximum(b2 * u, np.abs(g) + eps)
    p -= eta * m / u


def rmsprop(
    p: Array, g: Array, v: Array, b: Array, scale: float, limit: float, decay: float,
    lr: float, alpha: float, eps: float, mu: float,
) -> None:  # fmt: skip
    """v = alpha v + (1 - alpha) g^2; b = mu b + g / (sqrt(v) + eps); p -= lr b"""
    g = _gradient(p, g, scale, limit, decay)
    v[...] = alpha * v + (1 - alpha) * g * g
    b[...] = mu * b + g / (np.sqrt(v) + eps)
    p -= lr * b


def adagrad(p: Array, g: Array, h: Array, scale: float, limit: float, decay: float, lr: float, eps: float) -> None:
    """h += g^2; p -= lr g / (sqrt(h) + eps)"""
    g = _gradient(p, g, scale, limit, decay)
    h += g * g
    p -= lr * g / (np.sqrt(h) + eps)


def ema(average: Array, p: Array, rest: float) -> None:
    """average += rest (p - average)"""
    average += rest * (p - average)
