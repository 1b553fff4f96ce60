"""PixelSNAIL: An Improved Autoregressive Generative Model (Chen, Mishra, Rohaninejad & Abbeel 2018, arXiv 1712.09763).

Causal convolutions see near pixels, and lose sight of far ones; attention sees all earlier pixels at once, by content.
The model alternates them: a few gated residual blocks of 2 x 2 convolutions, then attention from every pixel to all
before it, over a single stream that starts as two: what lies above and what lies left.

The parts follow the authors' model "noup_smallkey": keys of 16 numbers and values of F / 2 are computed from the image,
the stream and the pixel's position, queries from the stream and the position alone; since keys know their own pixel,
attention is strictly causal. Residual blocks end in a convolution that starts small (0.1), weights are normalised with
data-dependent initialisation, the activation is elu. The mixture of discretised logistics sees to the order of colours.
A class is told to each residual block, which the authors' code left open.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.random import Generator

from micrognm import incremental
from micrognm.engine import Tensor
from micrognm.formula import formula, sigmoid
from micrognm.models.autoregressive.raster import Raster
from micrognm.nn import Conv, Dropout, Linear, Module, WeightNorm
from micrognm.ops import broadcast_to, concat, elu, softmax, split
from micrognm.ops.attention import attention
from micrognm.taps import Taps, down_right_shifted, down_shifted, square


def _nin(n_in: int, n_out: int, rng: Generator, scale: float = 1.0) -> WeightNorm:
    """A 1 x 1 convolution: network in network."""
    return WeightNorm(Conv(n_in, n_out, square(1), rng), scale)


@formula
def gated(x, a, b):  # type: ignore[no-untyped-def]
    """x + a sigmoid(b)"""
    return x + a * sigmoid(b)


class GatedResnet(Module):
    """x + a sigmoid(b) for (a, b) = conv(dropout(elu(conv(elu(x)) + nin(elu(also))))), plus what the class adds."""

    def __init__(
        self, F: int, taps: Taps, rng: Generator, *, also: int = 0, told: int = 0, dropout: float = 0.0
    ) -> None:
        self.first = WeightNorm(Conv(F, F, taps, rng))
        self.also = _nin(also, F, rng) if also else None
        self.dropout = Dropout(dropout, rng)
        self.second = WeightNorm(Conv(F, 2 * F, taps, rng), 0.1)
        self.told = Linear(told, 2 * F, rng, bias=False) if told else None

    def forward(self, x: Tensor, also: Tensor | None = None, s: Tensor | None = None) -> Tensor:
        h = self.first(elu(x))
        if self.also is not None:
            h = h + self.also(elu(also))
        h = self.second(self.dropout(elu(h)))
        if self.told is not None:
            h = h + self.told(s)
        return gated(x, *split(h, [x.shape[-1]] * 2))


class Attention(Module):
    """What each pixel reads of all before it, [N, H, W, values], from the image x, the stream u and positions b."""

    def __init__(self, n_in: int, F: int, keys: int, rng: Generator, told: int, dropout: float) -> None:
        self.keys, self.values = keys, F // 2
        self.to_kv = [
            GatedResnet(n_in + F + 2, square(1), rng, dropout=dropout),
            _nin(n_in + F + 2, keys + F // 2, rng),
        ]
        self.to_q = [GatedResnet(F + 2, square(1), rng, dropout=dropout), _nin(F + 2, keys, rng)]
        self.merge = GatedResnet(F, square(1), rng, also=F // 2, told=told, dropout=dropout)

    def forward(self, x: Tensor, u: Tensor, b: Tensor, s: Tensor | None) -> Tensor:
        q = _through(self.to_q, concat(u, incremental.here(b), axis=-1))
        if incremental.active():
            read = incremental.once(self, "kept", lambda: _Kept(self, x, u, b)).read(q, x, u)
        else:
            k, v = split(_through(self.to_kv, concat(x, u, b, axis=-1)), [self.keys, self.values])
            n, H, W, _ = q.shape
            q, k, v = (y.reshape(shape=(n, H * W, 1, y.shape[-1])) for y in (q, k, v))
            read = attention(q, k, v, mask="strictly causal").reshape(shape=(n, H, W, self.values))
        return self.merge(u, read, s)


def _through(layers: list[Any], x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


class _Kept:
    """Keys and values of the pixels so far. A pixel's own follow when it has been drawn, at the next pixel."""

    def __init__(self, layer: Attention, x: Tensor, u: Tensor, b: Tensor) -> None:
        H, W = incremental.place.size
        self.layer, self.b, self.done = layer, b.reshape(shape=(len(b), 1, H * W, 2)), 0
        self.k, self.v = (
            Tensor(np.zeros_like(u.data, shape=(len(x), H * W, width))) for width in (layer.keys, layer.values)
        )
        self.u: Tensor | None = None

    def read(self, q: Tensor, x: Tensor, u: Tensor) -> Tensor:
        """Attention of the one query. The kernel, which takes queries by tiles, would spend a tile on it."""
        t = incremental.place.y * incremental.place.size[1] + incremental.place.left
        if self.u is not None and self.done < t:
            i = t - 1
            before = x.reshape(shape=(len(x), 1, self.k.shape[1], x.shape[-1]))[:, :, i : i + 1]
            kv = _through(self.layer.to_kv, concat(before, self.u, self.b[:, :, i : i + 1], axis=-1))
            self.k[:, i], self.v[:, i] = split(kv[:, 0, 0], [self.layer.keys, self.layer.values])
            self.done = t
        self.u = u
        if t == 0:
            return self.v[:, None, :1]  # zeros
        scores = q[:, 0] @ self.k[:, :t].transpose(axes=(0, 2, 1)) / math.sqrt(self.layer.keys)
        return (softmax(scores) @ self.v[:, :t])[:, None]


