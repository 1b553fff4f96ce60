"""Weight normalisation with data-dependent initialisation."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from micrognm import incremental
from micrognm.engine import Tensor, no_grad
from micrognm.nn.module import Module, Parameter
from micrognm.ops import cast, mean, norm, rsqrt, var, where
from micrognm.reversible import is_frozen


class WeightedLayer(Protocol):
    """What weight normalisation needs of a layer; units are the last axis of its weight, its bias and its output."""

    bias: Parameter | None

    def effective_weight(self) -> Tensor:
        """The weight that meets the input (masked, if the layer has a mask): [..., n_out]."""

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's map with another weight and bias."""


class WeightNorm(Module):
    """A layer whose unit k has the weight gain_k v_k / ||v_k||, where v is the layer's own weight.

    Salimans and Kingma 2016. The first batch seen in training sets gain and bias so that each unit's output has mean 0
    and standard deviation init_scale over it (their section 3); that this was done is part of the state. A unit that is
    constant over that batch is treated as of variance 1. Until then the layer computes what it did unwrapped.
    """

    def __init__(self, layer: WeightedLayer, init_scale: float = 1.0) -> None:
        if layer.bias is None:
            raise ValueError(f"WeightNorm: {type(layer).__name__} has no bias for the initialisation; give bias=True")
        if getattr(layer, "activation", None) is not None:
            raise ValueError(
                f"WeightNorm: {type(layer).__name__} has an activation, which its initialisation must not see; "
                "apply it to what WeightNorm returns"
            )
        self.layer = layer
        self.init_scale = init_scale
        with no_grad():
            self.gain = Parameter(_lengths(layer.effective_weight()).data)
        self.initialised = Tensor(np.array(False))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not is_frozen() and not self.initialised:
            self._initialise(x)
        weight = incremental.once(self, "weight", self.effective_weight)
        return self.layer.apply(x, weight, self.layer.bias)

    def effective_weight(self) -> Tensor:
        """gain v / ||v||; 0 for a unit whose v is 0, as under a mask that leaves it no input."""
        v = self.layer.effective_weight()
        length = _lengths(v)
        return v * (self.gain / where(length == 0, 1.0, length))

    @no_grad()
    def _initialise(self, x: Tensor) -> None:
        bias = self.layer.bias
        assert bias is not None
        out = cast(self.layer.apply(x, self.effective_weight(), None), "float64")
        if out.size <= bias.size:
            raise ValueError(
                f"WeightNorm: a variance needs more than one output a unit, the first batch is {list(x.shape)}"
            )
        axes = tuple(range(out.ndim - 1))
        centre, spread = mean(out, axis=axes), var(out, axis=axes)
        # Rounding in float32 leaves a constant unit a variance of about (1e-7 mean)^2.
        constant = spread <= (1e-6 * centre) * (1e-6 * centre)
        scale = self.init_scale * rsqrt(where(constant, 1.0, spread))
        self.gain.data[...] *= scale.data
        bias.data[...] = (-centre * scale).data
        self.initialised[...] = True


def _lengths(v: Tensor) -> Tensor:
    """||v_k|| of each unit k, the last axis: [..., n_out] -> [n_out]."""
    return norm(v, axis=tuple(range(v.ndim - 1)))
