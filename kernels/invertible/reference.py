"""The layers of a flow that have an inverse: Glow's step before the coupling, and the affine coupling itself.

x and y are [..., C], channels last. Kingma and Dhariwal 2018, table 1: y = (scale x + shift) W at every pixel.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any


def forward(x: Array, weight: Array, scale: Array, shift: Array) -> Array:
    """y = (scale x + shift) @ weight"""
    return (x * scale + shift) @ weight


def backward(g: Array, x: Array, weight: Array, scale: Array, shift: Array) -> tuple[Array, Array, Array, Array]:
    """Gradients to x, weight, scale, shift."""
    inner = g @ np.swapaxes(weight, 0, 1)
    rows, gs, inners = (z.reshape(-1, z.shape[-1]) for z in (x, g, inner))
    dweight = np.swapaxes(rows * scale + shift, 0, 1) @ gs
    return inner * scale, dweight, np.sum(inners * rows, axis=0), np.sum(inners, axis=0)


def determinant(weight: Array) -> tuple[Array, Array]:
    """log |det weight| and weight^-T, its gradient, computed in float64; -infinity and zeros where one is singular."""
    wide = weight.astype(np.float64)
    logdet = np.linalg.slogdet(wide)[1]
    if np.isneginf(logdet).any():
        return logdet.astype(weight.dtype), np.zeros_like(weight)
    return logdet.astype(weight.dtype), np.swapaxes(np.linalg.inv(wide), -1, -2).astype(weight.dtype)


# The coupling. sigmoid = False: log s = h, y = x s + t (the paper's). True: s = sigmoid(h + 2), y = (x + t) s, which is
# what Glow's authors ran: s stays under 1, and starts near 1.


def _logistic(h: Array) -> Array:
    e = np.exp(-np.abs(h + 2))
    return np.maximum(e, h + 2 >= 0) / (1 + e)


def _log_scale(h: Array, sigmoid: bool) -> Array:
    return np.minimum(h + 2, 0) - np.log1p(np.exp(-np.abs(h + 2))) if sigmoid else h


def _per_sample(x: Array) -> Array:
    return np.sum(x, axis=tuple(range(1, x.ndim)))


def coupling(x: Array, h: Array, t: Array, sigmoid: bool) -> tuple[Array, Array]:
    """y, and log |det dy/dx| of each sample, the first axis."""
    y = (x + t) * _logistic(h) if sigmoid else x * np.exp(h) + t
    return y, _per_sample(_log_scale(h, sigmoid))


def coupling_backward(
    g: Array, glogdet: Array, x: Array, h: Array, t: Array, sigmoid: bool
) -> tuple[Array, Array, Array]:
    """Gradients to x, h, t from those of y and of the log-determinants."""
    glogdet = glogdet.reshape(-1, *[1] * (x.ndim - 1))
    if sigmoid:
        s = _logistic(h)
        return g * s, (g * (x + t) * s + glogdet) * _logistic(-h - 4), g * s  # 1 - s = sigmoid(-h - 2)
    s = np.exp(h)
    return g * s, g * x * s + glogdet, g


def coupling_inverse(y: Array, h: Array, t: Array, sigmoid: bool) -> tuple[Array, Array]:
    """x, and log |det dx/dy| of each sample."""
    x = y * (1 + np.exp(-h - 2)) - t if sigmoid else (y - t) * np.exp(-h)
    return x, -_per_sample(_log_scale(h, sigmoid))
