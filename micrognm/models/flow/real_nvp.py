"""Real NVP: Density estimation using Real NVP (Dinh, Sohl-Dickstein & Bengio 2016, arXiv 1605.08803).

A flow of couplings: a mask leaves half of the numbers as they are, and the others are scaled and shifted by what a
residual network makes of the first half, y = b x + (1 - b) (x exp(s(b x)) + t(b x)). That has an inverse as cheap as
itself, and the log-determinant sum (1 - b) s. Checkerboard masks alternate, then a squeeze turns 2x2 pixels into
channels and channel masks alternate, then half of the channels leave as latents and the rest goes on.

Where what is: the coupling (equations 7 to 9), masks (section 3.4), squeeze and scales (3.6), batch normalisation as a
layer of the flow (3.7) with running averages that training uses too (appendix E), the logit of the data (4.1). From the
authors' code: alpha + (1 - 2 alpha) x, for the paper's formula leads to infinity at the largest x; what leaves at a
scale are two pixels of a diagonal, not of a row; couplings start as the identity. Deviations: a coupling's network is
given b x and the mask; the class, where there is one, is added to its first features (appendix F conditions too, in a
way that it does not spell out).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.random import Generator

from micrognm import nn
from micrognm.engine import Tensor, no_grad
from micrognm.formula import formula, tanh
from micrognm.models.flow.flow import Flow, Latents, like_logdet, squeezable, squeeze, unsqueeze
from micrognm.nn import Embedding, Module, Parameter, WeightNorm, init
from micrognm.operation import op
from micrognm.ops import (
    broadcast_to,
    concat,
    coupling,
    coupling_inverse,
    exp,
    log,
    normalise,
    rsqrt,
    scale_shift,
    split,
    sqrt,
)
from micrognm.reversible import is_frozen
from micrognm.taps import square

ALPHA = 0.05  # the logit is of alpha + (1 - 2 alpha) x


@formula
def log_scale(h, scale, free):  # type: ignore[no-untyped-def]
    """scale tanh(h) where free is 1, else 0."""
    return scale * tanh(h) * free


@op
def running(now, average, *, part):  # type: ignore[no-untyped-def]
    """average [C], as a function of which now [C], this batch's, is a part."""
    return average.copy()


running.vjp(now=lambda g, part: part * g, average=None)


class BatchNorm(Module):
    """Each channel of x [N, H, W, C] less a running mean, over a running standard deviation (appendix E).

    In training the averages first move to the batch's statistics, by 1 - rho of the way (by more in the first steps, so
    that they are averages of what was seen), and the gradient goes through this batch's part in them. Training and
    evaluation so compute the same function, which an inverse can undo.
    """

    def __init__(self, C: int, rho: float, eps: float = 1e-5) -> None:
        self.rho, self.eps = rho, eps
        self.mean = Tensor(np.zeros(C, np.float32))
        self.var = Tensor(np.ones(C, np.float32))
        self.steps = Tensor(np.array(0))

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What x is normalised by: mean and variance + eps, [C]. Moves the averages, in training."""
        if not self.training:
            return self.mean, self.var + self.eps
        ones = Tensor(np.ones_like(self.mean.data))
        _, mean, var = normalise(x, ones, ones, kind="batch")
        if not is_frozen():
            self.steps[...] = self.steps + 1
        part = (1 - self.rho) / (1 - self.rho ** max(1, int(self.steps.item())))
        if not is_frozen():
            with no_grad():
                self.mean[...] = self.mean + part * (mean - self.mean)
                self.var[...] = self.var + part * (var - self.var)
        return running(mean, self.mean, part=part), running(var, self.var, part=part) + self.eps

    def forward(self, x: Tensor, activation: str = "none") -> Tensor:
        """x normalised, and then activated (see ops.normalise)."""
        return self.apply(x, *self.statistics(x), activation)

    def apply(self, x: Tensor, mean: Tensor, var: Tensor, activation: str = "none") -> Tensor:
        scale = rsqrt(var)
        return scale_shift(x, scale, -mean * scale, activation=activation)

    def flow(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x normalised, and the log-determinant, one number for all samples."""
        mean, var = self.statistics(x)
        return self.apply(x, mean, var), log(var).sum() * (-0.5 * x.shape[1] * x.shape[2])

    def inverse(self, y: Tensor) -> Tensor:
        """The x of which the last call made y."""
        return scale_shift(y, sqrt(self.var + self.eps), self.mean)


