"""What attention does to a tile, in vector registers. Numba has no vectors: these four loops are in LLVM's terms.

Arguments are addresses (`address(array, element)`), counts, and steps in elements; `number` is any number of the
arrays' dtype. `lanes(number)` columns are worked on at once: VECTORS registers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from micrognm.kernels.jit import REGISTERS, SERIAL, WIDTH
from micrognm.kernels.maths import ENDS, EXP, LOG2, MANTISSA
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import arrayobj

INT = ir.IntType(64)
VECTORS = 2
SIZES = (
    (6, 4, 2, 1) if REGISTERS == 16 else (12, 4, 2, 1)
)  # rows of a product in registers, all but four of which it fills


@intrinsic
def lanes(typingctx: Any, number: Any) -> Any:
    """How many columns are worked on at once: a constant to the compiler."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(INT, VECTORS * WIDTH * 32 // number.bitwidth)

    return types.intp(number), codegen


@intrinsic
def address(typingctx: Any, x: Any, at: Any) -> Any:
    """Where element `at` of x lies, x being C-contiguous and counted flat."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = arrayobj.make_array(x)(context, builder, args[0]).data
        return builder.ptrtoint(builder.gep(data, [args[1]]), INT)

    return types.intp(x, types.intp), codegen


class _Vectors:
    """LLVM's builder for numbers of one type and registers full of them."""

    def __init__(self, context: Any, builder: Any, number: Any) -> None:
        builder.function.attributes.add("noinline")  # compiled once, not wherever it is called
        self.builder, self.bits = builder, number.bitwidth
        self.T = np.dtype(f"f{self.bits // 8}").type
        self.scalar = context.get_value_type(number)
        self.width = WIDTH * 32 // self.bits
        self.vector = ir.VectorType(self.scalar, self.width)
        self.undefined = ir.Constant(self.vector, ir.Undefined)

    def numbers(self, value: float) -> Any:
        return ir.Constant(self.vector, [float(self.T(value))] * self.width)

    def pointer(self, at: Any) -> Any:
        return self.builder.inttoptr(at, self.scalar.as_pointer())

    def ahead(self, pointer: Any, index: Any, step: Any = None) -> Any:
        index = index if isinstance(index, ir.Value) else ir.Constant(INT, index)
        return self.builder.gep(pointer, [index if step is None else self.builder.mul(index, step)])

    def _wide(self, pointer: Any, i: int) -> Any:
        return self.builder.bitcast(self.ahead(pointer, i * self.width), self.vector.as_pointer())

    def load(self, pointer: Any, i: int = 0) -> Any:
        """The vector after i others."""
        loaded = self.builder.load(self._wide(pointer, i))
        loaded.align = self.bits // 8
        return loaded

    def store(self, value: Any, pointer: Any, i: int = 0) -> None:
        self.builder.store(value, self._wide(pointer, i)).align = self.bits // 8

    def copied(self, number: Any) -> Any:
        """A vector with this number in every lane."""
        one = self.builder.insert_element(self.undefined, number, ir.Constant(ir.IntType(32), 0))
        return self.shuffled(one, self.undefined, [0] * self.width)

    def shuffled(self, a: Any, b: Any, order: list[int]) -> Any:
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), self.width), order))

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        name = f"llvm.fma.v{self.width}f{self.bits}"
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), [a, b, c])

    def larger(self, a: Any, b: Any) -> Any:
        """The larger; b where one is NaN."""
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    def exp(self, x: Any) -> Any:
        """e^x for x up to 80: 0 where that is subnormal. The method and the numbers are those of kernels/maths.py."""
        builder, mantissa = self.builder, MANTISSA[self.bits]
        high, low = LOG2[self.T]
        rounder = self.numbers(1.5 * 2.0**mantissa)
        x = builder.select(
            builder.fcmp_ordered("<", x, self.numbers(ENDS[self.T][3])), self.numbers(ENDS[self.T][3]), x
        )
        rounded = self.fma(x, self.numbers(1 / np.log(2)), rounder)
        k = builder.fsub(rounded, rounder)
        r = self.fma(k, self.numbers(-low), self.fma(k, self.numbers(-high), x))
        p = self.numbers(EXP[self.T][-1])
        for c in EXP[self.T][-2::-1]:
            p = self.fma(p, r, self.numbers(c))
        y = builder.fadd(self.fma(builder.fmul(r, r), p, r), self.numbers(1))
        integer = ir.VectorType(ir.IntType(self.bits), self.width)
        power = builder.shl(builder.bitcast(rounded, integer), ir.Constant(integer, [mantissa] * self.width))
        power = builder.add(power, builder.bitcast(self.numbers(1), integer))
        return builder.fmul(y, builder.bitcast(power, self.vector))

    def variable(self, value: Any) -> Any:
        return cgutils.alloca_once_value(self.builder, value)

    def loop(self, count: Any) -> Any:
        return cgutils.for_range(self.builder, count)


