"""How an operation is declared: what a declaration refuses, and what a call makes of its inputs."""

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import micrognm as mg
from micrognm import Tensor, check, debug, grad, op, ops
from tests.strategies import broadcastable

BINARY: dict[str, Any] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "div": lambda a, b: a / b,
    "power": lambda a, b: a**b, "maximum": ops.maximum, "minimum": ops.minimum,
    "where": lambda a, b: ops.where(np.array([True, False]), a, b),
}  # fmt: skip
COMPARISONS: dict[str, Any] = {
    "equal": lambda a, b: a == b, "not_equal": lambda a, b: a != b, "less": lambda a, b: a < b,
    "less_equal": lambda a, b: a <= b, "greater": lambda a, b: a > b, "greater_equal": lambda a, b: a >= b,
}  # fmt: skip


@op
def scaled(x, *, by, twice=False):
    """x times a number."""
    return x * (2 * by if twice else by)


scaled.vjp(x=lambda g, by, twice: g * (2 * by if twice else by))


@op
def joined(*xs):
    """The sum of everything."""
    total = xs[0]
    for x in xs[1:]:
        total = total + x
    return total


joined.vjp(xs=lambda g: g)


def leaf(*values: float, dtype: Any = np.float64) -> Tensor:
    return Tensor(np.array(values, dtype), requires_grad=True)


# ---- declarations ----------------------------------------------------------------------------------------------------


def fresh() -> Any:
    @op
    def f(a, b, *, k=1):
        """a + b."""
        return a + b

    return f


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"a": lambda g, c: g}, "f: the rule for 'a' names c; known are the inputs a, b and k, out, shapes, dtypes"),
        ({"a": lambda g, outt: g}, "the rule for 'a' names outt"),
        ({"b": lambda g, a, x, y: g}, "the rule for 'b' names x, y;"),
        ({"a": lambda g, i: g}, "the rule for 'a' names i;"),  # only where inputs are numbered
        ({"x": lambda g: g}, "the rule for 'x' names x;"),
        ({"k": lambda g: g}, "the rule for 'k' names k;"),  # an option has no gradient
    ],
)
def test_a_misspelt_name_raises_where_it_is_declared(rules, message):
    with pytest.raises(TypeError) as error:
        fresh().vjp(**rules)
    assert message in str(error.value)


def test_named_and_variadic_inputs_do_not_mix():
    with pytest.raises(TypeError, match=r"f: an operation takes named inputs or \*inputs, not both"):

        @op
        def f(a, *xs):
            return a


def test_an_operation_keeps_its_name_and_docstring():
    f = fresh()
    assert f.__name__ == "f" and f.__doc__ == "a + b." and f.__wrapped__(1, 2) == 3
    assert f.__module__ == __name__


def test_rules_can_be_declared_one_at_a_time_and_again():
    f = fresh()
    f.vjp(a=lambda g: g)
    x = leaf(1.0)
    assert grad(f(x, 2.0), x).item() == 1.0
    f.vjp(b=lambda g: g * 3.0)
    assert grad(f(x, x), x).item() == 4.0
    f.vjp(a=lambda g: g * 2.0)
    assert grad(f(x, x), x).item() == 5.0
    f.vjp(a=lambda g, b: g * b)  # the calls after it keep what the new rule names
    assert grad(f(x, 7.0), x).item() == 7.0


def test_without_a_rule_a_gradient_would_be_lost():
    f = fresh()
    f.vjp(a=lambda g: g)
    assert f(leaf(1.0), 2.0).requires_grad
    assert f(Tensor(1.0), Tensor(2.0)).item() == 3.0
    with pytest.raises(TypeError, match=r"f: argument 'b' has no gradient rule. Pass stop_gradient\(b\), or declare"):
        f(1.0, leaf(2.0))
    with mg.no_grad():
        assert f(1.0, leaf(2.0)).item() == 3.0


