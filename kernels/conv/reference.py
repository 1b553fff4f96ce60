"""A convolution by taps, its two gradients, in NumPy: one matrix product for each tap and group.

Arrays: x [N, *space, C], w [T, C / groups, O], y and g [N, *output space, O]. offsets: a tuple of d whole numbers for
each tap; stride, shape: tuples of d whole numbers. Group k reads input channels k C/groups ... and writes output
channels k O/groups ... Outside the image x is zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from micrognm.kernels.formula.program import Activation
from micrognm.kernels.formula.reference import run

Array = Any
Offsets = Sequence[Sequence[int]]


def _overlap(
    offset: Sequence[int], stride: Sequence[int], space: Sequence[int], shape: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The pixels p of y for which p stride + offset lies inside the image: where those are in x, where in y.

    Both as an index into arrays [groups, N, *space, channels].
    """
    read, written = [slice(None)] * 2, [slice(None)] * 2
    for o, s, size, out in zip(offset, stride, space, shape, strict=True):
        start = max(0, -(o // s))  # the least p with p s + o >= 0
        end = max(start, min(out, -((o - size) // s)))  # one past the greatest p with p s + o < size
        read.append(slice(start * s + o, end * s + o, s) if end > start else slice(0, 0))
        written.append(slice(start, end))
    return tuple(read), tuple(written)


def _split(x: Array, groups: int) -> Array:
    """[..., C] as [groups, ..., C / groups], a view."""
    return np.moveaxis(x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups), -2, 0)


def _weights(w: Array, t: int, groups: int, axes: int) -> Array:
    """Tap t of w as matrices [groups, 1 ..., C / groups, O / groups]."""
    w = _split(w[t], groups)
    return w.reshape(groups, *[1] * (axes - 2), *w.shape[1:])


def forward(
    x: Array, w: Array, bias: Array | None, offsets: Offsets, stride: Sequence[int], shape: Sequence[int], groups: int,
    activation: Activation | None = None, keep: bool = False,
) -> Any:  # fmt: skip
    """y[n, p] = activation(bias + sum over t of x[n, p stride + offset_t] @ w[t]).

    keep: give what the activation was applied to after it.
    """
    y = np.zeros_like(x, shape=(x.shape[0], *shape, w.shape[-1]))
    for t, offset in enumerate(offsets):
        read, written = _overlap(offset, stride, x.shape[1:-1], shape)
        _split(y, groups)[written] += _split(x, groups)[read] @ _weights(w, t, groups, x.ndim)
    return _activated(y, bias, activation, keep)


def input_gradient(
    g: Array, w: Array, bias: Array | None, offsets: Offsets, stride: Sequence[int], shape: Sequence[int], groups: int,
    activation: Activation | None = None, keep: bool = False,
) -> Any:  # fmt: skip
    """What forward does to g, transposed: x[n, p stride + offset_t] += g[n, p] @ w[t]^T into an image of this shape.

    This is also the transposed convolution, so it takes a bias [C] and an activation.
    """
    x = np.zeros_like(g, shape=(g.shape[0], *shape, w.shape[1] * groups))
    for t, offset in enumerate(offsets):
        read, written = _overlap(offset, stride, shape, g.shape[1:-1])
        _split(x, groups)[read] += _split(g, groups)[written] @ _weights(w, t, groups, g.ndim).swapaxes(-1, -2)
    return _activated(x, bias, activation, keep)


def _activated(y: Array, bias: Array | None, activation: Activation | None, keep: bool) -> Any:
    if bias is not None:
        y = y + bias
    if activation is None:
        return y
    (made,) = run(activation.program, [y], activation.options)
    return (made, y) if keep else made


def weight_gradient(x: Array, g: Array, offsets: Offsets, stride: Sequence[int], groups: int) -> Array:
    """w[t] = sum over n and p of x[n, p stride + offset_t]^T g[n, p]; [T, C / groups, O]."""
    inputs, outputs = x.shape[-1] // groups, g.shape[-1]
    w = np.zeros_like(x, shape=(len(offsets), inputs, outputs))
    for t, offset in enumerate(offsets):
        read, written = _overlap(offset, stride, x.shape[1:-1], g.shape[1:-1])
        left, right = _split(x, groups)[read], _split(g, groups)[written]
        pixels = math.prod(left.shape[1:-1])
        right = right.reshape(groups, pixels, outputs // groups)
        _split(w[t], groups)[...] = left.reshape(groups, pixels, inputs).swapaxes(1, 2) @ right
    return w
