"""Where sets lie within a row: layer norm. Both take the same arguments, so that they are called by one function:

x, g, y [N, C]; scale, shift [1 or N, C]; statistics [4, N, groups]: mean, variance and the gradients to them; sums
[2, N or parts, C]; work [workers, 4, C or more]; `part` rows make a part; slope and swish, the activation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from micrognm.kernels.jit import FAST, SERIAL
from micrognm.kernels.maths import sigmoid
from micrognm.kernels.normalise.columns import slope_of_swish
from numba import njit

Array = Any
SUMS: dict[str, Any] = {**SERIAL, "fastmath": FAST}


@njit(**SUMS)
def _sum(x: Array) -> float:
    s = x.dtype.type(0)
    for j in range(x.size):
        s += x[j]
    return s


@njit(**SUMS)
def _dot(x: Array, y: Array) -> float:
    s = x.dtype.type(0)
    for j in range(x.size):
        s += x[j] * y[j]
    return s


@njit(**SERIAL)
def forward(
    x: Array, g: Array, y: Array, scale: Array, shift: Array, statistics: Array, sums: Array, work: Array, part: int,
    centred: bool, eps: float, slope: float, swish: bool, worker: int, workers: int,
) -> None:  # fmt: skip
    T, groups = x.dtype.type, statistics.shape[2]
    mean, var, k = statistics[0], statistics[1], x.shape[1] // groups
    for i in range(len(x) * worker // workers, len(x) * (worker + 1) // workers):
        t = i if len(scale) > 1 else 0
        for m in range(groups):
            here = slice(m * k, (m + 1) * k)
            X, Y, S, B = x[i, here], y[i, here], scale[t, here], shift[t, here]
            centre = _sum(X) / T(k) if centred else T(0)
            for j in range(k):
                Y[j] = X[j] - centre
            off = np.float64(_sum(Y)) / k if centred else 0.0
            square = np.float64(_dot(Y, Y)) / k - off * off
            mean[i, m] = centre + off
            var[i, m] = 0 if square < 0 else square  # written so that NaN stays
            r, low = T(1 / np.sqrt(var[i, m] + eps)), T(off)
            if swish:
                for j in range(k):
                    z = (Y[j] - low) * r * S[j] + B[j]
                    Y[j] = z * sigmoid(z)
            else:
                for j in range(k):
                    z = (Y[j] - low) * r * S[j] + B[j]
                    Y[j] = z if z > 0 else slope * z


@njit(**SERIAL)
def backward(
    x: Array, g: Array, y: Array, scale: Array, shift: Array, statistics: Array, sums: Array, work: Array, part: int,
    centred: bool, eps: float, slope: float, swish: bool, worker: int, workers: int,
) -> None:  # fmt: skip
    """y is the gradient to x; sums, what those to scale and shift are made of."""
    T, (n, c), groups = x.dtype.type, x.shape, statistics.shape[2]
    one, k, own = T(1), c // groups, len(scale) > 1
    mean, var, gmean, gvar = statistics[0], statistics[1], statistics[2], statistics[3]
    hat, ghat, along, total = work[worker, 0], work[worker, 1], work[worker, 2], work[worker, 3]
    parts = (n + part - 1) // part
    for p in range(parts * worker // workers, parts * (worker + 1) // workers):
        for j in range(c):
            along[j] = total[j] = 0
        for i in range(p * part, min((p + 1) * part, n)):
            t = i if own else 0
            for m in range(groups):
                # Slices, counted from 0: an index that might be negative keeps LLVM from vectorising a loop, and so do
                # arrays that might overlap in more than 8 ways.
                here = slice(m * k, (m + 1) * k)
                X, G, D, S, B = x[i, here], g[i, here], y[i, here], scale[t, here], shift[t, here]
                A, L = along[here], total[here]
                root = 1 / np.sqrt(var[i, m] + eps)
                centre, r = T(mean[i, m]), T(root)
                low = T(mean[i, m] - centre)
                for j in range(k):
                    hat[j] = ((X[j] - centre) - low) * r
                if swish:
                    for j in range(k):
                        ghat[j] = G[j] * slope_of_swish(hat[j] * S[j] + B[j], one)
                else:
                    for j in range(k):
                        ghat[j] = G[j] * (one if hat[j] * S[j] + B[j] > 0 else slope)
                for j in range(k):
                    A[j] += ghat[j] * hat[j]
                for j in range(k):
                    L[j] += ghat[j]
                for j in range(k):
                    ghat[j] *= S[j]
                slide = T((gmean[i, m] - root * _sum(ghat[:k])) / k) if centred else T(0)
                bend = T((2 * gvar[i, m] / root - root * _dot(ghat[:k], hat[:k])) / k)
                for j in range(k):
                    D[j] = r * ghat[j] + (bend * hat[j] + slide)
            if own:
                for j in range(c):
                    sums[0, i, j], sums[1, i, j] = along[j], total[j]
                    along[j] = total[j] = 0
        if not own:
            for j in range(c):
                sums[0, p, j], sums[1, p, j] = along[j], total[j]
