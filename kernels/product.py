"""A product of matrices for a few columns, by a tile in registers.

Some rows of VECTORS vectors each stay in registers while t runs over the terms of their sums. Each step loads the
vectors of b[t, :] and, row by row, one number of a, copied to all lanes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from micrognm.kernels.jit import INNER, REGISTERS
from micrognm.kernels.vectors import VECTORS, Vectors, in_registers
from numba import njit
from numba.core import cgutils

ROWS = 6 if REGISTERS == 16 else 12  # of a tile: all registers but four hold sums
FEW = 4 if REGISTERS == 16 else 8  # rows of a smaller one, for what is left


class Tile:
    """size x VECTORS sums in registers, written into a function in LLVM's terms."""

    def __init__(self, on: Vectors, size: int) -> None:
        self.on = on
        self.sums = [[cgutils.alloca_once(on.builder, on.vector) for _ in range(VECTORS)] for _ in range(size)]

    def begin(self, start: Callable[[int, int], Any]) -> None:
        """start(r, i): what vector i of row r begins with."""
        for r, sums in enumerate(self.sums):
            for i, total in enumerate(sums):
                self.on.builder.store(start(r, i), total)

    def add(self, a: Callable[[int], Any], b: Any) -> None:
        """sums[r, :] += a(r) b[:], with pointers to a number of a and to the vectors of b."""
        on = self.on
        row = [on.load(b, i) for i in range(VECTORS)]
        for r, sums in enumerate(self.sums):
            factor = on.copied(on.builder.load(a(r)))
            for factors, total in zip(row, sums, strict=True):
                on.builder.store(on.fma(factor, factors, on.builder.load(total)), total)

    def found(self, r: int, i: int) -> Any:
        return self.on.builder.load(self.sums[r][i])


def in_tiles(on: Vectors, rows: Any, tile: Callable[[list[Any]], None]) -> None:
    """tile(numbers of its rows), until all rows are done: of ROWS rows, then one of ROWS or FEW for what is left.

    That one does the last row again where it has too many, so it must not change what it reads before it has read all.
    """
    builder, last = on.builder, on.builder.sub(rows, on.whole(1))

    def numbers(first: Any, size: int) -> list[Any]:
        return [builder.add(first, on.whole(r)) for r in range(size)]

    def none_beyond(numbers: list[Any]) -> list[Any]:
        return [builder.select(builder.icmp_signed("<", r, last), r, last) for r in numbers]

    count = builder.sdiv(rows, on.whole(ROWS))
    with on.loop(count) as block:
        tile(numbers(builder.mul(block.index, on.whole(ROWS)), ROWS))
    done = builder.mul(count, on.whole(ROWS))
    left = builder.sub(rows, done)
    with builder.if_then(builder.icmp_signed(">", left, on.whole(0))):
        with builder.if_else(builder.icmp_signed(">", left, on.whole(FEW))) as (many, few):
            with many:
                tile(none_beyond(numbers(done, ROWS)))
            with few:
                tile(none_beyond(numbers(done, FEW)))


@in_registers
def _product(
    on: Vectors, c: Any, c_step: Any, a: Any, a_row: Any, a_step: Any, a_piece: Any, b: Any, b_step: Any, rows: Any,
    terms: Any, pieces: Any, w: Any,
) -> None:  # fmt: skip
    builder = on.builder
    a0, b0, c0, w0 = map(on.pointer, (a, b, c, w))
    fresh = builder.icmp_signed("==", w, on.whole(0))

    def tile(numbers: list[Any]) -> None:
        rows_of_c, rows_of_a = ([on.ahead(x, r, step) for r in numbers] for x, step in ((c0, c_step), (a0, a_row)))
        sums = Tile(on, len(numbers))
        with builder.if_else(fresh) as (then, otherwise):
            with then:
                sums.begin(lambda r, i: on.numbers(0))
            with otherwise:
                sums.begin(lambda r, i: builder.fmul(on.load(rows_of_c[r], i), on.load(w0, i)))
        with on.loop(pieces) as piece:
            pieces_of_a = [on.ahead(row, piece.index, a_piece) for row in rows_of_a]
            piece_of_b = on.ahead(b0, builder.mul(piece.index, terms), b_step)
            with on.loop(terms) as term:
                at = builder.mul(term.index, a_step)
                sums.add(lambda r: on.ahead(pieces_of_a[r], at), on.ahead(piece_of_b, term.index, b_step))
        for r, row in enumerate(rows_of_c):
            for i in range(VECTORS):
                on.store(sums.found(r, i), row, i)

    in_tiles(on, rows, tile)


@njit(**INNER)
def product(
    number: float, c: int, c_step: int, a: int, a_row: int, a_step: int, a_piece: int, b: int, b_step: int, rows: int,
    terms: int, pieces: int, w: int,
) -> None:  # fmt: skip
    """c[r, :] = c[r, :] w + sum over p < pieces, t < terms of a(r, p, t) b[p terms + t, :], for r < rows.

    c, b and w have lanes(number) columns. Row r of c lies at r c_step, a(r, p, t) at r a_row + p a_piece + t a_step,
    row t of b at t b_step. w holds a weight for each column; w = 0: sums start from zero, and c need not hold anything.
    """
    _product(number, (c, c_step, a, a_row, a_step, a_piece, b, b_step, rows, terms, pieces, w))
