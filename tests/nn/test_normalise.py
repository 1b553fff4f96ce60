"""Normalisation layers: training and evaluation, running statistics, parameters of a sample's own."""

from __future__ import annotations

import numpy as np
import pytest

from micrognm import Tensor, grad
from micrognm.nn.normalise import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, MeanOnlyBatchNorm

LAYERS = [BatchNorm, LayerNorm, InstanceNorm, lambda c, **o: GroupNorm(2, c, **o)]


def batch(rng, shape=(8, 3, 3, 4)):
    return (rng.standard_normal(shape) * rng.uniform(0.5, 3, shape[-1]) + rng.uniform(-4, 4, shape[-1])).astype(
        np.float32
    )


def test_batch_norm_keeps_running_statistics(rng):
    layer, mean, var = BatchNorm(4, momentum=0.25), np.zeros(4), np.ones(4)
    for _ in range(3):
        x = batch(rng)
        layer(Tensor(x))
        mean += 0.25 * (x.mean((0, 1, 2)) - mean)
        var += 0.25 * (x.var((0, 1, 2), ddof=1) - var)
    np.testing.assert_allclose(layer.running_mean.numpy(), mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer.running_var.numpy(), var, rtol=1e-5)
    assert set(layer.state()) == {"scale", "shift", "running_mean", "running_var"} and len(layer.parameters()) == 2


@pytest.mark.parametrize("activation", ["none", "relu", "leaky_relu", "swish"])
def test_batch_norm_in_evaluation_uses_and_keeps_them(activation, rng):
    layer = BatchNorm(4, activation=activation, slope=0.3)
    layer.scale.data[...], layer.shift.data[...] = rng.standard_normal((2, 4))
    layer(Tensor(batch(rng)))
    layer.eval()
    before = layer.state()
    x = batch(rng)
    y = layer(Tensor(x)).numpy()
    z = (x - before["running_mean"]) / np.sqrt(before["running_var"] + 1e-5) * before["scale"] + before["shift"]
    want = {
        "none": z,
        "relu": np.maximum(z, 0),
        "leaky_relu": np.where(z > 0, z, 0.3 * z),
        "swish": z / (1 + np.exp(-z)),
    }
    np.testing.assert_allclose(y, want[activation], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layer(Tensor(x[:1])).numpy(), y[:1], rtol=1e-6)  # of no other sample
    for name, value in layer.state().items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("make", LAYERS)
def test_every_parameter_and_the_input_get_a_gradient(make, rng):
    layer = make(4, activation="swish")
    for training in (True, False):
        layer.training = training
        x = Tensor(batch(rng), requires_grad=True)
        y = layer(x)
        for g in grad(y, [x, *layer.parameters()], Tensor(rng.standard_normal(y.shape).astype(np.float32))):
            assert np.abs(g.numpy()).max() > 0 and g.dtype == np.float32


@pytest.mark.parametrize("make", [BatchNorm, InstanceNorm, lambda c, **o: GroupNorm(2, c, **o)])
@pytest.mark.parametrize("training", [True, False])
def test_parameters_of_a_samples_own(make, training, rng):
    layer = make(4, affine=False)
    layer.training = training
    assert layer.parameters() == []
    x, (scale, shift) = Tensor(batch(rng)), rng.standard_normal((2, 8, 4)).astype(np.float32)
    y = layer(x, Tensor(scale), Tensor(shift)).numpy()
    want = layer(x).numpy() * scale[:, None, None] + shift[:, None, None]
    np.testing.assert_allclose(y, want, rtol=2e-5, atol=2e-5)


def test_mean_only_batch_norm(rng):
    layer, x = MeanOnlyBatchNorm(4, momentum=0.5), batch(rng)
    layer.shift.data[...] = shift = rng.standard_normal(4).astype(np.float32)
    mean = x.mean((0, 1, 2))
    np.testing.assert_allclose(layer(Tensor(x)).numpy(), x - mean + shift, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer.running_mean.numpy(), mean / 2, rtol=1e-5)
    layer.eval()
    np.testing.assert_allclose(layer(Tensor(x)).numpy(), x - mean / 2 + shift, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer.running_mean.numpy(), mean / 2, rtol=1e-5)
    layer.train()
    leaf = Tensor(x, requires_grad=True)
    g = rng.standard_normal(x.shape).astype(np.float32)
    np.testing.assert_allclose(grad(layer(leaf), leaf, Tensor(g)).numpy(), g - g.mean((0, 1, 2)), atol=1e-6)


def test_in_float64(rng):
    for make in (*LAYERS, MeanOnlyBatchNorm):
        layer = make(4)
        layer.cast("float64")
        assert layer(Tensor(batch(rng).astype(np.float64))).dtype == np.float64


def test_what_the_layers_refuse(rng):
    x = Tensor(batch(rng))
    for make, message in (
        (lambda: BatchNorm(0), "BatchNorm: channels must be 1 or more, got 0"),
        (lambda: MeanOnlyBatchNorm(0), "MeanOnlyBatchNorm: channels must be 1 or more, got 0"),
        (lambda: BatchNorm(4, momentum=2.0), r"BatchNorm: momentum is the part of the way .*, in \[0, 1\], got 2.0"),
        (lambda: GroupNorm(3, 4), "GroupNorm: groups must divide channels, got 3 and 4"),
        (lambda: BatchNorm(5)(x), r"BatchNorm\(5\): expected x \[N, ..., 5\], got float32\[8, 3, 3, 4\]"),
        (lambda: MeanOnlyBatchNorm(5)(x), r"MeanOnlyBatchNorm\(5\): expected x \[N, ..., 5\], got float32"),
        (lambda: BatchNorm(4)(x, x[0, 0]), r"BatchNorm\(4\): give both scale and shift, or neither"),
        (lambda: BatchNorm(4)(x[:1, 0, 0]), r"BatchNorm\(4\): a variance needs 2 elements a channel, x is \[1, 4\]"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
