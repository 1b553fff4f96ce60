"""Log-likelihoods under logits. An exponential is most of their cost: the value and its gradient share one."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from micrognm import backend
from micrognm.engine import Tensor
from micrognm.operation import op
from micrognm.ops.activation import sigmoid
from micrognm.ops.reduce import softmax, sum
from micrognm.ops.shape import reshape

# ---- Bernoulli -------------------------------------------------------------------------------------------------------


def bernoulli_log_prob(x: Tensor, logits: Tensor) -> Tensor:
    """x log p + (1 - x) log(1 - p) where p = sigmoid(logits), elementwise and without overflow; shapes broadcast."""
    z = logits.data
    return _bernoulli_log_prob(x, logits, e=np.exp(-np.abs(z)), up=(z >= 0).astype(z.dtype))


@op
def _bernoulli_log_prob(x, logits, *, e, up):
    """x logits - softplus(logits), given e = e^-|logits| and up = (logits >= 0); shapes broadcast."""
    return (x - up) * logits - np.log(1 + e)


@op
def _bernoulli_slope(g, x, logits, *, e, up):
    """g (x - sigmoid(logits)); shapes broadcast."""
    return g * (x - np.maximum(e, up) / (1 + e))


def _bernoulli_curve(u, g, logits):
    p = sigmoid(logits)
    return -(u * g) * (p * (1 - p))


_bernoulli_log_prob.vjp(
    x=lambda g, logits: g * logits,
    logits=lambda g, x, logits, e, up: _bernoulli_slope(g, x, logits, e=e, up=up),
)
_bernoulli_slope.vjp(
    g=lambda u, x, logits, e, up: _bernoulli_slope(u, x, logits, e=e, up=up),
    x=lambda u, g: u * g,
    logits=_bernoulli_curve,
)

# ---- categorical -----------------------------------------------------------------------------------------------------


def categorical_log_prob(logits: Tensor, index: Any) -> Tensor:
    """log softmax(logits)[index]: logits [..., K] and integers index [...] of 0..K-1 -> [...]. No overflow.

    Raises TypeError where index holds no integers, IndexError where one is out of range.
    """
    index = backend.asarray(index.data if isinstance(index, Tensor) else index)
    x = logits.data
    if index.dtype.kind not in "iu":
        raise TypeError(f"categorical_log_prob: index must hold integers, got {index.dtype}")
    if x.ndim == 0 or index.shape != x.shape[:-1]:
        raise ValueError(
            f"categorical_log_prob: index {list(index.shape)} must have the shape of logits {list(x.shape)} "
            "without its last axis"
        )
    classes = x.shape[-1]
    if index.size and not 0 <= index.min() <= index.max() < classes:
        found = f"{index.min()} to {index.max()}"
        raise IndexError(
            f"categorical_log_prob: index runs from {found}, the classes of logits from 0 to {classes - 1}"
        )
    rows = x.reshape(index.size, classes)
    shifted = rows - _largest(rows)[:, None]
    e = np.exp(shifted)
    at = (backend.asarray(np.arange(index.size)), index.reshape(-1))
    return _categorical_log_prob(logits, shifted=shifted, e=e, total=e @ np.ones_like(x, shape=classes), at=at)


def _largest(rows):
    """The largest of each row. NumPy's max pays 40 ns a row, so few columns are faster one by one."""
    return functools.reduce(np.maximum, rows.T) if 1 <= rows.shape[1] <= 32 else np.max(rows, axis=1)


@op
def _categorical_log_prob(logits, *, shifted, e, total, at):
    """shifted[at] - log(total): shifted is logits less their row's largest, total the row's sum of e^shifted."""
    return (shifted[at] - np.log(total)).reshape(logits.shape[:-1])


@op
def _categorical_slope(g, logits, *, e, total, at):
    """g (onehot - softmax(logits)), for softmax(logits) = e / total."""
    g = g.reshape(-1)
    out = e * (-g / total)[:, None]
    out[at] += g
    return out.reshape(logits.shape)


def _categorical_slope_g(u, g, logits, at):
    rows = reshape(u, shape=(g.size, u.shape[-1]))
    return reshape(rows[at], shape=g.shape) - sum(u * softmax(logits), axis=-1)


def _categorical_curve(u, g, logits):
    p = softmax(logits)
    w = u * reshape(g, shape=(*g.shape, 1))
    return p * (sum(w * p, axis=-1, keepdims=True) - w)


_categorical_log_prob.vjp(logits=lambda g, logits, e, total, at: _categorical_slope(g, logits, e=e, total=total, at=at))
_categorical_slope.vjp(g=_categorical_slope_g, logits=_categorical_curve)
