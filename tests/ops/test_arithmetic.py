"""Arithmetic at the points where a formula alone would go wrong. Values and gradients elsewhere: `test_every.py`."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micrognm import Tensor, grad, ops
from micrognm.ops.arithmetic import pull


def leaf(*values, dtype=np.float64):
    return Tensor(np.array(values, dtype), requires_grad=True)


# ---- where -----------------------------------------------------------------------------------------------------------

GOOD = [0.5, 2.0]
UNTAKEN: dict[str, Any] = {  # a function, and points where its value or slope is infinite or NaN
    "log": (ops.log, [0.0, -1.0]),
    "log1p": (ops.log1p, [-1.0, -2.0]),
    "sqrt": (ops.sqrt, [0.0, -1.0]),
    "rsqrt": (ops.rsqrt, [0.0, -1.0]),
    "1 / x": (lambda x: 1.0 / x, [0.0, -0.0]),
    "x / x": (lambda x: x / x, [0.0, math.inf]),
    "x / (x - 3)": (lambda x: x / (x - 3.0), [3.0, 3.0]),
    "x ** 0.5": (lambda x: x**0.5, [0.0, -1.0]),
    "x ** -1": (lambda x: x**-1, [0.0, -0.0]),
    "x ** 1.5": (lambda x: x**1.5, [0.0, -1.0]),
    "x ** x": (lambda x: x**x, [0.0, -0.5]),
    "2 ** x": (lambda x: 2.0**x, [2e4, 1e300]),
    "exp": (ops.exp, [1e4, 1e300]),
    "expm1": (ops.expm1, [1e4, 1e300]),
    "log(exp)": (lambda x: ops.log(ops.exp(x)), [1e4, -1e4]),
    "log(1 + exp)": (lambda x: ops.log(1.0 + ops.exp(x)), [1e4, 1e300]),
    "sqrt(log)": (lambda x: ops.sqrt(ops.log(x + 1.0)), [-1.0, -0.5]),
    "norm": (lambda x: ops.norm(x.reshape(shape=(-1, 1)), axis=1), [0.0, -0.0]),
    "logsumexp": (lambda x: ops.logsumexp(ops.stack(x, x, axis=1), axis=1), [-math.inf, -math.inf]),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", UNTAKEN)
def test_no_nan_from_the_branch_not_taken(name, dtype):
    """Forward, gradient and the gradient's gradient: 0 where not taken, and elsewhere as if f ran there alone."""
    f, bad = UNTAKEN[name]
    with np.errstate(all="ignore"):
        x = leaf(*GOOD, *bad, dtype=dtype)
        taken = np.array([True, True, False, False])
        y = ops.where(taken, f(x), 0.0)
        (first,) = grad((y * y).sum(), [x], create_graph=True)
        second = grad((first * np.array([1.0, -2.0, 3.0, 4.0], dtype)).sum(), x, allow_unused=True)
        alone = leaf(*GOOD, dtype=dtype)
        (want,) = grad((f(alone) * f(alone)).sum(), [alone], create_graph=True)
        want_second = grad((want * np.array([1.0, -2.0], dtype)).sum(), alone, allow_unused=True)
    for got, right in ((first, want), (second, want_second)):
        np.testing.assert_allclose(got.numpy()[:2], right.numpy(), rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(got.numpy()[2:], 0)


def test_no_nan_from_a_power_not_taken_in_either_argument():
    base, exponent = leaf(2.0, 0.0, -1.0, 0.0), leaf(3.0, 0.5, 0.5, -2.0)
    with np.errstate(all="ignore"):
        y = ops.where(np.array([True, False, False, False]), base**exponent, 0.0).sum()
        first = grad(y, [base, exponent], create_graph=True)
        second = [grad(g.sum(), [base, exponent]) for g in first]
    np.testing.assert_allclose(first[0].numpy(), [12, 0, 0, 0])
    np.testing.assert_allclose(first[1].numpy(), [8 * math.log(2), 0, 0, 0])
    cross = 4 + 12 * math.log(2)
    np.testing.assert_allclose(second[0][0].numpy(), [12, 0, 0, 0])
    np.testing.assert_allclose(second[0][1].numpy(), [cross, 0, 0, 0])
    np.testing.assert_allclose(second[1][0].numpy(), [cross, 0, 0, 0])
    np.testing.assert_allclose(second[1][1].numpy(), [8 * math.log(2) ** 2, 0, 0, 0])


def test_an_infinite_slope_that_is_used_is_infinite():
    with np.errstate(all="ignore"):
        for f, at, want in (
            (ops.sqrt, 0.0, math.inf), (ops.log, 0.0, math.inf), (ops.rsqrt, 0.0, -math.inf),
            (ops.log1p, -1.0, math.inf), (lambda x: 1.0 / x, 0.0, -math.inf), (lambda x: x**0.5, 0.0, math.inf),
            (ops.exp, 1e4, math.inf), (lambda x: 2.0**x, 1e4, math.inf),
        ):  # fmt: skip
            x = leaf(at)
            assert grad(f(x), x).item() == want


@settings(max_examples=20)
@given(g=st.floats(allow_nan=False), slope=st.floats())
def test_pull_is_a_product_but_for_zero(g, slope):
    with np.errstate(all="ignore"):
        got = pull(np.array([g]), np.array([slope])).item()
        want = 0.0 if g == 0 else np.float64(g) * slope
    assert got == want or (math.isnan(got) and math.isnan(want))


# ---- power -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["tensors", "number"])
@pytest.mark.parametrize(
    ("a", "b", "da", "db"),
    [
        (2.0, 3.0, 12.0, 8 * math.log(2)), (0.0, 2.0, 0.0, 0.0), (0.0, 1.0, 1.0, 0.0), (0.0, 0.0, 0.0, 0.0),
        (3.0, 0.0, 0.0, math.log(3)), (-2.0, 3.0, 12.0, math.nan), (-2.0, 2.0, -4.0, math.nan),
        (-3.0, 1.0, 1.0, math.nan),
        (1.0, -1.0, -1.0, 0.0), (4.0, 0.5, 0.25, 2 * math.log(4)), (0.0, -1.0, -math.inf, 0.0), (0.0, 3.0, 0.0, 0.0),
    ],
)  # fmt: skip
def test_power(form, a, b, da, db):
    with np.errstate(all="ignore"):
        x, y = leaf(a), leaf(b)
        if form == "tensors":
            got = [g.item() for g in grad(x**y, [x, y])]
        else:
            got = [grad(x**b, x).item(), grad(a**y, y).item()]
    np.testing.assert_allclose(got, [da, db])


@pytest.mark.parametrize("exponent", [2, 3, 1, 0, -2])
def test_integer_powers_of_any_base(exponent):
    x = leaf(-2.0, 0.5, 3.0)
    np.testing.assert_allclose((x**exponent).numpy(), [v**exponent for v in (-2.0, 0.5, 3.0)])
    want = [exponent * v ** (exponent - 1) if exponent else 0.0 for v in (-2.0, 0.5, 3.0)]
    np.testing.assert_allclose(grad((x**exponent).sum(), x).numpy(), want)


# ---- kinks and ties --------------------------------------------------------------------------------------------------


def slope(f, x):
    return grad(f(x).sum(), x).numpy().tolist()


def test_ties_share_the_gradient():
    a, b = leaf(1.0, 2.0, 3.0, 0.0, math.inf), leaf(1.0, 3.0, 2.0, -0.0, math.inf)
    ga, gb = grad(ops.maximum(a, b).sum(), [a, b])
    assert ga.numpy().tolist() == [0.5, 0, 1, 0.5, 0.5] and gb.numpy().tolist() == [0.5, 1, 0, 0.5, 0.5]
    ga, gb = grad(ops.minimum(a, b).sum(), [a, b])
    assert ga.numpy().tolist() == [0.5, 1, 0, 0.5, 0.5] and gb.numpy().tolist() == [0.5, 0, 1, 0.5, 0.5]
    assert slope(lambda x: ops.maximum(x, x), leaf(1.0, -1.0)) == [1.0, 1.0]
    assert slope(lambda x: ops.maximum(0.0, x), leaf(0.0, -0.0, 1.0)) == [0.5, 0.5, 1.0]


def test_slopes_at_kinks():
    assert slope(ops.abs, leaf(0.0, -0.0, -2.0, 3.0)) == [0, 0, -1, 1]
    assert slope(lambda x: ops.clip(x, low=-1.0, high=2.0), leaf(-1.0, 2.0, -1.1, 2.1, 0.0)) == [1, 1, 0, 0, 1]
    low, high = np.array([0.0, 5.0]), np.array([1.0, 6.0])
    assert slope(lambda x: ops.clip(x, low=low, high=high), leaf(0.5, 0.5)) == [1, 0]


@pytest.mark.parametrize("end", ["low", "high"])
def test_clip_wants_both_ends(end):
    with pytest.raises(
        TypeError, match=r"clip\(x: float64\[1\]\): an end is None; write -math.inf or math.inf for no end"
    ):
        ops.clip(leaf(1.0), **{"low": 0.0, "high": 1.0, end: None})


# ---- what has no gradient --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("f", [ops.sign, ops.round, ops.floor, lambda x: x > 0, lambda x: x == x, lambda x: x != 1.0])
def test_steps_have_no_gradient_rather_than_zeros(f):
    x = leaf(0.5, -1.5)
    y = f(x)
    assert not y.requires_grad
    with pytest.raises(ValueError, match="depends on nothing"):
        grad(y.sum(), x)
    np.testing.assert_array_equal(grad((x * y.cast(dtype=np.float64)).sum(), x).numpy(), y.numpy())


def test_round_to_even():
    np.testing.assert_array_equal(ops.round(leaf(0.5, 1.5, 2.5, -0.5)).numpy(), [0, 2, 2, 0])


def test_cast():
    x = leaf(1.25, -2.75)
    y = x.cast(dtype=np.float32)
    assert y.dtype == np.float32
    g = grad((y * y).sum(), x)
    assert g.dtype == np.float64 and g.numpy().tolist() == [2.5, -5.5]
    for dtype in (np.int32, "int64", bool):
        assert x.cast(dtype=dtype).dtype == dtype
        assert not x.cast(dtype=dtype).requires_grad  # the steps of truncation would pass a slope of 1, which is wrong
    assert ops.cast(Tensor([1, 0]), dtype=bool).numpy().tolist() == [True, False]


def test_where_takes_a_recorded_or_integer_condition():
    x = leaf(1.0, 0.0)
    np.testing.assert_array_equal(grad(ops.where(x, x * 3.0, x * 5.0).sum(), x).numpy(), [3, 5])
    np.testing.assert_array_equal(ops.where(np.array([0, 2]), 1.0, x).numpy(), [1, 1])
    assert ops.where(np.array([True]), 1.0, 2.0).dtype == np.float64
