"""What draws of the posterior p(z | x) are good for, by Hamiltonian Monte Carlo, which needs no encoder.

Kingma and Welling 2013, appendix D: an estimate of log p(x) that holds for a few latent dimensions. Their appendix E,
Monte Carlo EM, is VAE.monte_carlo_em.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator

from micrognm import backend, hmc
from micrognm.engine import Tensor, no_grad
from micrognm.models.latent.gaussian import ROWS, LatentGaussianModel
from micrognm.ops import concat, logsumexp

LEAPFROGS = 4  # of a transition


class Chains:
    """k draws of the posterior for each image of x, [N, k, n], which `run` moves on; at first they are the prior's."""

    def __init__(self, model: LatentGaussianModel, x: Tensor, rng: Generator, k: int) -> None:
        if len(model.q) != 1:
            raise ValueError(f"Chains: expected a model with one stochastic layer, got {len(model.q)}")
        self.model, self.rows, self.rng, self.step = model, model.rows(x, k), rng, 0.1
        self.z = backend.normal(rng, (len(x), k, model.q[0].n_out), x.dtype)

    def log_joint(self, z: Tensor) -> Tensor:
        """log p(x, z), [N, k]."""
        return self.model.log_joint(self.rows, [z])

    def run(self, transitions: int, adapting: bool = False) -> np.ndarray:
        """The draws so many transitions later; adapting: with steps whose size is tuned on the way."""
        for _ in range(transitions):
            self.z, chance = hmc.transition(self.log_joint, self.z, self.step, self.rng, LEAPFROGS)
            self.step = hmc.tuned(self.step, chance) if adapting else self.step
        return self.z


@no_grad()
def log_prob(
    model: LatentGaussianModel, x: Tensor, rng: Generator, draws: int = 50, warm: int = 100, between: int = 30
) -> Tensor:
    """An estimate of log p(x), [N] nats (appendix D): a density q is fitted to draws of the posterior, and with others

    1 / p(x) = E[q(z) / p(x, z)], z from p(z | x).

    q is normal, with the draws' mean and covariance for each image, so what the estimate is worth falls with the number
    of latent dimensions; the paper has 3. warm, between: transitions before the first draws, and from set to set.
    ValueError for fewer draws than two more than dimensions, and for models with several stochastic layers.
    """
    if draws < model.q[0].n_out + 2:
        raise ValueError(
            f"posterior.log_prob: a normal density of {model.q[0].n_out} dimensions needs {model.q[0].n_out + 2} draws "
            f"or more, got {draws}"
        )
    found, part = [], max(1, ROWS // draws)
    for start in range(0, len(x), part):
        chains = Chains(model, x[start : start + part], rng, draws)
        chains.run(warm, adapting=True)
        fitted, z = chains.run(between), chains.run(between)
        log_ratio = Tensor(_log_normal(z, fitted).astype(z.dtype)) - chains.log_joint(Tensor(z))
        found.append(math.log(draws) - logsumexp(log_ratio, axis=1))
    return concat(*found, axis=0)


def _log_normal(z: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """log q [N, k] of z [N, k, n], where q has mean and covariance of fitted [N, k, n]."""
    k, n = fitted.shape[1:]
    mean = fitted.mean(axis=1, keepdims=True)
    away, z = fitted - mean, z - mean
    covariance = np.swapaxes(away, 1, 2) @ away / (k - 1)
    square = (z * np.swapaxes(np.linalg.solve(covariance, np.swapaxes(z, 1, 2)), 1, 2)).sum(axis=-1)
    return -0.5 * (square + np.linalg.slogdet(covariance)[1][:, None] + n * math.log(2 * math.pi))
