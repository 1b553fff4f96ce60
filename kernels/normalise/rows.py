"""Where sets lie within a row: layer norm. Both take the same arguments, so that they are called by one function:

xs, gs, ys [N C]; scales, shifts [C or N C]; statistics [4, N, groups]: mean, variance and the gradients to them; sums
[2, N or parts, C]; work [workers, 3, C or more]; `part` rows make a part; slope and swish, the activation.

Arrays are flat, and read by `load` and `store`: a slice of every row would cost as much as the row, and LLVM vectorises
no loop with an index that might be negative.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from micrognm.kernels.formula.loops import accumulate, add, load, store
from micrognm.kernels.jit import INNER
from micrognm.kernels.maths import sigmoid
from micrognm.kernels.normalise.columns import slope_of_swish
from micrognm.kernels.workers import share_of
from numba import njit

Array = Any


@njit(**INNER)
def forward(
    xs: Array, gs: Array, ys: Array, scales: Array, shifts: Array, statistics: Array, sums: Array, work: Array,
    part: int, centred: bool, eps: float, slope: float, swish: bool, worker: int, workers: int,
) -> None:  # fmt: skip
    T, n, c, groups = xs.dtype.type, statistics.shape[1], sums.shape[2], statistics.shape[2]
    mean, var, k, own = statistics[0], statistics[1], c // groups, scales.size > c
    for i in share_of(n, worker, workers):
        for m in range(groups):
            at, of = i * c + m * k, (i * c if own else 0) + m * k
            total = T(0)
            for j in range(k):
                total = add(total, load(xs, at + j))
            centre = total / T(k) if centred else T(0)
            off, square = T(0), T(0)
            for j in range(k):
                z = load(xs, at + j) - centre
                off = add(off, z)
                square = add(square, z * z)
            low = np.float64(off) / k if centred else 0.0
            spread = np.float64(square) / k - low * low
            mean[i, m] = centre + low
            var[i, m] = 0 if spread < 0 else spread  # written so that NaN stays
            r, rest = T(1 / np.sqrt(var[i, m] + eps)), T(low)
            if swish:
                for j in range(k):
                    z = ((load(xs, at + j) - centre) - rest) * r * load(scales, of + j) + load(shifts, of + j)
                    store(0, ys, at + j, z * sigmoid(z))
            else:
                for j in range(k):
                    z = ((load(xs, at + j) - centre) - rest) * r * load(scales, of + j) + load(shifts, of + j)
                    store(0, ys, at + j, z if z > 0 else slope * z)


@njit(**INNER)
def backward(
    xs: Array, gs: Array, ys: Array, scales: Array, shifts: Array, statistics: Array, sums: Array, work: Array,
    part: int, centred: bool, eps: float, slope: float, swish: bool, worker: int, workers: int,
) -> None:  # fmt: skip
    """ys is the gradient to xs; sums, what those to scales and shifts are made of."""
    T, n, c, groups = xs.dtype.type, statistics.shape[1], sums.shape[2], statistics.shape[2]
    one, k, own = T(1), c // groups, scales.size > c
    mean, var, gmean, gvar = statistics[0], statistics[1], statistics[2], statistics[3]
    ghat, along, total = work[worker, 0], work[worker, 1], work[worker, 2]
    parts = (n + part - 1) // part
    for p in share_of(parts, worker, workers):
        for j in range(c):
            along[j] = total[j] = 0
        for i in range(p * part, min((p + 1) * part, n)):
            for m in range(groups):
                at, of = i * c + m * k, (i * c if own else 0) + m * k
                root = 1 / np.sqrt(var[i, m] + eps)
                centre, r = T(mean[i, m]), T(root)
                low = T(mean[i, m] - centre)
                if swish:
                    for j in range(k):
                        hat = ((load(xs, at + j) - centre) - low) * r
                        z = hat * load(scales, of + j) + load(shifts, of + j)
                        ghat[j] = load(gs, at + j) * slope_of_swish(z, one)
                else:
                    for j in range(k):
                        hat = ((load(xs, at + j) - centre) - low) * r
                        z = hat * load(scales, of + j) + load(shifts, of + j)
                        ghat[j] = load(gs, at + j) * (one if z > 0 else slope)
                slide, bend = T(0), T(0)
                for j in range(k):
                    hat = ((load(xs, at + j) - centre) - low) * r
                    accumulate(1, along, m * k + j, ghat[j] * hat)
                    accumulate(2, total, m * k + j, ghat[j])
                    ghat[j] *= load(scales, of + j)
                    slide = add(slide, ghat[j])
                    bend = add(bend, ghat[j] * hat)
                a = T((gmean[i, m] - root * slide) / k) if centred else T(0)
                b = T((2 * gvar[i, m] / root - root * bend) / k)
                for j in range(k):
                    hat = ((load(xs, at + j) - centre) - low) * r
                    store(0, ys, at + j, r * ghat[j] + (b * hat + a))
            if own:
                for j in range(c):
                    sums[0, i, j], sums[1, i, j] = along[j], total[j]
                    along[j] = total[j] = 0
        if not own:
            for j in range(c):
                sums[0, p, j], sums[1, p, j] = along[j], total[j]
