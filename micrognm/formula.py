"""One formula in, an operation out: compiled into one pass over memory, and so are its derivatives, of every order.

    from micrognm.formula import formula, sigmoid, tanh

    @formula
    def gated(a, b):
        "tanh(a) sigmoid(b); shapes broadcast."
        return tanh(a) * sigmoid(b)

`gated` takes tensors, arrays and numbers like every other operation. The function runs once, on symbols: it may use
+ - * / **, comparisons, & | ~ on conditions, numbers, and the functions of this module. Keyword-only parameters are
numbers that each call gives. Inputs broadcast, and are not repeated in memory for it. A formula may end in a sum or a
mean over trailing axes, which the same pass makes:

    @formula
    def kl(mean, log_scale):
        return sum(0.5 * (mean * mean + exp(2 * log_scale) - 1) - log_scale, axes=1)

`gated.source()` is the code that runs. How it comes about is told in kernels/formula/README.md.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from micrognm import backend
from micrognm.kernels.formula.derive import gradients
from micrognm.kernels.formula.program import Program, layout
from micrognm.kernels.formula.symbols import (
    Symbol,
    abs,
    clip,
    erf,
    exp,
    expm1,
    floor,
    log,
    log1p,
    log_sigmoid,
    maximum,
    minimum,
    neg,
    option,
    sigmoid,
    sign,
    softplus,
    sqrt,
    symbol,
    tanh,
    value,
    variable,
    walk,
    where,
)
from micrognm.operation import NUMBERS, Operation, op

__all__ = [
    "abs", "clip", "erf", "exp", "expm1", "floor", "formula", "log", "log1p", "log_sigmoid", "maximum", "mean",
    "minimum", "sigmoid", "sign", "softplus", "sqrt", "sum", "tanh", "where",
]  # fmt: skip

Array = Any
LANGUAGES = ("numba", "numpy", "cuda")


class Formula(Operation, Protocol):
    """What `formula` makes of a function.

    program: what kernels run. slope: where the formula has one input and ends in no sum, the rule of its gradient:
    slope(g, ...) in operations, of what its parameters name: the input, `out`, options. None where there is no such.
    """

    program: Program
    slope: Callable[..., Any] | None

    def source(self, language: str = "numba") -> str:
        """The code of the formula and of its gradients for arrays of one shape: "numba", "numpy" or "cuda"."""


@dataclass(frozen=True)
class Total:
    """A sum over the last axes (None: all) of an expression, or the mean: where a formula ends."""

    of: Symbol
    axes: int | None
    mean: bool

    def __neg__(self) -> Total:
        return replace(self, of=neg(self.of))

    def __mul__(self, factor: Any) -> Total:
        if value(symbol(factor)) is None:
            raise TypeError("formula: only a number may multiply a sum; multiply inside it")
        return replace(self, of=factor * self.of)

    __rmul__ = __mul__

    def __add__(self, other: Any) -> Total:
        raise TypeError("formula: a sum over axes is where a formula ends; add inside it")

    __radd__ = __sub__ = __rsub__ = __truediv__ = __rtruediv__ = __pow__ = __add__


def sum(x: Any, axes: int | None = None) -> Total:
    """The sum of an expression over its last `axes` axes, or over all; it ends a formula."""
    return _total(x, axes, False)


def mean(x: Any, axes: int | None = None) -> Total:
    """The mean of an expression over its last `axes` axes, or over all; it ends a formula."""
    return _total(x, axes, True)


def _total(x: Any, axes: int | None, mean: bool) -> Total:
    if axes is not None and (not isinstance(axes, int) or axes < 1):
        raise ValueError(f"formula: axes must be how many trailing axes are summed, 1 or more, or None; got {axes!r}")
    return Total(symbol(x), axes, mean)


def formula(function: Callable[..., Any]) -> Formula:
    """Make a function of symbols an operation; see above. Raises TypeError for what cannot be traced."""
    name = function.__name__
    parameters = inspect.signature(function).parameters.values()
    wrong = [p.name for p in parameters if p.kind not in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    wrong += [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is not p.empty]
    inputs = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    options = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    if wrong or not inputs:
        raise TypeError(
            f"formula {name}: parameters are inputs (named, without defaults, one at least) and, after a *, options "
            f"that are numbers; it has {', '.join(wrong) or 'no input'}"
        )
    made = function(*map(variable, inputs), **{p.name: option(p.name) for p in options})
    total = made if isinstance(made, Total) else None
    try:
        root = symbol(made if total is None else total.of)
    except TypeError as error:
        raise TypeError(f"formula {name} returns {type(made).__name__}; it must return one expression") from error
    if not name.isidentifier():
        raise TypeError(f"formula {name}: errors and generated code call a formula by its name; write it with def")
    return _operation(name, inputs, options, root, total, function)


def _operation(
    name: str,
    inputs: Sequence[str],
    options: Sequence[inspect.Parameter],
    root: Symbol,
    total: Total | None = None,
    function: Callable[..., Any] | None = None,
) -> Any:
    """The operation that computes root."""
    numbers = [p.name for p in options]

    def ends(shapes: Any) -> Any:
        full = _full(inputs, shapes)
        if total is None:
            return full, (full,), (full,)
        kept, ones, _ = _ends(full, total)
        return full, (kept + ones,), (kept,)

    program = Program(name, inputs, numbers, [root], ends)

    def forward(*xs: Any, **given: Any) -> Array:
        (y,) = _run(program, xs, given)
        if total is None or not total.mean:
            return y
        return y * (1 / _ends(_full(inputs, [getattr(x, "shape", ()) for x in xs]), total)[2])

    forward.__name__, forward.__doc__ = name, function and function.__doc__
    forward.__module__, forward.__signature__ = getattr(function, "__module__", __name__), _signature(inputs, options)  # type: ignore[attr-defined]
    call: Any = op(forward)
    g, out = _fresh("g", inputs), _fresh("y", inputs)
    slopes = gradients(root, [variable(x) for x in inputs], variable(g), None if total else variable(out))
    call.program, call.slope = program, None
    if len(inputs) == 1 and total is None:
        rules = _rules(name, inputs, options, slopes, g, out)
        call.vjp(**rules)
        call.slope = rules[inputs[0]]
    else:
        call.vjp_at_once(
            _at_once(program, slopes, g, out, total), _composed(name, inputs, options, root, total, slopes, g, out)
        )
    call.source = functools.partial(_source, program, slopes, g, out)
    return call


def _signature(names: Sequence[str], options: Sequence[inspect.Parameter] = ()) -> inspect.Signature:
    """Parameters of these names, then the options."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature([*(inspect.Parameter(name, kind) for name in names), *options])


