"""Picking elements and putting them back. An index is what NumPy takes: slices, integers, integer or boolean arrays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from micrognm import backend
from micrognm.engine import Tensor, tensor
from micrognm.operation import op

_BASIC = (int, slice, type(None), type(Ellipsis))


def _repeats(index):
    """Whether an index can name an element twice."""
    return not all(isinstance(i, _BASIC) or getattr(i, "dtype", None) == np.dtype(bool) for i in index)


def _rows(index, shape):
    """Whether an index picks along the first axis alone, by an array of integers: of embeddings, of codebooks."""
    return len(index) == 1 and len(shape) > 0 and getattr(index[0], "dtype", np.dtype(bool)).kind in "iu"


def _add_rows(values, index, shape):
    """Values [*index.shape, ...] added into the rows of zeros of this shape, always in the same order."""
    slots, *rest = shape
    index = backend.asarray(index, np.int64)
    low, high = (index.min().item(), index.max().item()) if index.size else (0, -1)
    if low < -slots or high >= slots:
        raise IndexError(f"index {low if low < -slots else high} is out of bounds for axis 0 with size {slots}")
    if low < 0:
        index = np.where(index < 0, index + slots, index)
    values = np.broadcast_to(values, (*index.shape, *rest))
    rows = values.reshape(index.size, math.prod(rest))
    return backend.kernel("scatter_add", values).scatter_add(index.reshape(-1), rows, slots).reshape(shape)


@op
def _getitem(x, *, index):
    """x[index]; every index within its axis."""
    return x[index]


@op
def _scatter_add(values, *, index, shape):
    """Zeros of this shape with values added at an index; repeated places add up."""
    if values.dtype.kind == "f" and _rows(index, shape):
        return _add_rows(values, index[0], shape)
    out = np.zeros_like(values, shape=shape)
    if _repeats(index):
        backend.add_at(out, index, values)
    else:
        out[index] = values
    return out


_getitem.vjp(x=lambda g, shapes, index: _scatter_add(g, index=index, shape=shapes["x"]))
_scatter_add.vjp(values=lambda g, index: _getitem(g, index=index))


def _plain(index: Any) -> tuple:
    """An index as a tuple of slices, numbers and arrays."""
    return tuple(map(_part, index if isinstance(index, tuple) else (index,)))


def _part(i: Any) -> Any:
    if isinstance(i, Tensor):
        return i.data
    if isinstance(i, list):
        return backend.asarray(i, None if np.size(i) else np.intp)  # [] alone would be float64
    return i.item() if isinstance(i, np.integer) else i


def getitem(x: Tensor, index: Any) -> Tensor:
    """x[index]: slices, integers, None, ..., integer or boolean arrays and tensors. IndexError where out of range."""
    return _getitem(x, index=_plain(index))


def scatter_add(values: Tensor, index: Any, shape: tuple[int, ...]) -> Tensor:
    """Zeros of this shape with values added at an index; what lands on one place adds up. The adjoint of x[index]."""
    return _scatter_add(values, index=_plain(index), shape=tuple(shape))


def take_along_axis(x: Tensor, indices: Any, axis: int) -> Tensor:
    """For each place, the element of x at that place but indices[place] along the axis.

    indices has x's number of axes, and x's sizes (or 1) along the others.
    """
    indices = backend.asarray(_part(indices))
    axis = normalize_axis_index(axis, x.ndim, "take_along_axis")
    others = [i for i in range(x.ndim) if i != axis]
    if indices.ndim != x.ndim or any(indices.shape[i] not in (1, x.shape[i]) for i in others):
        raise ValueError(
            f"take_along_axis: indices {list(indices.shape)} must have the {x.ndim} axes of x {list(x.shape)}, "
            f"and along all but axis {axis} its sizes or 1"
        )
    grid = [np.arange(n).reshape((-1,) + (1,) * (x.ndim - 1 - i)) for i, n in enumerate(x.shape)]
    return _getitem(x, index=tuple(indices if i == axis else backend.asarray(g) for i, g in enumerate(grid)))


def one_hot(indices: Any, classes: int, dtype: Any = np.float32) -> Tensor:
    """indices[...] as [..., classes]: 1 at the index, 0 elsewhere. IndexError for an index outside 0..classes-1."""
    indices = backend.asarray(_part(indices))
    if indices.dtype.kind not in "iu":
        raise TypeError(f"one_hot: indices must be integers, got {indices.dtype}")
    if indices.size and (indices.min() < 0 or indices.max() >= classes):
        raise IndexError(
            f"one_hot: indices run from {indices.min()} to {indices.max()}, classes from 0 to {classes - 1}"
        )
    return tensor((indices[..., None] == backend.asarray(np.arange(classes))).astype(dtype))


def sort(x: Tensor, axis: int = -1) -> Tensor:
    """The elements along an axis in rising order."""
    return take_along_axis(x, np.argsort(x.data, axis=axis, kind="stable"), axis)


def top_k(x: Tensor, k: int, axis: int = -1) -> tuple[Tensor, Tensor]:
    """The k largest along an axis in falling order, and their indices (of equal ones, the first first)."""
    axis = normalize_axis_index(axis, x.ndim, "top_k")
    if not 1 <= k <= x.shape[axis]:
        raise ValueError(f"top_k: k={k} is not within 1..{x.shape[axis]}, the length of axis {axis} of {list(x.shape)}")
    order = np.argsort(-x.data, axis=axis, kind="stable")
    indices = order[(slice(None),) * axis + (slice(k),)]
    return take_along_axis(x, indices, axis), tensor(indices)
