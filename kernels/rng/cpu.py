"""reference.py in Numba. Words are made a block at a time, into 4 KiB that stay in the cache, and used from there.

What an element is does not depend on which thread makes it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from micrognm.kernels.jit import INNER, SERIAL
from micrognm.kernels.maths import log
from micrognm.kernels.workers import run, share_of
from numba import get_num_threads, njit

Array = Any
LANES = 256
BLOCK = 4 * LANES
LARGE = 16 * BLOCK  # elements that pay for a thread
UNIT = 2.0**-24

# sin(t) / t and cos(t) in powers of t^2, |t| <= pi / 4: Taylor's series, cut where float64 sees no more.
SIN = tuple((-1.0) ** k / float(np.prod(np.arange(1.0, 2 * k + 2))) for k in range(9))
COS = tuple((-1.0) ** k / float(np.prod(np.arange(1.0, 2 * k + 1))) for k in range(9))


@njit(**SERIAL)
def _words(block: int, k0: int, k1: int, out: Array) -> None:
    """The upper 24 bits of a block's 1024 words."""
    low, thirty_two, eight = np.uint64(0xFFFFFFFF), np.uint64(32), np.uint64(8)
    m0, m1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
    first = np.uint64(block) * np.uint64(LANES)
    for t in range(LANES):
        counter = first + np.uint64(t)
        c0, c1, c2, c3 = counter & low, counter >> thirty_two, np.uint64(0), np.uint64(0)
        a, b = np.uint64(k0), np.uint64(k1)
        for _ in range(10):
            p0, p1 = m0 * c0, m1 * c2
            c0, c1, c2, c3 = (p1 >> thirty_two) ^ c1 ^ a, p1 & low, (p0 >> thirty_two) ^ c3 ^ b, p0 & low
            a, b = (a + np.uint64(0x9E3779B9)) & low, (b + np.uint64(0xBB67AE85)) & low
        out[t] = np.int32(c0 >> eight)
        out[LANES + t] = np.int32(c1 >> eight)
        out[2 * LANES + t] = np.int32(c2 >> eight)
        out[3 * LANES + t] = np.int32(c3 >> eight)


@njit(inline="always", **INNER)
def _blocks(size: int, worker: int, workers: int) -> range:
    """Where a worker's blocks begin."""
    own = share_of((size + BLOCK - 1) // BLOCK, worker, workers)
    return range(own.start * BLOCK, own.stop * BLOCK, BLOCK)


@njit(**INNER)
def _uniform(out: Array, k0: int, k1: int, worker: int, workers: int) -> None:
    unit, words = out.dtype.type(UNIT), np.empty(BLOCK, np.int32)
    for at in _blocks(out.size, worker, workers):
        _words(at // BLOCK, k0, k1, words)
        y = out[at : at + BLOCK]
        for i in range(y.size):
            y[i] = out.dtype.type(words[i]) * unit


def uniform(like: Array, n: int, key: int) -> Array:
    return _filled(_uniform, np.empty(n, like.dtype), key)


def _filled(kernel: Any, out: Array, key: int, *rest: Any) -> Array:
    workers = get_num_threads() if out.size > LARGE else 1
    run(kernel, (out, np.uint64(key % 2**32), np.uint64(key >> 32), *rest), workers)
    return out


@njit(inline="always", **INNER)
def _series(x: Any, a: tuple[float, ...]) -> Any:
    """a[0] + a[1] x + ... in x's dtype, with no loop that would keep LLVM from making vectors of the loop around it."""
    n = type(x)
    y = ((n(a[8]) * x + n(a[7])) * x + n(a[6])) * x + n(a[5])
    return ((((y * x + n(a[4])) * x + n(a[3])) * x + n(a[2])) * x + n(a[1])) * x + n(a[0])


@njit(inline="always", **INNER)
def _turn(word: int, like: Array) -> tuple[Any, Any]:
    """cos and sin of word / 2^24 turns, in like's dtype. The eighth of a turn that is left is exact."""
    number = like.dtype.type
    quarter = (word + (1 << 21)) >> 22
    t = number(np.int32(word - (quarter << 22))) * number(UNIT * 2 * np.pi)
    square = t * t
    s, c = _series(square, SIN) * t, _series(square, COS)
    swap = quarter & 1
    cosine, sine = (s if swap else c), (c if swap else s)
    return (-cosine if (quarter + 1) & 2 else cosine), (-sine if quarter & 2 else sine)


@njit(**INNER)
def _normal(out: Array, k0: int, k1: int, worker: int, workers: int) -> None:
    unit = out.dtype.type(UNIT)
    words, numbers = np.empty(BLOCK, np.int32), np.empty(BLOCK, out.dtype)  # its own: apart
    for at in _blocks(out.size, worker, workers):
        _words(at // BLOCK, k0, k1, words)
        for half in range(2):
            first = words[2 * half * LANES : (2 * half + 1) * LANES]
            second = words[(2 * half + 1) * LANES : (2 * half + 2) * LANES]
            cosines = numbers[2 * half * LANES : (2 * half + 1) * LANES]
            sines = numbers[(2 * half + 1) * LANES : (2 * half + 2) * LANES]
            for t in range(LANES):
                radius = np.sqrt(out.dtype.type(-2) * log(out.dtype.type(first[t] + 1) * unit))
                c, s = _turn(second[t], out)
                cosines[t] = radius * c
                sines[t] = radius * s
        y = out[at : at + BLOCK]
        for i in range(y.size):
            y[i] = numbers[i]


def normal(like: Array, n: int, key: int) -> Array:
    return _filled(_normal, np.empty(n, like.dtype), key)


@njit(**INNER)
def _dropout(
    out: Array, k0: int, k1: int, x: Array, least: int, scale: float, worker: int, workers: int
) -> None:
    words = np.empty(BLOCK, np.int32)
    for at in _blocks(out.size, worker, workers):
        _words(at // BLOCK, k0, k1, words)
        y, given = out[at : at + BLOCK], x[at : at + BLOCK]
        for i in range(y.size):
            y[i] = given[i] * scale if words[i] >= least else out.dtype.type(0)


def dropout(x: Array, rate: float, key: int) -> Array:
    flat = np.ascontiguousarray(x).reshape(-1)
    least, scale = np.int32(np.ceil(rate * 2**24)), x.dtype.type(1 / (1 - rate))
    return _filled(_dropout, np.empty_like(flat), key, flat, least, scale).reshape(x.shape)
