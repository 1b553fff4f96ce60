"""reference.py in Numba: one loop over the rows, in their order. Serial: it runs at the speed of memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from micrognm.kernels.jit import SERIAL, WIDTH
from numba import njit, types
from numba.extending import intrinsic

Array = Any


@intrinsic
def _add_vector(typing: Any, out: Any, at: Any, values: Any, start: Any) -> Any:
    """out[at + i] += values[start + i] for WIDTH places of flat arrays. LLVM cannot know that they are apart: told so,
    it needs no test before each row."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def place(i: int) -> Any:
            array = context.make_array(signature.args[i])(context, builder, args[i])
            return builder.bitcast(builder.gep(array.data, [args[i + 1]]), vector.as_pointer())

        size = out.dtype.bitwidth // 8
        vector = ir.VectorType(context.get_value_type(out.dtype), WIDTH)
        a, b = place(0), place(2)
        total = builder.fadd(builder.load(a, align=size), builder.load(b, align=size))
        builder.store(total, a, align=size)
        return context.get_dummy_value()

    return types.void(out, at, values, start), generate


@njit(**SERIAL)
def _add_rows(index: Array, values: Array, out: Array) -> None:
    columns = out.shape[1]
    whole = columns - columns % WIDTH
    out[:] = 0
    x, y = values.reshape(-1), out.reshape(-1)
    for i in range(index.size):
        to, start = index[i] * columns, i * columns
        for c in range(0, whole, WIDTH):
            _add_vector(y, to + c, x, start + c)  # type: ignore[call-arg]  # Numba's intrinsics drop the first one
        for c in range(whole, columns):
            y[to + c] += x[start + c]


def scatter_add(index: Array, values: Array, slots: int) -> Array:
    index, values = np.ascontiguousarray(index, np.int64), np.ascontiguousarray(values)
    out = np.empty((slots, values.shape[1]), values.dtype)
    _add_rows(index, values, out)
    return out
