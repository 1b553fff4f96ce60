"""The table of operations: what each is called with, and an independent oracle in NumPy, SciPy or plain loops.

The tests of this folder run every line forward, backward and twice backward; `tests/test_backend.py` runs it on arrays
that refuse to become NumPy's. An operation that is not here fails `test_every_operation_has_a_case`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import scipy.special
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays, basic_indices, integer_array_indices, mutually_broadcastable_shapes

from micrognm import Tensor, ops
from micrognm.taps import Taps
from tests.strategies import (
    ABOVE_MINUS_ONE,
    BASE,
    BOUNDED,
    EXPONENT,
    FINITE,
    LOGITS,
    MASK,
    NOT_ZERO,
    POSITIVE,
    REAL,
    SQUARE,
    Domain,
    Shape,
    axis_of,
    broadcastable,
    reductions,
    repeatable,
    shapes,
)

Inputs = st.SearchStrategy[tuple[tuple[Shape, ...], dict[str, Any]]]  # shapes of the tensors, and options
ELEMENTWISE = 0.0


@dataclass(frozen=True)
class Case:
    """One way to use an operation.

    name: as in ops.__all__. inputs: draws shapes and options. oracle: arrays, options -> what the operation must give
    (an array, or a list). domains: of each tensor, the last one repeated. scale: the size of the terms whose rounding
    errors add up, by the same arguments; 0 asks for full relative precision. call: how it is called, where not
    name(*tensors, **options). differentiable: False where no gradient exists.
    """

    name: str
    inputs: Inputs
    oracle: Callable[..., Any]
    domains: tuple[Domain, ...] = (REAL,)
    scale: Callable[..., Any] = lambda *_, **__: ELEMENTWISE
    call: Callable[..., Any] | None = None
    differentiable: bool = True

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(self.name)  # what hypothesis calls the case in a report

    def __call__(self, *xs: Any, **options: Any) -> Any:
        return (self.call or getattr(ops, self.name))(*xs, **options)

    def arrays(self, rng: np.random.Generator, wanted: tuple[Shape, ...], edges: float) -> list[np.ndarray]:
        """Float64 (or boolean) inputs of these shapes."""
        domains = itertools.chain(self.domains, itertools.repeat(self.domains[-1]))
        return [domain.draw(rng, shape, edges) for shape, domain in zip(wanted, domains, strict=False)]

    def outputs(self, *xs: Any, **options: Any) -> list[Tensor]:
        """What the call gives, as a list."""
        out = self(*xs, **options)
        return list(out) if isinstance(out, tuple | list) else [out]


# ---- inputs ----------------------------------------------------------------------------------------------------------


def plain(number: int = 1, **options: st.SearchStrategy) -> Inputs:
    """Broadcastable shapes, and options drawn independently."""
    return st.tuples(broadcastable(number), st.fixed_dictionaries(options))


def one(options: Callable[[Shape], st.SearchStrategy[dict]], min_dims: int = 0, empty: bool = True) -> Inputs:
    """One shape, and options that depend on it."""
    return shapes(min_dims, empty=empty).flatmap(lambda shape: options(shape).map(lambda chosen: ((shape,), chosen)))


def reduced(**settings: bool) -> Inputs:
    return reductions(**settings).map(lambda drawn: ((drawn[0],), drawn[1]))


def on_axis(empty: bool = True) -> Inputs:
    return one(lambda shape: st.fixed_dictionaries({"axis": axis_of(shape)}), min_dims=1, empty=empty)


def _reshapes(shape: Shape) -> st.SearchStrategy[dict]:
    size = math.prod(shape)
    targets: list[Shape] = [(size,), (1, size), tuple(reversed(shape)), (*shape, 1)]
    if size:
        targets += [(-1,), (1, -1, 1), (*shape[:1], -1)]
    if size == 1:
        targets += [()]
    return st.fixed_dictionaries({"shape": st.sampled_from(targets)})


def _joined() -> Inputs:
    """Some shapes that differ along one axis."""

    @st.composite
    def draw_inputs(draw: st.DrawFn) -> Any:
        shape = draw(shapes(min_dims=1))
        axis = draw(axis_of(shape))
        lengths = draw(st.lists(st.integers(0, 3), min_size=1, max_size=4))
        at = axis % len(shape)
        return tuple((*shape[:at], n, *shape[at + 1 :]) for n in lengths), {"axis": axis}

    return draw_inputs()


def _splits(shape: Shape) -> st.SearchStrategy[dict]:
    def cut(axis: int) -> st.SearchStrategy[dict]:
        n = shape[axis]
        ends = st.lists(st.integers(0, n), max_size=3).map(lambda cuts: np.diff([0, *sorted(cuts), n]).tolist())
        return st.fixed_dictionaries({"sizes": ends, "axis": st.just(axis)})

    return axis_of(shape).flatmap(cut)


def _pads(shape: Shape) -> st.SearchStrategy[dict]:
    widths = st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2)) for _ in shape])
    return st.fixed_dictionaries({"widths": widths, "value": st.sampled_from([0.0, -1.5])})


def _flips(shape: Shape) -> st.SearchStrategy[dict]:
    several = st.lists(axis_of(shape), unique_by=lambda a: a % len(shape)).map(tuple)
    return st.fixed_dictionaries({"axis": axis_of(shape) | several})


def _rolls(shape: Shape) -> st.SearchStrategy[dict]:
    single = st.tuples(st.integers(-4, 4), axis_of(shape))
    several = st.lists(single, max_size=3).map(lambda pairs: tuple(zip(*pairs, strict=True)) or ((), ()))
    return (single | several).map(lambda drawn: {"shift": drawn[0], "axis": drawn[1]})


def _indices(shape: Shape) -> st.SearchStrategy[Any]:
    """What NumPy takes between brackets."""
    kinds: list[st.SearchStrategy[Any]] = [basic_indices(shape, allow_newaxis=True), arrays(bool, shape)]
    if shape:
        kinds.append(arrays(bool, shape[:1]))
    if shape and 0 not in shape:
        kinds += [
            integer_array_indices(shape, result_shape=shapes(0, 2)),
            st.lists(st.integers(-shape[0], shape[0] - 1)),
            st.integers(-shape[0], shape[0] - 1).map(np.int64),
        ]
    if len(shape) > 1 and 0 not in shape:  # an array, a slice, an array: the picked axes come first
        kinds.append(
            st.tuples(arrays(int, (2,), elements=st.integers(0, shape[0] - 1)), st.just(slice(None, None, -1)))
        )
    return st.one_of(kinds)


def _scatters() -> Inputs:
    """Values of x[index]'s shape, for an x of any shape."""
    targets = shapes().flatmap(lambda shape: st.tuples(st.just(shape), _indices(shape)))
    return targets.map(
        lambda drawn: ((np.zeros(drawn[0])[_plain(drawn[1])].shape,), {"index": drawn[1], "shape": drawn[0]})
    )


