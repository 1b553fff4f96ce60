"""Softmax attention with the whole matrix of scores: the mathematics, for any floating dtype.

q [N, L, H, D], k [N, M, H, D], v [N, M, H, E], N images and H heads. Row i reads column j where j < i + reach and, if
keys [N, M] is given, keys[n, j]: reach = M masks nothing, 1 is causal, 0 strictly causal. A row that reads nothing
gives zeros, and 0 as its logarithm.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any


def _weights(q: Array, k: Array, keys: Array | None, scale: float, reach: int) -> tuple[Array, Array]:
    """softmax of the scores [N, H, L, M], and the logarithm of its denominator [N, H, L]."""
    s = scale * np.einsum("nlhd,nmhd->nhlm", q, k)
    read = np.tril(np.ones_like(s), reach - 1) > 0
    if keys is not None:
        read = read & keys[:, None, None, :]
    s = np.where(read, s, -np.inf)
    if s.size == 0:  # no column: nothing to take the maximum of
        return s, np.zeros_like(s, shape=s.shape[:-1])
    top = np.max(s, axis=-1, keepdims=True)
    top = np.where(np.isneginf(top), 0.0, top)
    e = np.exp(s - top)
    total = np.sum(e, axis=-1, keepdims=True)
    total = np.where(total == 0, 1.0, total)
    return e / total, np.squeeze(top + np.log(total), axis=-1)


def forward(q: Array, k: Array, v: Array, keys: Array | None, scale: float, reach: int) -> tuple[Array, Array]:
    """softmax(scale q k^T) v [N, L, H, E], and the logsumexp of each row of scores [N, L, H]."""
    p, lse = _weights(q, k, keys, scale, reach)
    return np.einsum("nhlm,nmhe->nlhe", p, v), np.transpose(lse, (0, 2, 1))


def backward(
    g: Array, q: Array, k: Array, v: Array, out: Array, lse: Array, keys: Array | None, scale: float, reach: int
) -> tuple[Array, Array, Array]:
    """The gradients of q, k and v, given that of out; out and lse are what forward gave, and are not needed here."""
    p, _ = _weights(q, k, keys, scale, reach)
    dp = np.einsum("nlhe,nmhe->nhlm", g, v)
    ds = scale * p * (dp - np.sum(p * dp, axis=-1, keepdims=True))
    dq = np.einsum("nhlm,nmhd->nlhd", ds, k)
    dk = np.einsum("nhlm,nlhd->nmhd", ds, q)
    return dq, dk, np.einsum("nhlm,nlhe->nmhe", p, g)
