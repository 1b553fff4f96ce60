"""Hamiltonian Monte Carlo draws from the density it is given, whatever the size of its steps."""

from __future__ import annotations

import numpy as np
import pytest

from micrognm import Tensor, ops
from micrognm.hmc import ACCEPTED, transition, tuned

COVARIANCE = np.array([[1.0, 0.8, 0.0], [0.8, 1.5, -0.3], [0.0, -0.3, 0.4]])
MEAN = np.array([0.5, -1.0, 2.0])
PRECISION = Tensor(np.linalg.inv(COVARIANCE))


def normal(z: Tensor) -> Tensor:
    away = z - Tensor(MEAN)
    return (-0.5 * away * (away @ PRECISION)).sum(axis=-1)


@pytest.mark.parametrize("step", [0.2, 0.9])  # with the larger, many of the transitions are refused
def test_the_draws_have_the_moments_of_the_density(step, rng):
    z = rng.standard_normal((4000, 3))
    for _ in range(60):
        z, chance = transition(normal, z, step, rng, 5)
    if step == 0.9:
        assert 0.3 < chance.mean() < 0.95  # the law would not be put to the test where all are taken
    np.testing.assert_allclose(z.mean(axis=0), MEAN, atol=4.5 * np.sqrt(np.diag(COVARIANCE) / len(z)).max())
    np.testing.assert_allclose(np.cov(z.T), COVARIANCE, atol=0.13)


def test_energy_is_kept_the_better_the_shorter_the_steps(rng):
    """The error of a path of one length falls with the square of the step."""
    z = rng.standard_normal((500, 3))
    lost = [1 - transition(normal, z, 1.0 / n, np.random.default_rng(0), n)[1].mean() for n in (4, 8, 16)]
    assert lost[0] > 3 * lost[1] > 9 * lost[2] > 0


def test_steps_are_tuned_to_the_share_that_is_taken(rng):
    z, step = rng.standard_normal((300, 3)), 3.0
    for _ in range(150):
        z, chance = transition(normal, z, step, rng, 5)
        step = tuned(step, chance)
    shares = []
    for _ in range(20):
        z, chance = transition(normal, z, step, rng, 5)
        shares.append(chance.mean())
    assert np.mean(shares) == pytest.approx(ACCEPTED, abs=0.04)


def test_a_path_that_leaves_the_numbers_is_not_taken(rng):
    z = np.ones((5, 2))
    after, chance = transition(lambda z: -ops.exp(z * z).sum(axis=-1), z, 100.0, rng, 3)
    np.testing.assert_array_equal(after, z)
    assert (chance == 0).all()
