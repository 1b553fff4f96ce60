"""reference.py in CUDA: see gpu.cu."""

from __future__ import annotations

from typing import Any

import numpy as np
from micrognm.kernels import cuda

Array = Any
ROWS = 64  # as in gpu.cu
module = cuda.module(__file__)


def nearest(z: Array, codebook: Array) -> tuple[Array, Array]:
    z, codebook = module.float32(z, codebook)
    (rows, depth), entries = z.shape, len(codebook)
    half = np.empty_like(codebook, shape=entries)
    index, square = np.empty_like(z, shape=rows, dtype=np.int64), np.empty_like(z, shape=rows)
    module.launch("half_squares", cuda.ceil_div(entries, 8), 256, codebook, half, entries, depth)
    module.launch("nearest", cuda.ceil_div(rows, ROWS), 256, z, codebook, half, index, square, rows, entries, depth)
    return index, square
