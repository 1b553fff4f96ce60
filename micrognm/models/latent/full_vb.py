"""A VAE whose decoder's weights are random variables too: Kingma and Welling 2013, appendix F.

Each weight has a prior N(0, 1) and a posterior N(mean, std^2), which is drawn from by the same reparametrisation as z,
once a step. The bound of a whole data set is N times an image's less KL(q(weights) || p(weights)).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.random import Generator

from micrognm import backend
from micrognm.distributions import Normal, kl
from micrognm.engine import Tensor
from micrognm.models.latent.gaussian import standard
from micrognm.models.latent.vae import VAE
from micrognm.nn import Linear, Parameter
from micrognm.nn.init import Initialiser
from micrognm.ops import exp

START = -4.0  # of the logs of the standard deviations


class UncertainLinear(Linear):
    """Linear whose weight and bias are normal variables: drawn at each call in training, their means in evaluation.

    rng is kept, for the draws: its state belongs to a checkpoint.
    """

    def __init__(self, n_in: int, n_out: int, rng: Generator, *, init: Initialiser | None = None) -> None:
        super().__init__(n_in, n_out, rng, init=init)
        assert self.bias is not None  # Linear has one unless it is told otherwise
        self.weight_log_std = Parameter(np.full(self.weight.shape, START, np.float32))
        self.bias_log_std = Parameter(np.full(self.bias.shape, START, np.float32))
        self.rng = rng

    def variables(self) -> list[Normal]:
        """The weight's and the bias's distributions."""
        assert self.bias is not None
        return [Normal(self.weight, self.weight_log_std), Normal(self.bias, self.bias_log_std)]

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        weight, bias = (
            of.mean + exp(of.log_std) * Tensor(backend.normal(self.rng, of.mean.shape, of.mean.dtype))
            for of in self.variables()
        )
        return self.apply(x, weight, bias)

    def divergence(self) -> Tensor:
        """KL(q || p) of weight and bias, one number in nats."""
        weight, bias = (kl(of, standard(of.mean)).sum() for of in self.variables())
        return weight + bias


class FullVB(VAE):
    """A VAE of `images` training images with uncertain weights in the decoder; the other arguments are VAE's."""

    def __init__(
        self, shape: Sequence[int], n_z: int, hidden: Sequence[int], rng: Generator, *, images: int, **more: Any
    ) -> None:
        if images < 1:
            raise ValueError(f"FullVB: expected 1 or more training images, got {images}")
        super().__init__(shape, n_z, hidden, rng, linear=UncertainLinear, **more)
        self.number = images

    def full_bound(self, x: Tensor, rng: Generator, L: int = 1) -> Tensor:
        """The bound of the data set's likelihood, weights and all, as a share of each image, [N] nats (appendix F)."""
        divergences = [m.divergence() for m in self.decoder.modules() if isinstance(m, UncertainLinear)]
        return self.sgvb_b(x, rng, L) - sum(divergences[1:], divergences[0]) * (1 / self.number)
