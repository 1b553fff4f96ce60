"""reference.py in Numba, streaming: scores exist for one tile at a time, and the backward pass computes them again.

Forward: a tile of TILE queries, one a vector lane, goes through the keys tile by tile and keeps a running maximum and
sum. Backward: a tile of TILE keys, one a lane, goes through the queries; it owns its rows of dk and dv and adds to dq.
Tiles that the mask hides are skipped. Shapes alone say what is summed in which order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from micrognm.kernels.attention.tiles import slopes, soften, transpose
from micrognm.kernels.jit import FAST, INNER
from micrognm.kernels.product import product
from micrognm.kernels.vectors import address, columns, lanes, scratch
from micrognm.kernels.workers import run, share_of
from numba import get_num_threads, njit

Array = Any
TILE = 64  # a tile of scores is 16 KiB in float32, half of a level 1 cache
JOBS = 16  # the backward pass is cut into at least so many, where there are tiles enough
SMALL = 1 << 15  # multiplications: below, starting threads costs more than they save
LOW = -3e38  # less than any score that is not hidden, and finite


def forward(q: Array, k: Array, v: Array, keys: Array | None, scale: float, reach: int) -> tuple[Array, Array]:
    """reference.forward"""
    q, k, v, keys, factors, workers, shape = _prepared(q, k, v, keys, scale)
    *_, d, _, e = shape
    out, lse = np.empty((*q.shape[:3], e), q.dtype), np.empty(q.shape[:3], q.dtype)
    memory = scratch(workers * TILE * (d + e + columns(q.dtype) + 3), q.dtype)
    arrays = q, k, v, keys, factors, out, lse, memory
    run(_forward_share, (*(x.reshape(-1) for x in arrays), shape, reach), workers)
    return out, lse


def backward(
    g: Array, q: Array, k: Array, v: Array, out: Array, lse: Array, keys: Array | None, scale: float, reach: int
) -> tuple[Array, Array, Array]:
    """reference.backward"""
    q, k, v, keys, factors, workers, shape = _prepared(q, k, v, keys, scale)
    images, length, heads, d, m, e = shape
    g, out, lse = (np.ascontiguousarray(x) for x in (g, out, lse))
    dk, dv = np.empty_like(k), np.empty_like(v)
    wide = -(-d // columns(q.dtype)) * columns(q.dtype)
    parts = max(1, min(-(-m // (2 * TILE)), -(-JOBS // max(1, images * heads))))
    dq = np.empty((parts, *q.shape), q.dtype)
    own = -(-length // TILE) * TILE * (wide + 2) + TILE * (2 * (d + e) + wide + 2 * TILE + 1) + 3 * columns(q.dtype)
    memory = scratch(workers * own, q.dtype)
    arrays = g, q, k, v, keys, factors, out, lse, dq, dk, dv, memory
    run(_backward_share, (*(x.reshape(-1) for x in arrays), shape, reach, parts, wide), workers)
    return (dq[0] if parts == 1 else np.sum(dq, axis=0)), dk, dv


def _prepared(q: Array, k: Array, v: Array, keys: Array | None, scale: float) -> tuple:
    """Contiguous inputs; a row of ones and one of scale; the number of workers; images, L, heads, D, M and E."""
    q, k, v = (np.ascontiguousarray(x) for x in (q, k, v))
    keys = np.zeros(0, np.bool_) if keys is None else np.ascontiguousarray(keys)
    factors = np.ones((2, max(TILE, q.shape[3], v.shape[3])), q.dtype)
    factors[1] = scale
    small = q.size * k.shape[1] + q.shape[1] * v.size < SMALL
    return q, k, v, keys, factors, 1 if small else get_num_threads(), (*q.shape, k.shape[1], v.shape[3])


@njit(**INNER)
def _forward_share(
    q: Array, k: Array, v: Array, keys: Array, factors: Array, out: Array, lse: Array, memory: Array,
    shape: tuple[int, ...], reach: int, worker: int, workers: int,
) -> None:  # fmt: skip
    """One worker's tiles. Arrays are flat. Memory, of each worker: queries [D, TILE], sums [E, TILE], scores
    [TILE, lanes], and top, total and fade [TILE].
    """
    images, length, heads, d, m, e = shape
    one, nothing, group = factors[0], factors.dtype.type(0), lanes(factors[0])
    none, step, side = np.intp(0), np.intp(1), np.intp(TILE)  # no literals: Numba compiles anew for each
    qt = memory.size // workers * worker
    ot = qt + d * TILE
    s = ot + e * TILE
    top = s + TILE * group
    total, fade = top + TILE, top + 2 * TILE
    tiles = (length + TILE - 1) // TILE
    pairs = (tiles + 1) // 2  # the first tile with the last, and so on: under a mask all pairs are equal work
    jobs = images * heads * pairs
    own = share_of(jobs, worker, workers)
    for half in range(2 * own.start, 2 * own.stop):
        job = half // 2
        n, h, tile = job // (heads * pairs), job // pairs % heads, job % pairs
        if half % 2:
            if tile == tiles - 1 - tile:
                continue
            tile = tiles - 1 - tile
        first = tile * TILE
        height = _least(side, length - first)
        row = (n * length + first) * heads + h
        _fill(memory, qt, s, nothing)  # of the queries, and of the sums
        transpose(one, address(memory, qt), side, address(q, row * d), heads * d, height, d,
                  address(factors, factors.size // 2))  # fmt: skip
        _fill(memory, top, total, one * LOW)
        _fill(memory, total, fade, nothing)
        for begin in range(0, _least(m, first + height - 1 + reach), TILE):
            if not _any_key(keys, n * m + begin, n * m + _least(m, begin + TILE)):
                continue
            column = (n * m + begin) * heads + h
            for at in range(0, height, group):
                seen = first + at + reach - begin  # columns that the first row of the group reads
                shown = _least(_least(side, m - begin), seen + group - 1)  # and the last
                if shown <= 0:
                    continue
                product(
                    one, address(memory, s), group, address(k, column * d), heads * d, step, none,
                    address(memory, qt + at), side, shown, d, step, none,
                )  # fmt: skip
                for j in range(_most(none, seen), shown):
                    for c in range(j + 1 - seen):
                        memory[s + j * group + c] = -np.inf
                for j in range(shown if keys.size else 0):
                    if not keys[n * m + begin + j]:
                        for c in range(group):
                            memory[s + j * group + c] = -np.inf
                soften(one, address(memory, s), shown, address(memory, top + at), address(memory, total + at),
                       address(memory, fade + at))  # fmt: skip
                product(
                    one, address(memory, ot + at), side, address(v, column * e), step, heads * e, none,
                    address(memory, s), group, e, shown, step, address(memory, fade + at),
                )  # fmt: skip
        for i in range(height):
            weight = memory[total + i]
            lse[row + i * heads] = memory[top + i] + np.log(weight) if weight > 0 else 0
            memory[total + i] = one / weight if weight > 0 else 0
        transpose(one, address(out, row * e), heads * e, address(memory, ot), side, e, height, address(memory, total))


@njit(**INNER)
def _least(a: int, b: int) -> int:
    return a if a < b else b


@njit(**INNER)
def _most(a: int, b: int) -> int:
    return a if a > b else b


@njit(**INNER)
def _fill(x: Array, begin: int, end: int, value: float) -> None:
    part = x[begin:end]  # here and below: LLVM makes vectors of a loop only where no index might be negative
    for i in range(part.size):
        part[i] = value


@njit(**{**INNER, "fastmath": FAST})
def _dot(a: Array, b: Array, begin: int, end: int) -> float:
    x, y, total = a[begin:end], b[begin:end], a.dtype.type(0)
    for i in range(x.size):
        total += x[i] * y[i]
    return total


@njit(**INNER)
def _scale(x: Array, at: int, scale: float, to: Array, to_at: int, count: int) -> None:
    """to[to_at :] = scale x[at :], `count` numbers."""
    given, out = x[at : at + count], to[to_at : to_at + count]
    for i in range(count):
        out[i] = scale * given[i]


@njit(**INNER)
def _any_key(keys: Array, begin: int, end: int) -> bool:
    """Whether any of the columns may be read."""
    if not keys.size:
        return True
    for j in range(begin, end):
        if keys[j]:
            return True
    return False


@njit(**{**INNER, "fastmath": FAST})
def _backward_share(
    g: Array, q: Array, k: Array, v: Array, keys: Array, factors: Array, out: Array, lse: Array, dq: Array, dk: Array,
    dv: Array, memory: Array, shape: tuple[int, ...], reach: int, parts: int, wide: int, worker: int, workers: int,
) -> None:  # fmt: skip
    """One worker's tiles. Arrays are flat. Memory: sums [L, wide] for dq, the dot products of g and out [L] and lse
    [L], k and v [D + E, TILE], their gradients, k [TILE, wide], p and ds [TILE, TILE], and -inf where a key is not
    read [TILE].
    """
    images, length, heads, d, m, e = shape
    one, nothing, group = factors[0], factors.dtype.type(0), lanes(factors[0])
    none, step, side = np.intp(0), np.intp(1), np.intp(TILE)  # no literals: Numba compiles anew for each
    ones, scales, scale = address(factors, 0), address(factors, factors.size // 2), factors[factors.size // 2]
    sums = memory.size // workers * worker
    padded = (length + TILE - 1) // TILE * TILE
    dot = sums + padded * wide
    level = dot + padded
    kv = level + padded
    # A group of lanes between, lest the same columns of all of them fall on few sets of the level 1 cache.
    dkv = kv + (d + e) * TILE + group
    k_rows = dkv + (d + e) * TILE
    p = k_rows + TILE * wide + group
    ds = p + TILE * TILE + group
    hide = ds + TILE * TILE
    _fill(memory, k_rows, p, nothing)
    jobs = images * heads * parts
    for job in share_of(jobs, worker, workers):
        n, h, part = job // (heads * parts), job // parts % heads, job % parts
        _fill(memory, sums, dot, nothing)
        for i in range(length):
            row = (n * length + i) * heads + h
            memory[dot + i], memory[level + i] = _dot(g, out, row * e, (row + 1) * e), lse[row]
        for tile in range((m + TILE - 1) // TILE):
            # Tiles are dealt to and fro: under a mask all parts are equal work.
            turn = tile % (2 * parts)
            if part != _least(turn, 2 * parts - 1 - turn):
                continue
            first = tile * TILE
            width = _least(side, m - first)
            column = (n * m + first) * heads + h
            _fill(memory, kv, k_rows, nothing)  # of keys and values, and of their gradients
            transpose(one, address(memory, kv), side, address(k, column * d), heads * d, width, d, scales)
            transpose(one, address(memory, kv + d * TILE), side, address(v, column * e), heads * e, width, e, ones)
            for c in range(TILE):
                here = n * m + first + c
                memory[hide + c] = 0 if c < width and _any_key(keys, here, here + 1) else -np.inf
                if c < width:
                    _scale(k, (column + c * heads) * d, scale, memory, k_rows + c * wide, d)
            # The first row that reads a column of the tile.
            for begin in range(_most(none, first + 1 - reach), length, TILE):
                if not _any_key(keys, n * m + first, n * m + first + width):
                    break
                height = _least(side, length - begin)
                row = (n * length + begin) * heads + h
                for at in range(0, width, group):
                    # Rows before this one read no column of the group.
                    skip = _least(height, _most(none, first + at + 1 - reach - begin))
                    for i in range(skip):
                        _fill(memory, ds + i * TILE + at, ds + i * TILE + at + group, nothing)
                    here, below = skip * TILE + at, row + skip * heads
                    product(
                        one, address(memory, p + here), side, address(q, below * d), heads * d, step, none,
                        address(memory, kv + at), side, height - skip, d, step, none,
                    )  # fmt: skip
                    product(
                        one, address(memory, ds + here), side, address(g, below * e), heads * e, step, none,
                        address(memory, kv + d * TILE + at), side, height - skip, e, step, none,
                    )  # fmt: skip
                    for i in range(skip, _least(height, first + at + group - reach - begin)):
                        for c in range(_most(none, begin + i + reach - first - at), group):
                            memory[p + i * TILE + at + c] = -np.inf
                    slopes(
                        one, address(memory, p + here), address(memory, ds + here), side, height - skip,
                        address(memory, hide + at), address(memory, level + begin + skip),
                        address(memory, dot + begin + skip),
                    )  # fmt: skip
                    product(
                        one, address(memory, dkv + d * TILE + at), side, address(g, below * e), step, heads * e, none,
                        address(memory, p + here), side, e, height - skip, step, ones,
                    )  # fmt: skip
                    product(
                        one, address(memory, dkv + at), side, address(q, below * d), step, heads * d, none,
                        address(memory, ds + here), side, d, height - skip, step, ones,
                    )  # fmt: skip
                for at in range(0, wide, group):
                    product(
                        one, address(memory, sums + begin * wide + at), wide, address(memory, ds), side, step, none,
                        address(memory, k_rows + at), wide, height, width, step, ones,
                    )  # fmt: skip
            transpose(one, address(dk, column * d), heads * d, address(memory, dkv), side, d, width, scales)
            transpose(one, address(dv, column * e), heads * e, address(memory, dkv + d * TILE), side, e, width, ones)
        for i in range(length):
            _scale(memory, sums + i * wide, one, dq, (((part * images + n) * length + i) * heads + h) * d, d)
