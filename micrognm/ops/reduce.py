"""Reductions over axes, and the softmax family. axis is None (all), a number or a tuple."""

from __future__ import annotations

import math

import numpy as np

from micrognm.engine import Tensor
from micrognm.kernels.columns import column_sums
from micrognm.operation import op
from micrognm.ops.arithmetic import cast, exp, sqrt, where
from micrognm.ops.shape import broadcast_to, flip, reshape


def _axes(axis, ndim):
    """The reduced axes, as a set of numbers from 0."""
    if axis is None:
        return set(range(ndim))
    given = axis if isinstance(axis, tuple) else (axis,)
    return {a % ndim if -ndim <= a < ndim else a for a in given}  # NumPy says what is wrong with the others


def _kept(x, shape, axis):
    """A reduced tensor with the reduced axes of `shape` put back as 1."""
    axes = _axes(axis, len(shape))
    return reshape(x, shape=tuple(1 if i in axes else n for i, n in enumerate(shape)))


def _spread(g, shape, axis):
    """A reduced tensor repeated over what it was reduced from."""
    return broadcast_to(_kept(g, shape, axis), shape=shape)


def _count(shape, axis):
    return int(np.prod([shape[i] for i in _axes(axis, len(shape)) if 0 <= i < len(shape)], dtype=np.int64))


@op
def sum(x, *, axis=None, keepdims=False):
    """The sum over axes."""
    axes = _axes(axis, x.ndim)
    twice = isinstance(axis, tuple) and len(axis) > len(axes)  # NumPy says so
    if axes == set(range(len(axes))) and not twice and x.size and x.flags.c_contiguous:
        sums = column_sums(x.reshape(-1, math.prod(x.shape[len(axes) :])))
        return np.reshape(sums, ((1,) * len(axes) if keepdims else ()) + x.shape[len(axes) :])
    return np.sum(x, axis=axis, keepdims=keepdims)


@op
def mean(x, *, axis=None, keepdims=False):
    """The mean over axes, none of them empty."""
    if _count(x.shape, axis) == 0:
        raise ValueError("the mean of no elements")
    return np.mean(x, axis=axis, keepdims=keepdims)


@op
def max(x, *, axis=None, keepdims=False):
    """The largest over axes, none of them empty. Equal largest values share the gradient."""
    return np.max(x, axis=axis, keepdims=keepdims)


@op
def min(x, *, axis=None, keepdims=False):
    """The smallest over axes, none of them empty. Equal smallest values share the gradient."""
    return np.min(x, axis=axis, keepdims=keepdims)


@op
def argmax(x, *, axis=None):
    """Index of the first largest element along an axis, or in the flattened x; no gradient."""
    return np.argmax(x, axis=axis)


@op
def argmin(x, *, axis=None):
    """Index of the first smallest element along an axis, or in the flattened x; no gradient."""
    return np.argmin(x, axis=axis)


@op
def cumsum(x, *, axis):
    """Running sums along an axis."""
    return np.cumsum(x, axis=axis)


def _share(g, x, out, axis):
    """g given to the elements that attain the extreme, in equal parts."""
    hit = cast(x == _kept(out, x.shape, axis), dtype=g.dtype)
    return _spread(g, x.shape, axis) * (hit / sum(hit, axis=axis, keepdims=True))


sum.vjp(x=lambda g, shapes, axis: _spread(g, shapes["x"], axis))
mean.vjp(x=lambda g, shapes, axis: _spread(g / _count(shapes["x"], axis), shapes["x"], axis))
max.vjp(x=_share)
min.vjp(x=_share)
argmax.vjp(x=None)
argmin.vjp(x=None)
cumsum.vjp(x=lambda g, axis: flip(cumsum(flip(g, axis=axis), axis=axis), axis=axis))


def var(x: Tensor, axis=None, keepdims: bool = False, ddof: int = 0) -> Tensor:
    """The variance over axes, divided by the number of elements less ddof."""
    n = _count(x.shape, axis)
    if n <= ddof:
        raise ValueError(f"var: {n} elements along axis {axis} of {list(x.shape)}, ddof={ddof} needs more")
    centred = x - mean(x, axis=axis, keepdims=True)
    return sum(centred * centred, axis=axis, keepdims=keepdims) / (n - ddof)


def norm(x: Tensor, axis=None, keepdims: bool = False) -> Tensor:
    """The Euclidean length over axes; its gradient at 0 is 0."""
    square = sum(x * x, axis=axis, keepdims=keepdims)
    zero = square == 0
    return where(zero, 0.0, sqrt(where(zero, 1.0, square)))


def _shift(x, axis):
    """The largest element, to subtract before exp; 0 where it is not finite."""
    m = np.max(x, axis=axis, keepdims=True)
    return np.where(np.isfinite(m), m, 0)


@op
def logsumexp(x, *, axis, keepdims=False):
    """log of the sum of e^x along an axis, none empty, without overflow; -inf where all x are."""
    m = _shift(x, axis)
    s = np.sum(np.exp(x - m), axis=axis, keepdims=True)
    with np.errstate(divide="ignore"):
        out = np.log(s) + m
    return out if keepdims else np.squeeze(out, axis)


@op
def softmax(x, *, axis=-1):
    """e^x over its sum along an axis. A row of nothing but -inf gives NaN."""
    e = np.exp(x - _shift(x, axis))
    return e / np.sum(e, axis=axis, keepdims=True)


@op
def log_softmax(x, *, axis=-1):
    """x less its logsumexp along an axis."""
    x = x - _shift(x, axis)
    return x - np.log(np.sum(np.exp(x), axis=axis, keepdims=True))


def _logsumexp_rule(g, x, out, axis):
    """g softmax(x); 0 where all x are -inf."""
    out = where(out == -math.inf, 0.0, out)
    return _spread(g, x.shape, axis) * exp(x - _kept(out, x.shape, axis))


logsumexp.vjp(x=_logsumexp_rule)
softmax.vjp(x=lambda g, out, axis: out * (g - sum(g * out, axis=axis, keepdims=True)))
log_softmax.vjp(x=lambda g, out, axis: g - exp(out) * sum(g, axis=axis, keepdims=True))
