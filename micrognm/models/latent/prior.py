"""Priors over the codes of VQ-VAE and VQ-VAE-2: the models of images, on maps of codes [N, h, w, 1].

A code is a name, not a level: entries 7 and 8 of a codebook have no more in common than 7 and 300. So what reads codes
is given an embedding of each, where what reads pixels is given their brightness; all else is the parents'.
"""

from __future__ import annotations

from typing import Any

from numpy.random import Generator

from micrognm.engine import Tensor
from micrognm.models.autoregressive.gated_pixelcnn import GatedPixelCNN
from micrognm.models.autoregressive.pixelsnail import Attention, PixelSNAIL
from micrognm.nn import Conv, Embedding, WeightNorm


def _embedded(embedding: Embedding, x: Tensor) -> Tensor:
    """Codes as `Raster.read` scales them, -1 .. 1 [N, h, w, 1], as their embeddings [N, h, w, d]."""
    K, _ = embedding.weight.shape
    return embedding(((x.data[..., 0] + 1) * ((K - 1) / 2) + 0.5).astype("int64"))


class CodePixelCNN(GatedPixelCNN):
    """A Gated PixelCNN of maps of K codes, whose first layer reads embeddings of d numbers. See GatedPixelCNN."""

    def __init__(
        self, size: tuple[int, int], K: int, rng: Generator, *, d: int = 32, p: int = 32, **options: Any
    ) -> None:
        super().__init__((*size, 1), rng, levels=K, p=p, **options)
        self.embedding = Embedding(K, d, rng)
        first = self.layers[0]
        first.v, first.h = (Conv(d, 2 * p, conv.taps, rng) for conv in (first.v, first.h))

    def rows(self, x: Tensor, condition: Any) -> list[Tensor]:
        return super().rows(_embedded(self.embedding, x), condition)

    def pixels(self, x: Tensor, rows: list[Tensor], condition: Any) -> Tensor:
        return super().pixels(_embedded(self.embedding, x), rows, condition)


class CodePixelSNAIL(PixelSNAIL):
    """A PixelSNAIL of maps of K codes, which reads embeddings of d numbers. See PixelSNAIL."""

    def __init__(
        self,
        size: tuple[int, int],
        K: int,
        rng: Generator,
        *,
        d: int = 32,
        F: int = 32,
        keys: int = 16,
        dropout: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__((*size, 1), rng, levels=K, mixtures=0, F=F, keys=keys, dropout=dropout, **options)
        self.embedding = Embedding(K, d, rng)
        read: Any = self.above.layer, self.left.layer
        self.above, self.left = (WeightNorm(Conv(d + 1, F, conv.taps, rng)) for conv in read)
        self.attention = [
            Attention(d + 1, F, keys, rng, self.classes, dropout) if attention else None for attention in self.attention
        ]

    def pixels(self, x: Tensor, rows: None, condition: Tensor | None) -> Tensor:
        return super().pixels(_embedded(self.embedding, x), rows, condition)