def _plain(index: Any) -> Any:
    return np.array(index, int) if isinstance(index, list) else index


def _along() -> Inputs:
    @st.composite
    def draw_inputs(draw: st.DrawFn) -> Any:
        shape = draw(shapes(min_dims=1))
        axis = draw(axis_of(shape))
        at = axis % len(shape)
        picked = [1 if draw(st.booleans()) else n for n in shape]
        picked[at] = draw(st.integers(0, 4)) if shape[at] else 0
        places = st.integers(-shape[at], max(shape[at] - 1, 0))
        return (shape,), {"indices": draw(arrays(int, tuple(picked), elements=places)), "axis": axis}

    return draw_inputs()


def _top(shape: Shape) -> st.SearchStrategy[dict]:
    return axis_of(shape).flatmap(
        lambda axis: st.fixed_dictionaries({"k": st.integers(1, shape[axis]), "axis": st.just(axis)})
    )


def _labels() -> Inputs:
    def of(classes: int) -> Inputs:
        indices = arrays(st.sampled_from([np.uint8, np.int64]), shapes(), elements=st.integers(0, classes - 1))
        kinds = indices | indices.map(Tensor) | indices.map(np.ndarray.tolist).filter(lambda x: x != [])
        return st.tuples(st.just(()), st.fixed_dictionaries({"indices": kinds, "classes": st.just(classes)}))

    return st.integers(1, 4).flatmap(of)


def _signature(signature: str, **options: st.SearchStrategy) -> Inputs:
    together = mutually_broadcastable_shapes(signature=signature, max_dims=2, min_side=0, max_side=3)
    return st.tuples(together.map(lambda drawn: drawn.input_shapes), st.fixed_dictionaries(options))


