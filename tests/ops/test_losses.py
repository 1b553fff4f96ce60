"""Log-likelihoods under logits: values against float64 oracles, gradients of both orders, the ends of their domains."""

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from micrognm import Tensor, check, grad, log_softmax, one_hot, softplus, sum
from micrognm.ops.categorical import categorical_log_prob
from micrognm.ops.losses import bernoulli_log_prob
from tests.strategies import alike, broadcastable, generators, laid_out, shapes

EPS = float(np.finfo(np.float32).eps)
EXTREME = np.array([0, -0.0, 1e-30, -1e-30, 1, -1, 17, -17, 88, -88, 104, -104, 1e4, -1e4, 1e30, -1e30], np.float32)

# ---- Bernoulli -------------------------------------------------------------------------------------------------------


def bernoulli_oracle(x, logits):
    """x log p + (1 - x) log(1 - p) in float64, term by term."""
    x, logits = x.astype(np.float64), logits.astype(np.float64)
    return -x * np.logaddexp(0, -logits) - (1 - x) * np.logaddexp(0, logits)


@settings(max_examples=40)
@given(both=broadcastable(2), rng=generators(), data=st.data(), dtype=st.sampled_from([np.float32, np.float64]))
def test_bernoulli_values_and_gradients(both, rng, data, dtype):
    x = np.where(rng.random(both[0]) < 0.5, rng.integers(0, 2, both[0]), rng.random(both[0]))
    logits = 5 * rng.standard_normal(both[1])
    x, logits = (laid_out(data.draw, np.asarray(a, dtype)) for a in (x, logits))
    leaves = [Tensor(x, requires_grad=True), Tensor(logits, requires_grad=True)]
    y = bernoulli_log_prob(*leaves)
    want = bernoulli_oracle(x, logits)
    assert y.dtype == dtype
    eps = np.finfo(dtype).eps
    alike(y.numpy(), want, 8 * eps, 1 + np.abs(logits.astype(np.float64)) * np.ones(want.shape))
    g = rng.standard_normal(y.shape).astype(dtype)
    got = grad(y, leaves, Tensor(g))
    slopes = (logits, x - scipy.special.expit(logits.astype(np.float64)))
    for result, slope, leaf in zip(got, slopes, leaves, strict=True):
        full = g * np.broadcast_to(slope, y.shape)
        lead = y.ndim - leaf.ndim
        repeated = tuple(i for i in range(y.ndim) if i < lead or leaf.shape[i - lead] != y.shape[i])
        want = full.sum(axis=repeated, keepdims=True).reshape(leaf.shape)
        np.testing.assert_allclose(result.numpy(), want, rtol=50 * eps, atol=200 * eps)
        assert result.dtype == dtype


@settings(max_examples=40)
@given(both=broadcastable(2), rng=generators())
def test_bernoulli_gradients_to_order_two(both, rng):
    check(bernoulli_log_prob, rng.uniform(0.1, 0.9, both[0]), 2 * rng.standard_normal(both[1]), rng=rng)


def test_bernoulli_agrees_with_the_composed_operations_to_order_two(rng):
    x, v = rng.random((4, 5)), Tensor(rng.standard_normal((4, 5)))
    logits = Tensor(3 * rng.standard_normal((4, 5)), requires_grad=True)
    g = Tensor(rng.standard_normal((4, 5)), requires_grad=True)
    results = []
    for f in (lambda a: bernoulli_log_prob(Tensor(x), a), lambda a: x * a - softplus(a)):
        first = grad(f(logits), logits, g, create_graph=True)
        results.append([first, *grad(first, [logits, g], v)])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("x", [0.0, 1.0, 0.25])
def test_bernoulli_is_right_for_logits_of_any_size(x):
    logits = Tensor(EXTREME, requires_grad=True)
    with np.errstate(all="raise", under="ignore"):
        y = bernoulli_log_prob(Tensor(np.full_like(EXTREME, x)), logits)
    exact = EXTREME.astype(np.float64)
    np.testing.assert_allclose(y.numpy(), bernoulli_oracle(np.float64(x), exact), rtol=2 * EPS, atol=EPS)
    g = grad(y, logits, Tensor(np.ones_like(EXTREME)), create_graph=True)
    np.testing.assert_allclose(g.numpy(), x - scipy.special.expit(exact), rtol=2 * EPS, atol=EPS)
    p = scipy.special.expit(exact)
    curve = grad(g, logits, Tensor(np.ones_like(EXTREME))).numpy()
    np.testing.assert_allclose(curve, -p * (1 - p), rtol=4 * EPS, atol=EPS)