class ResNet(Module):
    """x [N, H, W, n_in] -> [N, H, W, n_out], 0 at first: residual blocks, each with a way of its own to the output.

    Batch norm before each rectifier, weight norm on each convolution (section 3.5).
    """

    def __init__(self, n_in: int, n_out: int, width: int, blocks: int, rng: Generator, *, classes: int, rho: float):
        def conv(n_in: int, n_out: int, k: int, init_scale: float = 1.0) -> WeightNorm:
            return WeightNorm(nn.Conv(n_in, n_out, square(k), rng), init_scale)

        self.first = conv(n_in, width, 3)
        self.of_class = Embedding(classes, width, rng, init.zeros()) if classes else None
        self.blocks = [[conv(width, width, 3) for _ in range(2)] for _ in range(blocks)]
        self.skips = [conv(width, width, 1) for _ in range(blocks + 1)]
        self.norms = [BatchNorm(width, rho) for _ in range(2 * blocks + 1)]
        self.last = conv(width, n_out, 1, init_scale=0.0)

    def forward(self, x: Tensor, labels: Any = None) -> Tensor:
        h = self.first(x)
        if self.of_class is not None:
            h = h + self.of_class(labels).reshape(shape=(len(x), 1, 1, h.shape[-1]))
        out = self.skips[0](h)
        for i, block in enumerate(self.blocks):
            r = h
            for norm, conv in zip(self.norms[2 * i : 2 * i + 2], block, strict=True):
                r = conv(norm(r, "relu"))
            h = h + r
            out = out + self.skips[i + 1](h)
        return self.last(self.norms[-1](out, "relu"))


class Coupling(Module):
    """A coupling with the mask b [H, W, C] (1: left as it is), and batch normalisation of all that comes out."""

    def __init__(self, b: np.ndarray, width: int, blocks: int, rng: Generator, *, classes: int, rho: float) -> None:
        C = b.shape[-1]
        self.b, self.free = Tensor(b), Tensor(1 - b)
        self.net = ResNet(C + 1, 2 * C, width, blocks, rng, classes=classes, rho=rho)
        self.scale = Parameter(np.ones(C, np.float32))
        self.norm = BatchNorm(C, rho)

    def forward(self, x: Tensor, *labels: Any) -> tuple[Tensor, Tensor]:
        y, logdet = coupling(x, *self.predict(x * self.b, *labels))
        y, each = self.norm.flow(y)
        return y, logdet + each

    def inverse(self, y: Tensor, *labels: Any) -> Tensor:
        """The x of which `forward` made y."""
        y = self.norm.inverse(y)
        return coupling_inverse(y, *self.predict(y * self.b, *labels))[0]

    def predict(self, seen: Tensor, *labels: Any) -> tuple[Tensor, Tensor]:
        """The log scale s and the shift t of each number, 0 for those that the mask leaves."""
        N, H, W, C = seen.shape
        mask = broadcast_to(self.b[..., :1], shape=(N, H, W, 1))
        s, t = split(self.net(concat(seen, mask, axis=-1), *labels), (C, C))
        return log_scale(s, self.scale, self.free), t * self.free


def checkerboard(H: int, W: int, C: int) -> np.ndarray:
    """1 where row and column add up to an odd number (figure 3, left)."""
    rows, columns = np.indices((H, W))
    return np.repeat(((rows + columns) % 2)[..., None], C, axis=-1).astype(np.float32)