class PixelSNAIL(Raster):
    """A density of images; see Raster for what it is asked.

    blocks, each of resnets gated residual blocks of F features and, unless attend is False, an attention with keys of
    `keys` numbers. mixtures: of discretised logistics; 0 for a softmax over levels, for images of one colour. classes:
    labels, integers [N], that are told; 0 for none.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        rng: Generator,
        *,
        levels: int = 256,
        mixtures: int = 10,
        blocks: int = 2,
        resnets: int = 2,
        F: int = 32,
        keys: int = 16,
        dropout: float = 0.0,
        classes: int = 0,
        attend: bool = True,
    ) -> None:
        super().__init__(shape, levels, mixtures)
        H, W, colours = shape
        if colours > 1 and not mixtures:
            raise ValueError("PixelSNAIL: colours need mixtures, which order them; got mixtures=0")
        self.classes = classes
        self.above = WeightNorm(Conv(colours + 1, F, down_shifted(1, 3).shift(-1, 0), rng))
        self.left = WeightNorm(Conv(colours + 1, F, down_right_shifted(2, 1).shift(0, -1), rng))
        self.resnets = [
            [GatedResnet(F, down_right_shifted(2, 2), rng, told=classes, dropout=dropout) for _ in range(resnets)]
            for _ in range(blocks)
        ]
        self.attention = [
            Attention(colours + 1, F, keys, rng, classes, dropout) if attend else None for _ in range(blocks)
        ]
        self.out = _nin(F, self.outputs, rng)
        y, x = np.meshgrid((np.arange(H) - H / 2) / H, (np.arange(W) - W / 2) / W, indexing="ij")
        self.position = Tensor(np.stack([y, x], axis=-1)[None].astype(np.float32))

    def condition(self, given: Any, n: int) -> Tensor | None:
        """The classes, one-hot [n, 1, 1, classes]. ValueError for labels that are not 0 .. classes - 1."""
        if not self.classes:
            return super().condition(given, n)
        return self.one_hot(given, n, self.classes)

    def pixels(self, x: Tensor, rows: None, condition: Tensor | None) -> Tensor:
        x = concat(x, Tensor(np.ones_like(x.data[..., :1])), axis=-1)  # where the image is: outside of it zero is read
        b = broadcast_to(self.position.cast(x.dtype), shape=(*x.shape[:3], 2))
        u = self.above(x) + self.left(x)
        for resnets, attend in zip(self.resnets, self.attention, strict=True):
            for resnet in resnets:
                u = resnet(u, None, condition)
            if attend is not None:
                u = attend(x, u, b, condition)
        return self.out(elu(u))
