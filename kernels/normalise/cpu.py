"""reference.py in Numba: x is read once for its statistics and once to normalise it; backward, g and x twice each.

x is cut into parts, a fixed number of rows of one sample each, that stay in the level 2 cache. A part is read twice
there: for its means, then for the sums of what differs from them, so that a mean of 10,000 deviations costs no digits.
Parts are joined in float64, in their order: nothing depends on the number of threads.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from micrognm.kernels.jit import FAST, PARALLEL, SERIAL
from micrognm.kernels.maths import sigmoid
from micrognm.kernels.normalise.sets import gradients, halves, join, tables
from numba import njit, prange

Array = Any
PART = 1 << 14  # elements
SMALL = 1 << 17  # elements: below, waking a second thread costs more than it saves
INTO = {**SERIAL, "inline": "always"}  # not compiled by itself, only within the loop that calls it
SUMS = {**SERIAL, "fastmath": FAST}


def forward(
    x: Array, scale: Array, shift: Array, groups: int, over_batch: bool, centred: bool, eps: float,
    slope: float, swish: bool,
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    x, scale, shift = map(np.ascontiguousarray, (x, scale, shift))
    slope, y = x.dtype.type(slope), np.empty_like(x)
    if x.shape[1] == 1 and not over_batch:
        mean, var = np.empty((2, x.shape[0], groups))
        _run(_rows, x[:, 0], scale, shift, mean, var, centred, eps, slope, swish, _rows_of_a_part(x), y[:, 0])
        return y, *halves(mean, x.dtype), var.astype(x.dtype)
    whole = x.reshape(1, -1, x.shape[2]) if over_batch and len(scale) == 1 else x
    rows, parts = _cut(whole)
    moments = np.empty((2, len(whole), parts, x.shape[2]))
    _run(_moments, whole, rows, moments)
    mean, var = join(moments, whole.shape[1], rows, groups, over_batch, centred)
    centre, a, b = map(np.ascontiguousarray, tables(mean, var, scale, shift, eps)[:3])
    _run(_apply, whole, rows, centre, a, b, slope, swish, y.reshape(whole.shape))
    return y, *halves(mean, x.dtype), var.astype(x.dtype)


def backward(
    g: Array, gmean: Array, gvar: Array, x: Array, mean: Array, low: Array, var: Array, scale: Array, shift: Array,
    centred: bool, eps: float, slope: float, swish: bool,
) -> tuple[Array, Array, Array]:  # fmt: skip
    g, x, scale, shift = map(np.ascontiguousarray, (g, x, scale, shift))
    mean, var = mean.astype(np.float64) + low, var.astype(np.float64)
    slope, dx = x.dtype.type(slope), np.empty_like(x)
    if x.shape[1] == 1 and len(mean) == len(x):
        rows = _rows_of_a_part(x)
        sums = np.empty((2, len(x) if len(scale) == len(x) else -(-len(x) // rows), x.shape[2]), x.dtype)
        gmean, gvar = map(np.ascontiguousarray, (gmean, gvar))
        _run(
            _rows_backward, g[:, 0], gmean, gvar, x[:, 0], mean, var, scale, shift, centred, eps, slope, swish, rows,
            sums, dx[:, 0],
        )  # fmt: skip
        summed: Any = sums if len(scale) == len(x) else np.sum(sums, axis=1, keepdims=True, dtype=np.float64)
        dscale, dshift = summed
        return dx, dscale.astype(x.dtype), dshift.astype(x.dtype)
    count = max(x.size // max(mean.size, 1), 1)
    if len(mean) == len(scale) == 1:
        x, g = x.reshape(1, -1, x.shape[2]), g.reshape(1, -1, x.shape[2])
    rows, parts = _cut(x)
    centre, a, b, low = map(np.ascontiguousarray, tables(mean, var, scale, shift, eps))
    sums = np.empty((2, len(x), parts, x.shape[2]))
    out = dx.reshape(x.shape)
    _run(_sums, g, x, rows, centre, a, b, slope, swish, sums, out)
    dscale, dshift, bend, move = gradients(sums, low, gmean, gvar, mean, var, scale, count, centred, eps)
    if swish:
        _run(_pull_in_place, x, rows, centre, a, bend, move, out)
    else:
        _run(_pull, g, x, rows, centre, a, b, bend, move, slope, out)
    return dx, dscale.astype(x.dtype), dshift.astype(x.dtype)


def scale_shift(x: Array, scale: Array, shift: Array, slope: float, swish: bool) -> Array:
    x, scale, shift = map(np.ascontiguousarray, (x, scale, shift))
    whole = x.reshape(1, -1, x.shape[2]) if len(scale) == 1 else x
    y = np.empty_like(whole)
    _run(_apply, whole, _cut(whole)[0], np.zeros_like(scale), scale, shift, x.dtype.type(slope), swish, y)
    return y.reshape(x.shape)


def scale_shift_backward(
    g: Array, x: Array, scale: Array, shift: Array, slope: float, swish: bool
) -> tuple[Array, Array, Array]:
    g, x, scale, shift = map(np.ascontiguousarray, (g, x, scale, shift))
    dx = np.empty_like(x)
    if len(scale) == 1:
        x, g = x.reshape(1, -1, x.shape[2]), g.reshape(1, -1, x.shape[2])
    rows, parts = _cut(x)
    sums = np.empty((2, len(x), parts, x.shape[2]))
    _run(_scale_backward, g, x, rows, scale, shift, x.dtype.type(slope), swish, sums, dx.reshape(x.shape))
    dscale, dshift = np.sum(sums, axis=2)
    return dx, dscale.astype(x.dtype), dshift.astype(x.dtype)


def _run(kernel: Any, *args: Any) -> None:
    """Call it, in this thread alone where the work is small."""
    if max(arg.size for arg in args if isinstance(arg, np.ndarray)) >= SMALL:
        return kernel(*args)
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        kernel(*args)
    finally:
        numba.set_num_threads(threads)


def _rows_of_a_part(x: Array) -> int:
    return max(PART // x.shape[2], 4)


def _cut(x: Array) -> tuple[int, int]:
    """Rows of a part, and parts of a sample."""
    rows = _rows_of_a_part(x)
    return rows, -(-x.shape[1] // rows)


# ---- activation ------------------------------------------------------------------------------------------------------


@njit(**INTO)
def _kink(z: float, slope: float) -> float:
    return z if z > 0 else slope * z


@njit(**INTO)
def _kink_slope(z: float, slope: float, one: float) -> float:
    return one if z > 0 else slope


@njit(**INTO)
def _swish_slope(z: float, one: float) -> float:
    s = sigmoid(z)
    return s * (one + z * (one - s))


@njit(**INTO)
def _act_slope(z: float, slope: float, swish: bool, one: float) -> float:
    if swish:
        return _swish_slope(z, one)
    return _kink_slope(z, slope, one)


# ---- sets of columns: batch, instance, group -------------------------------------------------------------------------


@njit(**PARALLEL)
def _moments(x: Array, rows: int, out: Array) -> None:
    """Means of the columns of each part, and sums of squares of what differs from them."""
    parts, c = out.shape[2], x.shape[2]
    for job in prange(len(x) * parts):
        i, k = np.int64(job) // parts, np.int64(job) % parts
        part = x[i, k * rows : (k + 1) * rows]
        n = len(part)
        whole = n - n % 4
        work = np.zeros((3, c), x.dtype)
        centre, s, q = work[0], work[1], work[2]
        for r in range(0, whole, 4):
            for j in range(c):
                centre[j] += (part[r, j] + part[r + 1, j]) + (part[r + 2, j] + part[r + 3, j])
        for r in range(whole, n):
            for j in range(c):
                centre[j] += part[r, j]
        for j in range(c):
            centre[j] /= x.dtype.type(n)
        for r in range(n):
            for j in range(c):
                d = part[r, j] - centre[j]
                s[j] += d
                q[j] += d * d
        for j in range(c):
            off = np.float64(s[j]) / n
            out[0, i, k, j] = centre[j] + off
            out[1, i, k, j] = max(q[j] - n * off * off, 0.0)


@njit(**PARALLEL)
def _apply(x: Array, rows: int, centre: Array, a: Array, b: Array, slope: float, swish: bool, y: Array) -> None:
    parts, c = (x.shape[1] + rows - 1) // rows, x.shape[2]
    for job in prange(len(x) * parts):
        i, k = np.int64(job) // parts, np.int64(job) % parts
        X, Y = x[i, k * rows : (k + 1) * rows], y[i, k * rows : (k + 1) * rows]
        t = i if len(a) > 1 else 0
        m, at, bt = centre[t], a[t], b[t]
        if swish:
            for r in range(len(X)):
                for j in range(c):
                    z = (X[r, j] - m[j]) * at[j] + bt[j]
                    Y[r, j] = z * sigmoid(z)
        else:
            for r in range(len(X)):
                for j in range(c):
                    Y[r, j] = _kink((X[r, j] - m[j]) * at[j] + bt[j], slope)


@njit(**PARALLEL)
def _sums(
    g: Array, x: Array, rows: int, centre: Array, a: Array, b: Array, slope: float, swish: bool, out: Array, gz: Array
) -> None:
    """Sums over each part of g' (x - centre) and of g' = g times the activation's slope, which swish keeps in gz."""
    parts, c = out.shape[2], x.shape[2]
    one = x.dtype.type(1)
    for job in prange(len(x) * parts):
        i, k = np.int64(job) // parts, np.int64(job) % parts
        X, G = x[i, k * rows : (k + 1) * rows], g[i, k * rows : (k + 1) * rows]
        t = i if len(a) > 1 else 0
        m, at, bt = centre[t], a[t], b[t]
        work = np.zeros((2, c), x.dtype)
        along, total = work[0], work[1]
        if swish:
            D = gz[i, k * rows : (k + 1) * rows]
            for r in range(len(X)):
                for j in range(c):
                    d = X[r, j] - m[j]
                    D[r, j] = G[r, j] * _swish_slope(d * at[j] + bt[j], one)
                for j in range(c):
                    along[j] += D[r, j] * (X[r, j] - m[j])
                    total[j] += D[r, j]
        else:
            for r in range(len(X)):
                for j in range(c):
                    d = X[r, j] - m[j]
                    each = G[r, j] * _kink_slope(d * at[j] + bt[j], slope, one)
                    along[j] += each * d
                    total[j] += each
        for j in range(c):
            out[0, i, k, j] = along[j]
            out[1, i, k, j] = total[j]


