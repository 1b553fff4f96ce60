"""Convolutions: against SciPy's correlation and plain loops, as adjoints of each other, to order 2; what they see."""

import itertools
import math
import re
from functools import partial
from typing import Any

import numba
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from micrognm import Tensor, backend, check, grad
from micrognm.formula import formula
from micrognm.ops import elu, gelu, relu, tanh
from micrognm.ops.conv import conv, conv_transpose, conv_weight
from micrognm.taps import (
    Taps,
    box,
    causal,
    down_right_shifted,
    down_shifted,
    horizontal,
    past,
    square,
    taps,
    vertical,
)
from tests.strategies import generators


def loops(x, w, bias, offsets, stride, shape, groups):
    """The definition, one product after another."""
    y = np.zeros((x.shape[0], *shape, w.shape[2])) + (0 if bias is None else bias)
    inputs, outputs = w.shape[1], w.shape[2] // groups
    for n, p in itertools.product(range(x.shape[0]), np.ndindex(*shape)):
        for t, offset in enumerate(offsets):
            at = tuple(i * s + o for i, s, o in zip(p, stride, offset, strict=True))
            if all(0 <= i < size for i, size in zip(at, x.shape[1:-1], strict=True)):
                for o, c in itertools.product(range(w.shape[2]), range(inputs)):
                    y[(n, *p, o)] += x[(n, *at, o // outputs * inputs + c)] * w[t, c, o]
    return y


@st.composite
def calls(draw: st.DrawFn) -> dict[str, Any]:
    """Sizes and settings of one small convolution."""
    dims = draw(st.integers(1, 3))
    most = {1: 7, 2: 4, 3: 3}[dims]
    offsets = draw(st.lists(st.tuples(*[st.integers(-3, 3)] * dims), min_size=1, max_size=4, unique=True))
    groups = draw(st.integers(1, 2))
    space = tuple(draw(st.integers(0, most)) for _ in range(dims))
    stride = tuple(draw(st.integers(1, 3)) for _ in range(dims))
    given_shape = tuple(draw(st.integers(0, most)) for _ in range(dims))
    return {
        "taps": Taps(tuple(offsets)),
        "stride": stride,
        "groups": groups,
        "space": space,
        "shape": draw(st.sampled_from([None, given_shape])),
        "n": draw(st.integers(0, 2)),
        "c": groups * draw(st.integers(1, 2)),
        "o": groups * draw(st.integers(1, 3)),
        "bias": draw(st.booleans()),
    }


def sizes(call: dict[str, Any]) -> tuple[int, ...]:
    return call["shape"] or tuple(math.ceil(n / s) for n, s in zip(call["space"], call["stride"], strict=True))


def drawn(call: dict[str, Any], rng: np.random.Generator) -> tuple[Any, Any, Any, Any]:
    """x, w, g and the bias of a call."""
    x = rng.standard_normal((call["n"], *call["space"], call["c"]))
    w = rng.standard_normal((len(call["taps"]), call["c"] // call["groups"], call["o"]))
    g = rng.standard_normal((call["n"], *sizes(call), call["o"]))
    return x, w, g, rng.standard_normal(call["o"]) if call["bias"] else None


def options(call: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: call[name] for name in ("taps", "stride", "groups", *names)}


# ---- values ----------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(calls(), generators())
def test_conv_is_its_definition(call, rng):
    x, w, _, bias = drawn(call, rng)
    got = conv(Tensor(x), Tensor(w), bias, **options(call, "shape")).numpy()
    want = loops(x, w, bias, call["taps"].offsets, call["stride"], sizes(call), call["groups"])
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)
    assert got.shape == want.shape


@settings(max_examples=60)
@given(calls(), generators())
def test_all_three_are_one_trilinear_form(call, rng):
    """<conv(x, w), g> = <x, conv_transpose(g, w)> = <w, conv_weight(x, g)>"""
    x, w, g, _ = drawn(call, rng)
    y = conv(Tensor(x), Tensor(w), **options(call, "shape")).numpy()
    back = conv_transpose(Tensor(g), Tensor(w), **{**options(call), "shape": call["space"]}).numpy()
    weight = conv_weight(Tensor(x), Tensor(g), **options(call)).numpy()
    assert back.shape == x.shape and weight.shape == w.shape
    np.testing.assert_allclose([(x * back).sum(), (w * weight).sum()], (y * g).sum(), rtol=0, atol=1e-10)


@settings(max_examples=30)
@given(calls(), generators())
def test_adjoints_element_by_element(call, rng):
    """Against loops run on unit vectors: an inner product alone would not see two errors that cancel."""
    call = {**call, "n": min(call["n"], 1), "space": tuple(min(n, 2) for n in call["space"])}
    x, w, g, _ = drawn(call, rng)
    where = call["taps"].offsets, call["stride"], sizes(call), call["groups"]

    def units(array):
        for i in range(array.size):
            yield np.reshape(np.arange(array.size) == i, array.shape).astype(float)

    back = np.array([(loops(e, w, None, *where) * g).sum() for e in units(x)]).reshape(x.shape)
    got = conv_transpose(Tensor(g), Tensor(w), **{**options(call), "shape": call["space"]})
    np.testing.assert_allclose(got.numpy(), back, rtol=0, atol=1e-12)
    weight = np.array([(loops(x, e, None, *where) * g).sum() for e in units(w)]).reshape(w.shape)
    np.testing.assert_allclose(conv_weight(Tensor(x), Tensor(g), **options(call)).numpy(), weight, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("k", [(3,), (4,), (3, 3), (2, 5), (3, 2, 3)])
def test_a_box_is_scipys_correlation(k, dtype, rng):
    """Its origin is where an even box has it."""
    space = (9, 8, 7)[: len(k)]
    x, w = rng.standard_normal((2, *space, 3)).astype(dtype), rng.standard_normal((*k, 3, 4)).astype(dtype)
    want = np.zeros((2, *space, 4))
    for n, c, o in np.ndindex(2, 3, 4):
        want[n, ..., o] += scipy.ndimage.correlate(
            x[n, ..., c].astype(float), w[..., c, o].astype(float), mode="constant", origin=[(i % 2) - 1 for i in k]
        )
    t = box(*k)
    weight = Tensor(w.reshape(len(t), 3, 4))
    tolerance = 1e-12 if dtype == np.float64 else 2e-5
    got = conv(Tensor(x), weight, taps=t).numpy()
    assert got.dtype == dtype
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance)
    strided = conv(Tensor(x), weight, taps=t, stride=2).numpy()
    np.testing.assert_allclose(strided, want[(slice(None), *[slice(None, None, 2)] * len(k))], rtol=0, atol=tolerance)


def test_dilation_is_a_kernel_with_holes(rng):
    x, w = rng.standard_normal((11, 10)), rng.standard_normal((3, 3))
    holes = np.zeros((7, 7))
    holes[::3, ::3] = w
    want = scipy.ndimage.correlate(x, holes, mode="constant")
    got = conv(Tensor(x[None, ..., None]), Tensor(w.reshape(9, 1, 1)), taps=square(3).dilate(3))
    np.testing.assert_allclose(got.numpy()[0, ..., 0], want, atol=1e-12)


def test_depthwise_convolves_each_channel_alone(rng):
    x, w = rng.standard_normal((2, 6, 5, 4)), rng.standard_normal((9, 1, 4))
    got = conv(Tensor(x), Tensor(w), taps=square(3), groups=4).numpy()
    for c in range(4):
        alone = conv(Tensor(x[..., [c]]), Tensor(w[..., [c]]), taps=square(3)).numpy()
        np.testing.assert_allclose(got[..., [c]], alone, atol=1e-12)


def test_sizes_by_default_and_as_given(rng):
    w = Tensor(rng.standard_normal((16, 3, 2)))
    x = Tensor(rng.standard_normal((1, 7, 8, 3)))
    assert conv(x, w, taps=square(4), stride=2).shape == (1, 4, 4, 2)
    assert conv(x, w, taps=square(4), stride=(3, 1)).shape == (1, 3, 8, 2)
    valid = conv(x, w, taps=square(4).shift(1, 1), shape=(4, 5))  # from the corner: no zero is read
    want = np.einsum("nijyxc,yxco->nijo", windows(x.numpy(), 4), w.numpy().reshape(4, 4, 3, 2))
    np.testing.assert_allclose(valid.numpy(), want, atol=1e-12)
    g = Tensor(rng.standard_normal((1, 4, 4, 2)))
    assert conv_transpose(g, w, taps=square(4), stride=2).shape == (1, 8, 8, 3)
    odd = conv_transpose(g, w, taps=square(4), stride=2, shape=(7, 7))
    np.testing.assert_array_equal(odd.numpy(), conv_transpose(g, w, taps=square(4), stride=2).numpy()[:, :7, :7])


def windows(x: np.ndarray, k: int) -> np.ndarray:
    return np.moveaxis(np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(1, 2)), 3, -1)


def test_transposed_convolution_by_hand():
    g = np.array([1.0, 10.0])[None, :, None]
    w = np.array([1.0, 2.0, 3.0, 4.0])[:, None, None]  # pixel p is spread over 2 p - 1 ... 2 p + 2
    bias = Tensor(np.array([0.5]))
    got = conv_transpose(Tensor(g), Tensor(w), bias, taps=box(4), stride=2).numpy()
    np.testing.assert_array_equal(got[0, :, 0], [2.5, 3 + 10 + 0.5, 4 + 20 + 0.5, 30.5])


# ---- gradients -------------------------------------------------------------------------------------------------------


@settings(max_examples=12)
@given(calls(), generators())
def test_gradients_to_order_two(call, rng):
    x, w, g, bias = drawn(call, rng)
    more = [] if bias is None else [bias]
    check(lambda x, w, *b: conv(x, w, *b, **options(call, "shape")), x, w, *more, rng=rng)
    more = [] if bias is None else [rng.standard_normal(call["c"])]
    back = {**options(call), "shape": call["space"]}
    check(lambda g, w, *b: conv_transpose(g, w, *b, **back), g, w, *more, rng=rng)
    check(lambda x, g: conv_weight(x, g, **options(call)), x, g, rng=rng)


@pytest.mark.parametrize(
    ("t", "space", "stride", "groups"),
    [
        (causal(3, "B"), (4, 3), 1, 1),
        (square(4), (4, 6), 2, 1),
        (square(3), (4, 3), (1, 2), 2),
        (past(2).dilate(2), (6,), 1, 1),
        (box(2, 3, 1), (2, 3, 2), (1, 2, 1), 2),
    ],
)
def test_gradients_to_order_two_of_the_usual_shapes(t, space, stride, groups, rng):
    x, w, g = (2, *space, 4), (len(t), 4 // groups, 2), (2, *space, 2)
    how: dict[str, Any] = {"taps": t, "stride": stride, "groups": groups}
    check(lambda x, w, b: conv(x, w, b, **how), x, w, (2,), rng=rng)
    check(lambda g, w, b: conv_transpose(g, w, b, **how), g, w, (4,), rng=rng)
    check(lambda x, g: conv_weight(x, g, **how), x, g, rng=rng)


def test_order_three(rng):
    """A cubic form of x through two convolutions: its third derivative is constant."""
    w = Tensor(rng.standard_normal((9, 1, 1)))
    v = Tensor(rng.standard_normal((1, 3, 3, 1)))

    def third(x: Tensor) -> np.ndarray:
        y = (x * x * conv(x, w, taps=square(3))).sum()
        for _ in range(3):
            y = (grad(y, x, create_graph=True) * v).sum()
        return y.numpy()

    x = Tensor(rng.standard_normal((1, 3, 3, 1)), requires_grad=True)
    want = 6 * (v * v * conv(v, w, taps=square(3))).sum().numpy()
    np.testing.assert_allclose(third(x), want, rtol=1e-10)


def test_only_the_asked_gradients_are_computed(rng, monkeypatch):
    """A first layer needs no gradient to the image: it would cost as much as the layer."""
    module = backend.kernel("conv", np.zeros(1))
    monkeypatch.setattr(module, "input_gradient", lambda *_: pytest.fail("the image has no gradient"))
    x, w = rng.standard_normal((2, 4, 4, 1)), Tensor(rng.standard_normal((9, 1, 2)), requires_grad=True)
    assert grad(conv(x, w, taps=square(3)).sum(), w).shape == (9, 1, 2)


# ---- activations -----------------------------------------------------------------------------------------------------


@formula
def one_more(x):
    return x + 1


ACTIVATIONS: dict[str, Any] = {
    "elu": partial(elu, alpha=0.5), "gelu": gelu, "tanh": tanh, "one more": one_more, "relu": relu,
}  # fmt: skip
every_activation = pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
# taps, space, stride, groups, channels of x, of y, shape of y
ENDS: dict[str, Any] = {
    "dense": (square(3), (12, 11), 1, 1, 5, 18, None),
    "odd sizes, strided": (square(4), (9, 7), 2, 1, 3, 5, None),
    "a larger output": (square(3), (6, 5), (2, 1), 1, 4, 4, (7, 9)),
    "groups": (square(3), (10, 10), 1, 2, 6, 34, None),
    "depthwise": (square(3), (12, 12), 1, 20, 20, 20, None),
    "1-D, causal": (past(3).dilate(2), (45,), 1, 1, 8, 16, None),
    "bands of one image": (square(3), (60, 9), 1, 1, 8, 7, None),
    "no pixels": (square(3), (0, 4), 1, 1, 2, 3, None),
}


@pytest.fixture(params=[1, 2])
def threads(request):
    if request.param > numba.config.NUMBA_NUM_THREADS:
        pytest.skip("needs two threads, NUMBA_NUM_THREADS=2")
    numba.set_num_threads(request.param)
    yield
    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("name", ENDS)
def test_an_activation_within_is_one_after(name, transposed, dtype, threads, rng):
    """Values, gradients, and gradients of gradients, with all of them recorded or none."""
    t, space, stride, groups, channels, outputs, shape = ENDS[name]
    how: dict[str, Any] = {"taps": t, "stride": stride, "groups": groups, "shape": shape}
    n = 1 if name.startswith("bands") else 3
    operation, inside, made = (conv_transpose, outputs, channels) if transposed else (conv, channels, outputs)
    sizes = (n, *space, inside), (len(t), channels // groups, outputs), (made,)
    x, w, b = (Tensor(rng.standard_normal(size).astype(dtype), requires_grad=True) for size in sizes)
    for activation in ACTIVATIONS.values():
        fused, plain = operation(x, w, b, **how, activation=activation), activation(operation(x, w, b, **how))
        close(fused, plain)
        close(operation(x.data, w.data, b.data, **how, activation=activation), plain)
        close(operation(x, w, **how, activation=activation), activation(operation(x, w, **how)))
        g = Tensor(rng.standard_normal(plain.shape).astype(dtype))
        vs = [Tensor(rng.standard_normal(size).astype(dtype)) for size in sizes]
        for one, other in zip(grad(fused, [x, w, b], g), grad(plain, [x, w, b], g), strict=True):
            close(one, other)
        first = [grad(y, [x, w, b], g, create_graph=True) for y in (fused, plain)]
        seconds = [
            grad(sum(((slope * v).sum() for slope, v in zip(slopes, vs, strict=True)), start=y.sum()), [x, w, b])
            for slopes, y in zip(first, (fused, plain), strict=True)
        ]
        for one, other in zip([*first[0], *seconds[0]], [*first[1], *seconds[1]], strict=True):
            close(one, other)


def close(one: Tensor, other: Tensor) -> None:
    assert one.shape == other.shape and one.dtype == other.dtype
    size = np.abs(other.numpy()).max(initial=1)
    np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=0, atol=200 * np.finfo(one.dtype).eps * size)


@every_activation
def test_gradients_to_order_two_with_an_activation(activation, rng):
    t = square(3)
    check(lambda x, w, b: conv(x, w, b, taps=t, activation=activation), (2, 3, 3, 2), (9, 2, 3), (3,), rng=rng)
    back = {"taps": t, "stride": 2, "activation": activation}
    check(lambda g, w, b: conv_transpose(g, w, b, **back), (2, 2, 2, 3), (9, 2, 3), (2,), rng=rng)


@pytest.mark.parametrize(
    ("activation", "recorded", "kept"),
    [(gelu, True, True), (gelu, False, False), (tanh, True, False), (relu, True, False)],
)
def test_values_before_the_activation_are_kept_where_its_gradient_needs_them(
    activation, recorded, kept, rng, monkeypatch
):
    module = backend.kernel("conv", np.zeros(1))
    calls, forward = [], module.forward
    monkeypatch.setattr(module, "forward", lambda *args: (calls.append(args[-1]), forward(*args))[1])
    w = Tensor(rng.standard_normal((9, 2, 3)), requires_grad=recorded)
    conv(rng.standard_normal((1, 4, 4, 2)), w, taps=square(3), activation=activation)
    assert calls == [kept]


def test_activations_that_do_not_fit_are_named(rng):
    @formula
    def product(a, b):
        return a * b

    @formula
    def scaled(x, *, by):
        return x * by

    x, w = rng.standard_normal((1, 3, 3, 2)), rng.standard_normal((9, 2, 3))
    wrong: list[tuple[Any, type[Exception], str]] = [
        (np.tanh, TypeError, "conv: activation is tanh; expected a formula, such as ops.elu"),
        (3, TypeError, "conv: activation is int; expected a formula"),
        (product, ValueError, "conv: activation product(a, b) must be a formula of one input that has a gradient"),
        (scaled, TypeError, "conv: activation scaled has the options by; without a value: ['by']"),
        (partial(elu, beta=1), TypeError, "conv: activation elu has the options alpha; unknown: ['beta']"),
        (partial(gelu, x), TypeError, "conv: activation is gelu; expected a formula"),
    ]
    for activation, kind, message in wrong:
        with pytest.raises(kind, match=re.escape(message)):
            conv(x, w, taps=square(3), activation=activation)
    assert conv(x, w, taps=square(3), activation=partial(scaled, by=2)).shape == (1, 3, 3, 3)


# ---- masks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "t",
    [
        causal(3, "A"), causal(5, "B"), causal(7, "A"), vertical(5, "A"), vertical(3, "B"), horizontal(5, "A"),
        horizontal(3, "B"), down_shifted(2, 3), down_right_shifted(2, 2), box(1, 3).shift(-1, 0), square(3),
        taps("# . .\n. o .\n. . #"),
    ],
    ids=Taps.draw,
)  # fmt: skip
def test_a_perturbed_pixel_moves_exactly_the_outputs_whose_taps_read_it(t, rng):
    height, width = 6, 5
    w = Tensor(rng.standard_normal((len(t), 2, 3)))
    x = rng.standard_normal((1, height, width, 2))
    before = conv(Tensor(x), w, taps=t).numpy()
    for at in np.ndindex(height, width):
        moved = x.copy()
        moved[0, at[0], at[1]] += rng.standard_normal(2)
        changed = (conv(Tensor(moved), w, taps=t).numpy() != before)[0]
        want = [[(at[0] - i, at[1] - j) in t.offsets for j in range(width)] for i in range(height)]
        np.testing.assert_array_equal(changed, np.repeat(np.array(want)[..., None], 3, -1))


def test_a_series_sees_no_later_place(rng):
    x = rng.standard_normal((1, 12, 2))
    first, second = (Tensor(rng.standard_normal((2, 2, 2))) for _ in range(2))

    def net(x: np.ndarray) -> np.ndarray:
        return conv(conv(Tensor(x), first, taps=past(2).shift(-1)), second, taps=past(2).dilate(2)).numpy()

    before = net(x)
    for i in range(12):
        moved = x.copy()
        moved[0, i] += 1
        changed = (net(moved) != before)[0].any(axis=-1)
        np.testing.assert_array_equal(np.flatnonzero(changed), [j for j in (i + 1, i + 2, i + 3, i + 4) if j < 12])


# ---- what does not fit -----------------------------------------------------------------------------------------------


def z(*shape: int, dtype: Any = np.float32) -> Tensor:
    return Tensor(np.zeros(shape, dtype))


X, W, G = z(2, 8, 8, 4), z(9, 4, 6), z(2, 8, 8, 6)
T = square(3)
FORWARD = ". The rule: x [N, *space, C], w [taps, C // groups, O], bias [O] -> [N, *shape, O]"
BACK = ". The rule: g [N, *space, O], w [taps, C // groups, O], bias [C] -> [N, *shape, C]"
WRONG: list[tuple[Any, str]] = [
    (
        lambda: conv(z(2, 8, 8, 3), W, taps=T),
        f"conv(x: float32[2, 8, 8, 3], w: float32[9, 4, 6]): w is for 4 channels of x, which has 3{FORWARD}",
    ),
    (lambda: conv(X, W, taps=square(2)), "w has weights for 9 taps, given are 4"),
    (lambda: conv(X, z(9, 24), taps=T), "w must have three axes, it has 2"),
    (lambda: conv(z(2, 8, 4), W, taps=T), "with taps of 2 axes x has 4: N, 2 of space, channels; got 3"),
    (lambda: conv(X, z(9, 2, 5), taps=T, groups=2), "groups=2 must divide the 5 channels O of w"),
    (lambda: conv(X, z(9, 4, 6), taps=T, groups=2), "w is for 8 channels of x, which has 4"),
    (lambda: conv(X, W, taps=T, groups=0), "groups must be a whole number of 1 or more, got 0"),
    (lambda: conv(X, W, z(4), taps=T), "bias: float32[4]): bias must have the shape [6]"),
    (lambda: conv(X, W, z(1), taps=T), "bias must have the shape [6]"),
    (lambda: conv(X, W, taps=T, stride=0), "stride must be 2 whole numbers of 1 or more, one an axis; got (0, 0)"),
    (lambda: conv(X, W, taps=T, stride=(1, 2, 1)), "stride must be 2 whole numbers"),
    (lambda: conv(X, W, taps=T, stride=1.5), "stride must be 2 whole numbers"),  # type: ignore[arg-type]
    (lambda: conv(X, W, taps=T, shape=(8,)), "shape must be 2 whole numbers of 0 or more, one an axis; got (8,)"),
    (lambda: conv(X, W, taps=T, shape=(8, -1)), "shape must be 2 whole numbers of 0 or more"),
    (
        lambda: conv_transpose(X, W, taps=T),
        f"conv_transpose(g: float32[2, 8, 8, 4], w: float32[9, 4, 6]): w is for 6 channels of g, which has 4{BACK}",
    ),
    (lambda: conv_transpose(G, W, z(6), taps=T), "bias must have the shape [4]"),
    (lambda: conv_transpose(G, W, taps=T, shape=(8, 8.5)), "shape must be 2 whole numbers"),  # type: ignore[arg-type]
    (lambda: conv_weight(X, z(1, 8, 8, 6), taps=T), "x holds 2 images, g 1; give both of one batch"),
    (lambda: conv_weight(X, z(2, 8, 6), taps=T), "with taps of 2 axes g has 4"),
    (lambda: conv_weight(X, G, taps=T, groups=4), "groups=4 must divide the 4 channels of x and the 6 of g"),
]
MISTYPED: list[tuple[Any, str]] = [
    (lambda: conv(X, W, taps=9), "conv: taps is int; expected Taps, as micrognm.taps.square"),  # type: ignore[arg-type]
    (lambda: conv(1.0, W, taps=T), "'x' is float; expected a Tensor or an array"),  # type: ignore[arg-type]
    (lambda: conv(X, None, taps=T), "conv: argument 'w' is NoneType"),  # type: ignore[arg-type]
    (lambda: conv(z(2, 8, 8, 4, dtype=np.uint8), W, taps=T), "'x' is uint8; cast it first: x.cast(dtype='float32')"),
    (lambda: conv(X, z(9, 4, 6, dtype=float), taps=T), "conv(x: float32[2, 8, 8, 4], w: float64[9, 4, 6]"),
    (lambda: conv(X, W, z(6, dtype=float), taps=T), "mixed dtypes"),
    (lambda: conv_weight(X, z(2, 8, 8, 6, dtype=float), taps=T), "mixed dtypes"),
]


@pytest.mark.parametrize(("call", "message"), WRONG)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


@pytest.mark.parametrize(("call", "message"), MISTYPED)
def test_what_is_of_a_wrong_type_is_named(call, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        call()