EINSUMS = (
    "i->i ij->ji ij-> ij->j -> ,i->i i,j->ij i,i-> ij,jk->ik bij,bjk->bik ij,i->j nhwc,cd->nhwd bhqd,bhkd->bhqk "
    "i,ij,j-> ij,jk,kl->li ijk,k->i ab,c->a cab->b"
).split()


def _einsums() -> Inputs:

    @st.composite
    def draw_inputs(draw: st.DrawFn) -> Any:
        text = draw(st.sampled_from(EINSUMS))
        sizes = {letter: draw(st.integers(0, 3)) for letter in sorted(set(text) - set("->,"))}
        inputs = tuple(tuple(sizes[letter] for letter in part) for part in text.split("->")[0].split(","))
        return inputs, {"subscripts": text}

    return draw_inputs()


@st.composite
def _convolutions(draw: st.DrawFn, name: str) -> Any:
    """Shapes and options of a small convolution, of its adjoint, or of the gradient to its weights."""
    dims = draw(st.integers(1, 3))
    sizes = st.tuples(*[st.integers(0, {1: 7, 2: 4, 3: 2}[dims])] * dims)
    space, shape, stride = draw(sizes), draw(sizes), draw(st.tuples(*[st.integers(1, 3)] * dims))
    taps = draw(st.lists(st.tuples(*[st.integers(-2, 2)] * dims), min_size=1, max_size=4, unique=True))
    groups, n = draw(st.integers(1, 2)), draw(st.integers(0, 2))
    c, o = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 3))
    x, w, g = (n, *space, c), (len(taps), c // groups, o), (n, *shape, o)
    options = {"taps": Taps(tuple(taps)), "stride": stride, "groups": groups}
    if name == "conv_weight":
        return (x, g), options
    inputs = [x, w, (o,)] if name == "conv" else [g, w, (c,)]
    options["shape"] = shape if name == "conv" else space
    return tuple(inputs[: draw(st.integers(2, 3))]), options  # with a bias or without


# ---- oracles ---------------------------------------------------------------------------------------------------------


def _loops(*xs: np.ndarray, subscripts: str) -> np.ndarray:
    """einsum, term by term."""
    left, output = subscripts.split("->")
    inputs = left.split(",")
    sizes = {letter: n for part, x in zip(inputs, xs, strict=True) for letter, n in zip(part, x.shape, strict=True)}
    out = np.zeros([sizes[letter] for letter in output])
    for place in np.ndindex(*sizes.values()):
        at = dict(zip(sizes, place, strict=True))
        term = math.prod(x[tuple(at[letter] for letter in part)] for part, x in zip(inputs, xs, strict=True))
        out[tuple(at[letter] for letter in output)] += term
    return out


def _scattered(values: np.ndarray, index: Any, shape: Shape) -> np.ndarray:
    """Where each place of x[index] comes from, then one addition after another."""
    sources = np.arange(math.prod(shape)).reshape(shape)[_plain(index)]
    out = np.zeros(math.prod(shape))
    for source, value in zip(np.ravel(sources), np.ravel(values), strict=True):
        out[source] += value
    return out.reshape(shape)


def _triangular(a: np.ndarray, b: np.ndarray, lower: bool) -> np.ndarray:
    """Substitution, row by row."""
    n = a.shape[-1]
    x = np.zeros(np.broadcast_shapes(a.shape[:-2], b.shape[:-2]) + b.shape[-2:])
    done: list[int] = []
    for i in range(n) if lower else range(n)[::-1]:
        known = np.einsum("...k,...km->...m", a[..., i, done], x[..., done, :])
        x[..., i, :] = (b[..., i, :] - known) / a[..., i, i, None]
        done.append(i)
    return x


def _largest(x: np.ndarray, k: int, axis: int) -> list[np.ndarray]:
    """By Python's sort, which is stable."""
    places = np.apply_along_axis(lambda row: sorted(range(len(row)), key=lambda i: -row[i])[:k], axis, x).astype(int)
    return [np.take_along_axis(x, places, axis), places]


def _determinants(x: np.ndarray) -> np.ndarray:
    flat = x.reshape(-1, *x.shape[-2:]) if x.size else np.empty((math.prod(x.shape[:-2]), 0, 0))
    return np.array([scipy.linalg.det(m) if m.size else 1.0 for m in flat]).reshape(x.shape[:-2])


def _largest_size(*xs: np.ndarray, **_: Any) -> float:
    return max([1.0, *(float(np.abs(x[np.isfinite(x)]).max(initial=0)) for x in xs)])


def _reads(taps: Taps, stride: Shape, space: Shape, shape: Shape) -> Iterator[tuple[int, Any, Any]]:
    """Every tap, output pixel and the input pixel that it reads there."""
    for (t, offset), p in itertools.product(enumerate(taps.offsets), np.ndindex(*shape)):
        at = tuple(i * s + o for i, s, o in zip(p, stride, offset, strict=True))
        if all(0 <= i < n for i, n in zip(at, space, strict=True)):
            yield t, (slice(None), *p), (slice(None), *at)


def _dense(w: np.ndarray, groups: int) -> np.ndarray:
    """Weights of groups as one matrix a tap, zero between groups."""
    return np.stack([scipy.linalg.block_diag(*np.split(tap, groups, axis=1)) for tap in w])


def _conv(
    x: np.ndarray, w: np.ndarray, bias: Any = 0.0, *, taps: Taps, stride: Shape, shape: Shape, groups: int
) -> np.ndarray:
    y = np.zeros((len(x), *shape, w.shape[2])) + bias
    for t, p, at in _reads(taps, stride, x.shape[1:-1], shape):
        y[p] += x[at] @ _dense(w, groups)[t]
    return y


def _conv_transpose(
    g: np.ndarray, w: np.ndarray, bias: Any = 0.0, *, taps: Taps, stride: Shape, shape: Shape, groups: int
) -> np.ndarray:
    x = np.zeros((len(g), *shape, w.shape[1] * groups)) + bias
    for t, p, at in _reads(taps, stride, shape, g.shape[1:-1]):
        x[at] += g[p] @ _dense(w, groups)[t].T
    return x


def _conv_weight(x: np.ndarray, g: np.ndarray, *, taps: Taps, stride: Shape, groups: int) -> np.ndarray:
    w = np.zeros((len(taps), x.shape[-1], g.shape[-1]))
    for t, p, at in _reads(taps, stride, x.shape[1:-1], g.shape[1:-1]):
        w[t] += x[at].T @ g[p]
    blocks = [np.split(rows, groups, axis=2)[k] for k, rows in enumerate(np.split(w, groups, axis=1))]
    return np.concatenate(blocks, axis=2)


def _cubed(*xs: np.ndarray, **_: Any) -> float:
    """Solves of small matrices that are far from singular."""
    return 100 * _largest_size(*xs)


def _of_sizes(oracle: Callable) -> Callable[..., Any]:
    """The same sum of products, of sizes: a bound on the rounding errors."""
    return lambda *xs, **options: oracle(*(np.abs(x) for x in xs), **options)


# ---- the table -------------------------------------------------------------------------------------------------------


def _unary(name: str, oracle: Callable, *domains: Domain, **more: Any) -> Case:
    return Case(name, plain(), oracle, domains or (REAL,), **more)


def _arithmetic() -> Iterator[Case]:
    for name, oracle in {"add": np.add, "sub": np.subtract, "mul": np.multiply}.items():
        yield Case(name, plain(2), oracle)
    yield Case("div", plain(2), np.divide, (REAL, NOT_ZERO))
    yield Case("power", plain(2), np.float_power, (BASE, EXPONENT))
    numbers = st.sampled_from([0, 1, 2, 3, -1, -2, 0.5, 1.5, -0.5])
    yield Case("power", plain(b=numbers), lambda a, b: np.float_power(a, b), (BASE,))
    bases = st.sampled_from([0.5, 1.0, 2, 10.0])
    yield Case(
        "power", plain(a=bases), lambda b, a: np.float_power(a, b), (EXPONENT,), call=lambda b, a: ops.power(a, b)
    )
    yield _unary("neg", np.negative)
    yield _unary("exp", np.vectorize(_exp, otypes=[float]))
    yield _unary("expm1", np.expm1)
    yield _unary("log", np.log, POSITIVE)
    yield _unary("log1p", np.log1p, ABOVE_MINUS_ONE)
    yield _unary("sqrt", np.sqrt, POSITIVE)
    yield _unary("rsqrt", lambda x: np.sqrt(x) ** -1, POSITIVE)
    yield _unary("erf", np.vectorize(math.erf, otypes=[float]))
    yield _unary("abs", np.abs)
    yield _unary("sign", np.sign, differentiable=False)
    yield _unary("round", np.rint, differentiable=False)
    yield _unary("floor", np.floor, differentiable=False)
    for name in ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal"):
        yield Case(name, plain(2), getattr(np, name), differentiable=False)
    yield Case("where", plain(3), np.where, (MASK, REAL))
    yield Case("maximum", plain(2), np.maximum)
    yield Case("minimum", plain(2), np.minimum)
    ends: dict[str, Any] = {
        "low": st.sampled_from([-1.0, -math.inf, 0.0]),
        "high": st.sampled_from([0.0, 1.0, math.inf]),
    }
    yield Case("clip", plain(**ends), lambda x, low, high: np.minimum(np.maximum(x, low), high))
    yield Case("cast", plain(), lambda x: x, call=lambda x: ops.cast(ops.cast(x, dtype=np.float64), dtype=x.dtype))


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 or math.isnan(x) else math.inf


def _activation() -> Iterator[Case]:
    yield _unary("tanh", np.tanh)
    yield _unary("sigmoid", scipy.special.expit)
    yield _unary("softplus", lambda x: np.logaddexp(0, x))
    yield _unary("relu", lambda x: np.maximum(x, 0))
    slopes = st.sampled_from([0.01, 0.2, 1.0])
    yield Case("leaky_relu", plain(slope=slopes), lambda x, slope: np.where(x > 0, x, slope * x))
    yield Case("elu", plain(alpha=slopes), lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))))

    def elus(x: np.ndarray) -> np.ndarray:
        return np.concatenate([np.where(y > 0, y, np.expm1(np.minimum(y, 0))) for y in (x, -x)], -1)

    yield Case("concat_elu", one(lambda _: st.just({}), min_dims=1), elus)
    yield _unary("gelu", lambda x: x * scipy.special.ndtr(x), BOUNDED, scale=np.abs)
    yield _unary("swish", lambda x: x * scipy.special.expit(x), BOUNDED)


