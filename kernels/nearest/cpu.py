"""reference.py in Numba: the largest z e - |e|^2 / 2 over the rows e of the codebook, by a register tile.

The tile of kernels/product.py multiplies ROWS rows of z with two registers full of rows of the codebook. Its products
are compared while they are in the level 1 cache: there is no matrix of distances. A product is summed in one order
wherever the row lies in its tile, so that equal rows of a codebook tie exactly, and the number of threads changes
nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from micrognm.kernels.jit import INNER, SERIAL
from micrognm.kernels.product import ROWS, Tile, in_tiles
from micrognm.kernels.vectors import VECTORS, Vectors, address, columns, in_registers, lanes
from micrognm.kernels.workers import run, share_of
from numba import njit

Array = Any
BLOCK = 8 * ROWS  # rows of z that meet a strip of the codebook while it is in the level 1 cache
PARTS = 16  # pieces of work for the threads


@in_registers
def _compare(
    on: Vectors, z: Any, depth: Any, strip: Any, rows: Any, count: Any, best: Any, where: Any, new_best: Any,
    new_where: Any,
) -> None:  # fmt: skip
    builder = on.builder
    z, strip, best, where, new_best, new_where = map(on.pointer, (z, strip, best, where, new_best, new_where))
    wide, width = on.whole(VECTORS * on.width), on.whole(on.width)

    def tile(numbers: list[Any]) -> None:
        rows_of_z = [on.ahead(z, r, depth) for r in numbers]
        sums = Tile(on, len(numbers))
        bias = [on.load(strip, i) for i in range(VECTORS)]
        sums.begin(lambda r, i: bias[i])
        with on.loop(depth) as term:
            code = on.ahead(strip, builder.add(term.index, on.whole(1)), wide)
            sums.add(lambda r: on.ahead(rows_of_z[r], term.index), code)
        for r, number in enumerate(numbers):
            top = on.load(on.ahead(best, number, width))
            at_top = on.load(on.ahead(where, number, width), kind=on.integers)
            for i in range(VECTORS):
                found = sums.found(r, i)
                better = builder.fcmp_ordered(">", found, top)
                now = builder.add(count, on.whole(i))
                now = on.copied(builder.trunc(now, on.integers.element) if on.bits < 64 else now)
                top, at_top = builder.select(better, found, top), builder.select(better, now, at_top)
            on.store(top, on.ahead(new_best, number, width))
            on.store(at_top, on.ahead(new_where, number, width))

    in_tiles(on, rows, tile)


@njit(**INNER)
def _compared(
    number: float, z: int, depth: int, strip: int, rows: int, count: int, best: int, where: int, new_best: int,
    new_where: int,
) -> None:  # fmt: skip
    """The products of `rows` rows of z with a strip of the codebook, which holds a bias and then `depth` numbers for
    each of lanes(number) rows. For each row and lane of a register, best holds the best product so far and where its
    register, counted through the codebook, as strip's first is `count`; both go on to new_best and new_where. Equal
    products leave the first. (Were they written where they were read, LLVM would make masked stores of it, which are
    slow.)
    """
    _compare(number, (z, depth, strip, rows, count, best, where, new_best, new_where))


@njit(**SERIAL)
def _pack(codebook: Array, strips: Array) -> None:
    """codebook [K, D] into strips [K / lanes, 1 + D, lanes]: -|e|^2 / 2, then e on its side; -inf where none is."""
    (n, depth), wide = codebook.shape, strips.shape[2]
    strips[:] = 0
    strips[-1, 0, :] = -np.inf
    for k in range(n):
        square = codebook.dtype.type(0)
        for d in range(depth):
            strips[k // wide, 1 + d, k % wide] = codebook[k, d]
            square += codebook[k, d] * codebook[k, d]
        strips[k // wide, 0, k % wide] = square * codebook.dtype.type(-0.5)


@njit(**INNER)
def _share(
    z: Array, codebook: Array, strips: Array, index: Array, square: Array, all_best: Array, all_where: Array,
    worker: int, workers: int,
) -> None:  # fmt: skip
    """all_best, all_where [workers, 2, BLOCK, lanes]: memory for products, and for counts in integers of z's width."""
    blocks = (len(z) + BLOCK - 1) // BLOCK
    own = share_of(blocks, worker, workers)
    start, stop = own.start * BLOCK, min(own.stop * BLOCK, len(z))
    best, where, depth = all_best[worker], all_where[worker], z.shape[1]
    one, lane, last = z.dtype.type(1), where.shape[2], len(strips) % 2
    wide = lanes(one)
    for first in range(start, stop, BLOCK):
        rows = min(BLOCK, stop - first)
        best[0] = -np.inf
        where[0] = 0
        for strip in range(len(strips)):
            old = strip % 2 * BLOCK * lane
            new = BLOCK * lane - old
            _compared(
                one, address(z, first * depth), depth, address(strips, strip * (1 + depth) * wide), rows,
                strip * VECTORS, address(best, old), address(where, old), address(best, new), address(where, new),
            )  # fmt: skip
        for r in range(rows):
            top, nearest = best[last, r, 0], where[last, r, 0] * lane
            for i in range(1, lane):
                product, k = best[last, r, i], where[last, r, i] * lane + i
                if product > top or (product == top and k < nearest):
                    top, nearest = product, k
            index[first + r] = nearest
            total = z.dtype.type(0)
            for d in range(z.shape[1]):
                apart = z[first + r, d] - codebook[nearest, d]
                total += apart * apart
            square[first + r] = total


def nearest(z: Array, codebook: Array) -> tuple[Array, Array]:
    z, codebook = np.ascontiguousarray(z), np.ascontiguousarray(codebook)
    index, square = np.empty(len(z), np.int64), np.empty(len(z), z.dtype)
    wide = columns(z.dtype)
    strips = np.empty((-(-len(codebook) // wide), 1 + z.shape[1], wide), z.dtype)
    _pack(codebook, strips)
    best = np.empty((PARTS, 2, BLOCK, wide // VECTORS), z.dtype)
    where = np.empty(best.shape, f"i{z.itemsize}")
    run(_share, (z, codebook, strips, index, square, best, where), PARTS)
    return index, square
