"""Hamiltonian Monte Carlo (Duane et al. 1987, "hybrid" there): draws from a density that is known up to a factor.

Each row of z is a chain of its own. A transition draws a momentum p, follows the path of the energy
H = -log p(z) + |p|^2 / 2 for some leapfrog steps, and takes its end with probability min(1, e^-(energy gained)): the
density stays as it is, whatever the size of the steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.random import Generator

from micrognm import backend
from micrognm.engine import Tensor, grad, setting

Array = Any
Density = Callable[[Tensor], Tensor]  # z [..., n] -> its log [...], but for a constant
ACCEPTED = 0.9  # the share of transitions that `tuned` aims at


def transition(log_p: Density, z: Array, step: float, rng: Generator, leapfrogs: int) -> tuple[Array, Array]:
    """The next state of each chain, from z [..., n], and the probability with which the path's end was taken, [...].

    step: the longest of a leapfrog step; each chain draws its own, of half of that or more, as a path of one length may
    lead back to where it began (Neal 2011, section 3.2). A path that leads to infinity or NaN is not taken.
    """
    momentum = backend.normal(rng, z.shape, z.dtype)
    size = (step * (1 - 0.5 * backend.uniform(rng, (*z.shape[:-1], 1)))).astype(z.dtype)
    value, slope = _slope(log_p, z)
    before = value - 0.5 * (momentum * momentum).sum(axis=-1)
    at = z
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(leapfrogs):
            momentum = momentum + 0.5 * size * slope
            at = at + size * momentum
            value, slope = _slope(log_p, at)
            momentum = momentum + 0.5 * size * slope
        gained = value - 0.5 * (momentum * momentum).sum(axis=-1) - before
        chance = np.where(np.isfinite(gained), np.exp(np.minimum(gained, 0)), 0)
    taken = backend.uniform(rng, chance.shape) < chance
    return np.where(taken[..., None], at, z), chance


def tuned(step: float, chance: Array) -> float:
    """The size of the next steps: longer where more than ACCEPTED of the last transitions were taken, else shorter."""
    return step * float(np.exp(0.3 * (chance.mean() - ACCEPTED)))


def _slope(log_p: Density, z: Array) -> tuple[Array, Array]:
    """log p [...] and its gradient, in arrays."""
    with setting(recording=True):
        leaf = Tensor(z, requires_grad=True)
        value = log_p(leaf)
    return value.data, grad(value, leaf, Tensor(np.ones_like(value.data))).data  # chains do not know of each other
