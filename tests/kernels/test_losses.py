"""The losses' reference against loops and SciPy, and the Numba code where its inputs are extreme."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from micrognm.kernels.losses import cpu, reference

from tests.strategies import generators

IMPLEMENTATIONS = [reference, cpu]


def mass(level, mean, log_scale, levels):
    """The mass of a logistic in a level's bin, from SciPy's distribution: each end by the tail that is nearer."""
    scale, last = math.exp(max(log_scale, -7)), levels - 1
    high = math.inf if level == last else ((2 * level + 1) / last - 1 - mean) / scale
    low = -math.inf if level == 0 else ((2 * level - 1) / last - 1 - mean) / scale
    d = scipy.stats.logistic
    return d.sf(low) - d.sf(high) if low > 0 else d.cdf(high) - d.cdf(low)


def probability(x, params, levels, mixtures):
    """Of one pixel: the definition, one mixture and channel after another."""
    rows = params.reshape(-1, mixtures)
    channels = len(x)
    value = [2 * int(k) / (levels - 1) - 1 for k in x]
    weights = scipy.special.softmax(rows[0])
    total = 0.0
    for m in range(mixtures):
        means = list(rows[1 : 1 + channels, m])
        if channels == 3:
            to_green, red_to_blue, green_to_blue = np.tanh(rows[7:10, m])
            means[1] += to_green * value[0]
            means[2] += red_to_blue * value[0] + green_to_blue * value[1]
        total += weights[m] * math.prod(
            mass(int(k), mean, log_scale, levels)
            for k, mean, log_scale in zip(x, means, rows[1 + channels : 1 + 2 * channels, m], strict=True)
        )
    return total


@settings(max_examples=40)
@given(
    rng=generators(),
    channels=st.sampled_from([1, 3]),
    mixtures=st.integers(1, 4),
    levels=st.sampled_from([2, 3, 17, 256]),
)
def test_logistic_mixture_is_its_definition(rng, channels, mixtures, levels):
    x = rng.integers(0, levels, (6, channels))
    params = rng.standard_normal((6, mixtures * (3 if channels == 1 else 10)))
    want = [math.log(probability(k, row, levels, mixtures)) for k, row in zip(x, params, strict=True)]
    for module in IMPLEMENTATIONS:
        np.testing.assert_allclose(module.logistic_mixture(x, params, levels, mixtures), want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("module", IMPLEMENTATIONS)
def test_a_log_scale_counts_as_minus_seven_below_it(module):
    x = np.array([[3], [4]])
    at, below = np.array([[0.0, 0.1, -7.0]] * 2), np.array([[0.0, 0.1, -50.0]] * 2)
    np.testing.assert_array_equal(module.logistic_mixture(x, at, 8, 1), module.logistic_mixture(x, below, 8, 1))
    _, slope = module.logistic_mixture_slopes(x, below, 8, 1)
    assert (slope[:, 2] == 0).all() and (slope[:, 1] != 0).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("module", IMPLEMENTATIONS)
def test_extreme_parameters_give_finite_numbers(module, dtype, levels):
    """Far means, scales from the floor to far beyond the levels, a mixture of weight 0."""
    numbers = np.array([0, 1e-3, -1, 30, -1e4, 1e6])
    mean, log_scale, logit = (a.ravel() for a in np.meshgrid(numbers, [-1e3, -7, 0, 20, 80, 300], [0, -1e4, 1e4]))
    other = np.zeros_like(mean)
    params = np.stack([logit, other, mean, other, log_scale, other], axis=1).astype(dtype)
    for level in {0, 1, levels - 1}:
        x = np.full((len(params), 1), level)
        y = module.logistic_mixture(x, params, levels, 2)
        value, slope = module.logistic_mixture_slopes(x, params, levels, 2)
        np.testing.assert_allclose(value, y, rtol=2e-6 if dtype == np.float32 else 1e-12, atol=1e-6)
        assert np.isfinite(y).all() and np.isfinite(slope).all() and (y <= 1e-6).all()
    wide = np.array([[0, 0, 300.0]], dtype)  # all but the ends of the line lies between them: half to each
    ends = [module.logistic_mixture(np.array([[k]]), wide, levels, 1)[0] for k in (0, levels - 1)]
    np.testing.assert_allclose(ends, math.log(0.5), rtol=1e-6)


@pytest.mark.parametrize("module", IMPLEMENTATIONS)
def test_narrow_bins_keep_their_mass(module):
    """Where sigmoid(a) - sigmoid(b) would round to 0: far out the mass falls as e^-distance."""
    params = np.array([[0.0, -1.0, -3.0]])  # 1 / scale = 20.1: the last but one level of 256 is 40 scales away
    y = [module.logistic_mixture(np.array([[k]]), params, 256, 1)[0] for k in (253, 254)]
    assert y[0] - y[1] == pytest.approx(2 / 255 * math.exp(3), rel=1e-6) and y[1] < -40


@pytest.mark.parametrize("module", IMPLEMENTATIONS)
@pytest.mark.parametrize("where", range(10))
def test_nan_reaches_the_output(module, where):
    params = np.zeros((20, 10))
    params[3, where] = np.nan
    x = np.ones((20, 3), int)
    for y in (module.logistic_mixture(x, params, 4, 1), *module.logistic_mixture_slopes(x, params, 4, 1)):
        assert np.isnan(y).any(axis=tuple(range(1, y.ndim))).tolist() == [i == 3 for i in range(20)]
    logits = np.zeros((20, 10))
    logits[3, where] = np.nan
    assert np.isnan(module.categorical(logits, x[:, 0])[0]).tolist() == [i == 3 for i in range(20)]


@settings(max_examples=40)
@given(rng=generators(), channels=st.sampled_from([1, 3]), mixtures=st.integers(1, 3), levels=st.sampled_from([2, 5]))
def test_logistic_mixture_slopes_against_differences(rng, channels, mixtures, levels):
    x = rng.integers(0, levels, (4, channels))
    params = rng.standard_normal((4, mixtures * (3 if channels == 1 else 10)))
    want, step = np.zeros_like(params), 1e-5
    for i in range(params.shape[1]):
        ends = []
        for sign in (1, -1):
            moved = params.copy()
            moved[:, i] += sign * step
            ends.append(reference.logistic_mixture(x, moved, levels, mixtures))
        want[:, i] = (ends[0] - ends[1]) / (2 * step)
    for module in IMPLEMENTATIONS:
        value, slopes = module.logistic_mixture_slopes(x, params, levels, mixtures)
        np.testing.assert_allclose(value, module.logistic_mixture(x, params, levels, mixtures), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(slopes, want, rtol=1e-6, atol=1e-8)


@settings(max_examples=40)
@given(rng=generators(), classes=st.sampled_from([1, 2, 17, 63, 64, 200]), rows=st.sampled_from([0, 1, 40]))
def test_categorical_against_scipy(rng, classes, rows):
    logits, index = 5 * rng.standard_normal((rows, classes)), rng.integers(0, classes, rows)
    table = scipy.special.log_softmax(logits, axis=1)
    g = rng.standard_normal(rows)
    for module in IMPLEMENTATIONS:
        y, largest, total = module.categorical(logits, index)
        np.testing.assert_allclose(y, table[np.arange(rows), index], rtol=1e-12, atol=1e-14)
        slope = module.categorical_grad(g, logits, index, largest, total)
        np.testing.assert_allclose(slope, g[:, None] * (np.eye(classes)[index] - np.exp(table)), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("module", IMPLEMENTATIONS)
@pytest.mark.parametrize("classes", [3, 100])
def test_categorical_takes_minus_infinity(module, classes):
    logits = np.full((2, classes), -np.inf)
    logits[:, 1] = [5.0, -1e30]
    y, largest, total = module.categorical(logits, np.array([1, 0]))
    assert y.tolist() == [0.0, -math.inf]
    slope = module.categorical_grad(np.ones(2), logits, np.array([1, 0]), largest, total)
    want = np.zeros((2, classes))
    want[1, :2] = [1, -1]
    np.testing.assert_array_equal(slope, want)


@pytest.mark.parametrize("module", IMPLEMENTATIONS)
@pytest.mark.parametrize("classes", [17, 64, 65, 150])
def test_the_largest_logit_is_found_wherever_it_stands(module, classes):
    """Its exponential would be infinite: a row that overlooks it is not finite."""
    logits = np.where(np.eye(classes, dtype=bool), np.float32(1000), np.float32(0))
    y, largest, _ = module.categorical(logits, np.arange(classes))
    np.testing.assert_array_equal(y, 0)
    np.testing.assert_array_equal(largest, 1000)
