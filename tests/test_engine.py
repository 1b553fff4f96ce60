"""The tape: what it computes, what it keeps, what it refuses."""

import gc
import inspect
import math
import threading
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micrognm import (
    Tensor,
    check,
    checkpoint,
    debug,
    exp,
    grad,
    log,
    no_grad,
    op,
    sigmoid,
    sqrt,
    stop_gradient,
    tanh,
    where,
)
from micrognm.engine import state
from tests.strategies import generators, shapes


def leaf(*values: float, dtype: Any = np.float64) -> Tensor:
    return Tensor(np.array(values, dtype), requires_grad=True)


def same(x: Tensor, *values: float) -> None:
    np.testing.assert_allclose(x.numpy(), values, rtol=1e-12)


# ---- tensors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (1.5, np.float32), ([1.5, 2], np.float32), (1, np.int64), ([True], np.bool_), (np.float64(1), np.float64),
        (np.zeros(2), np.float64), (np.zeros(2, np.float32), np.float32), (np.zeros(2, np.int32), np.int32),
        ([], np.float32), ([[]], np.float32),
    ],
)  # fmt: skip
def test_numbers_become_float32_and_arrays_keep_their_dtype(data, dtype):
    assert Tensor(data).dtype == dtype
    assert Tensor(data, dtype=np.float64).dtype == np.float64
    assert (
        Tensor(data).shape == np.shape(data)
        and Tensor(data).size == np.size(data)
        and Tensor(data).ndim == np.ndim(data)
    )


def test_an_array_is_shared_not_copied():
    array = np.zeros(3)
    assert Tensor(array).data is array and Tensor(array).numpy() is array


@pytest.mark.parametrize(
    "data", [1, [1, 2], True, np.zeros(2, np.int64), np.zeros(2, np.float16), np.zeros(2, complex)]
)
def test_a_gradient_needs_a_real_dtype(data):
    with pytest.raises(TypeError, match=r"a gradient needs float32 or float64, got (int64|bool|float16|complex128)"):
        Tensor(data, requires_grad=True)


def test_a_tensor_of_a_tensor_raises():
    with pytest.raises(TypeError, match="stop_gradient"):
        Tensor(Tensor(1.0))


def test_as_python_values():
    x = leaf(1.0, 2.0)
    assert [float(part) for part in x] == [1.0, 2.0] and len(x) == 2
    assert all(part.requires_grad for part in x)
    assert Tensor(3).item() == 3 and isinstance(Tensor(3).item(), int) and bool(Tensor(1.0)) and not bool(Tensor(0.0))
    assert len({x, x, leaf(1.0, 2.0)}) == 2  # by identity
    with pytest.raises(TypeError):
        len(Tensor(1.0))
    with pytest.raises(ValueError, match="ambiguous"):
        bool(x)


def test_repr_says_where_a_tensor_comes_from():
    x = leaf(1.0, 2.0)
    assert repr(x) == "Tensor([1., 2.], float64[2], requires_grad)"
    assert repr(x * 2) == "Tensor([2., 4.], float64[2], by mul)"
    assert repr(stop_gradient(x)) == "Tensor([1., 2.], float64[2])"


def test_a_recorded_tensor_is_no_array_by_accident():
    x = leaf(1.0, 2.0)
    for convert in (np.asarray, np.array, np.atleast_2d, np.median):
        with pytest.raises(TypeError, match=r"would lose its gradient without a word; write x\.numpy\(\)"):
            convert(x)
    with pytest.raises(TypeError):
        np.exp(x)  # a ufunc would do the same
    np.testing.assert_array_equal(np.asarray(stop_gradient(x)), [1.0, 2.0])
    assert np.asarray(stop_gradient(x), np.float32).dtype == np.float32


def test_a_recorded_tensor_does_not_change():
    x = leaf(1.0, 2.0)
    with pytest.raises(TypeError, match=r"x\[index\] = value would change a recorded Tensor.*where\(mask, value, x\)"):
        x[0] = 5.0
    for name in ("iadd", "isub", "imul", "itruediv", "ipow", "imatmul"):
        with pytest.raises(TypeError, match=r"would change a recorded Tensor.*Write x = x \+ y"):
            getattr(x, f"__{name}__")(2.0)
    with pytest.raises(TypeError, match="recorded"):
        x += 1.0
    np.testing.assert_array_equal(x.numpy(), [1.0, 2.0])


