"""Convolutions by taps, in one, two or three dimensions: the taps say which."""

from __future__ import annotations

import numpy as np

from micrognm import incremental
from micrognm.engine import Tensor
from micrognm.nn.init import Initialiser, fan_in_uniform
from micrognm.nn.module import Module, Parameter
from micrognm.ops import mul, swap
from micrognm.ops.conv import Activation, conv, conv_transpose, formula_of
from micrognm.taps import Taps


class _Convolution(Module):
    """What convolutions and their adjoints share."""

    bias: Parameter | None

    def __init__(
        self,
        n_in: int,
        n_out: int,
        taps: Taps,
        rng: np.random.Generator,
        *,
        stride: int | tuple[int, ...] = 1,
        shape: tuple[int, ...] | None = None,
        groups: int = 1,
        bias: bool = True,
        init: Initialiser | None = None,
        activation: Activation | None = None,
    ) -> None:
        layer = type(self).__name__
        if n_in < 1 or n_out < 1:
            raise ValueError(f"{layer}: n_in and n_out must be 1 or more, got {n_in} and {n_out}")
        if groups < 1 or n_in % groups or n_out % groups:
            raise ValueError(f"{layer}: groups={groups} must divide n_in and n_out, which are {n_in} and {n_out}")
        if not isinstance(taps, Taps):
            raise TypeError(
                f"{layer}: taps is {type(taps).__name__}; expected Taps, as micrognm.taps.square(3) makes them"
            )
        if activation is not None:
            formula_of(layer, activation)
        self.taps, self.stride, self.shape, self.groups, self.activation = taps, stride, shape, groups, activation
        self.weight = Parameter(self._drawn(n_in, n_out, rng, init or fan_in_uniform()))
        self.bias = Parameter(np.zeros(n_out, np.float32)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        weight = incremental.once(self, "effective weight", self.effective_weight)
        return self.apply(x, weight, self.bias)

    def _drawn(self, n_in: int, n_out: int, rng: np.random.Generator, init: Initialiser) -> np.ndarray:
        """The weight at the start."""
        raise NotImplementedError

    def effective_weight(self) -> Tensor:
        raise NotImplementedError

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        raise NotImplementedError


class Conv(_Convolution):
    """x [N, *space, n_in] -> [N, *space / stride, n_out], by weight [taps, n_in / groups, n_out] and bias [n_out].

    Outputs are ceil(size / stride) an axis, or `shape` where it is given. groups are convolutions side by side, each
    with its share of the channels; groups = n_in is the depthwise one. The weight starts uniform within
    1 / sqrt(taps * n_in / groups) (PyTorch's default) unless init is given, the bias at 0. activation: a formula of one
    input, as ops.elu, which the same pass applies to the outputs.
    """

    def _drawn(self, n_in: int, n_out: int, rng: np.random.Generator, init: Initialiser) -> np.ndarray:
        groups = self.groups
        each = [init(rng, (len(self.taps), n_in // groups, n_out // groups)) for _ in range(groups)]
        return np.concatenate(each, axis=-1)

    def effective_weight(self) -> Tensor:
        """The weight that meets the input: [taps, n_in / groups, n_out]."""
        return self.weight

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's map with another weight and bias. ValueError where x is not [N, *space, n_in]."""
        if incremental.active():
            y = incremental.conv(self, x, weight, bias, self.taps)
            return y if self.activation is None else self.activation(y)
        return conv(
            x, weight, bias, taps=self.taps, stride=self.stride, shape=self.shape, groups=self.groups,
            activation=self.activation,
        )  # fmt: skip


class MaskedConv(Conv):
    """A convolution that sees earlier pixels, and of its own pixel the earlier colours: red before green before blue.

    n_in and n_out are in three equal parts, red, green, blue (van den Oord et al. 2016, section 3.4). At the centre
    tap, mask "A" lets a colour read the colours before it, mask "B" these and itself; at the other taps all are read.
    Weights that the mask hides are 0, have gradient 0 and so stay 0. What splits the features, such as a gate, must do
    so within each colour. One colour needs no mask: Conv with causal taps.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        taps: Taps,
        rng: np.random.Generator,
        *,
        mask: str,
        bias: bool = True,
        init: Initialiser | None = None,
        activation: Activation | None = None,
    ) -> None:
        if mask not in ("A", "B"):
            raise ValueError(
                f'MaskedConv: mask must be "A", which hides the own colour, or "B", which shows it; got {mask!r}'
            )
        if n_in % 3 or n_out % 3:
            raise ValueError(f"MaskedConv: n_in and n_out must be in three parts, one a colour; got {n_in} and {n_out}")
        if taps.centre != len(taps) - 1:
            raise ValueError(
                f"MaskedConv: the centre must be read, and nothing after it, as by causal(k, 'B'); got\n{taps.draw()}"
            )
        super().__init__(n_in, n_out, taps, rng, bias=bias, init=init, activation=activation)
        reader, read = np.arange(n_out) // (n_out // 3), np.arange(n_in)[:, None] // (n_in // 3)
        seen = np.ones(self.weight.shape, np.float32)
        seen[-1] = read < reader if mask == "A" else read <= reader
        self.weight.data *= seen
        self.mask = Tensor(seen)

    def effective_weight(self) -> Tensor:
        return mul(self.weight, self.mask)


class ConvTranspose(_Convolution):
    """The adjoint of Conv: x [N, *space, n_in] -> [N, *space * stride, n_out]; each pixel is spread over its taps.

    Outputs are size * stride an axis, or `shape` where it is given. weight [taps, n_out, n_in] is that of the Conv from
    n_out to n_in whose adjoint this is. With a stride, an output is reached by the taps of its phase alone: each phase
    starts uniform within 1 / sqrt(its taps * n_in) unless init is given, so that all outputs start alike. activation: a
    formula of one input, as ops.elu, which the same pass applies to the outputs.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        taps: Taps,
        rng: np.random.Generator,
        *,
        stride: int | tuple[int, ...] = 1,
        shape: tuple[int, ...] | None = None,
        bias: bool = True,
        init: Initialiser | None = None,
        activation: Activation | None = None,
    ) -> None:
        super().__init__(
            n_in, n_out, taps, rng, stride=stride, shape=shape, bias=bias, init=init, activation=activation
        )

    def _drawn(self, n_in: int, n_out: int, rng: np.random.Generator, init: Initialiser) -> np.ndarray:
        phases: dict[tuple[int, ...], list[int]] = {}
        for t, offset in enumerate(self.taps.offsets):
            phases.setdefault(tuple(np.mod(offset, self.stride).tolist()), []).append(t)
        weight = np.empty((len(self.taps), n_out, n_in), np.float32)
        for places in phases.values():
            weight[places] = init(rng, (len(places), n_in, n_out)).swapaxes(1, 2)
        return weight

    def effective_weight(self) -> Tensor:
        """The weight that meets the input, outputs last: [taps, n_in, n_out]."""
        return swap(self.weight)

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's map with another weight and bias. ValueError where x is not [N, *space, n_in]."""
        return conv_transpose(
            x, swap(weight), bias, taps=self.taps, stride=self.stride, shape=self.shape, activation=self.activation
        )
