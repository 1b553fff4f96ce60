"""What the models that write an image pixel by pixel share: log_prob, samples that cost one pass, completion.

p(x) = prod over pixels i, row by row, and colours c of p(x_ic | pixels before i, colours of i before c): van den Oord
et al. 2016a, equations 1 and 2.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.random import Generator

from micrognm import backend
from micrognm.distributions import Bernoulli, Categorical, LogisticMixture
from micrognm.engine import Tensor, no_grad
from micrognm.incremental import incremental
from micrognm.models.labels import checked
from micrognm.nn import Conv, MaskedConv, Module
from micrognm.ops import one_hot, relu, where
from micrognm.taps import causal


def masked(
    n_in: int,
    n_out: int,
    k: int,
    mask: str,
    rng: Generator,
    groups: int,
    taps: Any = causal,
    **options: Any,
) -> Conv:
    """A convolution by taps(k, mask), whose features are in 1 group or, for colours one after the other, in 3.

    It sees earlier pixels, and with mask "B" its own features; of 3 groups, those of the earlier colours.
    """
    if groups == 1:
        return Conv(n_in, n_out, taps(k, mask), rng, **options)
    return MaskedConv(n_in, n_out, taps(k, "B"), rng, mask=mask, **options)


def head(n_in: int, width: int, n_out: int, rng: Generator, groups: int) -> list[Conv]:
    """The last two 1 x 1 convolutions, with a relu between."""
    return [
        masked(n_in, width, 1, "B", rng, groups, activation=relu),
        masked(width, n_out, 1, "B", rng, groups),
    ]


class Raster(Module):
    """A density of images [N, H, W, colours] of values 0 .. levels - 1 (floats 0 and 1 for two levels, else integers).

    A model says how it computes: `rows`, what depends on the rows above alone, and `pixels`, the logits from that.
    """

    def __init__(self, shape: tuple[int, ...], levels: int, mixtures: int = 0) -> None:
        if len(shape) != 3 or min(shape) < 1 or shape[2] not in (1, 3) or levels < 2 or mixtures < 0:
            raise ValueError(
                f"{type(self).__name__}: expected shape (height, width, 1 or 3 colours), 2 or more levels and 0 "
                f"or more mixtures, got {tuple(shape)}, {levels} and {mixtures}"
            )
        self.shape, self.levels, self.mixtures = tuple(shape), levels, mixtures
        colours = shape[2]
        # Groups of features, one for each colour that is predicted given the earlier ones. A mixture is of all colours
        # together: there no feature may know a colour of its own pixel.
        self.groups = 1 if mixtures else colours
        # Numbers that predict a pixel; how often it is looked at, once for each colour unless all are drawn together;
        # and uniform numbers that a draw takes.
        if mixtures:
            self.outputs, self.looks, self.draws = mixtures * (3 if colours == 1 else 10), 1, 1 + colours
        else:
            self.outputs, self.looks, self.draws = colours * (1 if levels == 2 else levels), colours, colours

    def rows(self, x: Tensor, condition: Any) -> Any:
        """What `pixels` needs of the rows above."""
        return None

    def pixels(self, x: Tensor, rows: Any, condition: Any) -> Tensor:
        """[N, H, W, colours * K] from images as `read` gives them."""
        raise NotImplementedError

    def condition(self, given: Any, n: int) -> Any:
        """What the model is told of n images, as `rows` and `pixels` take it."""
        if given is not None:
            raise ValueError(f"{type(self).__name__} was made without conditions, so it cannot be given one")
        return None

    def one_hot(self, labels: Any, n: int, classes: int) -> Tensor:
        """Labels [n] as [n, 1, 1, classes]. ValueError for what is no label."""
        labels = checked(type(self).__name__, labels, n, classes)
        return one_hot(labels, classes, self.parameters()[0].dtype).reshape(shape=(n, 1, 1, classes))

    def forward(self, x: Tensor, given: Any = None) -> Tensor:
        """The numbers that predict each pixel, [N, H, W, outputs]."""
        condition = self.condition(given, len(x))
        image = self.read(x)
        return self.pixels(image, self.rows(image, condition), condition)

    def distribution(self, out: Tensor, temperature: float = 1.0) -> Bernoulli | Categorical | LogisticMixture:
        """p(x_i | what comes before) from [..., outputs]: of colours [..., colours], or of pixels with mixtures."""
        colours = self.shape[2]
        if self.mixtures:
            if temperature != 1:
                flatter = np.ones(self.outputs // self.mixtures)
                flatter[0] = 1 / temperature
                wider = np.zeros(self.outputs // self.mixtures)
                wider[1 + colours : 1 + 2 * colours] = np.log(temperature)
                out = out * _repeat(flatter, self.mixtures, out) + _repeat(wider, self.mixtures, out)
            return LogisticMixture(out, self.levels, self.mixtures)
        if self.levels == 2:
            return Bernoulli(out / temperature)
        return Categorical(out.reshape(shape=(*out.shape[:-1], colours, self.levels)) / temperature)

    def read(self, x: Tensor) -> Tensor:
        """Images as the network reads them, scaled to -1 .. 1. ValueError for other shapes and values."""
        name = type(self).__name__
        if x.shape[1:] != self.shape:
            raise ValueError(f"{name}: expected images [N, {', '.join(map(str, self.shape))}], got {list(x.shape)}")
        if x.size and not 0 <= x.data.min() <= x.data.max() <= self.levels - 1:
            raise ValueError(
                f"{name}: expected pixel values 0 to {self.levels - 1}, got {x.data.min()} to {x.data.max()}"
            )
        dtype = self.parameters()[0].dtype
        return x.cast(dtype) * (2 / (self.levels - 1)) - 1

    def log_prob(self, x: Tensor, given: Any = None) -> Tensor:
        """log p(x | given), [N] nats."""
        each = self.distribution(self.forward(x, given)).log_prob(x)
        return each.reshape(shape=(len(x), each.size // max(len(x), 1))).sum(axis=1)

    def sample(self, n: int, rng: Generator, given: Any = None, *, temperature: float = 1.0) -> Tensor:
        """n images [n, *shape]. Logits are divided by the temperature."""
        u = backend.uniform(rng, (n, *self.shape[:2], self.draws), self.parameters()[0].dtype)
        return self.sample_from(Tensor(u), given, temperature=temperature)

    def complete(self, x: Tensor, known: Any, rng: Generator, given: Any = None, *, temperature: float = 1.0) -> Tensor:
        """Images with the pixels not known (booleans [H, W, 1]) drawn anew, each given all that comes before it.

        That follows p(unknown | known) where the known pixels come first, as an upper half does.
        """
        u = Tensor(backend.uniform(rng, (len(x), *self.shape[:2], self.draws), self.parameters()[0].dtype))
        return self.sample_from(u, given, x=x, known=known, temperature=temperature)

    @no_grad()
    def sample_from(
        self, u: Tensor, given: Any = None, *, x: Tensor | None = None, known: Any = None, temperature: float = 1.0
    ) -> Tensor:
        """Images from uniform numbers u [n, H, W, draws]; known pixels (booleans [H, W, 1]) are those of x.

        Each layer is computed once at each pixel (`incremental`), so an image costs about one forward pass.
        """
        H, W, _ = self.shape
        if u.shape[1:] != (H, W, self.draws) or not temperature > 0:
            raise ValueError(
                f"{type(self).__name__}: expected u [n, {H}, {W}, {self.draws}] and temperature > 0, "
                f"got {list(u.shape)} and {temperature}"
            )
        if known is not None and known.shape != (H, W, 1):
            raise ValueError(f"{type(self).__name__}: expected known [{H}, {W}, 1], got {list(known.shape)}")
        fixed = np.zeros((H, W), bool) if known is None else known[..., 0]
        condition = self.condition(given, len(u))
        shape = (len(u), *self.shape)
        drawn = Tensor(backend.zeros(shape, u.dtype if self.levels == 2 and not self.mixtures else np.int64))
        image = Tensor(backend.zeros(shape, u.dtype))
        if x is not None:
            drawn, image = (where(fixed[:, :, None], v, 0) for v in (x, self.read(x)))
        with incremental((H, W)) as at:
            for i in range(H):
                with at(i):
                    rows = self.rows(image, condition)
                for j in range(W):
                    for look in range(1 if fixed[i, j] else self.looks):
                        with at(i, j):
                            out = self.pixels(image, rows, condition)[:, 0, 0]
                        if fixed[i, j]:
                            continue
                        value = self.distribution(out, temperature).sample_from(u[:, i, j])
                        colours = slice(None) if self.mixtures else slice(look, look + 1)
                        drawn[:, i, j, colours] = value[:, colours]
                        image[:, i, j, colours] = value[:, colours].cast(u.dtype) * (2 / (self.levels - 1)) - 1
        return drawn


def _repeat(numbers: np.ndarray, mixtures: int, like: Tensor) -> Tensor:
    return Tensor(numbers.repeat(mixtures).astype(like.dtype))
