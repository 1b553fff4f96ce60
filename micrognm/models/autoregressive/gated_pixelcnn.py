"""Gated PixelCNN: Conditional Image Generation with PixelCNN Decoders (van den Oord et al. 2016b, arXiv 1606.05328).

Two stacks of convolutions instead of one: the vertical one sees all rows above a pixel, the horizontal one the row so
far and, in every layer, what the vertical one found. So no earlier pixel is missed, as in PixelCNN's blind spot. Each
layer is gated, y = tanh(W_f * x) sigmoid(W_g * x), as an LSTM is.

Where what is: the gate (equation 2), the two stacks (section 2.2, figure 2), conditions that do not depend on the place
(equation 4) and that do, a map s (equation 5). The vertical maps at row i hold rows before i from the first layer on,
so the link between the stacks needs no shift. Only the horizontal stack has residual connections, and not in its first
layer, which would show a pixel to itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.random import Generator

from micrognm.engine import Tensor
from micrognm.formula import formula, sigmoid, tanh
from micrognm.incremental import column, here
from micrognm.models.autoregressive import raster
from micrognm.models.autoregressive.raster import Raster, masked
from micrognm.nn import Conv, Linear, Module
from micrognm.nn.init import he_uniform
from micrognm.ops import relu, split
from micrognm.taps import horizontal, square, vertical


@formula
def gate(a, b):  # type: ignore[no-untyped-def]
    """tanh(a) sigmoid(b), equation 2."""
    return tanh(a) * sigmoid(b)


class Layer(Module):
    """One layer of both stacks, of maps v and h [N, H, W, p] (figure 2).

    Its taps are k x k, `dilation` apart. first: it reads the image itself, of n_in channels, and not its own pixel.
    last: nobody reads its v, so it makes none. told: channels of the condition, or 0.
    """

    def __init__(
        self,
        n_in: int,
        p: int,
        k: int,
        rng: Generator,
        *,
        dilation: int,
        groups: int,
        first: bool,
        last: bool,
        told: int,
    ) -> None:
        self.groups, self.first, self.last = groups, first, last
        mask = "A" if first else "B"
        draw = he_uniform(gain=2.0)  # near 0 the gate halves what it is given
        self.v = Conv(n_in, 2 * p, vertical(k, mask).dilate(dilation), rng, init=draw)
        self.link = Conv(2 * p, 2 * p, square(1), rng)
        self.h = masked(n_in, 2 * p, k, mask, rng, groups, lambda *of: horizontal(*of).dilate(dilation), init=draw)
        self.out = masked(p, p, 1, "B", rng, groups)
        self.V_h = Linear(told, 2 * p, rng, bias=False) if told else None
        self.V_v = Linear(told, 2 * p, rng, bias=False) if told and not last else None

    def vertical(self, v: Tensor, s: Tensor | None) -> tuple[Tensor, Tensor]:
        """The next v, and what the horizontal stack is added before its gate: the link and its condition."""
        z = self.v(v)
        link = self.link(z) if self.V_h is None else self.link(z) + self.V_h(s)
        if self.last:
            return v, link
        return self._gate(z if self.V_v is None else z + self.V_v(s), 1), link

    def horizontal(self, h: Tensor, link: Tensor) -> Tensor:
        y = self.out(self._gate(self.h(h) + link, self.groups))
        return y if self.first else h + y

    def _gate(self, z: Tensor, groups: int) -> Tensor:
        """The gate of the two halves of each group's channels."""
        halves = z.reshape(shape=(*z.shape[:-1], groups, 2, z.shape[-1] // (2 * groups)))
        y = gate(*split(halves, [1, 1], axis=-2))
        return y.reshape(shape=(*z.shape[:-1], z.shape[-1] // 2))


class GatedPixelCNN(Raster):
    """A density of images; see Raster for what it is asked.

    layers of p features, with taps of k x k, 7 x 7 in the first; the last two 1 x 1 convolutions have `head` features.
    dilations: how far apart the taps are, layer by layer and from the start again; the first layer's have no gaps. The
    paper has none either: they let few layers see a whole digit.
    What it is told: classes labels (integers [N]), or told numbers that depend on the place ([N, H, W, told]) or do not
    ([N, told]); with neither it is unconditional. p and head must be divisible by 3 for images of three colours.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        rng: Generator,
        *,
        levels: int = 2,
        layers: int = 6,
        p: int = 32,
        k: int = 3,
        dilations: Sequence[int] = (1,),
        head: int = 64,
        mixtures: int = 0,
        classes: int = 0,
        told: int = 0,
    ) -> None:
        super().__init__(shape, levels, mixtures)
        if layers < 1 or not dilations or (classes and told):
            raise ValueError(
                "GatedPixelCNN: expected 1 or more layers and dilations, and classes or told but not both, "
                f"got layers={layers}, dilations={tuple(dilations)}, classes={classes}, told={told}"
            )
        self.classes, self.told = classes, classes or told
        self.layers = [
            Layer(
                p if i else shape[2],
                p,
                k if i else 7,
                rng,
                dilation=dilations[i % len(dilations)] if i else 1,
                groups=self.groups,
                first=i == 0,
                last=i == layers - 1,
                told=self.told,
            )
            for i in range(layers)
        ]
        self.head = raster.head(p, head, self.outputs, rng, self.groups)

    def condition(self, given: Any, n: int) -> Tensor | None:
        """What the layers are told: [n, 1, 1, told], or [n, H, W, told]. ValueError for what does not fit."""
        if not self.told:
            return super().condition(given, n)
        if self.classes:
            return self.one_hot(given, n, self.classes)
        H, W, _ = self.shape
        shape = tuple(getattr(given, "shape", ()))
        if shape not in ((n, self.told), (n, H, W, self.told)):
            raise ValueError(
                f"GatedPixelCNN: expected a condition [{n}, {self.told}] or [{n}, {H}, {W}, {self.told}], got {shape}"
            )
        given = given if isinstance(given, Tensor) else Tensor(given)
        return given if len(shape) == 4 else given.reshape(shape=(n, 1, 1, self.told))

    def rows(self, x: Tensor, condition: Any) -> list[Tensor]:
        """The vertical stack: each layer's link."""
        s = here(condition) if condition is not None and condition.shape[1] > 1 else condition
        v, links = x, []
        for layer in self.layers:
            v, link = layer.vertical(v, s)
            links.append(link)
        return links

    def pixels(self, x: Tensor, rows: list[Tensor], condition: Any) -> Tensor:
        """The horizontal stack, and the logits."""
        h = x
        for layer, link in zip(self.layers, rows, strict=True):
            h = layer.horizontal(h, column(link))
        return self.head[1](self.head[0](relu(h)))
