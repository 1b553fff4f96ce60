"""Large products of matrices by BLAS, in threads that sleep when they are done.

The threads of BLAS itself wait in a loop for the next product, for some 20 ms, and take the cores from the kernels that
come between: benchmarks/two_pools.py shows at what cost. So BLAS runs in one thread, as backend.py sets it, and here
each thread multiplies a part.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np

Array = Any
LARGE = 1 << 24  # multiplications: below, waking a thread costs more than it saves

_pool: ThreadPoolExecutor | None = None


def _forget() -> None:
    """After a fork: the child has none of the threads."""
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_forget)


def matmul(a: Array, b: Array) -> Array:
    """a @ b as np.matmul has it. NumPy's matrices are multiplied in threads where the product is large."""
    if a.ndim != 2 or b.ndim != 2 or a.size * b.shape[1] < LARGE or not isinstance(a, np.ndarray):
        return np.matmul(a, b)
    from numba import get_num_threads

    global _pool
    threads = get_num_threads()
    if _pool is None:
        _pool = ThreadPoolExecutor(max(1, threads - 1), "micrognm-matmul")
    out = np.empty((len(a), b.shape[1]), np.result_type(a, b))
    parts: list[tuple[Array, Array, Array]]
    if len(a) >= b.shape[1]:
        parts = [(x, b, y) for x, y in zip(np.array_split(a, threads), np.array_split(out, threads), strict=True)]
    else:
        columns = zip(np.array_split(b, threads, axis=1), np.array_split(out, threads, axis=1), strict=True)
        parts = [(a, x, y) for x, y in columns]
    multiply: Any = np.matmul
    others = [_pool.submit(multiply, *part) for part in parts[1:]]
    multiply(*parts[0])
    wait(others)
    for other in others:
        other.result()  # raises what it raised
    return out
