"""Normalisation: sets of elements brought to mean 0 and variance 1, then scaled, shifted and activated."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from micrognm import backend
from micrognm.engine import Tensor
from micrognm.operation import op
from micrognm.ops import activation as activations
from micrognm.ops.arithmetic import rsqrt
from micrognm.ops.reduce import mean as average
from micrognm.ops.shape import reshape

KINDS = ("batch", "layer", "instance", "group")
ACTIVATIONS = ("none", "relu", "leaky_relu", "swish")


@op(outputs=3, keeps=("statistics",))
def normalise(
    x, scale, shift, *, kind="batch", groups=1, centred=True, eps=1e-5, activation="none", slope=0.2
):  # fmt: skip
    """activation((x - mean) / sqrt(var + eps) * scale + shift), mean, var: x [N, ..., C], scale and shift [C] or [N, C]

    kind says which elements share a mean and a variance: "batch" those of a channel (mean and var [C]), "instance"
    those of a channel in one sample ([N, C]), "group" those of one of `groups` equal groups of channels in one sample
    ([N, groups]), "layer" the channels at one position ([N, ...], and then scale and shift are [C] unless x is [N, C]).
    var is divided by the number of elements. centred=False leaves the mean in (it counts as 0) and divides by the root
    mean square. activation: "none", "relu", "leaky_relu" (with slope) or "swish". mean and var have gradients too.
    """
    whole, parameters, groups = _view(x, scale, shift, kind, groups)
    if whole.size == 0 and (kind == "batch" or whole.shape[1] * whole.shape[2] == 0):
        raise ValueError("a mean of no elements: x has an axis of length 0")
    kernel = backend.kernel("normalise", x)
    act = _act(activation, slope)
    y, *statistics = kernel.forward(whole, *parameters, groups, kind == "batch", centred, eps, *act)
    mean, _, var = (s.reshape(_public(x, kind, groups)) for s in statistics)
    return y.reshape(x.shape), mean, var, statistics


def _view(x: Any, scale: Any, shift: Any, kind: str, groups: int) -> tuple[Any, tuple[Any, Any], int]:
    """x as [samples, positions, channels], (scale, shift) as [1 or samples, channels], the number of groups."""
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is unknown; known ones: {', '.join(KINDS)}")
    if x.ndim < 2:
        raise ValueError("x must be [N, ..., C], with at least two axes")
    n, c = x.shape[0], x.shape[-1]
    if kind != "group" and groups != 1:
        raise ValueError(f"groups={groups} goes with kind='group' alone")
    if kind == "group" and (groups < 1 or c % groups):
        raise ValueError(f"groups={groups} must divide the {c} channels")
    for name, parameter in (("scale", scale), ("shift", shift)):
        if parameter.shape not in ((c,), (n, c)):
            raise ValueError(f"{name} must be [{c}] or [{n}, {c}] for {n} samples of {c} channels")
    if scale.shape != shift.shape:
        raise ValueError("scale and shift must have one shape")
    if kind == "layer" and scale.ndim == 2 and x.ndim > 2:
        raise ValueError(f"kind='layer' takes scale and shift [{c}] where x has positions")
    positions = (math.prod(x.shape[:-1]), 1) if kind == "layer" else (n, math.prod(x.shape[1:-1]))
    groups = {"layer": 1, "group": groups}.get(kind, c)
    return x.reshape(*positions, c), (scale.reshape(-1, c), shift.reshape(-1, c)), groups


def _act(activation: str, slope: float) -> tuple[float, bool]:
    """An activation as the kernel takes it: the slope below 0, and whether it is swish."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is unknown; known ones: {', '.join(ACTIVATIONS)}")
    return {"relu": 0.0, "leaky_relu": float(slope)}.get(activation, 1.0), activation == "swish"


def _public(x: Any, kind: str, groups: int) -> tuple[int, ...]:
    """The shape of mean and var."""
    if kind == "layer":
        return x.shape[:-1]
    return x.shape[-1:] if kind == "batch" else (x.shape[0], groups)


def _rule(g, needs, x, scale, shift, kind, groups, centred, eps, activation, slope, statistics):
    whole, parameters, _ = _view(x, scale, shift, kind, groups)
    gy = np.zeros_like(whole) if g[0] is None else g[0].reshape(whole.shape)
    sets = statistics[0]
    gmean, gvar = (np.zeros_like(sets) if s is None else s.reshape(sets.shape) for s in g[1:])
    dx, dscale, dshift = backend.kernel("normalise", x).backward(
        gy, gmean, gvar, whole, *statistics, *parameters, centred, eps, *_act(activation, slope)
    )
    return dx.reshape(x.shape), dscale.reshape(scale.shape), dshift.reshape(shift.shape)


def _composed(x, scale, shift, kind, groups, centred, eps, activation, slope):
    samples = math.prod(x.shape[:-1]) if kind == "layer" else x.shape[0]
    groups = {"layer": 1, "group": groups}.get(kind, x.shape[-1])
    sets = reshape(x, shape=(samples, x.size // max(samples * x.shape[-1], 1), groups, x.shape[-1] // groups))
    axes = (0, 1, 3) if kind == "batch" else (1, 3)
    mean = average(sets, axis=axes, keepdims=True) * float(centred)
    off = sets - mean
    var = average(off * off, axis=axes, keepdims=True)
    hat = reshape(off * rsqrt(var + eps), shape=x.shape)
    y = _activate(hat * _to_channels(scale, x) + _to_channels(shift, x), activation, slope)
    public = _public(x, kind, groups)
    return y, reshape(mean, shape=public), reshape(var, shape=public)


def _to_channels(parameter, x):
    """[C] or [N, C] as it meets x [N, ..., C]."""
    rows = x.shape[0] if parameter.ndim == 2 else 1
    return reshape(parameter, shape=(rows, *[1] * (x.ndim - 2), x.shape[-1]))


def _activate(z, activation, slope):
    if activation == "leaky_relu":
        return activations.leaky_relu(z, slope=slope)
    return z if activation == "none" else getattr(activations, activation)(z)


normalise.vjp_at_once(_rule, _composed)


@op
def scale_shift(x, scale, shift, *, activation="none", slope=0.2):
    """activation(x scale + shift) by channel: x [N, ..., C], scale and shift [C] or [N, C]

    Batch norm with the statistics of the past, actnorm, AdaIN after the normalisation; activations as in `normalise`.
    """
    whole, parameters, _ = _view(x, scale, shift, "batch", 1)
    return backend.kernel("normalise", x).scale_shift(whole, *parameters, *_act(activation, slope)).reshape(x.shape)


def _scale_shift_rule(g, needs, x, scale, shift, activation, slope):
    whole, parameters, _ = _view(x, scale, shift, "batch", 1)
    dx, dscale, dshift = backend.kernel("normalise", x).scale_shift_backward(
        g.reshape(whole.shape), whole, *parameters, *_act(activation, slope)
    )
    return dx.reshape(x.shape), dscale.reshape(scale.shape), dshift.reshape(shift.shape)


scale_shift.vjp_at_once(
    _scale_shift_rule,
    lambda x, scale, shift, activation, slope: _activate(
        x * _to_channels(scale, x) + _to_channels(shift, x), activation, slope
    ),
)


def pixel_norm(x: Tensor, eps: float = 1e-8) -> Tensor:
    """x [..., C] over the root mean square of its channels at each position (Karras et al. 2018, section 4.2)."""
    c = x.shape[-1]
    ones, zeros = Tensor(np.ones(c, x.dtype)), Tensor(np.zeros(c, x.dtype))
    return normalise(x, ones, zeros, kind="layer", centred=False, eps=eps)[0]