def _reduce() -> Iterator[Case]:
    yield Case("sum", reduced(empty=True), np.sum, (FINITE,), _of_sizes(np.sum))
    yield Case("mean", reduced(), np.mean, (FINITE,), _of_sizes(np.mean))
    yield Case("max", reduced(), np.max)
    yield Case("min", reduced(), np.min)
    yield Case("var", reduced(), np.var, (FINITE,), lambda x, **_: 10 * _largest_size(x) ** 2)
    yield Case(
        "norm",
        reduced(empty=True),
        lambda x, axis, keepdims: np.sqrt(np.sum(x**2, axis=axis, keepdims=keepdims)),
        (FINITE,),
    )
    yield Case("argmax", reduced(one_axis=True, keepdims=False), np.argmax, differentiable=False)
    yield Case("argmin", reduced(one_axis=True, keepdims=False), np.argmin, differentiable=False)
    yield Case("cumsum", on_axis(), np.cumsum, (FINITE,), _of_sizes(np.cumsum))
    stable = (LOGITS,)
    yield Case("logsumexp", reduced(), np.logaddexp.reduce, (REAL,), _largest_size)
    yield Case("softmax", on_axis(empty=False), scipy.special.softmax, stable, _largest_size)
    yield Case("log_softmax", on_axis(empty=False), scipy.special.log_softmax, stable, _largest_size)


