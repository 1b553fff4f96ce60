"""The mixture of discretised logistics of PixelCNN++ (Salimans et al. 2017): log-likelihood of grey and RGB pixels."""

from __future__ import annotations

import math
from typing import Any

from micrognm import backend
from micrognm.engine import Tensor, state
from micrognm.operation import op
from micrognm.ops.activation import softplus, tanh
from micrognm.ops.arithmetic import clip, exp, expm1, log
from micrognm.ops.reduce import log_softmax, logsumexp
from micrognm.ops.shape import reshape

FLOOR = -7.0  # of log-scales
NARROW = 1e-30  # a bin, in units of the scale, below which the density serves as well


def logistic_mixture_log_prob(x: Any, params: Any, *, levels: int, mixtures: int) -> Tensor:
    """x [N, H, W] or [N, H, W, 1] with params [N, H, W, M (1 + 2)], or x [N, H, W, 3] with [N, H, W, M (1 + 9)].

    Integers x of 0..levels-1 -> the log-probability of each pixel [N, H, W], in nats. Level k stands for
    2 k / (levels - 1) - 1. The last axis of params, cut into parts of M = mixtures numbers, holds the logits of the
    mixture, the means of each channel, their log-scales (below -7 they count as -7) and, for RGB, three coefficients:
    tanh of them is what the mean of G gains from R, that of B from R, that of B from G, which makes the pixel one
    variable of three channels. The first and the last level take all that lies beyond them. Probabilities sum to 1.

    PixelCNN++ computes sigmoid(a) - sigmoid(b) for a bin from b to a, and below 1e-5, where it cancels, takes width
    times density instead. Here the same mass is sigmoid(a) sigmoid(-b) (1 - e^(b-a)), which is exact for any width.
    Leading axes may be any. Any number of levels from 2. Raises TypeError where x holds no integers, ValueError where
    it is out of range or shapes do not fit.
    """
    recorded = state.recording and isinstance(params, Tensor) and params.requires_grad
    return (_with_slopes if recorded else _alone)(x, params, levels=levels, mixtures=mixtures)


def _alone(x, params, *, levels, mixtures):
    """x [N, H, W], or [N, H, W, 3] where params are of RGB, params [N, H, W, ...] -> [N, H, W]"""
    pixels, rows = _pixels(x, params, levels, mixtures)
    return backend.kernel("losses", params).logistic_mixture(pixels, rows, levels, mixtures).reshape(params.shape[:-1])


def _with_slopes(x, params, *, levels, mixtures):
    """x [N, H, W], or [N, H, W, 3] where params are of RGB, params [N, H, W, ...] -> [N, H, W]"""
    pixels, rows = _pixels(x, params, levels, mixtures)
    out, slopes = backend.kernel("losses", params).logistic_mixture_slopes(pixels, rows, levels, mixtures)
    return out.reshape(params.shape[:-1]), slopes.reshape(params.shape)


# The slopes take most of what the value takes: where a gradient may be asked for, both are computed at once.
_alone.__name__ = _with_slopes.__name__ = logistic_mixture_log_prob.__name__
_alone, _with_slopes = op(_alone), op(keeps=("slopes",))(_with_slopes)


def _pixels(x, params, levels, mixtures):
    """x as [P, channels] and params as [P, ...], or an error that says what does not fit."""
    if getattr(x, "dtype", None) is None or x.dtype.kind not in "iu":
        raise TypeError(f"x must hold integers, got {getattr(x, 'dtype', type(x).__name__)}")
    if params.dtype.kind != "f":
        raise TypeError(f"params must be float32 or float64, got {params.dtype}")
    if levels < 2 or mixtures < 1:
        raise ValueError(f"levels must be 2 or more and mixtures 1 or more, got {levels} and {mixtures}")
    channels = {3 * mixtures: 1, 10 * mixtures: 3}.get(params.shape[-1] if params.ndim else 0)
    if channels is None:
        raise ValueError(
            f"{mixtures} mixtures need {3 * mixtures} parameters a pixel for grey and {10 * mixtures} for RGB, "
            f"got params {list(params.shape)}"
        )
    pixels = params.shape[:-1]
    if x.shape != (*pixels, channels) and not (channels == 1 and x.shape == pixels):
        either = f" or {list(pixels)}" if channels == 1 else ""
        raise ValueError(f"x {list(x.shape)} must be {[*pixels, channels]}{either}")
    if x.size and not 0 <= x.min() <= x.max() < levels:
        raise ValueError(f"x runs from {x.min()} to {x.max()}, the levels from 0 to {levels - 1}")
    return x.reshape(-1, channels), params.reshape(-1, params.shape[-1])


def _rule(g, needs, slopes):
    return None, g[..., None] * slopes


def _composed(x: Any, params: Tensor, levels: int, mixtures: int) -> Tensor:
    x = x.data if isinstance(x, Tensor) else x
    pixels = params.shape[:-1]
    numbers = params.shape[-1] // mixtures
    channels = {3: 1, 10: 3}[numbers]
    parts = reshape(params, (*pixels, numbers, mixtures))
    x = x.reshape(*pixels, channels)
    level = ((2.0 * x - (levels - 1)) / (levels - 1)).astype(params.dtype)[..., None]
    half = 1 / (levels - 1)
    weighed = log_softmax(parts[..., 0, :])
    for c in range(channels):
        mean = parts[..., 1 + c, :]
        for j in range(c):
            mean = mean + tanh(parts[..., 2 * channels + c + j, :]) * level[..., j, :]
        log_scale = clip(parts[..., 1 + channels + c, :], FLOOR, math.inf)
        inverse = exp(-log_scale)
        centred = level[..., c, :] - mean
        a, b = inverse * (centred + half), inverse * (centred - half)
        w = clip(2 * half * inverse, NARROW, math.inf)
        low = (x[..., c, None] < levels - 1).astype(params.dtype)
        high = (x[..., c, None] > 0).astype(params.dtype)
        mass = log(-expm1(-w) / w) + (math.log(2 * half) - log_scale)
        weighed = weighed + ((low * high) * mass - low * softplus(-a) - high * softplus(b))
    return logsumexp(weighed, axis=-1)


_with_slopes.vjp_at_once(_rule, _composed)
