"""`check` must fail where a gradient is wrong, and only there: errors are planted, one in each kind of place."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from micrognm import Tensor, check, grad, op, ops, stop_gradient
from tests.strategies import shapes

# Right ones, to be spoilt below.


def product(rule_a, rule_b):
    """a * b with the rules given."""

    @op
    def planted(a, b):
        return a * b

    planted.vjp(a=rule_a, b=rule_b)
    return planted


def unary(forward, rule):
    @op
    def planted(x):
        return forward(x)

    planted.vjp(x=rule)
    return planted


def matrices(rule_a, rule_b):
    @op
    def planted(a, b):
        return np.matmul(a, b)

    planted.vjp(a=rule_a, b=rule_b)
    return planted


def soft(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def soft_rule(g, out):
    return out * (g - (g * out).sum(axis=-1, keepdims=True))


spoilt_square = unary(lambda x: 3 * x * x, lambda g, x: g * 6.006 * x)
RIGHT: dict[str, Any] = {
    "product": (product(lambda g, b: g * b, lambda g, a: g * a), [(3,), (3,)]),
    "square": (unary(lambda x: x * x, lambda g, x: g * 2.0 * x), [(3,)]),
    "softmax": (unary(soft, soft_rule), [(2, 3)]),
    "matmul": (matrices(lambda g, b: g @ ops.swap(b), lambda g, a: ops.swap(a) @ g), [(3, 3), (3, 3)]),
    "exp": (unary(np.exp, lambda g, out: g * out), [(4,)]),
}
WRONG: dict[str, Any] = {
    "a factor of 1.001": (product(lambda g, b: g * b * 1.001, lambda g, a: g * a), [(3,), (3,)]),
    "a factor of 1.001 in the second argument": (product(lambda g, b: g * b, lambda g, a: 1.001 * g * a), [(3,), (3,)]),
    "the wrong sign": (unary(np.exp, lambda g, out: -g * out), [(4,)]),
    "zeros for softmax": (unary(soft, lambda g, out: g * 0.0), [(2, 3)]),
    "softmax as if its Jacobian were diagonal": (unary(soft, lambda g, out: g * out * (1.0 - out)), [(2, 3)]),
    "a missing transpose": (matrices(lambda g, b: g @ b, lambda g, a: ops.swap(a) @ g), [(3, 3), (3, 3)]),
    "a transpose too many": (
        matrices(lambda g, b: g @ ops.swap(b), lambda g, a: ops.swap(ops.swap(a) @ g)),
        [(3, 3), (3, 3)],
    ),
    "a missing term": (unary(lambda x: x * np.exp(x), lambda g, x: g * ops.exp(x)), [(3,)]),
    "half of the product rule": (lambda x, y: x * stop_gradient(y) * y, [(3,), (3,)]),
    "an argument forgotten": (lambda x, y: ops.exp(x) * stop_gradient(y), [(3,), (3,)]),
    "no gradient at all": (lambda x: Tensor(ops.exp(x).data), [(3,)]),
    "one element wrong": (unary(lambda x: x * 1.0, lambda g: g * (1.0 + 0.01 * (np.arange(20) == 7))), [(20,)]),
    "elements exchanged": (unary(lambda x: x * 1.0, lambda g: ops.roll(g, shift=1, axis=0)), [(5,)]),
}
# Right in value, wrong in their own derivative.
WRONG_AT_ORDER_2: dict[str, Any] = {
    "a constant slope": (unary(lambda x: x * x, lambda g, x: g * 2.0 * stop_gradient(x)), [(3,)]),
    "a constant factor": (product(lambda g, b: g * b, lambda g, a: g * stop_gradient(a)), [(3,), (3,)]),
    "a constant cotangent": (unary(np.exp, lambda g, out: stop_gradient(g) * out), [(4,)]),
    "a constant output": (unary(soft, lambda g, out: soft_rule(g, stop_gradient(out))), [(2, 3)]),
    "NumPy in a rule": (unary(np.exp, lambda g, x: g * np.exp(x.data)), [(4,)]),
    "a factor of 1.001": (unary(lambda x: x**3, lambda g, x: g * spoilt_square(x)), [(3,)]),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_gradients_pass(name, rng):
    f, inputs = RIGHT[name]
    for _ in range(10):
        check(f, *inputs, rng=rng)


@pytest.mark.parametrize("name", WRONG)
def test_planted_errors_are_caught(name):
    f, inputs = WRONG[name]
    for seed in range(10):
        for order in (1, 2):
            with pytest.raises(
                AssertionError, match=r"the gradient of f along a random direction is .*finite differences give"
            ):
                check(f, *inputs, order=order, rng=np.random.default_rng(seed))


@pytest.mark.parametrize("name", WRONG_AT_ORDER_2)
def test_planted_errors_at_order_2_are_caught(name):
    f, inputs = WRONG_AT_ORDER_2[name]
    for seed in range(10):
        check(f, *inputs, order=1, rng=np.random.default_rng(seed))
        with pytest.raises(AssertionError, match=r"the gradient of (f|the gradient of f with respect to argument \d) "):
            check(f, *inputs, order=2, rng=np.random.default_rng(seed))


def test_an_error_at_order_3_only():
    def cube(x):
        return unary(lambda x: x**3, lambda g, x: g * spoilt(x))(x)

    def spoilt(x):
        return unary(lambda x: 3 * x * x, lambda g, x: g * 6.0 * stop_gradient(x))(x)

    check(cube, (3,), order=2)
    with pytest.raises(AssertionError, match="the gradient of the gradient of the gradient"):
        check(cube, (3,), order=3)


def test_the_message_names_the_argument_and_the_shapes():
    f, inputs = WRONG_AT_ORDER_2["a constant factor"]
    with pytest.raises(
        AssertionError, match=r"the gradient of the gradient of f with respect to argument 1 .*\[\[3\], \[3\], \[3\]\]"
    ):
        check(f, *inputs)


# ---- kinks -----------------------------------------------------------------------------------------------------------

KINKED: dict[str, Any] = {
    "relu": ops.relu, "abs": ops.abs, "leaky_relu": ops.leaky_relu, "maximum": lambda x: ops.maximum(x, 0.5 * x),
    "max": lambda x: ops.max(x, axis=-1), "clip": lambda x: ops.clip(x, low=0.0, high=1.0), "sort": ops.sort,
    "relu squared": lambda x: ops.relu(x) * x,
}  # fmt: skip


@pytest.mark.parametrize("offset", [0.0, 1e-9, -3e-5, 1e-4])
@pytest.mark.parametrize("name", KINKED)
def test_kinks_are_stepped_away_from(name, offset, rng):
    for _ in range(3):
        check(KINKED[name], np.full((2, 3), offset), rng=rng)


@settings(max_examples=15)
@given(
    x=arrays(np.float64, shapes(min_dims=1), elements=st.sampled_from([0.0, 1e-5, -1e-4, 1.0, -2.0])),
    seed=st.integers(0, 99),
)
def test_hypothesis_can_draw_kinks(x, seed):
    check(lambda x: ops.relu(x) * ops.abs(x - 1.0), x, rng=np.random.default_rng(seed))


@pytest.mark.parametrize("offset", [0.0, 1e-9, -3e-5])
def test_a_wrong_gradient_beside_a_kink_is_still_caught(offset):
    wrong = unary(lambda x: np.maximum(x, 0), lambda g, x: g * 1.001 * (x > 0))
    for seed in range(10):
        with pytest.raises(AssertionError):
            check(wrong, np.full(20, offset), rng=np.random.default_rng(seed))


def test_a_function_too_rough_to_differentiate_fails():
    rough = unary(lambda x: np.sin(1e5 * x), lambda g, x: g * 0.0)
    with pytest.raises(AssertionError):
        check(rough, (3,))


# ---- dtype, shapes, arguments ----------------------------------------------------------------------------------------


def test_a_float64_leak_is_caught():
    def leaks(x):
        return ops.exp(x.cast(dtype=np.float64))

    with pytest.raises(AssertionError, match="float32 inputs give float64"):
        check(leaks, (3,))
    check(leaks, (3,), single=False)
    in_rule = unary(lambda x: x * 1.0, lambda g: g.cast(dtype=np.float64))
    with pytest.raises(TypeError, match="the rule for 'x' gives float64, the argument is float32"):
        check(in_rule, (3,))


@settings(max_examples=15)
@given(shape=shapes(), seed=st.integers(0, 99))
def test_shapes_without_elements_or_axes(shape, seed):
    rng = np.random.default_rng(seed)
    check(ops.tanh, shape, rng=rng)
    check(lambda x: ops.tanh(x).sum(), shape, rng=rng)
    check(
        lambda x, y: ops.concat(x.reshape(shape=(-1,)) if x.size else x.reshape(shape=(0,)), y, axis=0) * 2.0,
        shape,
        (0,),
        rng=rng,
    )


def test_arguments():
    check(lambda x, y, z: (x * y + z) * ops.tanh(x), (2, 3), (3,), ())
    check(ops.exp, np.array([1.0, 2.0], np.float32))  # arrays and tensors give the point; shapes draw one
    check(ops.log, Tensor([1.0, 2.0]))
    check(lambda x: x * 3.0, np.array(2))
    check(lambda x, unused: x * x, (3,), (2,))
    check(lambda x: Tensor(np.ones(3, x.dtype)), (3,))  # constant, and rightly without gradient
    check(ops.round, (3,))
    with pytest.raises(ValueError, match="order must be at least 1, got 0"):
        check(ops.exp, (3,), order=0)


def test_the_point_is_not_changed():
    x = np.zeros(3)
    check(ops.relu, x)
    np.testing.assert_array_equal(x, 0)


def test_a_gradient_of_a_gradient_can_be_checked_itself():
    check(lambda x: grad((x**3).sum(), x, create_graph=True), (3,))
    with pytest.raises(AssertionError):
        check(lambda x: grad((x**3).sum(), x), (3,))  # without a graph it has no gradient


def test_the_same_generator_gives_the_same_check():
    seen: list[np.ndarray] = []

    def square(x: Tensor) -> Tensor:
        seen.append(x.numpy().copy())
        return x * x

    for _ in range(2):
        check(square, (3,), rng=np.random.default_rng(5))
    half = len(seen) // 2
    np.testing.assert_array_equal(seen[:half], seen[half:])