def test_an_unrecorded_tensor_does():
    x = Tensor(np.zeros((2, 2)))
    kept = x
    x[0] = 1.0
    x[1, 0] = Tensor(2.0)
    x[Tensor([1]), 1] = np.array([3.0])
    x[np.array([[True, False], [False, False]])] = np.float32(4.0)
    np.testing.assert_array_equal(x.numpy(), [[4, 1], [2, 3]])
    x += 1.0  # makes a new tensor
    np.testing.assert_array_equal(kept.numpy(), [[4, 1], [2, 3]])
    np.testing.assert_array_equal(x.numpy(), [[5, 2], [3, 4]])


def test_only_a_leaf_holds_a_gradient():
    x = leaf(1.0)
    y = x * 2
    y.backward()
    assert y.grad is None and x.grad is not None
    x.grad = None
    assert x.grad is None
    for z in (y, Tensor(1.0)):
        with pytest.raises(AttributeError, match="only a leaf"):
            z.grad = x


# ---- gradients -------------------------------------------------------------------------------------------------------


def test_a_tensor_used_many_times():
    x = leaf(2.0, 3.0)
    y = x * x + x * 3 - x / x + (x * x) * x
    same(grad(y.sum(), x), 2 * 2 + 3 + 3 * 4, 2 * 3 + 3 + 3 * 9)


@settings(max_examples=25)
@given(data=st.data(), rng=generators())
def test_a_random_graph_agrees_with_forward_mode(data, rng):
    """Dual numbers: each step's value and derivative along one direction, computed on the way forward."""
    x, v = rng.standard_normal(3), rng.standard_normal(3)
    tensors, duals = [Tensor(x, requires_grad=True)], [(x, v)]
    steps: dict = {
        "add": (lambda a, b: a + b, lambda a, b: (a[0] + b[0], a[1] + b[1])),
        "mul": (lambda a, b: a * b, lambda a, b: (a[0] * b[0], a[1] * b[0] + a[0] * b[1])),
        "tanh": (lambda a, b: tanh(a), lambda a, b: (np.tanh(a[0]), a[1] / np.cosh(a[0]) ** 2)),
        "same": (lambda a, b: a, lambda a, b: a),
        "cut": (lambda a, b: stop_gradient(a) + b, lambda a, b: (a[0] + b[0], b[1])),
    }
    for name in data.draw(st.lists(st.sampled_from(sorted(steps)), min_size=1, max_size=12)):
        i, j = (data.draw(st.integers(0, len(tensors) - 1)) for _ in "ab")
        forward, dual = steps[name]
        tensors.append(tanh(forward(tensors[i], tensors[j])))  # tanh keeps the numbers small
        value, slope = dual(duals[i], duals[j])
        duals.append((np.tanh(value), slope / np.cosh(value) ** 2))
    weights = rng.standard_normal(3)
    g = grad(tensors[-1], tensors[0], Tensor(weights), allow_unused=True)
    np.testing.assert_allclose((g.numpy() * v).sum(), (duals[-1][1] * weights).sum(), atol=1e-12)


def test_intermediate_targets():
    x = leaf(0.5, -1.0)
    h = exp(x)
    k = h * 3
    y = (k * k).sum()
    gh, gx, gk, gy = grad(y, [h, x, k, y])
    same(gk, *(2 * k.numpy()))
    same(gh, *(6 * k.numpy()))
    same(gx, *(6 * k.numpy() * h.numpy()))
    assert gy.item() == 1.0
    assert grad(x.sum(), [x, x])[1].shape == (2,) and grad(y, []) == []


@settings(max_examples=10)
@given(shape=shapes(), rng=generators())
def test_grad_output_weighs_the_elements(shape, rng):
    x = Tensor(rng.standard_normal(shape), requires_grad=True)
    weights = rng.standard_normal(shape)
    np.testing.assert_allclose(grad(x * x, x, Tensor(weights)).numpy(), 2 * x.numpy() * weights)


def test_grad_twice_on_one_graph():
    x = leaf(2.0)
    y = exp(x) * x + x
    first = grad(y, x)
    same(grad(y, x), *first.numpy())
    assert first.node is None
    assert grad(y, x, leaf(1.0) * 2.0).node is None  # whatever weighs it


