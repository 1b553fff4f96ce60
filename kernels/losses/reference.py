"""Log-probabilities of integers and their gradients, in NumPy.

categorical: logits [R, K] and one class a row. logistic_mixture: levels x [P, C] of P pixels with C = 1 (grey) or 3
(RGB), and params [P, (1 + 2) M] or [P, (1 + 9) M] for M mixtures: a pixel's row, cut into parts of M numbers, holds
the logits of the mixture, the means of each channel, their log-scales and, for RGB, the coefficients of G on R, B on R,
B on G before the tanh.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from micrognm import backend

Array = Any
FLOOR = -7.0  # of log-scales, as in PixelCNN++
NARROW = 1e-30  # a bin, in units of the scale, below which (1 - e^-w) / w is 1 and w need not be exact


def categorical(logits: Array, index: Array) -> tuple[Array, Array, Array]:
    """log softmax(logits)[index] [R]; and what the gradient needs: the largest logit and the sum of e^(x - largest)."""
    largest = np.max(logits, axis=1)
    total = np.sum(np.exp(logits - largest[:, None]), axis=1)
    picked = np.sum(np.where(_hot(logits, index), logits, 0), axis=1)
    return (picked - largest) - np.log(total), largest, total


def categorical_grad(g: Array, logits: Array, index: Array, largest: Array, total: Array) -> Array:
    """g (onehot - softmax(logits)) [R, K]."""
    return g[:, None] * (_hot(logits, index) - np.exp(logits - largest[:, None]) / total[:, None])


def _hot(logits: Array, index: Array) -> Array:
    return index[:, None] == backend.asarray(np.arange(logits.shape[1]))


def logistic_mixture(x: Array, params: Array, levels: int, mixtures: int) -> Array:
    """log sum_m pi_m prod_c P(x_c | m, channels before c) [P], P the mass that a logistic has in a level's bin.

    Level k stands for 2 k / (levels - 1) - 1; its bin reaches half way to its neighbours, the first and the last to
    infinity. With a and b the bin's ends in units of the scale, and w its width, the mass is
    sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - e^-w): nothing cancels, however narrow the bin.
    """
    part = _parts(params, mixtures)
    weighed = _log_softmax(part(0))
    for *_, mass in _channels(x, part, levels):
        weighed = weighed + mass
    return _logsumexp(weighed)[:, 0]


def logistic_mixture_slopes(x: Array, params: Array, levels: int, mixtures: int) -> tuple[Array, Array]:
    """logistic_mixture, and the gradient of each pixel's log-probability with respect to its params, of their shape."""
    part = _parts(params, mixtures)
    weights = _log_softmax(part(0))
    channels = list(_channels(x, part, levels))
    weighed = weights + sum(mass for *_, mass in channels)
    total = _logsumexp(weighed)
    share = np.exp(weighed - total)  # of each mixture in the pixel's probability
    means, scales, coefficients = [], [], []
    for a, b, w, inverse, low, high, free, before, _ in channels:
        up, down = low * _sigmoid(-a), high * _sigmoid(b)
        slope = inverse * (down - up)
        narrow = low * high * w * np.exp(-w) / -np.expm1(-w)
        means.append(share * slope)
        scales.append(share * (b * down - a * up - narrow) * free)
        coefficients += [share * slope * level * (1 - t * t) for level, t in before]
    return total[:, 0], np.concatenate([share - np.exp(weights), *means, *scales, *coefficients], axis=1)


def _parts(params: Array, mixtures: int) -> Any:
    return lambda i: params[:, i * mixtures : (i + 1) * mixtures]


def _channels(x: Array, part: Any, levels: int) -> Any:
    """For each channel: the bin's ends a > b and width w in units of the scale, 1 / scale, whether the bin has an upper
    and a lower end, whether the scale is free of the floor, what the mean depends on (level, tanh of its coefficient),
    and the log-mass; each [P, M] or [P, 1].
    """
    channels, half = x.shape[1], 1 / (levels - 1)
    level = ((2.0 * x - (levels - 1)) / (levels - 1)).astype(part(0).dtype)
    for c in range(channels):
        mean = part(1 + c)
        before = [(level[:, j : j + 1], np.tanh(part(2 * channels + c + j))) for j in range(c)]
        for value, t in before:
            mean = mean + t * value
        log_scale = np.maximum(part(1 + channels + c), FLOOR)
        inverse = np.exp(-log_scale)
        centred = level[:, c : c + 1] - mean
        a, b = inverse * (centred + half), inverse * (centred - half)
        w = np.maximum(2 * half * inverse, NARROW)
        low, high = x[:, c : c + 1] < levels - 1, x[:, c : c + 1] > 0
        mass = np.log(-np.expm1(-w) / w) + (np.log(2 * half) - log_scale)
        free = part(1 + channels + c) >= FLOOR
        yield a, b, w, inverse, low, high, free, before, low * high * mass - low * _softplus(-a) - high * _softplus(b)


def _softplus(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def _logsumexp(x: Array) -> Array:
    largest = np.max(x, axis=1, keepdims=True)
    return largest + np.log(np.sum(np.exp(x - largest), axis=1, keepdims=True))


def _log_softmax(x: Array) -> Array:
    return x - _logsumexp(x)
