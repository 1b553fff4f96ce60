"""The laws of IWAE: bounds in order, gradients weighted as they must be, units counted."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.special import logsumexp

from micrognm import Tensor, grad, no_grad
from micrognm.metrics import active_units
from micrognm.models.latent.iwae import IWAE, stages
from tests.models.linear_gaussian import average, one_layer, repeated, spoil, two_layers

BINARY = Tensor(np.array(list(itertools.product([0.0, 1.0], repeat=6))).reshape(-1, 2, 3, 1))
ONE = ([3], [[7, 5]])
TWO = ([4, 2], [[7, 5], [6, 4]])


def small(rng, units, hidden) -> IWAE:
    """An IWAE in float64 whose weights are large."""
    model = IWAE(units, hidden, rng, mean=np.full((2, 3, 1), 0.3))
    model.cast("float64")
    for p in model.parameters():
        p.data[...] = 0.4 * rng.standard_normal(p.shape)
    return model


@pytest.mark.parametrize("make", [one_layer, two_layers])
def test_bounds_rise_with_k_and_stay_below_the_likelihood(make, rng):
    known = make(IWAE, rng)
    spoil(known.model)
    with no_grad():
        found = [average(known.model.bound(repeated(known.x, 40_000 // k), k, rng), 5) for k in (1, 5, 50)]
        elbo, _ = average(known.model.elbo(repeated(known.x, 8000), 5, rng), 5)
    for (low, low_error), (high, high_error) in itertools.pairwise(found):
        assert (high - low > 4 * np.hypot(low_error, high_error)).all()
    for bound, error in found:
        assert (bound < known.log_p + 4 * error).all()
    np.testing.assert_allclose(elbo, found[0][0], atol=0.1)  # of the same k, the control is the bound of one draw
    assert (known.log_p - found[-1][0] < 0.1 * (known.log_p - found[0][0])).all()  # 50 draws close most of the gap


@pytest.mark.parametrize(("units", "hidden"), [ONE, TWO])
def test_bounds_are_the_log_of_the_mean_and_the_mean_of_the_logs(units, hidden, rng):
    model = small(rng, units, hidden)
    seed = np.random.default_rng
    with no_grad():
        log_w = model.log_weights(BINARY, 9, seed(1)).numpy()
        assert log_w.shape == (64, 9)
        np.testing.assert_allclose(
            model.bound(BINARY, 9, seed(1)).numpy(), logsumexp(log_w, axis=1) - np.log(9), rtol=1e-12
        )
        np.testing.assert_allclose(model.elbo(BINARY, 9, seed(1)).numpy(), log_w.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(model.dreg(BINARY, 9, seed(1)).numpy(), logsumexp(log_w, axis=1) - np.log(9), rtol=1e-12)


@pytest.mark.parametrize(("units", "hidden"), [ONE, TWO])
def test_the_gradient_is_the_weighted_sum_of_the_draws_gradients(units, hidden, rng):
    """Summed by hand: each draw's gradient times its share of the weights, as a constant."""
    model = small(rng, units, hidden)
    x, parameters, seed = BINARY[7:9], model.parameters(), np.random.default_rng
    log_w = model.log_weights(x, 4, seed(2))
    w = np.exp(log_w.numpy() - log_w.numpy().max(axis=1, keepdims=True))
    w /= w.sum(axis=1, keepdims=True)
    assert 0.3 < w.max() < 0.99  # neither all alike nor one alone
    expected = [np.zeros(p.shape) for p in parameters]
    for n, i in itertools.product(range(2), range(4)):
        for total, slope in zip(expected, grad(log_w[n, i], parameters), strict=True):
            total += w[n, i] * slope.numpy()
    for got, want in zip(grad(model.bound(x, 4, seed(2)).sum(), parameters), expected, strict=True):
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-9, atol=1e-12)