def test_none_declares_that_there_is_no_gradient():
    f = fresh()
    f.vjp(a=None, b=lambda g, a: g * a)
    a, b = leaf(5.0), leaf(2.0)
    assert f(a, 1.0).node is None
    assert grad(f(a, b), b).item() == 5.0
    with pytest.raises(ValueError, match="does not depend"):
        grad(f(a, b), a)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda g: g.sum(), r"f: the rule for 'b' gives shape \[\], the argument has \[2\]"),
        (lambda g: g[:1], r"f: the rule for 'b' gives shape \[1\], the argument has \[2\]"),
        (lambda g: ops.concat(g, g, axis=0), r"f: the rule for 'b' gives shape \[4\], the argument has \[2\]"),
        (lambda g: g.cast(dtype=np.float32), "f: the rule for 'b' gives float32, the argument is float64"),
    ],
)
def test_a_rule_of_the_wrong_shape_or_dtype_raises(rule, message):
    f = fresh()
    f.vjp(a=lambda g: g, b=rule)
    y = f(leaf(1.0, 2.0), leaf(1.0, 2.0))
    with pytest.raises(TypeError, match=message):
        grad(y.sum(), [y, *[Tensor(np.ones(2), requires_grad=True)]], allow_unused=True)
        y.backward(Tensor(np.ones(2)))


def test_the_input_of_a_wrong_rule_is_numbered_where_it_has_no_name():
    @op
    def f(*xs):
        return xs[0] * 1.0

    f.vjp(xs=lambda g, i: g if i == 0 else g.sum())
    with pytest.raises(TypeError, match=r"f: the rule for 'xs\[1\]' gives shape \[\], the argument has \[2\]"):
        f(leaf(1.0, 2.0), leaf(1.0, 2.0)).backward(Tensor(np.ones(2)))


def test_rules_see_what_they_name():
    seen: dict[str, Any] = {}

    @op
    def f(a, b, *, k, m=7):
        return a * b

    def rule(g, b, out, k, m, shapes, dtypes):
        seen.update(b=b, out=out, k=k, m=m, shapes=shapes, dtypes=dtypes)
        return g * b

    f.vjp(a=rule, b=None)
    a, b = Tensor(np.full((2, 3), 2.0), requires_grad=True), Tensor(np.full(3, 4.0))
    grad(f(a, b, k="what").sum(), a)
    assert isinstance(seen["b"], Tensor) and seen["b"].data is b.data and seen["out"].numpy()[0, 0] == 8.0
    assert (seen["k"], seen["m"]) == ("what", 7)
    assert seen["shapes"] == {"a": (2, 3), "b": (3,)} and seen["dtypes"]["a"] == np.float64
    grad(f(a, 3, k=None).sum(), a)
    assert seen["b"] == 3 and isinstance(seen["b"], int) and seen["shapes"]["b"] == ()


@pytest.mark.parametrize(
    "name", ["f", "forward", "g", "i", "inputs", "keep", "n", "node", "out_", "rule", "s", "wrap", "y"]
)
def test_an_input_may_have_any_name(name, rng):
    """The adapters between engine and rules are generated code: none of their names may be taken for an input's."""
    made: dict[str, Any] = {}
    exec(f"def product({name}, b):\n    return {name} * b\n", made)
    exec(f"def to_b(g_, {name}):\n    return g_ * {name}\n", made)
    product = op(made["product"])
    product.vjp(**{name: lambda g_, b: g_ * b, "b": made["to_b"]})
    check(product, rng.standard_normal(3), rng.standard_normal(3))


def test_options():
    x = leaf(1.0, 2.0)
    assert grad(scaled(x, by=3.0).sum(), x).numpy().tolist() == [3.0, 3.0]
    assert grad(scaled(x, by=3.0, twice=True).sum(), x).numpy().tolist() == [6.0, 6.0]
    check(lambda x: scaled(x, by=0.5) * x, (2, 3))
    with pytest.raises(TypeError, match="by"):
        scaled(x)
    with pytest.raises(TypeError, match="unexpected keyword"):
        scaled(x, by=1.0, often=2)
    np.testing.assert_array_equal(scaled(x, 3.0, True).numpy(), scaled(x, by=3.0, twice=True).numpy())
    with pytest.raises(TypeError, match="positional"):
        scaled(x, 3.0, True, 1)


def test_an_option_without_a_default_may_stand_after_one_with():
    @op
    def between(x, *, low=0.0, high):
        """x within [low, high]."""
        return np.clip(x, low, high)

    assert between(leaf(-1.0, 5.0).numpy(), high=2.0).numpy().tolist() == [0.0, 2.0]
    assert between(leaf(-1.0, 5.0).numpy(), 2.0, -0.5).numpy().tolist() == [-0.5, 2.0]  # what is required comes first


def test_variadic_inputs():
    xs = [leaf(float(i)) for i in range(5)]
    y = joined(*xs, xs[0], 2.0, np.ones(1))
    assert y.item() == 10 + 0 + 3
    assert [g.item() for g in grad(y, xs)] == [2.0, 1.0, 1.0, 1.0, 1.0]
    check(lambda a, b, c: joined(a, b, a, c) * b, (2, 1), (3,), ())
    assert joined(Tensor(1.0), Tensor(2.0)).node is None


