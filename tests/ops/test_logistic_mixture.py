"""The logistic mixture as an operation: probabilities, gradients of both orders, causality of channels, errors."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micrognm import Tensor, check, grad
from micrognm.ops.logistic_mixture import _composed, logistic_mixture_log_prob
from tests.strategies import generators

WIDTH = {1: 3, 3: 10}  # parameters a mixture


def drawn(rng, channels, mixtures, spread=1.0, batch=(2, 3, 2)):
    return spread * rng.standard_normal((*batch, mixtures * WIDTH[channels]))


@settings(max_examples=60)
@given(
    rng=generators(),
    mixtures=st.sampled_from([1, 2, 10]),
    spread=st.sampled_from([0.1, 1.0, 5.0, 30.0]),
    levels=st.sampled_from([2, 3, 17, 256]),
    shift=st.sampled_from([0.0, -7.0, 5.0]),
)
def test_grey_probabilities_sum_to_one(rng, mixtures, spread, levels, shift):
    params = drawn(rng, 1, mixtures, spread, (1,))
    params[:, 2 * mixtures :] += shift
    x = np.arange(levels)[:, None, None]
    params = np.broadcast_to(params, (levels, 1, 1, params.size))
    y = logistic_mixture_log_prob(x, params, levels=levels, mixtures=mixtures)
    assert y.shape == (levels, 1, 1)
    np.testing.assert_allclose(np.exp(y.numpy()).sum(), 1, rtol=0, atol=1e-6)


@settings(max_examples=40)
@given(
    rng=generators(),
    mixtures=st.sampled_from([1, 2, 10]),
    spread=st.sampled_from([0.1, 1.0, 5.0, 30.0]),
    levels=st.sampled_from([2, 3, 5]),
    shift=st.sampled_from([0.0, -7.0, 5.0]),
)
def test_rgb_probabilities_sum_to_one(rng, mixtures, spread, levels, shift):
    params = drawn(rng, 3, mixtures, spread, (1,))
    params[:, 4 * mixtures : 7 * mixtures] += shift
    x = np.array(list(itertools.product(range(levels), repeat=3)))
    y = logistic_mixture_log_prob(x, np.broadcast_to(params, (len(x), params.size)), levels=levels, mixtures=mixtures)
    np.testing.assert_allclose(np.exp(y.numpy()).sum(), 1, rtol=0, atol=1e-6)


@pytest.mark.parametrize("levels", [3, 256])
def test_red_does_not_depend_on_green_nor_green_on_blue(levels, rng):
    """The sum over the later channels leaves the earlier ones' probability: theirs, however the coefficients are."""
    params = drawn(rng, 3, 2, 1.0, (1,))
    moved = params.copy()
    moved[:, 7 * 2 :] = drawn(rng, 3, 2, 1.0, (1,))[:, 7 * 2 :]  # the coefficients
    few = np.arange(3) if levels == 3 else np.arange(0, 256, 85)

    def red(params, k):
        rest = np.array(list(itertools.product(range(levels), range(levels))))
        x = np.concatenate([np.full((len(rest), 1), k), rest], axis=1)
        y = logistic_mixture_log_prob(x, np.broadcast_to(params, (len(x), 20)), levels=levels, mixtures=2)
        return np.exp(y.numpy()).sum()

    np.testing.assert_allclose([red(params, k) for k in few], [red(moved, k) for k in few], rtol=1e-9)


def pixel_cnn(x, params, levels, mixtures):
    """The formula that PixelCNN++ computes, and where it does not replace the mass by a density."""
    rows = params.reshape(*params.shape[:-1], -1, mixtures)
    channels = x.shape[-1]
    value = (2 * x / (levels - 1) - 1)[..., None]
    log_weights = rows[..., 0, :] - np.log(np.exp(rows[..., 0, :]).sum(axis=-1, keepdims=True))
    exact = True
    for c in range(channels):
        mean = rows[..., 1 + c, :].copy()
        for j in range(c):
            mean += np.tanh(rows[..., 2 * channels + c + j, :]) * value[..., j, :]
        inverse = np.exp(-np.maximum(rows[..., 1 + channels + c, :], -7))
        plus, minus = (inverse * (value[..., c, :] - mean + sign / (levels - 1)) for sign in (1, -1))
        cdf_plus, cdf_minus = 1 / (1 + np.exp(-plus)), 1 / (1 + np.exp(-minus))
        low, high = x[..., c, None] == 0, x[..., c, None] == levels - 1
        delta = np.where(low, cdf_plus, np.where(high, 1 - cdf_minus, cdf_plus - cdf_minus))
        exact &= (delta > 1e-5).all(axis=-1)
        log_weights = log_weights + np.log(np.maximum(delta, 1e-12))
    return np.log(np.exp(log_weights).sum(axis=-1)), exact


