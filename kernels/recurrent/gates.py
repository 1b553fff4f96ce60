"""What a cell does between two products, for the cells of a line: cpu.py's loops over numbers, in registers.

`lines` cells of one image: in the map `apart` cells from one to the next, in what is kept for the line `count`. Of h
numbers each, or 4 h: o, f, i and g. h fills whole registers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from micrognm.kernels.jit import INNER
from micrognm.kernels.vectors import Vectors, in_registers
from numba import njit


def _each(on: Vectors, lines: Any, h: Any, body: Callable[[Any, Any], None]) -> None:
    """body(line, first number) for each register of each cell."""
    builder = on.builder
    with on.loop(lines) as line, on.loop(builder.sdiv(h, on.whole(on.width))) as part:
        body(line.index, builder.mul(part.index, on.whole(on.width)))


@in_registers
def _advance(
    on: Vectors, lines: Any, h: Any, apart: Any, count: Any, total: Any, gates: Any, carry: Any, state: Any,
    gated: Any, cells: Any, hidden: Any,
) -> None:  # fmt: skip
    builder = on.builder
    total, gates, carry, state, gated, cells, hidden = map(
        on.pointer, (total, gates, carry, state, gated, cells, hidden)
    )
    four = builder.mul(h, on.whole(4))

    def body(line: Any, at: Any) -> None:
        kept, mapped = builder.mul(line, count), builder.mul(line, apart)
        sums, given, out = (
            on.ahead(on.ahead(x, i, four), at) for x, i in ((total, kept), (gates, mapped), (gated, mapped))
        )
        values = []
        for q in range(4):
            gate = on.whole(q)
            x = builder.fadd(on.load(on.ahead(sums, gate, h)), on.load(on.ahead(given, gate, h)))
            values.append(on.tanh(x) if q == 3 else on.sigmoid(x))
            on.store(values[-1], on.ahead(out, gate, h))
        c_at, h_at = on.ahead(on.ahead(carry, kept, h), at), on.ahead(on.ahead(state, kept, h), at)
        o, f, i, g = values
        c = on.fma(f, on.load(c_at), builder.fmul(i, g))
        new = builder.fmul(o, on.tanh(c))
        for value, here, there in ((c, c_at, cells), (new, h_at, hidden)):
            on.store(value, here)
            on.store(value, on.ahead(on.ahead(there, mapped, h), at))

    _each(on, lines, h, body)


@in_registers
def _retreat(
    on: Vectors, lines: Any, h: Any, apart: Any, count: Any, dh: Any, dh_step: Any, dc: Any, later: Any,
    later_step: Any, g: Any, gated: Any, cells: Any, before: Any, before_step: Any, dgates: Any,
) -> None:  # fmt: skip
    builder = on.builder
    dh, dc, later, g, gated, cells, before, dgates = map(on.pointer, (dh, dc, later, g, gated, cells, before, dgates))
    four, one = builder.mul(h, on.whole(4)), on.numbers(1)
    mul, sub = builder.fmul, builder.fsub

    def body(line: Any, at: Any) -> None:
        kept, mapped = builder.mul(line, count), builder.mul(line, apart)

        def place(x: Any, index: Any, step: Any) -> Any:
            return on.ahead(on.ahead(x, index, step), at)

        o, f, i, new = (on.load(on.ahead(place(gated, mapped, four), on.whole(q), h)) for q in range(4))
        squashed = on.tanh(on.load(place(cells, mapped, h)))
        slope = builder.fadd(on.load(place(dh, kept, dh_step)), on.load(place(g, mapped, h)))
        along = mul(slope, o)
        carried = place(dc, kept, h)
        c = on.fma(along, sub(one, mul(squashed, squashed)), on.load(carried))
        slopes = (
            mul(mul(along, squashed), sub(one, o)),
            mul(mul(c, on.load(place(before, line, before_step))), mul(f, sub(one, f))),
            mul(mul(c, new), mul(i, sub(one, i))),
            mul(mul(c, i), sub(one, mul(new, new))),
        )
        for q, value in enumerate(slopes):
            on.store(value, on.ahead(place(dgates, mapped, four), on.whole(q), h))
            on.store(value, on.ahead(place(later, kept, later_step), on.whole(q), h))
        on.store(mul(c, f), carried)

    _each(on, lines, h, body)


@in_registers
def _copy(on: Vectors, lines: Any, h: Any, to: Any, to_step: Any, x: Any, x_step: Any) -> None:
    to, x = map(on.pointer, (to, x))

    def body(line: Any, at: Any) -> None:
        on.store(on.load(on.ahead(on.ahead(x, line, x_step), at)), on.ahead(on.ahead(to, line, to_step), at))

    _each(on, lines, h, body)


@njit(**INNER)
def advance(
    number: float, lines: int, h: int, apart: int, count: int, total: int, gates: int, carry: int, state: int,
    gated: int, cells: int, hidden: int,
) -> None:  # fmt: skip
    """From total, what the states say to the gates, and carry, c before, to c and h, in the map and in the line."""
    _advance(number, (lines, h, apart, count, total, gates, carry, state, gated, cells, hidden))


@njit(**INNER)
def retreat(
    number: float, lines: int, h: int, apart: int, count: int, dh: int, dh_step: int, dc: int, later: int,
    later_step: int, g: int, gated: int, cells: int, before: int, before_step: int, dgates: int,
) -> None:  # fmt: skip
    """From dh, what later cells ask of h, and dc of c, to the slopes of the gates, in the map and in later, and dc
    for the cell behind, whose c lies at `before`.
    """
    _retreat(
        number,
        (lines, h, apart, count, dh, dh_step, dc, later, later_step, g, gated, cells, before, before_step, dgates),
    )


@njit(**INNER)
def copy(number: float, lines: int, h: int, to: int, to_step: int, x: int, x_step: int) -> None:
    """h numbers of each line."""
    _copy(number, (lines, h, to, to_step, x, x_step))
