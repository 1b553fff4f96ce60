"""Products of matrices: by NumPy, and large ones in the kernels' threads.

The threads of BLAS itself wait in a loop for the next product, for some 20 ms, and take the cores from the kernels that
come between: benchmarks/two_pools.py shows at what cost. So there is one pool of threads, Numba's, and BLAS runs in one
thread, as backend.py sets it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from micrognm.kernels.columns import add_to_rows

Array = Any
LARGE = 1 << 23  # multiplications: below, waking a thread costs more than it saves


def matmul(a: Array, b: Array, bias: Array | None = None) -> Array:
    """a @ b (+ bias) as NumPy has it. NumPy's matrices are multiplied in threads where the product is large."""
    large = a.ndim == b.ndim == 2 and a.size * b.shape[1] >= LARGE
    if large and isinstance(a, np.ndarray) and a.dtype == b.dtype and a.dtype.char in "fd":
        from micrognm.kernels import blas  # imports Numba, which takes half a second

        return blas.multiply(a, b, bias)
    out = np.matmul(a, b)
    if bias is not None and out.ndim == 2 and out.flags.c_contiguous:
        add_to_rows(out, bias)
    elif bias is not None:
        out += bias
    return out
