"""What generated code is made of, beside the maths: loads and stores that LLVM knows to be apart, and threads."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from micrognm.kernels.jit import PARALLEL, SERIAL
from numba import extending, njit, prange, types

intrinsic: Any = extending.intrinsic  # Numba's type hints count its first parameter among the caller's
OPTIONS = SERIAL
OUTPUTS = 16  # of one formula, at most
PART = types.void(types.CPointer(types.intp), types.intp)  # the signature of run_part


def _scopes(module: Any, outputs: Any) -> Any:
    """LLVM's names for what these outputs write. Outputs are new arrays: nothing else lies where they do.

    Without this LLVM would compare all addresses before each loop.
    """
    domain = module.add_metadata(["micrognm formula"])
    return module.add_metadata([module.add_metadata([f"output {k}", domain]) for k in outputs])


def _pointer(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    return builder.gep(context.make_array(kind)(context, builder, array).data, [at], inbounds=True)


@intrinsic
def load(typing: Any, array: Any, at: Any) -> Any:
    """array[at], of an input."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        found = builder.load(_pointer(context, builder, array, *args))
        found.set_metadata("noalias", _scopes(builder.module, range(OUTPUTS)))
        return context.data_model_manager[array.dtype].from_data(builder, found)

    return array.dtype(array, types.intp), generate


def _own(instruction: Any, module: Any, k: int) -> None:
    """Mark a load or store of output k: apart from the other outputs."""
    instruction.set_metadata("alias.scope", _scopes(module, [k]))
    instruction.set_metadata("noalias", _scopes(module, [other for other in range(OUTPUTS) if other != k]))


@intrinsic(prefer_literal=True)
def store(typing: Any, k: Any, array: Any, at: Any, x: Any) -> Any:
    """array[at] = x, of output k."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _pointer(context, builder, array, args[1], args[2])
        _own(builder.store(args[3], place), builder.module, k.literal_value)
        return context.get_dummy_value()

    return types.void(k, array, types.intp, array.dtype), generate


@intrinsic(prefer_literal=True)
def accumulate(typing: Any, k: Any, array: Any, at: Any, x: Any) -> Any:
    """array[at] += x, of output k."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _pointer(context, builder, array, args[1], args[2])
        before = builder.load(place)
        _own(before, builder.module, k.literal_value)
        _own(builder.store(builder.fadd(before, args[3]), place), builder.module, k.literal_value)
        return context.get_dummy_value()

    return types.void(k, array, types.intp, array.dtype), generate


@intrinsic
def add(typing: Any, total: Any, x: Any) -> Any:
    """total + x where the order of the sum may change, so that vector lanes sum apart; nothing else may change."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fadd(*args, flags=("reassoc",))

    return total(total, total), generate


@intrinsic
def call(typing: Any, function: Any, addresses: Any, part: Any) -> Any:
    """run_part at an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = ir.IntType(8).as_pointer().as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer, args[2].type])
        given = context.make_array(addresses)(context, builder, args[1]).data
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), [builder.bitcast(given, pointer), args[2]])
        return context.get_dummy_value()

    return types.void(types.intp, addresses, types.intp), generate


@njit(**PARALLEL)
def in_threads(function: Any, addresses: Any, parts: Any) -> None:
    """run_part(addresses, 0), run_part(addresses, 1), ... in threads. One for all formulas: it is slow to compile."""
    for part in prange(parts):
        call(function, addresses, part)
