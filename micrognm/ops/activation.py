"""Activations. Written with exp and log, which NumPy vectorises; log1p and expm1 it does not on every machine."""

from __future__ import annotations

import math

import numpy as np

from micrognm.engine import Tensor
from micrognm.operation import op
from micrognm.ops.arithmetic import clip, erf, expm1, where
from micrognm.ops.shape import concat


@op
def tanh(x):
    """Hyperbolic tangent."""
    return np.tanh(x)


@op
def sigmoid(x):
    """1 / (1 + e^-x), without overflow."""
    e = np.exp(-np.abs(x))
    return np.maximum(e, x >= 0) / (1 + e)  # 1 / (1 + e) for x >= 0, e / (1 + e) below


@op
def softplus(x):
    """log(1 + e^x), without overflow and exact where it is small."""
    e = np.exp(-np.abs(x))
    u = 1 + e
    # log1p(e) = log(u) - ((u - 1) - e) / u: the rounding error of u, put back (Kahan)
    return np.maximum(x, 0) + (np.log(u) - ((u - 1) - e) / u)


@op
def relu(x):
    """max(x, 0); its gradient at 0 is 0."""
    return np.maximum(x, 0)


@op
def leaky_relu(x, *, slope=0.01):
    """x where positive, else slope * x; at 0 the gradient is slope."""
    return np.where(x > 0, x, x * slope)


tanh.vjp(x=lambda g, out: g * (1 - out * out))
sigmoid.vjp(x=lambda g, out: g * (out * (1 - out)))
softplus.vjp(x=lambda g, x: g * sigmoid(x))
relu.vjp(x=lambda g, out: g * (out > 0))
leaky_relu.vjp(x=lambda g, x, slope: where(x > 0, g, g * slope))


def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """x where positive, else alpha (e^x - 1)."""
    return where(x > 0, x, alpha * expm1(clip(x, low=-math.inf, high=0.0)))


def concat_elu(x: Tensor) -> Tensor:
    """[elu(x), elu(-x)] along the last axis, which doubles."""
    return elu(concat(x, -x, axis=-1))


def gelu(x: Tensor) -> Tensor:
    """x times the normal distribution function of x (exact, by erf)."""
    return x * (0.5 * (1 + erf(x * math.sqrt(0.5))))


def swish(x: Tensor) -> Tensor:
    """x * sigmoid(x), also called SiLU."""
    return x * sigmoid(x)
