"""Weight normalisation: the identities of w = g v / ||v||, and the initialisation from the first batch."""

import numpy as np
import pytest

from micrognm import Tensor, check, grad, no_grad
from micrognm.nn import Conv, Linear, MaskedLinear, Module, Parameter, WeightNorm
from micrognm.ops import relu
from micrognm.taps import square


class Taps(Module):
    """A layer of the kind a convolution is: weight [3, n_in, n_out], each tap reading its own shifted input."""

    def __init__(self, n_in: int, n_out: int, rng: np.random.Generator) -> None:
        self.weight = Parameter(rng.standard_normal((3, n_in, n_out)).astype(np.float32))
        self.bias: Parameter | None = Parameter(np.zeros(n_out, np.float32))

    def effective_weight(self) -> Tensor:
        return self.weight

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        n = x.shape[-2] - 2
        out = x[..., :n, :] @ weight[0] + x[..., 1 : n + 1, :] @ weight[1] + x[..., 2 : n + 2, :] @ weight[2]
        return out if bias is None else out + bias


def linear(rng):
    return Linear(6, 4, rng), (50, 6)


def on_leading_axes(rng):
    return Linear(6, 4, rng), (5, 7, 6)


def taps(rng):
    return Taps(6, 4, rng), (9, 8, 6)


def under_a_mask(rng):
    mask = np.ones((6, 4), np.float32)
    mask[2:, 1] = mask[0, 3] = 0
    return MaskedLinear(6, 4, rng, mask=Tensor(mask)), (50, 6)


every_layer = pytest.mark.parametrize("make", [linear, on_leading_axes, taps, under_a_mask])


def batch(rng, shape) -> Tensor:
    scales = rng.uniform(0.5, 5, shape[-1])  # features far from normalised
    return Tensor((rng.standard_normal(shape) * scales + 10 * scales).astype(np.float32))


def per_unit(y: Tensor) -> np.ndarray:
    return y.numpy().astype(np.float64).reshape(-1, y.shape[-1])


@every_layer
@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_the_first_batch_sets_mean_zero_and_the_scale(make, scale, rng):
    layer, shape = make(rng)
    norm = WeightNorm(layer, init_scale=scale)
    v = layer.weight.numpy().copy()
    x = batch(rng, shape)
    out = per_unit(norm(x))
    np.testing.assert_allclose(out.mean(axis=0), 0, atol=1e-4 * scale)
    np.testing.assert_allclose(out.std(axis=0), scale, rtol=1e-4)
    np.testing.assert_array_equal(layer.weight.numpy(), v)
    # Section 3 of the paper: t = v x / ||v||, g = scale / sd(t), b = -scale mean(t) / sd(t).
    effective = layer.effective_weight().numpy().astype(np.float64)
    direction = effective / np.sqrt((effective**2).reshape(-1, 4).sum(axis=0))
    t = per_unit(layer.apply(x, Tensor(direction.astype(np.float32)), None))
    np.testing.assert_allclose(norm.gain.numpy(), scale / t.std(axis=0), rtol=1e-4)
    np.testing.assert_allclose(layer.bias.numpy(), -scale * t.mean(axis=0) / t.std(axis=0), rtol=1e-3)


def test_only_the_first_batch_in_training_counts(rng):
    layer = Linear(6, 4, rng)
    norm = WeightNorm(layer)
    norm.eval()
    x = batch(rng, (50, 6))
    np.testing.assert_allclose(norm(x).numpy(), layer(x).numpy(), rtol=1e-4)  # until then: the layer's own map
    assert not norm.initialised
    norm.train()
    norm(x)
    assert norm.initialised
    before = norm.state()
    norm(batch(rng, (50, 6)))
    norm.eval()
    norm(batch(rng, (50, 6)))
    assert all(np.array_equal(before[k], v) for k, v in norm.state().items())


def test_a_resumed_model_is_not_initialised_again(rng):
    norm = WeightNorm(Linear(6, 4, rng))
    x = batch(rng, (50, 6))
    norm(x)
    norm.gain.data[...] *= 3  # training went on
    resumed = WeightNorm(Linear(6, 4, rng))
    resumed.load(norm.state())
    np.testing.assert_array_equal(resumed(x).numpy(), norm(x).numpy())
    assert list(norm.state()) == ["layer.weight", "layer.bias", "gain", "initialised"]


def test_the_initialisation_writes_in_place(rng):
    layer = Linear(6, 4, rng)
    norm = WeightNorm(layer)
    assert layer.bias is not None
    arena = np.zeros(8, np.float32)  # as an optimiser made before the first batch holds it
    arena[:4] = norm.gain.data
    norm.gain.data, layer.bias.data = arena[:4], arena[4:]
    norm(batch(rng, (50, 6)))
    assert np.shares_memory(norm.gain.data, arena) and np.shares_memory(layer.bias.data, arena)
    assert (arena[4:] != 0).all()