def test_create_graph_to_order_three():
    x = leaf(0.7)
    y = exp(x * x)
    want = [2 * x.item(), 2 + 4 * x.item() ** 2, 12 * x.item() + 8 * x.item() ** 3]
    for factor in want:
        y = grad(y.sum(), x, create_graph=True)
        same(y, factor * math.exp(0.49))


def test_a_gradient_penalty_reaches_the_weights():
    """d/dw of |d f(w x)/dx|^2 where f = tanh, against the formula."""
    w, x = leaf(0.8), leaf(0.3)
    (slope,) = grad(tanh(w * x), [x], create_graph=True)
    t = math.tanh(0.24)
    s = 1 - t * t
    same(grad((slope * slope).sum(), w), 2 * (0.8 * s) * (s - 0.8 * 2 * t * s * 0.3))


def test_hessian_is_symmetric_through_grad_output():
    rng = np.random.default_rng(0)
    x = Tensor(rng.standard_normal(4), requires_grad=True)
    g = grad((sigmoid(x @ Tensor(rng.standard_normal((4, 3)))) * tanh(x).sum()).sum(), x, create_graph=True)
    rows = [grad(g, x, Tensor(row)).numpy() for row in np.eye(4)]
    np.testing.assert_allclose(rows, np.transpose(rows), atol=1e-14)
    assert np.abs(rows).max() > 0.1


def test_backward_adds_up():
    x, w = leaf(1.0, 2.0), leaf(3.0, 4.0)
    y = (x * w).sum()
    y.backward()
    y.backward()
    (w * w).sum().backward()
    assert x.grad is not None and w.grad is not None
    same(x.grad, 6.0, 8.0)
    same(w.grad, 2 + 6, 4 + 8)
    assert x.grad.node is None
    y2 = x * w
    y2.backward(Tensor(np.array([1.0, -1.0])))
    same(x.grad, 9.0, 4.0)


def test_backward_adds_to_one_leaf_alone():
    a, b = leaf(1.0, 2.0), leaf(3.0, 4.0)
    cotangent = Tensor(np.ones(2))
    (a + b).backward(cotangent)  # one array is the gradient of both
    held = a.grad
    (a * 3.0).backward(cotangent)
    assert a.grad is not None and b.grad is not None and held is not None
    same(a.grad, 4.0, 4.0)
    for other in (b.grad, held, cotangent):
        same(other, 1.0, 1.0)


def test_several_y_are_their_sum_in_one_walk():
    x, w = leaf(1.0, 2.0), leaf(3.0, 4.0)
    y = x * w
    z = (y * y).sum()  # behind y, which is asked for as well
    weights = Tensor(np.array([10.0, 20.0]))
    dx, dw = grad([y, z, y], [x, w], [weights, None, weights])
    want_dx, want_dw = grad((y * weights).sum() * 2 + z, [x, w])
    same(dx, *want_dx.numpy())
    same(dw, *want_dw.numpy())
    same(weights, 10.0, 20.0)  # not added to in place
    same(grad([z, x], x, [None, weights]), *(2 * x * w * w + weights).numpy())  # a y that is what is asked for
    g = grad([y, z], x, [w, None], create_graph=True)  # w + ... : the cotangent has a gradient too
    same(grad(g.sum(), w), *(2 * w + 4 * x * w).numpy())


def test_what_several_y_refuse():
    x, constant = leaf(1.0, 2.0), Tensor(np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="2 y need as many grad_output, got 1; None stands for one of 1"):
        grad([x * 2, x * 3], x, constant)
    with pytest.raises(ValueError, match=r"y \(float64\[2\]\) is not one number"):
        grad([x.sum(), x * 3], x)
    with pytest.raises(ValueError, match="depends on nothing"):
        grad([x.sum(), constant.sum()], x)
    same(grad([x.sum(), constant.sum()], x, allow_unused=True), 1.0, 1.0)
    same(grad([constant.sum()], x, allow_unused=True), 0.0, 0.0)
    same(grad([], x, allow_unused=True), 0.0, 0.0)


