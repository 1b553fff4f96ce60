"""What attention does to a tile besides products, by lanes(number) columns at once."""

from __future__ import annotations

from typing import Any

from micrognm.kernels.jit import INNER
from micrognm.kernels.vectors import INT, VECTORS, Vectors, in_registers
from numba import njit
from numba.core import cgutils


@in_registers
def _soften(on: Vectors, s: Any, rows: Any, top: Any, total: Any, fade: Any) -> None:
    builder = on.builder
    s, top, total, fade = map(on.pointer, (s, top, total, fade))
    step = on.whole(VECTORS * on.width)
    old = [on.load(top, i) for i in range(VECTORS)]
    tops = [on.variable(x) for x in old]
    with on.loop(rows) as row:
        for i in range(VECTORS):
            x = on.load(on.ahead(s, row.index, step), i)
            builder.store(on.larger(x, builder.load(tops[i])), tops[i])
    new = [builder.load(x) for x in tops]
    totals = []
    for i in range(VECTORS):
        faded = on.exp(builder.fsub(old[i], new[i]))
        on.store(faded, fade, i)
        on.store(new[i], top, i)
        totals.append(on.variable(builder.fmul(on.load(total, i), faded)))
    with on.loop(rows) as row:
        at = on.ahead(s, row.index, step)
        for i in range(VECTORS):
            weight = on.exp(builder.fsub(on.load(at, i), new[i]))
            on.store(weight, at, i)
            builder.store(builder.fadd(builder.load(totals[i]), weight), totals[i])
    for i in range(VECTORS):
        on.store(builder.load(totals[i]), total, i)


@in_registers
def _slopes(on: Vectors, p: Any, ds: Any, step: Any, rows: Any, hide: Any, lse: Any, dot: Any) -> None:
    builder = on.builder
    p, ds, hide, lse, dot = map(on.pointer, (p, ds, hide, lse, dot))
    hidden = [on.load(hide, i) for i in range(VECTORS)]
    with on.loop(rows) as row:
        p_row, ds_row = on.ahead(p, row.index, step), on.ahead(ds, row.index, step)
        lses, dots = (on.copied(builder.load(on.ahead(x, row.index))) for x in (lse, dot))
        for i in range(VECTORS):
            weight = on.exp(builder.fadd(on.load(p_row, i), builder.fsub(hidden[i], lses)))
            on.store(weight, p_row, i)
            on.store(builder.fmul(weight, builder.fsub(on.load(ds_row, i), dots)), ds_row, i)


@in_registers
def _transpose(on: Vectors, to: Any, to_step: Any, x: Any, x_step: Any, rows: Any, columns: Any, w: Any) -> None:
    builder, width = on.builder, on.width
    to, x, w = map(on.pointer, (to, x, w))
    whole = on.whole(width)
    row_blocks, column_blocks = builder.sdiv(rows, whole), builder.sdiv(columns, whole)

    def one_by_one(first_row: Any, first_column: Any, last_row: Any, last_column: Any) -> None:
        with cgutils.for_range(builder, last_row, start=first_row, intp=INT) as r:
            with cgutils.for_range(builder, last_column, start=first_column, intp=INT) as c:
                value = builder.load(on.ahead(on.ahead(x, r.index, x_step), c.index))
                value = builder.fmul(value, builder.load(on.ahead(w, c.index)))
                builder.store(value, on.ahead(on.ahead(to, c.index, to_step), r.index))

    with on.loop(row_blocks) as rb, on.loop(column_blocks) as cb:
        row, column = builder.mul(rb.index, whole), builder.mul(cb.index, whole)
        corner = on.ahead(on.ahead(x, row, x_step), column)
        weights = on.load(on.ahead(w, column))
        block = [builder.fmul(on.load(on.ahead(corner, r, x_step)), weights) for r in range(width)]
        half = width // 2
        low = [i // 2 + width * (i % 2) for i in range(width)]  # of a and b: a[0] b[0] a[1] b[1] ...
        high = [i + half for i in low]
        for _ in range(width.bit_length() - 1):
            pairs = [(block[r], block[r + half]) for r in range(half)]
            block = [on.shuffled(a, b, order) for a, b in pairs for order in (low, high)]
        corner = on.ahead(on.ahead(to, column, to_step), row)
        for c in range(width):
            on.store(block[c], on.ahead(corner, c, to_step))
    zero, row, column = on.whole(0), builder.mul(row_blocks, whole), builder.mul(column_blocks, whole)
    one_by_one(row, zero, rows, columns)
    one_by_one(zero, column, row, columns)


@njit(**INNER)
def soften(number: float, s: int, rows: int, top: int, total: int, fade: int) -> None:
    """s [rows, lanes] becomes exp(s - top) under a new running maximum; fade: what sums under the old one are worth."""
    _soften(number, (s, rows, top, total, fade))


@njit(**INNER)
def slopes(number: float, p: int, ds: int, step: int, rows: int, hide: int, lse: int, dot: int) -> None:
    """Scores p become weights exp(p + hide - lse), and ds, the gradient of weights, that of scores: weight (ds - dot).

    hide holds a number for each column, lse and dot one for each row.
    """
    _slopes(number, (p, ds, step, rows, hide, lse, dot))


@njit(**INNER)
def transpose(number: float, to: int, to_step: int, x: int, x_step: int, rows: int, columns: int, w: int) -> None:
    """to[c, r] = x[r, c] w[c], for r < rows and c < columns."""
    _transpose(number, (to, to_step, x, x_step, rows, columns, w))
