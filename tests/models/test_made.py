"""MADE's laws, on images small enough to enumerate: a density, causal in its order, sampled as it says."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import chisquare

from micrognm import Tensor, concat, grad, no_grad
from micrognm.models.autoregressive import made
from micrognm.models.autoregressive.made import MADE
from micrognm.optim import Adam

BINARY = Tensor(np.array(list(itertools.product([0.0, 1.0], repeat=9))).reshape(-1, 3, 3, 1))
TERNARY = Tensor(np.array(list(itertools.product([0, 1, 2], repeat=4))).reshape(-1, 2, 2, 1))
VARIANTS = [
    {},
    {"natural_order": True},
    {"masks": 3},
    {"masks": 3, "order_agnostic": False},
    {"masks": 3, "connectivity_agnostic": False},
    {"masks": 2, "direct": True},
    {"masks": 2, "companion": True},
    {"direct": True, "companion": True, "masks": 2, "dropout": 0.3},
]


def small(rng, hidden=(13, 7), shape=(3, 3, 1), **options) -> MADE:
    """A MADE in float64 whose weights are large, so that every connection shows."""
    model = MADE(shape, hidden, rng, **options)
    model.cast("float64")
    for p in model.parameters():
        p.data[...] = 0.7 * rng.standard_normal(p.shape)
    model.eval()
    return model


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("hidden", [(20,), (13, 7), (8, 8, 8)])
def test_probabilities_of_all_images_sum_to_one(rng, options, hidden):
    model = small(rng, hidden, **options)
    with no_grad():
        for s in [*range(model.S), None]:
            assert np.exp(model.log_prob(BINARY, s).numpy()).sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("options", [{}, {"masks": 3, "direct": True, "companion": True}])
def test_probabilities_of_all_three_level_images_sum_to_one(rng, options):
    model = small(rng, (20, 10), (2, 2, 1), levels=3, **options)
    with no_grad():
        for s in [*range(model.S), None]:
            assert np.exp(model.log_prob(TERNARY, s).numpy()).sum() == pytest.approx(1, abs=1e-12)


def test_the_ensemble_averages_probabilities_and_not_logits(rng):
    model = small(rng, masks=4)
    with no_grad():
        p = np.mean([np.exp(model.log_prob(BINARY, s).numpy()) for s in range(4)], axis=0)
        np.testing.assert_allclose(model.log_prob(BINARY).numpy(), np.log(p), rtol=1e-10)


@pytest.mark.parametrize("options", VARIANTS)
def test_the_jacobian_is_zero_where_the_order_forbids_and_only_there(rng, options):
    model = small(rng, (200, 200), **options)
    x = Tensor(rng.random((5, 3, 3, 1)), requires_grad=True)
    for s in range(model.S):
        rank = model.degrees[0].numpy()[s]
        logits = model.logits(x, model.masks(s))
        gradients = [grad(logits[:, d].sum(), x, allow_unused=True).numpy().reshape(5, 9) for d in range(9)]
        jacobian = np.abs(gradients).max(axis=1)  # [outputs, inputs], over the images
        allowed = rank[None, :] < rank[:, None]
        assert (jacobian[~allowed] == 0).all()
        assert (jacobian[allowed] > 0).all()  # with this many units every allowed path exists


def test_an_output_does_not_change_when_its_own_or_a_later_dimension_does(rng):
    for levels, shape in ((2, (3, 3, 1)), (3, (2, 2, 1))):
        model = small(rng, (30, 30), shape, levels=levels, masks=2, direct=True)
        images = BINARY if levels == 2 else TERNARY
        with no_grad():
            for s, d in itertools.product(range(2), range(model.D)):
                rank = model.degrees[0].numpy()[s]
                x = images.numpy().copy()
                changed = x.reshape(len(x), -1)
                changed[:, d] = (changed[:, d] + 1) % levels
                before = model.logits(images, model.masks(s)).numpy()
                after = model.logits(Tensor(x), model.masks(s)).numpy()
                np.testing.assert_array_equal(before[:, rank <= rank[d]], after[:, rank <= rank[d]])
                if rank[d] < model.D:
                    assert (before[:, rank > rank[d]] != after[:, rank > rank[d]]).any()


def slow_sample(model, u, s):
    """One full forward pass for each dimension."""
    x = Tensor(np.zeros((len(u), *model.shape), u.dtype if model.K == 1 else np.int64))
    order = model.degrees[0].numpy()[s].argsort()
    for d in order:
        p = model.conditionals(model.logits(x, model.masks(s))[:, int(d)])
        x.numpy().reshape(len(u), -1)[:, d] = p.sample_from(u[:, int(d)]).numpy()
    return x.numpy()


@pytest.mark.parametrize("options", [*VARIANTS, {"levels": 3, "masks": 2, "direct": True, "companion": True}])
@pytest.mark.parametrize("hidden", [(20,), (13, 7), (5, 6, 7)])
def test_the_fast_sampler_draws_what_the_slow_one_draws_from_the_same_uniforms(rng, options, hidden):
    model = small(rng, hidden, **options)
    u = Tensor(rng.random((50, 9)))
    with no_grad():
        for s in range(model.S):
            fast, _ = model.sample_from(u, [m.numpy()[s] for m in model.degrees])
            np.testing.assert_array_equal(fast.numpy(), slow_sample(model, u, s))


@pytest.mark.parametrize("options", [{}, {"direct": True, "companion": True}, {"levels": 3}])
def test_with_all_pixels_known_the_sampler_gives_the_image_and_its_log_probability(rng, options):
    model = small(rng, **options)
    x = Tensor(
        rng.integers(0, options.get("levels", 2), (20, 3, 3, 1)).astype(float if "levels" not in options else int)
    )
    degrees = [m.numpy()[0] for m in model.degrees]
    same, weight = model.sample_from(Tensor(rng.random((20, 9))), degrees, x, np.ones((3, 3, 1), bool))
    with no_grad():
        np.testing.assert_array_equal(same.numpy(), x.numpy())
        np.testing.assert_allclose(weight.numpy(), model.log_prob(x).numpy(), rtol=1e-10)


def test_sampling_multiplies_once_for_each_connection_and_image(rng, monkeypatch):
    model = small(rng, (40, 30), (5, 5, 1), direct=True)
    counted: list[int] = []

    def counting(f):
        def product(x, w, *rest):
            counted.append(x.shape[0] * w.shape[0] * w.shape[1])
            return f(x, w, *rest)

        return product

    monkeypatch.setattr(made, "affine", counting(made.affine))
    monkeypatch.setattr(Tensor, "__matmul__", counting(Tensor.__matmul__))
    model.sample(8, rng)
    assert sum(counted) == 8 * sum(int(mask.sum()) for mask in model.masks(0))


def index(images):
    """Binary 3x3 images as numbers of 9 bits."""
    return (images.numpy().reshape(-1, 9) @ (1 << np.arange(9)[::-1])).astype(int)


def test_samples_have_the_frequencies_of_the_density(rng):
    model = small(rng, masks=2)
    for p in model.parameters():
        p.data *= 0.3  # so that no image is too rare for the test of frequencies
    with no_grad():
        probability = np.exp(model.log_prob(BINARY).numpy())
        counts = np.bincount(index(model.sample(50_000, rng)), minlength=512)
    common = probability > np.median(probability)  # the rarer half is counted as one
    expected = np.append(probability[common], probability[~common].sum()) * 50_000
    observed = np.append(counts[common], counts[~common].sum())
    assert expected.min() > 5
    assert chisquare(observed, expected / expected.sum() * 50_000).pvalue > 1e-3


@pytest.mark.parametrize(("options", "candidates"), [({"natural_order": True}, 1), ({"masks": 3}, 400)])
def test_completions_follow_the_conditional_density(rng, options, candidates):
    model = small(rng, **options)
    for p in model.parameters():
        p.data *= 0.5
    known = np.zeros((3, 3, 1), bool)
    known[:2] = True  # the first six pixels: under natural order they come first, and one candidate is exact
    x = BINARY[np.full(4000, 0b101_010_000)]
    with no_grad():
        every = BINARY[np.arange(8) + 0b101_010_000]
        joint = np.exp(model.log_prob(every).numpy())
        done = model.complete(x, known, rng, candidates)
    assert (done.numpy()[:, :2] == x.numpy()[:, :2]).all()
    counts = np.bincount(index(done) - 0b101_010_000, minlength=8)
    assert chisquare(counts, joint / joint.sum() * 4000).pvalue > 1e-3


@pytest.mark.parametrize("options", VARIANTS)
def test_degrees_leave_no_unit_dead(rng, options):
    model = MADE((4, 4, 1), (3, 40, 30), rng, **options)  # 3 units: their smallest degree is seldom 1
    for s in range(model.S):
        m = [degrees.numpy()[s] for degrees in model.degrees]
        np.testing.assert_array_equal(np.sort(m[0]), np.arange(1, 17))
        for below, above in itertools.pairwise(m):
            assert above.min() >= below.min()  # something below reaches each unit
            assert above.max() <= 15  # and each reaches the last output
        if "natural_order" in options:
            np.testing.assert_array_equal(m[0], np.arange(1, 17))


def test_what_differs_among_the_masks(rng):
    def differ(layer, **options):
        return (np.ptp(MADE((4, 4, 1), (50,), rng, masks=3, **options).degrees[layer].numpy(), axis=0) > 0).any()

    assert differ(0) and differ(1)
    assert not differ(0, order_agnostic=False) and differ(1, order_agnostic=False)
    assert differ(0, connectivity_agnostic=False) and not differ(1, connectivity_agnostic=False)


def test_masked_weights_get_no_gradient_and_training_fits_a_correlated_pair(rng):
    model = MADE((1, 2, 1), (8,), rng)
    optimiser = Adam(model, 0.05)
    x = Tensor(np.repeat(np.array([[0.0, 0.0], [1.0, 1.0]], np.float32), 32, 0).reshape(64, 1, 2, 1))
    for _ in range(200):
        optimiser.zero_grad()
        loss = -model.log_prob(x).mean()
        loss.backward()
        for w, mask in zip(model.W, model.masks(0), strict=False):
            assert w.grad is not None and (w.grad.numpy()[mask == 0] == 0).all()
        optimiser.step()
    assert loss.item() == pytest.approx(np.log(2), abs=0.02)  # the pair is equal, and either value as likely


def test_state_carries_the_degrees(rng):
    model = small(rng, masks=3, direct=True, companion=True)
    other = small(np.random.default_rng(1), masks=3, direct=True, companion=True)
    with no_grad():
        other.log_prob(BINARY)  # fills its cache of masks
        other.load(model.state())
        np.testing.assert_array_equal(other.log_prob(BINARY).numpy(), model.log_prob(BINARY).numpy())


def test_dropout_acts_in_training_alone(rng):
    model = small(rng, dropout=0.5)
    with no_grad():
        np.testing.assert_array_equal(model.log_prob(BINARY).numpy(), model.log_prob(BINARY).numpy())
        model.train()
        assert (model.log_prob(BINARY).numpy() != model.log_prob(BINARY).numpy()).any()


def test_errors_say_what_was_expected(rng):
    with pytest.raises(ValueError, match="2 or more dimensions and levels"):
        MADE((1, 1, 1), (5,), rng)
    with pytest.raises(ValueError, match="hidden=\\[\\]"):
        MADE((3, 3, 1), (), rng)
    with pytest.raises(ValueError, match="natural_order is one order"):
        MADE((3, 3, 1), (5,), rng, natural_order=True, masks=2)
    model = MADE((3, 3, 1), (5,), rng)
    with pytest.raises(ValueError, match=r"expected images \[N, 3, 3, 1\], got \[2, 4, 4, 1\]"):
        model.log_prob(Tensor(np.zeros((2, 4, 4, 1), np.float32)))
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        model.log_prob(Tensor(np.full((2, 3, 3, 1), 16, np.float32)))
    with pytest.raises(IndexError, match="from 0 to 2"):
        MADE((3, 3, 1), (5,), rng, levels=3).log_prob(Tensor(np.full((2, 3, 3, 1), 3)))
    with pytest.raises(ValueError, match=r"expected known that broadcasts to \[3, 3, 1\]"):
        model.complete(Tensor(np.zeros((2, 3, 3, 1), np.float32)), np.ones((2, 3, 3, 1), bool), rng)
    x = concat(BINARY, BINARY, axis=0)
    with pytest.raises(TypeError, match="mixed dtypes"):
        model.log_prob(x)  # float64 images, a float32 model
