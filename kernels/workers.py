"""One call of a compiled function in each thread, without compiling it into the loop over threads.

A Numba function with prange compiles and links all that it calls several times over, which doubled the time of a first
call. So the loop over threads gets the function's address, and knows only its arguments.
"""

from __future__ import annotations

from typing import Any

import numba
from micrognm.kernels.jit import PARALLEL
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

_addresses: dict[Any, int] = {}  # by function and dtype


@intrinsic
def _call(typingctx: Any, address: Any, args: Any, worker: Any, workers: Any) -> Any:
    kinds = [*args.types, types.intp, types.intp]

    def codegen(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        convention = context.call_conv
        kind = convention.get_function_type(types.none, kinds)
        function = builder.inttoptr(given[0], kind.as_pointer())
        results = [cgutils.alloca_once(builder, pointer.pointee) for pointer in kind.args[:2]]  # none, and no error
        values = [*cgutils.unpack_tuple(builder, given[1]), *given[2:]]
        # Numba passes an array as the fields of its structure.
        builder.call(function, [*results, *context.get_arg_packer(kinds).as_arguments(builder, values)])
        return context.get_dummy_value()

    return types.void(address, args, types.intp, types.intp), codegen


@njit(**PARALLEL)
def _run(address: int, args: tuple, workers: int) -> None:
    for worker in prange(workers):
        _call(address, args, worker, workers)  # type: ignore[call-arg]  # without its typing context


def run(share: Any, args: tuple, workers: int) -> None:
    """share(*args, worker, workers) for each worker < workers, in threads. share: a Numba function that raises nothing.

    Its arguments have the same types in every call, but for the dtype, which is that of the first.
    """
    if workers == 1:
        share(*args, 0, 1)
        return
    key = (share, args[0].dtype)
    if key not in _addresses:
        kinds = (*map(numba.typeof, args), types.intp, types.intp)
        share.compile(kinds)
        compiled = share.overloads[kinds]
        _addresses[key] = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
    _run(_addresses[key], args, workers)
