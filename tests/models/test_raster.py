"""The laws of the models that write an image pixel by pixel."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from typing import Any

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


def make(name: str, shape: tuple, levels: int, rng: np.random.Generator, mixtures: int = 0, depth: int = 2) -> Raster:
    size = {"levels": levels, "mixtures": mixtures}
    if name == "PixelCNN":
        return drawn(PixelCNN(shape, rng, blocks=depth, h=6, head=6, **size), rng)
    if name == "Gated PixelCNN":
        return drawn(GatedPixelCNN(shape, rng, layers=depth, p=6, head=6, **size), rng)
    if name == "dilated Gated PixelCNN":
        return drawn(GatedPixelCNN(shape, rng, layers=depth, dilations=(1, 2), p=6, head=6, **size), rng)
    if name == "PixelSNAIL":
        return drawn(PixelSNAIL(shape, rng, blocks=depth, F=8, keys=4, **size), rng)
    kind = {"Row LSTM": "row", "Diagonal BiLSTM": "diagonal"}[name]
    return drawn(PixelRNN(shape, rng, kind=kind, layers=depth, h=6, head=6, **size), rng)


NAMES = ["PixelCNN", "Gated PixelCNN", "dilated Gated PixelCNN", "Row LSTM", "Diagonal BiLSTM", "PixelSNAIL"]
SLOW = ["Diagonal BiLSTM", "PixelSNAIL"]  # on half a million images
COLOURED = [(name, (5, 4, 3), 4, mixtures) for name in NAMES for mixtures in ((2,) if name == "PixelSNAIL" else (0, 2))]
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
        for mixtures in (2,) if name == "PixelSNAIL" else (0, 2):
            model = make(name, (2, 1, 3), 3, rng, mixtures)
            assert np.exp(model.log_prob(Tensor(images)).numpy()).sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in NAMES]
)
def test_probabilities_of_colours_sum_to_one(name, rng):
    """All 531,441 images of 2 x 2 pixels, three colours and three levels."""
    model = make(name, (2, 2, 3), 3, rng, 2 if name == "PixelSNAIL" else 0, depth=1)
    rest = np.array(list(itertools.product(range(3), repeat=9)))
    total = 0.0
    with no_grad():
        for first in itertools.product(range(3), repeat=3):  # colours of the first pixel: a part of the images each
            images = np.concatenate([np.broadcast_to(first, (len(rest), 3)), rest], axis=1).reshape(-1, 2, 2, 3)
            total += np.exp(model.log_prob(Tensor(images)).numpy()).sum()
    assert total == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("depth", [1, 2, 3])
@cases
def test_nothing_sees_what_comes_after_it(name, shape, levels, mixtures, depth, rng):
    """What predicts a value stays as it is when that one changes, or any later one, or all of them at once."""
    model = make(name, shape, levels, rng, mixtures, depth)
    values, colours = math.prod(shape), shape[2]
    x = rng.integers(levels, size=values)
    other = (x + rng.integers(1, levels, size=(values, values))) % levels
    with no_grad():
        before = model(Tensor(x.reshape(1, *shape))).numpy().reshape(-1, model.outputs)
        for later in (np.eye(values), np.tri(values).T):  # values that change: one of them, or it and all after it
            changed = np.where(later > 0, other, x).reshape(values, *shape)
            after = model(Tensor(changed)).numpy().reshape(values, -1, model.outputs)
            own, rest = [], []
            for out, (i, c) in zip(after, np.ndindex(values // colours, colours), strict=True):
                known = model.outputs if mixtures else (c + 1) * model.outputs // colours
                np.testing.assert_allclose(out[:i], before[:i], rtol=0, atol=1e-12)
                np.testing.assert_allclose(out[i, :known], before[i, :known], rtol=0, atol=1e-12)
                own.append(np.abs(out[i] - before[i]).max())
                rest.append(np.abs(out[i + 1 :] - before[i + 1 :]).max(initial=0))
            assert max(rest) > 1e-9
            assert (max(own) > 1e-9) == (colours > 1 and not mixtures)


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


@cases
def test_what_the_sampler_drew_from_is_what_log_prob_sees(name, shape, levels, mixtures, rng, monkeypatch):
    """log_prob of a sample, from the numbers that the sampler computed pixel by pixel and from a whole pass."""
    model = make(name, shape, levels, rng, mixtures)
    found, distribution = [], model.distribution

    def keep(out: Tensor, *rest: float) -> Any:
        found.append(distribution(out, *rest))
        return found[-1]

    monkeypatch.setattr(model, "distribution", keep)
    x = model.sample(3, rng)
    monkeypatch.undo()
    total = np.zeros(3)
    for i, p in enumerate(found):
        y, column, look = np.unravel_index(i, (*shape[:2], model.looks))
        each = p.log_prob(x[:, y, column]).numpy()
        total += each if mixtures else each[:, look]
    np.testing.assert_allclose(total, model.log_prob(x).numpy(), rtol=1e-10)
    assert np.ptp(total) > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_completions_keep_what_is_known(name, rng):
    model = make(name, (4, 4, 1), 3, rng)
    known = np.zeros((4, 4, 1), bool)
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


def test_pixelsnail_never_holds_a_matrix_of_pixels_by_pixels(rng):
    """At 32 x 32 it would be 4 MiB of one image; four times the pixels would take sixteen times the memory."""

    def peak(side: int) -> int:
        model = PixelSNAIL((side, side, 1), rng, levels=4, blocks=1, F=8, keys=4)
        x = Tensor(rng.integers(4, size=(1, side, side, 1)))
        model.log_prob(x).sum().backward()  # what is kept from call to call is there now
        tracemalloc.start()
        model.log_prob(x).sum().backward()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    small, large = peak(32), peak(64)
    assert large < 5 * small
    assert large < 0.5 * (64 * 64) ** 2 * 4


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
