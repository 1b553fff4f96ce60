"""Distributions: probabilities sum to 1, log_prob against SciPy, samples against frequencies, KL against integrals."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from micrognm import Tensor, check, grad
from micrognm.distributions import Bernoulli, Categorical, LogisticMixture, Normal, kl
from tests.strategies import broadcastable, generators

DRAWS = 20_000
SIGMAS = 5  # a frequency is further off in one of two million runs
BIG = np.array([1e4, -1e4, 300.0, -300.0, 0.0])


def f32(x: Any) -> Tensor:
    return Tensor(np.asarray(x, np.float32))


def f64(x: Any, requires_grad: bool = False) -> Tensor:
    return Tensor(np.asarray(x, np.float64), requires_grad=requires_grad)


def close_to_expected(samples: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> None:
    """Assert that the average over the first axis is within SIGMAS standard errors."""
    assert (np.abs(samples.mean(axis=0) - mean) <= SIGMAS * np.sqrt(variance / len(samples)) + 1e-12).all()


# ---- Bernoulli -------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(rng=generators())
def test_bernoulli_probabilities_sum_to_one_over_all_images(rng):
    logits = f64(3 * rng.standard_normal(5))
    images = np.array(list(itertools.product([0.0, 1.0], repeat=5)))
    joint = Bernoulli(logits).log_prob(images).numpy().sum(axis=1)
    assert np.exp(joint).sum() == pytest.approx(1, rel=1e-12)


def test_bernoulli_against_scipy(rng):
    logits, x = 3 * rng.standard_normal((4, 5)), rng.integers(0, 2, (4, 5))
    d = Bernoulli(f64(logits))
    p = scipy.special.expit(logits)
    np.testing.assert_allclose(d.log_prob(x.astype(np.float64)).numpy(), scipy.stats.bernoulli.logpmf(x, p), rtol=1e-12)
    np.testing.assert_allclose(d.mean.numpy(), p, rtol=1e-12)
    np.testing.assert_allclose(d.entropy().numpy(), scipy.stats.bernoulli.entropy(p), rtol=1e-12)


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int64, list])
def test_bernoulli_takes_zeros_and_ones_of_any_type(kind, rng):
    logits = f32(rng.standard_normal((3, 4)))
    ones = rng.integers(0, 2, (3, 4))
    x = ones.tolist() if kind is list else ones.astype(kind)
    got = Bernoulli(logits).log_prob(x)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got.numpy(), Bernoulli(logits).log_prob(f32(ones)).numpy())


def test_bernoulli_grey_targets_give_the_cross_entropy(rng):
    d, x = Bernoulli(f64(3 * rng.standard_normal((2, 6)))), rng.random(6)
    zero, one = (d.log_prob(np.full(6, k)).numpy() for k in (0.0, 1.0))
    np.testing.assert_allclose(d.log_prob(x).numpy(), x * one + (1 - x) * zero, rtol=1e-12)


@pytest.mark.parametrize(
    ("x", "found"),
    [([0, 1.5], "0.0 to 1.5"), ([-0.25, 1], "-0.25 to 1.0"), ([0, float("nan")], "nan to nan"), ([0, 2], "0 to 2")],
)
def test_bernoulli_outside_its_support(x, found):
    with pytest.raises(
        ValueError, match=rf"Bernoulli\.log_prob: x must lie in \[0, 1\], got values from {found}\. Bin"
    ):
        Bernoulli(f32([0.0, 0.0])).log_prob(x)


def test_bernoulli_samples_have_its_mean(rng):
    logits = f32(np.broadcast_to([-3.0, -1.0, 0.0, 0.5, 2.0], (DRAWS, 5)))
    samples = Bernoulli(logits).sample(rng)
    assert samples.node is None and samples.dtype == np.float32 and set(np.unique(samples.numpy())) == {0, 1}
    p = scipy.special.expit([-3.0, -1.0, 0.0, 0.5, 2.0])
    close_to_expected(samples.numpy(), p, p * (1 - p))


@settings(max_examples=40)
@given(rng=generators(), dtype=st.sampled_from([np.float32, np.float64]))
def test_bernoulli_draws_one_below_the_mean_and_zero_from_it_on(rng, dtype):
    d = Bernoulli(Tensor((3 * rng.standard_normal(6)).astype(dtype)))
    p = d.mean.numpy()
    assert d.sample_from(np.nextafter(p, 0, dtype=dtype)).numpy().tolist() == [1] * 6
    assert d.sample_from(p).numpy().tolist() == [0] * 6


# ---- categorical -----------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(rng=generators(), classes=st.integers(1, 40))
def test_categorical_probabilities_sum_to_one(rng, classes):
    d = Categorical(f64(3 * rng.standard_normal((2, classes))))
    total = np.exp([d.log_prob([k, k]).numpy() for k in range(classes)]).sum(axis=0)
    np.testing.assert_allclose(total, 1, rtol=1e-12)


def test_categorical_against_scipy(rng):
    logits, x = 2 * rng.standard_normal((6, 5)), rng.integers(0, 5, 6)
    p = scipy.special.softmax(logits, axis=-1)
    d = Categorical(f64(logits))
    want = [scipy.stats.rv_discrete(values=(np.arange(5), row)).logpmf(k) for row, k in zip(p, x, strict=True)]
    np.testing.assert_allclose(d.log_prob(x).numpy(), want, rtol=1e-10)
    np.testing.assert_allclose(d.entropy().numpy(), scipy.stats.entropy(p, axis=-1), rtol=1e-12)
    np.testing.assert_allclose(d.mean.numpy(), p @ np.arange(5), rtol=1e-12)


@pytest.mark.parametrize(
    ("x", "batch"), [((), (3,)), ((3,), (2, 3)), ((4, 2, 3), (2, 3)), ((2, 3), ()), ((2, 1), (3,))]
)
def test_categorical_index_and_logits_broadcast(x, batch, rng):
    logits, index = rng.standard_normal((*batch, 5)), rng.integers(0, 5, x)
    leaf = f64(logits, requires_grad=True)
    got = Categorical(leaf).log_prob(index)
    shape = np.broadcast_shapes(x, batch)
    table = np.broadcast_to(scipy.special.log_softmax(logits, axis=-1), (*shape, 5))
    want = np.take_along_axis(table, np.broadcast_to(index, shape)[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-12)
    assert grad(got, leaf, f64(rng.standard_normal(shape))).shape == leaf.shape


def test_categorical_outside_its_support(rng):
    d = Categorical(f32(rng.standard_normal((2, 4))))
    with pytest.raises(IndexError, match="index runs from 0 to 4, the classes of logits from 0 to 3"):
        d.log_prob([0, 4])
    with pytest.raises(IndexError, match="from -1 to"):
        d.log_prob(-1)
    with pytest.raises(TypeError, match="must hold integers, got float32"):
        d.log_prob(f32([0, 1]))
    with pytest.raises(ValueError, match=r"x \[3\] must broadcast with \[2\], the shape of logits \[2, 4\]"):
        d.log_prob([0, 1, 2])


def test_categorical_samples_have_its_frequencies(rng):
    logits = np.array([-2.0, 0.0, -1e4, 1.0, 0.5])
    samples = Categorical(f32(np.broadcast_to(logits, (DRAWS, 5)))).sample(rng)
    assert samples.shape == (DRAWS,) and samples.dtype == np.int64 and samples.node is None
    p = scipy.special.softmax(logits)
    close_to_expected(np.eye(5)[samples.numpy()], p, p * (1 - p))


@settings(max_examples=40)
@given(rng=generators(), classes=st.integers(1, 300), spread=st.sampled_from([0.0, 1.0, 10.0, 1e4]))
def test_categorical_draws_by_the_inverse_of_its_distribution_function(rng, classes, spread):
    logits = (spread * rng.standard_normal((50, classes))).astype(np.float32)
    u = np.sort(rng.random(50, np.float32))
    u[0], u[-1] = 0, np.nextafter(np.float32(1), np.float32(0))
    d = Categorical(Tensor(logits))
    drawn = d.sample_from(u).numpy()
    p = scipy.special.softmax(logits.astype(np.float64), axis=-1)
    above, rows = np.cumsum(p, axis=-1), np.arange(50)
    assert (drawn >= 0).all() and (drawn < classes).all()
    rounding = 4e-7 * classes
    assert (above[rows, drawn] >= u - rounding).all()
    assert (above[rows, drawn] - p[rows, drawn] <= u + rounding).all()
    assert (p[rows, drawn] > 1e-46).all()  # never a class that has no probability in float32, even for u = 0
    same = Categorical(f32(np.broadcast_to(logits[0], (50, classes)))).sample_from(u).numpy()
    assert (np.diff(same) >= 0).all()


# ---- normal ----------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(rng=generators(), both=broadcastable(3))
def test_normal_against_scipy(rng, both):
    x, mean, log_std = (rng.standard_normal(shape) for shape in both)
    d = Normal(f64(mean), f64(log_std))
    np.testing.assert_allclose(
        d.log_prob(f64(x)).numpy(), scipy.stats.norm.logpdf(x, mean, np.exp(log_std)), rtol=1e-11, atol=1e-12
    )
    np.testing.assert_allclose(
        d.entropy().numpy(), scipy.stats.norm.entropy(mean, np.exp(log_std)), rtol=1e-11, atol=1e-12
    )


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (3.0, -2.0), (-1.0, 1.5)])
def test_normal_density_integrates_to_one(mean, log_std):
    d, std = Normal(f64(mean), f64(log_std)), math.exp(log_std)
    total, _ = scipy.integrate.quad(lambda x: math.exp(d.log_prob(f64(x)).item()), mean - 12 * std, mean + 12 * std)
    assert total == pytest.approx(1, rel=1e-9)


def test_normal_samples_are_distributed_so_and_independent(rng):
    mean, log_std = np.array([0.0, 5.0, -3.0]), np.array([0.0, 1.0, -2.0])
    samples = Normal(f32(np.broadcast_to(mean, (DRAWS, 3))), f32(log_std)).sample(rng)
    assert samples.dtype == np.float32
    z = (samples.numpy() - mean) / np.exp(log_std)
    for column in z.T:
        assert scipy.stats.kstest(column, "norm").pvalue > 1e-6
    products = z[:, :, None] * z[:, None, :]
    close_to_expected(products, np.eye(3), 1 + np.eye(3))


def test_normal_samples_pass_gradients_to_mean_and_log_std(rng):
    mean, log_std = (f64(rng.standard_normal(shape), requires_grad=True) for shape in ((4, 3), (3,)))
    noise, g = rng.standard_normal((4, 3)), rng.standard_normal((4, 3))
    d = Normal(mean, log_std)
    got = grad(d.sample_from(noise), [mean, log_std], f64(g))
    np.testing.assert_allclose(got[0].numpy(), g)
    np.testing.assert_allclose(got[1].numpy(), (g * noise * np.exp(log_std.numpy())).sum(axis=0), rtol=1e-12)
    first, second = (d.sample(np.random.default_rng(4)).numpy() for _ in range(2))
    np.testing.assert_array_equal(first, second)


# ---- KL --------------------------------------------------------------------------------------------------------------


def pair(family: type, rng: np.random.Generator, shape: tuple[int, ...] = (4,)) -> tuple[Any, Any]:
    if family is Normal:
        p, q = (Normal(*(f64(rng.standard_normal(shape)) for _ in range(2))) for _ in range(2))
        return p, q
    classes = (5,) if family is Categorical else ()
    p, q = (family(f64(2 * rng.standard_normal((*shape, *classes)))) for _ in range(2))
    return p, q


families = pytest.mark.parametrize("family", [Bernoulli, Categorical, Normal])


@families
@settings(max_examples=40)
@given(rng=generators())
def test_kl_is_zero_for_equals_and_else_positive(family, rng):
    p, q = pair(family, rng)
    np.testing.assert_allclose(kl(p, p).numpy(), 0, atol=1e-15)
    assert (kl(p, q).numpy() > 0).all() and kl(p, q).shape == (4,)
    assert not np.allclose(kl(p, q).numpy(), kl(q, p).numpy())


@families
def test_kl_against_the_sum_or_integral(family, rng):
    p, q = pair(family, rng)
    if family is Normal:
        want = []
        for i in range(4):
            a, b = (
                scipy.stats.norm(d.mean.numpy()[i], math.exp(d.log_std.numpy()[i])) for d in (p, q)
            )  # SciPy's densities: an oracle of its own
            ends = a.mean() - 12 * a.std(), a.mean() + 12 * a.std()
            want.append(scipy.integrate.quad(lambda x, a=a, b=b: a.pdf(x) * (a.logpdf(x) - b.logpdf(x)), *ends)[0])
    elif family is Bernoulli:
        a, b = (np.stack([1 - d.mean.numpy(), d.mean.numpy()], axis=-1) for d in (p, q))
        want = scipy.stats.entropy(a, b, axis=-1)
    else:
        a, b = (scipy.special.softmax(d.logits.numpy(), axis=-1) for d in (p, q))
        want = scipy.stats.entropy(a, b, axis=-1)
    np.testing.assert_allclose(kl(p, q).numpy(), want, rtol=1e-8)


@families
def test_kl_and_entropy_are_the_averages_they_say(family, rng):
    """KL(p || q) = E[log p - log q], H(p) = -E[log p], over samples of p."""
    p, q = pair(family, rng)

    def wide(d: Any) -> Any:
        parts = [d.mean, d.log_std] if family is Normal else [d.logits]
        return family(*(f64(np.broadcast_to(x.numpy(), (DRAWS, *x.shape))) for x in parts))

    x = wide(p).sample(rng)
    log_p, log_q = wide(p).log_prob(x).numpy(), wide(q).log_prob(x).numpy()
    close_to_expected(log_p - log_q, kl(p, q).numpy(), (log_p - log_q).var(axis=0))
    close_to_expected(-log_p, p.entropy().numpy(), log_p.var(axis=0))


def test_kl_to_a_standard_normal_broadcasts(rng):
    """Kingma and Welling 2014, appendix B: -1/2 sum (1 + log s^2 - m^2 - s^2)."""
    mean, log_std = rng.standard_normal((2, 3, 4))
    got = kl(Normal(f32(mean), f32(log_std)), Normal(f32(0), f32(0)))
    assert got.dtype == np.float32
    want = -0.5 * (1 + 2 * log_std - mean**2 - np.exp(2 * log_std))
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-6)


def test_kl_of_unlike_pairs_raises(rng):
    p, q = Bernoulli(f32([0.0])), Normal(f32([0.0]), f32([0.0]))
    with pytest.raises(
        TypeError, match=r"kl: no closed form for \(Bernoulli, Normal\); known: \(Bernoulli, Bernoulli\)"
    ):
        kl(p, q)
    with pytest.raises(ValueError, match="kl: p has 3 classes, q has 1"):
        kl(Categorical(f32(np.zeros((2, 3)))), Categorical(f32(np.zeros((2, 1)))))


# ---- logistic mixture ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "levels"), [(1, 2), (1, 17), (3, 2), (3, 4)])
def test_logistic_mixture_draws_what_log_prob_says(channels, levels, rng):
    """Frequencies of all levels, and of all triples: the conditioning of the channels is in them."""
    params = np.concatenate([rng.standard_normal(2), rng.standard_normal((10 if channels == 3 else 3) * 2 - 2)])
    params[(1 + channels) * 2 : (1 + 2 * channels) * 2] -= 1
    d = LogisticMixture(f64(np.broadcast_to(params, (DRAWS, params.size))), levels, 2)
    x = d.sample(rng)
    assert x.dtype == np.int64 and x.shape == (DRAWS, channels) and x.node is None
    every = np.array(list(itertools.product(range(levels), repeat=channels)))
    same = f64(np.broadcast_to(params, (len(every), params.size)))
    p = np.exp(LogisticMixture(same, levels, 2).log_prob(every).numpy())
    assert p.sum() == pytest.approx(1, abs=1e-12)
    ones = (x.numpy()[:, None, :] == every).all(axis=-1)
    close_to_expected(ones, p, p * (1 - p))


@settings(max_examples=40)
@given(rng=generators(), levels=st.sampled_from([2, 17, 256]))
def test_logistic_mixture_draws_rise_with_the_uniforms_and_turn_where_the_probabilities_say(rng, levels):
    params = rng.standard_normal(3)
    params[2] -= 2
    every = np.arange(levels)[:, None]
    p = np.exp(LogisticMixture(f64(np.broadcast_to(params, (levels, 3))), levels, 1).log_prob(every).numpy())
    edges = np.cumsum(p)[:-1]
    k = np.flatnonzero((edges > 1e-9) & (edges < 1 - 1e-6))
    edges = edges[k]
    d = LogisticMixture(f64(np.broadcast_to(params, (len(edges), 3))), levels, 1)
    first = np.full(len(edges), 0.5)
    below, above = (
        d.sample_from(np.stack([first, edges * (1 + sign * 1e-7)], axis=1)).numpy()[:, 0] for sign in (-1, 1)
    )
    assert (below <= k).all() and (above >= k + 1).all()


def test_logistic_mixture_green_sees_the_level_drawn_for_red():
    params = np.zeros((1, 10), np.float32)
    params[0, 4:7] = -7  # narrow: G is R's level times tanh(9) = 1, B is R's times -1
    params[0, 7:10] = 9, -9, 0
    d = LogisticMixture(f32(np.repeat(params, 5, axis=0)), 5, 1)
    u = np.full((5, 4), 0.5, np.float32)
    mean = np.linspace(-1, 1, 5)
    d.params.data[:, 1] = mean
    assert d.sample_from(u).numpy().tolist() == [[k, k, 4 - k] for k in range(5)]


def test_logistic_mixture_ends_of_the_uniforms_stay_within_the_levels():
    d = LogisticMixture(f32(np.zeros((2, 3, 10))), 256, 1)
    u = np.zeros((2, 3, 4), np.float32)
    assert d.sample_from(u).numpy().max() == 0
    u[...] = np.nextafter(np.float32(1), np.float32(0))
    assert d.sample_from(u).numpy().min() == 255


def test_logistic_mixture_parameters_that_do_not_fit_raise():
    with pytest.raises(TypeError, match="LogisticMixture: params must be a Tensor of float32 or float64, got ndarray"):
        LogisticMixture(np.zeros(3), 4, 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"params \[2, 5\] must be \[\.\.\., 6\] for grey .* \[\.\.\., 20\] for RGB"):
        LogisticMixture(f32(np.zeros((2, 5))), 4, 2)
    with pytest.raises(ValueError, match="levels must be 2 or more and mixtures 1 or more, got 1 and 1"):
        LogisticMixture(f32(np.zeros((2, 3))), 1, 1)
    with pytest.raises(ValueError, match=r"LogisticMixture\.sample_from: u must be \[2, 2\]"):
        LogisticMixture(f32(np.zeros((2, 3))), 4, 1).sample_from(np.zeros((2, 1)))


# ---- gradients, ends, errors -----------------------------------------------------------------------------------------

QUANTITIES: dict[str, tuple[Callable[..., Tensor], list[tuple[int, ...]]]] = {
    "bernoulli log_prob": (lambda x, a: Bernoulli(a).log_prob(x * 0.1 + 0.5), [(2, 3), (2, 3)]),
    "bernoulli mean": (lambda a: Bernoulli(a).mean, [(2, 3)]),
    "bernoulli entropy": (lambda a: Bernoulli(a).entropy(), [(2, 3)]),
    "bernoulli kl": (lambda a, b: kl(Bernoulli(a), Bernoulli(b)), [(2, 3), (3,)]),
    "categorical log_prob": (lambda a: Categorical(a).log_prob([[0], [2]]), [(3, 4)]),
    "categorical mean": (lambda a: Categorical(a).mean, [(2, 3)]),
    "categorical entropy": (lambda a: Categorical(a).entropy(), [(2, 3)]),
    "categorical kl": (lambda a, b: kl(Categorical(a), Categorical(b)), [(2, 3), (3,)]),
    "logistic mixture log_prob": (lambda p: LogisticMixture(p, 4, 2).log_prob([[0, 3, 1], [2, 2, 0]]), [(2, 20)]),
    "normal log_prob": (lambda x, m, s: Normal(m, s).log_prob(x), [(2, 3), (3,), (2, 1)]),
    "normal entropy": (lambda m, s: Normal(m, s).entropy(), [(2, 3), (3,)]),
    "normal sample": (lambda m, s: Normal(m, s).sample(np.random.default_rng(0)), [(2, 3), (3,)]),
    "normal kl": (lambda m, s, n, t: kl(Normal(m, s), Normal(n, t)), [(2, 3), (3,), (3,), (2, 1)]),
}


@pytest.mark.parametrize("name", QUANTITIES)
def test_gradients_to_order_two(name, rng):
    f, inputs = QUANTITIES[name]
    # In float32 the noise differs: rng draws other numbers then. The dtype is checked all the same.
    check(f, *(rng.uniform(-1, 1, shape) for shape in inputs), rng=rng)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_huge_logits_give_finite_values_and_gradients(dtype):
    a, b = (Tensor(x.reshape(-1).astype(dtype), requires_grad=True) for x in np.meshgrid(BIG, BIG))
    rows = Tensor(np.array(list(itertools.product(BIG, repeat=3)), dtype), requires_grad=True)
    index = np.arange(len(rows)) % 3
    quantities = [
        *(Bernoulli(a).log_prob(np.full(a.shape, x, dtype)) for x in (0, 0.5, 1)),
        Bernoulli(a).entropy(),
        kl(Bernoulli(a), Bernoulli(b)),
        Categorical(rows).log_prob(index),
        Categorical(rows).entropy(),
        Categorical(rows).mean,
        kl(Categorical(rows), Categorical(rows[::-1])),
    ]
    for y in quantities:
        g = Tensor(np.ones(y.shape, dtype))
        leaves = [x for x in (a, b, rows)]
        first = grad(y, leaves, g, create_graph=True, allow_unused=True)
        assert np.isfinite(y.numpy()).all()
        for dx in first:
            assert np.isfinite(dx.numpy()).all()
            second = grad(dx, leaves, Tensor(np.ones(dx.shape, dtype)), allow_unused=True)
            assert all(np.isfinite(x.numpy()).all() for x in second)
    assert kl(Bernoulli(a), Bernoulli(b)).numpy().max() == 2e4 * 0.5  # all mass on 1, which q gives e^-10000
    sampled = Bernoulli(a).sample_from(np.full(a.shape, 0.5, dtype)).numpy()
    np.testing.assert_array_equal(sampled, (a.numpy() > 0).astype(dtype))


@pytest.mark.parametrize("name", ["Bernoulli", "Categorical"])
def test_uniforms_that_do_not_fit_raise(name, rng):
    d = Bernoulli(f32(np.zeros(3))) if name == "Bernoulli" else Categorical(f32(np.zeros((3, 2))))
    with pytest.raises(ValueError, match=rf"{name}\.sample_from: u must be \[3\], one uniform a draw; got \[1\]"):
        d.sample_from([0.5])
    for bad in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match=rf"{name}\.sample_from: u must lie in \[0, 1\)"):
            d.sample_from([0.5, bad, 0.5])


def test_parameters_that_do_not_fit_raise():
    with pytest.raises(TypeError, match="Bernoulli: logits must be a Tensor of float32 or float64, got ndarray"):
        Bernoulli(np.zeros(3))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Categorical: logits must be a Tensor of float32 or float64, got int64"):
        Categorical(Tensor([1, 2]))
    for shape in ((), (3, 0)):
        with pytest.raises(ValueError, match=r"Categorical: logits must be \[\.\.\., K\] with K of 1 or more"):
            Categorical(f32(np.zeros(shape)))
    with pytest.raises(TypeError, match="Normal: mixed dtypes: mean is float32, log_std is float64"):
        Normal(f32([0.0]), f64([0.0]))
    with pytest.raises(ValueError, match=r"Normal: shapes must broadcast, got mean \[2\], log_std \[3\]"):
        Normal(f32(np.zeros(2)), f32(np.zeros(3)))
    with pytest.raises(AttributeError):
        Bernoulli(f32([0.0])).logits = f32([1.0])  # type: ignore[misc]


def test_empty_batches():
    assert Bernoulli(f32(np.zeros((0, 3)))).log_prob(np.zeros((0, 3), np.float32)).shape == (0, 3)
    assert Bernoulli(f32(np.zeros((0, 3)))).sample(np.random.default_rng(0)).shape == (0, 3)
    assert Categorical(f32(np.zeros((0, 3)))).log_prob(np.zeros(0, int)).shape == (0,)
    assert Categorical(f32(np.zeros((0, 3)))).sample(np.random.default_rng(0)).shape == (0,)
