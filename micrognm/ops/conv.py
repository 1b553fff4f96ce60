"""Convolution by taps: a sum over listed neighbours. Its gradients are convolutions again, and so are theirs.

    conv            y[n, p] = sum over t of  x[n, p * stride + offset_t] @ w[t], reading zero outside of x
    conv_transpose  its adjoint for a fixed w: g[n, p] @ w[t].T is added wherever conv would have read
    conv_weight     its adjoint for a fixed x

conv and conv_transpose may end in a bias and an activation, a formula of one number, which are applied to a part of the
output while it is in the cache. What the activation was applied to is kept only where its gradient needs it.

All three are one trilinear form, <conv(x, w), g> = <x, conv_transpose(g, w)> = <w, conv_weight(x, g)>, so each one's
rules are the two others and gradients of any order stay among them.

x is [N, *space, C] with one to three axes of space, as many as the taps have; w [taps, C // groups, O]; y and g
[N, *shape, O]. Output channels o of group o // (O // groups) read the input channels of that group alone.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from micrognm import backend
from micrognm.engine import Tensor, state, tensor
from micrognm.formula import Formula
from micrognm.kernels.formula import program
from micrognm.operation import op
from micrognm.ops.reduce import sum
from micrognm.taps import Offset, Taps

Activation = Formula | partial[Tensor]  # a formula of one input, or a partial of it that sets its options


class _Reading(NamedTuple):
    """How the input is read."""

    offsets: tuple[Offset, ...]
    stride: tuple[int, ...]
    groups: int


class _Activated(NamedTuple):
    """How a convolution ends that has an activation."""

    formula: Formula
    options: dict[str, float]
    keep: bool  # what the formula is applied to, for its gradient


# ---- the operations: what they are given has been checked ------------------------------------------------------------


@op
def _conv(x, w, bias, *, how, shape):
    """x [N, *space, C], w [taps, C // groups, O], bias [O] or the number 0 -> [N, *shape, O]"""
    return backend.kernel("conv", x).forward(x, w, _array(bias), how.offsets, how.stride, shape, how.groups)


@op
def _conv_transpose(g, w, bias, *, how, shape):
    """g [N, *space, O], w [taps, C // groups, O], bias [C] or the number 0 -> [N, *shape, C]"""
    return backend.kernel("conv", g).input_gradient(g, w, _array(bias), how.offsets, how.stride, shape, how.groups)


@op
def _conv_weight(x, g, *, how):
    """x [N, *space, C], g [N, *shape, O] -> [taps, C // groups, O]"""
    return backend.kernel("conv", x).weight_gradient(x, g, how.offsets, how.stride, how.groups)


@op(keeps=("before",))
def _conv_activated(x, w, bias, *, how, shape, end):
    """x [N, *space, C], w [taps, C // groups, O], bias [O] or the number 0 -> [N, *shape, O]"""
    return _fused(backend.kernel("conv", x).forward, x, w, bias, how, shape, end)


@op(keeps=("before",))
def _conv_transpose_activated(g, w, bias, *, how, shape, end):
    """g [N, *space, O], w [taps, C // groups, O], bias [C] or the number 0 -> [N, *shape, C]"""
    return _fused(backend.kernel("conv", g).input_gradient, g, w, bias, how, shape, end)


def _fused(kernel, x, w, bias, how, shape, end):
    """The output, and what the activation was applied to, or None."""
    last = program.Activation(end.formula.program, end.options)
    y = kernel(x, w, _array(bias), how.offsets, how.stride, shape, how.groups, last, end.keep)
    return y if end.keep else (y, None)


def _array(bias):
    """A kernel takes None for no bias."""
    return bias if backend.is_array(bias) else None


def _to_bias(c):
    return sum(c, axis=tuple(range(c.ndim - 1)))


# c is the cotangent of the output.
_conv.vjp(
    x=lambda c, w, shapes, how: _conv_transpose(c, w, 0, how=how, shape=shapes["x"][1:-1]),
    w=lambda c, x, how: _conv_weight(x, c, how=how),
    bias=_to_bias,
)
_conv_transpose.vjp(
    g=lambda c, w, shapes, how: _conv(c, w, 0, how=how, shape=shapes["g"][1:-1]),
    w=lambda c, g, how: _conv_weight(c, g, how=how),
    bias=_to_bias,
)
_conv_weight.vjp(
    x=lambda c, g, shapes, how: _conv_transpose(g, c, 0, how=how, shape=shapes["x"][1:-1]),
    g=lambda c, x, shapes, how: _conv(x, c, 0, how=how, shape=shapes["g"][1:-1]),
)


def _pulled(c, before, out, end):
    """The cotangent of what the activation was applied to."""
    known = {end.formula.program.inputs[0]: before, "out": out, **end.options}
    return end.formula.slope(tensor(c), *(known[name] for name in _named(end.formula)))


def _named(formula):
    """What the rule of a formula's gradient is given beside the cotangent."""
    return list(inspect.signature(formula.slope).parameters)[1:]


def _conv_gradients(c, needs, x, w, how, shapes, end, before, out):
    c = _pulled(c, before, out, end)
    return [
        _conv_transpose(c, w, 0, how=how, shape=shapes["x"][1:-1]).data if needs[0] else None,
        _conv_weight(x, c, how=how).data if needs[1] else None,
        _to_bias(c).data if needs[2] else None,
    ]


def _conv_transpose_gradients(c, needs, g, w, how, shapes, end, before, out):
    c = _pulled(c, before, out, end)
    return [
        _conv(c, w, 0, how=how, shape=shapes["g"][1:-1]).data if needs[0] else None,
        _conv_weight(c, g, how=how).data if needs[1] else None,
        _to_bias(c).data if needs[2] else None,
    ]


def _composed(linear):
    """The same, in operations whose gradients are recorded."""
    return lambda x, w, bias, how, shape, end: end.formula(linear(x, w, bias, how=how, shape=shape), **end.options)


_conv_activated.vjp_at_once(_conv_gradients, _composed(_conv))
_conv_transpose_activated.vjp_at_once(_conv_transpose_gradients, _composed(_conv_transpose))


# ---- what users call -------------------------------------------------------------------------------------------------


def conv(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None = None,
    *,
    taps: Taps,
    stride: int | tuple[int, ...] = 1,
    shape: tuple[int, ...] | None = None,
    groups: int = 1,
    activation: Activation | None = None,
) -> Tensor:
    """y[n, p] = bias + sum over t of x[n, p * stride + offset_t] @ w[t]: x [N, *space, C] -> [N, *shape, O].

    w [taps, C // groups, O], bias [O]. stride: one number, or one an axis. shape: the output's sizes, which may be any,
    for zero is read outside of x; by default ceil(size / stride). activation: a formula of one input that is applied
    to y in the same pass, such as ops.elu, or partial(ops.elu, alpha=0.5). ValueError says which argument does not fit.
    """
    call = "conv", {"x": x, "w": w, "bias": bias}
    how = _reading(call, taps, stride, groups)
    _image(call, "x", taps, w.shape[1] * groups)
    _vector(call, w.shape[2])
    size = tuple(-(-n // s) for n, s in zip(x.shape[1:-1], how.stride, strict=True)) if shape is None else shape
    size = _numbers(call, "shape", size, taps, 0)
    return _call(_conv, _conv_activated, call, how, size, activation)


def conv_transpose(
    g: Tensor,
    w: Tensor,
    bias: Tensor | None = None,
    *,
    taps: Taps,
    stride: int | tuple[int, ...] = 1,
    shape: tuple[int, ...] | None = None,
    groups: int = 1,
    activation: Activation | None = None,
) -> Tensor:
    """The adjoint of conv: g[n, p] @ w[t].T is added at p * stride + offset_t: g [N, *space, O] -> [N, *shape, C].

    w [taps, C // groups, O] is that of conv; bias [C]; activation as in conv. shape: the output's sizes, by default
    size * stride; what would be added outside is dropped, as conv reads zero there. ValueError says which argument does
    not fit.
    """
    call = "conv_transpose", {"g": g, "w": w, "bias": bias}
    how = _reading(call, taps, stride, groups)
    _image(call, "g", taps, w.shape[2])
    _vector(call, w.shape[1] * groups)
    size = tuple(n * s for n, s in zip(g.shape[1:-1], how.stride, strict=True)) if shape is None else shape
    size = _numbers(call, "shape", size, taps, 0)
    return _call(_conv_transpose, _conv_transpose_activated, call, how, size, activation)


def conv_weight(x: Tensor, g: Tensor, *, taps: Taps, stride: int | tuple[int, ...] = 1, groups: int = 1) -> Tensor:
    """The gradient of <conv(x, w), g> to w: x [N, *space, C], g [N, *shape, O] -> [taps, C // groups, O].

    ValueError says which argument does not fit.
    """
    call = "conv_weight", {"x": x, "g": g}
    how = _reading(call, taps, stride, groups)
    _image(call, "x", taps, None)
    _image(call, "g", taps, None)
    if x.shape[0] != g.shape[0]:
        raise _misfit(call, f"x holds {x.shape[0]} images, g {g.shape[0]}; give both of one batch")
    if x.shape[-1] % groups or g.shape[-1] % groups:
        raise _misfit(call, f"groups={groups} must divide the {x.shape[-1]} channels of x and the {g.shape[-1]} of g")
    return _conv_weight(x, g, how=how)


def _call(linear: Any, activated: Any, call: _Call, how: _Reading, shape: tuple[int, ...], activation: Any) -> Tensor:
    x, w, bias = call[1].values()
    bias = 0 if bias is None else bias
    if activation is None:
        return linear(x, w, bias, how=how, shape=shape)
    formula, options = formula_of(call[0], activation)
    recorded = state.recording and any(isinstance(v, Tensor) and v.requires_grad for v in (x, w, bias))
    end = _Activated(formula, options, recorded and formula.program.inputs[0] in _named(formula))
    return activated(x, w, bias, how=how, shape=shape, end=end)


# ---- checks ----------------------------------------------------------------------------------------------------------

_Call = tuple[str, dict[str, Any]]  # the operation's name and its inputs
_FLOATS = tuple(map(np.dtype, backend.DTYPES))
_RULES = {
    "conv": "x [N, *space, C], w [taps, C // groups, O], bias [O] -> [N, *shape, O]",
    "conv_transpose": "g [N, *space, O], w [taps, C // groups, O], bias [C] -> [N, *shape, C]",
    "conv_weight": "x [N, *space, C], g [N, *shape, O] -> [taps, C // groups, O]",
}


def _misfit(call: _Call, what: str) -> ValueError:
    name, inputs = call
    shown = ", ".join(f"{arg}: {x.dtype}{list(x.shape)}" for arg, x in inputs.items() if x is not None)
    return ValueError(f"{name}({shown}): {what}. The rule: {_RULES[name]}")


def _reading(call: _Call, taps: Taps, stride: Any, groups: int) -> _Reading:
    """How the input is read, after a look at what all calls have in common: inputs, taps, stride, groups and w."""
    name, inputs = call
    for arg, x in inputs.items():
        if x is None and arg == "bias":
            continue
        if not isinstance(x, Tensor) and not backend.is_array(x):
            raise TypeError(f"{name}: argument {arg!r} is {type(x).__name__}; expected a Tensor or an array")
        if x.dtype not in _FLOATS:
            raise TypeError(f"{name}: argument {arg!r} is {x.dtype}; cast it first: {arg}.cast(dtype='float32')")
    if not isinstance(taps, Taps):
        raise TypeError(f"{name}: taps is {type(taps).__name__}; expected Taps, as micrognm.taps.square(3) makes them")
    if not int(groups) == groups >= 1:
        raise _misfit(call, f"groups must be a whole number of 1 or more, got {groups}")
    if (w := inputs.get("w")) is not None:
        if w.ndim != 3:
            raise _misfit(call, f"w must have three axes, it has {w.ndim}")
        if w.shape[0] != len(taps):
            raise _misfit(call, f"w has weights for {w.shape[0]} taps, given are {len(taps)}")
        if w.shape[2] % groups:
            raise _misfit(call, f"groups={groups} must divide the {w.shape[2]} channels O of w")
    strides = stride if isinstance(stride, tuple) else (stride,) * taps.dims
    return _Reading(taps.offsets, _numbers(call, "stride", strides, taps, 1), int(groups))


def formula_of(name: str, activation: Any) -> tuple[Formula, dict[str, float]]:
    """The formula and all its options."""
    given = activation.keywords if isinstance(activation, partial) else {}
    made: Any = activation.func if isinstance(activation, partial) else activation
    if getattr(made, "program", None) is None or (isinstance(activation, partial) and activation.args):
        raise TypeError(
            f"{name}: activation is {getattr(made, '__name__', type(made).__name__)}; expected a formula, such as "
            "ops.elu or what micrognm.formula makes, or a partial of one that sets its options"
        )
    if made.slope is None:
        raise ValueError(
            f"{name}: activation {made.__name__}({', '.join(made.program.inputs)}) must be a formula of one input that "
            f"has a gradient and ends in no sum; apply it to the output of {name} instead"
        )
    parameters = inspect.signature(made.__wrapped__).parameters
    defaults = {o: parameters[o].default for o in made.program.options}
    wrong = [o for o in given if o not in defaults]
    missing = [o for o, x in {**defaults, **given}.items() if x is inspect.Parameter.empty]
    if wrong or missing:
        raise TypeError(
            f"{name}: activation {made.__name__} has the options {', '.join(defaults) or 'none'}; "
            f"{f'unknown: {wrong}' if wrong else f'without a value: {missing}'}"
        )
    return made, {o: float(given.get(o, x)) for o, x in defaults.items()}


def _image(call: _Call, arg: str, taps: Taps, channels: int | None) -> None:
    x = call[1][arg]
    if x.ndim != taps.dims + 2:
        what = f"with taps of {taps.dims} axes {arg} has {taps.dims + 2}: N, {taps.dims} of space, channels"
        raise _misfit(call, f"{what}; got {x.ndim}")
    if channels is not None and x.shape[-1] != channels:
        raise _misfit(call, f"w is for {channels} channels of {arg}, which has {x.shape[-1]}")


def _vector(call: _Call, channels: int) -> None:
    bias = call[1]["bias"]
    if bias is not None and bias.shape != (channels,):
        raise _misfit(call, f"bias must have the shape [{channels}], a number for each output channel")


def _numbers(call: _Call, option: str, given: tuple[int, ...], taps: Taps, least: int) -> tuple[int, ...]:
    """A whole number for each axis of space."""
    if len(given) != taps.dims or any(int(n) != n or n < least for n in given):
        what = f"{option} must be {taps.dims} whole numbers of {least} or more, one an axis"
        raise _misfit(call, f"{what}; got {given}")
    return tuple(map(int, given))
