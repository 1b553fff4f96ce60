"""Embedding."""

from __future__ import annotations

from typing import Any

import numpy as np

from micrognm import backend
from micrognm.engine import Tensor
from micrognm.nn.init import Initialiser, normal
from micrognm.nn.module import Module, Parameter


class Embedding(Module):
    """Row `index` of weight [n, d], for integers [...] -> [..., d]. Rows start standard normal unless init is given."""

    def __init__(self, n: int, d: int, rng: np.random.Generator, init: Initialiser | None = None) -> None:
        if n < 1 or d < 1:
            raise ValueError(f"Embedding: n and d must be 1 or more, got {n} and {d}")
        self.weight = Parameter((init or normal(1.0))(rng, (n, d)))

    def forward(self, index: Any) -> Tensor:
        """TypeError where index holds no integers, IndexError where one is outside 0..n-1."""
        n, d = self.weight.shape
        index = backend.asarray(index.data if isinstance(index, Tensor) else index)
        if index.dtype.kind not in "iu":
            raise TypeError(f"Embedding({n}, {d}): expected integers, got {index.dtype}{list(index.shape)}")
        if index.size and not 0 <= index.min() <= index.max() < n:
            wrong = index.min() if index.min() < 0 else index.max()
            raise IndexError(f"Embedding({n}, {d}): index {wrong} is outside 0..{n - 1}, the {n} rows of the weight")
        return self.weight[index]
