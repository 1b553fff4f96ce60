"""Normalise, scale, shift and activate, over the sets of elements that share a mean and a variance.

x is [N, P, C]: samples, positions, channels. Channels go in `groups` equal groups. A set is a group at all positions of
one sample, or of all samples with over_batch: groups = C over the batch is batch norm, groups = C instance norm, N =
all rows with P = 1 and groups = 1 layer norm. centred = False leaves the mean in and divides by the root mean square.

scale and shift are [1, C], or [N, C] where each sample has its own. The activation of z is z where z > 0, else slope z
(slope 1: none; 0: relu); with swish it is z sigmoid(z). Statistics are [N or 1, groups]; the mean comes in two numbers,
mean + low, since for a mean of 10,000 deviations one float32 would be off by a thousandth of a deviation.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any


def forward(
    x: Array, scale: Array, shift: Array, groups: int, over_batch: bool, centred: bool, eps: float,
    slope: float, swish: bool,
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    """y, mean, low, variance (divided by the number of elements; the mean square, and mean 0, if not centred)."""
    sets = x.astype(np.float64).reshape(*x.shape[:2], groups, x.shape[2] // groups)
    axes = (0, 1, 3) if over_batch else (1, 3)
    mean = np.mean(sets, axis=axes, keepdims=True) * centred
    var = np.mean((sets - mean) ** 2, axis=axes).reshape(-1, groups)
    mean = mean.reshape(-1, groups)
    y = _activate(_hat(x, mean, var, eps) * scale[:, None] + shift[:, None], slope, swish)
    rounded = mean.astype(x.dtype)
    return y.astype(x.dtype), rounded, (mean - rounded).astype(x.dtype), var.astype(x.dtype)


def backward(
    g: Array, gmean: Array, gvar: Array, x: Array, mean: Array, low: Array, var: Array, scale: Array, shift: Array,
    centred: bool, eps: float, slope: float, swish: bool,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Gradients to x, scale, shift from those of y, of the mean and of the variance."""
    mean, groups = mean.astype(np.float64) + low, mean.shape[1]
    hat = _hat(x, mean, var, eps)
    g = g * _slope(hat * scale[:, None] + shift[:, None], slope, swish)
    ghat = g * scale[:, None]

    def over_sets(z: Array) -> Array:  # the sum over each set
        sums = np.sum(z.reshape(*z.shape[:2], groups, z.shape[2] // groups), axis=(1, 3))
        return np.sum(sums, axis=0, keepdims=True) if len(mean) == 1 else sums

    count = max(x.size // max(mean.size, 1), 1)
    slide = _to_channels(over_sets(ghat) / count, x) * centred
    stretch = _to_channels(over_sets(ghat * hat) / count, x)
    dx = (ghat - slide - hat * stretch) / np.sqrt(_to_channels(var, x) + eps)
    dx = (
        dx
        + _to_channels(gmean, x) * (centred / count)
        + (x - _to_channels(mean, x)) * _to_channels(gvar * 2 / count, x)
    )
    dscale, dshift = np.sum(g * hat, axis=1), np.sum(g, axis=1)
    if len(scale) == 1:
        dscale, dshift = np.sum(dscale, axis=0, keepdims=True), np.sum(dshift, axis=0, keepdims=True)
    return dx.astype(x.dtype), dscale.astype(x.dtype), dshift.astype(x.dtype)


def scale_shift(x: Array, scale: Array, shift: Array, slope: float, swish: bool) -> Array:
    """The activation of x scale + shift: what remains when the statistics are constants."""
    return _activate(x * scale[:, None] + shift[:, None], slope, swish)


def scale_shift_backward(
    g: Array, x: Array, scale: Array, shift: Array, slope: float, swish: bool
) -> tuple[Array, Array, Array]:
    """Gradients to x, scale, shift."""
    g = g * _slope(x * scale[:, None] + shift[:, None], slope, swish)
    dscale, dshift = np.sum(g * x, axis=1), np.sum(g, axis=1)
    if len(scale) == 1:
        dscale, dshift = np.sum(dscale, axis=0, keepdims=True), np.sum(dshift, axis=0, keepdims=True)
    return g * scale[:, None], dscale, dshift


def _to_channels(s: Array, x: Array) -> Array:
    """Statistics [N or 1, groups] as they meet x: [N or 1, 1, C]."""
    each = x.shape[2] // s.shape[1] if s.shape[1] else 0
    spread = np.broadcast_to(s[:, :, None], (*s.shape, each))
    return spread.reshape(s.shape[0], 1, s.shape[1] * each)


def _hat(x: Array, mean: Array, var: Array, eps: float) -> Array:
    return (x - _to_channels(mean, x)) / np.sqrt(_to_channels(var, x) + eps)


def _sigmoid(z: Array) -> Array:
    e = np.exp(-np.abs(z))
    return np.maximum(e, z >= 0) / (1 + e)


def _activate(z: Array, slope: float, swish: bool) -> Array:
    return z * _sigmoid(z) if swish else np.where(z > 0, z, z * slope)


def _slope(z: Array, slope: float, swish: bool) -> Array:
    if swish:
        s = _sigmoid(z)
        return s * (1 + z * (1 - s))
    return np.where(z > 0, z * 0 + 1, slope)
