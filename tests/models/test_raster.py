"""The laws of the models that write an image pixel by pixel."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from micrognm import Tensor, check, no_grad
from micrognm.models.autoregressive.gated_pixelcnn import GatedPixelCNN
from micrognm.models.autoregressive.pixel_rnn import PixelRNN
from micrognm.models.autoregressive.pixelcnn import PixelCNN
from micrognm.models.autoregressive.pixelsnail import PixelSNAIL
from micrognm.models.autoregressive.raster import Raster


def drawn(model: Raster, rng: np.random.Generator) -> Raster:
    """The model in float64, its weights large enough that every input counts."""
    for p in model.parameters():
        p.data = 0.3 * rng.standard_normal(p.shape)
    for layer in model.modules():
        if isinstance(getattr(layer, "mask", None), Tensor):
            layer.mask = Tensor(layer.mask.data.astype(np.float64))
            layer.weight.data *= layer.mask.data
        if hasattr(layer, "initialised"):
            layer.initialised = Tensor(np.array(True))
    model.eval()
    return model


def make(name: str, shape: tuple, levels: int, rng: np.random.Generator, mixtures: int = 0) -> Raster:
    size = {"levels": levels, "mixtures": mixtures}
    if name == "PixelCNN":
        return drawn(PixelCNN(shape, rng, blocks=2, h=6, head=6, **size), rng)
    if name == "Gated PixelCNN":
        return drawn(GatedPixelCNN(shape, rng, layers=3, p=6, head=6, **size), rng)
    if name == "PixelSNAIL":
        return drawn(PixelSNAIL(shape, rng, F=8, keys=4, **size), rng)
    kind = {"Row LSTM": "row", "Diagonal BiLSTM": "diagonal"}[name]
    return drawn(PixelRNN(shape, rng, kind=kind, layers=2, h=6, head=6, **size), rng)


NAMES = ["PixelCNN", "Gated PixelCNN", "Row LSTM", "Diagonal BiLSTM", "PixelSNAIL"]
COLOURED = [(name, (5, 4, 3), 4, 2 if name == "PixelSNAIL" else 0) for name in NAMES]
GREY = [(name, (4, 5, 1), 3, mixtures) for name in NAMES for mixtures in (0, 2)]
cases = pytest.mark.parametrize(("name", "shape", "levels", "mixtures"), [*COLOURED, *GREY])


@pytest.mark.parametrize("name", NAMES)
def test_probabilities_sum_to_one(name, rng):
    images = np.array(list(itertools.product([0.0, 1.0], repeat=9))).reshape(-1, 3, 3, 1)
    with no_grad():
        assert np.exp(make(name, (3, 3, 1), 2, rng).log_prob(Tensor(images)).numpy()).sum() == pytest.approx(
            1, abs=1e-6
        )
        images = np.array(list(itertools.product(range(3), repeat=6))).reshape(-1, 2, 1, 3)
        model = make(name, (2, 1, 3), 3, rng, 2 if name == "PixelSNAIL" else 0)
        assert np.exp(model.log_prob(Tensor(images)).numpy()).sum() == pytest.approx(1, abs=1e-6)


@cases
def test_nothing_sees_what_comes_after_it(name, shape, levels, mixtures, rng):
    """All that predicts the pixels up to one stays as it is when that one and all after it change."""
    model = make(name, shape, levels, rng, mixtures)
    x = rng.integers(levels, size=(1, *shape))
    with no_grad():
        before = model(Tensor(x)).numpy().reshape(-1, model.outputs)
        for i, c in itertools.product(range(shape[0] * shape[1]), range(shape[2])):
            changed = x.reshape(-1).copy()
            first = i * shape[2] + c
            changed[first:] = (changed[first:] + rng.integers(1, levels, changed[first:].shape)) % levels
            after = model(Tensor(changed.reshape(x.shape))).numpy().reshape(-1, model.outputs)
            np.testing.assert_allclose(after[:i], before[:i], rtol=0, atol=1e-12)
            known = model.outputs if mixtures else (c + 1) * model.outputs // shape[2]
            if c == 0 or not mixtures:
                np.testing.assert_allclose(after[i, :known], before[i, :known], rtol=0, atol=1e-12)
            if i + 1 < len(before):
                assert np.abs(after[i + 1 :] - before[i + 1 :]).max() > 1e-9


@cases
def test_the_sampler_draws_what_whole_passes_draw(name, shape, levels, mixtures, rng):
    model = make(name, shape, levels, rng, mixtures)
    u = rng.random((3, *shape[:2], model.draws))
    slow = np.zeros((3, *shape), np.int64)
    with no_grad():
        for i, j, c in np.ndindex(*shape):
            p = model.distribution(model(Tensor(slow))[:, i, j], 0.9)
            slow[:, i, j, c] = p.sample_from(Tensor(u[:, i, j])).numpy()[:, c]
    fast = model.sample_from(Tensor(u), temperature=0.9)
    np.testing.assert_array_equal(fast.numpy(), slow)
    assert len(np.unique(slow)) > 1


@pytest.mark.parametrize("name", NAMES)
def test_completions_keep_what_is_known(name, rng):
    model = make(name, (4, 4, 1), 3, rng)
    known = np.zeros((4, 4), bool)
    known[:2] = True
    x = rng.integers(3, size=(2, 4, 4, 1))
    u = rng.random((2, 4, 4, 1))
    whole = model.sample_from(Tensor(u)).numpy()
    np.testing.assert_array_equal(model.sample_from(Tensor(u), x=Tensor(whole), known=known).numpy(), whole)
    np.testing.assert_array_equal(model.complete(Tensor(x), known, rng).numpy()[:, :2], x[:, :2])


@pytest.mark.parametrize("given", ["classes", "vector", "map"])
def test_conditions(given, rng):
    options = {"classes": 3} if given == "classes" else {"told": 2}
    model = drawn(GatedPixelCNN((4, 3, 1), rng, levels=3, layers=2, p=4, head=4, **options), rng)
    told = {"classes": np.array([0, 2]), "vector": Tensor(rng.random((2, 2))), "map": Tensor(rng.random((2, 4, 3, 2)))}[
        given
    ]
    u = rng.random((2, 4, 3, 1))
    slow = np.zeros((2, 4, 3, 1), np.int64)
    with no_grad():
        for i, j in np.ndindex(4, 3):
            slow[:, i, j] = (
                model.distribution(model(Tensor(slow), told)[:, i, j]).sample_from(Tensor(u[:, i, j])).numpy()
            )
    np.testing.assert_array_equal(model.sample_from(Tensor(u), told).numpy(), slow)
    with pytest.raises(ValueError, match=r"expected|labels run"):
        model.log_prob(Tensor(slow), np.array([0, 3]) if given == "classes" else Tensor(rng.random((2, 3))))


@pytest.mark.parametrize("name", NAMES)
def test_gradients(name, rng):
    model = make(name, (3, 2, 1), 3, rng)
    x = Tensor(rng.integers(3, size=(2, 3, 2, 1)))
    p = model.parameters()[0]
    w = p.data

    def f(w: Tensor) -> Tensor:
        p.data, p.node = w.data, w.node
        return model.log_prob(x)

    check(f, w, order=1, single=False)


def test_bad_images(rng):
    model = make("PixelCNN", (3, 3, 1), 3, rng)
    with pytest.raises(ValueError, match=r"pixel values 0 to 2, got 0 to 3"):
        model.log_prob(Tensor(np.arange(9).reshape(1, 3, 3, 1) % 4))
    with pytest.raises(ValueError, match=r"images \[N, 3, 3, 1\], got \[1, 3, 2, 1\]"):
        model.log_prob(Tensor(np.zeros((1, 3, 2, 1), int)))
    with pytest.raises(ValueError, match="cannot be given"):
        model.log_prob(Tensor(np.zeros((1, 3, 3, 1), int)), np.zeros(1, int))
    with pytest.raises(ValueError, match="temperature > 0"):
        model.sample(1, rng, temperature=0)
