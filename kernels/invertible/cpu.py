"""reference.py on the CPU. (scale x + shift) W is x W' + b' for W' = diag(scale) W and b' = shift W: one convolution.

Its kernel adds b' in the same pass. The gradients are plain products.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from micrognm.kernels.columns import column_sums
from micrognm.kernels.conv import cpu as conv
from micrognm.kernels.invertible import reference
from micrognm.kernels.jit import FAST, INNER
from micrognm.kernels.maths import exp, log_sigmoid, sigmoid
from micrognm.kernels.matmul import matmul
from micrognm.kernels.workers import run, share_of, threads
from numba import njit

from micrognm import backend

Array = Any
POINT = ((0,),), (1,)  # the taps and the stride of a 1x1 convolution of a series
PART = 1 << 13  # elements of one sample whose logarithms are added in float32; parts are added in float64
LAPACK_BLOCK = 64  # columns that LAPACK takes at once
SUMS: dict[str, Any] = {**INNER, "fastmath": FAST}


def forward(x: Array, weight: Array, scale: Array, shift: Array) -> Array:
    series = np.ascontiguousarray(x).reshape(len(x) if x.ndim > 2 else 1, -1 if x.size else 0, x.shape[-1])
    weight, shift = (scale[:, None] * weight)[None], shift @ weight
    return conv.forward(series, weight, shift, *POINT, series.shape[1:2], 1).reshape(x.shape)


def backward(g: Array, x: Array, weight: Array, scale: Array, shift: Array) -> tuple[Array, Array, Array, Array]:
    gs, rows = (np.ascontiguousarray(z).reshape(-1 if z.size else 0, z.shape[-1]) for z in (g, x))
    dfolded, dbias = matmul(rows.T, gs), column_sums(gs)
    dweight = scale[:, None] * dfolded + np.outer(shift, dbias)
    dx = matmul(gs, (scale[:, None] * weight).T)
    return dx.reshape(x.shape), dweight, np.sum(weight * dfolded, axis=1), weight @ dbias


def determinant(weight: Array) -> tuple[Array, Array]:
    """One LU decomposition for both, where NumPy's determinant and inverse take one each."""
    if weight.ndim > 2 or not weight.size:
        return reference.determinant(weight)
    lapack = _lapack()
    lu, pivots, _ = lapack.dgetrf(weight.T)
    diagonal = np.abs(np.diagonal(lu))
    if not diagonal.all():
        return weight.dtype.type(-np.inf), np.zeros_like(weight)
    inverse, _ = lapack.dgetri(lu, pivots, lwork=LAPACK_BLOCK * len(lu), overwrite_lu=True)  # of the transpose
    return np.log(diagonal).sum().astype(weight.dtype), inverse.astype(weight.dtype)


@functools.cache
def _lapack() -> Any:
    """SciPy's, in one thread from now on: it brings a BLAS of its own."""
    from scipy.linalg import lapack

    backend.one_thread_for_blas()
    return lapack


def coupling(x: Array, h: Array, t: Array, sigmoid: bool) -> tuple[Array, Array]:
    return _couple(_coupling, x, h, t, sigmoid)


def coupling_inverse(y: Array, h: Array, t: Array, sigmoid: bool) -> tuple[Array, Array]:
    return _couple(_coupling_inverse, y, h, t, sigmoid)


def _couple(kernel: Any, x: Array, h: Array, t: Array, sigmoid: bool) -> tuple[Array, Array]:
    x, h, t = map(np.ascontiguousarray, (x, h, t))
    y, n = np.empty_like(x), len(x)
    rows = (z.reshape(n, x.size // max(n, 1)) for z in (x, h, t, y))
    sums = np.zeros((n, -(-x.size // max(n, 1) // PART)))
    run(kernel, (*rows, sums, sigmoid), threads(4 * x.size))
    return y, np.sum(sums, axis=1).astype(x.dtype)


def coupling_backward(
    g: Array, glogdet: Array, x: Array, h: Array, t: Array, sigmoid: bool
) -> tuple[Array, Array, Array]:
    g, glogdet, x, h, t = map(np.ascontiguousarray, (g, glogdet, x, h, t))
    dx, dh, n = np.empty_like(x), np.empty_like(x), len(x)
    rows = [z.reshape(n, x.size // max(n, 1)) for z in (x, h, t, dx, dh, g)]
    run(_coupling_backward, (glogdet, *rows, sigmoid), threads(4 * x.size))
    return dx, dh, dx if sigmoid else g


# In what follows arrays are [N, elements of a sample].


@njit(**SUMS)
def _log_scale(h: Array, i: int, begin: int, end: int, logistic: bool) -> float:
    """The sum of log s over a part of one sample.

    A loop of its own, which writes nothing: one that writes is compiled twice, for arrays that overlap as well, and
    which of the two runs, and so the order of the sum, would depend on where the arrays lie.
    """
    total, two = h.dtype.type(0), h.dtype.type(2)
    if logistic:
        for j in range(begin, end):
            total += log_sigmoid(h[i, j] + two)
    else:
        for j in range(begin, end):
            total += h[i, j]
    return total


@njit(**SUMS)
def _coupling(x: Array, h: Array, t: Array, y: Array, sums: Array, logistic: bool, worker: int, workers: int) -> None:
    n, size = x.shape
    parts, two = sums.shape[1], x.dtype.type(2)
    for job in share_of(n * parts, worker, workers):
        i, k = job // parts, job % parts
        begin, end = k * PART, min((k + 1) * PART, size)
        if logistic:
            for j in range(begin, end):
                y[i, j] = (x[i, j] + t[i, j]) * sigmoid(h[i, j] + two)
        else:
            for j in range(begin, end):
                y[i, j] = x[i, j] * exp(h[i, j]) + t[i, j]
        sums[i, k] = _log_scale(h, i, begin, end, logistic)


@njit(**SUMS)
def _coupling_inverse(
    y: Array, h: Array, t: Array, x: Array, sums: Array, logistic: bool, worker: int, workers: int
) -> None:
    n, size = x.shape
    parts, one, two = sums.shape[1], x.dtype.type(1), x.dtype.type(2)
    for job in share_of(n * parts, worker, workers):
        i, k = job // parts, job % parts
        begin, end = k * PART, min((k + 1) * PART, size)
        if logistic:
            for j in range(begin, end):
                x[i, j] = y[i, j] * (one + exp(-h[i, j] - two)) - t[i, j]
        else:
            for j in range(begin, end):
                x[i, j] = (y[i, j] - t[i, j]) * exp(-h[i, j])
        sums[i, k] = -_log_scale(h, i, begin, end, logistic)


@njit(**INNER)
def _coupling_backward(
    glogdet: Array, x: Array, h: Array, t: Array, dx: Array, dh: Array, g: Array, logistic: bool, worker: int,
    workers: int,
) -> None:  # fmt: skip
    n, size = x.shape
    parts, two = (size + PART - 1) // PART, x.dtype.type(2)
    for job in share_of(n * parts, worker, workers):
        i, k = job // parts, job % parts
        each = glogdet[i]
        part = range(k * PART, min((k + 1) * PART, size))
        if logistic:
            for j in part:
                dx[i, j] = g[i, j] * sigmoid(h[i, j] + two)
                dh[i, j] = (dx[i, j] * (x[i, j] + t[i, j]) + each) * sigmoid(-h[i, j] - two)
        else:
            for j in part:
                dx[i, j] = g[i, j] * exp(h[i, j])
                dh[i, j] = dx[i, j] * x[i, j] + each
