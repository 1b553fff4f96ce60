"""Dropout."""

from __future__ import annotations

import numpy as np

from micrognm import backend
from micrognm.engine import Tensor
from micrognm.nn.module import Module
from micrognm.ops.dropout import dropout


class Dropout(Module):
    """In training, each element is 0 with probability `rate`, else divided by 1 - rate; in evaluation nothing changes.

    Srivastava et al. 2014, in the form that keeps the mean. rng is kept: its state belongs to a checkpoint.
    """

    def __init__(self, rate: float, rng: np.random.Generator) -> None:
        if not 0 <= rate < 1:
            raise ValueError(f"Dropout: rate must lie in [0, 1), got {rate}")
        self.rate = rate
        self.rng = rng

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        return dropout(x, rate=self.rate, key=backend.key(self.rng))
