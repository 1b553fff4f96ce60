"""One call of a compiled function in each thread, without compiling it into the loop over threads.

A Numba function with prange compiles all that it calls several times over, which doubled the time of a first call; and
a loop over threads for every list of arguments costs a second each. So there is one such loop, which knows nothing but
addresses: of the arguments in memory, and of a function that reads them there and calls the compiled function, by its
address too.
"""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from micrognm.kernels.jit import INLINED, PARALLEL, SERIAL
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

SMALL = 1 << 16  # below, starting a second thread costs more than it saves
INT, BYTE = ir.IntType(64), ir.IntType(8)
_addresses: dict[Any, int] = {}  # by function and dtype


@intrinsic
def _call(typingctx: Any, reader: Any, args: Any, worker: Any, workers: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [INT] * 3)
        builder.call(builder.inttoptr(given[0], kind.as_pointer()), given[1:])
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4), codegen


@njit(**PARALLEL)
def _loop(reader: int, args: int, workers: int) -> None:
    for worker in prange(workers):
        _call(reader, args, worker, workers)  # type: ignore[call-arg]  # without its typing context


@intrinsic
def _enter(typingctx: Any, loop: Any, share: Any, args: Any, workers: Any) -> Any:
    """The arguments go to memory; then loop, at that address, calls share(*args, worker, workers) through `read`."""
    kinds = [*args.types, types.intp, types.intp]

    def codegen(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        convention, packer = context.call_conv, context.get_arg_packer(kinds)
        call = convention.get_function_type(types.none, kinds)
        kept = cgutils.alloca_once_value(builder, cgutils.pack_struct(builder, [given[1], given[2]]))

        read = ir.Function(
            builder.module, ir.FunctionType(ir.VoidType(), [INT] * 3), name=f"{builder.function.name}.read"
        )
        read.linkage = "internal"
        inner = ir.IRBuilder(read.append_basic_block())
        held = inner.load(inner.inttoptr(read.args[0], kept.type))
        function = inner.inttoptr(inner.extract_value(held, 0), call.as_pointer())
        results = [cgutils.alloca_once(inner, pointer.pointee) for pointer in call.args[:2]]  # none, and no error
        values = [*cgutils.unpack_tuple(inner, inner.extract_value(held, 1)), *read.args[1:]]
        # Numba passes an array as the fields of its structure.
        inner.call(function, [*results, *packer.as_arguments(inner, values)])
        inner.ret_void()

        reader, at = builder.ptrtoint(read, INT), builder.ptrtoint(kept, INT)
        with builder.if_else(builder.icmp_signed("==", given[3], ir.Constant(INT, 1))) as (alone, together):
            with alone:
                builder.call(read, [at, ir.Constant(INT, 0), ir.Constant(INT, 1)])
            with together:
                kinds_of_loop = [types.intp] * 3
                call_loop = convention.get_function_type(types.none, kinds_of_loop)
                loop_at = builder.inttoptr(given[0], call_loop.as_pointer())
                results_of_loop = [cgutils.alloca_once(builder, pointer.pointee) for pointer in call_loop.args[:2]]
                builder.call(loop_at, [*results_of_loop, reader, at, given[3]])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, args, types.intp), codegen


@njit(**SERIAL)
def _start(loop: int, share: int, args: tuple, workers: int) -> None:
    _enter(loop, share, args, workers)  # type: ignore[call-arg]


@njit(**INLINED)
def share_of(count: int, worker: int, workers: int) -> range:
    """Which of 0, 1 ... count - 1 are a worker's, for compiled code."""
    return range(count * worker // workers, count * (worker + 1) // workers)


def threads(work: int) -> int:
    """How many workers, for so many numbers moved or multiplications."""
    return numba.get_num_threads() if work >= SMALL else 1


def _address(function: Any, kinds: tuple) -> int:
    function.compile(kinds)
    compiled = function.overloads[kinds]
    return compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)


def run(share: Any, args: tuple, workers: int) -> None:
    """share(*args, worker, workers) for each worker < workers, in threads. share: a Numba function that raises nothing.

    Its arguments have the same types in every call, but for the dtype, which is that of the first: nothing checks that.
    """
    key = (share, args[0].dtype)
    if key not in _addresses:
        _addresses[key] = _address(share, (*map(numba.typeof, args), types.intp, types.intp))
    if _loop not in _addresses:
        _addresses[_loop] = _address(_loop, (types.intp,) * 3)
    _start(_addresses[_loop], _addresses[key], args, workers)
