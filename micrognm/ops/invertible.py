"""The layers of a flow that have an inverse and a cheap log-determinant: Glow's 1x1 convolution and the coupling."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from micrognm import backend
from micrognm.engine import Tensor, stop_gradient
from micrognm.operation import op
from micrognm.ops.activation import sigmoid as logistic
from micrognm.ops.activation import softplus
from micrognm.ops.arithmetic import exp
from micrognm.ops.linalg import affine, inverse, logabsdet, matmul, triangle
from micrognm.ops.reduce import sum
from micrognm.ops.shape import reshape

# ---- actnorm and the 1x1 convolution ---------------------------------------------------------------------------------


@op(outputs=2, keeps=("scale", "inverse_transposed"))
def invertible(x, weight, log_scale, shift, *, determinant=True):
    """(e^log_scale x + shift) @ weight, x [N, ..., C], weight [C, C], log_scale [C], shift [C]; log-determinant, []

    Glow's actnorm and invertible 1x1 convolution (Kingma and Dhariwal 2018, table 1) as one product: y [N, ..., C], and
    the log-determinant of a sample, the same for all: its number of pixels times sum(log_scale) + log |det weight|, of
    which the second is left out without `determinant` (see plu). ValueError where weight is singular.
    """
    _check_step(x, weight, log_scale, shift)
    kernel, scale = backend.kernel("invertible", x), np.exp(log_scale)
    logdet, inverse_transposed = np.sum(log_scale, keepdims=True), None
    if determinant:
        of_weight, inverse_transposed = kernel.determinant(weight)
        if of_weight == -np.inf:
            raise ValueError("weight is singular: its determinant is 0, the logarithm -infinity")
        logdet = logdet + of_weight
    logdet = (_pixels(x) * logdet).reshape(())
    return kernel.forward(x, weight, scale, shift), logdet, scale, inverse_transposed


def _check_step(x: Any, weight: Any, log_scale: Any, shift: Any) -> None:
    if x.ndim < 2:
        raise ValueError("x has no axis of samples before that of channels; write x[None]")
    c = x.shape[-1]
    for name, parameter, shape in ("weight", weight, (c, c)), ("log_scale", log_scale, (c,)), ("shift", shift, (c,)):
        if parameter.shape != shape:
            raise ValueError(f"{name} must be {list(shape)} for {c} channels of x, is {list(parameter.shape)}")


def _pixels(x: Any) -> int:
    return math.prod(x.shape[1:-1])


def _composed(x, weight, log_scale, shift, determinant):
    logdet = sum(log_scale) + (logabsdet(weight) if determinant else 0)
    return _affine(x, reshape(exp(log_scale), shape=(-1, 1)) * weight, matmul(shift, weight)), _pixels(x) * logdet


def _affine(x, weight, bias):
    return reshape(affine(reshape(x, shape=(math.prod(x.shape[:-1]), x.shape[-1])), weight, bias), shape=x.shape)


def _step_rule(g, needs, x, weight, shift, scale, inverse_transposed):
    gy, glogdet = g
    dx = dweight = dlog_scale = dshift = None
    if gy is not None:
        dx, dweight, dscale, dshift = backend.kernel("invertible", x).backward(gy, x, weight, scale, shift)
        dlog_scale = scale * dscale
    if glogdet is not None:
        each = _pixels(x) * glogdet
        dlog_scale = np.full_like(scale, each) if dlog_scale is None else dlog_scale + each
        if inverse_transposed is not None:
            of_weight = each * inverse_transposed
            dweight = of_weight if dweight is None else dweight + of_weight
    return dx, dweight, dlog_scale, dshift


invertible.vjp_at_once(_step_rule, _composed)


def invertible_inverse(y: Tensor, weight: Tensor, log_scale: Tensor, shift: Tensor) -> Tensor:
    """x of which y = invertible(x, weight, log_scale, shift)[0]: (y @ weight^-1 - shift) e^-log_scale, for y [..., C].

    Raises ValueError where weight is singular, or too nearly for its dtype (see `inverse`).
    """
    back = exp(-log_scale)
    return _affine(y, inverse(weight) * back, -shift * back)


def plu(permutation: Tensor, lower: Tensor, upper: Tensor, log_scale: Tensor, sign: Tensor) -> tuple[Tensor, Tensor]:
    """W = P L (U + diag(sign exp(log_scale))) and log |det W| = sum(log_scale): Glow's equation 10, no determinant.

    permutation [C, C] (a permutation of the identity's rows) and sign [C] (of 1 and -1) are constants. lower [C, C]
    gives L below its diagonal of ones, upper [C, C] gives U above its diagonal of zeros; the rest of both is not read.
    """
    c = lower.shape[-1]
    for name, x, shape in (("permutation", permutation, (c, c)), ("lower", lower, (c, c)), ("upper", upper, (c, c)),
                           ("log_scale", log_scale, (c,)), ("sign", sign, (c,))):  # fmt: skip
        if x.shape != shape:
            raise ValueError(f"plu: {name} must be {list(shape)}, is {list(x.shape)}")
    eye = Tensor(np.eye(c, dtype=lower.dtype))
    below = triangle(lower, lower=True) * (1 - eye) + eye
    above = triangle(upper, lower=False) * (1 - eye) + eye * (stop_gradient(sign) * exp(log_scale))
    return matmul(stop_gradient(permutation), matmul(below, above)), sum(log_scale)


# ---- the coupling ----------------------------------------------------------------------------------------------------


@op(outputs=2)
def coupling(x, h, shift, *, sigmoid=False):
    """y = x e^h + shift and the sums of h, [N]; sigmoid: (x + shift) sigmoid(h + 2) and the sums of log sigmoid(h + 2).

    The affine coupling's map of one half, and the log-determinant of each sample; x, h, shift [N, ...] of one shape.
    The first form is that of Real NVP (Dinh et al. 2016, equation 7) and of Glow's paper; the second that of Glow's
    code, whose scale starts near 1 and stays under it.
    """
    _check_coupling(x, h, shift)
    return backend.kernel("invertible", x).coupling(x, h, shift, sigmoid)


def _check_coupling(x: Any, h: Any, shift: Any) -> None:
    if x.ndim == 0:
        raise ValueError("x has no axis of samples; write x[None]")
    for name, other in (("h", h), ("shift", shift)):
        if other.shape != x.shape:
            raise ValueError(f"{name} {list(other.shape)} must have the shape of the first argument, {list(x.shape)}")


def _per_sample(x):
    return sum(x, axis=tuple(range(1, x.ndim))) if x.ndim > 1 else x


def _coupling_composed(x, h, shift, sigmoid):
    if sigmoid:
        return (x + shift) * logistic(h + 2), -_per_sample(softplus(-h - 2))
    return x * exp(h) + shift, _per_sample(h)


def _coupling_rule(g, needs, x, h, shift, sigmoid):
    gy, glogdet = _given(g, x)
    return backend.kernel("invertible", x).coupling_backward(gy, glogdet, x, h, shift, sigmoid)


def _given(g, x):
    """The gradients of y and of the log-determinants, zeros for what was not used."""
    return np.zeros_like(x) if g[0] is None else g[0], np.zeros_like(x, shape=len(x)) if g[1] is None else g[1]


coupling.vjp_at_once(_coupling_rule, _coupling_composed)


@op(outputs=2)
def coupling_inverse(y, h, shift, *, sigmoid=False):
    """x, for which y = coupling(x, h, shift, sigmoid), and minus its log-determinants [N]; all [N, ...] alike."""
    _check_coupling(y, h, shift)
    return backend.kernel("invertible", y).coupling_inverse(y, h, shift, sigmoid)


def _coupling_inverse_composed(y, h, shift, sigmoid):
    if sigmoid:
        return y * (1 + exp(-h - 2)) - shift, _per_sample(softplus(-h - 2))
    return (y - shift) * exp(-h), -_per_sample(h)


def _coupling_inverse_rule(g, needs, y, h, shift, sigmoid):
    """Reversible training inverts but never differentiates an inverse, so this is plain NumPy."""
    gx, glogdet = _given(g, y)
    glogdet = glogdet.reshape(-1, *[1] * (y.ndim - 1))
    if sigmoid:
        e = np.exp(-h - 2)
        return gx * (1 + e), -(gx * y * e) - glogdet * (e / (1 + e)), -gx
    dy = gx * np.exp(-h)
    return dy, (shift - y) * dy - glogdet, -dy


coupling_inverse.vjp_at_once(_coupling_inverse_rule, _coupling_inverse_composed)