def test_unused():
    x, other = leaf(1.0), Tensor(np.ones((2, 3), np.float32), requires_grad=True)
    with pytest.raises(
        ValueError, match=r"y does not depend on wrt\[1\] \(float32\[2, 3\]\); allow_unused=True gives zeros"
    ):
        grad(x * 2, [x, other])
    gx, zeros = grad(x * 2, [x, other], allow_unused=True)
    same(gx, 2.0)
    assert zeros.shape == (2, 3) and zeros.dtype == np.float32 and not zeros.numpy().any()
    assert grad(Tensor(1.0), x, allow_unused=True).item() == 0.0
    with pytest.raises(ValueError, match="depends on nothing that requires a gradient, or ran under no_grad"):
        grad(Tensor(1.0), x)
    with pytest.raises(ValueError, match="depends on nothing"):
        Tensor(1.0).backward()


def test_what_grad_refuses():
    x = leaf(1.0, 2.0)
    y = x * x
    with pytest.raises(
        ValueError, match=r"y \(float64\[2\]\) is not one number; take its sum or mean, or give grad_output"
    ):
        grad(y, x)
    with pytest.raises(ValueError, match="is not one number"):
        y.backward()
    for bad in (
        Tensor(np.ones(3)),
        Tensor(np.ones((2, 1))),
        Tensor(np.ones(2, np.float32)),
        Tensor(1.0, dtype=np.float64),
    ):
        with pytest.raises(ValueError, match=r"grad_output .* must have y's shape and dtype \(float64\[2\]\)"):
            grad(y, x, bad)
    with pytest.raises(
        ValueError, match=r"wrt\[1\] \(float32\[\]\) requires no gradient; make it with requires_grad=True"
    ):
        grad(y.sum(), [x, Tensor(3.0)])
    with pytest.raises(ValueError, match="requires no gradient"):
        grad(y.sum(), stop_gradient(x))


def test_stop_gradient():
    x = leaf(3.0)
    same(grad(x * stop_gradient(x * x), x), 9.0)
    assert stop_gradient(x).data is x.data


@settings(max_examples=10)
@given(rng=generators())
def test_gradients_without_a_tape_and_with_one_agree(rng):
    x = Tensor(rng.standard_normal((3, 1, 2)), requires_grad=True)
    w = Tensor(rng.standard_normal((4, 2)), requires_grad=True)
    y = (tanh(x * w + x) / (1 + w * w)).sum()
    for plain, recorded in zip(grad(y, [x, w]), grad(y, [x, w], create_graph=True), strict=True):
        np.testing.assert_allclose(plain.numpy(), recorded.numpy(), rtol=1e-12)


# ---- what is not done ------------------------------------------------------------------------------------------------


def _counted() -> tuple[Any, list[str]]:
    """A product that writes down which of its rules ran."""
    calls: list[str] = []

    @op
    def product(a, b):
        return a * b

    def rule_a(g, b):
        calls.append("a")
        return g * b

    def rule_b(g, a):
        calls.append("b")
        return g * a

    product.vjp(a=rule_a, b=rule_b)
    return product, calls


def test_rules_that_nobody_needs_do_not_run():
    product, calls = _counted()
    a, b, c = leaf(1.0), leaf(2.0), leaf(3.0)
    grad(product(a, b), b)
    assert calls == ["b"]
    calls.clear()
    product(a, np.array([2.0])).backward()
    product(2.0, b).backward()
    assert calls == ["a", "b"]
    calls.clear()
    grad(product(a, a) + c * product(b, b), c)  # neither product leads to c
    assert calls == []
    h = product(a, b)
    y = product(h, c)
    grad(y, h)  # what is behind h is not entered
    assert calls == ["a"]
    calls.clear()
    grad(y, [a, c])
    assert sorted(calls) == ["a", "a", "b"]


def test_a_constant_input_is_not_recorded():
    product, calls = _counted()
    x = product(Tensor(2.0), 3.0)
    assert x.node is None and not x.requires_grad
    product(leaf(1.0), stop_gradient(leaf(2.0))).backward()
    assert calls == ["a"]


