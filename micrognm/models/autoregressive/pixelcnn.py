"""PixelCNN: the convolutional model of Pixel Recurrent Neural Networks (van den Oord et al. 2016a, arXiv 1601.06759).

A stack of convolutions whose taps end before the pixel they predict, so one pass gives all conditionals, equation 2.
The first, 7 x 7 with mask A, does not see its own pixel; the others, with mask B, do, and see earlier colours of it
(section 3.4). Between the ends, residual blocks of 2h features (section 3.5, figure 5, right).

Its stack has a blind spot: of the rows above it misses a wedge to the right of each pixel, which Gated PixelCNN sees.
"""

from __future__ import annotations

from typing import Any

from numpy.random import Generator

from micrognm.engine import Tensor
from micrognm.models.autoregressive import raster
from micrognm.models.autoregressive.raster import Raster, masked
from micrognm.nn import Module
from micrognm.ops import relu


class Block(Module):
    """x + (relu, 1x1 to h, relu, k x k of h, relu, 1x1 to 2h)."""

    def __init__(self, h: int, k: int, rng: Generator, groups: int) -> None:
        self.steps = [
            masked(2 * h, h, 1, "B", rng, groups, activation=relu),
            masked(h, h, k, "B", rng, groups, activation=relu),
            masked(h, 2 * h, 1, "B", rng, groups),
        ]

    def forward(self, x: Tensor) -> Tensor:
        y = relu(x)
        for step in self.steps:
            y = step(y)
        return x + y


class PixelCNN(Raster):
    """A density of images; see Raster for what it is asked.

    blocks of 2h features with taps of k x k; the last two 1 x 1 convolutions have `head` features. h and head must be
    divisible by 3 for images of three colours.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        rng: Generator,
        *,
        levels: int = 2,
        blocks: int = 5,
        h: int = 32,
        k: int = 3,
        head: int = 64,
        mixtures: int = 0,
    ) -> None:
        super().__init__(shape, levels, mixtures)
        groups = self.groups
        self.first = masked(shape[2], 2 * h, 7, "A", rng, groups)
        self.blocks = [Block(h, k, rng, groups) for _ in range(blocks)]
        self.head = raster.head(2 * h, head, self.outputs, rng, groups)

    def pixels(self, x: Tensor, rows: None, condition: Any) -> Tensor:
        h = self.first(x)
        for block in self.blocks:
            h = block(h)
        return self.head[1](self.head[0](relu(h)))
