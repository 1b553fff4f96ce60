"""Activations: formulas, compiled into one pass over memory with their derivatives."""

from __future__ import annotations

import math

from micrognm import formula as f
from micrognm.engine import Tensor
from micrognm.formula import formula
from micrognm.ops.shape import concat


@formula
def tanh(x):
    """Hyperbolic tangent."""
    return f.tanh(x)


@formula
def sigmoid(x):
    """1 / (1 + e^-x), without overflow."""
    return f.sigmoid(x)


@formula
def softplus(x):
    """log(1 + e^x), without overflow and exact where it is small."""
    return f.softplus(x)


@formula
def relu(x):
    """max(x, 0); its gradient at 0 is 0."""
    return f.where(x <= 0, 0, x)  # so that NaN stays


@formula
def leaky_relu(x, *, slope=0.01):
    """x where positive, else slope * x; at 0 the gradient is slope."""
    return f.where(x > 0, x, slope * x)


@formula
def elu(x, *, alpha=1.0):
    """x where positive, else alpha (e^x - 1)."""
    return f.where(x > 0, x, alpha * f.expm1(x))


def concat_elu(x: Tensor) -> Tensor:
    """[elu(x), elu(-x)] along the last axis, which doubles."""
    return elu(concat(x, -x, axis=-1))


@formula
def gelu(x):
    """x times the normal distribution function of x (exact, by erf)."""
    return 0.5 * x * (1 + f.erf(math.sqrt(0.5) * x))


@formula
def swish(x):
    """x * sigmoid(x), also called SiLU."""
    return x * f.sigmoid(x)
