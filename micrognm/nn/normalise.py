"""Normalisation layers. x is [N, ..., C], channels last; each may end in an activation, which then costs nothing.

activation: "none", "relu", "leaky_relu" (with slope) or "swish", as in `ops.normalise`. A call may give scale and shift
[N, C] of each sample in place of the layer's own: conditional batch norm, AdaIN.
Made with affine=False, a layer has none.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from micrognm.engine import Tensor, no_grad
from micrognm.nn.module import Module, Parameter
from micrognm.ops import mean, rsqrt
from micrognm.ops.normalise import normalise, scale_shift


class Normalisation(Module):
    """What the layers share: scale, shift, eps and the activation."""

    kind = ""
    scale: Parameter | None
    shift: Parameter | None

    def __init__(
        self, channels: int, eps: float = 1e-5, activation: str = "none", slope: float = 0.2, affine: bool = True
    ) -> None:
        if channels < 1:
            raise ValueError(f"{type(self).__name__}: channels must be 1 or more, got {channels}")
        self.channels, self.eps, self.activation, self.slope = channels, eps, activation, slope
        self.scale = Parameter(np.ones(channels, np.float32)) if affine else None
        self.shift = Parameter(np.zeros(channels, np.float32)) if affine else None

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        return self._normalise(x, *self._parameters(x, scale, shift))[0]

    def _normalise(self, x: Tensor, scale: Tensor, shift: Tensor, **options: Any) -> Any:
        return normalise(
            x, scale, shift, kind=self.kind, eps=self.eps, activation=self.activation, slope=self.slope, **options
        )

    def _parameters(self, x: Tensor, scale: Tensor | None, shift: Tensor | None) -> tuple[Tensor, Tensor]:
        name = f"{type(self).__name__}({self.channels})"
        if x.ndim < 2 or x.shape[-1] != self.channels:
            raise ValueError(f"{name}: expected x [N, ..., {self.channels}], got {x.dtype}{list(x.shape)}")
        if (scale is None) != (shift is None):
            raise ValueError(f"{name}: give both scale and shift, or neither")
        if scale is not None and shift is not None:
            return scale, shift
        if self.scale is not None and self.shift is not None:
            return self.scale, self.shift
        return Tensor(np.ones(self.channels, x.dtype)), Tensor(np.zeros(self.channels, x.dtype))


class BatchNorm(Normalisation):
    """Each channel has mean 0 and variance 1 over the batch (Ioffe and Szegedy 2015).

    In training, running_mean and running_var move to the batch's by `momentum` of the way (PyTorch's sense: new =
    (1 - momentum) old + momentum batch; the variance by n - 1); in evaluation they stand in for the batch's.
    """

    kind = "batch"

    def __init__(
        self, channels: int, momentum: float = 0.1, eps: float = 1e-5, activation: str = "none", slope: float = 0.2,
        affine: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(channels, eps, activation, slope, affine)
        self.momentum = _momentum(self, momentum)
        self.running_mean = Tensor(np.zeros(channels, np.float32))
        self.running_var = Tensor(np.ones(channels, np.float32))

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        scale, shift = self._parameters(x, scale, shift)
        if not self.training:
            factor = scale * rsqrt(self.running_var + self.eps)
            return scale_shift(
                x, factor, shift - self.running_mean * factor, activation=self.activation, slope=self.slope
            )
        count = math.prod(x.shape[:-1])
        if count < 2:
            raise ValueError(f"BatchNorm({self.channels}): a variance needs 2 elements a channel, x is {list(x.shape)}")
        y, centre, var = self._normalise(x, scale, shift)
        with no_grad():
            self.running_mean[...] = _moved(self.running_mean, centre, self.momentum)
            self.running_var[...] = _moved(self.running_var, var * (count / (count - 1)), self.momentum)
        return y


class LayerNorm(Normalisation):
    """The channels at each position have mean 0 and variance 1 (Ba et al. 2016)."""

    kind = "layer"


class InstanceNorm(Normalisation):
    """Each channel of each sample has mean 0 and variance 1 (Ulyanov et al. 2016)."""

    kind = "instance"


class GroupNorm(Normalisation):
    """Each of `groups` equal groups of channels has mean 0 and variance 1 in each sample (Wu and He 2018)."""

    kind = "group"

    def __init__(
        self, groups: int, channels: int, eps: float = 1e-5, activation: str = "none", slope: float = 0.2,
        affine: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(channels, eps, activation, slope, affine)
        if groups < 1 or channels % groups:
            raise ValueError(f"GroupNorm: groups must divide channels, got {groups} and {channels}")
        self.groups = groups

    def _normalise(self, x: Tensor, scale: Tensor, shift: Tensor, **options: Any) -> Any:
        return super()._normalise(x, scale, shift, groups=self.groups)


class MeanOnlyBatchNorm(Module):
    """x less each channel's mean over the batch, plus shift: batch norm beside weight norm (Salimans and Kingma 2016).

    In training running_mean moves to the batch's mean by `momentum` of the way; in evaluation it stands in for it.
    """

    def __init__(self, channels: int, momentum: float = 0.1) -> None:
        if channels < 1:
            raise ValueError(f"MeanOnlyBatchNorm: channels must be 1 or more, got {channels}")
        self.momentum = _momentum(self, momentum)
        self.shift = Parameter(np.zeros(channels, np.float32))
        self.running_mean = Tensor(np.zeros(channels, np.float32))

    def forward(self, x: Tensor) -> Tensor:
        channels = self.shift.size
        if x.ndim < 2 or x.shape[-1] != channels:
            raise ValueError(
                f"MeanOnlyBatchNorm({channels}): expected x [N, ..., {channels}], got {x.dtype}{list(x.shape)}"
            )
        if not self.training:
            return x + (self.shift - self.running_mean)
        centre = mean(x, axis=tuple(range(x.ndim - 1)))
        with no_grad():
            self.running_mean[...] = _moved(self.running_mean, centre, self.momentum)
        return x + (self.shift - centre)


def _momentum(layer: Module, momentum: float) -> float:
    if not 0 <= momentum <= 1:
        raise ValueError(
            f"{type(layer).__name__}: momentum is the part of the way to the batch's, in [0, 1], got {momentum}"
        )
    return momentum


def _moved(running: Tensor, batch: Tensor, momentum: float) -> Tensor:
    return running + momentum * (batch - running)