def _intrinsic(body: Callable[..., None]) -> Any:
    """body(vectors, ...) in LLVM's terms as a function of (number, (addresses, counts and steps))."""

    @intrinsic
    def compiled(typingctx: Any, number: Any, given: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            body(_Vectors(context, builder, number), *cgutils.unpack_tuple(builder, args[1]))
            return context.get_dummy_value()

        return types.void(number, given), codegen

    return compiled


@_intrinsic
def _product(
    on: _Vectors, c: Any, c_step: Any, a: Any, a_row: Any, a_step: Any, b: Any, b_step: Any, rows: Any, length: Any,
    w: Any,
) -> None:  # fmt: skip
    builder = on.builder
    a0, b0, c0, w0 = map(on.pointer, (a, b, c, w))

    def tile(size: int, first: Any) -> None:
        """Rows first to first + size, in registers while t runs."""
        places = [(r, i) for r in range(size) for i in range(VECTORS)]
        sums = {place: cgutils.alloca_once(builder, on.vector) for place in places}
        rows_of_c = [on.ahead(c0, builder.add(first, ir.Constant(INT, r)), c_step) for r in range(size)]
        rows_of_a = [on.ahead(a0, builder.add(first, ir.Constant(INT, r)), a_row) for r in range(size)]
        with builder.if_else(builder.icmp_signed("==", w, ir.Constant(INT, 0))) as (fresh, weighed):
            with fresh:
                for place in places:
                    builder.store(on.numbers(0), sums[place])
            with weighed:
                for r, i in places:
                    builder.store(builder.fmul(on.load(rows_of_c[r], i), on.load(w0, i)), sums[r, i])
        with on.loop(length) as t:
            row = on.ahead(b0, t.index, b_step)
            row_of_b = [on.load(row, i) for i in range(VECTORS)]
            for r in range(size):
                factor = on.copied(builder.load(on.ahead(rows_of_a[r], t.index, a_step)))
                for i in range(VECTORS):
                    builder.store(on.fma(factor, row_of_b[i], builder.load(sums[r, i])), sums[r, i])
        for r, i in places:
            on.store(builder.load(sums[r, i]), rows_of_c[r], i)

    done: Any = ir.Constant(INT, 0)
    for size in SIZES:
        count = builder.sdiv(builder.sub(rows, done), ir.Constant(INT, size))
        with on.loop(count) as block:
            tile(size, builder.add(done, builder.mul(block.index, ir.Constant(INT, size))))
        done = builder.add(done, builder.mul(count, ir.Constant(INT, size)))


@_intrinsic
def _soften(on: _Vectors, s: Any, rows: Any, top: Any, total: Any, fade: Any) -> None:
    builder = on.builder
    s, top, total, fade = map(on.pointer, (s, top, total, fade))
    step = ir.Constant(INT, VECTORS * on.width)
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


@_intrinsic
def _slopes(on: _Vectors, p: Any, ds: Any, step: Any, rows: Any, hide: Any, lse: Any, dot: Any) -> None:
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


@_intrinsic
def _transpose(on: _Vectors, to: Any, to_step: Any, x: Any, x_step: Any, rows: Any, columns: Any, w: Any) -> None:
    builder, width = on.builder, on.width
    to, x, w = map(on.pointer, (to, x, w))
    whole = ir.Constant(INT, width)
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
    zero, row, column = ir.Constant(INT, 0), builder.mul(row_blocks, whole), builder.mul(column_blocks, whole)
    one_by_one(row, zero, rows, columns)
    one_by_one(zero, column, row, columns)


@njit(**SERIAL)
def product(
    number: float, c: int, c_step: int, a: int, a_row: int, a_step: int, b: int, b_step: int, rows: int, length: int,
    w: int,
) -> None:  # fmt: skip
    """c[r, :] = c[r, :] w + sum over t < length of a(r, t) b[t, :], for r < rows.

    Row r of c lies at r c_step, a(r, t) at r a_row + t a_step, row t of b at t b_step. w holds a weight for each
    column; w = 0: sums start from zero, and c need not hold anything.
    """
    _product(number, (c, c_step, a, a_row, a_step, b, b_step, rows, length, w))


@njit(**SERIAL)
def soften(number: float, s: int, rows: int, top: int, total: int, fade: int) -> None:
    """s [rows, lanes] becomes exp(s - top) under a new running maximum; fade: what sums under the old one are worth."""
    _soften(number, (s, rows, top, total, fade))


@njit(**SERIAL)
def slopes(number: float, p: int, ds: int, step: int, rows: int, hide: int, lse: int, dot: int) -> None:
    """Scores p become weights exp(p + hide - lse), and ds, the gradient of weights, that of scores: weight (ds - dot).

    hide holds a number for each column, lse and dot one for each row.
    """
    _slopes(number, (p, ds, step, rows, hide, lse, dot))


@njit(**SERIAL)
def transpose(number: float, to: int, to_step: int, x: int, x_step: int, rows: int, columns: int, w: int) -> None:
    """to[c, r] = x[r, c] w[c], for r < rows and c < columns."""
    _transpose(number, (to, to_step, x, x_step, rows, columns, w))
