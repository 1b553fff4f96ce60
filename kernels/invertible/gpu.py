"""reference.py in CUDA C."""

from __future__ import annotations

from typing import Any

import numpy as np
from micrognm.kernels import cuda
from micrognm.kernels.invertible import reference

Array = Any
module = cuda.module(__file__)
TILE = 64  # as in gpu.cu
ROWS = 1024  # whose part of the weight's gradient one block adds up: the same on every card, and so are the sums
PART = 4096  # elements of one sample that one block couples


def forward(x: Array, weight: Array, scale: Array, shift: Array) -> Array:
    x, folded, bias = module.float32(x, scale[:, None] * weight, shift @ weight)
    y = np.empty_like(x)
    _product(x, folded, bias, y, (x.shape[-1], 1))
    return y


def backward(g: Array, x: Array, weight: Array, scale: Array, shift: Array) -> tuple[Array, Array, Array, Array]:
    c = x.shape[-1]
    g, x, transposed = module.float32(g, x, np.swapaxes(scale[:, None] * weight, 0, 1))
    dx = np.empty_like(x)
    _product(g, transposed, None, dx, (c, 1))
    rows = x.size // c
    parts = np.empty_like(x, shape=(cuda.ceil_div(rows, ROWS), c + 1, c))
    grid = (cuda.ceil_div(c + 1, TILE), cuda.ceil_div(c, TILE), len(parts))
    module.launch("product", grid, 256, x, g, None, parts, c + 1, c, rows, 1, c, c, ROWS)
    sums = np.sum(parts, axis=0)
    dfolded, dbias = sums[:c], sums[c]
    dweight = scale[:, None] * dfolded + shift[:, None] * dbias
    return dx, dweight, np.sum(weight * dfolded, axis=1), weight @ dbias


def determinant(weight: Array) -> tuple[Array, Array]:
    """CuPy's LAPACK (cuSOLVER): a few thousand numbers in float64 are no work for a kernel of our own."""
    return reference.determinant(weight)


def _product(x: Array, weight: Array, bias: Array | None, y: Array, strides: tuple[int, int]) -> None:
    c = weight.shape[0]
    rows = x.size // c
    grid = (cuda.ceil_div(rows, TILE), cuda.ceil_div(c, TILE))
    module.launch("product", grid, 256, x, weight, bias, y, rows, c, c, *strides, -1, c)


def coupling(x: Array, h: Array, t: Array, sigmoid: bool) -> tuple[Array, Array]:
    return _couple("coupling", x, h, t, sigmoid)


def coupling_inverse(y: Array, h: Array, t: Array, sigmoid: bool) -> tuple[Array, Array]:
    return _couple("coupling_inverse", y, h, t, sigmoid)


def _couple(name: str, x: Array, h: Array, t: Array, sigmoid: bool) -> tuple[Array, Array]:
    x, h, t = module.float32(x, h, t)
    y, size, parts = np.empty_like(x), *_cut(x)
    sums = np.empty_like(x, shape=(len(x), parts))
    module.launch(name, len(x) * parts, 256, x, h, t, y, sums, size, max(parts, 1), PART, sigmoid)
    return y, np.sum(sums, axis=1)


def coupling_backward(
    g: Array, glogdet: Array, x: Array, h: Array, t: Array, sigmoid: bool
) -> tuple[Array, Array, Array]:
    g, glogdet, x, h, t = module.float32(g, glogdet, x, h, t)
    dx, dh, (size, parts) = np.empty_like(x), np.empty_like(x), _cut(x)
    module.launch(
        "coupling_backward", len(x) * parts, 256, g, glogdet, x, h, t, dx, dh, size, max(parts, 1), PART, sigmoid
    )
    return dx, dh, dx if sigmoid else g


def _cut(x: Array) -> tuple[int, int]:
    """Elements of a sample, and parts that it is cut into."""
    size = x.size // max(len(x), 1)
    return size, cuda.ceil_div(size, PART)
