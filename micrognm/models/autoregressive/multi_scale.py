"""Multi-scale PixelRNN: Pixel Recurrent Neural Networks (van den Oord et al. 2016a, arXiv 1601.06759), section 3.6.

A PixelRNN writes a small image x_s, and a conditional one then writes the whole image x, told x_s: a network of
deconvolutions makes a map of x_s, which every layer adds to its input-to-state map by an unmasked 1 x 1 convolution.
So what is far apart is settled first. There may be several conditional models, each of a larger size than the last.

The small image is sub-sampled, every second pixel of x, and not smoothed: it is made of pixels of x, of the same
levels. The model's density is p(x) = sum over all x_s of p(x_s) p(x | x_s), whose terms are not negative. Keeping the
one whose x_s belongs to x gives log p(x) >= log p(x_s) + log p(x | x_s): `log_prob` is this bound, and what training
raises. It counts only drawings that agree with their x_s; nothing forces them to, so its exponentials sum to less
than 1. The paper does not say the sizes of the up-sampling network, nor which pixels are kept: here those whose row and
column are multiples of the scale.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.random import Generator

from micrognm import backend
from micrognm.distributions import Categorical
from micrognm.engine import Tensor, no_grad
from micrognm.models.autoregressive.pixel_rnn import PixelRNN
from micrognm.models.autoregressive.upsample import Upsample
from micrognm.nn import Module
from micrognm.ops import where


class MultiScale(Module):
    """A density of images [N, H, W, colours] of values 0 .. levels - 1, written at several sizes, each from the last.

    scales: how many times larger each size is than the one before; (2,) is a small image and the whole one, (2, 2) has
    three sizes. told: channels of the map that a size is told of the smaller one. Each size has a PixelRNN; see there
    for the other options.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        rng: Generator,
        *,
        kind: str,
        scales: tuple[int, ...] = (2,),
        levels: int = 2,
        layers: int = 2,
        h: int = 16,
        head: int = 32,
        mixtures: int = 0,
        told: int = 16,
        skip: bool = False,
    ) -> None:
        factor = math.prod(scales)
        if not scales or min(scales) < 2 or told < 1:
            raise ValueError(
                f"MultiScale: expected one or more scales of 2 or more and told of 1 or more, got {scales} and {told}"
            )
        if len(shape) != 3 or shape[0] % factor or shape[1] % factor:
            raise ValueError(
                f"MultiScale: scales {scales} need images [height, width, colours] whose sides are multiples of "
                f"{factor}, got {list(shape)}; pad or crop them, or choose other scales"
            )
        self.shape, self.levels, self.scales = tuple(shape), levels, tuple(scales)
        options: dict[str, Any] = {"kind": kind, "levels": levels, "layers": layers, "h": h, "head": head}
        options |= {"mixtures": mixtures, "skip": skip}
        size = (shape[0] // factor, shape[1] // factor)
        self.nets = [PixelRNN((*size, shape[2]), rng, **options)]
        self.upsample = []
        for scale in scales:
            small, size = size, (size[0] * scale, size[1] * scale)
            self.upsample.append(Upsample(small, size, shape[2], told, rng))
            self.nets.append(PixelRNN((*size, shape[2]), rng, told=told, **options))

    def sizes(self, x: Tensor) -> list[Tensor]:
        """x sub-sampled to every size, the smallest first, x itself last."""
        if x.shape[1:] != self.shape:
            raise ValueError(f"MultiScale: expected images [N, {', '.join(map(str, self.shape))}], got {list(x.shape)}")
        images = [x]
        for scale in reversed(self.scales):
            images.append(images[-1][:, ::scale, ::scale])
        return images[::-1]

    def given(self, i: int, smaller: Tensor | None) -> Tensor | None:
        """The map that the model of size i is told: of images of size i - 1, or none for the smallest."""
        return None if smaller is None else self.upsample[i - 1](self.nets[i - 1].read(smaller))

    def terms(self, x: Tensor) -> list[Tensor]:
        """log p(x_s), then log p(x | x_s) (and so on through the sizes), each [N] nats."""
        images = self.sizes(x)
        return [
            net.log_prob(image, self.given(i, smaller))
            for i, (net, image, smaller) in enumerate(zip(self.nets, images, [None, *images], strict=False))
        ]

    def log_prob(self, x: Tensor) -> Tensor:
        """A lower bound of log p(x), [N] nats: log p(x_s) + log p(x | x_s) for the x_s of x."""
        first, *others = self.terms(x)
        return sum(others, start=first)

    def sample(self, n: int, rng: Generator, *, temperature: float = 1.0) -> Tensor:
        """n images [n, *shape]. Logits are divided by the temperature."""
        return self.sample_sizes(n, rng, temperature=temperature)[-1]

    def sample_sizes(self, n: int, rng: Generator, *, temperature: float = 1.0) -> list[Tensor]:
        """n images of every size, the smallest first, each drawn given the last."""
        return self.sample_from(self._uniforms(n, rng), temperature=temperature)

    @no_grad()
    def sample_from(
        self, us: list[Tensor], *, x: Tensor | None = None, known: Any = None, temperature: float = 1.0
    ) -> list[Tensor]:
        """Images of every size, the smallest first, from uniform numbers [n, H, W, draws] for each size.

        Known pixels (booleans [H, W, 1]) are those of x, at every size.
        """
        if len(us) != len(self.nets):
            raise ValueError(f"MultiScale: expected uniform numbers for {len(self.nets)} sizes, got {len(us)}")
        images: list[Tensor] = []
        for i, (net, u) in enumerate(zip(self.nets, us, strict=True)):
            kept = {} if x is None else {"x": self.sizes(x)[i], "known": self._known(i, known)}
            given = self.given(i, images[-1] if images else None)
            images.append(net.sample_from(u, given, temperature=temperature, **kept))
        return images

    @no_grad()
    def complete(
        self, x: Tensor, known: Any, rng: Generator, *, candidates: int = 32, temperature: float = 1.0
    ) -> Tensor:
        """Images with the pixels that are not known (booleans [H, W, 1]) drawn anew, given those that are.

        Known pixels are known at every size. Even an upper half does not come first: the small image's lower half is
        drawn before the large one's upper half. So, as in MADE, candidates are drawn that keep what is known, weighed
        by the probability of what they keep, and one is picked by that weight. It follows p(unknown | known) in the
        limit of many candidates.
        """
        if candidates < 1:
            raise ValueError(f"MultiScale.complete: expected candidates >= 1, got {candidates}")
        n = len(x)
        many = x[np.arange(n).repeat(candidates)]
        images = self.sample_from(self._uniforms(len(many), rng), x=many, known=known, temperature=temperature)
        weight = Tensor(backend.zeros((len(many),), self.nets[0].parameters()[0].dtype))
        for i, (net, image, smaller) in enumerate(zip(self.nets, images, [None, *images], strict=False)):
            each = net.distribution(net(image, self.given(i, smaller)), temperature).log_prob(image)
            each = each.reshape(shape=(*image.shape[:3], each.size // max(math.prod(image.shape[:3]), 1)))
            weight = weight + where(self._known(i, known), each, 0).sum(axis=(1, 2, 3))
        pick = Categorical(weight.reshape(shape=(n, candidates))).sample(rng)
        return images[-1][np.arange(n) * candidates + pick.numpy()]

    def _known(self, i: int, known: Any) -> Any:
        """Which pixels are known of the images of size i."""
        if known is None or known.shape != (*self.shape[:2], 1):
            found = "none" if known is None else list(known.shape)
            raise ValueError(f"MultiScale: expected known {[*self.shape[:2], 1]}, got {found}")
        step = math.prod(self.scales[i:])
        return known[::step, ::step]

    def _uniforms(self, n: int, rng: Generator) -> list[Tensor]:
        dtype = self.nets[0].parameters()[0].dtype
        return [Tensor(backend.uniform(rng, (n, *net.shape[:2], net.draws), dtype)) for net in self.nets]
