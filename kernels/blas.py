"""BLAS's product of matrices by address: each thread of the kernels calls it for its part. matmul.py says why.

The BLAS called is SciPy's, which tells its addresses.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from micrognm.kernels.jit import INNER
from micrognm.kernels.workers import run, share_of
from numba import get_num_threads, njit, types
from numba.extending import get_cython_function_address, intrinsic

from micrognm import backend

Array = Any
ROUTINES = {"f": "sgemm", "d": "dgemm"}
SCALES = {dtype: np.array([0, 1], dtype) for dtype in ROUTINES}
LETTERS = np.frombuffer(b"NT", np.uint8)  # how a matrix lies: as FORTRAN expects it, or transposed
LETTERS_AT: int = LETTERS.ctypes.data
LONG = 4  # times as many products in a sum as rows or columns: from there on the sum is cut, into as many parts


@intrinsic
def _call(typingctx: Any, function: Any, addresses: Any) -> Any:
    """The function at an address, of parameters at these addresses."""

    def codegen(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * len(addresses))
        values = [builder.extract_value(given[1], i) for i in range(len(addresses))]
        builder.call(builder.inttoptr(given[0], kind.as_pointer()), values)
        return context.get_dummy_value()

    return types.void(types.intp, addresses), codegen


@njit(**INNER)
def _products(
    scales: Array, gemm: int, how: tuple, start: int, sizes: tuple, addresses: tuple, cut: int, steps: tuple,
    parts: int, worker: int, workers: int,
) -> None:  # fmt: skip
    """out [n, m] = a [n, k] @ b [k, m] + start * out, for one worker's parts of n, m or k.

    To FORTRAN each matrix is its transpose, so that what is computed is out^T = b^T a^T + start * out^T. how: the
    addresses of LETTERS for b and a. sizes: m, n, k, and how far apart the lines of b, a and out are. addresses: of b,
    a and out. cut: which of the sizes is cut, and steps: how far it is from one number along it to the next, in b, a
    and out, in bytes.
    """
    scale, size = scales.ctypes.data, scales.itemsize
    for part in share_of(parts, worker, workers):
        first, last = sizes[cut] * part // parts, sizes[cut] * (part + 1) // parts
        own = np.array(sizes, np.int32)
        own[cut] = last - first
        of = own.ctypes.data
        b, a, out = addresses[0] + first * steps[0], addresses[1] + first * steps[1], addresses[2] + first * steps[2]
        if cut == 2:
            out = addresses[2] + part * sizes[0] * sizes[1] * size  # each part of a sum is a matrix of its own
        given = *how, of, of + 4, of + 8, scale + size, b, of + 12, a, of + 16, scale + size * start, out, of + 20
        _call(gemm, given)  # type: ignore[call-arg]  # without its typing context


@functools.cache
def _gemm(dtype: str) -> int:
    """The address of BLAS's product for this dtype, in one thread from now on."""
    address = get_cython_function_address("scipy.linalg.cython_blas", ROUTINES[dtype])
    backend.one_thread_for_blas()  # NumPy's was told so when it was loaded; SciPy's is another
    return address


def _lying(x: Array) -> tuple[Array, int, int]:
    """A matrix as BLAS takes it, copied where neither its rows nor its columns are contiguous; how far these are apart
    in numbers; and 1 where it is the columns that are contiguous."""
    down, across = x.strides
    size, (n, m) = x.itemsize, x.shape
    if across == size and down >= m * size and down % size == 0:
        return x, down // size, 0
    if down == size and across >= n * size and across % size == 0:
        return x, across // size, 1
    return np.ascontiguousarray(x), m, 0


def multiply(a: Array, b: Array, bias: Array | None) -> Array:
    """a @ b (+ bias) for matrices of one dtype, which ROUTINES has."""
    (n, k), m, dtype, size = a.shape, b.shape[1], a.dtype.char, a.itemsize
    a, apart_a, transposed_a = _lying(a)
    b, apart_b, transposed_b = _lying(b)
    workers = get_num_threads()
    # Along a row of a matrix the next number is the next in memory, along a column it is `apart` from it.
    along_a, down_a = (apart_a, 1) if transposed_a else (1, apart_a)
    along_b, down_b = (apart_b, 1) if transposed_b else (1, apart_b)
    # The gradient to the weights of a layer is a long sum of small products: cut along the sum, each matrix is read
    # once. It is cut into as many parts whatever the number of threads, for its last digits depend on that.
    if bias is None and k >= LONG * max(n, m):
        cut, steps, parts, out = 2, (down_b, along_a, 0), LONG, np.empty((LONG, n, m), a.dtype)
    else:
        cut, steps = (1, (0, down_a, m)) if n >= m else (0, (along_b, 0, 1))
        parts, out = workers, np.empty((n, m), a.dtype)
    if bias is not None:
        out[...] = bias
    how = LETTERS_AT + transposed_b, LETTERS_AT + transposed_a
    sizes = m, n, k, apart_b, apart_a, m
    addresses = b.ctypes.data, a.ctypes.data, out.ctypes.data
    steps = tuple(size * step for step in steps)
    start = int(bias is not None)
    run(_products, (SCALES[dtype], _gemm(dtype), how, start, sizes, addresses, cut, steps, parts), workers)
    return np.add.reduce(out) if cut == 2 else out
