"""Operations that move elements and compute nothing."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from micrognm.engine import Tensor
from micrognm.operation import op


@op
def reshape(x, *, shape):
    """The elements of x, in order, as another shape of the same size; one entry may be -1."""
    return np.reshape(x, shape)


@op
def _transpose(x, *, axes):
    """The axes of x in another order: axes is a permutation of 0..ndim-1."""
    return np.transpose(x, axes)


@op
def broadcast_to(x, *, shape):
    """x repeated to this shape: from the right, axes equal or 1."""
    return np.broadcast_to(x, shape)


@op
def concat(*xs, axis):
    """The xs joined along an axis; all other axes must be equal."""
    return np.concatenate(xs, axis)


@op
def stack(*xs, axis=0):
    """The xs, all of one shape, joined along a new axis."""
    return np.stack(xs, axis)


@op
def pad(x, *, widths, value=0.0):
    """x with `value` around it: widths gives (before, after) for each axis, none negative."""
    if len(widths) != x.ndim or any(n < 0 for pair in widths for n in pair):
        raise ValueError(f"widths {widths} must be {x.ndim} pairs of numbers >= 0")
    sizes = tuple(n + before + after for n, (before, after) in zip(x.shape, widths, strict=True))
    out = np.full_like(x, value, shape=sizes)
    out[tuple(slice(before, before + n) for n, (before, _) in zip(x.shape, widths, strict=True))] = x
    return out


@op
def flip(x, *, axis):
    """x with the order along an axis, or a tuple of axes, reversed."""
    return np.flip(x, axis)


@op
def roll(x, *, shift, axis):
    """x with the elements along an axis moved by `shift` places, round the end; or tuples of both."""
    return np.roll(x, shift, axis)


def _piece(g, i, shapes, axis):
    """The part of g that is the i-th of the joined tensors."""
    axis = axis % g.ndim
    start = sum(shape[axis] for shape in shapes[:i])
    return g[(slice(None),) * axis + (slice(start, start + shapes[i][axis]),)]


def _slice_back(g, shapes, widths):
    return g[tuple(slice(before, before + n) for n, (before, _) in zip(shapes["x"], widths, strict=True))]


reshape.vjp(x=lambda g, shapes: reshape(g, shape=shapes["x"]))
_transpose.vjp(x=lambda g, axes: _transpose(g, axes=tuple(int(i) for i in np.argsort(axes))))
broadcast_to.vjp(x=lambda g: g)  # the engine sums over what was repeated
concat.vjp(xs=_piece)
stack.vjp(xs=lambda g, i, axis: g[(slice(None),) * (axis % g.ndim) + (i,)])
pad.vjp(x=_slice_back)
flip.vjp(x=lambda g, axis: flip(g, axis=axis))
roll.vjp(x=lambda g, shift, axis: roll(g, shift=np.negative(shift).tolist(), axis=axis))


def transpose(x: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    """The axes of x in another order, reversed where axes is None."""
    order = range(x.ndim)[::-1] if axes is None else axes
    if sorted(i + x.ndim * (i < 0) for i in order) != list(range(x.ndim)):
        raise ValueError(f"transpose: axes {list(order)} is not a permutation of the {x.ndim} axes of {list(x.shape)}")
    return _transpose(x, axes=tuple(i % x.ndim for i in order))


def split(x: Tensor, sizes: Sequence[int], axis: int = -1) -> tuple[Tensor, ...]:
    """x cut along an axis into parts of these sizes, which must add up to the axis."""
    axis = normalize_axis_index(axis, x.ndim, "split")
    if sum(sizes) != x.shape[axis] or any(n < 0 for n in sizes):
        length = f"{x.shape[axis]}, the length of axis {axis} of {list(x.shape)}"
        raise ValueError(f"split: sizes {list(sizes)} must be at least 0 and add up to {length}")
    return _splitter(len(sizes))(x, sizes=tuple(sizes), axis=axis) if len(sizes) > 1 else (x,) * len(sizes)


@functools.cache
def _splitter(n: int) -> Any:
    """The operation that makes n parts: an operation has a number of outputs."""

    @op(outputs=n)
    def split(x, *, sizes, axis):
        return _parts(x, sizes, axis)

    split.vjp_at_once(_joined, _parts)
    return split


def _parts(x, sizes, axis):
    before = (slice(None),) * axis
    return tuple(x[(*before, slice(end - n, end))] for end, n in zip(accumulate(sizes), sizes, strict=True))


def _joined(g, needs, sizes, axis):
    """The parts' gradients side by side, in one array: a slice's own rule would fill one with zeros for each part."""
    like = next(part for part in g if part is not None)
    shapes = [(*like.shape[:axis], n, *like.shape[axis + 1 :]) for n in sizes]
    parts = [np.zeros_like(like, shape=shape) if part is None else part for part, shape in zip(g, shapes, strict=True)]
    return [np.concatenate(parts, axis)]
