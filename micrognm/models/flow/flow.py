"""What flows of images share: the way from pixels to latents, and with it log_prob, samples and the squeeze.

A flow is a bijection between images x and latents e, standard normal by themselves (what a learned prior knows is part
of the map), so log p(x) = log N(e; 0, I) + log |det de/dx|. Images are dequantised: x in [0, levels), see
`data.dequantise`, so that -log p(x) is a bound in nats for the whole-number image, with nothing to be added.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.random import Generator

from micrognm import backend
from micrognm.engine import Tensor, no_grad
from micrognm.models.labels import checked
from micrognm.nn import Module
from micrognm.ops import clip, concat, floor, reshape, transpose
from micrognm.reversible import Block, chain, frozen, reversible

Latents = list[Tensor]  # one for each scale, the finest first; [N, H, W, C] each


class Flow(Module):
    """A density of images [N, *shape] of values in [0, levels), shape (height, width, channels).

    A model says how it computes: `to_latents` and `from_latents`, for images as `read` gives them, and the shapes of
    its latents. classes: labels 0 .. classes - 1 that it is told, or 0. reversible: train with memory that does not
    depend on the depth, for about a forward pass more a step (see micrognm.reversible).
    """

    latent_shapes: list[tuple[int, int, int]]

    def __init__(self, shape: Sequence[int], levels: int, classes: int, reversible: bool) -> None:
        if len(shape) != 3 or min(shape) < 1 or levels < 2 or classes < 0:
            raise ValueError(
                f"{type(self).__name__}: expected shape (height, width, channels), 2 or more levels and 0 or more "
                f"classes, got {tuple(shape)}, {levels} and {classes}"
            )
        self.shape, self.levels, self.classes, self.reversible = tuple(shape), levels, classes, reversible
        self.D = math.prod(shape)

    @property
    def dtype(self) -> np.dtype:
        """Of parameters and images."""
        raise NotImplementedError

    def read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Checked images as the flow takes them, and the log-determinant of that, [N]."""
        raise NotImplementedError

    def write(self, y: Tensor) -> Tensor:
        """The inverse of `read`: images in [0, levels), or beyond where the flow leads there."""
        raise NotImplementedError

    def to_latents(self, y: Tensor, labels: Any) -> tuple[Latents, Tensor]:
        """Latents and log-determinants [N]."""
        raise NotImplementedError

    def from_latents(self, latents: Latents, labels: Any) -> Tensor:
        """The inverse of `to_latents`."""
        raise NotImplementedError

    def run(self, blocks: Sequence[Block], x: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
        """x through the blocks, and the sum of their log-determinants [N]."""
        return (reversible if self.reversible else chain)(blocks, x, *given)

    def encode(self, x: Tensor, labels: Any = None) -> tuple[Latents, Tensor]:
        """Latents of images x [N, *shape] in [0, levels], and log |det de/dx| of each, [N]."""
        self.check(x)
        y, logdet = self.read(x)
        latents, each = self.to_latents(y, self.told(labels, len(x)))
        return latents, logdet + each

    def decode(self, latents: Latents, labels: Any = None) -> Tensor:
        """The images that latents belong to: the inverse of `encode`. Far from all data they may leave [0, levels)."""
        found = [tuple(z.shape[1:]) for z in latents]
        if found != self.latent_shapes or len({len(z) for z in latents}) > 1:
            raise ValueError(
                f"{type(self).__name__}.decode: expected latents [N, *shape] of the shapes {self.latent_shapes}, "
                f"got {[list(z.shape) for z in latents]}"
            )
        with frozen():
            return self.write(self.from_latents(latents, self.told(labels, len(latents[0]))))

    def log_prob(self, x: Tensor, labels: Any = None) -> Tensor:
        """log p(x | labels), [N] nats, of dequantised images."""
        latents, logdet = self.encode(x, labels)
        return logdet + standard_normal(latents)

    @no_grad()
    def sample(self, n: int, rng: Generator, labels: Any = None, *, temperature: float = 1.0) -> Tensor:
        """n images [n, *shape], int64. Latents are standard normal times the temperature, at all scales."""
        return self.quantise(self.decode(self.noise(n, rng, temperature), labels))

    def noise(self, n: int, rng: Generator, temperature: float = 1.0) -> Latents:
        """Latents of n images, drawn from their prior with standard deviation `temperature`."""
        if not temperature >= 0:
            raise ValueError(f"{type(self).__name__}: temperature must be 0 or more, got {temperature}")
        return [Tensor(backend.normal(rng, (n, *shape), self.dtype)) * temperature for shape in self.latent_shapes]

    def quantise(self, x: Tensor) -> Tensor:
        """Whole-number images out of continuous ones, int64: what the flow draws beyond the range gets its end."""
        if not np.isfinite(x.data).all():
            raise FloatingPointError(
                f"{type(self).__name__}: decoded images hold NaN or infinity: the flow's inverse overflows. "
                "Draw with a lower temperature, or train it with a lower learning rate"
            )
        return clip(floor(x), 0, self.levels - 1).cast("int64")

    def check(self, x: Tensor) -> None:
        """Raise ValueError or TypeError where x is no batch of dequantised images."""
        name, dtype = type(self).__name__, self.dtype
        if x.dtype != dtype:
            raise TypeError(f"{name}: expected dequantised images of {dtype}, got {x.dtype}; see data.dequantise")
        if x.shape[1:] != self.shape:
            raise ValueError(f"{name}: expected images [N, {', '.join(map(str, self.shape))}], got {list(x.shape)}")
        if x.size and not 0 <= x.data.min() <= x.data.max() <= self.levels:  # NaN fails too
            raise ValueError(
                f"{name}: expected dequantised pixels, x + u of 0 to {self.levels} for whole numbers x of 0 to "
                f"{self.levels - 1} and u of [0, 1), got {x.data.min()} to {x.data.max()}"
            )

    def told(self, labels: Any, n: int) -> Any:
        """The labels, checked, as an array; None for a model without."""
        name = type(self).__name__
        if not self.classes:
            if labels is not None:
                raise ValueError(f"{name} was made without classes, so it cannot be given labels")
            return None
        return checked(name, labels, n, self.classes)


def standard_normal(latents: Latents) -> Tensor:
    """log N(e; 0, I), [N]."""
    rows = [reshape(z, shape=(len(z), z.size // max(len(z), 1))) for z in latents]
    e = concat(*rows, axis=1)
    return -0.5 * (e * e).sum(axis=1) - 0.5 * math.log(2 * math.pi) * e.shape[1]


def squeezable(name: str, shape: Sequence[int], times: int) -> None:
    """Raise ValueError unless images of this shape can be squeezed that often."""
    if shape[0] % 2**times or shape[1] % 2**times:
        raise ValueError(
            f"{name}: images of {shape[0]}x{shape[1]} cannot be squeezed {times} times: both sides must be multiples "
            f"of {2**times}. Pad the images, or ask for fewer scales"
        )


def squeeze(x: Tensor) -> Tensor:
    """[N, H, W, C] -> [N, H/2, W/2, 4 C]: each 2x2 square of pixels becomes one, row by row, their channels together.

    Real NVP, section 3.6. ValueError where H or W is odd.
    """
    N, H, W, C = x.shape
    if H % 2 or W % 2:
        raise ValueError(f"squeeze: x {list(x.shape)} must have even height and width")
    parts = reshape(x, shape=(N, H // 2, 2, W // 2, 2, C))
    return reshape(transpose(parts, (0, 1, 3, 2, 4, 5)), shape=(N, H // 2, W // 2, 4 * C))


def unsqueeze(x: Tensor) -> Tensor:
    """The inverse of squeeze: [N, H, W, 4 C] -> [N, 2 H, 2 W, C]."""
    N, H, W, C = x.shape
    if C % 4:
        raise ValueError(f"unsqueeze: the channels of x {list(x.shape)} must be a multiple of 4")
    parts = reshape(x, shape=(N, H, W, 2, 2, C // 4))
    return reshape(transpose(parts, (0, 1, 3, 2, 4, 5)), shape=(N, 2 * H, 2 * W, C // 4))


def like_logdet(x: Tensor, value: float) -> Tensor:
    """The log-determinant of a map that is the same for every sample, [N]."""
    return Tensor(np.full_like(x.data, value, shape=len(x)))
