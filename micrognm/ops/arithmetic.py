"""Elementwise arithmetic, comparisons and choices. Shapes broadcast as in NumPy; numbers take the tensors' dtype."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from micrognm import backend
from micrognm.engine import Tensor, stop_gradient
from micrognm.operation import op


@op
def add(a, b):
    """a + b; shapes broadcast: from the right, equal or 1."""
    return a + b


@op
def sub(a, b):
    """a - b; shapes broadcast: from the right, equal or 1."""
    return a - b


@op
def mul(a, b):
    """a * b; shapes broadcast: from the right, equal or 1."""
    return a * b


@op
def div(a, b):
    """a / b; shapes broadcast: from the right, equal or 1."""
    return a / b


@op
def neg(x):
    """-x"""
    return -x


@op
def where(condition, a, b):
    """a where condition, else b; shapes broadcast. The branch not taken gets gradient 0, never NaN."""
    return np.where(condition, a, b)


where.vjp(
    condition=None,
    a=lambda g, condition: where(condition, g, 0.0),
    b=lambda g, condition: where(condition, 0.0, g),
)


@op
def pull(g, slope):
    """g * slope, and 0 where g is 0 even if the slope is infinite or NaN: the value there is not used.

    The chain rule of functions whose slope is unbounded. It keeps NaN out of where(x > 0, log(x), 0) at x = 0.
    """
    out = (g * slope)[...]  # a number, which NumPy makes of two 0-d arrays, is an array again
    np.copyto(out, g, where=g == 0)
    return out


add.vjp(a=lambda g: g, b=lambda g: g)
sub.vjp(a=lambda g: g, b=lambda g: -g)
mul.vjp(a=lambda g, b: g * b, b=lambda g, a: g * a)
div.vjp(a=lambda g, b: pull(g, 1 / b), b=lambda g, b, out: pull(g, -out / b))
neg.vjp(x=lambda g: -g)
pull.vjp(g=lambda u, slope: pull(u, slope), slope=lambda u, g: where(g == 0, 0.0, pull(u, g)))


@op
def power(a, b):
    """a ** b; shapes broadcast. A negative a takes an integer b; the gradient in b is 0 at a = 0, NaN at a < 0."""
    return a**b


def _number(x):
    return not isinstance(x, Tensor)


def _power_a(g, a, b):
    if _number(b):
        return pull(g, b * power(a, b - 1)) if b not in (0, 1) else g * b
    return pull(g, pull(b, power(a, b - 1)))


def _power_b(g, a, out):
    """out log a, and 0 where a is 0: 0^b is 0 for every b > 0."""
    if _number(a):
        return pull(g, out * (math.log(a) if a > 0 else math.nan)) if a else g * 0.0
    return pull(g, pull(log(where(a == 0, 1.0, a)), out))


power.vjp(a=_power_a, b=_power_b)


@op
def exp(x):
    """e^x"""
    return np.exp(x)


@op
def expm1(x):
    """e^x - 1, exact near 0."""
    return np.expm1(x)


@op
def log(x):
    """Natural logarithm."""
    return np.log(x)


@op
def log1p(x):
    """log(1 + x), exact near 0."""
    return np.log1p(x)


@op
def sqrt(x):
    """Square root."""
    return np.sqrt(x)


@op
def rsqrt(x):
    """1 / sqrt(x)"""
    return 1 / np.sqrt(x)


@op
def erf(x):
    """The error function, 2/sqrt(pi) times the integral of e^(-t^2) from 0 to x."""
    return backend.special(x).erf(x)


exp.vjp(x=lambda g, out: pull(g, out))
expm1.vjp(x=lambda g, out: pull(g, out + 1))
log.vjp(x=lambda g, x: pull(g, 1 / x))
log1p.vjp(x=lambda g, x: pull(g, 1 / (1 + x)))
sqrt.vjp(x=lambda g, out: pull(g, 0.5 / out))
rsqrt.vjp(x=lambda g, x, out: pull(g, -0.5 * out / x))
erf.vjp(x=lambda g, x: g * (2 / np.sqrt(np.pi) * exp(-x * x)))


@op
def abs(x):
    """|x|; its gradient at 0 is 0."""
    return np.abs(x)


@op
def sign(x):
    """-1, 0 or 1; no gradient."""
    return np.sign(x)


@op
def round(x):
    """To the nearest integer, halves to the even one; no gradient."""
    return np.round(x)


@op
def floor(x):
    """To the next integer below; no gradient."""
    return np.floor(x)


abs.vjp(x=lambda g, x: g * sign(x))
sign.vjp(x=None)
round.vjp(x=None)
floor.vjp(x=None)


@op
def equal(a, b):
    """a == b, as booleans; no gradient. Shapes broadcast."""
    return a == b


@op
def not_equal(a, b):
    """a != b, as booleans; no gradient. Shapes broadcast."""
    return a != b


@op
def less(a, b):
    """a < b, as booleans; no gradient. Shapes broadcast."""
    return a < b


@op
def less_equal(a, b):
    """a <= b, as booleans; no gradient. Shapes broadcast."""
    return a <= b


@op
def greater(a, b):
    """a > b, as booleans; no gradient. Shapes broadcast."""
    return a > b


@op
def greater_equal(a, b):
    """a >= b, as booleans; no gradient. Shapes broadcast."""
    return a >= b


for comparison in (equal, not_equal, less, less_equal, greater, greater_equal):
    comparison.vjp(a=None, b=None)


@op
def maximum(a, b):
    """The larger of a and b; shapes broadcast. Equal values share the gradient."""
    return np.maximum(a, b)


@op
def minimum(a, b):
    """The smaller of a and b; shapes broadcast. Equal values share the gradient."""
    return np.minimum(a, b)


def _share(winner, loser, like):
    """1 where winner is ahead, 1/2 where equal, as floats of like's dtype."""
    return 0.5 * (cast(winner > loser, dtype=like.dtype) + cast(winner >= loser, dtype=like.dtype))


maximum.vjp(a=lambda g, a, b: g * _share(a, b, g), b=lambda g, a, b: g * _share(b, a, g))
minimum.vjp(a=lambda g, a, b: g * _share(b, a, g), b=lambda g, a, b: g * _share(a, b, g))


@op
def clip(x, *, low, high):
    """x within [low, high], two numbers; the gradient passes inside, ends included."""
    if low is None or high is None:
        raise TypeError("an end is None; write -math.inf or math.inf for no end")
    return np.clip(x, low, high)


clip.vjp(x=lambda g, x, low, high: where((x >= low) * (x <= high), g, 0.0))


@op
def _cast(x, *, dtype):
    """x in another dtype."""
    return x.astype(dtype)


_cast.vjp(x=lambda g, dtypes: _cast(g, dtype=dtypes["x"]))


def cast(x: Tensor, dtype: Any) -> Tensor:
    """x in another dtype; the gradient comes back in x's own. Integers and booleans pass none."""
    y = _cast(x, dtype=dtype)
    return y if y.dtype.kind == "f" else stop_gradient(y)
