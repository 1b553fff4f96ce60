"""Sequential, Dropout and Embedding."""

import math

import numpy as np
import pytest

from micrognm import Tensor, check, grad, relu, tanh
from micrognm.nn import Dropout, Embedding, Linear, Sequential, init


def test_sequential_composes_modules_and_functions(rng):
    first, second = Linear(3, 4, rng), Linear(4, 2, rng)
    model = Sequential(first, relu, lambda h: h * 2, second)
    x = Tensor(rng.standard_normal((5, 3)).astype(np.float32))
    np.testing.assert_array_equal(model(x).numpy(), second(relu(first(x)) * 2).numpy())
    assert list(model.named_parameters()) == ["layers.0.weight", "layers.0.bias", "layers.3.weight", "layers.3.bias"]
    assert Sequential()(x) is x
    with pytest.raises(TypeError, match="Sequential: layer 1 is list; expected a Module or a function"):
        Sequential(relu, [relu])  # type: ignore[arg-type]


def test_gradients_of_a_whole_model_to_order_two(rng):
    model = Sequential(Linear(3, 4, rng), tanh, Linear(4, 2, rng))
    model.cast("float64")
    check(lambda x: model(x), (2, 3), rng=rng, single=False)


# ---- Dropout ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dropout_drops_the_rate_and_scales_the_rest(rate, dtype, rng):
    x = rng.uniform(1, 2, (200, 300)).astype(dtype)
    y = Dropout(rate, rng)(Tensor(x)).numpy()
    assert y.dtype == dtype
    dropped = y == 0
    assert abs(dropped.mean() - rate) < 5 * math.sqrt(rate * (1 - rate) / x.size)
    np.testing.assert_allclose(y[~dropped], x[~dropped] / (1 - rate), rtol=1e-6)
    # Neither rows nor columns share their fate.
    for axis in (0, 1):
        spread = dropped.mean(axis=axis).var() * dropped.shape[axis] / (rate * (1 - rate))
        assert spread == pytest.approx(1, abs=0.5)


def test_dropout_gradient_is_the_mask(rng):
    x = Tensor(rng.uniform(1, 2, (20, 30)), requires_grad=True)
    y = Dropout(0.4, rng)(x)
    g = grad(y, x, Tensor(np.ones(y.shape)))
    np.testing.assert_allclose(g.numpy() * x.numpy(), y.numpy())


def test_dropout_in_evaluation_and_at_rate_zero_changes_nothing(rng):
    x = Tensor(np.ones((3, 4), np.float32))
    layer = Dropout(0.5, rng)
    layer.eval()
    before = rng.bit_generator.state
    assert layer(x) is x
    assert Dropout(0.0, rng)(x) is x
    assert rng.bit_generator.state == before
    layer.train()
    assert layer(x) is not x and rng.bit_generator.state != before


def test_dropout_repeats_from_the_state_of_its_generator(rng):
    layer = Dropout(0.5, rng)
    assert layer.generators() == {"rng": rng} and not layer.state()
    x = Tensor(np.ones((10, 10), np.float32))
    saved = rng.bit_generator.state
    first, other = layer(x).numpy(), layer(x).numpy()
    assert not np.array_equal(first, other)
    layer.generators()["rng"].bit_generator.state = saved
    np.testing.assert_array_equal(layer(x).numpy(), first)


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
def test_dropout_rate_outside_its_range(rate, rng):
    with pytest.raises(ValueError, match=r"Dropout: rate must lie in \[0, 1\), got"):
        Dropout(rate, rng)


# ---- Embedding -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [3, [0, 4, 4], [[1, 2], [3, 3]], [], np.zeros((0, 2), int), np.array([4], np.uint8)])
def test_embedding_gives_rows(index, rng):
    layer = Embedding(5, 3, rng)
    index = np.asarray(index, int) if isinstance(index, list) else np.asarray(index)
    for given in (index, Tensor(index)):
        got = layer(given)
        assert got.shape == (*index.shape, 3) and got.dtype == np.float32
        np.testing.assert_array_equal(got.numpy(), layer.weight.numpy()[index])


def test_embedding_gradient_adds_up_over_repeated_rows(rng):
    layer = Embedding(4, 2, rng)
    index = np.array([[1, 3], [1, 1]])
    g = rng.standard_normal((2, 2, 2)).astype(np.float32)
    got = grad(layer(index), layer.weight, Tensor(g)).numpy()
    want = np.zeros((4, 2), np.float32)
    for place in np.ndindex(2, 2):
        want[index[place]] += g[place]
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_embedding_starts_standard_normal_or_as_told(rng):
    w = Embedding(300, 200, rng).weight.numpy()
    assert abs(w.mean()) < 5 / math.sqrt(w.size) and w.std() == pytest.approx(1, abs=0.02)
    assert (Embedding(3, 2, rng, init=init.zeros()).weight.numpy() == 0).all()


@pytest.mark.parametrize(("index", "wrong"), [([0, 5], 5), ([-1, 2], -1), ([[7]], 7)])
def test_embedding_index_out_of_range(index, wrong, rng):
    with pytest.raises(IndexError, match=rf"Embedding\(5, 3\): index {wrong} is outside 0\.\.4, the 5 rows"):
        Embedding(5, 3, rng)(np.array(index))


@pytest.mark.parametrize("index", [[0.0, 1.0], [True, False]])
def test_embedding_takes_integers_alone(index, rng):
    with pytest.raises(TypeError, match=r"Embedding\(5, 3\): expected integers, got"):
        Embedding(5, 3, rng)(np.array(index))


def test_embedding_sizes_must_be_positive(rng):
    with pytest.raises(ValueError, match="Embedding: n and d must be 1 or more, got 5 and 0"):
        Embedding(5, 0, rng)
