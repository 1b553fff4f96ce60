"""Attention: each position reads a weighted mean of values, weighted by how well its query fits their keys."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from micrognm import backend
from micrognm.engine import Tensor
from micrognm.operation import op
from micrognm.ops.arithmetic import where
from micrognm.ops.linalg import matmul
from micrognm.ops.reduce import softmax
from micrognm.ops.shape import transpose

MASKS = ("none", "causal", "strictly causal")
UNREAD = -1e30  # a score whose exponential is 0 in every dtype, and finite, so that a row of them has no NaN


@op(keeps=("lse",))
def attention(q, k, v, *, mask="none", keys=None, scale=None):
    """softmax(scale q k^T) v: q [N, L, heads, D], k [N, M, heads, D], v [N, M, heads, E] -> [N, L, heads, E].

    mask: which columns j row i reads: "none" all, "causal" j <= i, "strictly causal" j < i; both counted from the
    first, also where L and M differ. keys: booleans [N, M], True where a key may be read. scale: 1 / sqrt(D) if None.
    A row that reads nothing, as the first under "strictly causal", gives zeros. Memory grows with L + M, not with L M.
    Raises ValueError where shapes do not fit or mask is unknown, TypeError where keys are not booleans.
    """
    _check(q, k, v, mask)
    return backend.kernel("attention", q).forward(q, k, v, *_reading(q, k, mask, keys, scale))


def _check(q: Any, k: Any, v: Any, mask: Any) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not backend.is_array(x) or x.dtype.kind != "f":
            kind = x.dtype if backend.is_array(x) else type(x).__name__
            raise TypeError(f"{name} must hold floating-point numbers, got {kind}; cast it: x.cast(dtype='float32')")
        if x.ndim != 4:
            raise ValueError(f"{name} must have 4 axes, has {x.ndim}; one head is a fourth axis of length 1")
    for axis, what in ((0, "images"), (2, "heads")):
        found = [x.shape[axis] for x in (q, k, v)]
        if len(set(found)) > 1:
            raise ValueError(f"q, k and v must have equally many {what} (axis {axis}), have {found}")
    if q.shape[3] != k.shape[3]:
        raise ValueError(f"q and k must have equal widths D (axis 3), have {q.shape[3]} and {k.shape[3]}")
    if k.shape[1] != v.shape[1]:
        raise ValueError(f"k and v must have equal lengths M (axis 1), have {k.shape[1]} and {v.shape[1]}")
    if mask not in MASKS:
        raise ValueError(f"mask {mask!r} is unknown; known ones: {', '.join(map(repr, MASKS))}")


def _reading(q: Any, k: Any, mask: str, keys: Any, scale: float | None) -> tuple[Any, float, int]:
    """The options as the kernel takes them: keys as an array, scale as a number, reach: row i reads j < i + reach."""
    if keys is not None:
        keys = backend.asarray(keys.data if isinstance(keys, Tensor) else keys)
        if keys.dtype != np.bool_:
            raise TypeError(f"keys must hold booleans, True where a key may be read, got {keys.dtype}; write keys > 0")
        if keys.shape != k.shape[:2]:
            raise ValueError(f"keys must be [N, M] = {list(k.shape[:2])}, is {list(keys.shape)}")
    if scale is None:
        scale = 1 / math.sqrt(max(q.shape[3], 1))
    return keys, float(scale), {"none": k.shape[1], "causal": 1, "strictly causal": 0}[mask]


def _gradients(g, needs, q, k, v, out, lse, mask, keys, scale):
    return backend.kernel("attention", q).backward(g, q, k, v, out, lse, *_reading(q, k, mask, keys, scale))


def _composed(q, k, v, *, mask, keys, scale):
    """The same in operations that hold the whole matrix of scores."""
    keys, scale, reach = _reading(q, k, mask, keys, scale)
    q, k, v = (transpose(x, axes=(0, 2, 1, 3)) for x in (q, k, v))
    s = matmul(q, transpose(k, axes=(0, 1, 3, 2))) * scale
    read = np.tril(np.ones_like(s.data), reach - 1)
    if keys is not None:
        read = read * keys[:, None, None, :]
    p = softmax(where(read > 0, s, UNREAD)) * read if s.shape[-1] else s
    return transpose(matmul(p, v), axes=(0, 2, 1, 3))


attention.vjp_at_once(_gradients, _composed)
