"""Arrays of Numba code from addresses. Numba's own `carray` takes a second to compile, for its error messages."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np import arrayobj


def _array_at(typing: Any, address: Any, size: Any, like: Any) -> Any:
    """`size` numbers from the address on, of like's dtype (an array, or np.float32, say). It keeps no memory alive."""
    kind = types.Array(like.dtype, 1, "C")

    def code(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        view = arrayobj.make_array(kind)(context, builder)
        width = context.get_constant(types.intp, context.get_abi_sizeof(context.get_data_type(like.dtype)))
        data = builder.inttoptr(args[0], view.data.type)
        arrayobj.populate_array(view, data=data, shape=[args[1]], strides=[width], itemsize=width, meminfo=None)
        return view._getvalue()

    return kind(types.intp, types.intp, like), code


array_at: Any = intrinsic(_array_at)