def test_gradients_do_not_pass_through_the_initialisation(rng):
    norm = WeightNorm(Linear(6, 4, rng))
    x = batch(rng, (50, 6))
    g = Tensor(rng.standard_normal((50, 4)).astype(np.float32))
    first, second = (grad(norm(x), norm.parameters(), g) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    np.testing.assert_allclose(first[1].numpy(), g.numpy().sum(axis=0), rtol=1e-5)  # of the bias


@every_layer
def test_units_have_the_length_gain_and_the_direction_v(make, rng):
    layer, _ = make(rng)
    norm = WeightNorm(layer)
    norm.gain.data[...] = [0.5, -2.0, 3.0, 0.0]
    w, v = (x.numpy().reshape(-1, 4).astype(np.float64) for x in (norm.effective_weight(), layer.effective_weight()))
    np.testing.assert_allclose(np.linalg.norm(w, axis=0), np.abs(norm.gain.numpy()), rtol=1e-6)
    np.testing.assert_allclose(w, norm.gain.numpy() * v / np.linalg.norm(v, axis=0), rtol=1e-5, atol=1e-7)


@every_layer
def test_only_the_direction_of_v_matters_so_its_gradient_is_orthogonal_to_it(make, rng):
    layer, shape = make(rng)
    norm = WeightNorm(layer)
    x = batch(rng, shape)
    norm(x)
    y = norm(x)
    g = grad(y, layer.weight, Tensor(rng.standard_normal(y.shape).astype(np.float32))).numpy().astype(np.float64)
    inner = (g * layer.weight.numpy()).reshape(-1, 4).sum(axis=0)
    lengths = [np.linalg.norm(a.reshape(-1, 4), axis=0) for a in (g, layer.weight.numpy())]
    assert (np.abs(inner) < 1e-4 * lengths[0] * lengths[1]).all()
    layer.weight.data[...] *= np.array([0.1, 3.0, 7.0, 100.0], np.float32)
    np.testing.assert_allclose(norm(x).numpy(), y.numpy(), rtol=1e-3, atol=1e-3)


def test_gradients_to_order_two(rng):
    layer = Linear(4, 3, rng)
    norm = WeightNorm(layer)

    def f(x: Tensor, v: Tensor, gain: Tensor) -> Tensor:
        vars(layer)["weight"], vars(norm)["gain"] = v, gain
        return layer.apply(x, norm.effective_weight(), None)

    check(f, (2, 4), (4, 3), (3,), rng=rng)


def test_masked_weights_have_no_influence_even_on_the_length(rng):
    layer, shape = under_a_mask(rng)
    norm = WeightNorm(layer)
    x = batch(rng, shape)
    norm(x)
    before = norm(x)
    mask = layer.mask.numpy() == 1
    (g,) = grad(before, [layer.weight], Tensor(rng.standard_normal(before.shape).astype(np.float32)))
    assert (g.numpy()[~mask] == 0).all()
    layer.weight.data[~mask] = 1e6
    np.testing.assert_array_equal(norm(x).numpy(), before.numpy())


def test_a_unit_that_sees_nothing_gives_its_bias(rng):
    mask = np.ones((6, 4), np.float32)
    mask[:, 2] = 0
    norm = WeightNorm(layer := MaskedLinear(6, 4, rng, mask=Tensor(mask)))
    y = norm(batch(rng, (50, 6)))
    assert (y.numpy()[:, 2] == 0).all() and np.isfinite(y.numpy()).all()
    grads = grad(y, norm.parameters(), Tensor(np.ones(y.shape, np.float32)))
    assert all(np.isfinite(g.numpy()).all() for g in grads)
    assert (grads[0].numpy()[:, 2] == 0).all()
    assert layer.bias is not None and layer.bias.numpy()[2] == 0


def test_a_constant_unit_counts_as_of_variance_one(rng):
    layer = Linear(3, 2, rng)
    layer.weight.data[...] = np.array([[1, 0], [0, 0.1], [0, 0.2]], np.float32)
    x = rng.standard_normal((100_000, 3)).astype(np.float32)
    x[:, 1:] = [0.1, 7.3]  # the second unit sees nothing else; so many rows, float32 sums would be off by 1e-4
    norm = WeightNorm(layer, init_scale=0.5)
    gain = norm.gain.numpy().copy()
    y = per_unit(norm(Tensor(x)))
    assert norm.gain.numpy()[1] == 0.5 * gain[1]
    np.testing.assert_allclose(y[:, 1], 0, atol=1e-6)
    assert y[:, 0].std() == pytest.approx(0.5, rel=1e-4)


def test_bad_uses_raise(rng):
    with pytest.raises(ValueError, match="WeightNorm: Conv has an activation"):
        WeightNorm(Conv(2, 3, square(1), rng, activation=relu))
    with pytest.raises(ValueError, match="WeightNorm: Linear has no bias"):
        WeightNorm(Linear(3, 2, rng, bias=False))
    norm = WeightNorm(Linear(3, 2, rng))
    for rows in (0, 1):
        with pytest.raises(ValueError, match=rf"more than one output a unit, the first batch is \[{rows}, 3\]"):
            norm(Tensor(np.ones((rows, 3), np.float32)))
    assert not norm.initialised
    with no_grad():
        norm.eval()
        assert norm(Tensor(np.ones((1, 3), np.float32))).shape == (1, 2)