# ---- memory ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def counting_references():
    """No garbage collector: what is freed here is freed by its last reference."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def _alive(*refs: weakref.ref) -> list[bool]:
    return [ref() is not None for ref in refs]


@pytest.mark.usefixtures("counting_references")
def test_only_what_a_rule_names_is_kept():
    def arrays(f, *recorded: bool) -> list[bool]:
        """Which inputs, and the output, live on in the node of f's result."""
        xs = [Tensor(np.full(4, 2.0), requires_grad=r) for r in recorded]
        y = f(*xs)
        refs = [weakref.ref(x.data) for x in (*xs, y)]
        y.data = np.zeros(4)  # the tape must not need the tensor
        del xs
        assert y.requires_grad
        return _alive(*refs)

    assert arrays(lambda a, b: a + b, True, True) == [False, False, False]
    assert arrays(lambda a, b: a - b, True, False) == [False, False, False]
    assert arrays(lambda a, b: a * b, True, True) == [True, True, False]
    assert arrays(lambda a, b: a * b, True, False) == [False, True, False]
    assert arrays(lambda a, b: a * b, False, True) == [True, False, False]
    assert arrays(lambda a: a * 3.0, True) == [False, False]
    assert arrays(exp, True) == [False, True]
    assert arrays(log, True) == [True, False]
    assert arrays(lambda a: a.sum(), True) == [False, False]
    assert arrays(lambda a, b, c: where(a > 3.0, b, c), False, True, True) == [False, False, False, False]


@pytest.mark.usefixtures("counting_references")
def test_nothing_is_in_a_cycle():
    def build(kind: str) -> list[weakref.ref]:
        x = Tensor(np.ones(3), requires_grad=True)
        h = exp(x)
        y = (checkpoint(lambda h: tanh(h * x), h) if kind == "checkpoint" else tanh(h * x)).sum()
        refs = [weakref.ref(t) for t in (x, h, y)] + [weakref.ref(t.data) for t in (x, h, y)]
        if kind == "backward":
            y.backward()
            refs.append(weakref.ref(x.grad))
        else:
            g = grad(y, x, create_graph=True)
            gg = grad(g.sum(), x)
            refs += [weakref.ref(g), weakref.ref(g.data), weakref.ref(gg)]
        return refs

    for kind in ("grad", "backward", "checkpoint"):
        assert not any(_alive(*build(kind))), kind


@pytest.mark.usefixtures("counting_references")
def test_an_array_is_freed_while_the_graph_lives():
    x = Tensor(np.ones(3), requires_grad=True)
    h = x + 1.0
    ref = weakref.ref(h.data)
    y = h + x
    del h
    assert not any(_alive(ref))
    same(grad(y.sum(), x), 2.0, 2.0, 2.0)


def test_twenty_thousand_operations():
    x = leaf(1.0)
    y = x
    for _ in range(20_000):
        y = y * 1.0001
    same(grad(y, x), 1.0001**20_000)
    g = grad(y, x, create_graph=True)  # and a chain of gradients
    assert g.requires_grad is False  # linear: its gradient is a constant
    z = x
    for _ in range(5_000):
        z = z + z * z * 1e-4
    slope = grad(z, x, create_graph=True)
    assert grad(slope, x).item() > 0
    del y, z, g, slope  # freeing it does not recurse either


# ---- what the thread does --------------------------------------------------------------------------------------------


def test_no_grad_nests_decorates_and_ends():
    x = leaf(1.0)
    with no_grad():
        assert (x * 2).node is None
        with no_grad():
            assert (x * 2).node is None
        assert (x * 2).node is None
        assert Tensor(1.0, requires_grad=True).requires_grad  # leaves are still made
    assert (x * 2).requires_grad

    @no_grad()
    def silent(x: Tensor) -> Tensor:
        return x * 2

    assert silent(x).node is None and silent(x).node is None and (x * 2).requires_grad
    with pytest.raises(KeyError), no_grad(), debug():
        raise KeyError
    assert (x * 2).requires_grad and not state.debug


def test_errors_in_a_backward_pass_leave_recording_on():
    @op
    def broken(x):
        return x * 1.0

    def rule(g):
        raise ZeroDivisionError

    broken.vjp(x=rule)
    x = leaf(1.0)
    with pytest.raises(ZeroDivisionError):
        broken(x).backward()
    assert (x * 2).requires_grad and x.grad is None