# ---- calls -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "number", [2, 2.5, True, np.float64(2.5), np.float32(2.5), np.int64(2), np.bool_(True)], ids=repr
)
@pytest.mark.parametrize("name", [*BINARY, *COMPARISONS])
def test_a_number_never_changes_the_dtype(name, number, dtype):
    f = {**BINARY, **COMPARISONS}[name]
    x = leaf(1.5, 3.0, dtype=dtype)
    for a, b in ((x, number), (number, x)):
        y = f(a, b)
        want = getattr(np, {"div": "divide", "sub": "subtract", "mul": "multiply"}.get(name, name), None)
        plain = [np.asarray(v.numpy() if isinstance(v, Tensor) else v, np.float64) for v in (a, b)]
        exact = np.where([True, False], *plain) if name == "where" else want(*plain)  # type: ignore[misc]
        assert isinstance(y, Tensor)
        assert y.dtype == (bool if name in COMPARISONS else dtype)
        np.testing.assert_allclose(y.numpy(), exact, rtol=1e-6)
        if name in BINARY:
            assert grad(y.sum(), x).dtype == dtype
        else:
            assert y.node is None


@pytest.mark.parametrize("name", BINARY)
def test_arrays_are_constants_on_either_side(name):
    x, array = leaf(1.5, 3.0), np.array([[0.5], [2.0]])
    for a, b in ((x, array), (array, x)):
        y = BINARY[name](a, b)
        assert isinstance(y, Tensor) and y.shape == (2, 2)
        same = BINARY[name](*(Tensor(v) if v is array else v for v in (a, b)))
        np.testing.assert_array_equal(y.numpy(), same.numpy())
        np.testing.assert_array_equal(grad(y.sum(), x).numpy(), grad(same.sum(), x).numpy())


def test_methods_are_operations():
    x = Tensor(np.arange(6.0).reshape(2, 3) - 2.0, requires_grad=True)
    m = Tensor(np.arange(6.0).reshape(3, 2))
    pairs: list[Any] = [
        (-x, ops.neg(x)), (abs(x), ops.abs(x)), (x @ m, ops.matmul(x, m)), (m.numpy() @ x, ops.matmul(m, x)),
        (x[1:, ::2], ops.getitem(x, (slice(1, None), slice(None, None, 2)))), (x.sum(axis=0), ops.sum(x, axis=0)),
        (x.mean(axis=1), ops.mean(x, axis=1)), (x.var(axis=1), ops.var(x, axis=1)), (x.max(), ops.max(x)),
        (x.min(axis=-1), ops.min(x, axis=-1)), (x.argmax(axis=1), ops.argmax(x, axis=1)),
        (x.reshape(shape=(3, 2)), ops.reshape(x, shape=(3, 2))), (x.transpose(), ops.transpose(x)),
        (x.cast(dtype=np.float32), ops.cast(x, dtype=np.float32)),
    ]  # fmt: skip
    for method, function in pairs:
        np.testing.assert_array_equal(method.numpy(), function.numpy())
        assert method.requires_grad == function.requires_grad


@pytest.mark.parametrize("bad", [None, "1", [1.0], (1.0,), 1j, {1}], ids=repr)
def test_an_input_that_is_no_tensor_array_or_number_raises(bad):
    x = leaf(1.0)
    kind = type(bad).__name__
    for call, argument in ((lambda: x + bad, "b"), (lambda: bad * x, "a"), (lambda: ops.exp(bad), "x")):
        with pytest.raises(TypeError, match=f"argument '{argument}' is {kind}; expected a Tensor, array or number"):
            call()
    with pytest.raises(TypeError, match=f"argument 'xs' is {kind}"):
        ops.concat(x, bad, axis=0)


@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "power", "maximum", "minimum", *COMPARISONS])
def test_shapes_that_do_not_broadcast(name):
    a, b = Tensor(np.ones((2, 3), np.float32)), Tensor(np.ones((4,), np.float32))
    with pytest.raises(ValueError) as error:
        getattr(ops, name)(a, b)
    text = str(error.value)
    assert text.startswith(f"{name}(a: float32[2, 3], b: float32[4]): ")
    assert "The rule: " in text and "hapes broadcast" in text.split("The rule: ")[1]