def test_bernoulli_errors_name_it(rng):
    x, logits = Tensor(rng.random((2, 3)).astype(np.float32)), Tensor(rng.random((2, 4)).astype(np.float32))
    with pytest.raises(ValueError, match=r"bernoulli_log_prob\(x: float32\[2, 3\], logits: float32\[2, 4\]\)"):
        bernoulli_log_prob(x, logits)
    with pytest.raises(TypeError, match=r"bernoulli_log_prob.*mixed dtypes"):
        bernoulli_log_prob(Tensor(rng.random((2, 4))), logits)


# ---- categorical -----------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    batch=shapes(max_dims=3),
    classes=st.sampled_from([1, 2, 17, 32, 33, 40]),
    rng=generators(),
    data=st.data(),
    dtype=st.sampled_from([np.float32, np.float64]),
    offset=st.sampled_from([0, 1e3, -1e4]),
)
def test_categorical_values_and_gradients(batch, classes, rng, data, dtype, offset):
    logits = (4 * rng.standard_normal((*batch, classes)) + offset).astype(dtype)
    logits = laid_out(data.draw, logits)
    kind = data.draw(st.sampled_from([np.int64, np.uint8]))
    index = laid_out(data.draw, np.asarray(rng.integers(0, classes, batch), kind))
    leaf = Tensor(logits, requires_grad=True)
    y = categorical_log_prob(leaf, Tensor(index) if data.draw(st.booleans()) else index)
    table = scipy.special.log_softmax(logits.astype(np.float64), axis=-1)
    picked = np.take_along_axis(table, index[..., None].astype(np.int64), axis=-1)[..., 0]
    assert y.shape == batch and y.dtype == dtype
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(y.numpy(), picked, rtol=8 * eps, atol=8 * eps)
    g = rng.standard_normal(batch).astype(dtype)
    got = grad(y, leaf, Tensor(g))
    want = g[..., None] * (np.eye(classes)[index] - np.exp(table))
    assert got.dtype == dtype
    np.testing.assert_allclose(got.numpy(), want, rtol=32 * eps, atol=32 * eps)


@settings(max_examples=40)
@given(batch=shapes(max_dims=2), classes=st.integers(1, 4), rng=generators())
def test_categorical_gradients_to_order_two(batch, classes, rng):
    index = rng.integers(0, classes, batch)
    check(lambda logits: categorical_log_prob(logits, index), rng.standard_normal((*batch, classes)), rng=rng)


def test_categorical_agrees_with_the_composed_operations_to_order_two(rng):
    index, v = rng.integers(0, 5, (3, 2)), Tensor(rng.standard_normal((3, 2, 5)))
    logits = Tensor(rng.standard_normal((3, 2, 5)), requires_grad=True)
    g = Tensor(rng.standard_normal((3, 2)), requires_grad=True)
    results = []
    for f in (
        lambda a: categorical_log_prob(a, index),
        lambda a: sum(one_hot(index, 5, np.float64) * log_softmax(a), axis=-1),
    ):
        first = grad(f(logits), logits, g, create_graph=True)
        results.append([first, *grad(first, [logits, g], v)])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-11, atol=1e-13)


def test_categorical_is_right_for_logits_of_any_size():
    rows = np.array(
        [[1e4, -1e4, 0], [-1e4, -1e4, -1e4], [1e30, 0, -1e30], [0, -np.inf, -np.inf], [88, 104, -88]], np.float32
    )
    for k in range(3):
        logits = Tensor(rows, requires_grad=True)
        with np.errstate(all="raise", under="ignore"):
            y = categorical_log_prob(logits, np.full(5, k))
        table = scipy.special.log_softmax(rows.astype(np.float64), axis=-1)
        np.testing.assert_allclose(y.numpy(), table[:, k], rtol=2 * EPS, atol=2 * EPS)
        g = grad(y, logits, Tensor(np.ones(5, np.float32))).numpy()
        np.testing.assert_allclose(g, np.eye(3)[k] - np.exp(table), rtol=4 * EPS, atol=4 * EPS)


def test_categorical_errors_say_what_is_wrong(rng):
    logits = Tensor(rng.random((2, 4)).astype(np.float32))
    with pytest.raises(
        IndexError, match="categorical_log_prob: index runs from 0 to 4, the classes of logits from 0 to 3"
    ):
        categorical_log_prob(logits, [0, 4])
    with pytest.raises(IndexError, match="runs from -1 to 2"):
        categorical_log_prob(logits, [2, -1])
    with pytest.raises(TypeError, match="categorical_log_prob: index must hold integers, got float64"):
        categorical_log_prob(logits, np.array([0.0, 1.0]))
    with pytest.raises(
        ValueError, match=r"index \[2, 1\] must have the shape of logits \[2, 4\] without its last axis"
    ):
        categorical_log_prob(logits, [[0], [1]])
    with pytest.raises(ValueError, match=r"index \[\] must have the shape of logits \[\]"):
        categorical_log_prob(Tensor(1.0), 0)