def test_no_grad_is_of_one_thread():
    inside, done = threading.Event(), threading.Event()
    seen: list[bool] = []

    def silent() -> None:
        with no_grad(), debug():
            inside.set()
            done.wait(10)
            seen.append((leaf(1.0) * 2).requires_grad)

    thread = threading.Thread(target=silent)
    thread.start()
    assert inside.wait(10)
    assert (leaf(1.0) * 2).requires_grad and not state.debug
    with no_grad():
        other = threading.Thread(target=lambda: seen.append((leaf(1.0) * 2).requires_grad))
        other.start()
        other.join(10)
    done.set()
    thread.join(10)
    assert seen == [True, False]


def test_threads_differentiate_at_once():
    results: dict[int, float] = {}

    def work(k: int) -> None:
        x = leaf(float(k))
        y = x
        for _ in range(200):
            y = y + x * 0.5
        results[k] = grad(y * y, x).item()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == {k: pytest.approx(2 * 101**2 * k) for k in range(8)}


# ---- debug -----------------------------------------------------------------------------------------------------------


def _line(offset: int) -> str:
    frame = inspect.currentframe()
    assert frame is not None and frame.f_back is not None
    return f"{__file__}:{frame.f_back.f_lineno + offset}"


def test_debug_names_the_first_bad_value_forward():
    x = leaf(1.0, -1.0)
    with np.errstate(all="ignore"):
        with debug(), pytest.raises(FloatingPointError) as error:
            where = _line(1)
            log(x * 2.0)
        assert str(error.value) == f"log(x: float64[2]) gives NaN from finite inputs, at {where}"
        with debug(), pytest.raises(FloatingPointError) as error:
            where = _line(1)
            exp(x * 1000.0).sum()
        assert str(error.value) == f"exp(x: float64[2]) gives infinity from finite inputs, at {where}"
        with debug():
            tanh(Tensor([math.inf, math.nan])) * 2.0  # not the first: the inputs were bad
            assert not np.isfinite(log(Tensor([-1.0, math.inf])).numpy()[0])
        log(x)  # and nothing outside


def test_debug_names_the_first_bad_gradient_and_the_line_of_its_forward():
    x = leaf(0.0, 1.0)
    with debug():
        where = _line(1)
        y = sqrt(x)
        z = (y * 3.0).sum()
        with pytest.raises(FloatingPointError) as error:
            z.backward()
    assert str(error.value) == (
        f"sqrt: the rule for 'x' gives a gradient that is not finite [2]; the operation ran at {where}"
    )
    assert x.grad is None
    z = sqrt(x).sum()
    with (
        debug(),
        pytest.raises(FloatingPointError, match=r"sqrt: the rule for 'x' .* a line that ran outside debug\(\)"),
    ):
        grad(z, x)
    assert math.isinf(grad(z, x).numpy()[0])


def test_debug_names_the_users_line_through_operators_and_methods():
    x = leaf(1e200)
    for act in (lambda: x * 1e200, lambda: 1e200 * x, lambda: x**2, lambda: x / 1e-200):
        where = f"{__file__}:{act.__code__.co_firstlineno}"
        with np.errstate(all="ignore"), debug(), pytest.raises(FloatingPointError, match=f"at {where}"):
            act()


# ---- checkpoint ------------------------------------------------------------------------------------------------------


def _block(x: Tensor, w: Tensor) -> Tensor:
    return tanh(x * w + 0.5) * x


def _nested(x: Tensor, w: Tensor) -> Tensor:
    return checkpoint(_block, checkpoint(_block, x, w) * 2.0, w) + w


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("kind", ["inputs", "closure", "intermediate", "nested", "partly used"])
def test_checkpoint_gives_the_same_gradients(kind, create_graph, rng):
    x, w = (Tensor(rng.standard_normal(s), requires_grad=True) for s in ((2, 3), (3,)))
    weights = Tensor(rng.standard_normal((2, 3)))

    def run(f: Any) -> Tensor:
        h = exp(w * 0.3)  # an intermediate tensor, made before
        if kind == "inputs":
            return f(_block, x, w) * x
        if kind == "closure":
            return f(lambda x: _block(x, w), x)
        if kind == "intermediate":
            return f(lambda x: _block(x, h) + h * w, x * 1.5) + h
        if kind == "nested":
            return f(_nested, x, h)
        return f(lambda a, b: a * 2.0, x, w) * w

    def plain(f: Any, *xs: Any) -> Tensor:
        return f(*xs)

    for got, want in zip(
        *(grad(run(f), [x, w], weights, create_graph=create_graph) for f in (checkpoint, plain)), strict=True
    ):
        np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-14)
        assert got.requires_grad == create_graph or kind == "partly used"
    if create_graph and kind != "partly used":
        second = []
        for f in (checkpoint, plain):
            gx, gw = grad(run(f), [x, w], weights, create_graph=True)
            second.append(grad((gx * gx).sum() + (gw * tanh(gw)).sum(), [x, w]))
        for got, want in zip(*second, strict=True):
            np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-12)


