"""reference.py in Numba: the largest z e - |e|^2 / 2 over the rows e of the codebook, by a register tile.

The tile multiplies ROWS rows of z with 2 WIDTH rows of the codebook, all accumulators in registers, and its products
are compared while they are in the level 1 cache: there is no matrix of distances. A product is summed in one order
wherever the row lies in its tile, so that equal rows of a codebook tie exactly, and the number of threads changes
nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from micrognm.kernels.jit import REGISTERS, SERIAL, WIDTH
from micrognm.kernels.workers import run
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

Array = Any
LANES = 2 * WIDTH  # rows of the codebook in a tile
ROWS = 12 if REGISTERS > 16 else 6  # rows of z in a tile: with two vectors each, they leave registers for the operands
BLOCK = 8 * ROWS  # rows of z that meet a strip of the codebook while it is in the level 1 cache
PARTS = 16  # pieces of work for the threads


def _tile(rows: int) -> Any:
    """compare(z, at, strips, s, best, where, r): the products of z[at : at + rows] with strip s of the codebook, which
    holds a bias and then D numbers for each of LANES rows. For each lane of a register best[s % 2, r : r + rows] holds
    the best product so far and `where` its register, counted through the codebook; both go on to best[(s + 1) % 2].
    Equal products leave the first. (Were they written where they were read, LLVM would make masked stores of it, which
    are slow.)
    """

    @intrinsic
    def compare(typing: Any, z: Any, at: Any, strips: Any, s: Any, best: Any, where: Any, r: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            size = z.dtype.bitwidth // 8
            lanes = WIDTH * 4 // size  # of a register
            vectors = LANES // lanes
            vector = ir.VectorType(context.get_value_type(z.dtype), lanes)
            counts = ir.VectorType(context.get_value_type(where.dtype), lanes)
            arrays = [context.make_array(signature.args[i])(context, builder, args[i]) for i in (0, 2, 4, 5)]
            index = args[1].type
            depth = cgutils.unpack_tuple(builder, arrays[0].shape)[1]

            def constant(n: int) -> Any:
                return ir.Constant(index, n)

            def vector_at(pointer: Any, offset: Any, kind: Any = vector) -> Any:
                return builder.bitcast(builder.gep(pointer, [offset]), kind.as_pointer())

            def spread(x: Any, kind: Any) -> Any:
                x = builder.insert_element(ir.Constant(kind, ir.Undefined), x, ir.Constant(ir.IntType(32), 0))
                return builder.shuffle_vector(x, x, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes))

            strip = builder.mul(args[3], builder.mul(builder.add(depth, constant(1)), constant(LANES)))
            strip = builder.gep(arrays[1].data, [strip])
            source = builder.gep(arrays[0].data, [builder.mul(args[1], depth)])
            sums = [[cgutils.alloca_once(builder, vector) for _ in range(vectors)] for _ in range(rows)]
            name = f"llvm.fmuladd.v{lanes}f{z.dtype.bitwidth}"
            fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), name)
            for v in range(vectors):
                bias = builder.load(vector_at(strip, constant(v * lanes)), align=size)
                for row in range(rows):
                    builder.store(bias, sums[row][v])
            with cgutils.for_range(builder, depth) as loop:
                here = builder.mul(builder.add(loop.index, constant(1)), constant(LANES))
                codes = [
                    builder.load(vector_at(strip, builder.add(here, constant(v * lanes))), align=size)
                    for v in range(vectors)
                ]
                for row in range(rows):
                    place = builder.add(builder.mul(depth, constant(row)), loop.index)
                    x = spread(builder.load(builder.gep(source, [place]), align=size), vector)
                    for v in range(vectors):
                        total = builder.call(fma, [x, codes[v], builder.load(sums[row][v])])
                        builder.store(total, sums[row][v])
            half = builder.mul(builder.and_(args[3], constant(1)), constant(BLOCK))
            first = builder.mul(args[3], constant(vectors))
            for row in range(rows):
                place = builder.add(args[6], constant(row))
                old, new = (
                    builder.mul(builder.add(place, offset), constant(lanes))
                    for offset in (half, builder.sub(constant(BLOCK), half))
                )
                top = builder.load(vector_at(arrays[2].data, old), align=size)
                at_top = builder.load(vector_at(arrays[3].data, old, counts), align=size)
                for v in range(vectors):
                    total = builder.load(sums[row][v])
                    better = builder.fcmp_ordered(">", total, top)
                    now = builder.add(first, constant(v))
                    now = spread(builder.trunc(now, counts.element) if size < 8 else now, counts)
                    top, at_top = builder.select(better, total, top), builder.select(better, now, at_top)
                builder.store(top, vector_at(arrays[2].data, new), align=size)
                builder.store(at_top, vector_at(arrays[3].data, new, counts), align=size)
            return context.get_dummy_value()

        return types.void(z, at, strips, s, best, where, r), generate

    return compare


_many, _one = _tile(ROWS), _tile(1)


@njit(**SERIAL)
def _pack(codebook: Array, strips: Array) -> None:
    """codebook [K, D] into strips [K / LANES, 1 + D, LANES]: -|e|^2 / 2, then e on its side; -inf where none is."""
    n, depth = codebook.shape
    strips[:] = 0
    strips[-1, 0, :] = -np.inf
    for k in range(n):
        square = codebook.dtype.type(0)
        for d in range(depth):
            strips[k // LANES, 1 + d, k % LANES] = codebook[k, d]
            square += codebook[k, d] * codebook[k, d]
        strips[k // LANES, 0, k % LANES] = square * codebook.dtype.type(-0.5)


@njit(**SERIAL)
def _share(
    z: Array, codebook: Array, strips: Array, index: Array, square: Array, all_best: Array, all_where: Array,
    worker: int, workers: int,
) -> None:  # fmt: skip
    """all_best, all_where [workers, 2, BLOCK, lanes]: memory for products, and for counts in integers of z's width."""
    blocks = (len(z) + BLOCK - 1) // BLOCK
    start, stop = worker * blocks // workers * BLOCK, min((worker + 1) * blocks // workers * BLOCK, len(z))
    best, where = all_best[worker], all_where[worker]
    lanes, last = where.shape[2], len(strips) % 2
    for first in range(start, stop, BLOCK):
        rows = min(BLOCK, stop - first)
        best[0] = -np.inf
        where[0] = 0
        for strip in range(len(strips)):
            r = 0
            while r + ROWS <= rows:
                _many(z, first + r, strips, strip, best, where, r)
                r += ROWS
            while r < rows:
                _one(z, first + r, strips, strip, best, where, r)
                r += 1
        for r in range(rows):
            top, nearest = best[last, r, 0], where[last, r, 0] * lanes
            for i in range(1, lanes):
                product, k = best[last, r, i], where[last, r, i] * lanes + i
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
    strips = np.empty((-(-len(codebook) // LANES), 1 + z.shape[1], LANES), z.dtype)
    _pack(codebook, strips)
    best = np.empty((PARTS, 2, BLOCK, WIDTH * 4 // z.itemsize), z.dtype)
    where = np.empty(best.shape, f"i{z.itemsize}")
    run(_share, (z, codebook, strips, index, square, best, where), PARTS)
    return index, square