def _shape() -> Iterator[Case]:
    yield Case("reshape", one(_reshapes), lambda x, shape: np.array(list(x.flat)).reshape(shape))
    orders = one(lambda shape: st.fixed_dictionaries({"axes": st.none() | st.permutations(range(len(shape)))}))
    yield Case("transpose", orders, np.transpose)
    repeats = repeatable().map(lambda drawn: ((drawn[0],), {"shape": drawn[1]}))
    yield Case("broadcast_to", repeats, lambda x, shape: x + np.zeros(shape))
    yield Case("concat", _joined(), lambda *xs, axis: np.concatenate(xs, axis))
    stacks = st.tuples(shapes(max_dims=3), st.integers(1, 3))
    yield Case("stack", stacks.flatmap(lambda drawn: st.tuples(
        st.just((drawn[0],) * drawn[1]), st.fixed_dictionaries({"axis": st.integers(-len(drawn[0]) - 1, len(drawn[0]))})
    )), lambda *xs, axis: np.stack(xs, axis))  # fmt: skip
    yield Case("split", one(_splits, min_dims=1), lambda x, sizes, axis: np.split(x, np.cumsum(sizes)[:-1], axis))
    yield Case("pad", one(_pads), lambda x, widths, value: np.pad(x, widths, constant_values=value) if x.ndim else x)
    yield Case("flip", one(_flips, min_dims=1), np.flip)
    yield Case("roll", one(_rolls, min_dims=1), np.roll)


