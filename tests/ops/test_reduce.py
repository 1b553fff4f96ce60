"""Reductions: ties, empty axes, rows of infinities, and the laws of the softmax family."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micrognm import Tensor, check, grad, ops
from tests.strategies import generators, reductions

INF: Any = math.inf


def leaf(values):
    return Tensor(np.array(values, np.float64), requires_grad=True)


@pytest.mark.parametrize(("f", "sign"), [(ops.max, 1.0), (ops.min, -1.0)])
def test_ties_share_the_gradient(f, sign):
    x = leaf(sign * np.array([[3.0, 1.0, 3.0], [2.0, 2.0, 2.0], [0.0, -0.0, -1.0], [INF, INF, 0.0]]))
    weights = Tensor(np.array([1.0, 6.0, 2.0, 4.0]))
    want = [[0.5, 0, 0.5], [2, 2, 2], [1, 1, 0], [2, 2, 0]]
    for keepdims in (False, True):
        y = f(x, axis=1, keepdims=keepdims)
        g = grad(y, x, weights.reshape(shape=y.shape))
        np.testing.assert_array_equal(g.numpy(), want)
    everything = leaf([[1.0, 1.0], [1.0, -5.0]])
    np.testing.assert_array_equal(grad(f(everything * sign), everything).numpy() * sign, [[1 / 3, 1 / 3], [1 / 3, 0]])


@pytest.mark.parametrize("name", ["max", "min", "mean", "argmax", "argmin", "logsumexp"])
def test_nothing_to_reduce_raises(name):
    x = Tensor(np.ones((2, 0), np.float32))
    with pytest.raises(ValueError, match=rf"{name}\(x: float32\[2, 0\]\): .*The rule: "):
        getattr(ops, name)(x, axis=1)
    if name not in ("argmax", "argmin"):
        assert getattr(ops, name)(x, axis=0).shape == (0,)
        assert getattr(ops, name)(Tensor(np.ones((0, 3))), axis=1).shape == (0,)


@pytest.mark.parametrize(
    "name", ["sum", "mean", "max", "min", "argmax", "cumsum", "logsumexp", "softmax", "log_softmax"]
)
def test_an_axis_that_does_not_exist_raises(name):
    with pytest.raises(
        ValueError, match=rf"{name}\(x: float64\[2, 3\]\): axis 2 is out of bounds for array of dimension 2"
    ):
        getattr(ops, name)(leaf(np.ones((2, 3))), axis=2)
    with pytest.raises(ValueError, match="axis 2 is out of bounds"):
        getattr(ops, name)(leaf(np.ones((2000, 3))), axis=2)  # large ones are summed in another way


def test_an_axis_that_is_given_twice_raises():
    for rows in (2, 2000):
        with pytest.raises(ValueError, match="duplicate value"):
            ops.sum(leaf(np.ones((rows, 3))), axis=(0, -2))


@settings(max_examples=20)
@given(drawn=reductions(), ddof=st.integers(0, 2), rng=generators())
def test_var(drawn, ddof, rng):
    shape, options = drawn
    kept = np.sum(np.zeros(shape), axis=options["axis"], keepdims=True).shape
    count = math.prod(n for n, m in zip(shape, kept, strict=True) if n != m)
    x = rng.standard_normal(shape) + 100
    if count <= ddof:
        with pytest.raises(ValueError, match=f"var: {count} elements along axis .* ddof={ddof} needs more"):
            ops.var(Tensor(x), ddof=ddof, **options)
    else:
        np.testing.assert_allclose(
            ops.var(Tensor(x), ddof=ddof, **options).numpy(), np.var(x, ddof=ddof, **options), rtol=1e-9
        )
        check(lambda x: ops.var(x, ddof=ddof, **options), x - 100, rng=rng)


def test_norm_at_zero_and_beside():
    x = leaf([[0.0, 0.0], [3.0, -4.0]])
    y = ops.norm(x, axis=1)
    assert y.numpy().tolist() == [0, 5]
    first = grad(y.sum(), x, create_graph=True)
    np.testing.assert_allclose(first.numpy(), [[0.0, 0.0], [0.6, -0.8]])
    second = grad((first * np.array([[1.0, 2.0], [1.0, 2.0]])).sum(), x).numpy()
    unit = np.array([0.6, -0.8])
    np.testing.assert_allclose(second[1], (np.eye(2) - np.outer(unit, unit)) @ [1, 2] / 5, atol=1e-15)
    assert second[0].tolist() == [0, 0]
    nothing = leaf(np.zeros((2, 0)))
    assert grad(ops.norm(nothing), nothing).shape == (2, 0)


# ---- softmax and company ---------------------------------------------------------------------------------------------


def test_logsumexp_of_infinities():
    x = leaf([[-INF, -INF, -INF], [-INF, 1.0, -INF], [INF, 1.0, -INF], [1e4, 1e4, -1e4]])
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        y = ops.logsumexp(x, axis=1)
        np.testing.assert_allclose(y.numpy(), [-INF, 1.0, INF, 1e4 + math.log(2)])
        finite = ops.logsumexp(x[np.array([0, 1, 3])], axis=1)
    g = grad(finite.sum(), x, create_graph=True)
    np.testing.assert_allclose(g.numpy(), np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0], [0.5, 0.5, 0]]))
    second = grad((g * np.arange(12.0).reshape(4, 3)).sum(), x).numpy()
    np.testing.assert_allclose(second, np.array([[0] * 3, [0] * 3, [0] * 3, [-0.25, 0.25, 0]]), atol=1e-15)


def test_softmax_of_infinities():
    x = Tensor(np.array([[-INF, 0.0, 0.0], [1e30, -1e30, -INF]]), requires_grad=True)
    np.testing.assert_array_equal(ops.softmax(x).numpy(), [[0, 0.5, 0.5], [1, 0, 0]])
    np.testing.assert_allclose(ops.log_softmax(x).numpy(), [[-INF, -math.log(2), -math.log(2)], [0, -2e30, -INF]])
    for f in (ops.softmax, ops.log_softmax):
        picked = f(x)[np.array([0, 1]), np.array([1, 0])]
        assert np.isfinite(grad(picked.sum(), x).numpy()).all()
    with np.errstate(invalid="ignore"):
        assert np.isnan(ops.softmax(Tensor(np.full((1, 2), -INF))).numpy()).all()  # as its docstring says


@settings(max_examples=20)
@given(rng=generators(), axis=st.integers(-2, 1), shift=st.sampled_from([0.0, 1e3, -1e5]))
def test_laws_of_softmax(rng, axis, shift):
    x = Tensor(rng.standard_normal((3, 4)) * 10)
    p, logp = ops.softmax(x, axis=axis), ops.log_softmax(x, axis=axis)
    np.testing.assert_allclose(p.sum(axis=axis).numpy(), 1, rtol=1e-14)
    np.testing.assert_allclose(ops.exp(logp).numpy(), p.numpy(), rtol=1e-12)
    np.testing.assert_allclose((x - ops.logsumexp(x, axis=axis, keepdims=True)).numpy(), logp.numpy(), atol=1e-12)
    np.testing.assert_allclose(ops.softmax(x + shift, axis=axis).numpy(), p.numpy(), rtol=1e-9)


@settings(max_examples=20)
@given(drawn=reductions(empty=True), rng=generators())
def test_the_gradient_of_a_sum_is_a_copy_of_its_cotangent(drawn, rng):
    shape, options = drawn
    x = Tensor(rng.standard_normal(shape), requires_grad=True)
    y = x.sum(**options)
    cotangent = rng.standard_normal(y.shape)
    kept = cotangent.reshape(np.sum(np.zeros(shape), axis=options["axis"], keepdims=True).shape)
    np.testing.assert_array_equal(grad(y, x, Tensor(cotangent)).numpy(), np.broadcast_to(kept, shape))


def test_the_first_extreme_is_the_index():
    x = Tensor(np.array([[1.0, 3.0, 3.0], [-1.0, -1.0, -2.0]]))
    assert ops.argmax(x, axis=1).numpy().tolist() == [1, 0] and ops.argmin(x, axis=1).numpy().tolist() == [0, 2]
    assert ops.argmax(x).item() == 1 and ops.argmax(x).dtype == np.int64


@pytest.mark.parametrize(
    ("shape", "axes"), [((5003, 7), 1), ((31, 33, 5), 2), ((3, 2000), 1), ((1031, 3, 2), 1), ((4099,), 1)]
)
@pytest.mark.parametrize("keepdims", [False, True])
def test_sums_of_long_columns(shape, axes, keepdims, rng):
    x = rng.standard_normal(shape)
    found = ops.sum(Tensor(x), axis=tuple(range(axes)), keepdims=keepdims).numpy()
    want = np.sum(x, axis=tuple(range(axes)), keepdims=keepdims)
    assert found.shape == want.shape
    np.testing.assert_allclose(found, want, rtol=1e-10, atol=1e-10)
