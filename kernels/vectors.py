"""Registers full of numbers, for Numba code: Numba has no vectors, so loops over them are written in LLVM's terms.

    @in_registers
    def _double(on, x, count):
        with on.loop(count) as i: ...

    @njit(**SERIAL)
    def double(number, x, count):
        _double(number, (x, count))

Such a function takes any number of its arrays' dtype, and then whole numbers: addresses (`address(array, element)`),
counts, and steps in elements. An address does not keep its array alive: arrays that a Numba function makes may be gone
after the last line that names them, so give it those of its caller.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from micrognm.kernels.jit import WIDTH
from micrognm.kernels.maths import ENDS, EXP, LOG2, MANTISSA
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import arrayobj

INT = ir.IntType(64)
VECTORS = 2  # worked on at once


def columns(dtype: Any) -> int:
    """Numbers in VECTORS registers."""
    return VECTORS * WIDTH * 4 // np.dtype(dtype).itemsize


def scratch(size: int, dtype: Any) -> Any:
    """So many numbers, not set, of which the first begins a line of the cache: vectors then cross none."""
    number = np.dtype(dtype).itemsize
    memory = np.empty(size + 64 // number, dtype)
    start = -memory.ctypes.data % 64 // number
    return memory[start : start + size]


@intrinsic
def lanes(typingctx: Any, number: Any) -> Any:
    """columns(dtype) of a number, as a constant to the compiler."""

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


def in_registers(body: Callable[..., None]) -> Any:
    """body(vectors, ...), which writes LLVM's instructions, as a function of (number, (...)) for Numba code."""

    @intrinsic
    def compiled(typingctx: Any, number: Any, given: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            body(Vectors(context, builder, number), *cgutils.unpack_tuple(builder, args[1]))
            return context.get_dummy_value()

        return types.void(number, given), codegen

    return compiled


class Vectors:
    """LLVM's builder for numbers of one type, integers of their width, and registers full of them."""

    def __init__(self, context: Any, builder: Any, number: Any) -> None:
        builder.function.attributes.add("noinline")  # compiled once, not wherever it is called
        self.builder, self.bits = builder, number.bitwidth
        self.T = np.dtype(f"f{self.bits // 8}").type
        self.scalar = context.get_value_type(number)
        self.width = WIDTH * 32 // self.bits
        self.vector = ir.VectorType(self.scalar, self.width)
        self.integers = ir.VectorType(ir.IntType(self.bits), self.width)

    def whole(self, value: int) -> Any:
        return ir.Constant(INT, value)

    def numbers(self, value: float) -> Any:
        """A vector of one constant."""
        return ir.Constant(self.vector, [float(self.T(value))] * self.width)

    # ---- memory ------------------------------------------------------------------------------------------------------

    def pointer(self, at: Any) -> Any:
        """To a number, from its address."""
        return self.builder.inttoptr(at, self.scalar.as_pointer())

    def ahead(self, pointer: Any, index: Any, step: Any = None) -> Any:
        """The pointer, index (times step) numbers on."""
        index = index if isinstance(index, ir.Value) else self.whole(index)
        return self.builder.gep(pointer, [index if step is None else self.builder.mul(index, step)])

    def load(self, pointer: Any, i: int = 0, kind: Any = None) -> Any:
        """The vector after i others; kind: `integers` for those."""
        at = self.builder.bitcast(self.ahead(pointer, i * self.width), (kind or self.vector).as_pointer())
        return self.builder.load(at, align=self.bits // 8)

    def store(self, value: Any, pointer: Any, i: int = 0) -> None:
        at = self.builder.bitcast(self.ahead(pointer, i * self.width), value.type.as_pointer())
        self.builder.store(value, at, align=self.bits // 8)

    def variable(self, value: Any) -> Any:
        """Memory that holds value now: LLVM keeps it in a register. builder.load and builder.store are its own."""
        return cgutils.alloca_once_value(self.builder, value)

    def loop(self, count: Any) -> Any:
        return cgutils.for_range(self.builder, count)

    # ---- arithmetic --------------------------------------------------------------------------------------------------

    def copied(self, number: Any) -> Any:
        """A vector with this number in every lane."""
        undefined = ir.Constant(ir.VectorType(number.type, self.width), ir.Undefined)
        one = self.builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
        return self.shuffled(one, undefined, [0] * self.width)

    def shuffled(self, a: Any, b: Any, order: list[int]) -> Any:
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), self.width), order))

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """a b + c"""
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        name = f"llvm.fma.v{self.width}f{self.bits}"
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), [a, b, c])

    def larger(self, a: Any, b: Any) -> Any:
        """The larger; b where one is NaN."""
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    # ---- functions: the methods and the numbers are those of kernels/maths.py ----------------------------------------

    def exp(self, x: Any) -> Any:
        """e^x for x up to 88 (float64: 709): 0 where that is subnormal."""
        q, power = self._reduced(self._at_least(x, ENDS[self.T][3]))
        return self.builder.fmul(self.builder.fadd(q, self.numbers(1)), power)

    def sigmoid(self, x: Any) -> Any:
        """1 / (1 + e^-x), without overflow: no less than the least number that is not subnormal, about."""
        builder, one, end = self.builder, self.numbers(1), self.numbers(-ENDS[self.T][3])
        x = self._at_least(x, ENDS[self.T][3])
        x = builder.select(builder.fcmp_ordered(">", x, end), end, x)
        q, power = self._reduced(x, -1)
        return builder.fdiv(one, self.fma(builder.fadd(q, one), power, one))

    def tanh(self, x: Any) -> Any:
        """-t / (t + 2) of |x| for t = e^(-2|x|) - 1, with the sign of x."""
        builder, two = self.builder, self.numbers(2)
        sign = ir.Constant(self.integers, [1 << self.bits - 1] * self.width)
        bits = builder.bitcast(x, self.integers)
        size = builder.bitcast(builder.and_(bits, builder.not_(sign)), self.vector)
        q, power = self._reduced(self._at_least(builder.fmul(size, self.numbers(-2)), ENDS[self.T][2]))
        t = self.fma(power, q, builder.fsub(power, self.numbers(1)))
        y = builder.fdiv(builder.fneg(t), builder.fadd(t, two))
        y = builder.or_(builder.bitcast(y, self.integers), builder.and_(bits, sign))
        return builder.bitcast(y, self.vector)

    def _at_least(self, x: Any, least: float) -> Any:
        end = self.numbers(least)
        return self.builder.select(self.builder.fcmp_ordered("<", x, end), end, x)  # written so that NaN stays

    def _reduced(self, x: Any, sign: int = 1) -> tuple[Any, Any]:
        """e^r - 1 and 2^k for x = k log(2) + r; with sign -1, for -x."""
        builder, mantissa = self.builder, MANTISSA[self.bits]
        high, low = LOG2[self.T]
        rounder = self.numbers(1.5 * 2.0**mantissa)
        rounded = self.fma(x, self.numbers(sign / np.log(2)), rounder)
        k = builder.fsub(rounded, rounder)
        signed = x if sign == 1 else builder.fneg(x)
        r = self.fma(k, self.numbers(-low), self.fma(k, self.numbers(-high), signed))
        p = self.numbers(EXP[self.T][-1])
        for c in EXP[self.T][-2::-1]:
            p = self.fma(p, r, self.numbers(c))
        shift = ir.Constant(self.integers, [mantissa] * self.width)
        power = builder.shl(builder.bitcast(rounded, self.integers), shift)
        power = builder.add(power, builder.bitcast(self.numbers(1), self.integers))
        return self.fma(builder.fmul(r, r), p, r), builder.bitcast(power, self.vector)
