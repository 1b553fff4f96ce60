"""The PixelCNN auto-encoder: a density for each code, one that hears the code, and an encoder that learns from it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from micrognm import Tensor, check, grad, no_grad
from micrognm.models.autoregressive.pixelcnn_autoencoder import PixelCNNAutoencoder
from micrognm.optim import Adam

MAPS = [0, 4]  # the code itself in every layer, or a map made of it


def small(rng, maps, shape=(3, 3, 1), levels=2, m=3) -> PixelCNNAutoencoder:
    """A model in float64 whose weights are large, so that every connection shows."""
    model = PixelCNNAutoencoder(shape, rng, levels=levels, m=m, encoder=(5, 6), maps=maps, layers=3, p=6, head=6)
    model.cast("float64")
    for p in model.parameters():
        p.data[...] = 0.3 * rng.standard_normal(p.shape)
    model.eval()
    return model


@pytest.mark.parametrize("maps", MAPS)
@pytest.mark.parametrize(("shape", "levels"), [((3, 3, 1), 2), ((2, 2, 1), 3), ((3, 1, 3), 2)])
def test_for_each_code_the_probabilities_of_all_images_sum_to_one(maps, shape, levels, rng):
    model = small(rng, maps, shape, levels)
    images = np.array(list(itertools.product(range(levels), repeat=int(np.prod(shape))))).reshape(-1, *shape)
    x = Tensor(images.astype(float) if levels == 2 else images)
    with no_grad():
        each = [model.log_prob(x, Tensor(np.tile(h, (len(x), 1)))).numpy() for h in 2 * rng.standard_normal((3, 3))]
        np.testing.assert_allclose(np.exp(each).sum(axis=1), 1, atol=1e-6)
        assert np.ptp(each, axis=0).max() > 0.01
        # With the code of the image itself they need not: the code has seen what is predicted.
        assert np.exp(model.log_prob(x).numpy()).sum() != pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("maps", MAPS)
@pytest.mark.parametrize(("shape", "levels"), [((4, 5, 1), 3), ((3, 4, 3), 2)])
def test_for_a_given_code_nothing_sees_what_comes_after_it(maps, shape, levels, rng):
    model = small(rng, maps, shape, levels)
    told = model._told(Tensor(rng.standard_normal((1, 3))))
    x = rng.integers(levels, size=(1, *shape))
    outputs = model.decoder.outputs // shape[2]
    with no_grad():
        before = model.decoder(Tensor(x), told).numpy().reshape(-1, outputs)
        for i in range(x.size):
            changed = x.reshape(-1).copy()
            changed[i:] = (changed[i:] + 1) % levels
            after = model.decoder(Tensor(changed.reshape(x.shape)), told).numpy().reshape(-1, outputs)
            np.testing.assert_allclose(after[: i + 1], before[: i + 1], rtol=0, atol=1e-12)
            if i + shape[2] < x.size:
                assert np.abs(after[i + 1 :] - before[i + 1 :]).max() > 1e-9


@pytest.mark.parametrize("maps", MAPS)
def test_every_number_of_the_code_reaches_every_pixel(maps, rng):
    model = small(rng, maps, (4, 5, 1), 3)
    if model.to_s is not None:
        for layer in model.to_s.deconvolutions:
            layer.bias.data[...] = 5  # so that no relu is closed
    h = Tensor(rng.standard_normal((1, 3)), requires_grad=True)
    logits = model.decoder(Tensor(rng.integers(3, size=(1, 4, 5, 1))), model._told(h))
    for i, j in np.ndindex(4, 5):
        g = grad(logits[:, i, j], h, Tensor(rng.standard_normal((1, 3)))).numpy()
        assert (np.abs(g) > 1e-9).all()


def test_a_vector_is_told_to_all_places_alike_and_a_map_is_not(rng):
    h = Tensor(rng.standard_normal((1, 3)))
    with no_grad():
        for maps in MAPS:
            model = small(rng, maps, (4, 4, 1))
            s = model.decoder.condition(model._told(h), 1)
            if maps:
                assert s.shape == (1, 4, 4, maps)
                assert np.ptp(s.numpy(), axis=(1, 2)).min() > 0
            else:
                np.testing.assert_array_equal(s.numpy()[0, 0, 0], h.numpy()[0])


@pytest.mark.parametrize("maps", MAPS)
@pytest.mark.parametrize(("shape", "levels"), [((4, 3, 1), 3), ((3, 4, 3), 2)])
def test_reconstructions_are_what_whole_passes_draw(maps, shape, levels, rng):
    model = small(rng, maps, shape, levels)
    x = Tensor(rng.integers(levels, size=(3, *shape)))
    seed = 5
    fast = model.reconstruct(x, np.random.default_rng(seed), temperature=0.8).numpy()
    u = np.random.default_rng(seed).random((3, *shape[:2], model.decoder.draws))
    slow = np.zeros((3, *shape), np.int64)
    with no_grad():
        told = model._told(model.encode(x))
        for i, j, c in np.ndindex(*shape):
            p = model.decoder.distribution(model.decoder(Tensor(slow), told)[:, i, j], 0.8)
            slow[:, i, j, c] = p.sample_from(Tensor(u[:, i, j])).numpy()[:, c]
        np.testing.assert_array_equal(fast, slow)
        again = model.decode(model.encode(x), np.random.default_rng(seed), temperature=0.8).numpy()
    np.testing.assert_array_equal(again, slow)
    assert len(np.unique(slow)) > 1


@pytest.mark.parametrize("maps", MAPS)
def test_every_layer_of_the_decoder_is_told(maps, rng):
    model = small(rng, maps, (4, 4, 1), 3)
    loss = model.log_prob(Tensor(rng.integers(3, size=(8, 4, 4, 1)))).sum()
    told = {name: p for name, p in model.named_parameters().items() if ".V_" in name}
    assert len(told) == 5  # both stacks of three layers, of which the last has no use for its vertical one
    for name, g in zip(told, grad(loss, list(told.values())), strict=True):
        assert (np.abs(g.numpy()).max(axis=1) > 0).all(), name


@pytest.mark.parametrize("maps", MAPS)
def test_the_gradient_reaches_every_parameter_of_the_encoder(maps, rng):
    model = small(rng, maps, (4, 3, 1), 3)
    x = Tensor(rng.integers(3, size=(2, 4, 3, 1)))
    names = [name for name in model.named_parameters() if name.startswith(("encoder", "to_h", "to_s"))]
    assert len(names) >= 6 + 4 * bool(maps)
    for name in names:
        p = model.named_parameters()[name]
        assert np.abs(grad(model.log_prob(x).sum(), p).numpy()).max() > 1e-9, name

        def f(w: Tensor, p=p) -> Tensor:
            p.data, p.node = w.data, w.node
            return model.log_prob(x)

        kept = p.data, p.node
        check(f, p.data, order=1, single=False)
        p.data, p.node = kept


@pytest.mark.parametrize("maps", MAPS)
def test_training_end_to_end_writes_into_the_code_what_the_decoder_cannot_know(maps, rng):
    """Images of one grey level drawn at random: the first pixel is known from the code alone."""
    x = np.arange(64).repeat(16).reshape(64, 4, 4, 1) % 4
    model = PixelCNNAutoencoder((4, 4, 1), rng, levels=4, m=2, encoder=(8,), maps=maps, layers=2, p=8, head=8)
    optimiser = Adam(model, lr=0.02)
    for _ in range(150):
        optimiser.zero_grad()
        loss = -model.log_prob(Tensor(x)).mean()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.2  # log 4 = 1.39 nats without the code
    np.testing.assert_array_equal(model.reconstruct(Tensor(x), rng, temperature=0.1).numpy(), x)


def test_errors_say_what_was_expected(rng):
    with pytest.raises(ValueError, match="got m=0"):
        PixelCNNAutoencoder((4, 4, 1), rng, m=0)
    with pytest.raises(ValueError, match=r"encoder=\(\)"):
        PixelCNNAutoencoder((4, 4, 1), rng, encoder=())
    model = small(rng, 0, (4, 4, 1), 3)
    with pytest.raises(ValueError, match=r"images \[N, 4, 4, 1\], got \[1, 4, 3, 1\]"):
        model.encode(Tensor(np.zeros((1, 4, 3, 1), int)))
    with pytest.raises(ValueError, match="pixel values 0 to 2"):
        model.encode(Tensor(np.full((1, 4, 4, 1), 3)))
    for maps, message in zip(MAPS, (r"condition \[2, 3\]", r"maps \[N, \(1, 1, 3\)\]"), strict=True):
        with pytest.raises(ValueError, match=message):
            small(rng, maps, (4, 4, 1), 3).log_prob(Tensor(np.zeros((2, 4, 4, 1), int)), Tensor(np.zeros((2, 4))))
    with pytest.raises(ValueError, match="temperature > 0"):
        model.decode(Tensor(np.zeros((1, 3))), rng, temperature=0)
