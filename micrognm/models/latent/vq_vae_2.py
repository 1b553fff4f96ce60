"""VQ-VAE-2: Generating Diverse High-Fidelity Images with VQ-VAE-2 (Razavi, van den Oord & Vinyals 2019, 1906.00446).

VQ-VAE with maps of codes of several sizes: the small top map says what the image shows, larger ones below it add
detail. Encoding goes up and comes down again: the top is quantised first, decoded, and the level below is quantised
knowing it, so that it needs not say the same again. New images come from a prior of each level, given those above it
and the class: PixelSNAIL on the small top, whose parts are far apart in meaning, Gated PixelCNNs below.

Where what is: the levels (algorithm 1, section 3.1), the priors (algorithm 2, section 3.2); these numbers and the sizes
have not been checked against the paper's text. Here the decoder of a level takes its entries and what
was decoded above, and gives both what the level below is told and, at the bottom, the image. The paper's top prior has
many-headed attention and dropout in both; ours is the PixelSNAIL of models.autoregressive as it is.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from functools import reduce
from typing import Any

from numpy.random import Generator

from micrognm.engine import Tensor, no_grad
from micrognm.models.autoregressive.upsample import Upsample
from micrognm.models.latent.prior import CodePixelCNN, CodePixelSNAIL
from micrognm.models.latent.vq_vae import Autoencoder, Residual, decoder, encoder
from micrognm.nn import Conv, Embedding, Module, Sequential
from micrognm.nn.quantiser import Quantiser
from micrognm.ops import concat, relu
from micrognm.taps import square


class VQVAE2(Autoencoder):
    """Images to a list of codes, top first, each [N, h, w] of 0 .. K - 1, and back.

    halvings: how often each level halves the sides of the map below it, bottom first; (1, 1) makes maps of a half and a
    quarter of the image's sides, (2,) a VQ-VAE. The other settings are VQVAE's, the same at each level.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        rng: Generator,
        *,
        levels: int = 256,
        halvings: tuple[int, ...] = (2, 1),
        h: int = 128,
        r: int = 64,
        blocks: int = 2,
        K: int = 512,
        D: int = 64,
        beta: float = 0.25,
        decay: float = 0.99,
        revive: float = 0.03,
        mixtures: int = 0,
    ) -> None:
        if not halvings or min(halvings) < 1:
            raise ValueError(f"VQVAE2: expected one or more levels of one or more halvings, got halvings={halvings}")
        sums = list(itertools.accumulate(halvings))
        super().__init__(shape, levels, mixtures, sums[-1])
        self.sizes = [(shape[0] >> n, shape[1] >> n) for n in reversed(sums)]
        self.encoders, self.to_z, self.quantisers, self.decoders = [], [], [], []
        for i, halve in enumerate(halvings):
            told = 0 if i == len(halvings) - 1 else D
            self.encoders.append(encoder(h if i else shape[2], h, r, blocks, halve, rng))
            self.to_z.append(Conv(h + told, D, square(1), rng))
            self.quantisers.append(Quantiser(K, D, rng, beta=beta, decay=decay, revive=revive))
            self.decoders.append(decoder(D + told, h, r, blocks, halve, D if i else self.outputs, rng))

    def out(self, x: Tensor) -> tuple[Tensor, Tensor]:
        above: Any = None
        losses = []
        for i, features in self._features(x):
            q = self.quantisers[i](self._z_e(i, features, above))
            losses.append(q.loss)
            above = self._decode(i, q.z_q, above)
        return above, reduce(operator.add, losses)

    @no_grad()
    def encode(self, x: Tensor) -> list[Tensor]:
        above: Any = None
        codes = []
        for i, features in self._features(self.read(x)):
            codes.append(self.quantisers[i].choose(self._z_e(i, features, above)))
            if i:
                above = self._decode(i, self.quantisers[i].entries(codes[-1]), above)
        return codes

    def decoded(self, codes: Sequence[Any]) -> Tensor:
        if len(codes) != len(self.sizes):
            raise ValueError(f"VQVAE2: expected codes of {len(self.sizes)} levels, got {len(codes)}")
        above: Any = None
        for i, index in zip(reversed(range(len(codes))), codes, strict=True):
            above = self._decode(i, self.quantisers[i].entries(index), above)
        return above

    def _features(self, x: Tensor) -> list[tuple[int, Tensor]]:
        """What the encoder of each level finds, with the level's number, top first."""
        found = []
        for i, encode in enumerate(self.encoders):
            x = encode(x)
            found.append((i, x))
        return found[::-1]

    def _z_e(self, i: int, features: Tensor, above: Tensor | None) -> Tensor:
        return self.to_z[i](features if above is None else concat(features, above, axis=-1))

    def _decode(self, i: int, z_q: Tensor, above: Tensor | None) -> Tensor:
        return self.decoders[i](z_q if above is None else concat(z_q, above, axis=-1))


