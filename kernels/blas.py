"""BLAS's product of matrices by address: each thread of the kernels calls it for its part. matmul.py says why.

The BLAS called is SciPy's, which tells its addresses.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from micrognm.kernels import workers
from micrognm.kernels.jit import INNER
from numba import get_num_threads, njit, types
from numba.extending import get_cython_function_address, intrinsic

from micrognm import backend

Array = Any
ROUTINES = {"float32": "sgemm", "float64": "dgemm"}
SCALES = {name: np.array([0, 1], name) for name in ROUTINES}
LETTERS = np.frombuffer(b"NT", np.uint8)  # how a matrix lies: as FORTRAN expects it, or transposed
LETTERS_AT: int = LETTERS.ctypes.data


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
def _part(
    scales: Array,
    gemm: int,
    letters: int,
    start: int,
    shape: tuple,
    a: tuple,
    b: tuple,
    out: int,
    worker: int,
    workers: int,
) -> None:
    """out [n, m] = a [n, k] @ b [k, m] + start * out, for one worker's rows or columns of out.

    a and b: the address of a matrix, how far apart its rows are (columns where it is transposed), and whether it is
    transposed. To FORTRAN each matrix is its transpose, so that what is computed is out^T = b^T a^T + start * out^T.
    """
    (n, m, k), (at_a, apart_a, transposed_a), (at_b, apart_b, transposed_b) = shape, a, b
    apart, size = m, scales.itemsize
    if n >= m:
        first, last = n * worker // workers, n * (worker + 1) // workers
        n = last - first
        at_a += size * first * (1 if transposed_a else apart_a)
        out += size * first * apart
    else:
        first, last = m * worker // workers, m * (worker + 1) // workers
        m = last - first
        at_b += size * first * (apart_b if transposed_b else 1)
        out += size * first
    sizes = np.array([m, n, k, apart_b, apart_a, apart], np.int32)
    of, scale = sizes.ctypes.data, scales.ctypes.data
    how = letters + transposed_b, letters + transposed_a
    _call(  # type: ignore[call-arg]  # without its typing context
        gemm,
        (*how, of, of + 4, of + 8, scale + size, at_b, of + 12, at_a, of + 16, scale + size * start, out, of + 20),
    )


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
    (n, k), m, dtype = a.shape, b.shape[1], a.dtype.name
    a, apart_a, transposed_a = _lying(a)
    b, apart_b, transposed_b = _lying(b)
    out = np.empty((n, m), a.dtype)
    if bias is not None:
        out[...] = bias
    lies = (a.ctypes.data, apart_a, transposed_a), (b.ctypes.data, apart_b, transposed_b), out.ctypes.data
    arguments = (SCALES[dtype], _gemm(dtype), LETTERS_AT, int(bias is not None), (n, m, k), *lies)
    workers.run(_part, arguments, get_num_threads())
    return out
