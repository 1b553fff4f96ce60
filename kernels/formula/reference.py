"""A program in plain NumPy, one operation after the other; on CuPy arrays too, by NumPy's own protocols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from micrognm.kernels.formula.emit import numpy_source
from micrognm.kernels.formula.program import Array, Program, Shape

from micrognm import backend


def run(
    program: Program, inputs: Sequence[Any], options: Mapping[str, float], shapes: tuple[Shape, ...] | None = None
) -> list[Array]:
    """The outputs for inputs (arrays and numbers) and options. shapes: as in Program."""
    like = next(x for x in inputs if hasattr(x, "dtype") and x.dtype.kind == "f")
    if "numpy" not in program.made:
        program.made["numpy"] = _compiled(program)
    full, within, results = program.ends(shapes or tuple(getattr(x, "shape", ()) for x in inputs))
    given = [x if hasattr(x, "dtype") else like.dtype.type(x) for x in inputs]
    numbers = [like.dtype.type(options[name]) for name in program.options]
    with np.errstate(all="ignore"):  # both branches of a where are computed
        made = program.made["numpy"](like.dtype.type, *given, *numbers)
    made = [x if backend.is_array(x) else np.full_like(like, x, shape=()) for x in made]
    return [summed(x, full, shape).reshape(end) for x, shape, end in zip(made, within, results, strict=True)]


def _compiled(program: Program) -> Any:
    scope = {"np": np, "sigmoid": sigmoid, "softplus": softplus, "log_sigmoid": log_sigmoid, "erf": erf, "pull": pull}
    made: dict[str, Any] = {}  # apart from the scope: the formula sigmoid calls the function sigmoid
    exec(compile(numpy_source(program), f"<formula {program.name}>", "exec"), scope, made)
    return made[program.name]


def summed(x: Array, full: Shape, shape: Shape) -> Array:
    """x, of a shape that broadcasts to full, repeated to full and summed to shape."""
    if x.shape == full == shape:
        return x
    x = np.broadcast_to(x, full)
    lead = len(full) - len(shape)
    axes = tuple(k for k in range(len(full)) if k < lead or (shape[k - lead] == 1 and full[k] != 1))
    return np.sum(x, axis=axes, keepdims=True).reshape(shape) if axes else x.copy()


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x), without overflow."""
    e = np.exp(-np.abs(x))
    return np.maximum(e, x >= 0) / (1 + e)  # 1 / (1 + e) for x >= 0, e / (1 + e) below


def softplus(x: Array) -> Array:
    """log(1 + e^x), without overflow and exact where it is small."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def log_sigmoid(x: Array) -> Array:
    """log(sigmoid(x))"""
    return -softplus(-x)


def erf(x: Array) -> Array:
    """The error function."""
    x = x if backend.is_array(x) else np.asarray(x)  # NumPy makes numbers of arrays without axes
    return backend.special(x).erf(x)


def pull(g: Array, slope: Array) -> Array:
    """g * slope, and 0 where g is 0 even if the slope is infinite or NaN."""
    if not backend.is_array(g):
        return g * slope if g else g
    return np.where(g == 0, g, g * slope)
