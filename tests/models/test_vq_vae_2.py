"""VQ-VAE-2: levels that all learn, priors that are densities of all levels, and how samples are judged."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from micrognm import Tensor, grad, no_grad
from micrognm.metrics import classification_accuracy_score, linear_classifier, most_recognised
from micrognm.models.latent.vq_vae import VQVAE
from micrognm.models.latent.vq_vae_2 import VQVAE2, Prior
from micrognm.nn.quantiser import Quantiser
from tests.models.test_vq_vae import drawn

SMALL = {"levels": 3, "h": 8, "r": 6, "blocks": 1, "K": 3, "D": 2}


def small(rng, halvings=(1, 1), side=8, **options) -> VQVAE2:
    model = drawn(VQVAE2((side, side, 1), rng, halvings=halvings, **{**SMALL, **options}), rng)
    for module in model.modules():
        if isinstance(module, Quantiser):
            module.e.data[...] = rng.standard_normal(module.e.shape)
    return model


def images(rng, n=4, side=8) -> Tensor:
    return Tensor(rng.integers(3, size=(n, side, side, 1)))


@pytest.mark.parametrize("halvings", [(1, 1), (1, 1, 1), (2, 1)])
def test_levels_have_their_sizes_and_every_parameter_learns(halvings, rng):
    model = small(rng, halvings)
    x = images(rng, 16)
    codes = model.encode(x)
    sizes = {(1, 1): [2, 4], (1, 1, 1): [1, 2, 4], (2, 1): [1, 2]}[halvings]
    assert [c.shape for c in codes] == [(16, n, n) for n in sizes] and model.sizes == [(n, n) for n in sizes]
    gradients = grad(model.loss(x), model.parameters())
    for name, g in zip(model.named_parameters(), gradients, strict=True):
        assert np.abs(g.numpy()).max() > 1e-9, name


def test_the_decoders_gradient_alone_reaches_what_is_above_each_level(rng):
    """Without the commitment, so that what passes straight through is seen: also to what the bottom is told."""
    model = small(rng, beta=0.0)
    loss = model.loss(images(rng, 16))
    for name, p in model.named_parameters().items():
        g = grad(loss, p).numpy()
        assert np.abs(g).max() > 1e-9, name


def test_one_level_is_a_vq_vae(rng):
    one, plain = small(rng, (1,), 4), drawn(VQVAE((4, 4, 1), rng, halvings=1, **SMALL), rng)
    for a, b in zip(one.parameters(), plain.parameters(), strict=True):
        a.data[...] = b.data
    plain.quantiser.e.data[...] = one.quantisers[0].e.data
    x = images(rng, side=4)
    assert one.loss(x).item() == pytest.approx(plain.loss(x).item(), rel=1e-12)
    np.testing.assert_array_equal(one.encode(x)[0].numpy(), plain.encode(x).numpy())


def test_codes_say_all_that_the_decoder_is_told(rng):
    model = small(rng, (1, 1, 1))
    x = images(rng)
    codes = model.encode(x)
    with no_grad():
        whole = model.image(model.out(model.read(x))[0]).numpy()
    np.testing.assert_allclose(model.decode(codes).numpy(), whole, rtol=1e-12)
    for i in range(3):  # each level counts
        other = [c.numpy().copy() for c in codes]
        other[i] = (other[i] + 1) % 3
        assert np.abs(model.decode(other).numpy() - whole).max() > 1e-6
    with pytest.raises(ValueError, match="codes of 3 levels, got 2"):
        model.decode(codes[:2])


def test_the_loss_is_of_all_levels_and_codes_are_read_as_in_training(rng):
    """What each quantiser was given and chose in the loss, kept, against the loss and against `encode`."""
    model = small(rng, (1, 1, 1), K=16, beta=0.3)
    x = images(rng, 32)
    seen = []
    for quantiser in model.quantisers:
        quantiser.forward = lambda z, q=quantiser: seen.append((z, Quantiser.forward(q, z))) or seen[-1][1]
    with no_grad():
        loss = model.loss(x).item()
        out, _ = model.out(model.read(x))
        error = ((model.read(x) - out).numpy() ** 2).mean()
    levels = seen[:3]  # top first
    away = [((z.numpy() - q.z_q.numpy()) ** 2).mean() for z, q in levels]
    assert min(away) > 1e-3
    assert loss == pytest.approx(error + 0.3 * sum(away), rel=1e-12)
    for code, (_, q) in zip(model.encode(x), levels, strict=True):
        np.testing.assert_array_equal(code.numpy(), q.codes.numpy())


def test_the_level_below_knows_what_was_decoded_above(rng):
    model = small(rng)
    x = images(rng, 16)
    before = model.encode(x)
    model.quantisers[1].e.data[...] *= -5  # the top's entries
    after = model.encode(x)
    assert (before[1].numpy() != after[1].numpy()).any()


def test_codes_are_read_in_training_without_a_trace(rng):
    model = small(rng)
    model.train()
    before = model.state()
    model.encode(images(rng))
    for name, value in model.state().items():
        np.testing.assert_array_equal(value, before[name])
    model.loss(images(rng))
    after = model.state()
    assert all((after[f"quantisers.{i}.N"] != before[f"quantisers.{i}.N"]).any() for i in range(2))


# ---- the priors ------------------------------------------------------------------------------------------------------


def prior(rng, sizes, classes=0, K=3) -> Prior:
    return drawn(Prior(sizes, K, rng, classes=classes, F=6, h=3, stack=1, p=4, layers=2, head=4), rng)


def every(sizes, K=3) -> list[np.ndarray]:
    """All codes of all levels."""
    numbers = [h * w for h, w in sizes]
    flat = np.array(list(itertools.product(range(K), repeat=sum(numbers))))
    parts = np.split(flat, np.cumsum(numbers)[:-1], axis=1)
    return [part.reshape(-1, *size) for part, size in zip(parts, sizes, strict=True)]


@pytest.mark.parametrize(("sizes", "classes"), [([(1, 1), (2, 2)], 2), ([(1, 1), (1, 2), (1, 4)], 0), ([(2, 2)], 2)])
def test_the_probabilities_of_all_codes_of_all_levels_sum_to_one(sizes, classes, rng):
    model = prior(rng, sizes, classes)
    codes = every(sizes)
    found = []
    for label in range(classes or 1):
        labels = np.full(len(codes[0]), label) if classes else None
        with no_grad():
            found.append(model.log_prob([Tensor(c) for c in codes], labels).numpy())
        assert np.exp(found[-1]).sum() == pytest.approx(1, abs=1e-9)
    assert not classes or np.abs(found[0] - found[1]).max() > 0.01


def test_every_level_hears_those_above_and_the_class(rng):
    model = prior(rng, [(1, 1), (2, 2), (4, 4)], 2)
    codes = [rng.integers(3, size=(1, n, n)) for n in (1, 2, 4)]
    label = np.array([0])

    def terms(codes, label):
        with no_grad():
            return np.array([t.item() for t in model.terms([Tensor(c) for c in codes], label)])

    before = terms(codes, label)
    assert (np.abs(terms(codes, 1 - label) - before) > 1e-6).all()
    for i in range(3):
        other = [c.copy() for c in codes]
        other[i][0, -1, -1] = (other[i][0, -1, -1] + 1) % 3  # the last code, which its own level sees nowhere else
        changed = np.abs(terms(other, label) - before) > 1e-9
        assert changed.tolist() == [False] * i + [True] * (3 - i)


def test_samples_are_what_whole_passes_draw_level_by_level(rng):
    sizes, n = [(1, 2), (2, 4)], 5
    model = prior(rng, sizes, 3)
    labels = np.arange(n) % 3
    fast = [c.numpy() for c in model.sample(n, np.random.default_rng(7), labels, temperature=0.9)]
    again = np.random.default_rng(7)
    slow: list[np.ndarray] = []
    with no_grad():
        for i, (h, w) in enumerate(sizes):
            density = model.below[i - 1].pixelcnn if i else model.top
            given = model.below[i - 1].told([Tensor(c) for c in slow], labels) if i else labels
            u, codes = again.random((n, h, w, 1)), np.zeros((n, h, w, 1), np.int64)
            for y, x in np.ndindex(h, w):
                p = density.distribution(density(Tensor(codes), given)[:, y, x], 0.9)
                codes[:, y, x] = p.sample_from(Tensor(u[:, y, x])).numpy()
            slow.append(codes[..., 0])
    for a, b in zip(fast, slow, strict=True):
        np.testing.assert_array_equal(a, b)


def test_every_parameter_of_the_priors_learns(rng):
    model = prior(rng, [(2, 2), (4, 4)], 2)
    codes = [Tensor(rng.integers(3, size=(6, n, n))) for n in (2, 4)]
    loss = model.log_prob(codes, np.arange(6) % 2).sum()
    for name, g in zip(model.named_parameters(), grad(loss, model.parameters()), strict=True):
        assert np.abs(g.numpy()).max() > 1e-9, name


def test_what_is_refused(rng):
    for halvings in ((), (1, 0)):
        with pytest.raises(ValueError, match="one or more levels of one or more halvings"):
            VQVAE2((8, 8, 1), rng, halvings=halvings)
    with pytest.raises(ValueError, match="sides that 8 divides, got 12 x 8"):
        VQVAE2((12, 8, 1), rng, halvings=(2, 1))
    model = prior(rng, [(1, 1), (2, 2)], 2)
    with pytest.raises(ValueError, match="classes=2, and none are given"):
        model.sample(2, rng)
    with pytest.raises(ValueError, match="labels run from 2 to 2"):
        model.sample(1, rng, np.array([2]))
    with pytest.raises(ValueError, match="classes=0, and labels are given"):
        prior(rng, [(1, 1)]).sample(1, rng, np.array([0]))
    with pytest.raises(ValueError, match="codes of 2 levels, got 1"):
        model.log_prob([Tensor(np.zeros((1, 1, 1), int))], np.array([0]))


# ---- how samples are judged ------------------------------------------------------------------------------------------


def blobs(rng, labels, noise=0.1) -> np.ndarray:
    """Images that are bright in the row of their class."""
    made = noise * rng.random((len(labels), 3, 3, 1))
    made[np.arange(len(labels)), labels] += 1 - noise
    return made


def test_the_classification_accuracy_score(rng):
    labels = np.arange(60) % 3
    real = blobs(rng, labels)
    assert classification_accuracy_score(blobs(rng, labels), labels, real, labels) == 1
    wrong = (labels + 1) % 3  # samples of another class than was asked
    assert classification_accuracy_score(blobs(rng, wrong), labels, real, labels) == 0
    part = np.where(labels == 2, 0, labels)  # a class that the samples never show cannot be learned
    assert classification_accuracy_score(blobs(rng, part), part, real, labels) == pytest.approx(2 / 3)


def test_rejection_keeps_what_is_recognised_best(rng):
    labels = np.arange(60) % 3
    classifier = linear_classifier(blobs(rng, labels), labels)
    shown = labels.copy()
    shown[:30] = (labels[:30] + 1) % 3  # half of the samples show another class than was asked
    kept = most_recognised(classifier, blobs(rng, shown), labels, 0.5)
    np.testing.assert_array_equal(kept, np.arange(30, 60))
    few = most_recognised(classifier, blobs(rng, shown), labels, 0.01)
    assert np.bincount(labels[few]).tolist() == [1, 1, 1]  # no class is lost
    with pytest.raises(ValueError, match=r"share must lie in \(0, 1\], got 0"):
        most_recognised(classifier, blobs(rng, labels), labels, 0)
    with pytest.raises(ValueError, match=r"never saw the classes \[5\]"):
        most_recognised(classifier, blobs(rng, labels[:3]), np.array([0, 5, 1]), 0.5)