def channelwise(H: int, W: int, C: int) -> np.ndarray:
    """1 for the first half of the channels (figure 3, right)."""
    return np.broadcast_to(np.arange(C) < C // 2, (H, W, C)).astype(np.float32)


class RealNVP(Flow):
    """A density of images [N, *shape] of dequantised values in [0, levels); see Flow for the rest.

    scales: all but the last have three checkerboard couplings, a squeeze and three channel couplings, and give up half;
    the last has four checkerboard couplings. width: features of the residual networks at the first scale, doubled from
    scale to scale; blocks: of each network. rho: how much of a running average stays in a training step. The gradient
    takes what stays for a constant, so the nearer rho is to 1, the less it knows of what normalisation does: digits
    come to 2.02 bits a dimension with 0.5, and to 2.11 with 0.9.
    """

    def __init__(
        self,
        shape: Sequence[int],
        rng: Generator,
        *,
        levels: int = 256,
        scales: int = 2,
        width: int = 64,
        blocks: int = 8,
        classes: int = 0,
        rho: float = 0.5,
        reversible: bool = False,
    ) -> None:
        super().__init__(shape, levels, classes, reversible)
        if scales < 1 or width < 1 or blocks < 0 or not 0 <= rho < 1:
            raise ValueError(
                f"RealNVP: expected scales and width of 1 or more, blocks of 0 or more and rho in [0, 1), "
                f"got {scales}, {width}, {blocks} and {rho}"
            )
        squeezable("RealNVP", self.shape, scales - 1)
        H, W, C = self.shape

        def couplings(mask: np.ndarray, n: int, width: int) -> list[Coupling]:
            masks = [mask if i % 2 == 0 else 1 - mask for i in range(n)]
            return [Coupling(b, width, blocks, rng, classes=classes, rho=rho) for b in masks]

        self.checkered: list[list[Coupling]] = []
        self.channelled: list[list[Coupling]] = []
        self.latent_shapes = []
        for scale in range(scales):
            last = scale == scales - 1
            self.checkered.append(couplings(checkerboard(H, W, C), 4 if last else 3, width << scale))
            if not last:
                H, W, C = H // 2, W // 2, 4 * C
                self.channelled.append(couplings(channelwise(H, W, C), 3, width << (scale + 1)))
                C //= 2
            self.latent_shapes.append((H, W, C))

    @property
    def dtype(self) -> np.dtype:
        return self.checkered[0][0].scale.dtype

    def read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        u = ALPHA + (1 - 2 * ALPHA) / self.levels * x
        up, down = log(u), log(1 - u)
        slope = like_logdet(x, self.D * math.log((1 - 2 * ALPHA) / self.levels))
        return up - down, slope - (up + down).sum(axis=(1, 2, 3))

    def write(self, y: Tensor) -> Tensor:
        return (1 / (1 + exp(-y)) - ALPHA) * (self.levels / (1 - 2 * ALPHA))

    def to_latents(self, y: Tensor, labels: Any) -> tuple[Latents, Tensor]:
        given = () if labels is None else (labels,)
        latents, logdet = [], like_logdet(y, 0.0)
        for scale, couplings in enumerate(self.checkered):
            y, each = self.run(couplings, y, *given)
            logdet = logdet + each
            if scale < len(self.channelled):
                y, each = self.run(self.channelled[scale], squeeze(y), *given)
                logdet = logdet + each
                y, z = factor_out(y)
                latents.append(z)
        return [*latents, y], logdet

    def from_latents(self, latents: Latents, labels: Any) -> Tensor:
        given = () if labels is None else (labels,)
        y = latents[-1]
        for scale in reversed(range(len(self.checkered))):
            if scale < len(self.channelled):
                y = put_back(y, latents[scale])
                for block in reversed(self.channelled[scale]):
                    y = block.inverse(y, *given)
                y = unsqueeze(y)
            for block in reversed(self.checkered[scale]):
                y = block.inverse(y, *given)
        return y

    def penalty(self) -> Tensor:
        """The sum of the squared gains of weight norm, which the paper keeps small by 5e-5 of it in the loss."""
        gains = [(m.gain * m.gain).sum() for m in self.modules() if isinstance(m, WeightNorm)]
        return sum(gains[1:], gains[0])


def factor_out(y: Tensor) -> tuple[Tensor, Tensor]:
    """Squeezed channels in halves, each of two pixels of a square that touch at a corner: what stays, what leaves."""
    a, b, c, d = split(y, (y.shape[-1] // 4,) * 4)
    return concat(a, d, axis=-1), concat(b, c, axis=-1)


def put_back(stays: Tensor, leaves: Tensor) -> Tensor:
    """The inverse of factor_out."""
    (a, d), (b, c) = (split(half, (half.shape[-1] // 2,) * 2) for half in (stays, leaves))
    return concat(a, b, c, d, axis=-1)