def test_errors_of_a_forward_quote_the_operation_its_inputs_and_its_rule():
    @op
    def picky(x, *, k):
        """x of even length.

        More, which is not the rule.
        """
        if len(x) % 2:
            raise ValueError("an odd one")
        return x * k

    with pytest.raises(ValueError) as error:
        picky(Tensor(np.ones(3)), k=1.0)
    assert str(error.value) == "picky(x: float64[3]): an odd one. The rule: x of even length."
    assert isinstance(error.value.__cause__, ValueError)
    with pytest.raises(TypeError, match=r"picky\(x: 2\.0\): .*The rule: x of even length"):
        picky(2.0, k=1.0)


def test_mixed_dtypes():
    x, wide = leaf(1.0, dtype=np.float32), Tensor(np.ones(1))
    for call in (lambda: x + wide, lambda: wide.numpy() * x, lambda: ops.concat(x, wide, axis=0), lambda: x @ wide):
        with pytest.raises(
            TypeError, match=r"mixed dtypes; floating inputs must have one. Cast the odd one: x\.cast\(dtype="
        ):
            call()
    with pytest.raises(TypeError) as error:
        ops.where(x > 0, x, wide)
    assert str(error.value).startswith("where(condition: bool[1], a: float32[1], b: float64[1]): mixed dtypes")
    assert (x.cast(dtype="float64") + wide).dtype == np.float64


def test_integers_that_would_widen_floats_raise():
    x, labels = leaf(1.0, dtype=np.float32), Tensor(np.array([3]))
    with pytest.raises(
        TypeError, match=r"the integer input turns float32 into float64. Cast it first: x\.cast\(dtype='float32'"
    ):
        x * labels
    assert (x * labels.cast(dtype=np.float32)).dtype == np.float32
    assert (x * Tensor(np.array([True]))).dtype == np.float32
    assert (x * np.array([3], np.int8)).dtype == np.float32
    assert (leaf(1.0) * labels).dtype == np.float64


def test_dtypes_are_compared_by_value():
    """Unpickled arrays have dtypes equal to NumPy's own, but not the same objects."""
    array = pickle.loads(pickle.dumps(np.ones(3, np.float32)))
    x, y = Tensor(array, requires_grad=True), leaf(1.0, 2.0, 3.0, dtype=np.float32)
    for z in (x * y, ops.where(array > 0, x, y), ops.concat(x, y, axis=0), x * np.int8(3)):
        assert z.dtype == np.float32
        assert grad(z.sum(), x).dtype == np.float32


def test_scalars_of_numpy_become_arrays():
    for y in (ops.exp(2.0), ops.add(1.0, 2), ops.sum(np.ones(3)), ops.sum(leaf(1.0)), ops.exp(np.float64(1.0))):
        assert isinstance(y.data, np.ndarray)
    assert ops.exp(2.0).dtype == np.float32 and ops.sum(np.ones(3)).dtype == np.float64
    assert ops.add(1, 2).item() == 3


@settings(max_examples=25)
@given(inputs=broadcastable(3), data=st.data())
def test_gradients_are_summed_to_the_shapes_of_the_arguments(inputs, data):
    """For a sum of everything, each element's gradient is the number of times it was repeated."""
    xs = [Tensor(np.ones(shape), requires_grad=True) for shape in inputs]
    y = joined(*xs)
    cotangent = np.random.default_rng(data.draw(st.integers(0, 9))).standard_normal(y.shape)
    for x, g in zip(xs, grad(y, xs, Tensor(cotangent)), strict=True):
        lead = cotangent.ndim - x.ndim
        wide = (1,) * lead + x.shape
        axes = tuple(i for i, n in enumerate(wide) if n == 1)
        want = cotangent.sum(axis=axes, keepdims=True) if axes else cotangent
        assert g.shape == x.shape
        np.testing.assert_allclose(g.numpy(), want.reshape(x.shape), atol=1e-14)


# ---- all gradients in one pass ---------------------------------------------------------------------------------------


def scaled_sin():
    """sin(x) * y in one pass, which keeps sin(x); and the list of what each call of its rule was asked for."""
    asked = []

    @op(keeps=("sine",))
    def scaled_sin(x, y):
        """sin(x) * y; shapes are equal."""
        sine = np.sin(x)
        return sine * y, sine

    def rule(g, needs, x, y, sine):
        asked.append(needs)
        return (g * y * np.cos(x) if needs[0] else None, g * sine if needs[1] else None)

    @op
    def sin(x):
        """sin(x)"""
        return np.sin(x)

    @op
    def cos(x):
        """cos(x)"""
        return np.cos(x)

    sin.vjp(x=lambda g, x: g * cos(x))
    cos.vjp(x=lambda g, x: -g * sin(x))
    scaled_sin.vjp_at_once(rule, lambda x, y: sin(x) * y)
    return scaled_sin, asked


