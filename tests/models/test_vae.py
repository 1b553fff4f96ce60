"""The laws of VAE, and of the latent Gaussian models it is one of: bounds, estimates and draws against exact values."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.special import expit, logsumexp
from scipy.stats import chisquare, norm

from micrognm import Tensor, grad, no_grad
from micrognm.models.latent import gaussian
from micrognm.models.latent.vae import VAE
from tests.models.linear_gaussian import average, one_layer, repeated, spoil, two_layers

BINARY = Tensor(np.array(list(itertools.product([0.0, 1.0], repeat=6))).reshape(-1, 2, 3, 1))


def small(rng, n_z=1, hidden=(7,), shape=(2, 3, 1), **options) -> VAE:
    """A VAE in float64 whose weights are large."""
    model = VAE(shape, n_z, hidden, rng, **options)
    model.cast("float64")
    for p in model.parameters():
        p.data[...] = 0.6 * rng.standard_normal(p.shape)
    return model


def quadrature(model, images) -> np.ndarray:
    """log p(x) of a model with one latent dimension, by an integral over z."""
    z = np.linspace(-9, 9, 2001)
    with no_grad():
        p = expit(model.decoder(Tensor(z[:, None])).logits.numpy())  # [grid, D]
    x = images.numpy().reshape(len(images), -1)
    log_p = x @ np.log(p).T + (1 - x) @ np.log1p(-p).T + norm.logpdf(z)
    return logsumexp(log_p, axis=1) + np.log(z[1] - z[0])


@pytest.mark.parametrize("make", [one_layer, two_layers])
def test_every_weight_is_the_likelihood_where_q_is_the_posterior(make, rng):
    known = make(VAE, rng)
    with no_grad():
        log_w = known.model.log_weights(known.x, 7, rng).numpy()
    np.testing.assert_allclose(log_w, np.repeat(known.log_p[:, None], 7, 1), rtol=1e-10)


def test_both_estimators_average_to_the_exact_bound_which_is_below_the_likelihood(rng):
    known = one_layer(VAE, rng)
    spoil(known.model)
    # The bound is log p(x) - KL(q || posterior), and q is the posterior moved by 0.3 and widened by e^0.4.
    divergence = (-0.4 + 0.5 * (np.exp(0.8) + 0.09 / known.std**2) - 0.5).sum()
    x = repeated(known.x, 20_000)
    errors = []
    with no_grad():
        for estimator in (known.model.sgvb_a, known.model.sgvb_b):
            bound, error = average(estimator(x, rng), 5)
            assert (np.abs(bound - (known.log_p - divergence)) < 4.5 * error).all()
            assert (bound + 10 * error < known.log_p).all()
            errors.append(error)
    assert (errors[0] < 0.05).all() and (errors[1] < 0.05).all()


@pytest.mark.parametrize("decoder", ["bernoulli", "gaussian"])
def test_the_estimators_differ_by_the_error_of_the_sampled_divergence(decoder, rng):
    model = small(rng, n_z=3, decoder=decoder)
    seed = np.random.default_rng
    with no_grad():
        q = model.q[0](model.rows(BINARY, 4))
        (z,), _ = model.infer(q, 4, seed(5))
        mean, std, z = q.mean.numpy(), np.exp(q.log_std.numpy()), z.numpy()
        sampled = (norm.logpdf(z, mean, std) - norm.logpdf(z)).sum(axis=2).mean(axis=1)
        exact = (0.5 * (mean**2 + std**2 - 1) - np.log(std)).sum(axis=(1, 2))
        a, b = model.sgvb_a(BINARY, seed(5), L=4).numpy(), model.sgvb_b(BINARY, seed(5), L=4).numpy()
        reconstruction, divergence = model.terms(BINARY, seed(5), L=4)
    np.testing.assert_allclose(a - b, exact - sampled, rtol=1e-9)
    np.testing.assert_allclose(divergence.numpy(), exact, rtol=1e-10)
    np.testing.assert_allclose(reconstruction.numpy() - exact, b, rtol=1e-10)
    parameters = model.decoder(Tensor(z))
    if decoder == "bernoulli":
        each = np.where(BINARY.numpy().reshape(-1, 1, 6) > 0, 1, -1) * parameters.logits.numpy()
        pixels = np.log(expit(each)).sum(axis=2)
    else:
        assert (parameters.mean.numpy() > 0).all() and (parameters.mean.numpy() < 1).all()
        deviation = np.exp(parameters.log_std.numpy())
        pixels = norm.logpdf(BINARY.numpy().reshape(-1, 1, 6), parameters.mean.numpy(), deviation).sum(axis=2)
    np.testing.assert_allclose(reconstruction.numpy(), pixels.mean(axis=1), rtol=1e-9)


@pytest.mark.parametrize("estimator", ["sgvb_a", "sgvb_b"])
def test_the_gradient_passes_through_the_draw(estimator, rng):
    """Against finite differences with the same noise: a draw cut off from q would miss most of it."""
    model = small(rng, n_z=2)

    def value():
        return getattr(model, estimator)(BINARY, np.random.default_rng(3), L=2).mean()

    p = model.q[0].mean.weight
    slope = grad(value(), p).numpy()
    direction = rng.standard_normal(p.shape)
    before = p.data.copy()
    p.data[...] = before + 1e-5 * direction
    above = value().item()
    p.data[...] = before - 1e-5 * direction
    assert (slope * direction).sum() == pytest.approx((above - value().item()) / 2e-5, rel=1e-6)


@pytest.mark.parametrize("make", [one_layer, two_layers])
def test_the_estimate_from_5000_draws_is_within_its_error_of_the_likelihood(make, rng):
    known = make(VAE, rng)
    spoil(known.model)
    with no_grad():
        w = np.exp(known.model.log_weights(known.x, 5000, rng).numpy())
    error = w.std(axis=1, ddof=1) / w.mean(axis=1) / np.sqrt(5000)  # of the log of a mean
    estimate = known.model.log_prob(known.x, rng).numpy()
    assert (error < 0.05).all() and (error > 1e-4).all()
    assert (np.abs(estimate - known.log_p) < 4.5 * error).all()


def test_probabilities_of_all_images_sum_to_one_and_are_estimated_right(rng):
    model = small(rng)
    exact = quadrature(model, BINARY)
    assert np.exp(exact).sum() == pytest.approx(1, abs=1e-9)
    np.testing.assert_allclose(model.log_prob(BINARY, rng, 10_000).numpy(), exact, atol=0.15)
    assert np.exp(model.log_prob(BINARY, rng, 10_000).numpy()).sum() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("rows", "samples"), [(1, 9), (6, 10), (100, 9), (12, 12)])
def test_the_sum_in_parts_is_the_sum_and_weights_of_any_size_do_not_overflow(rows, samples, rng, monkeypatch):
    model = small(rng)
    log_w = rng.standard_normal((3, samples)) * 300 + np.array([[-2000.0], [0.0], [3000.0]])
    left = list(log_w.T)

    def part(rows, first, k, rng, masks):
        return Tensor(np.stack([left.pop(0) for _ in range(k)], axis=1))

    monkeypatch.setattr(gaussian, "ROWS", rows)
    monkeypatch.setattr(model, "_log_weights", part)
    found = model.log_prob(BINARY[:3], rng, samples).numpy()
    np.testing.assert_allclose(found, logsumexp(log_w, axis=1) - np.log(samples), rtol=1e-12)
    assert not left  # every draw was counted


def test_an_image_is_encoded_once_however_many_draws_are_made(rng, monkeypatch):
    model = small(rng, n_z=2)
    seen: list[tuple] = []
    encode = type(model.q[0]).forward
    monkeypatch.setattr(type(model.q[0]), "forward", lambda self, x: seen.append(x.shape) or encode(self, x))
    monkeypatch.setattr(gaussian, "ROWS", 100)
    model.log_weights(BINARY, 50, rng)
    model.log_prob(BINARY, rng, 50)
    assert seen == [(64, 1, 6)] * 2


def test_samples_have_the_frequencies_of_the_density_and_their_means_too(rng):
    model = small(rng)
    n = 40_000
    expected = np.exp(quadrature(model, BINARY)) * n
    bits = model.sample(n, rng).numpy().reshape(n, 6)
    counts = np.bincount((bits @ (1 << np.arange(6)[::-1])).astype(int), minlength=64)
    common = expected > np.median(expected)  # the rarer half is counted as one
    observed, wanted = (np.append(x[common], x[~common].sum()) for x in (counts, expected))
    assert chisquare(observed, wanted / wanted.sum() * n).pvalue > 1e-3
    share = (BINARY.numpy().reshape(64, 6) * expected[:, None]).sum(axis=0) / n
    np.testing.assert_allclose(model.sample_means(n, rng).numpy().reshape(n, 6).mean(axis=0), share, atol=0.012)


def test_reconstructions_of_a_sharp_q_are_the_decoders_means(rng):
    model = small(rng, n_z=2)
    model.q[0].log_std.weight.data[...] = 0
    model.q[0].log_std.bias.data[...] = -30
    with no_grad():
        z = model.q[0](BINARY.reshape(shape=(64, 6))).mean
        wanted = model.decoder(z).mean.numpy().reshape(64, 2, 3, 1)
    np.testing.assert_allclose(model.reconstruct(BINARY, rng).numpy(), wanted, rtol=1e-9)


def test_wake_sleep_trains_each_network_on_its_own_term(rng):
    known = one_layer(VAE, rng, n=1)
    model = known.model
    x = repeated(known.x, 50_000)

    def slopes(parameters):
        """The gradient of each of 50 groups, and so its mean and standard error."""
        groups = [grad(model.wake_sleep(x[i::50], rng).mean(), parameters) for i in range(50)]
        flat = np.array([np.concatenate([g.numpy().ravel() for g in group]) for group in groups])
        return flat.mean(axis=0), flat.std(axis=0, ddof=1) / np.sqrt(50)

    mean, error = slopes(model.q[0].parameters())
    assert (np.abs(mean) < 4.5 * error).all()  # at the posterior, dreams teach q nothing more
    # Wake: d log p(x | z) / d bias = (x - E[x | z]) / noise^2, whose mean over the posterior is known.
    decoder = model.decoder
    noise = np.exp(decoder.log_std.bias.numpy())
    expected = (known.x.numpy()[0] - known.mean[0] @ decoder.mean.weight.numpy() - decoder.mean.bias.numpy()) / noise**2
    mean, error = slopes([decoder.mean.bias])
    assert (np.abs(mean - expected) < 4.5 * error).all()
    spoil(model)
    mean, error = slopes([model.q[0].mean.bias, model.q[0].log_std.bias])
    assert (mean < -10 * error).all()  # back to where q was


def test_the_manifold_is_even_in_probability(rng):
    model = small(rng, n_z=2, hidden=())
    pictures = model.manifold(4).numpy().reshape(4, 4, 6)
    line = norm.ppf([0.125, 0.375, 0.625, 0.875])
    W, b = model.decoder.logits.weight.numpy(), model.decoder.logits.bias.numpy()
    for i, j in itertools.product(range(4), repeat=2):
        np.testing.assert_allclose(pictures[i, j], expit(np.array([line[i], line[j]]) @ W + b), rtol=1e-9)


def test_float32_is_kept(rng):
    model = VAE((2, 3, 1), 2, (5,), rng)
    x = Tensor(BINARY.numpy().astype(np.float32))
    for value in (model.sgvb_a(x, rng), model.sgvb_b(x, rng), model.log_prob(x, rng, 10), model.wake_sleep(x, rng)):
        assert value.dtype == np.float32 and value.shape == (64,)
    assert model.sample(2, rng).dtype == model.manifold(3).dtype == np.float32


def test_errors_say_what_was_expected(rng):
    with pytest.raises(ValueError, match="1 or more latent dimensions"):
        VAE((2, 3, 1), 0, (5,), rng)
    with pytest.raises(ValueError, match="decoder must be 'bernoulli' or 'gaussian', got 'logistic'"):
        VAE((2, 3, 1), 2, (5,), rng, decoder="logistic")
    model = small(rng, n_z=3)
    with pytest.raises(ValueError, match=r"expected images \[N, 2, 3, 1\].*got \[64, 6\] and 1"):
        model.sgvb_b(BINARY.reshape(shape=(64, 6)), rng)
    with pytest.raises(ValueError, match="1 or more draws"):
        model.log_prob(BINARY, rng, 0)
    with pytest.raises(ValueError, match="z has 3 dimensions, a picture needs n_z=2"):
        model.manifold(4)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        model.sgvb_a(Tensor(16 * BINARY.numpy()), rng)
