"""Layers one after another."""

from __future__ import annotations

from collections.abc import Callable

from micrognm.engine import Tensor
from micrognm.nn.module import Module


class Sequential(Module):
    """Each layer on the result of the one before: modules, and plain functions of a tensor such as relu.

    Parameters are found in modules only, not in what a function closes over.
    """

    def __init__(self, *layers: Callable[[Tensor], Tensor]) -> None:
        for i, layer in enumerate(layers):
            if not callable(layer):
                found = type(layer).__name__
                raise TypeError(f"Sequential: layer {i} is {found}; expected a Module or a function of a tensor")
        self.layers = list(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x
