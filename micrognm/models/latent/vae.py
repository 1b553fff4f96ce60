"""VAE: Auto-Encoding Variational Bayes (Kingma & Welling 2013, arXiv 1312.6114).

A decoder p(x | z) with a standard normal z, and an encoder q(z | x) that is trained with it on one lower bound of
log p(x). A draw of q is written z = mean + std * noise, so that the gradient of the bound passes through the draw: the
reparametrisation. Both estimators are here, with L draws an image:

    A (equation 6)  1/L sum_l log p(x, z_l) - log q(z_l | x)
    B (equation 7)  1/L sum_l log p(x | z_l) - KL(q(z | x) || p(z)), the second term in closed form (appendix B)

Where what is: the decoders, Bernoulli and Gaussian with means in [0, 1] (appendix C); the manifold of figure 4; what
figures 2 and 3 compare with, the wake-sleep algorithm (Hinton et al. 1995) and Monte Carlo EM (appendix E); weights
with a distribution of their own (appendix F), in full_vb.py. The likelihood is estimated by importance sampling (Burda
et al. 2015); appendix D's estimate, which holds for few latent dimensions, is in posterior.py. Networks give the log of
the standard deviation, not of the variance. Weights start as draws of N(0, 0.01), a variance. Deviation: a draw for EM
starts at the prior each time and serves one step, where the paper's serves five.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.random import Generator

from micrognm import backend, hmc
from micrognm.distributions import kl
from micrognm.engine import Tensor, no_grad
from micrognm.models.latent.gaussian import Gaussian, LatentGaussianModel, Pixels, log_density, standard
from micrognm.nn import Linear, init

TRANSITIONS, LEAPFROGS = 3, 10  # of monte_carlo_em, and steps of each


class VAE(LatentGaussianModel):
    """Images [N, *shape]: of 0 and 1 for a Bernoulli decoder, of values in [0, 1] for a Gaussian one.

    n_z: latent dimensions. hidden: units of the encoder's tanh layers; the decoder has the same in reverse. linear:
    what makes the decoder's layers.
    """

    def __init__(
        self,
        shape: Sequence[int],
        n_z: int,
        hidden: Sequence[int],
        rng: Generator,
        *,
        decoder: Literal["bernoulli", "gaussian"] = "bernoulli",
        linear: type[Linear] = Linear,
    ) -> None:
        D, start = int(np.prod(shape)), init.normal(0.1)
        if n_z < 1 or D < 1:
            raise ValueError(f"VAE: expected 1 or more latent dimensions and pixels, got n_z={n_z}, shape={shape}")
        q = Gaussian(D, hidden, n_z, rng, start)
        if decoder == "bernoulli":
            super().__init__(shape, [q], [], Pixels(n_z, hidden[::-1], D, rng, start, linear))
        elif decoder == "gaussian":
            super().__init__(shape, [q], [], Gaussian(n_z, hidden[::-1], D, rng, start, True, linear))
        else:
            raise ValueError(f"VAE: decoder must be 'bernoulli' or 'gaussian', got {decoder!r}")
        self.leap = Tensor(np.array(0.1))  # the size of monte_carlo_em's leapfrog steps

    def sgvb_a(self, x: Tensor, rng: Generator, L: int = 1) -> Tensor:
        """Estimator A of the bound, [N] nats."""
        return self.log_weights(x, L, rng).mean(axis=1)

    def sgvb_b(self, x: Tensor, rng: Generator, L: int = 1) -> Tensor:
        """Estimator B of the bound, [N] nats."""
        reconstruction, divergence = self.terms(x, rng, L)
        return reconstruction - divergence

    def terms(self, x: Tensor, rng: Generator, L: int = 1) -> tuple[Tensor, Tensor]:
        """The expected log p(x | z), from L draws, and the divergence KL(q(z | x) || p(z)), each [N] nats."""
        rows = self.rows(x, L)
        q = self.q[0](rows)
        (z,), _ = self.infer(q, L, rng)
        return self.decoder.log_likelihood(rows, z).mean(axis=1), kl(q, standard(z)).sum(axis=(1, 2))

    def wake_sleep(self, x: Tensor, rng: Generator) -> Tensor:
        """[N] numbers whose gradient is wake-sleep's: no bound of anything.

        Wake: log p(x | z) for z of q, which trains the decoder. Sleep: log q(z' | x') for a dream (x', z') of p, which
        trains the encoder.
        """
        rows = self.rows(x, 1)
        with no_grad():
            (z,), _ = self.infer(self.q[0](rows), 1, rng)
            dreamt = Tensor(backend.normal(rng, z.shape, z.dtype))
            dream = self.decoder(dreamt).sample(rng)
        return (self.decoder.log_likelihood(rows, z) + log_density([dreamt], [self.q[0](dream)])).sum(axis=1)

    def monte_carlo_em(self, x: Tensor, rng: Generator) -> Tensor:
        """log p(x, z), [N] nats, for a draw z of the posterior (appendix E): its gradient trains the decoder alone.

        The draw is what a few transitions of Hamiltonian Monte Carlo make of one of the prior, in steps whose size is
        tuned from call to call.
        """
        rows = self.rows(x, 1)
        z = backend.normal(rng, (len(x), 1, self.q[0].n_out), x.dtype)
        for _ in range(TRANSITIONS):
            z, chance = hmc.transition(lambda z: self.log_joint(rows, [z]), z, self.leap.item(), rng, LEAPFROGS)
            self.leap[...] = hmc.tuned(self.leap.item(), chance)
        return self.log_joint(rows, [Tensor(z)]).sum(axis=1)

    @no_grad()
    def manifold(self, side: int) -> Tensor:
        """Expected images [side * side, *shape] on a grid of a two-dimensional z, row by row (figure 4).

        The grid is even in probability: the inverse normal distribution function of (1/2 ... side - 1/2) / side.
        """
        if self.q[0].n_out != 2:
            raise ValueError(f"VAE.manifold: z has {self.q[0].n_out} dimensions, a picture needs n_z=2")
        from scipy.special import ndtri

        line = ndtri((np.arange(side) + 0.5) / side)
        z = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 1, 2)
        return self.images(self.decoder(Tensor(z.astype(self.decoder.parameters()[0].dtype))).mean)