@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_pixel_cnns_wherever_that_takes_the_mass(channels, rng):
    x, params = rng.integers(0, 256, (500, channels)), drawn(rng, channels, 3, 0.7, (500,))
    want, exact = pixel_cnn(x, params, 256, 3)
    got = logistic_mixture_log_prob(x, params, levels=256, mixtures=3).numpy()
    assert exact.sum() > 250
    np.testing.assert_allclose(got[exact], want[exact], rtol=1e-9, atol=1e-9)


@settings(max_examples=25)
@given(
    rng=generators(),
    channels=st.sampled_from([1, 3]),
    mixtures=st.integers(1, 3),
    levels=st.sampled_from([2, 3, 17]),
    batch=st.sampled_from([(), (0,), (3,), (1, 2, 2)]),
)
def test_gradients_to_order_two(rng, channels, mixtures, levels, batch):
    x = rng.integers(0, levels, (*batch, channels))
    params = drawn(rng, channels, mixtures, 1.0, batch)
    check(lambda params: logistic_mixture_log_prob(x, params, levels=levels, mixtures=mixtures), params, rng=rng)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("levels", [2, 17, 256])
def test_fused_is_composed(channels, levels, dtype, rng):
    x = rng.integers(0, levels, (2, 5, 4, channels)).astype(np.uint8)
    params = drawn(rng, channels, 10, 1.5, (2, 5, 4))
    params[0, 0, 0, (1 + channels) * 10 : (1 + 2 * channels) * 10] = -9  # below the floor
    leaf = Tensor(params.astype(dtype), requires_grad=True)
    g, v = (Tensor(rng.standard_normal(shape).astype(dtype)) for shape in ((2, 5, 4), params.shape))
    y = logistic_mixture_log_prob(Tensor(x), leaf, levels=levels, mixtures=10)
    z = _composed(x, leaf, levels, 10)
    assert y.dtype == dtype
    close = {"rtol": 1e-9, "atol": 1e-9} if dtype == np.float64 else {"rtol": 1e-3, "atol": 1e-3}
    np.testing.assert_allclose(y.numpy(), z.numpy(), **close)
    at_once, recorded, composed = (
        grad(a, leaf, g, create_graph=graph) for a, graph in ((y, False), (y, True), (z, True))
    )
    np.testing.assert_allclose(at_once.numpy(), composed.numpy(), **close)
    np.testing.assert_array_equal(recorded.numpy(), composed.numpy())
    if dtype == np.float64:
        second = [grad(first, leaf, v).numpy() for first in (recorded, composed)]
        np.testing.assert_allclose(*second, rtol=1e-9, atol=1e-9)


def test_grey_images_with_and_without_an_axis_for_the_channel(rng):
    x, params = rng.integers(0, 17, (2, 4, 4)), Tensor(drawn(rng, 1, 5, 1.0, (2, 4, 4)))
    y, z = (logistic_mixture_log_prob(a, params, levels=17, mixtures=5).numpy() for a in (x, x[..., None]))
    assert y.shape == (2, 4, 4)
    np.testing.assert_array_equal(y, z)


@pytest.mark.parametrize(
    ("x", "params", "levels", "mixtures", "error", "message"),
    [
        (np.zeros((2, 2), np.float32), (2, 2, 30), 4, 10, TypeError, "x must hold integers, got float32"),
        (np.full((2, 2), 4), (2, 2, 30), 4, 10, ValueError, "x runs from 4 to 4, the levels from 0 to 3"),
        (np.full((2, 2), -1), (2, 2, 30), 4, 10, ValueError, "x runs from -1 to -1, the levels from 0 to 3"),
        (np.zeros((2, 2), int), (2, 2, 31), 4, 10, ValueError, "10 mixtures need 30 parameters a pixel for grey"),
        (np.zeros((2, 3), int), (2, 2, 30), 4, 10, ValueError, "x [2, 3] must be [2, 2, 1] or [2, 2]"),
        (np.zeros((2, 2, 1), int), (2, 2, 100), 4, 10, ValueError, "x [2, 2, 1] must be [2, 2, 3]."),
        (np.zeros((2, 2), int), (2, 2, 30), 1, 10, ValueError, "levels must be 2 or more and mixtures 1 or more"),
    ],
)  # fmt: skip
def test_errors_say_what_does_not_fit(x, params, levels, mixtures, error, message):
    with pytest.raises(error, match=r"logistic_mixture_log_prob\(x: .*: " + re.escape(message)):
        logistic_mixture_log_prob(x, Tensor(np.zeros(params, np.float32)), levels=levels, mixtures=mixtures)
