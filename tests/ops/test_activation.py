"""Activations far out, and at their kinks."""

import math
from typing import Any

import numpy as np
import pytest

from micrognm import Tensor, grad, ops

FAR: dict[str, Any] = {  # slopes at -1e4 and 1e4, and values there
    "tanh": (ops.tanh, [-1, 1], [0, 0]),
    "sigmoid": (ops.sigmoid, [0, 1], [0, 0]),
    "softplus": (ops.softplus, [0, 1e4], [0, 1]),
    "relu": (ops.relu, [0, 1e4], [0, 1]),
    "leaky_relu": (ops.leaky_relu, [-100, 1e4], [0.01, 1]),
    "elu": (ops.elu, [-1, 1e4], [0, 1]),
    "gelu": (ops.gelu, [0, 1e4], [0, 1]),
    "swish": (ops.swish, [0, 1e4], [0, 1]),
    "erf": (ops.erf, [-1, 1], [0, 0]),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", FAR)
def test_far_out_without_overflow(name, dtype):
    f, values, slopes = FAR[name]
    x = Tensor(np.array([-1e4, 1e4], dtype), requires_grad=True)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        y = f(x)
        np.testing.assert_allclose(y.numpy(), values, rtol=1e-6)
    g = grad(y.sum(), x, create_graph=True)
    np.testing.assert_allclose(g.numpy(), slopes, rtol=1e-6)
    if g.requires_grad:
        np.testing.assert_allclose(grad(g.sum(), x, allow_unused=True).numpy(), 0, atol=1e-30)


@pytest.mark.parametrize("name", FAR)
def test_nan_stays_nan(name):
    assert math.isnan(FAR[name][0](Tensor(np.array([math.nan]))).item())


def test_slopes_at_zero():
    def slope(f):
        x = Tensor(np.array([0.0, -0.0]), requires_grad=True)
        return grad(f(x).sum(), x).numpy().tolist()

    assert slope(ops.relu) == [0, 0]
    assert slope(lambda x: ops.leaky_relu(x, slope=0.3)) == [0.3, 0.3]
    assert slope(lambda x: ops.elu(x, alpha=0.3)) == [0.3, 0.3]
    assert slope(ops.concat_elu) == [0, 0]  # one of elu(x) and elu(-x) rises as fast as the other falls


def test_small_values_keep_their_digits():
    x = Tensor(np.array([-40.0, -100.0]))
    np.testing.assert_allclose(ops.softplus(x).numpy(), [math.exp(-40), math.exp(-100)], rtol=1e-14)
    np.testing.assert_allclose(ops.sigmoid(x).numpy(), [math.exp(-40), math.exp(-100)], rtol=1e-14)
    tiny = Tensor(np.array([-1e-12]))
    np.testing.assert_allclose(ops.elu(tiny).numpy(), -1e-12, rtol=1e-10)


def test_identities(rng):
    x = Tensor(5 * rng.standard_normal(100))
    np.testing.assert_allclose((ops.sigmoid(x) + ops.sigmoid(-x)).numpy(), 1, rtol=1e-15)
    np.testing.assert_allclose((ops.softplus(x) - ops.softplus(-x)).numpy(), x.numpy(), rtol=1e-13)
    np.testing.assert_allclose((2 * ops.sigmoid(2 * x) - 1).numpy(), np.tanh(x.numpy()), atol=1e-15)
    np.testing.assert_allclose((ops.gelu(x) - ops.gelu(-x)).numpy(), x.numpy(), rtol=1e-13)


def test_concat_elu_doubles_the_last_axis():
    y = ops.concat_elu(Tensor(np.array([[1.0, -2.0]])))
    np.testing.assert_allclose(y.numpy(), [[1.0, math.expm1(-2), math.expm1(-1), 2.0]])
