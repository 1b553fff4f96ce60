"""Initialisers: their statistics, against the formulas of their papers."""

import math

import numpy as np
import pytest

from micrognm.nn import init

SHAPE = (3, 3, 40, 60)  # nine taps: fan_in 360, fan_out 540
N = math.prod(SHAPE)

STANDARD_DEVIATIONS = [
    (init.normal(0.02), 0.02),
    (init.uniform(0.3), 0.3 / math.sqrt(3)),
    (init.glorot_normal(), math.sqrt(2 / 900)),
    (init.glorot_uniform(), math.sqrt(2 / 900)),
    (init.glorot_uniform(gain=3.0), 3 * math.sqrt(2 / 900)),
    (init.he_normal(), math.sqrt(2 / 360)),
    (init.he_uniform(), math.sqrt(2 / 360)),
    (init.he_normal(gain=0.5), 0.5 / math.sqrt(360)),
    (init.fan_in_uniform(), math.sqrt(1 / (3 * 360))),
]


@pytest.mark.parametrize(("make", "std"), STANDARD_DEVIATIONS)
def test_mean_and_standard_deviation(make, std, rng):
    w = make(rng, SHAPE)
    assert w.shape == SHAPE and w.dtype == np.float32
    assert abs(w.mean(dtype=np.float64)) < 5 * std / math.sqrt(N)
    # The variance's own standard deviation is at most std^2 sqrt(2 / N).
    assert abs(w.astype(np.float64).var() / std**2 - 1) < 5 * math.sqrt(2 / N)
    np.testing.assert_array_equal(w, make(np.random.default_rng(0), SHAPE))
    assert not np.array_equal(w, make(rng, SHAPE))


@pytest.mark.parametrize(
    ("make", "bound"),
    [
        (init.uniform(0.3), 0.3),
        (init.glorot_uniform(), math.sqrt(6 / 900)),
        (init.he_uniform(), math.sqrt(6 / 360)),
        (init.fan_in_uniform(), 1 / math.sqrt(360)),
    ],
)
def test_uniform_ones_fill_their_bounds(make, bound, rng):
    w = make(rng, SHAPE)
    assert np.abs(w).max() <= bound * (1 + 1e-6)
    assert w.min() < -0.999 * bound and w.max() > 0.999 * bound


def test_constants(rng):
    np.testing.assert_array_equal(init.zeros()(rng, (2, 3)), np.zeros((2, 3), np.float32))
    filled = init.constant(0.5)(rng, (4,))
    np.testing.assert_array_equal(filled, np.full(4, 0.5, np.float32))
    assert filled.dtype == np.float32


@pytest.mark.parametrize("shape", [(50, 50), (70, 20), (20, 70), (3, 3, 5, 40), (3, 3, 5, 60), (1, 1)])
def test_orthogonal(shape, rng):
    w = init.orthogonal(gain=2.0)(rng, shape)
    assert w.shape == shape and w.dtype == np.float32
    matrix = w.reshape(-1, shape[-1]).astype(np.float64)
    product = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
    np.testing.assert_allclose(product, 4 * np.eye(len(product)), atol=1e-5)


def test_orthogonal_has_no_preferred_sign(rng):
    diagonals = np.array([np.diag(init.orthogonal()(rng, (3, 3))) for _ in range(400)])
    assert (np.abs((diagonals > 0).mean(axis=0) - 0.5) < 5 * 0.5 / math.sqrt(400)).all()


def test_he_keeps_the_second_moment_through_relu_and_glorot_without_it(rng):
    x = rng.standard_normal((500, 400))
    he, glorot = init.he_normal()(rng, (400, 400)), init.glorot_normal()(rng, (400, 400))
    assert np.mean((np.maximum(x, 0) @ he) ** 2) == pytest.approx(1, abs=0.05)
    assert np.mean((x @ glorot) ** 2) == pytest.approx(1, abs=0.05)


def test_fans_count_taps():
    assert init.fans((5, 7)) == (5, 7)
    assert init.fans((9, 5, 7)) == init.fans((3, 3, 5, 7)) == (45, 63)
    for shape in ((), (3,)):
        with pytest.raises(ValueError, match=r"n_in, n_out\], got the shape"):
            init.he_normal()(np.random.default_rng(0), shape)
