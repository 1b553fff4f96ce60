"""Where sets are columns, of one sample or all: batch, instance and group norm. All take the same arguments, so that
they are called by one function:

x, g, y [rows, C], `length` rows a sample, which are cut into parts of `part`; table [5, samples, C]: centre, a and b
for z = (x - centre) a + b, bend and move; sums [2, parts of all samples, C]; work [workers, 3, C or more]; slope and
swish, the activation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from micrognm.kernels.jit import INLINED, INNER
from micrognm.kernels.maths import sigmoid
from micrognm.kernels.workers import share_of
from numba import njit

Array = Any


@njit(**INLINED)
def _rows(job: int, length: int, part: int) -> tuple[int, int, int]:
    """Of a part, its sample, its first row and the one after its last."""
    parts = (length + part - 1) // part
    i, k = job // parts, job % parts
    left = length - k * part
    first = i * length + k * part
    return i, first, first + (part if part < left else left)


@njit(**INLINED)
def slope_of_swish(z: float, one: float) -> float:
    s = sigmoid(z)
    return s * (one + z * (one - s))


@njit(**INNER)
def moments(
    x: Array, g: Array, y: Array, table: Array, sums: Array, work: Array, length: int, part: int, slope: float,
    swish: bool, worker: int, workers: int,
) -> None:  # fmt: skip
    """sums: means of the columns of each part, and sums of squares of what differs from them."""
    c, jobs, T = x.shape[1], sums.shape[1], x.dtype.type
    centre, s, q = work[worker, 0], work[worker, 1], work[worker, 2]
    for job in share_of(jobs, worker, workers):
        _, first, stop = _rows(job, length, part)
        X = x[first:stop]
        n = stop - first
        whole = n - n % 4
        for j in range(c):
            centre[j] = s[j] = q[j] = T(0)
        for r in range(0, whole, 4):
            for j in range(c):
                centre[j] += (X[r, j] + X[r + 1, j]) + (X[r + 2, j] + X[r + 3, j])
        for r in range(whole, n):
            for j in range(c):
                centre[j] += X[r, j]
        for j in range(c):
            centre[j] /= T(n)
        for r in range(n):
            for j in range(c):
                d = X[r, j] - centre[j]
                s[j] += d
                q[j] += d * d
        for j in range(c):
            off = np.float64(s[j]) / n
            square = q[j] - n * off * off
            sums[0, job, j] = centre[j] + off
            sums[1, job, j] = 0 if square < 0 else square  # written so that NaN stays


@njit(**INNER)
def apply(
    x: Array, g: Array, y: Array, table: Array, sums: Array, work: Array, length: int, part: int, slope: float,
    swish: bool, worker: int, workers: int,
) -> None:  # fmt: skip
    c, jobs = x.shape[1], sums.shape[1]
    for job in share_of(jobs, worker, workers):
        i, first, stop = _rows(job, length, part)
        X, Y = x[first:stop], y[first:stop]
        m, a, b = table[0, i], table[1, i], table[2, i]
        if swish:
            for r in range(len(X)):
                for j in range(c):
                    z = (X[r, j] - m[j]) * a[j] + b[j]
                    Y[r, j] = z * sigmoid(z)
        else:
            for r in range(len(X)):
                for j in range(c):
                    z = (X[r, j] - m[j]) * a[j] + b[j]
                    Y[r, j] = z if z > 0 else slope * z


@njit(**INNER)
def sum_up(
    x: Array, g: Array, y: Array, table: Array, sums: Array, work: Array, length: int, part: int, slope: float,
    swish: bool, worker: int, workers: int,
) -> None:  # fmt: skip
    """Sums over each part of g' (x - centre) and of g' = g times the activation's slope, which swish keeps in y."""
    c, jobs, one = x.shape[1], sums.shape[1], x.dtype.type(1)
    along, total = work[worker, 0], work[worker, 1]
    for job in share_of(jobs, worker, workers):
        i, first, stop = _rows(job, length, part)
        X, G, D = x[first:stop], g[first:stop], y[first:stop]
        m, a, b = table[0, i], table[1, i], table[2, i]
        for j in range(c):
            along[j] = total[j] = 0
        if swish:
            for r in range(len(X)):
                for j in range(c):
                    d = X[r, j] - m[j]
                    D[r, j] = G[r, j] * slope_of_swish(d * a[j] + b[j], one)
                for j in range(c):
                    along[j] += D[r, j] * (X[r, j] - m[j])
                    total[j] += D[r, j]
        else:
            for r in range(len(X)):
                for j in range(c):
                    d = X[r, j] - m[j]
                    each = G[r, j] * (one if d * a[j] + b[j] > 0 else slope)
                    along[j] += each * d
                    total[j] += each
        for j in range(c):
            sums[0, job, j] = along[j]
            sums[1, job, j] = total[j]


@njit(**INNER)
def pull(
    x: Array, g: Array, y: Array, table: Array, sums: Array, work: Array, length: int, part: int, slope: float,
    swish: bool, worker: int, workers: int,
) -> None:  # fmt: skip
    """y = a g' + bend (x - centre) + move. With swish y holds g' before: one array for two would stop the vectoriser
    there.
    """
    c, jobs, one = x.shape[1], sums.shape[1], x.dtype.type(1)
    for job in share_of(jobs, worker, workers):
        i, first, stop = _rows(job, length, part)
        X, G, D = x[first:stop], g[first:stop], y[first:stop]
        m, a, b, bend, move = table[0, i], table[1, i], table[2, i], table[3, i], table[4, i]
        if swish:
            for r in range(len(X)):
                for j in range(c):
                    D[r, j] = a[j] * D[r, j] + (bend[j] * (X[r, j] - m[j]) + move[j])
        else:
            for r in range(len(X)):
                for j in range(c):
                    d = X[r, j] - m[j]
                    each = G[r, j] * (one if d * a[j] + b[j] > 0 else slope)
                    D[r, j] = a[j] * each + (bend[j] * d + move[j])


@njit(**INNER)
def scale_backward(
    x: Array, g: Array, y: Array, table: Array, sums: Array, work: Array, length: int, part: int, slope: float,
    swish: bool, worker: int, workers: int,
) -> None:  # fmt: skip
    """sum_up and pull in one where there are no sets: y = a g', and sums of g' x and of g', for z = a x + b."""
    c, jobs, one = x.shape[1], sums.shape[1], x.dtype.type(1)
    along, total = work[worker, 0], work[worker, 1]
    for job in share_of(jobs, worker, workers):
        i, first, stop = _rows(job, length, part)
        X, G, D = x[first:stop], g[first:stop], y[first:stop]
        a, b = table[1, i], table[2, i]
        for j in range(c):
            along[j] = total[j] = 0
        for r in range(len(X)):
            for j in range(c):
                z = X[r, j] * a[j] + b[j]
                each = G[r, j] * (slope_of_swish(z, one) if swish else one if z > 0 else slope)
                along[j] += each * X[r, j]
                total[j] += each
                D[r, j] = each * a[j]
        for j in range(c):
            sums[0, job, j] = along[j]
            sums[1, job, j] = total[j]
