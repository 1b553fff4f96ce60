"""reference.py in Numba: one parallel loop, so that each array is read and written once.

The loop is over pieces of at most CHUNK elements. A piece has one gradient, which is found by its address: a launch for
each of a model's hundred tensors would cost more than the work. Elements do not meet, and `norm` sums pieces in their
order: results do not depend on the number of threads.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from llvmlite import ir
from micrognm.kernels.jit import FAST, PARALLEL, SERIAL
from numba import carray, njit, prange, types
from numba.extending import intrinsic

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
    """kernel(table, arrays, numbers): numbers in p's dtype, as a float64 would halve the width of every vector."""
    flat = [np.ascontiguousarray(g, p.dtype) for g in gradients]  # also keeps alive what the table points to
    kernel(_table(flat), p, *(p.dtype.type(x) if isinstance(x, int | float | np.number) else x for x in rest))


def _pointer(typing: Any, address: Any, like: Any) -> Any:
    """The address as a pointer to elements of like's dtype."""

    def code(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(address, like), code


_at: Any = intrinsic(_pointer)


@njit(inline="always", **SERIAL)
def _gradient(p: float, g: float, scale: float, limit: float, decay: float) -> float:
    return min(max(scale * g, -limit), limit) + decay * p


@njit(**PARALLEL)
def _sgd(
    table: Array, p: Array, average: Array, scale: float, limit: float, decay: float, rest: float,
    lr: float,
) -> None:  # fmt: skip
    for c in prange(len(table)):
        piece = slice(table[c, 1], table[c, 2])
        P, g = p[piece], carray(_at(table[c, 0], p), table[c, 2] - table[c, 1])
        A = P if average is None else average[piece]
        for i in range(P.size):
            P[i] -= lr * _gradient(P[i], g[i], scale, limit, decay)
            if average is not None:
                A[i] += rest * (P[i] - A[i])


def sgd(
    p: Array, average: Array | None, scale: float, limit: float, decay: float, rest: float,
    lr: float, *gradients: Array,
) -> None:  # fmt: skip
    _run(_sgd, gradients, p, average, scale, limit, decay, rest, lr)


@njit(**PARALLEL)
def _momentum(
    table: Array, p: Array, b: Array, average: Array, scale: float, limit: float, decay: float, rest: float,
    lr: float, mu: float, nesterov: bool,
) -> None:  # fmt: skip
    one = p.dtype.type(1)
    ahead, now = (mu, one) if nesterov else (one, one - one)
    for c in prange(len(table)):
        piece = slice(table[c, 1], table[c, 2])
        P, B, g = p[piece], b[piece], carray(_at(table[c, 0], p), table[c, 2] - table[c, 1])
        A = P if average is None else average[piece]
        for i in range(P.size):
            gi = _gradient(P[i], g[i], scale, limit, decay)
            B[i] = mu * B[i] + gi
            P[i] -= lr * (ahead * B[i] + now * gi)
            if average is not None:
                A[i] += rest * (P[i] - A[i])


def momentum(
    p: Array, b: Array, average: Array | None, scale: float, limit: float, decay: float, rest: float,
    lr: float, mu: float, nesterov: bool, *gradients: Array,
) -> None:  # fmt: skip
    _run(_momentum, gradients, p, b, average, scale, limit, decay, rest, lr, mu, nesterov)


@njit(**PARALLEL)
def _adam(
    table: Array, p: Array, m: Array, v: Array, average: Array, scale: float, limit: float, decay: float, rest: float,
    b1: float, b2: float, eta: float, floor: float, shrink: float,
) -> None:  # fmt: skip
    for c in prange(len(table)):
        piece = slice(table[c, 1], table[c, 2])
        P, M, V, g = p[piece], m[piece], v[piece], carray(_at(table[c, 0], p), table[c, 2] - table[c, 1])
        A = P if average is None else average[piece]
        for i in range(P.size):
            gi = _gradient(P[i], g[i], scale, limit, decay)
            M[i] = b1 * M[i] + gi
            V[i] = b2 * V[i] + gi * gi
            P[i] = shrink * P[i] - eta * M[i] / (np.sqrt(V[i]) + floor)
            if average is not None:
                A[i] += rest * (P[i] - A[i])


def adam(
    p: Array, m: Array, v: Array, average: Array | None, scale: float, limit: float, decay: float, rest: float,
    b1: float, b2: float, eta: float, floor: float, shrink: float, *gradients: Array,
) -> None:  # fmt: skip
    _run(_adam, gradients, p, m, v, average, scale, limit, decay, rest, b1, b2, eta, floor, shrink)


@njit(**PARALLEL)
def _adamax(
    table: Array, p: Array, m: Array, u: Array, average: Array, scale: float, limit: float, decay: float, rest: float,
    b1: float, b2: float, eta: float, eps: float,
) -> None:  # fmt: skip
    for c in prange(len(table)):
        piece = slice(table[c, 1], table[c, 2])
        P, M, U, g = p[piece], m[piece], u[piece], carray(_at(table[c, 0], p), table[c, 2] - table[c, 1])
        A = P if average is None else average[piece]
        for i in range(P.size):
            gi = _gradient(P[i], g[i], scale, limit, decay)
            M[i] = b1 * M[i] + gi
            U[i] = max(b2 * U[i], abs(gi) + eps)
            P[i] -= eta * M[i] / U[i]
            if average is not None:
                A[i] += rest * (P[i] - A[i])


def adamax(
    p: Array, m: Array, u: Array, average: Array | None, scale: float, limit: float, decay: float, rest: float,
    b1: float, b2: float, eta: float, eps: float, *gradients: Array,
) -> None:  # fmt: skip
    _run(_adamax, gradients, p, m, u, average, scale, limit, decay, rest, b1, b2, eta, eps)


@njit(**PARALLEL)
def _rmsprop(
    table: Array, p: Array, v: Array, b: Array, average: Array, scale: float, limit: float, decay: float, rest: float,
    lr: float, alpha: float, eps: float, mu: float,
) -> None:  # fmt: skip
    for c in prange(len(table)):
        piece = slice(table[c, 1], table[c, 2])
        P, V, B, g = p[piece], v[piece], b[piece], carray(_at(table[c, 0], p), table[c, 2] - table[c, 1])
        A = P if average is None else average[piece]
        for i in range(P.size):
            gi = _gradient(P[i], g[i], scale, limit, decay)
            V[i] = alpha * V[i] + (P.dtype.type(1) - alpha) * gi * gi
            B[i] = mu * B[i] + gi / (np.sqrt(V[i]) + eps)
            P[i] -= lr * B[i]
            if average is not None:
                A[i] += rest * (P[i] - A[i])


def rmsprop(
    p: Array, v: Array, b: Array, average: Array | None, scale: float, limit: float, decay: float, rest: float,
    lr: float, alpha: float, eps: float, mu: float, *gradients: Array,
) -> None:  # fmt: skip
    _run(_rmsprop, gradients, p, v, b, average, scale, limit, decay, rest, lr, alpha, eps, mu)


@njit(**PARALLEL)
def _adagrad(
    table: Array, p: Array, h: Array, average: Array, scale: float, limit: float, decay: float, rest: float,
    lr: float, eps: float,
) -> None:  # fmt: skip
    for c in prange(len(table)):
        piece = slice(table[c, 1], table[c, 2])
        P, H, g = p[piece], h[piece], carray(_at(table[c, 0], p), table[c, 2] - table[c, 1])
        A = P if average is None else average[piece]
        for i in range(P.size):
            gi = _gradient(P[i], g[i], scale, limit, decay)
            H[i] += gi * gi
            P[i] -= lr * gi / (np.sqrt(H[i]) + eps)
            if average is not None:
                A[i] += rest * (P[i] - A[i])


def adagrad(
    p: Array, h: Array, average: Array | None, scale: float, limit: float, decay: float, rest: float,
    lr: float, eps: float, *gradients: Array,
) -> None:  # fmt: skip
    _run(_adagrad, gradients, p, h, average, scale, limit, decay, rest, lr, eps)


@njit(**PARALLEL)
def _ema(average: Array, p: Array, rest: float) -> None:
    for i in prange(p.size):
        average[i] += rest * (p[i] - average[i])


def ema(average: Array, p: Array, rest: float) -> None:
    _ema(average, p, p.dtype.type(rest))


@njit(**{**PARALLEL, "fastmath": FAST})
def _squares(table: Array, like: Array) -> Array:
    sums = np.empty(len(table))
    for c in prange(len(table)):
        g = carray(_at(table[c, 0], like), table[c, 2] - table[c, 1])
        total = 0.0
        for i in range(g.size):
            total += np.float64(g[i]) * np.float64(g[i])
        sums[c] = total
    return sums


def norm(*gradients: Array) -> float:
    flat = [np.ascontiguousarray(g, gradients[0].dtype) for g in gradients]  # the table holds addresses alone
    return math.sqrt(math.fsum(_squares(_table(flat), flat[0])))