def test_checkpoint_by_finite_differences(rng):
    check(lambda x, w: checkpoint(_nested, x, w), (2, 3), (3,), rng=rng)


def test_checkpoint_backward_fills_every_leaf(rng):
    x, w, b = leaf(0.5), leaf(2.0), leaf(-1.0)
    checkpoint(lambda x: x * w + b, x).backward()
    assert x.grad is not None and w.grad is not None and b.grad is not None
    assert (x.grad.item(), w.grad.item(), b.grad.item()) == (2.0, 0.5, 1.0)


def test_checkpoint_with_a_generator_drops_the_same_units():
    rng = np.random.default_rng(3)
    x = Tensor(np.ones(1000), requires_grad=True)

    def dropout(x: Tensor, rng: np.random.Generator) -> Tensor:
        return x * Tensor((rng.random(x.shape) < 0.5) * 2.0)

    y = checkpoint(dropout, x, rng)
    assert 800 < y.numpy().sum() < 1200
    after = rng.bit_generator.state
    np.testing.assert_array_equal(grad(y, x, Tensor(np.ones(1000))).numpy(), y.numpy())
    np.testing.assert_array_equal(grad(y, x, Tensor(np.ones(1000))).numpy(), y.numpy())
    assert rng.bit_generator.state == after  # the backward pass draws from a copy
    once = np.random.default_rng(3)
    once.random(1000)
    assert once.bit_generator.state == after


def test_checkpoint_passes_other_arguments_as_they_are():
    x, y = leaf(1.0, 2.0), leaf(3.0, 4.0)
    g = grad(checkpoint(lambda x, shape, scale: x.reshape(shape=shape) * scale, x, (2, 1), 3.0).sum(), x)
    same(g, 3.0, 3.0)
    g = grad(checkpoint(lambda pair, table: pair[0] * table["y"], [x, 1], {"y": y}).sum(), y)
    same(g, 1.0, 2.0)


@pytest.mark.usefixtures("counting_references")
def test_checkpoint_frees_what_is_inside():
    inside: list[weakref.ref] = []
    most = [0]

    def block(x: Tensor) -> Tensor:
        for _ in range(5):
            x = tanh(x)
            inside.append(weakref.ref(x.data))
        most[0] = max(most[0], sum(_alive(*inside)))
        return x

    def run(f: Any) -> Tensor:
        inside.clear()
        most[0] = 0
        y = Tensor(np.ones(3), requires_grad=True)
        for _ in range(6):
            y = f(block, y)
        return y.sum()

    y = run(lambda f, x: f(x))
    assert sum(_alive(*inside)) == 30
    y = run(checkpoint)
    assert sum(_alive(*inside)) == 5  # the inputs of the later blocks, which are outputs of the earlier ones
    y.backward()
    assert most[0] <= 6 + 5  # inputs kept, and one block at a time
    del y
    assert not any(_alive(*inside))


def test_checkpoint_where_nothing_is_recorded():
    x = leaf(1.0)
    with no_grad():
        assert checkpoint(exp, x).node is None
    assert checkpoint(exp, Tensor(1.0)).node is None
    assert checkpoint(lambda x: x, x) is x


def test_what_checkpoint_refuses():
    x = leaf(1.0, 2.0)
    with pytest.raises(TypeError, match="f must return one Tensor, got tuple"):
        checkpoint(lambda x: (x, x), x)  # type: ignore[arg-type, return-value]
    sizes = iter([2, 1])
    y = checkpoint(lambda x: (x * 2.0)[: next(sizes)], x)
    with pytest.raises(ValueError, match=r"f gave \[2\] and, run again, \[1\]"):
        grad(y, x, Tensor(np.ones(2)))
