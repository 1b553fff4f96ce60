"""reference.py in CUDA C: launches gpu.cu. float32."""

from __future__ import annotations

from collections.abc import Callable
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
    tile, shared = _tile(lambda t: t * (2 * (d + 1) + 2 * (e + 1) + t + 1), d, e)
    blocks = images * heads * cuda.ceil_div(length, tile)
    sizes = (length, m, heads, d, e, scale, reach, tile)
    module.launch("forward", blocks, 8 * tile, q, k, v, _whole(keys), out, lse, *sizes, shared=shared)
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
    tile, shared = _tile(lambda t: t * (3 * (d + 1) + 3 * (e + 1) + 2 * (t + 1)), d, e)
    sizes = (length, m, heads, d, e, scale, reach, tile)
    for name, rows, arrays in (
        ("gradient_q", length, (g, q, k, v, out, lse, keys, dq, g_out)),
        ("gradient_kv", m, (g, q, k, v, g_out, lse, keys, dk, dv)),
    ):
        module.launch(name, images * heads * cuda.ceil_div(rows, tile), 8 * tile, *arrays, *sizes, shared=shared)
    return dq, dk, dv


def _whole(keys: Array | None) -> Array | None:
    return None if keys is None else backend.contiguous(keys)


def _tile(numbers: Callable[[int], int], d: int, e: int) -> tuple[int, int]:
    """Rows of a tile and the bytes of shared memory that it takes: 32, or fewer where vectors are long."""
    for tile in (32, 16, 8):
        if 4 * numbers(tile) <= cuda.MOST_SHARED:
            return tile, 4 * numbers(tile)
    raise ValueError(
        f"attention on the GPU: a tile of 8 rows of q, k and v, {d} and {e} wide, does not fit in the "
        f"{cuda.MOST_SHARED} bytes of shared memory. Use more heads of less width, or MICROGNM_KERNELS=reference"
    )
