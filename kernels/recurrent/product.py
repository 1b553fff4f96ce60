"""A matrix product in registers, for a few columns: Numba has no vectors, so it is written in LLVM's terms.

A tile of the result, some rows of two vectors each, stays in registers while t runs over the terms of its sums. Each
step loads the two vectors of b[t, :] and, row by row, one number of a, copied to all lanes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from micrognm.kernels.jit import REGISTERS, SERIAL, WIDTH
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import arrayobj

INT = ir.IntType(64)
VECTORS = 2
ROWS = 6 if REGISTERS == 16 else 12  # all registers but four hold sums
FEW = 4  # rows of a smaller tile


def columns(dtype: Any) -> int:
    """Of c in one product."""
    return VECTORS * WIDTH * 4 // dtype.itemsize


def _tiles(size: int, fresh: bool) -> Callable[..., None]:
    @intrinsic
    def tiles(
        typingctx: Any, c: Any, c_at: Any, c_step: Any, a: Any, a_at: Any, a_row: Any, a_step: Any, a_piece: Any,
        b: Any, b_at: Any, b_step: Any, rows: Any, terms: Any, pieces: Any,
    ) -> Any:  # fmt: skip
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            c, c_at, c_step, a, a_at, a_row, a_step, a_piece, b, b_at, b_step, rows, terms, pieces = args
            number = signature.args[0].dtype
            width = WIDTH * 32 // number.bitwidth
            vector = ir.VectorType(context.get_value_type(number), width)
            name = f"llvm.fma.v{width}f{number.bitwidth}"
            fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), name)
            undefined = ir.Constant(vector, ir.Undefined)
            first_lane = ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width)
            places = [(r, v) for r in range(size) for v in range(VECTORS)]

            def constant(value: int) -> Any:
                return ir.Constant(INT, value)

            def pointer(i: int, value: Any, at: Any) -> Any:
                return builder.gep(arrayobj.make_array(signature.args[i])(context, builder, value).data, [at])

            def ahead(start: Any, index: Any, step: Any) -> Any:
                return builder.gep(start, [builder.mul(index, step)])

            def wide(start: Any, v: int) -> Any:
                return builder.bitcast(builder.gep(start, [constant(v * width)]), vector.as_pointer())

            def load(start: Any, v: int) -> Any:
                loaded = builder.load(wide(start, v))
                loaded.align = number.bitwidth // 8
                return loaded

            c0, a0, b0 = pointer(0, c, c_at), pointer(3, a, a_at), pointer(8, b, b_at)
            sums = {place: cgutils.alloca_once(builder, vector) for place in places}
            with cgutils.for_range(
                builder, builder.sdiv(builder.add(rows, constant(size - 1)), constant(size))
            ) as tile:
                first = builder.mul(tile.index, constant(size))
                numbers = [builder.add(first, constant(r)) for r in range(size)]
                rows_of_c, rows_of_a = ([ahead(x, r, step) for r in numbers] for x, step in ((c0, c_step), (a0, a_row)))
                for r, v in places:
                    builder.store(ir.Constant(vector, [0.0] * width) if fresh else load(rows_of_c[r], v), sums[r, v])
                with cgutils.for_range(builder, pieces) as piece:
                    piece_of_a = [ahead(row, piece.index, a_piece) for row in rows_of_a]
                    piece_of_b = ahead(b0, builder.mul(piece.index, terms), b_step)
                    with cgutils.for_range(builder, terms) as term:
                        row_of_b = ahead(piece_of_b, term.index, b_step)
                        vectors = [load(row_of_b, v) for v in range(VECTORS)]
                        at = builder.mul(term.index, a_step)
                        for r in range(size):
                            one = builder.load(builder.gep(piece_of_a[r], [at]))
                            one = builder.insert_element(undefined, one, ir.Constant(ir.IntType(32), 0))
                            copied = builder.shuffle_vector(one, undefined, first_lane)
                            for v in range(VECTORS):
                                total = builder.call(fma, [copied, vectors[v], builder.load(sums[r, v])])
                                builder.store(total, sums[r, v])
                for r, v in places:
                    builder.store(builder.load(sums[r, v]), wide(rows_of_c[r], v)).align = number.bitwidth // 8
            return context.get_dummy_value()

        n = types.intp
        return types.void(c, n, n, a, n, n, n, n, b, n, n, n, n, n), codegen

    return tiles


_set, _add = _tiles(ROWS, True), _tiles(FEW, False)


@njit(**SERIAL)
def set_product(
    c, c_at, c_step, a, a_at, a_row, a_step, a_piece, b, b_at, b_step, rows, terms, pieces
):
    """c[r, :] = sum over p < pieces, t < terms of a(r, p, t) b[p terms + t, :], for r < rows.

    Tiles have ROWS rows: what is left of the last one is written too. Arrays are C-contiguous, of one dtype, and
    counted flat: row r of c begins at c_at + r c_step, a(r, p, t) lies at a_at + r a_row + p a_piece + t a_step,
    row t of b begins at b_at + t b_step.
    """
    _set(c, c_at, c_step, a, a_at, a_row, a_step, a_piece, b, b_at, b_step, rows, terms, pieces)


@njit(**SERIAL)
def add_product(
    c, c_at, c_step, a, a_at, a_row, a_step, b, b_at, b_step, rows, terms
):
    """c[r, :] += the same of one piece, in tiles of FEW rows."""
    _add(c, c_at, c_step, a, a_at, a_row, a_step, 0, b, b_at, b_step, rows, terms, 1)
