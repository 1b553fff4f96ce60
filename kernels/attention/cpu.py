"""reference.py in Numba, streaming: scores exist for one tile at a time, and the backward pass computes them again.

Forward: a tile of TILE queries, one a vector lane, goes through the keys tile by tile and keeps a running maximum and
sum. Backward: a tile of TILE keys, one a lane, goes through the queries; it owns its rows of dk and dv and adds to dq.
Tiles that the mask hides are skipped. Shapes alone say what is summed in which order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from micrognm.kernels.attention.tiles import VECTORS, address, lanes, product, slopes, soften, transpose
from micrognm.kernels.jit import FAST, SERIAL, WIDTH
from micrognm.kernels.workers import run
from numba import get_num_threads, njit

Array = Any
TILE = 64  # a tile of scores is 16 KiB in float32, half of a level 1 cache
JOBS = 16  # the backward pass is cut into at least so many, where there are tiles enough
SMALL = 1 << 15  # multiplications: below, starting threads costs more than they save
LOW = -3e38  # less than any score that is not hidden, and finite


def forward(q: Array, k: Array, v: Array, keys: Array | None, scale: float, reach: int) -> tuple[Array, Array]:
    """reference.forward"""
    q, k, v, keys, factors, workers = _prepared(q, k, v, keys, scale)
    out, lse = np.empty((*q.shape[:3], v.shape[3]), q.dtype), np.empty(q.shape[:3], q.dtype)
    queries, sums, rows = (np.empty((workers, n, TILE), q.dtype) for n in (q.shape[3], v.shape[3], 3))
    scores = np.empty((workers, TILE, _group(q)), q.dtype)
    run(_forward_share, (q, k, v, keys, factors, reach, out, lse, queries, sums, scores, rows), workers)
    return out, lse


def backward(
    g: Array, q: Array, k: Array, v: Array, out: Array, lse: Array, keys: Array | None, scale: float, reach: int
) -> tuple[Array, Array, Array]:
    """reference.backward"""
    q, k, v, keys, factors, workers = _prepared(q, k, v, keys, scale)
    g, out, lse = (np.ascontiguousarray(x) for x in (g, out, lse))
    images, length, heads, d = q.shape
    dk, dv = np.empty_like(k), np.empty_like(v)
    wide = -(-d // _group(q)) * _group(q)
    parts = max(1, min(-(-k.shape[1] // (2 * TILE)), -(-JOBS // max(1, images * heads))))
    dq = np.empty((parts, *q.shape), q.dtype)
    sums = np.empty((workers, length, wide), q.dtype)
    inputs, grads = (np.empty((workers, d + v.shape[3], TILE), q.dtype) for _ in range(2))
    natural, scores = np.zeros((workers, TILE, wide), q.dtype), np.empty((workers, 2, TILE, TILE), q.dtype)
    hidden, rows = np.empty((workers, TILE), q.dtype), np.empty((workers, 2, length), q.dtype)
    run(_backward_share, (g, q, k, v, out, lse, keys, factors, reach, dq, dk, dv,
        sums, inputs, grads, natural, scores, hidden, rows), workers)  # fmt: skip
    return (dq[0] if parts == 1 else np.sum(dq, axis=0)), dk, dv


def _prepared(q: Array, k: Array, v: Array, keys: Array | None, scale: float) -> tuple:
    """Contiguous inputs, a row of ones and one of scale, and the number of workers."""
    q, k, v = (np.ascontiguousarray(x) for x in (q, k, v))
    keys = np.zeros((0, 0), np.bool_) if keys is None else np.ascontiguousarray(keys)
    factors = np.ones((2, max(TILE, q.shape[3], v.shape[3])), q.dtype)
    factors[1] = scale
    small = q.size * k.shape[1] + q.shape[1] * v.size < SMALL
    return q, k, v, keys, factors, 1 if small else get_num_threads()


def _group(x: Array) -> int:
    """lanes(number), outside of compiled code."""
    return VECTORS * WIDTH * 4 // x.itemsize


@njit(**SERIAL)
def _forward_share(
    q: Array, k: Array, v: Array, keys: Array, factors: Array, reach: int, out: Array, lse: Array,
    queries: Array, sums: Array, scores: Array, rows: Array, worker: int, workers: int,
) -> None:  # fmt: skip
    """One worker's tiles. Scratch: queries [D, TILE], sums [E, TILE], scores [TILE, lanes], rows: top, total, fade."""
    images, length, heads, d = q.shape
    m, e = v.shape[1], v.shape[3]
    one, group = factors[0, 0], lanes(factors[0, 0])
    none, step, side = np.intp(0), np.intp(1), np.intp(TILE)  # no literals: Numba compiles anew for each
    qt, ot, s = queries[worker], sums[worker], scores[worker]
    top, total, fade = rows[worker, 0], rows[worker, 1], rows[worker, 2]
    tiles = (length + TILE - 1) // TILE
    pairs = (tiles + 1) // 2  # the first tile with the last, and so on: under a mask all pairs are equal work
    jobs = images * heads * pairs
    for half in range(2 * (jobs * worker // workers), 2 * (jobs * (worker + 1) // workers)):
        job = half // 2
        n, h, tile = job // (heads * pairs), job // pairs % heads, job % pairs
        if half % 2:
            if tile == tiles - 1 - tile:
                continue
            tile = tiles - 1 - tile
        first = tile * TILE
        height = _least(TILE, length - first)
        row = (n * length + first) * heads + h
        _fill(qt, 0)
        transpose(
            one, address(qt, 0), side, address(q, row * d), heads * d, height, d, address(factors, factors.shape[1])
        )
        _fill(ot, 0)
        for i in range(TILE):
            top[i] = LOW
            total[i] = 0
        for begin in range(0, _least(m, first + height - 1 + reach), TILE):
            if not _any_key(keys, n, begin, _least(m, begin + TILE)):
                continue
            column = (n * m + begin) * heads + h
            for at in range(0, height, group):
                # The last row of the group reads the columns up to here.
                columns = _least(_least(TILE, m - begin), first + at + group - 1 + reach - begin)
                if columns <= 0:
                    continue
                product(one, address(s, 0), group, address(k, column * d), heads * d, step,
                        address(qt, at), side, columns, d, none)  # fmt: skip
                for j in range(_most(0, first + at + reach - begin), columns):
                    for c in range(begin + j + 1 - (first + at + reach)):
                        s[j, c] = -np.inf
                for j in range(columns if keys.size else 0):
                    if not keys[n, begin + j]:
                        for c in range(group):
                            s[j, c] = -np.inf
                soften(one, address(s, 0), columns, address(top, at), address(total, at), address(fade, at))
                product(one, address(ot, at), side, address(v, column * e), step, heads * e,
                        address(s, 0), group, e, columns, address(fade, at))  # fmt: skip
        for i in range(height):
            lse[n, first + i, h] = top[i] + np.log(total[i]) if total[i] > 0 else 0
            total[i] = one / total[i] if total[i] > 0 else 0
        transpose(one, address(out, row * e), heads * e, address(ot, 0), side, e, height, address(total, 0))


@njit(**SERIAL)
def _least(a: int, b: int) -> int:
    return a if a < b else b


@njit(**SERIAL)
def _most(a: int, b: int) -> int:
    return a if a > b else b


@njit(**SERIAL)
def _fill(x: Array, value: float) -> None:
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            x[i, j] = value


@njit(**SERIAL)
def _any_key(keys: Array, n: int, begin: int, end: int) -> bool:
    """Whether any of the columns may be read."""
    if not keys.size:
        return True
    for j in range(begin, end):
        if keys[n, j]:
            return True
    return False


@njit(**{**SERIAL, "fastmath": FAST})
def _backward_share(
    g: Array, q: Array, k: Array, v: Array, out: Array, lse: Array, keys: Array, factors: Array, reach: int,
    dq: Array, dk: Array, dv: Array,
    sums: Array, inputs: Array, grads: Array, natural: Array, scores: Array, hidden: Array,
    rows: Array, worker: int, workers: int,
) -> None:  # fmt: skip
    """One worker's tiles. Scratch: sums [L, D] for dq, inputs and grads [D + E, TILE] for k and v, natural [TILE, D]
    for k, scores: p and ds [TILE, TILE], hidden [TILE]: -inf where a key is not read, rows: lse and the dot product of
    g and out [L].
    """
    images, length, heads, d = q.shape
    m, e = v.shape[1], v.shape[3]
    parts, wide = dq.shape[0], sums.shape[2]
    one, group = factors[0, 0], lanes(factors[0, 0])
    none, step, side = np.intp(0), np.intp(1), np.intp(TILE)  # no literals: Numba compiles anew for each
    ones, scales, scale = address(factors, 0), address(factors, factors.shape[1]), factors[1, 0]
    kv, dkv, k_rows, hide = inputs[worker], grads[worker], natural[worker], hidden[worker]
    p, ds, level, dot = scores[worker, 0], scores[worker, 1], rows[worker, 0], rows[worker, 1]
    jobs = images * heads * parts
    for job in range(jobs * worker // workers, jobs * (worker + 1) // workers):
        n, h, part = job // (heads * parts), job // parts % heads, job % parts
        _fill(sums[worker], 0)
        for i in range(length):
            level[i], dot[i] = lse[n, i, h], _dot(g[n, i, h], out[n, i, h])
        for tile in range((m + TILE - 1) // TILE):
            # Tiles are dealt to and fro: under a mask all parts are equal work.
            turn = tile % (2 * parts)
            if part != _least(turn, 2 * parts - 1 - turn):
                continue
            first = tile * TILE
            width = _least(TILE, m - first)
            column = (n * m + first) * heads + h
            _fill(kv, 0)
            transpose(one, address(kv, 0), side, address(k, column * d), heads * d, width, d, scales)
            transpose(one, address(kv, d * TILE), side, address(v, column * e), heads * e, width, e, ones)
            for c in range(TILE):
                shown = c < width and _any_key(keys, n, first + c, first + c + 1)
                hide[c] = 0 if shown else -np.inf
                for x in range(d if c < width else 0):
                    k_rows[c, x] = scale * k[n, first + c, h, x]
            _fill(dkv, 0)
            # The first row that reads a column of the tile.
            for begin in range(_most(0, first + 1 - reach), length, TILE):
                if not _any_key(keys, n, first, first + width):
                    break
                height = _least(TILE, length - begin)
                row = (n * length + begin) * heads + h
                for at in range(0, width, group):
                    # Rows before this one read no column of the group.
                    skip = _least(height, _most(0, first + at + 1 - reach - begin))
                    for i in range(skip):
                        for c in range(group):
                            ds[i, at + c] = 0
                    here, below = skip * TILE + at, row + skip * heads
                    product(one, address(p, here), side, address(q, below * d), heads * d, step,
                            address(kv, at), side, height - skip, d, none)  # fmt: skip
                    product(one, address(ds, here), side, address(g, below * e), heads * e, step,
                            address(kv, d * TILE + at), side, height - skip, e, none)  # fmt: skip
                    for i in range(skip, _least(height, first + at + group - reach - begin)):
                        for c in range(_most(0, begin + i + reach - first - at), group):
                            p[i, at + c] = -np.inf
                    slopes(one, address(p, here), address(ds, here), side, height - skip, address(hide, at),
                           address(level, begin + skip), address(dot, begin + skip))  # fmt: skip
                    product(one, address(dkv, d * TILE + at), side, address(g, below * e), step, heads * e,
                            address(p, here), side, e, height - skip, ones)  # fmt: skip
                    product(one, address(dkv, at), side, address(q, below * d), step, heads * d,
                            address(ds, here), side, d, height - skip, ones)  # fmt: skip
                for at in range(0, wide, group):
                    product(one, address(sums, (worker * length + begin) * wide + at), wide, address(ds, 0), side, step,
                            address(k_rows, at), wide, height, width, ones)  # fmt: skip
            transpose(one, address(dk, column * d), heads * d, address(dkv, 0), side, d, width, scales)
            transpose(one, address(dv, column * e), heads * e, address(dkv, d * TILE), side, e, width, ones)
        for i in range(length):
            for x in range(d):
                dq[part, n, i, h, x] = sums[worker, i, x]


@njit(**{**SERIAL, "fastmath": FAST})
def _dot(a: Array, b: Array) -> float:
    total = a.dtype.type(0)
    for x in range(a.size):
        total += a[x] * b[x]
    return total
