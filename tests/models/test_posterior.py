"""Draws of the posterior: the likelihood by them, Monte Carlo EM, and weights that are variables too."""

from __future__ import annotations

import numpy as np
import pytest

from micrognm import Tensor, grad, no_grad
from micrognm.models.latent import posterior
from micrognm.models.latent.full_vb import FullVB, UncertainLinear
from micrognm.models.latent.vae import VAE
from micrognm.ops import logsumexp
from tests.models.linear_gaussian import one_layer, spoil, two_layers
from tests.models.test_vae import BINARY, quadrature, small


def test_the_estimate_is_the_likelihood_of_a_linear_model_whatever_q_is(rng):
    """The posterior is normal, as the fitted density is, so a few draws are enough."""
    known = one_layer(VAE, rng)
    spoil(known.model)
    found = posterior.log_prob(known.model, known.x, rng, draws=400).numpy()
    np.testing.assert_allclose(found, known.log_p, atol=0.05)


def test_the_estimate_of_a_model_that_is_not_linear(rng):
    model = small(rng)
    found = posterior.log_prob(model, BINARY[:20], rng, draws=1000).numpy()
    np.testing.assert_allclose(found, quadrature(model, BINARY[:20]), atol=0.15)


def test_the_gradient_of_monte_carlo_em_is_that_of_the_likelihood(rng):
    """Fisher's identity: E[d log p(x, z)] over the posterior is d log p(x); and the encoder has none."""
    model = small(rng)
    x, decoder = BINARY[33:34], model.decoder.parameters()
    many = Tensor(np.repeat(x.numpy(), 6000, axis=0))
    for _ in range(20):  # the size of the steps is tuned
        with no_grad():
            model.monte_carlo_em(many[:100], rng)
    found = grad(model.monte_carlo_em(many, rng).mean(), decoder)
    grid = Tensor(np.linspace(-7, 7, 2001)[None, :, None])
    want = grad(logsumexp(model.log_joint(model.rows(x, 2001), [grid]), axis=1).sum(), decoder)
    for a, b in zip(found, want, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=0.06)
    encoder = grad(model.monte_carlo_em(many[:5], rng).sum(), model.q[0].parameters(), allow_unused=True)
    assert not any(g.numpy().any() for g in encoder)


def test_what_the_estimate_cannot_do_is_said(rng):
    with pytest.raises(ValueError, match="needs 4 draws or more, got 3"):
        posterior.log_prob(one_layer(VAE, rng).model, Tensor(np.zeros((1, 3))), rng, draws=3)
    with pytest.raises(ValueError, match="one stochastic layer, got 2"):
        posterior.log_prob(two_layers(VAE, rng).model, Tensor(np.zeros((1, 3))), rng)


def uncertain(rng, log_std=-1.0) -> FullVB:
    model = FullVB((2, 3, 1), 2, (4,), rng, images=50)
    model.cast("float64")
    for p in model.parameters():
        p.data[...] = 0.6 * rng.standard_normal(p.shape)
    for layer in model.decoder.modules():
        if isinstance(layer, UncertainLinear):
            layer.weight_log_std.data[...] = layer.bias_log_std.data[...] = log_std
    return model


def test_weights_are_drawn_in_training_and_their_divergence_is_paid(rng):
    model = uncertain(rng, log_std=-1.0)
    layers = [m for m in model.decoder.modules() if isinstance(m, UncertainLinear)]
    assert len(layers) == 2
    divergence = 0.0
    for layer in layers:
        for mean in (layer.weight.numpy(), layer.bias.numpy()):
            divergence += (0.5 * (mean**2 + np.exp(-2.0) - 1) + 1.0).sum()
    with no_grad():
        layers[0].rng = np.random.default_rng(7)
        layers[1].rng = layers[0].rng
        bound = model.full_bound(BINARY, np.random.default_rng(5)).numpy()
        layers[0].rng = layers[1].rng = np.random.default_rng(7)
        paid = model.sgvb_b(BINARY, np.random.default_rng(5)).numpy() - bound
        np.testing.assert_allclose(paid, divergence / 50, rtol=1e-10)
        x, layer = Tensor(np.ones((1, 2))), layers[0]
        drawn = np.concatenate([layer(x).numpy() for _ in range(4000)])
        model.eval()
        mean = layer(x).numpy()[0]
    np.testing.assert_allclose(drawn.std(axis=0), np.exp(-1.0) * np.sqrt(3), rtol=0.06)  # two weights and a bias
    np.testing.assert_allclose(drawn.mean(axis=0), mean, atol=4.5 * np.exp(-1.0) * np.sqrt(3 / 4000))


def test_certain_weights_make_the_bound_of_an_ordinary_vae(rng):
    model = uncertain(rng, log_std=-40.0)
    with no_grad():
        a = model.sgvb_b(BINARY, np.random.default_rng(5)).numpy()
        model.eval()
        b = model.sgvb_b(BINARY, np.random.default_rng(5)).numpy()
    np.testing.assert_allclose(a, b, rtol=1e-10)


def test_gradients_reach_means_and_deviations_of_the_weights(rng):
    model = uncertain(rng)
    layers = [m for m in model.decoder.modules() if isinstance(m, UncertainLinear)]

    def bound() -> Tensor:
        layers[0].rng = layers[1].rng = np.random.default_rng(3)
        return model.full_bound(BINARY[:4], np.random.default_rng(5)).sum()

    parameters = [p for layer in layers for p in layer.parameters()]
    assert len(parameters) == 8
    slopes = grad(bound(), parameters)
    for p, slope in zip(parameters, slopes, strict=True):
        direction = rng.standard_normal(p.shape)
        ends = []
        for sign in (1, -1):
            p.data += sign * 1e-5 * direction
            ends.append(bound().item())
            p.data -= sign * 1e-5 * direction
        assert (slope.numpy() * direction).sum() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6, abs=1e-8)
