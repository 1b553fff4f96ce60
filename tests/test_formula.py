"""Formulas against the same written in operations: values, gradients of two orders, every pattern of broadcasting."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from contextlib import contextmanager

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from micrognm.kernels.formula import cpu, derive, program, symbols

from micrognm import Tensor, backend, check, formula, grad, ops, stop_gradient
from tests.strategies import broadcastable, generators, laid_out, shapes

f = formula
IMPLEMENTATIONS = ("reference", "cpu")


@contextmanager
def kernels(name):
    before = backend._kernels
    backend.use_kernels(name)
    try:
        yield
    finally:
        backend.use_kernels(before)


# ---- the same function as a formula and in operations ----------------------------------------------------------------


@f.formula
def gated(a, b):
    """tanh(a) sigmoid(b); shapes broadcast."""
    return f.tanh(a) * f.sigmoid(b)


@f.formula
def choices(a, b, *, slope=0.2):
    """Comparisons, conditions and their ends."""
    inside = (a > -1) & (a <= 1) | ~(b < a)
    return (
        f.where(inside, slope * a, b)
        + f.maximum(a, 0.5 * b)
        - f.minimum(b, 0.3) * f.clip(a, -0.5, 0.5)
        + f.abs(a - b) * (a == b)
        + f.sign(b) * a
        + 2 * f.floor(a)
    )


@f.formula
def functions(a, b):
    """Every function of one number, on a and b above 0."""
    u = f.exp(-a) + f.expm1(-b) * f.log(a) - f.log1p(b) / f.sqrt(a)
    return u + f.softplus(a - b) * f.log_sigmoid(b) + f.erf(a - 1) + f.tanh(b) * f.sigmoid(-a)


@f.formula
def powers(a, b):
    """Powers of a and b above 0."""
    return a**3 - b**-2 + a**0.5 * b**2.5 + 2**a + a**b - (-b) ** 4 / (1 + a**-0.5)


@f.formula
def masked(a, b):
    """b is a mask of booleans, or numbers."""
    return f.where(b, a * a, -a) + a * b


def choices_in_ops(a, b, slope=0.2):
    inside = Tensor((a.data > -1) & (a.data <= 1) | ~(b.data < a.data))
    return (
        ops.where(inside, slope * a, b)
        + ops.maximum(a, 0.5 * b)
        - ops.minimum(b, 0.3) * ops.clip(a, -0.5, 0.5)
        + ops.abs(a - b) * ops.cast(a == b, a.dtype)
        + ops.sign(b) * a
        + 2 * ops.floor(a)
    )


def functions_in_ops(a, b):
    u = ops.exp(-a) + ops.expm1(-b) * ops.log(a) - ops.log1p(b) / ops.sqrt(a)
    log_sigmoid = -ops.log1p(ops.exp(-b))
    return u + ops.log1p(ops.exp(a - b)) * log_sigmoid + ops.erf(a - 1) + ops.tanh(b) / (1 + ops.exp(a))


def powers_in_ops(a, b):
    return a**3 - b**-2 + a**0.5 * b**2.5 + 2**a + a**b - (-b) ** 4 / (1 + a**-0.5)


TWINS = {
    "gated": (gated, lambda a, b: ops.tanh(a) / (1 + ops.exp(-b)), False),
    "choices": (choices, choices_in_ops, False),
    "functions": (functions, functions_in_ops, True),
    "powers": (powers, powers_in_ops, True),
}


def draw(rng, shape, positive):
    return rng.uniform(0.3, 2, shape) if positive else rng.standard_normal(shape)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", TWINS)
@settings(max_examples=12)
@given(both=broadcastable(2), rng=generators(), data=st.data())
def test_values_and_gradients_are_those_of_the_operations(name, implementation, both, rng, data):
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    needs = data.draw(st.sampled_from([(True, True), (True, False), (False, True)]))
    agrees(name, implementation, dtype, both, rng, needs, lambda x: laid_out(data.draw, x))


def agrees(name, implementation, dtype, both, rng, needs, layout):
    """Value and gradients of a formula and of its twin, within a bound that grows with the sums in them."""
    fused, twin, positive = TWINS[name]
    xs = [draw(rng, shape, positive).astype(dtype) for shape in both]
    want_leaves = [Tensor(x.astype(np.float64), requires_grad=need) for x, need in zip(xs, needs, strict=True)]
    want = twin(*want_leaves)
    g = rng.standard_normal(want.shape).astype(dtype)
    want_grads = grad(want, [x for x in want_leaves if x.requires_grad], Tensor(g.astype(np.float64)))
    leaves = [Tensor(layout(x), requires_grad=need) for x, need in zip(xs, needs, strict=True)]
    with kernels(implementation):
        got = fused(*leaves)
        grads = grad(got, [x for x in leaves if x.requires_grad], Tensor(layout(g)))
    tol = 300 * np.finfo(dtype).eps
    for y, w in zip([got, *grads], [want, *want_grads], strict=True):
        assert y.dtype == dtype and y.shape == w.shape
        scale = max(1.0, np.abs(w.numpy()).max(initial=0)) * max(1, want.size // max(1, w.size))
        np.testing.assert_allclose(y.numpy(), w.numpy(), rtol=tol, atol=tol * scale)


PATTERNS = {
    "full": ((4, 5), (4, 5)),
    "vector": ((4, 5), (5,)),
    "rows": ((4, 5), (4, 1)),
    "number": ((4, 5), ()),
    "samples": ((3, 2, 2, 4), (3, 1, 1, 1)),
    "samples and channels": ((3, 2, 2, 4), (3, 1, 1, 4)),
    "crossed": ((4, 1), (1, 5)),
    "four groups": ((2, 3, 2, 3), (2, 1, 2, 1)),
    "other four groups": ((2, 1, 2, 1), (1, 3, 1, 3)),
}


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ (apt-get install g++)")
@pytest.mark.parametrize(
    ("name", "pattern"),
    [("gated", "samples and channels"), ("choices", "full"), ("functions", "vector"), ("powers", "rows")],
)
def test_cuda_agrees_too(name, pattern, rng):
    agrees(name, "gpu", np.float32, PATTERNS[pattern], rng, (True, True), lambda x: x)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_gradients_to_order_two(pattern, implementation, rng):
    with kernels(implementation):
        check(gated, *(rng.standard_normal(shape) for shape in PATTERNS[pattern]), rng=rng)


@pytest.mark.parametrize("name", ["functions", "powers"])
def test_gradients_of_every_function_to_order_two(name, rng):
    check(TWINS[name][0], rng.uniform(0.4, 2, (2, 3)), rng.uniform(0.4, 2, 3), rng=rng)


@pytest.mark.parametrize("wide", [1000, 300_000])
@pytest.mark.parametrize("name", ["full", "vector", "rows", "number"])
def test_large_arrays_run_in_parts(name, wide, rng):
    shape = (37, wide // 30)
    other = {"full": shape, "vector": shape[1:], "rows": (37, 1), "number": ()}[name]
    a, b = rng.standard_normal(shape).astype(np.float32), rng.standard_normal(other).astype(np.float32)
    results = []
    for threads in (1, 2):
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
        leaves = [Tensor(a, requires_grad=True), Tensor(b, requires_grad=True)]
        y = gated(*leaves)
        results.append([y, *grad(y, leaves, Tensor(np.ones_like(y.data)))])
    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one.numpy(), two.numpy())  # the same bits
    t, s = np.tanh(a.astype(np.float64)), 1 / (1 + np.exp(-b.astype(np.float64)))
    np.testing.assert_allclose(results[0][0].numpy(), t * s, rtol=1e-6)
    by_b = t * (s * (1 - s))
    axes = tuple(k for k in range(2) if k < 2 - b.ndim or b.shape[k - 2 + b.ndim] == 1)
    want = by_b.sum(axis=axes, keepdims=True).reshape(b.shape)
    np.testing.assert_allclose(results[0][2].numpy(), want, rtol=1e-5, atol=1e-6 * math.sqrt(a.size))


# ---- sums ------------------------------------------------------------------------------------------------------------


@f.formula
def kl(mean, log_scale):
    """Summed over the last axis."""
    return f.sum(0.5 * (mean * mean + f.exp(2 * log_scale) - 1) - log_scale, axes=1)


@f.formula
def half_square(a, b):
    """Mean over all axes."""
    return -0.5 * -f.mean((a - b) ** 2)


@f.formula
def twice(x):
    """Over the last two axes."""
    return f.sum(x * f.tanh(x), axes=2)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@settings(max_examples=15)
@given(both=broadcastable(2), rng=generators())
def test_sums_at_the_end(implementation, both, rng):
    sums_agree(implementation, both, rng, np.float64)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ (apt-get install g++)")
def test_sums_by_cuda(rng):
    sums_agree("gpu", ((37, 300), (300,)), rng, np.float32)
    with kernels("gpu"):
        x = Tensor(rng.standard_normal((37, 300)).astype(np.float32), requires_grad=True)
        slope = grad(half_square(x, x.numpy()[:, :1]), x).numpy()
    np.testing.assert_allclose(slope, (x.numpy() - x.numpy()[:, :1]) / x.size, rtol=1e-5, atol=1e-9)


def sums_agree(implementation, both, rng, dtype):
    full = np.broadcast_shapes(*both)
    a, b = (rng.standard_normal(shape).astype(dtype) for shape in both)
    tol = 100 * np.finfo(dtype).eps
    with kernels(implementation):
        if full:
            got, want = kl(a, b).numpy(), (0.5 * (a * a + np.exp(2 * b) - 1) - b).sum(axis=-1)
            assert got.shape == full[:-1] and got.dtype == dtype
            np.testing.assert_allclose(got, want, rtol=tol, atol=tol)
        if 0 not in full:
            got = half_square(a, b)
            assert got.shape == ()
            np.testing.assert_allclose(got.numpy(), 0.5 * np.mean((a - b) ** 2), rtol=tol)
        x = rng.standard_normal((3, 2, 4)).astype(dtype)
        np.testing.assert_allclose(twice(x).numpy(), (x * np.tanh(x)).sum(axis=(1, 2)), rtol=tol)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("pattern", ["full", "vector", "rows", "number", "samples", "crossed"])
@pytest.mark.parametrize("fused", [kl, half_square])
def test_gradients_of_sums_to_order_two(fused, pattern, implementation, rng):
    with kernels(implementation):
        check(fused, *(rng.standard_normal(shape) for shape in PATTERNS[pattern]), rng=rng)
        if pattern == "samples":
            check(twice, rng.standard_normal((2, 3, 2)), rng=rng)


def test_large_sums_do_not_depend_on_threads(rng):
    a = rng.standard_normal((3, 200_000)).astype(np.float32)
    results = []
    for threads in (1, 2):
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
        results.append((kl(a, 0.1 * a).numpy(), half_square(a, 1.0).numpy()))
    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    exact = a.astype(np.float64)
    want = (0.5 * (exact**2 + np.exp(0.2 * exact) - 1) - 0.1 * exact).sum(axis=1)
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])
    np.testing.assert_allclose(results[0][0], want, rtol=1e-5)
    np.testing.assert_allclose(results[0][1], 0.5 * np.mean((exact - 1) ** 2), rtol=1e-6)


CUTS = {
    "halves": lambda x: (x[..., :32], x[..., 32:]),
    "unequal halves": lambda x: (x[..., :32], x[..., 20:52]),
    "of groups": lambda x: (
        x.reshape(*x.shape[:-1], 2, 2, 16)[..., 0, :],
        x.reshape(*x.shape[:-1], 2, 2, 16)[..., 1, :],
    ),
    "one half": lambda x: (x[..., :32], x[..., 32:].copy()),
    "rows from the last": lambda x: (x[:, ::-1, :32], x[:, ::-1, 32:]),
    "all from the last": lambda x: (x[::-1, ::-1, :32], x[::-1, ::-1, 32:]),
    "every second row": lambda x: (x[::2], x[1::2]),
    "one row again and again": lambda x: (np.broadcast_to(x[:1, :1], x.shape), x + 0),
    "short rows": lambda x: (x[..., :3], x[..., 3:6]),
    "every second column": lambda x: (x[..., ::2], x[..., 1::2]),
    "other lengths": lambda x: (x[..., :32], np.moveaxis(x[..., 32:].reshape(32, *x.shape[:-1]).copy(), 0, -1)),
    "a vector": lambda x: (x[..., :32], x[0, 0, :32]),
    "a number": lambda x: (x[..., :32], 0.5),
    "a mask": lambda x: (x[..., :32], (x > 0)[..., 32:]),
}


@pytest.mark.parametrize(
    ("fused", "cut"), [(masked, "a mask"), *((x, cut) for x in (gated, half_square) for cut in CUTS if cut != "a mask")]
)
def test_large_inputs_cut_from_wider_arrays(fused, cut, rng):
    a, b = CUTS[cut](rng.standard_normal((64, 1200, 64)))
    assert a.size > cpu.SERIAL_BELOW and not (
        isinstance(b, np.ndarray) and a.flags.c_contiguous and b.flags.c_contiguous
    )
    whole = np.ascontiguousarray(a), np.ascontiguousarray(b) if isinstance(b, np.ndarray) else b
    leaves = [[Tensor(a, requires_grad=True), b], [Tensor(whole[0], requires_grad=True), whole[1]]]
    made = [fused(*given) for given in leaves]
    g = np.float64(0.7) if made[0].shape == () else rng.standard_normal((*a.shape[:-1], 2 * a.shape[-1]))[..., 1::2]
    y, want = (each.numpy() for each in made)
    dy, dwant = (grad(each, given[0], Tensor(np.array(g))).numpy() for each, given in zip(made, leaves, strict=True))
    np.testing.assert_allclose(y, want, rtol=1e-12)
    np.testing.assert_allclose(dy, dwant, rtol=1e-12)


# ---- what a formula takes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_masks_numbers_and_nothing(implementation, rng):
    x, mask = rng.standard_normal((3, 4)).astype(np.float32), rng.random((3, 4)) < 0.5
    with kernels(implementation):
        leaf = Tensor(x, requires_grad=True)
        for b in (mask, mask[0], mask.astype(np.float32), True):
            y = masked(leaf, b)
            np.testing.assert_allclose(y.numpy(), np.where(b, x * x, -x) + x * b, rtol=1e-6)
            slope = grad(y.sum(), leaf).numpy()
            np.testing.assert_allclose(slope, np.where(b, 2 * x, -1) + b, rtol=1e-6)
        assert gated(1.0, 2.0).dtype == np.float32 and gated(1.0, 2.0).shape == ()
        np.testing.assert_allclose(gated(1.0, 2.0).item(), math.tanh(1) / (1 + math.exp(-2)), rtol=1e-6)
        np.testing.assert_allclose(gated(x, -0.5).numpy(), np.tanh(x) / (1 + math.exp(0.5)), rtol=1e-6)
        assert gated(x, np.float64(-0.5)).dtype == np.float32
        assert gated(x[:0], x[:0]).shape == (0, 4) and kl(x[:, :0], x[:, :0]).numpy().tolist() == [0, 0, 0]
        empty = Tensor(x[:0], requires_grad=True)
        vector = Tensor(x[0], requires_grad=True)
        assert grad(gated(empty, vector).sum(), vector).numpy().tolist() == [0, 0, 0, 0]


def test_options_are_numbers_of_each_call(rng):
    a, b = rng.standard_normal((2, 5))
    for slope in (0.2, -3, np.float32(0.5)):
        want = choices_in_ops(Tensor(a), Tensor(b), float(slope)).numpy()
        np.testing.assert_allclose(choices(a, b, slope=slope).numpy(), want, rtol=1e-12)
        np.testing.assert_allclose(choices(a, b, slope).numpy(), want, rtol=1e-12)  # by place too
    np.testing.assert_allclose(choices(a, b).numpy(), choices_in_ops(Tensor(a), Tensor(b)).numpy(), rtol=1e-12)


@f.formula
def safe_log(x):
    """log x where x is above 0, else 0."""
    return f.where(x > 0, f.log(x), 0)


@f.formula
def logarithm(x):
    """log x"""
    return f.log(x)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_branch_not_taken_has_no_gradient(implementation):
    with kernels(implementation):
        x = Tensor(np.array([0, -1, 2], np.float32), requires_grad=True)
        assert grad(safe_log(x).sum(), x).numpy().tolist() == [0, 0, 0.5]
        y = ops.where(x > 0, logarithm(x), 0.0)  # a cotangent of 0 meets an infinite slope
        assert grad(y.sum(), x).numpy().tolist() == [0, 0, 0.5]
        both = choices(np.array([math.nan, 1], np.float32), np.array([1, math.nan], np.float32)).numpy()
        assert np.isnan(both).all()


@f.formula
def larger(a, b):
    """The larger."""
    return f.maximum(a, b)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_larger_of_nan_and_a_number_is_nan(implementation):
    with kernels(implementation):
        got = larger(np.array([math.nan, 1, 2]), np.array([1, math.nan, 3])).numpy()
    np.testing.assert_array_equal(got, [math.nan, math.nan, 3])


def test_a_formula_inside_a_larger_graph(rng):
    w = rng.standard_normal((5, 4))
    check(lambda x, w: gated(x @ w, x @ w + 1.0) * x.sum(), rng.standard_normal((3, 5)), w, rng=rng)
    x = Tensor(rng.standard_normal(3), requires_grad=True)
    y = gated(x, stop_gradient(x))
    slope = 1 - np.tanh(x.numpy()) ** 2
    np.testing.assert_allclose(grad(y.sum(), x).numpy(), slope / (1 + np.exp(-x.numpy())), rtol=1e-12)


# ---- what is computed ------------------------------------------------------------------------------------------------


def test_gradients_are_what_one_would_write_by_hand():
    gradients = ops.swish.source("numpy").split("def swish_gradients")[1]
    assert "t0 = sigmoid(x)\n    return g * (t0 * (1 + x * (1 - t0)))," in gradients
    assert "return g * (1 - y * y)," in ops.tanh.source("numpy")
    assert "return g * (y * (1 - y))," in ops.sigmoid.source("numpy")
    assert "return g * sigmoid(x)," in ops.softplus.source("numpy")
    both = gated.source("numpy").split("def gated_gradients")[1]
    assert both.count("np.tanh(") == both.count("sigmoid(") == 1  # shared by the two gradients
    assert "g * np.where(0 < x, 1, slope)" in ops.leaky_relu.source("numpy")


def test_the_tape_keeps_what_gradients_read(rng):
    x = Tensor(rng.standard_normal(3), requires_grad=True)
    y = ops.tanh(x)
    saved = [a for a in y.node.saved if a is not None]
    assert len(saved) == 1 and saved[0] is y.data


def test_equal_subexpressions_are_one_node():
    a, b = symbols.variable("a"), symbols.variable("b")
    assert f.exp(a + b) * 2 is 2 * f.exp(a + b)
    assert a * b is b * a and symbols.neg(-a) is a and a - -b is a + b and 2 * (3 * a) is 6 * a
    assert a * 1 is a and a + 0 is a
    assert (1 + a) - 1 is not a  # sums are not reordered
    assert symbols.value(a * 0) == 0 and (a / 1) is a and a**1 is a and a**2 is a * a
    assert symbols.value(derive.derivative(f.floor(a) + f.sign(b), a)) == 0


@pytest.mark.parametrize("language", ["numba", "numpy", "cuda"])
def test_the_source_can_be_read(language):
    text = gated.source(language)
    assert "tanh" in text and "sigmoid" in text and "gated_gradients" in text
    if language == "numba":
        compile(text, "source", "exec")
    with pytest.raises(ValueError, match="language 'rust' is unknown; known ones: numba, numpy, cuda"):
        gated.source("rust")


def test_layouts():
    def at(full, inputs, outputs):
        return program.layout(full, inputs, outputs)

    assert at((3, 4), [(3, 4), (3, 4)], [(3, 4)]) == (1, 1, 12, ("001", "001"), ("001",))
    assert at((2, 3, 4), [(2, 3, 4), (4,), None, ()], [(2, 3, 4)]) == (1, 6, 4, ("011", "001", "n", "000"), ("011",))
    assert at((2, 3, 4), [(2, 3, 4), (2, 1, 1)], [(2, 3, 1)]) == (2, 3, 4, ("111", "100"), ("110",))
    assert at((2, 3, 4), [(2, 3, 4), (2, 1, 4)], [(2, 1, 4)]) == (2, 3, 4, ("111", "101"), (None,))
    assert at((2, 3), [(2, 3), (3,)], [(2, 3), (3,)]) == (1, 2, 3, ("011", "001"), ("011", "001"))
    assert at((), [(), None], [()]) == (1, 1, 1, ("000", "n"), ("000",))


@f.formula
def five(a, b, c, d, e):
    """Many arrays."""
    return (a * b + c * d) * e + a * c * e * f.exp(-d * d)


def test_many_arrays_are_vectorised(rng, tmp_path, monkeypatch):
    monkeypatch.setenv("MICROGNM_FORMULAS", str(tmp_path))  # compiled here: what comes from the cache has no assembly
    leaves = [Tensor(rng.standard_normal(64).astype(np.float32), requires_grad=True) for _ in range(5)]
    grad(five(*leaves), leaves, Tensor(np.ones(64, np.float32)))
    modules = [m for name, m in sys.modules.items() if "micrognm_formula_five_gradients" in name]
    assembly = "".join("".join(module.part.inspect_asm().values()) for module in modules)
    stores = [line for line in assembly.splitlines() if "movups" in line and ("ymm" in line or "zmm" in line)]
    if any(register in assembly for register in ("ymm", "zmm")):  # x86 with AVX
        assert len(stores) >= 10


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_bad_calls_name_the_formula_the_argument_and_the_rule(rng):
    x = rng.random((2, 3)).astype(np.float32)
    with pytest.raises(
        ValueError,
        match=r"gated\(a: float32\[2, 3\], b: float32\[2\]\): shapes do not broadcast \(a \[2, 3\], b \[2\]\).*"
        r"The rule: tanh\(a\) sigmoid\(b\); shapes broadcast",
    ):
        gated(x, x[:, 0])
    with pytest.raises(TypeError, match=r"gated\(.*argument 'b' holds int64; a formula takes .*b\.cast\(dtype="):
        gated(x, np.arange(3))
    with pytest.raises(TypeError, match="mixed dtypes"):
        gated(x, x.astype(np.float64))
    with pytest.raises(TypeError, match="gated: argument 'b' is str"):
        gated(x, "x")
    with pytest.raises(ValueError, match=r"twice\(x: float32\[3\]\): a sum over the last 2 axes of \[3\]"):
        twice(x[0])
    with pytest.raises(ValueError, match="the mean of no elements"):
        half_square(x[:0], x[:0])


def test_bad_declarations_say_what_is_wrong():
    with pytest.raises(TypeError, match=r"instead of if, and, or, not or min on values write where\(condition, a, b\)"):
        f.formula(lambda x: x if x > 0 else -x)
    with pytest.raises(TypeError, match="made of its arguments and of numbers, got str"):
        f.formula(lambda x: x + "1")
    with pytest.raises(TypeError, match="made of its arguments and of numbers, got ndarray"):
        f.formula(lambda x: x + np.ones(3))
    with pytest.raises(TypeError, match=r"formula <lambda> returns tuple; it must return one expression"):
        f.formula(lambda x: (x, x))
    with pytest.raises(TypeError, match=r"no value: use the functions of micrognm\.formula, not math's"):
        f.formula(lambda x: math.exp(x))
    with pytest.raises(TypeError, match="cannot be indexed or iterated"):
        f.formula(lambda x: x[0])
    with pytest.raises(AttributeError, match=r"no 'sum'.*only at its end, by sum"):
        f.formula(lambda x: x.sum())
    with pytest.raises(TypeError, match="a sum over axes is where a formula ends"):
        f.formula(lambda x: f.sum(x) + 1)
    with pytest.raises(TypeError, match="only a number may multiply a sum"):
        f.formula(lambda x: f.sum(x) * x)
    with pytest.raises(ValueError, match="how many trailing axes are summed, 1 or more, or None; got 0"):
        f.formula(lambda x: f.sum(x, axes=0))
    with pytest.raises(TypeError, match=r"formula <lambda>: .*write it with def"):
        f.formula(lambda x: x)
    for wrong in (lambda: 1.0, lambda *xs: xs[0], lambda x=1.0: x, lambda x, **more: x):
        with pytest.raises(TypeError, match="parameters are inputs"):
            f.formula(wrong)


def unseen():
    """A formula that no other test has compiled."""

    def unseen(a, b):
        return a * 1.2345 - f.tanh(b)

    return f.formula(unseen)


def test_generated_code_goes_where_the_environment_says(tmp_path, monkeypatch, rng):
    monkeypatch.setenv(cpu.FOLDER, str(tmp_path / "deep" / "er"))
    x = rng.standard_normal(3)
    unseen()(x, x)
    (path,) = (tmp_path / "deep" / "er").glob("*.py")
    assert "tanh(b)" in path.read_text() and "1.2345" in path.read_text()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(cpu.FOLDER, str(tmp_path / "file" / "below"))
    with pytest.raises(RuntimeError, match=r"cannot be written to .*below .*MICROGNM_FORMULAS to .*MICROGNM_KERNELS"):
        unseen()(x, x)


def test_a_compiler_failure_shows_its_log_and_the_way_out(tmp_path, monkeypatch, rng):
    monkeypatch.setenv(cpu.FOLDER, str(tmp_path))
    write = cpu.numba_source
    monkeypatch.setattr(cpu, "numba_source", lambda *args: write(*args).replace("tanh(b)", "tanh(b, b, b)"))
    x = rng.standard_normal(3)
    with pytest.raises(RuntimeError, match=r"(?s)Numba cannot compile .*MICROGNM_KERNELS=reference .*log:.*tanh"):
        unseen()(x, x)


def test_importing_micrognm_does_not_import_numba():
    code = "import sys, micrognm; assert 'numba' not in sys.modules and 'llvmlite' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@settings(max_examples=30)
@given(shape=shapes(), rng=generators(), data=st.data())
def test_one_input_of_any_shape_and_layout(shape, rng, data):
    x = rng.standard_normal(shape)
    got = ops.swish(Tensor(laid_out(data.draw, x)))
    assert got.shape == shape
    np.testing.assert_allclose(got.numpy(), x / (1 + np.exp(-x)), rtol=1e-14)
