"""reference.py in CUDA: see gpu.cu."""

from __future__ import annotations

from typing import Any

import numpy as np
from micrognm.kernels import cuda

from micrognm import backend

Array = Any
ROWS = 8  # rows, or pixels, of a block: one a warp
module = cuda.module(__file__)


def categorical(logits: Array, index: Array) -> tuple[Array, Array, Array]:
    (logits,) = module.float32(logits)
    rows, classes = logits.shape
    out, largest, total = (np.empty_like(logits, shape=rows) for _ in range(3))
    index = backend.contiguous(index.astype(np.int64))
    grid = cuda.ceil_div(rows, ROWS)
    module.launch("categorical", grid, 32 * ROWS, logits, index, out, largest, total, rows, classes)
    return out, largest, total


def categorical_grad(g: Array, logits: Array, index: Array, largest: Array, total: Array) -> Array:
    g, logits, largest, total = module.float32(g, logits, largest, total)
    rows, classes = logits.shape
    out, grid = np.empty_like(logits), cuda.ceil_div(rows, ROWS)
    index = backend.contiguous(index.astype(np.int64))
    module.launch("categorical_grad", grid, 32 * ROWS, g, logits, index, largest, total, out, rows, classes)
    return out


def logistic_mixture(x: Array, params: Array, levels: int, mixtures: int) -> Array:
    (params,) = module.float32(params)
    x, (pixels, channels) = backend.contiguous(x.astype(np.int32)), x.shape
    out, grid = np.empty_like(params, shape=pixels), cuda.ceil_div(pixels, ROWS)
    numbers = (pixels, channels, params.shape[1], levels, mixtures)
    module.launch("logistic_mixture", grid, 32 * ROWS, x, params, out, *numbers)
    return out


def logistic_mixture_slopes(x: Array, params: Array, levels: int, mixtures: int) -> tuple[Array, Array]:
    (params,) = module.float32(params)
    x, (pixels, channels) = backend.contiguous(x.astype(np.int32)), x.shape
    value, out, grid = np.empty_like(params, shape=pixels), np.empty_like(params), cuda.ceil_div(pixels, ROWS)
    numbers = (pixels, channels, params.shape[1], levels, mixtures)
    module.launch("logistic_mixture_slopes", grid, 32 * ROWS, x, params, value, out, *numbers)
    return value, out