class Below(Module):
    """p(codes of a level | codes of all levels above it, class).

    Each level above is embedded, passed through `stack` residual blocks, which see it whole, and enlarged to this one's
    size; their sum, with an embedding of the class, is the map that a Gated PixelCNN is told in every layer.
    """

    def __init__(
        self,
        above: Sequence[tuple[int, int]],
        size: tuple[int, int],
        K: int,
        rng: Generator,
        *,
        classes: int,
        h: int,
        stack: int,
        p: int,
        layers: int,
        head: int,
    ) -> None:
        self.pixelcnn = CodePixelCNN(size, K, rng, p=p, layers=layers, head=head, told=h)
        self.networks = [
            Sequential(
                Embedding(K, h, rng),
                Conv(h, h, square(3), rng),
                *(Residual(h, h, rng) for _ in range(stack)),
                relu,
                Upsample(small, size, h, h, rng),
            )
            for small in above
        ]
        self.label = Embedding(classes, h, rng) if classes else None

    def told(self, above: Sequence[Tensor], labels: Any) -> Tensor:
        """The map [N, h, w, told] that says what is above."""
        s = reduce(operator.add, [network(codes) for network, codes in zip(self.networks, above, strict=True)])
        if self.label is None:
            return s
        label = self.label(labels)
        return s + label.reshape(shape=(len(label), 1, 1, label.shape[1]))


class Prior(Module):
    """p(codes | class), level by level from the top: lists of codes [N, h, w], as VQVAE2 gives and takes them.

    sizes: of the levels, top first. blocks, resnets, F, dropout: of the PixelSNAIL on top. h, stack: features and
    residual blocks of what tells a level of those above. p, layers, head: of the Gated PixelCNNs. classes: labels,
    integers [N], that every level is told; 0 for none.
    """

    def __init__(
        self,
        sizes: Sequence[tuple[int, int]],
        K: int,
        rng: Generator,
        *,
        classes: int = 0,
        blocks: int = 2,
        resnets: int = 2,
        F: int = 32,
        dropout: float = 0.1,
        h: int = 32,
        stack: int = 2,
        p: int = 32,
        layers: int = 4,
        head: int = 64,
    ) -> None:
        self.classes = classes
        self.top = CodePixelSNAIL(
            sizes[0], K, rng, blocks=blocks, resnets=resnets, F=F, dropout=dropout, classes=classes
        )
        self.below = [
            Below(sizes[:i], sizes[i], K, rng, classes=classes, h=h, stack=stack, p=p, layers=layers, head=head)
            for i in range(1, len(sizes))
        ]

    def terms(self, codes: Sequence[Tensor], labels: Any = None) -> list[Tensor]:
        """log p of each level given those above it, top first: [N] nats each."""
        if len(codes) != 1 + len(self.below):
            raise ValueError(f"Prior: expected codes of {1 + len(self.below)} levels, got {len(codes)}")
        self._check(labels)
        terms = [self.top.log_prob(_map(codes[0]), labels)]
        for i, level in enumerate(self.below, 1):
            terms.append(level.pixelcnn.log_prob(_map(codes[i]), level.told(codes[:i], labels)))
        return terms

    def log_prob(self, codes: Sequence[Tensor], labels: Any = None) -> Tensor:
        """log p(codes | labels), [N] nats."""
        return reduce(operator.add, self.terms(codes, labels))

    @no_grad()
    def sample(self, n: int, rng: Generator, labels: Any = None, *, temperature: float = 1.0) -> list[Tensor]:
        """The codes of n images. Logits are divided by the temperature."""
        self._check(labels)
        codes = [self.top.sample(n, rng, labels, temperature=temperature)[..., 0]]
        for level in self.below:
            told = level.told(codes, labels)
            codes.append(level.pixelcnn.sample(n, rng, told, temperature=temperature)[..., 0])
        return codes

    def _check(self, labels: Any) -> None:
        if (labels is None) != (self.classes == 0):
            given = "none are given" if labels is None else "labels are given"
            raise ValueError(f"Prior: it was made with classes={self.classes}, and {given}")


def _map(codes: Tensor) -> Tensor:
    """[N, h, w] as the image [N, h, w, 1] that a density takes."""
    return codes.reshape(shape=(*codes.shape, 1))
