"""Glow: Generative Flow with Invertible 1x1 Convolutions (Kingma & Dhariwal 2018, arXiv 1807.03039).

K steps of flow at each of L scales; a step is actnorm (each channel scaled and shifted), an invertible 1x1 convolution
(a learned mixing of the channels where earlier flows reversed or shuffled them), and a coupling: half of the channels
is scaled and shifted by what a network makes of the other half. Every map has a cheap inverse and log-determinant.

Where what is: actnorm (section 3.1), the 1x1 convolution (3.2, equation 9) and its PLU form (equations 10 and 11), the
coupling with a last convolution that starts at 0 (3.3), scales (figure 2b), temperature (section 6). From the authors'
code, where the paper is silent: a scale of sigmoid(h + 2), log scales that are learned times 3, actnorm within the
networks, convolutions that know the edge of the image, split priors and a top prior that are learned, the class told
to the top prior, and read from the top latents for `log_joint`. Deviations: channels are halved front and back, where
the code pairs even and odd ones, which is the same but for their names; split halves are divided by what predicts them,
so latents are standard normal, and the temperature is of all of them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.random import Generator

from micrognm import backend
from micrognm import formula as f
from micrognm.distributions import Categorical
from micrognm.engine import Tensor, no_grad
from micrognm.formula import formula
from micrognm.models.flow.flow import Flow, Latents, like_logdet, squeezable, squeeze, standard_normal, unsqueeze
from micrognm.nn import Embedding, Linear, Module, Parameter, init
from micrognm.ops import (
    broadcast_to,
    concat,
    conv,
    coupling,
    coupling_inverse,
    exp,
    invertible,
    invertible_inverse,
    log,
    mean,
    mul,
    plu,
    relu,
    split,
    sqrt,
    var,
)
from micrognm.reversible import is_frozen
from micrognm.taps import Taps, square

Mixing = Literal["1x1", "plu", "shuffle", "reverse"]
Coupling = Literal["affine", "additive"]
FACTOR = 3.0  # a log scale is its parameter times this


@formula
def scaled(w, logs):  # type: ignore[no-untyped-def]
    """w exp(3 logs)"""
    return w * f.exp(FACTOR * logs)


@formula
def relu_of_sum(x, y):  # type: ignore[no-untyped-def]
    """relu(x + y)"""
    return f.where(x + y <= 0, 0, x + y)


class Conv(Module):
    """(W * x + E * edge + b) exp(3 logs): x [N, H, W, n_in] -> [N, H, W, n_out], with k x k taps; then perhaps relu.

    edge is 1 outside the image and 0 inside. b is the last row of E: one product makes E * edge + b. zero: starts at 0.
    Otherwise this ends in an actnorm: the first batch in training sets b and logs so that each channel has mean 0 and
    variance 1 over it.
    """

    def __init__(
        self, n_in: int, n_out: int, k: int, rng: Generator, *, zero: bool = False, rectified: bool = False
    ) -> None:
        draw = init.zeros() if zero else init.normal(0.05)
        self.taps, self.rectified = square(k), rectified
        self.W = Parameter(draw(rng, (k * k, n_in, n_out)))
        E, b = draw(rng, (k * k, n_out)), np.zeros((1, n_out), np.float32)
        self.E = Parameter(np.concatenate([E, b]) if k > 1 else b)  # the tap of a 1x1 convolution is never outside
        self.logs = Parameter(np.zeros(n_out, np.float32))
        self.initialised = Tensor(np.array(zero))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not is_frozen() and not self.initialised:
            with no_grad():
                centre, logs = _standard(self.apply(x, rectified=False))
                self.E.data[-1] = -centre.data
                self.logs.data[...] = logs.data
                self.initialised[...] = True
        return self.apply(x, self.rectified)

    def apply(self, x: Tensor, rectified: bool) -> Tensor:
        W, E = scaled(self.W, self.logs), scaled(self.E, self.logs)
        if len(self.taps) == 1:
            return conv(x, W, E.reshape(shape=-1), taps=self.taps, activation=relu if rectified else None)
        y = conv(x, W, taps=self.taps)
        edge = (outside(self.taps, *x.shape[1:3], x.dtype.name, backend.device()) @ E).reshape(shape=(1, *y.shape[1:]))
        return relu_of_sum(y, edge) if rectified else y + edge


@functools.cache
def outside(taps: Taps, H: int, W: int, dtype: str, device: str) -> Tensor:
    """[H W, taps + 1]: 1 where a tap of a pixel lies outside the image, else 0; and a last column of ones."""
    places = np.indices((H, W)).reshape(2, -1, 1) + np.array(taps.offsets).T[:, None]
    inside = ((places >= 0) & (places < np.array([H, W]).reshape(2, 1, 1))).all(axis=0)
    return Tensor(np.append(~inside, np.ones((H * W, 1)), axis=1).astype(dtype))


def _standard(x: Tensor) -> tuple[Tensor, Tensor]:
    """Means of the channels, and log scales (before FACTOR) that bring their variances to 1."""
    axes = tuple(range(x.ndim - 1))
    return mean(x, axis=axes), -log(sqrt(var(x, axis=axes)) + 1e-6) / FACTOR


class Step(Module):
    """One step of flow on x [N, H, W, C], C even: actnorm, mixing of the channels, coupling (figure 2a).

    mixing: "1x1", "plu" (the same, by its decomposition), "shuffle" (a fixed random permutation) or "reverse".
    """

    def __init__(self, C: int, width: int, rng: Generator, *, mixing: Mixing = "1x1", coupling: Coupling = "affine"):
        if C < 2 or C % 2 or mixing not in ("1x1", "plu", "shuffle", "reverse"):
            raise ValueError(
                f'Step: expected an even number of channels and mixing "1x1", "plu", "shuffle" or "reverse", '
                f"got {C} and {mixing!r}"
            )
        if coupling not in ("affine", "additive"):
            raise ValueError(f'Step: coupling must be "affine" or "additive", got {coupling!r}')
        self.mixing, self.coupling = mixing, coupling
        self.b = Parameter(np.zeros(C, np.float32))
        self.logs = Parameter(np.zeros(C, np.float32))
        self.initialised = Tensor(np.array(False))
        eye = np.eye(C, dtype=np.float32)
        if mixing == "1x1":
            self.W: Tensor = Parameter(init.orthogonal()(rng, (C, C)))
        elif mixing == "plu":
            from scipy.linalg import lu

            self.P, L, U = (Tensor(each) for each in lu(init.orthogonal()(rng, (C, C))))
            diagonal = np.diagonal(U.numpy())
            self.L, self.U = Parameter(L.numpy()), Parameter(U.numpy())
            self.log_s, self.sign = Parameter(np.log(np.abs(diagonal))), Tensor(np.sign(diagonal))
        else:
            self.W = Tensor(eye[:, ::-1].copy() if mixing == "reverse" else eye[:, rng.permutation(C)])
        self.net = [
            Conv(C // 2, width, 3, rng, rectified=True),
            Conv(width, width, 1, rng, rectified=True),
            Conv(width, C if coupling == "affine" else C // 2, 3, rng, zero=True),
        ]

    def weight(self) -> tuple[Tensor, Tensor | float]:
        """W [C, C], and what is known of log |det W| without computing it: all but for a mixing "1x1"."""
        return plu(self.P, self.L, self.U, self.log_s, self.sign) if self.mixing == "plu" else (self.W, 0.0)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.training and not is_frozen() and not self.initialised:
            with no_grad():
                centre, logs = _standard(x)
                self.logs.data[...] = logs.data
                self.b.data[...] = (-centre * exp(FACTOR * logs)).data
                self.initialised[...] = True
        W, known = self.weight()
        y, total = invertible(x, W, FACTOR * self.logs, self.b, determinant=self.mixing == "1x1")
        if self.mixing == "plu":
            total = total + known * float(x.shape[1] * x.shape[2])
        a, b = split(y, (y.shape[-1] // 2,) * 2)
        if self.coupling == "additive":
            return concat(a, b + self.predict(a)[0], axis=-1), broadcast_to(total, shape=(len(x),))
        b, each = coupling(b, *self.predict(a)[::-1], sigmoid=True)
        return concat(a, b, axis=-1), total + each

    def inverse(self, y: Tensor) -> Tensor:
        """The x of which `forward` makes y."""
        a, b = split(y, (y.shape[-1] // 2,) * 2)
        if self.coupling == "additive":
            b = b - self.predict(a)[0]
        else:
            b, _ = coupling_inverse(b, *self.predict(a)[::-1], sigmoid=True)
        return invertible_inverse(concat(a, b, axis=-1), self.weight()[0], FACTOR * self.logs, self.b)

    def predict(self, a: Tensor) -> tuple[Tensor, ...]:
        """The shift of the other half and, in an affine coupling, h of its scale sigmoid(h + 2)."""
        h = self.net[2](self.net[1](self.net[0](a)))
        return (h,) if self.coupling == "additive" else split(h, (a.shape[-1],) * 2)


class Glow(Flow):
    """A density of images [N, *shape] of dequantised values in [0, levels); see Flow for the rest.

    L scales of K steps, width: channels within the couplings' networks. Each scale but the last gives up half of its
    channels, whose mean and scale a convolution predicts from the other half. Sides must be multiples of 2^L.
    """

    def __init__(
        self,
        shape: Sequence[int],
        rng: Generator,
        *,
        levels: int = 256,
        L: int = 3,
        K: int = 32,
        width: int = 512,
        mixing: Mixing = "1x1",
        coupling: Coupling = "affine",
        classes: int = 0,
        reversible: bool = False,
    ) -> None:
        super().__init__(shape, levels, classes, reversible)
        if L < 1 or K < 1 or width < 1:
            raise ValueError(f"Glow: expected L, K and width of 1 or more, got {L}, {K} and {width}")
        squeezable("Glow", self.shape, L)
        H, W, C = self.shape
        self.steps: list[list[Step]] = []
        self.priors: list[Conv] = []
        self.latent_shapes = []
        for scale in range(L):
            H, W, C = H // 2, W // 2, 4 * C
            self.steps.append([Step(C, width, rng, mixing=mixing, coupling=coupling) for _ in range(K)])
            if scale < L - 1:
                C //= 2
                self.priors.append(Conv(C, 2 * C, 3, rng, zero=True))
            self.latent_shapes.append((H, W, C))
        self.top = Parameter(np.zeros(2 * C, np.float32))  # means and log standard deviations
        self.of_class = Embedding(classes, 2 * C, rng, init.zeros()) if classes else None
        self.classifier = Linear(C, classes, rng, init=init.zeros()) if classes else None

    @property
    def dtype(self) -> np.dtype:
        return self.top.dtype

    def read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x / self.levels - 0.5, like_logdet(x, -self.D * math.log(self.levels))

    def write(self, y: Tensor) -> Tensor:
        return (y + 0.5) * self.levels

    def to_latents(self, y: Tensor, labels: Any) -> tuple[Latents, Tensor]:
        latents, z, logdet = self.to_top(y)
        e, each = coupling_inverse(z, *self.top_prior(z, labels))
        return [*latents, e], logdet + each

    def to_top(self, y: Tensor) -> tuple[Latents, Tensor, Tensor]:
        """The latents of all scales but the last, what the last one's prior is of, and log-determinants so far."""
        latents, logdet = [], like_logdet(y, 0.0)
        for scale, steps in enumerate(self.steps):
            y, each = self.run(steps, squeeze(y))
            logdet = logdet + each
            if scale < len(self.priors):
                y, z = split(y, (y.shape[-1] // 2,) * 2)
                e, each = coupling_inverse(z, *self.split_prior(scale, y))
                latents.append(e)
                logdet = logdet + each
        return latents, y, logdet

    def from_latents(self, latents: Latents, labels: Any) -> Tensor:
        e = latents[-1]
        y, _ = coupling(e, *self.top_prior(e, labels))
        for scale in reversed(range(len(self.steps))):
            if scale < len(self.priors):
                z, _ = coupling(latents[scale], *self.split_prior(scale, y))
                y = concat(y, z, axis=-1)
            for step in reversed(self.steps[scale]):
                y = step.inverse(y)
            y = unsqueeze(y)
        return y

    def split_prior(self, scale: int, y: Tensor) -> tuple[Tensor, ...]:
        """Log standard deviations and means of the half that a scale gives up, from the half that goes on."""
        return split(self.priors[scale](y), (y.shape[-1],) * 2)

    def top_prior(self, z: Tensor, labels: Any) -> tuple[Tensor, ...]:
        """Log standard deviations and means of the last scale, given the class."""
        N, H, W, C = z.shape
        top = self.top.reshape(shape=(1, 2 * C))
        if self.of_class is not None:
            top = top + self.of_class(labels)
        return split(broadcast_to(top.reshape(shape=(len(top), 1, 1, 2 * C)), shape=(N, H, W, 2 * C)), (C, C))

    def log_joint(self, x: Tensor, labels: Any, weight: float = 0.01) -> Tensor:
        """log p(x | labels) + weight log q(labels | top latents), [N]: what a class-conditional Glow is trained on.

        q is a softmax of the means over the pixels. It makes the top latents tell the classes apart.
        """
        if self.classifier is None:
            raise ValueError("Glow.log_joint: the model was made without classes")
        self.check(x)
        y, logdet = self.read(x)
        labels = self.told(labels, len(x))
        latents, z, each = self.to_top(y)
        e, last = coupling_inverse(z, *self.top_prior(z, labels))
        q = Categorical(self.classifier(mean(z, axis=(1, 2))))
        return standard_normal([*latents, e]) + logdet + each + last + mul(weight, q.log_prob(labels))