@njit(**PARALLEL)
def _pull(
    g: Array, x: Array, rows: int, centre: Array, a: Array, b: Array, bend: Array, move: Array, slope: float, dx: Array
) -> None:
    """dx = a g' + bend (x - centre) + move"""
    parts, c = (x.shape[1] + rows - 1) // rows, x.shape[2]
    one = x.dtype.type(1)
    for job in prange(len(x) * parts):
        i, k = np.int64(job) // parts, np.int64(job) % parts
        X = x[i, k * rows : (k + 1) * rows]
        G = g[i, k * rows : (k + 1) * rows]
        D = dx[i, k * rows : (k + 1) * rows]
        t, e = i if len(a) > 1 else 0, i if len(bend) > 1 else 0
        m, at, bt, bent, moved = centre[t], a[t], b[t], bend[e], move[e]
        for r in range(len(X)):
            for j in range(c):
                d = X[r, j] - m[j]
                each = G[r, j] * _kink_slope(d * at[j] + bt[j], slope, one)
                D[r, j] = at[j] * each + (bent[j] * d + moved[j])


@njit(**PARALLEL)
def _pull_in_place(x: Array, rows: int, centre: Array, a: Array, bend: Array, move: Array, gz: Array) -> None:
    """_pull with gz = g', turned into dx. One array for two would stop the vectoriser there."""
    parts, c = (x.shape[1] + rows - 1) // rows, x.shape[2]
    for job in prange(len(x) * parts):
        i, k = np.int64(job) // parts, np.int64(job) % parts
        X = x[i, k * rows : (k + 1) * rows]
        D = gz[i, k * rows : (k + 1) * rows]
        t, e = i if len(a) > 1 else 0, i if len(bend) > 1 else 0
        m, at, bent, moved = centre[t], a[t], bend[e], move[e]
        for r in range(len(X)):
            for j in range(c):
                D[r, j] = at[j] * D[r, j] + (bent[j] * (X[r, j] - m[j]) + moved[j])


