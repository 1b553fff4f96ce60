"""The scans in CUDA C, one block for each direction of each image. float32; what they compute is in reference.py."""

from __future__ import annotations

from typing import Any

import numpy as np
from micrognm.kernels import cuda

from micrognm import backend

Array = Any
THREADS = 256
TILE = 32  # as in gpu.cu
PARTS = 16  # sums of images that the gradient to the weights is made of
module = cuda.module(__file__)


def forward(gates: Array, weight: Array, h0: Array, c0: Array, diagonal: bool) -> tuple[Array, Array, Array]:
    gates, weight, h0, c0 = module.float32(gates, weight, h0, c0)
    n, height, width, directions, _ = gates.shape
    taps, h = weight.shape[1:3]
    hidden, cells = (np.empty_like(gates, shape=(n, height, width, directions, h)) for _ in range(2))
    gated = np.empty_like(gates)
    if gates.size:
        sizes = height, width, directions, taps, h, diagonal
        module.launch("forward", (n, directions), THREADS, gates, weight, h0, c0, hidden, cells, gated, *sizes)
    return hidden, cells, gated


def backward(
    g: Array, weight: Array, h0: Array, c0: Array, hidden: Array, cells: Array, gated: Array, diagonal: bool
) -> tuple[Array, Array, Array, Array]:
    g, weight, h0, c0, hidden, cells, gated = module.float32(g, weight, h0, c0, hidden, cells, gated)
    n, height, width, directions, h = g.shape
    taps = weight.shape[1]
    dgates = np.empty_like(gated)
    if not g.size:
        return dgates, np.zeros_like(weight), np.zeros_like(h0), np.zeros_like(c0)
    dh0, dc0 = (np.empty_like(h0, shape=(n, *h0.shape)) for _ in range(2))
    transposed = backend.contiguous(np.swapaxes(weight, 2, 3))
    sizes = height, width, directions, taps, h, diagonal
    module.launch("backward", (n, directions), THREADS, g, transposed, c0, cells, gated, dgates, dh0, dc0, *sizes)
    images = cuda.ceil_div(n, PARTS)
    parts = np.empty_like(weight, shape=(cuda.ceil_div(n, images), *weight.shape))
    grid = cuda.ceil_div(taps * h, TILE) * cuda.ceil_div(4 * h, TILE), directions, len(parts)
    module.launch("weight_gradient", grid, (TILE, 8), hidden, h0, dgates, parts, n, images, *sizes)
    return dgates, *(np.sum(x, axis=0) for x in (parts, dh0, dc0))
