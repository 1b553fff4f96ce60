"""reference.py in Numba: x is read once for its statistics and once to normalise it; backward, g and x twice each.

x is cut into parts, a fixed number of rows of one sample each, that stay in the level 2 cache. A part is read twice
there: for its means, then for the sums of what differs from them, so that a mean of 10,000 deviations costs no digits.
Parts are joined in float64, in their order: nothing depends on the number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from micrognm.kernels.normalise import columns, rows
from micrognm.kernels.normalise.sets import gradients, halves, join, tables
from micrognm.kernels.workers import run, threads

Array = Any
PART = 1 << 14  # elements
LINE = 64  # numbers at least in a row of a worker's own memory, lest two workers write to one line of the cache


def forward(
    x: Array, scale: Array, shift: Array, groups: int, over_batch: bool, centred: bool, eps: float,
    slope: float, swish: bool,
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    x, y = np.ascontiguousarray(x), np.empty(x.shape, x.dtype)
    if x.shape[1] == 1 and not over_batch:
        statistics = np.empty((4, len(x), groups))
        _run_rows(rows.forward, x, x, y, scale, shift, statistics, centred, eps, slope, swish)
        mean, var = statistics[:2]
        return y, *halves(mean, x.dtype), var.astype(x.dtype)
    table, sums, args, workers = _columns(x, x, y, over_batch and len(scale) == 1, slope, swish)
    run(columns.moments, args, workers)
    length, part = args[6:8]
    mean, var = join(sums, length, part, groups, over_batch, centred)
    table[0], table[1], table[2], _ = tables(mean, var, scale, shift, eps)
    run(columns.apply, args, workers)
    return y, *halves(mean, x.dtype), var.astype(x.dtype)


def backward(
    g: Array, gmean: Array, gvar: Array, x: Array, mean: Array, low: Array, var: Array, scale: Array, shift: Array,
    centred: bool, eps: float, slope: float, swish: bool,
) -> tuple[Array, Array, Array]:  # fmt: skip
    g, x, dx = np.ascontiguousarray(g), np.ascontiguousarray(x), np.empty(x.shape, x.dtype)
    mean, var = mean.astype(np.float64) + low, var.astype(np.float64)
    if x.shape[1] == 1 and len(mean) == len(x):
        statistics = np.stack([mean, var, gmean, gvar])
        sums = _run_rows(rows.backward, x, g, dx, scale, shift, statistics, centred, eps, slope, swish)
        summed: Any = sums if len(scale) == len(x) else np.sum(sums, axis=1, keepdims=True, dtype=np.float64)
        dscale, dshift = summed
        return dx, dscale.astype(x.dtype), dshift.astype(x.dtype)
    table, sums, args, workers = _columns(x, g, dx, len(mean) == len(scale) == 1, slope, swish)
    table[0], table[1], table[2], low = tables(mean, var, scale, shift, eps)
    run(columns.sum_up, args, workers)
    count = max(x.size // max(mean.size, 1), 1)
    dscale, dshift, table[3], table[4] = gradients(sums, low, gmean, gvar, mean, var, scale, count, centred, eps)
    run(columns.pull, args, workers)
    return dx, dscale.astype(x.dtype), dshift.astype(x.dtype)


def scale_shift(x: Array, scale: Array, shift: Array, slope: float, swish: bool) -> Array:
    x, y = np.ascontiguousarray(x), np.empty(x.shape, x.dtype)
    table, _, args, workers = _columns(x, x, y, len(scale) == 1, slope, swish)
    table[0], table[1], table[2] = 0, scale, shift
    run(columns.apply, args, workers)
    return y


def scale_shift_backward(
    g: Array, x: Array, scale: Array, shift: Array, slope: float, swish: bool
) -> tuple[Array, Array, Array]:
    g, x, dx = np.ascontiguousarray(g), np.ascontiguousarray(x), np.empty(x.shape, x.dtype)
    table, sums, args, workers = _columns(x, g, dx, len(scale) == 1, slope, swish)
    table[1], table[2] = scale, shift
    run(columns.scale_backward, args, workers)
    dscale, dshift = np.sum(sums, axis=2)
    return dx, dscale.astype(x.dtype), dshift.astype(x.dtype)


def _part(channels: int) -> int:
    """Rows of a part."""
    return max(PART // channels, 4)


def _work(x: Array, workers: int) -> Array:
    return np.empty((workers, 3, max(x.shape[2], LINE)), x.dtype)


def _columns(x: Array, g: Array, y: Array, whole: bool, slope: float, swish: bool) -> tuple[Array, Array, tuple, int]:
    """Table and sums by sample (for the whole batch as one, if `whole`), and what columns.py takes, with them."""
    n, length, c = (1, x.shape[0] * x.shape[1], x.shape[2]) if whole else x.shape
    part, workers = _part(c), threads(2 * x.size)
    table, sums = np.empty((5, n, c), x.dtype), np.empty((2, n, -(-length // part), c))
    flat = (z.reshape(n * length, c) for z in (x, g, y))
    args = (*flat, table, sums.reshape(2, -1, c), _work(x, workers), length, part, x.dtype.type(slope), swish)
    return table, sums, args, workers


def _run_rows(share: Any, x: Array, g: Array, y: Array, scale: Array, shift: Array, *rest: Any) -> Array:
    """Sums that give the gradients to scale and shift: of each row where it has its own, else of each part."""
    scale, shift = np.ascontiguousarray(scale), np.ascontiguousarray(shift)
    (n, _, c), part, workers = x.shape, _part(x.shape[2]), threads(2 * x.size)
    statistics, centred, eps, slope, swish = rest
    sums = np.empty((2, n if len(scale) == n else -(-n // part), c), x.dtype)
    flat = (z.reshape(-1) for z in (x, g, y, scale, shift))
    options = centred, float(eps), x.dtype.type(slope), swish
    run(share, (*flat, statistics, sums, _work(x, workers), part, *options), workers)
    return sums
