"""reference.py in Numba: one launch, in which each array is read and written once.

The work is cut into pieces of at most CHUNK elements. A piece has one gradient, which is found by its address: a launch
for each of a model's hundred tensors would cost more than the work. The average follows piece by piece, while its
parameters are in the cache. Elements do not meet, and `norm` sums pieces in their order: results do not depend on the
number of threads.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from micrognm.kernels.jit import FAST, INLINED, INNER
from micrognm.kernels.views import array_at
from micrognm.kernels.workers import run, share_of, threads
from numba import njit

Array = Any
CHUNK = 1 << 14  # elements


@functools.lru_cache(maxsize=64)
def _pieces(sizes: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """For gradients of these sizes: which one each piece has, where in it the piece starts, and table's rows."""
    starts = np.cumsum((0, *sizes))
    rows = [
        (i, offset, 0, starts[i] + offset, starts[i] + min(offset + CHUNK, size))
        for i, size in enumerate(sizes)
        for offset in range(0, size, CHUNK)
    ]
    which, offsets, *table = np.array(rows, np.int64).reshape(-1, 5).T
    return which, offsets, np.ascontiguousarray(np.stack(table, axis=1))


def _table(gradients: list[Array]) -> Array:
    """[pieces, 3]: the address of a piece's gradient, and where the piece starts and ends in the flat arrays."""
    which, offsets, table = _pieces(tuple(g.size for g in gradients))
    addresses = np.array([g.ctypes.data for g in gradients], np.int64)
    table = table.copy()
    table[:, 0] = addresses[which] + offsets * gradients[0].itemsize
    return table


def _run(kernel: Any, gradients: tuple[Array, ...], p: Array, *rest: Any) -> None:
    """kernel(p, moments, average, table, numbers) in threads; no average is an empty one.

    Numbers are of p's dtype, as a float64 would halve the width of every vector.
    """
    flat = [np.ascontiguousarray(g, p.dtype) for g in gradients]  # also keeps alive what the table points to
    arrays = [p[:0] if x is None else x for x in rest if x is None or isinstance(x, np.ndarray)]
    numbers = [p.dtype.type(x) for x in rest[len(arrays) :]]
    run(kernel, (p, *arrays, _table(flat), *numbers), threads(p.size))


@njit(inline="always", **INNER)
def _gradient(p: float, g: float, scale: float, limit: float, decay: float) -> float:
    return min(max(scale * g, -limit), limit) + decay * p


@njit(**INLINED)
def _follow(average: Array, p: Array, rest: float) -> None:
    for i in range(average.size):
        average[i] += rest * (p[i] - average[i])


@njit(**INNER)
def _sgd(
    p: Array, average: Array, table: Array, scale: float, limit: float, decay: float, rest: float,
    lr: float, worker: int, workers: int,
) -> None:  # fmt: skip
    for c in share_of(len(table), worker, workers):
        piece, address = slice(table[c, 1], table[c, 2]), table[c, 0]
        P = p[piece]
        g = array_at(address, P.size, p)
        for i in range(P.size):
            P[i] -= lr * _gradient(P[i], g[i], scale, limit, decay)
        _follow(average[piece], P, rest)


def sgd(
    p: Array, average: Array | None, scale: float, limit: float, decay: float, rest: float,
    lr: float, *gradients: Array,
) -> None:  # fmt: skip
    _run(_sgd, gradients, p, average, scale, limit, decay, rest, lr)


@njit(**INNER)
def _momentum(
    p: Array, b: Array, average: Array, table: Array, scale: float, limit: float, decay: float, rest: float,
    lr: float, mu: float, nesterov: bool, worker: int, workers: int,
) -> None:  # fmt: skip
    one = p.dtype.type(1)
    ahead, now = (mu, one) if nesterov else (one, one - one)
    for c in share_of(len(table), worker, workers):
        piece, address = slice(table[c, 1], table[c, 2]), table[c, 0]
        P, B = p[piece], b[piece]
        g = array_at(address, P.size, p)
        for i in range(P.size):
            gi = _gradient(P[i], g[i], scale, limit, decay)
            B[i] = mu * B[i] + gi
            P[i] -= lr * (ahead * B[i] + now * gi)
        _follow(average[piece], P, rest)


def momentum(
    p: Array, b: Array, average: Array | None, scale: float, limit: float, decay: float, rest: float,
    lr: float, mu: float, nesterov: bool, *gradients: Array,
) -> None:  # fmt: skip
    _run(_momentum, gradients, p, b, average, scale, limit, decay, rest, lr, mu, nesterov)


@njit(**INNER)
def _adam(
    p: Array, m: Array, v: Array, average: Array, table: Array, scale: float, limit: float, decay: float, rest: float,
    b1: float, b2: float, eta: float, floor: float, shrink: float, worker: int, workers: int,
) -> None:  # fmt: skip
    for c in share_of(len(table), worker, workers):
        piece, address = slice(table[c, 1], table[c, 2]), table[c, 0]
        P, M, V = p[piece], m[piece], v[piece]
        g = array_at(address, P.size, p)
        for i in range(P.size):
            gi = _gradient(P[i], g[i], scale, limit, decay)
            M[i] = b1 * M[i] + gi
            V[i] = b2 * V[i] + gi * gi
            P[i] = shrink * P[i] - eta * M[i] / (np.sqrt(V[i]) + floor)
        _follow(average[piece], P, rest)