def polar():
    """Two outputs of one operation: r cos(t) and r sin(t)."""

    @op(outputs=2)
    def polar(r, t):
        """(r cos t, r sin t); shapes are equal."""
        return r * np.cos(t), r * np.sin(t)

    def rule(g, needs, r, t):
        gx, gy = (np.zeros_like(r) if x is None else x for x in g)
        return gx * np.cos(t) + gy * np.sin(t), r * (gy * np.cos(t) - gx * np.sin(t))

    def composed(r, t):
        x = r * (1 - t * t / 2 + t**4 / 24 - t**6 / 720 + t**8 / 40320 - t**10 / 3628800)
        y = r * (t - t**3 / 6 + t**5 / 120 - t**7 / 5040 + t**9 / 362880 - t**11 / 39916800)
        return x, y  # series, exact enough for small t

    polar.vjp_at_once(rule, composed)
    return polar


def test_one_rule_gives_all_gradients_and_the_composed_function_gives_theirs():
    f, _ = scaled_sin()
    check(f, np.array([0.3, -1.0, 2.0]), np.array([1.5, 0.5, -0.7]))
    x = np.array([0.3, -1.0, 2.0])
    check(lambda x: f(x, x), x)  # one tensor as two inputs
    check(lambda x: f(x * x, 2.0), x)


def test_the_rule_is_told_which_gradients_are_needed():
    f, asked = scaled_sin()
    x, y = (Tensor(np.array([v]), requires_grad=True) for v in (0.3, 0.7))
    grad(f(x, y).sum(), y)
    grad(f(x, 2.0).sum(), x)
    f(x, y).sum().backward()
    assert asked == [(False, True), (True, False), (True, True)]


def test_several_outputs():
    f = polar()
    r, t = np.array([1.3, 0.4]), np.array([0.2, -0.1])
    check(lambda r, t: (lambda x, y: x * y + 3 * y)(*f(r, t)), r, t)
    for i in range(2):  # one output alone
        check(lambda r, t, i=i: f(r, t)[i] * 2, r, t)
    x, y = f(Tensor(r), Tensor(t))
    assert x.node is None and y.node is None
    a, b = Tensor(r, requires_grad=True), Tensor(t, requires_grad=True)
    x, y = f(a, b)
    ones = Tensor(np.ones(2))
    gx = grad(x * x, x, ones)  # an output is a tensor that gradients can be asked of
    np.testing.assert_array_equal(gx.numpy(), 2 * x.numpy())


def test_debug_looks_at_each_of_several_outputs():
    @op(outputs=2)
    def pair(a):
        """(a, log a)"""
        return a, np.log(a)

    with debug(), np.errstate(divide="ignore"), pytest.raises(FloatingPointError, match=r"pair.* infinity"):
        pair(Tensor([0.0]))


def test_an_output_that_depends_on_one_input_only():
    @op(outputs=2)
    def pair(a, b):
        """(2 a, 3 b)"""
        return 2 * a, 3 * b

    pair.vjp_at_once(
        lambda g, needs: (None if g[0] is None else 2 * g[0], None if g[1] is None else 3 * g[1]),
        lambda a, b: (2 * a, 3 * b),
    )
    a, b = (Tensor(np.ones(2), requires_grad=True) for _ in range(2))
    first, _ = pair(a * 1.0, b * 1.0)
    for create_graph in (False, True):
        (ga,) = grad(first.sum(), [a], create_graph=create_graph)
        np.testing.assert_array_equal(ga.numpy(), [2, 2])
        with pytest.raises(ValueError, match="does not depend on wrt"):
            grad(first.sum(), [b], create_graph=create_graph)
    first.sum().backward()
    assert b.grad is None


def test_a_rule_at_once_that_is_wrongly_declared():
    f, _ = scaled_sin()
    with pytest.raises(TypeError, match="names sinus"):
        f.vjp_at_once(lambda g, needs, sinus: (), lambda x, y: x)
    f.vjp_at_once(lambda g, needs: (g,), lambda x, y: x)
    with pytest.raises(TypeError, match="1 gradients for 2 inputs"):
        f(Tensor([1.0], requires_grad=True), 2.0).sum().backward()