def _index() -> Iterator[Case]:
    picks = one(lambda shape: st.fixed_dictionaries({"index": _indices(shape)}))
    yield Case("getitem", picks, lambda x, index: np.asarray(x[_plain(index)]))
    yield Case("scatter_add", _scatters(), _scattered, (FINITE,), lambda values, **_: np.abs(values).sum())
    yield Case("take_along_axis", _along(), np.take_along_axis)
    yield Case("one_hot", _labels(), _one_hot, differentiable=False)
    yield Case("sort", on_axis(), np.sort)
    yield Case("top_k", one(_top, min_dims=1, empty=False), _largest, (Domain(REAL.smooth, LOGITS.edges),))


def _one_hot(indices: Any, classes: int) -> np.ndarray:
    return np.eye(classes)[np.asarray(getattr(indices, "numpy", lambda: indices)(), int)]


def _linalg() -> Iterator[Case]:
    yield Case("matmul", _signature("(n?,k),(k,m?)->(n?,m?)"), np.matmul, (FINITE,), _of_sizes(np.matmul))
    sizes = st.tuples(*[st.integers(0, 4)] * 3)
    layers: Inputs = sizes.map(lambda s: (((s[0], s[1]), (s[1], s[2]), (s[2],)), {}))
    yield Case("affine", layers, _affine, (FINITE,), _of_sizes(_affine))
    yield Case(
        "einsum", _einsums(), _loops, (FINITE,), _of_sizes(_loops), lambda *xs, subscripts: ops.einsum(subscripts, *xs)
    )
    square = _signature("(n,n)->(n,n)")
    yield Case(
        "inverse", square, lambda x: np.linalg.solve(x, np.zeros_like(x) + np.eye(x.shape[-1])), (SQUARE,), _cubed
    )
    yield Case("logabsdet", square, lambda x: np.log(np.abs(_determinants(x))), (SQUARE,), _cubed)
    yield Case(
        "slogdet", square, lambda x: [np.sign(_determinants(x)), np.log(np.abs(_determinants(x)))], (SQUARE,), _cubed
    )
    sides = {"lower": st.booleans()}
    yield Case("solve_triangular", _signature("(n,n),(n,m)->(n,m)", **sides), _triangular, (SQUARE, FINITE), _cubed)
    matrices = one(lambda _: st.fixed_dictionaries(sides), min_dims=2)
    yield Case("triangle", matrices, lambda x, lower: np.where(_below(x.shape) if lower else _above(x.shape), x, 0))
    yield Case("swap", one(lambda _: st.just({}), min_dims=2), lambda x: np.moveaxis(x, -1, -2))


def _affine(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    return x @ w + b


def _below(shape: Shape) -> np.ndarray:
    return np.arange(shape[-2])[:, None] >= np.arange(shape[-1])


def _above(shape: Shape) -> np.ndarray:
    return np.arange(shape[-2])[:, None] <= np.arange(shape[-1])


def _convs() -> Iterator[Case]:
    oracles: dict[str, Callable] = {"conv": _conv, "conv_transpose": _conv_transpose, "conv_weight": _conv_weight}
    for name, oracle in oracles.items():
        yield Case(name, _convolutions(name), oracle, (FINITE,), _of_sizes(oracle))


CASES = [*_arithmetic(), *_activation(), *_reduce(), *_shape(), *_index(), *_linalg(), *_convs()]
# Their laws need more than a line here: in the file of tests/ops/ that is named for them.
TESTED_APART = {
    "attention": "attention", "bernoulli_log_prob": "losses", "categorical_log_prob": "losses",
    "coupling": "invertible", "coupling_inverse": "invertible", "diagonal_bilstm": "recurrent", "dropout": "dropout",
    "invertible": "invertible", "invertible_inverse": "invertible", "logistic_mixture_log_prob": "logistic_mixture",
    "lstm_cell": "recurrent", "nearest": "nearest", "normalise": "normalise", "pixel_norm": "normalise",
    "plu": "invertible", "qr": "linalg", "row_lstm": "recurrent", "scale_shift": "normalise",
}  # fmt: skip
