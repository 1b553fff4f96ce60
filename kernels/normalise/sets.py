"""From sums over parts to statistics, and to what a kernel multiplies with: small arrays, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any


def join(moments: Array, length: int, rows: int, groups: int, over_batch: bool, centred: bool) -> tuple[Array, Array]:
    """Mean and variance of each set, from the parts of its samples and the columns of its group (Chan et al. 1979)."""
    means, squares = moments
    n, parts, c = means.shape
    held = np.full_like(means, rows / length, shape=parts)  # of a part, how much of its sample
    held[-1:] = (length - (parts - 1) * rows) / length

    def over_sets(columns: Array) -> Array:
        each = columns if groups == c else np.mean(columns.reshape(n, groups, c // groups), axis=2)
        return np.mean(each, axis=0, keepdims=True) if over_batch else each

    mean = over_sets(held @ means) * centred
    off = means - to_channels(mean, c)[:, None]
    off *= off
    return mean, over_sets(held @ off + np.sum(squares, axis=1) / length)


def to_channels(sets: Array, channels: int) -> Array:
    """[N or 1, groups] -> [N or 1, C]"""
    return sets if sets.shape[1] == channels else np.repeat(sets, channels // sets.shape[1], axis=1)


def halves(mean: Array, dtype: Any) -> tuple[Array, Array]:
    """A float64 mean rounded to dtype, and what was lost."""
    rounded = mean.astype(dtype)
    return rounded, (mean - rounded).astype(dtype)


def tables(mean: Array, var: Array, scale: Array, shift: Array, eps: float) -> tuple[Array, Array, Array, Array]:
    """By channel, centre, a, b for y = (x - centre) a + b, and what the rounded centre lacks of the mean."""
    c = scale.shape[1]
    mean, a = to_channels(mean, c), scale / np.sqrt(to_channels(var, c) + eps)
    centre = mean.astype(scale.dtype)
    low = mean - centre
    b = shift - low * a
    return np.broadcast_to(centre, a.shape), a.astype(scale.dtype), b.astype(scale.dtype), low


def gradients(
    sums: Array, low: Array, gmean: Array, gvar: Array, mean: Array, var: Array, scale: Array, count: int,
    centred: bool, eps: float,
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    """dscale, dshift, and by channel bend and move: what the elements of a set have in common of their gradients."""
    along, total = np.sum(sums, axis=2)
    (n, c), groups = along.shape, mean.shape[1]
    r = 1 / np.sqrt(var + eps)
    along = (along - low * total) * to_channels(r, c)

    def over_sets(columns: Array) -> Array:
        each = columns if groups == c else np.sum(columns.reshape(n, groups, c // groups), axis=2)
        return np.sum(each, axis=0, keepdims=True) if len(mean) == 1 else each

    bend = to_channels((2 * gvar - over_sets(scale * along) * r * r) / count, c)
    move = to_channels((gmean - over_sets(scale * total) * r) * (centred / count), c) - bend * low
    if len(scale) == 1:
        along, total = np.sum(along, axis=0, keepdims=True), np.sum(total, axis=0, keepdims=True)
    return along, total, bend.astype(scale.dtype), move.astype(scale.dtype)