@njit(**PARALLEL)
def _scale_backward(
    g: Array, x: Array, rows: int, a: Array, b: Array, slope: float, swish: bool, out: Array, dx: Array
) -> None:
    parts, c = out.shape[2], x.shape[2]
    one = x.dtype.type(1)
    for job in prange(len(x) * parts):
        i, k = np.int64(job) // parts, np.int64(job) % parts
        X = x[i, k * rows : (k + 1) * rows]
        G = g[i, k * rows : (k + 1) * rows]
        D = dx[i, k * rows : (k + 1) * rows]
        t = i if len(a) > 1 else 0
        at, bt = a[t], b[t]
        work = np.zeros((2, c), x.dtype)
        along, total = work[0], work[1]
        for r in range(len(X)):
            for j in range(c):
                z = X[r, j] * at[j] + bt[j]
                gz = G[r, j] * (_act_slope(z, slope, swish, one))
                along[j] += gz * X[r, j]
                total[j] += gz
                D[r, j] = gz * at[j]
        for j in range(c):
            out[0, i, k, j] = along[j]
            out[1, i, k, j] = total[j]


# ---- sets within a row: layer norm -----------------------------------------------------------------------------------


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


@njit(**PARALLEL)
def _rows(
    x: Array, scale: Array, shift: Array, mean: Array, var: Array, centred: bool, eps: float, slope: float,
    swish: bool, rows: int, y: Array,
) -> None:  # fmt: skip
    T, groups = x.dtype.type, mean.shape[1]
    k = x.shape[1] // groups
    for part in prange((len(x) + rows - 1) // rows):
        first = np.int64(part) * rows
        for i in range(first, min(first + rows, np.int64(len(x)))):
            t = i if len(scale) > 1 else 0
            for m in range(groups):
                here = slice(m * k, (m + 1) * k)
                X, Y, S, B = x[i, here], y[i, here], scale[t, here], shift[t, here]
                centre = _sum(X) / T(k) if centred else T(0)
                for j in range(k):
                    Y[j] = X[j] - centre
                off = np.float64(_sum(Y)) / k if centred else 0.0
                mean[i, m] = centre + off
                var[i, m] = max(np.float64(_dot(Y, Y)) / k - off * off, 0.0)
                r, low = T(1 / np.sqrt(var[i, m] + eps)), T(off)
                if swish:
                    for j in range(k):
                        z = (Y[j] - low) * r * S[j] + B[j]
                        Y[j] = z * sigmoid(z)
                else:
                    for j in range(k):
                        Y[j] = _kink((Y[j] - low) * r * S[j] + B[j], slope)


@njit(**PARALLEL)
def _rows_backward(
    g: Array, gmean: Array, gvar: Array, x: Array, mean: Array, var: Array, scale: Array, shift: Array,
    centred: bool, eps: float, slope: float, swish: bool, rows: int, sums: Array, dx: Array,
) -> None:  # fmt: skip
    """sums: dscale and dshift, of each row where it has its own scale, else of each part."""
    T, groups, c = x.dtype.type, mean.shape[1], x.shape[1]
    one, k, own = T(1), c // groups, len(scale) > 1
    for part in prange((len(x) + rows - 1) // rows):
        first = np.int64(part) * rows
        work = np.zeros((4, c), x.dtype)
        hat, ghat, along, total = work[0, :k], work[1, :k], work[2], work[3]
        for i in range(first, min(first + rows, np.int64(len(x)))):
            t = i if own else 0
            for m in range(groups):
                # Slices, counted from 0: an index that might be negative keeps LLVM from vectorising a loop, and so do
                # arrays that might overlap in more than 8 ways.
                here = slice(m * k, (m + 1) * k)
                X, G, D, S, B = x[i, here], g[i, here], dx[i, here], scale[t, here], shift[t, here]
                A, L = along[here], total[here]
                root = 1 / np.sqrt(var[i, m] + eps)
                centre, r = T(mean[i, m]), T(root)
                low = T(mean[i, m] - centre)
                for j in range(k):
                    hat[j] = ((X[j] - centre) - low) * r
                if swish:
                    for j in range(k):
                        ghat[j] = G[j] * _swish_slope(hat[j] * S[j] + B[j], one)
                else:
                    for j in range(k):
                        ghat[j] = G[j] * _kink_slope(hat[j] * S[j] + B[j], slope, one)
                for j in range(k):
                    A[j] += ghat[j] * hat[j]
                for j in range(k):
                    L[j] += ghat[j]
                for j in range(k):
                    ghat[j] *= S[j]
                slide = T((gmean[i, m] - root * _sum(ghat)) / k) if centred else T(0)
                bend = T((2 * gvar[i, m] / root - root * _dot(ghat, hat)) / k)
                for j in range(k):
                    D[j] = r * ghat[j] + (bend * hat[j] + slide)
            if own:
                for j in range(c):
                    sums[0, i, j], sums[1, i, j] = along[j], total[j]
                    along[j] = total[j] = 0
        if not own:
            for j in range(c):
                sums[0, part, j], sums[1, part, j] = along[j], total[j]
