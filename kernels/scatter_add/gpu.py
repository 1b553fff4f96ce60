"""reference.py in CUDA: see gpu.cu."""

from __future__ import annotations

from typing import Any

import numpy as np
from micrognm.kernels import cuda

from micrognm import backend

Array = Any
SLOTS, ROWS = 32, 256  # as in gpu.cu
module = cuda.module(__file__)


def scatter_add(index: Array, values: Array, slots: int) -> Array:
    (values,) = module.float32(values)
    index = backend.contiguous(index.astype(np.int64))
    rows, columns = values.shape
    out = np.empty_like(values, shape=(slots, columns))
    grid = (cuda.ceil_div(slots, SLOTS), cuda.ceil_div(columns, 32))
    module.launch("scatter_add", grid, ROWS, index, values, out, rows, columns, slots)
    return out
