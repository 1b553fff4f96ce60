"""Layers that are matrix products over the last axis."""

from __future__ import annotations

import math

import numpy as np

from micrognm.engine import Tensor, stop_gradient
from micrognm.nn.init import Initialiser, fan_in_uniform
from micrognm.nn.module import Module, Parameter
from micrognm.ops import affine, matmul, reshape


class Linear(Module):
    """x [..., n_in] -> x @ weight [n_in, n_out] + bias [n_out].

    The weight starts uniform within 1 / sqrt(n_in) (PyTorch's default) unless init is given, the bias at 0.
    """

    bias: Parameter | None

    def __init__(
        self, n_in: int, n_out: int, rng: np.random.Generator, bias: bool = True, init: Initialiser | None = None
    ) -> None:
        if n_in < 1 or n_out < 1:
            raise ValueError(f"{type(self).__name__}: n_in and n_out must be 1 or more, got {n_in} and {n_out}")
        self.weight = Parameter((init or fan_in_uniform())(rng, (n_in, n_out)))
        self.bias = Parameter(np.zeros(n_out, np.float32)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return self.apply(x, self.effective_weight(), self.bias)

    def effective_weight(self) -> Tensor:
        """The weight that meets the input."""
        return self.weight

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's map with another weight and bias. ValueError where x's last axis is not n_in."""
        n_in, n_out = weight.shape
        if x.ndim == 0 or x.shape[-1] != n_in:
            raise ValueError(f"{self._name}: expected x [..., {n_in}], got {x.dtype}{list(x.shape)}")
        rows = x if x.ndim == 2 else reshape(x, shape=(math.prod(x.shape[:-1]), n_in))
        out = matmul(rows, weight) if bias is None else affine(rows, weight, bias)
        return out if x.ndim == 2 else reshape(out, shape=(*x.shape[:-1], n_out))

    @property
    def _name(self) -> str:
        return f"{type(self).__name__}{self.weight.shape}"


class MaskedLinear(Linear):
    """Linear with weight * mask for a mask [n_in, n_out] of 0 and 1, at first all 1.

    Masked weights have no influence and gradient exactly 0. The mask is a buffer and can be exchanged at any time:
    `layer.mask = Tensor(...)`, of the weight's dtype; it is not copied.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        rng: np.random.Generator,
        mask: Tensor | None = None,
        bias: bool = True,
        init: Initialiser | None = None,
    ) -> None:
        super().__init__(n_in, n_out, rng, bias, init)
        self.mask = Tensor(np.ones((n_in, n_out), np.float32)) if mask is None else mask

    @property
    def mask(self) -> Tensor:
        """Which inputs (rows) reach which outputs (columns)."""
        return vars(self)["mask"]

    @mask.setter
    def mask(self, mask: Tensor) -> None:
        if not isinstance(mask, Tensor):
            raise TypeError(f"{self._name}.mask: expected a Tensor, got {type(mask).__name__}")
        if mask.shape != self.weight.shape or mask.dtype != self.weight.dtype:
            expected = f"{self.weight.dtype}{list(self.weight.shape)}"
            raise ValueError(f"{self._name}.mask: expected {expected}, got {mask.dtype}{list(mask.shape)}")
        if not ((mask.data == 0) | (mask.data == 1)).all():
            raise ValueError(f"{self._name}.mask: expected 0 and 1 alone, got other values")
        vars(self)["mask"] = stop_gradient(mask)  # a tensor of its own, so that `load` never changes the giver's

    def effective_weight(self) -> Tensor:
        return self.weight * self.mask
