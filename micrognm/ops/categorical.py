"""Log-probability of integers under logits: softmax cross-entropy, but for its sign."""

from __future__ import annotations

from typing import Any

from micrognm import backend
from micrognm.engine import Tensor
from micrognm.operation import op
from micrognm.ops.index import take_along_axis
from micrognm.ops.reduce import log_softmax
from micrognm.ops.shape import reshape


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
    return _categorical_log_prob(logits, index=index)


@op(keeps=("largest", "total"))
def _categorical_log_prob(logits, *, index):
    """log softmax(logits)[index], for logits [..., K] and index [...]."""
    kernel = backend.kernel("losses", logits)
    out, largest, total = kernel.categorical(logits.reshape(index.size, logits.shape[-1]), index.reshape(-1))
    return out.reshape(index.shape), largest, total


def _rule(g, needs, logits, index, largest, total):
    rows = logits.reshape(index.size, logits.shape[-1])
    kernel = backend.kernel("losses", logits)
    return [kernel.categorical_grad(g.reshape(-1), rows, index.reshape(-1), largest, total).reshape(logits.shape)]


def _composed(logits, index):
    return reshape(take_along_axis(log_softmax(logits), index[..., None], -1), index.shape)


_categorical_log_prob.vjp_at_once(_rule, _composed)