def _fresh(name: str, taken: Sequence[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _used(roots: Sequence[Symbol], op: str) -> list[str]:
    return [x.args[0] for x in walk(roots) if x.op == op]


def _rules(
    name: str, inputs: Sequence[str], options: Sequence[inspect.Parameter], slopes: Sequence[Symbol], g: str, out: str
) -> dict[str, Any]:
    """The rule of each input: a formula of its own, made when it is first called."""
    rules: dict[str, Any] = {}
    for x, slope in zip(inputs, slopes, strict=True):
        if value(slope) == 0:
            rules[x] = None
            continue
        names = [y for y in _used([slope], "input") if y != g]
        numbers = _used([slope], "option")
        kept = [p.replace(default=inspect.Parameter.empty) for p in options if p.name in numbers]

        @functools.cache
        def derived(slope: Symbol = slope, names: Any = names, kept: Any = kept, x: str = x) -> Any:
            return _operation(f"{name}_{x}", [g, *names], kept, slope)

        def rule(g: Any, *saved: Any, derived: Any = derived, n: int = len(names), numbers: Any = numbers) -> Any:
            return derived()(g, *saved[:n], **dict(zip(numbers, saved[n:], strict=True)))

        asked = ["_g", *("out" if y == out else y for y in names), *numbers]
        rule.__signature__ = _signature(asked)  # type: ignore[attr-defined]
        rules[x] = _same if slope is variable(g) else rule
    return rules


def _same(g: Any) -> Any:
    return g


def _at_once(program: Program, slopes: Sequence[Symbol], g: str, out: str, total: Total | None) -> Any:
    """rule(g, needs, ...): the gradients that are needed, in one pass, summed to the shapes of their inputs."""
    names = [y for y in _used(slopes, "input") if y != g]
    numbers = _used(slopes, "option")
    exists = [value(slope) != 0 for slope in slopes]

    @functools.cache
    def needed(needs: tuple[bool, ...]) -> Program:
        wanted = [slope for slope, need in zip(slopes, needs, strict=True) if need]
        read = set(_used(wanted, "input"))

        def ends(shapes: Any) -> Any:
            mine = tuple(shape for shape, need in zip(shapes, needs, strict=True) if need)
            return np.broadcast_shapes(*shapes), mine, mine

        return Program(f"{program.name}_gradients", [y for y in (g, *names) if y in read], numbers, wanted, ends)

    def rule(cotangent: Array, needs: tuple[bool, ...], shapes: dict[str, Any], *saved: Any) -> list[Array | None]:
        needs = tuple([need and rising for need, rising in zip(needs, exists, strict=True)])
        if total is not None:
            kept, ones, count = _ends(np.broadcast_shapes(*shapes.values()), total)
            cotangent = (cotangent * (1 / count) if total.mean else cotangent).reshape(kept + ones)
        made = needed(needs)
        known = dict(zip((g, *names), (cotangent, *saved), strict=False))
        given = dict(zip(numbers, saved[len(names) :], strict=True))
        found = _run(made, [known[y] for y in made.inputs], given, tuple(shapes.values())) if any(needs) else []
        return [found.pop(0) if need else None for need in needs]

    asked = ["_g", "_needs", "shapes", *("out" if y == out else y for y in names), *numbers]
    rule.__signature__ = _signature(asked)  # type: ignore[attr-defined]
    return rule


def _composed(
    name: str, inputs: Sequence[str], options: Any, root: Symbol, total: Total | None, slopes: Any, g: str, out: str
) -> Any:
    """The same function, whose rules are formulas one by one, and with the sum as an operation of its own."""

    @functools.cache
    def parts() -> Any:
        program = Program(name, inputs, [p.name for p in options], [root])

        def forward(*xs: Any, **given: Any) -> Array:
            return _run(program, xs, given)[0]

        forward.__name__, forward.__signature__ = name, _signature(inputs, options)  # type: ignore[attr-defined]
        plain: Any = op(forward)
        plain.vjp(**_rules(name, inputs, options, slopes, g, out))
        return plain

    def composed(*xs: Any, **given: Any) -> Any:
        from micrognm import ops

        y = parts()(*xs, **given)
        if total is None:
            return y
        axes = y.ndim if total.axes is None else total.axes
        return (ops.mean if total.mean else ops.sum)(y, axis=tuple(range(y.ndim - axes, y.ndim)))

    return composed


def _ends(full: tuple[int, ...], total: Total) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """The shape that is left, ones for the axes that are summed over, and how many elements each sum has."""
    axes = len(full) if total.axes is None else total.axes
    if axes > len(full):
        raise ValueError(f"a sum over the last {axes} axes of {list(full)}")
    kept = full[: len(full) - axes]
    count = math.prod(full[len(full) - axes :])
    if total.mean and count == 0:
        raise ValueError("the mean of no elements")
    return kept, (1,) * axes, count


def _full(inputs: Sequence[str], shapes: Sequence[Any]) -> tuple[int, ...]:
    """The shape to which inputs of these shapes broadcast."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        shown = ", ".join(f"{name} {list(shape)}" for name, shape in zip(inputs, shapes, strict=True))
        raise ValueError(f"shapes do not broadcast ({shown}): from the right, sizes must be equal or 1") from None


def _run(program: Program, xs: Sequence[Any], options: dict[str, Any], shapes: Any = None) -> list[Array]:
    """The outputs, by the implementation that the arrays call for."""
    like = None
    for x in xs:
        if x.__class__ in NUMBERS:
            continue
        kind = x.dtype.kind
        if kind == "f":
            like = x
        elif kind != "b":
            name = program.inputs[[y is x for y in xs].index(True)]
            raise TypeError(
                f"argument {name!r} holds {x.dtype}; a formula takes float32, float64 and booleans. "
                f"Cast it: {name}.cast(dtype='float32')"
            )
    if like is not None:
        return backend.kernel("formula", like).run(program, xs, options, shapes)
    # Numbers and conditions alone make float32.
    place = next((k for k, x in enumerate(xs) if x.__class__ in NUMBERS), 0)
    xs = [*xs[:place], backend.asarray(xs[place], np.float32), *xs[place + 1 :]]
    return backend.kernel("formula", xs[place]).run(program, xs, options, shapes)


def _source(program: Program, slopes: Sequence[Symbol], g: str, out: str, language: str = "numba") -> str:
    from micrognm.kernels.formula import emit

    if language not in LANGUAGES:
        raise ValueError(f"source: language {language!r} is unknown; known ones: {', '.join(LANGUAGES)}")
    wanted = [slope for slope in slopes if value(slope) != 0]
    read = set(_used(wanted, "input"))
    inputs = [x for x in (g, *program.inputs, out) if x in read]
    programs = [program, Program(f"{program.name}_gradients", inputs, _used(wanted, "option"), wanted)]
    texts = []
    for made in programs[: 1 + bool(wanted)]:
        if language == "numpy":
            texts.append(emit.numpy_source(made))
            continue
        at = layout((2,), [(2,)] * len(made.inputs), [(2,)] * len(made.outputs))
        write = emit.numba_source if language == "numba" else emit.cuda_source
        texts.append(write(made, at, ["float32"] * len(made.inputs), "float32"))
    return "\n\n".join(texts)
