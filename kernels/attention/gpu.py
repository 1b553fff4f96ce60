"""reference.py in CUDA C: launches gpu.cu. float32, and under `backend.use_precision("tf32")` products in TF32."""

from __future__ import annotations

from typing import Any

import numpy as np
from micrognm.kernels import cuda

from micrognm import backend

Array = Any
module = cuda.module(__file__)


def forward(q: Array, k: Array, v: Array, keys: Array | None, scale: float, reach: int) -> tuple[Array, Array]:
    """reference.forward"""
    q, k, v = module.float32(q, k, v)
    images, length, heads, d = q.shape
    m, e = v.shape[1], v.shape[3]
    out, lse = np.empty_like(q, shape=(images, length, heads, e)), np.empty_like(q, shape=(images, length, heads))
    tile, shared = _tile(d, e, vectors=2, scores=1)
    blocks = images * heads * cuda.ceil_div(length, tile)
    sizes = (length, m, heads, d, e, scale, reach, tile)
    name = cuda.in_precision("forward")
    module.launch(name, blocks, 8 * tile, q, k, v, _whole(keys), out, lse, *sizes, shared=shared)
    return out, lse


def backward(
    g: Array, q: Array, k: Array, v: Array, out: Array, lse: Array, keys: Array | None, scale: float, reach: int
) -> tuple[Array, Array, Array]:
    """reference.backward"""
    g, q, k, v, out, lse = module.float32(g, q, k, v, out, lse)
    images, length, heads, d = q.shape
    m, e = v.shape[1], v.shape[3]
    dq, dk, dv, g_out = (np.empty_like(x) for x in (q, k, v, lse))
    keys = _whole(keys)
    tile, shared = _tile(d, e, vectors=3, scores=2)
    sizes = (length, m, heads, d, e, scale, reach, tile)
    for name, rows, arrays in (
        ("gradient_q", length, (g, q, k, v, out, lse, keys, dq, g_out)),
        ("gradient_kv", m, (g, q, k, v, g_out, lse, keys, dk, dv)),
    ):
        blocks = images * heads * cuda.ceil_div(rows, tile)
        module.launch(cuda.in_precision(name), blocks, 8 * tile, *arrays, *sizes, shared=shared)
    return dq, dk, dv


def _whole(keys: Array | None) -> Array | None:
    return None if keys is None else backend.contiguous(keys)


def _tile(d: int, e: int, vectors: int, scores: int) -> tuple[int, int]:
    """Rows of a tile and the bytes of shared memory that it takes: 32, or fewer where vectors are long.

    vectors: how many matrices of each width a kernel holds. scores: how many of [tile, tile].
    """
    tiles = (32, 16) if backend.precision() == "tf32" else (32, 16, 8)  # a tensor core takes 16 rows
    for tile in tiles:
        shared = 4 * tile * (vectors * (_row(d) + _row(e)) + scores * _row(tile))
        if shared <= cuda.MOST_SHARED:
            return tile, shared
    raise ValueError(
        f"attention on the GPU, in {backend.precision()}: a tile of {tiles[-1]} rows of q, k and v, {d} and {e} wide, "
        f"does not fit in the {cuda.MOST_SHARED} bytes of shared memory. Use more heads of less width"
        f"{', or MICROGNM_PRECISION=float32' if tiles[-1] > 8 else ''}, or MICROGNM_KERNELS=reference"
    )


def _row(columns: int) -> int:
    """How far apart the rows of a matrix lie in gpu.cu."""
    return 8 * cuda.ceil_div(columns, 8) + 4
