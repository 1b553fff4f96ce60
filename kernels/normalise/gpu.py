"""reference.py in CUDA C."""

from __future__ import annotations

from typing import Any

import numpy as np
from micrognm.kernels import cuda
from micrognm.kernels.normalise.sets import gradients, halves, join, tables

Array = Any
module = cuda.module(__file__)
CHANNELS, ROWS = 32, 8  # of a block, as in gpu.cu
PART = 256  # rows that one block adds up: the same on every card, and so are the sums
THREADS, BLOCKS = 256, 2048  # of the kernels that go element by element


def forward(
    x: Array, scale: Array, shift: Array, groups: int, over_batch: bool, centred: bool, eps: float,
    slope: float, swish: bool,
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    x, scale, shift = module.float32(x, scale, shift)
    n, p, c = x.shape
    if p == 1 and not over_batch:
        y = np.empty_like(x)
        mean, var = (np.empty_like(x, np.float64, shape=(n, groups)) for _ in range(2))
        module.launch(
            "rows", n * groups, _threads(c // groups), x, scale, shift, mean, var, y, c, groups, len(scale) > 1,
            centred, eps, slope, swish,
        )  # fmt: skip
    else:
        parts = cuda.ceil_div(p, PART)
        moments = np.empty_like(x, np.float64, shape=(2, n, parts, c))
        module.launch(
            "moments", (n * parts, cuda.ceil_div(c, CHANNELS)), (CHANNELS, ROWS), x, moments, n, p, c, PART, parts
        )
        mean, var = join(moments, p, PART, groups, over_batch, centred)
        centre, a, b, *_ = tables(mean, var, scale, shift, eps)
        y = _apply(x, centre, a, b, slope, swish)
    return y, *halves(mean, x.dtype), var.astype(x.dtype)


def backward(
    g: Array, gmean: Array, gvar: Array, x: Array, mean: Array, low: Array, var: Array, scale: Array, shift: Array,
    centred: bool, eps: float, slope: float, swish: bool,
) -> tuple[Array, Array, Array]:  # fmt: skip
    given = module.float32(g, gmean, gvar, x, mean, low, var, scale, shift)
    g, gmean, gvar, x, mean, low, var, scale, shift = given
    n, p, c = x.shape
    if p == 1 and len(mean) == n:
        dx, groups, own = np.empty_like(x), mean.shape[1], len(scale) > 1
        module.launch(
            "rows_backward", n * groups, _threads(c // groups), *given, dx, c, groups, own, centred, eps, slope, swish
        )
        of_a_part = 1 if own else PART
        parts = cuda.ceil_div(n, of_a_part)
        sums = np.empty_like(x, np.float64, shape=(2, parts, c))
        module.launch(
            "row_sums", (parts, cuda.ceil_div(c, CHANNELS)), (CHANNELS, ROWS), g, *given[3:], sums, n, c, groups,
            of_a_part, own, eps, slope, swish,
        )  # fmt: skip
        dscale, dshift = sums if own else np.sum(sums, axis=1, keepdims=True)
        return dx, dscale.astype(x.dtype), dshift.astype(x.dtype)
    mean, var = mean.astype(np.float64) + low, var.astype(np.float64)
    centre, a, b, lows = tables(mean, var, scale, shift, eps)
    sums = _sums(g, x, centre, a, b, slope, swish)
    count = max(x.size // max(mean.size, 1), 1)
    dscale, dshift, bend, move = gradients(sums, lows, gmean, gvar, mean, var, scale, count, centred, eps)
    dx = _pull(g, x, centre, a, b, bend, move, slope, swish)
    return dx, dscale.astype(x.dtype), dshift.astype(x.dtype)


def scale_shift(x: Array, scale: Array, shift: Array, slope: float, swish: bool) -> Array:
    x, scale, shift = module.float32(x, scale, shift)
    return _apply(x, np.zeros_like(scale), scale, shift, slope, swish)


def scale_shift_backward(
    g: Array, x: Array, scale: Array, shift: Array, slope: float, swish: bool
) -> tuple[Array, Array, Array]:
    g, x, scale, shift = module.float32(g, x, scale, shift)
    zeros = np.zeros_like(scale)
    dscale, dshift = np.sum(_sums(g, x, zeros, scale, shift, slope, swish), axis=2)
    if len(scale) == 1:
        dscale, dshift = np.sum(dscale, axis=0, keepdims=True), np.sum(dshift, axis=0, keepdims=True)
    dx = _pull(g, x, zeros, scale, shift, zeros, zeros, slope, swish)
    return dx, dscale.astype(x.dtype), dshift.astype(x.dtype)


def _threads(width: int) -> int:
    """Of a block that has a row of this width: whole warps."""
    return min(THREADS, 32 * max(cuda.ceil_div(width, 32), 1))


def _elements(x: Array) -> int:
    return min(cuda.ceil_div(x.size, THREADS), BLOCKS)


def _apply(x: Array, centre: Array, a: Array, b: Array, slope: float, swish: bool) -> Array:
    y, (centre, a, b) = np.empty_like(x), module.float32(centre, a, b)
    _, p, c = x.shape
    module.launch("apply", _elements(x), THREADS, x, centre, a, b, y, x.size, p * c, c, len(a) > 1, slope, swish)
    return y


def _sums(g: Array, x: Array, centre: Array, a: Array, b: Array, slope: float, swish: bool) -> Array:
    n, p, c = x.shape
    parts = cuda.ceil_div(p, PART)
    out = np.empty_like(x, np.float64, shape=(2, n, parts, c))
    module.launch(
        "sums", (n * parts, cuda.ceil_div(c, CHANNELS)), (CHANNELS, ROWS), g, x, *module.float32(centre, a, b), out, n,
        p, c, PART, parts, len(a) > 1, slope, swish,
    )  # fmt: skip
    return out


def _pull(
    g: Array, x: Array, centre: Array, a: Array, b: Array, bend: Array, move: Array, slope: float, swish: bool
) -> Array:
    dx, (_, p, c) = np.empty_like(x), x.shape
    own, bent = len(a) > 1, len(bend) > 1
    module.launch(
        "pull", _elements(x), THREADS, g, x, *module.float32(centre, a, b, bend, move), dx, x.size, p * c, c, own, bent,
        slope, swish,
    )  # fmt: skip
    return dx