def adam(
    p: Array, m: Array, v: Array, average: Array | None, scale: float, limit: float, decay: float, rest: float,
    b1: float, b2: float, eta: float, floor: float, shrink: float, *gradients: Array,
) -> None:  # fmt: skip
    _run(_adam, gradients, p, m, v, average, scale, limit, decay, rest, b1, b2, eta, floor, shrink)


@njit(**INNER)
def _adamax(
    p: Array, m: Array, u: Array, average: Array, table: Array, scale: float, limit: float, decay: float, rest: float,
    b1: float, b2: float, eta: float, eps: float, worker: int, workers: int,
) -> None:  # fmt: skip
    for c in share_of(len(table), worker, workers):
        piece, address = slice(table[c, 1], table[c, 2]), table[c, 0]
        P, M, U = p[piece], m[piece], u[piece]
        g = array_at(address, P.size, p)
        for i in range(P.size):
            gi = _gradient(P[i], g[i], scale, limit, decay)
            M[i] = b1 * M[i] + gi
            U[i] = max(b2 * U[i], abs(gi) + eps)
            P[i] -= eta * M[i] / U[i]
        _follow(average[piece], P, rest)


def adamax(
    p: Array, m: Array, u: Array, average: Array | None, scale: float, limit: float, decay: float, rest: float,
    b1: float, b2: float, eta: float, eps: float, *gradients: Array,
) -> None:  # fmt: skip
    _run(_adamax, gradients, p, m, u, average, scale, limit, decay, rest, b1, b2, eta, eps)


@njit(**INNER)
def _rmsprop(
    p: Array, v: Array, b: Array, average: Array, table: Array, scale: float, limit: float, decay: float, rest: float,
    lr: float, alpha: float, eps: float, mu: float, worker: int, workers: int,
) -> None:  # fmt: skip
    for c in share_of(len(table), worker, workers):
        piece, address = slice(table[c, 1], table[c, 2]), table[c, 0]
        P, V, B = p[piece], v[piece], b[piece]
        g = array_at(address, P.size, p)
        for i in range(P.size):
            gi = _gradient(P[i], g[i], scale, limit, decay)
            V[i] = alpha * V[i] + (P.dtype.type(1) - alpha) * gi * gi
            B[i] = mu * B[i] + gi / (np.sqrt(V[i]) + eps)
            P[i] -= lr * B[i]
        _follow(average[piece], P, rest)


def rmsprop(
    p: Array, v: Array, b: Array, average: Array | None, scale: float, limit: float, decay: float, rest: float,
    lr: float, alpha: float, eps: float, mu: float, *gradients: Array,
) -> None:  # fmt: skip
    _run(_rmsprop, gradients, p, v, b, average, scale, limit, decay, rest, lr, alpha, eps, mu)


@njit(**INNER)
def _adagrad(
    p: Array, h: Array, average: Array, table: Array, scale: float, limit: float, decay: float, rest: float,
    lr: float, eps: float, worker: int, workers: int,
) -> None:  # fmt: skip
    for c in share_of(len(table), worker, workers):
        piece, address = slice(table[c, 1], table[c, 2]), table[c, 0]
        P, H = p[piece], h[piece]
        g = array_at(address, P.size, p)
        for i in range(P.size):
            gi = _gradient(P[i], g[i], scale, limit, decay)
            H[i] += gi * gi
            P[i] -= lr * gi / (np.sqrt(H[i]) + eps)
        _follow(average[piece], P, rest)


def adagrad(
    p: Array, h: Array, average: Array | None, scale: float, limit: float, decay: float, rest: float,
    lr: float, eps: float, *gradients: Array,
) -> None:  # fmt: skip
    _run(_adagrad, gradients, p, h, average, scale, limit, decay, rest, lr, eps)


@njit(**INNER)
def _ema(average: Array, p: Array, rest: float, worker: int, workers: int) -> None:
    own = share_of(p.size, worker, workers)
    piece = slice(own.start, own.stop)
    _follow(average[piece], p[piece], rest)


def ema(average: Array, p: Array, rest: float) -> None:
    run(_ema, (average, p, p.dtype.type(rest)), threads(p.size))


@njit(**{**INNER, "fastmath": FAST})
def _squares(like: Array, table: Array, sums: Array, worker: int, workers: int) -> None:
    for c in share_of(len(table), worker, workers):
        g = array_at(table[c, 0], table[c, 2] - table[c, 1], like)
        total = 0.0
        for i in range(g.size):
            total += np.float64(g[i]) * np.float64(g[i])
        sums[c] = total


def norm(*gradients: Array) -> float:
    flat = [np.ascontiguousarray(g, gradients[0].dtype) for g in gradients]  # the table holds addresses alone
    table = _table(flat)
    sums = np.empty(len(table))
    run(_squares, (flat[0], table, sums), threads(sum(g.size for g in flat)))
    return math.sqrt(math.fsum(sums))