def gradients(model, x, objective, rng, groups=50):
    """The gradient [P] of q's parameters in each group of the images: the mean, its standard error and deviation."""
    parameters = [p for layer in model.q for p in layer.parameters()]
    found = []
    for i in range(groups):
        slopes = grad(getattr(model, objective)(x[i::groups], 3, rng).mean(), parameters)
        found.append(np.concatenate([slope.numpy().ravel() for slope in slopes]))
    flat = np.array(found)
    return flat.mean(axis=0), flat.std(axis=0, ddof=1) / np.sqrt(groups)


@pytest.mark.parametrize(("units", "hidden"), [([2], [[3]]), ([2, 2], [[3], [3]])])
def test_dregs_gradient_of_q_has_the_bounds_expectation(units, hidden, rng):
    model = small(rng, units, hidden)
    x = repeated(BINARY[63:], 50_000)
    (bound, bound_error), (dreg, dreg_error) = (gradients(model, x, f, rng) for f in ("bound", "dreg"))
    assert (np.abs(bound - dreg) < 4.5 * np.hypot(bound_error, dreg_error)).all()
    assert (np.abs(dreg) > 10 * dreg_error).mean() > 0.5  # which is not nothing
    assert np.median(dreg_error / bound_error) < 0.9


def test_dregs_gradient_of_p_is_the_bounds(rng):
    for units, hidden in (ONE, TWO):
        model = small(rng, units, hidden)
        parameters = [p for part in (*model.p, model.decoder) for p in part.parameters()]
        bound, dreg = (
            grad(getattr(model, f)(BINARY, 5, np.random.default_rng(4)).mean(), parameters) for f in ("bound", "dreg")
        )
        for a, b in zip(bound, dreg, strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("make", [one_layer, two_layers])
def test_dregs_gradient_of_q_is_nothing_at_the_posterior_in_every_draw(make, rng):
    known = make(IWAE, rng)
    parameters = [p for layer in known.model.q for p in layer.parameters()]
    for slope in grad(known.model.dreg(known.x, 6, rng).sum(), parameters):
        np.testing.assert_allclose(slope.numpy(), 0, atol=1e-10)
    assert max(np.abs(g.numpy()).max() for g in grad(known.model.bound(known.x, 6, rng).sum(), parameters)) > 0.1


def test_posterior_means_of_both_layers(rng):
    known = two_layers(IWAE, rng)
    first, second = (mean.numpy() for mean in known.model.posterior_means(known.x, rng, k=40_000))
    np.testing.assert_allclose(first, known.mean, rtol=1e-10)
    layer = known.model.q[1].mean  # linear, so the mean over draws of z_1 is what it gives for their mean
    np.testing.assert_allclose(second, known.mean * layer.weight.numpy()[0] + layer.bias.numpy(), atol=0.02)


def test_units_are_active_where_their_mean_varies_over_the_images(rng):
    means = rng.standard_normal((2000, 4)) * [1.0, 0.11, 0.09, 0.0] + [0, 5, 5, 5]
    assert active_units(means).tolist() == [True, True, False, False]
    assert active_units(means, threshold=0.5).tolist() == [True, False, False, False]
    with pytest.raises(ValueError, match=r"means must be \[N, d\] of 2 or more images, got \[4\]"):
        active_units(means[0])


def test_a_unit_cut_off_from_x_is_inactive_though_its_draws_vary(rng):
    model = small(rng, *ONE)
    for head in (model.q[0].mean, model.q[0].log_std):
        head.weight.data[:, 1] = 0
    (means,) = model.posterior_means(BINARY, rng)
    assert active_units(means.numpy()).tolist() == [True, False, True]


@pytest.mark.parametrize(("units", "hidden"), [ONE, TWO])
def test_removing_units_that_q_leaves_at_the_prior_changes_nothing_else(units, hidden, rng):
    """A unit that neither network uses adds log p - log q = 0 for each draw; removed, it adds nothing at all."""
    model = small(rng, units, hidden)
    unit, last = 1, model.q[-1]
    for head in (last.mean, last.log_std):
        head.weight.data[:, unit] = 0
        head.bias.data[unit] = 0
    below = model.p[0].hidden if model.p else model.decoder.hidden
    below.layers[0].weight.data[unit] = 0
    kept = [np.ones(n, bool) for n in units]
    kept[-1][unit] = False
    with no_grad():
        whole = model.log_weights(BINARY, 5, np.random.default_rng(6)).numpy()
        part = model.log_weights(BINARY, 5, np.random.default_rng(6), kept).numpy()
        below.layers[0].weight.data[unit] = 5  # nothing below reads what is removed
        still = model.log_weights(BINARY, 5, np.random.default_rng(6), kept).numpy()
    np.testing.assert_allclose(whole, part, rtol=1e-10)
    np.testing.assert_array_equal(still, part)


def test_samples_have_the_moments_of_the_density(rng):
    """Of two layers, whose draws both count: with z_1 at its mean the variance along W would be too small."""
    model = two_layers(IWAE, rng).model
    v, tau = model.p[0].mean.weight.item(), np.exp(model.p[0].log_std.bias.item())
    W, noise = model.decoder.mean.weight.numpy(), np.exp(model.decoder.log_std.bias.numpy())
    mean = model.p[0].mean.bias.numpy() @ W + model.decoder.mean.bias.numpy()
    x = model.sample(100_000, rng).numpy()
    np.testing.assert_allclose(x.mean(axis=0), mean, atol=0.03)
    np.testing.assert_allclose(np.cov(x.T), (v**2 + tau**2) * W.T @ W + np.diag(noise**2), atol=0.03)
    np.testing.assert_allclose(np.cov(model.sample_means(100_000, rng).numpy().T), (v**2 + tau**2) * W.T @ W, atol=0.03)


def test_the_output_begins_at_the_frequencies_of_the_pixels(rng):
    mean = np.array([0.0, 0.2, 0.5, 0.7, 0.999, 1.0]).reshape(2, 3, 1)
    model = IWAE(*ONE, rng, mean=mean)
    model.decoder.logits.weight.data[...] = 0
    np.testing.assert_allclose(
        model.sample_means(2, rng).numpy()[0].ravel(), [0.001, 0.2, 0.5, 0.7, 0.999, 0.999], rtol=1e-5
    )


def test_the_stages_are_3280_epochs():
    rate, epoch = stages(10), 10
    ends = np.cumsum([3**i for i in range(8)])
    assert ends[-1] == 3280
    for i, end in enumerate(ends):
        assert rate(end * epoch - 1) == pytest.approx(1e-3 * 10 ** (-i / 7))
        assert rate((end - 3**i) * epoch) == pytest.approx(1e-3 * 10 ** (-i / 7))
    assert rate(3280 * epoch) == pytest.approx(1e-4)


def test_errors_say_what_was_expected(rng):
    with pytest.raises(ValueError, match="hidden layers for each of 1 or more stochastic layers"):
        IWAE([4, 2], [[7, 5]], rng, mean=np.full((2, 3, 1), 0.3))
    with pytest.raises(ValueError, match="mean must lie in"):
        IWAE(*ONE, rng, mean=np.full((2, 3, 1), 8.0))
    model = small(rng, *ONE)
    with pytest.raises(ValueError, match="1 or more draws"):
        model.bound(BINARY, 0, rng)
    with pytest.raises(ValueError, match=r"expected images \[N, 2, 3, 1\]"):
        model.dreg(BINARY.reshape(shape=(64, 6)), 5, rng)
    with pytest.raises(ValueError, match=r"keep must hold a mask of units for each layer, \[3\]; got \[4, 2\]"):
        model.log_weights(BINARY, 5, rng, [np.ones(4, bool), np.ones(2, bool)])
