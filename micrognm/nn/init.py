"""Initialisers: functions (rng, shape) -> float32 array. Those below make one from its settings: `he_normal()`.

A weight has the shape [..., n_in, n_out]; leading axes are the taps of a convolution. fan_in = taps * n_in numbers are
summed into an output, fan_out = taps * n_out outputs read an input.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

Initialiser: TypeAlias = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def constant(value: float) -> Initialiser:
    """One value everywhere."""
    return lambda rng, shape: np.full(shape, value, np.float32)


def zeros() -> Initialiser:
    """0 everywhere."""
    return constant(0.0)


def normal(std: float) -> Initialiser:
    """Normal numbers of mean 0."""
    return lambda rng, shape: np.float32(std) * rng.standard_normal(shape, np.float32)


def uniform(bound: float) -> Initialiser:
    """Uniform numbers of [-bound, bound)."""
    return lambda rng, shape: np.float32(bound) * (2 * rng.random(shape, np.float32) - 1)


def glorot_normal(gain: float = 1.0) -> Initialiser:
    """std = gain sqrt(2 / (fan_in + fan_out)); Glorot and Bengio 2010."""
    return lambda rng, shape: normal(gain * math.sqrt(2 / sum(fans(shape))))(rng, shape)


def glorot_uniform(gain: float = 1.0) -> Initialiser:
    """bound = gain sqrt(6 / (fan_in + fan_out)); Glorot and Bengio 2010."""
    return lambda rng, shape: uniform(gain * math.sqrt(6 / sum(fans(shape))))(rng, shape)


def he_normal(gain: float = math.sqrt(2)) -> Initialiser:
    """std = gain / sqrt(fan_in); the default gain keeps the variance through relu. He et al. 2015."""
    return lambda rng, shape: normal(gain / math.sqrt(fans(shape)[0]))(rng, shape)


def he_uniform(gain: float = math.sqrt(2)) -> Initialiser:
    """bound = gain sqrt(3 / fan_in); the default gain keeps the variance through relu. He et al. 2015."""
    return lambda rng, shape: uniform(gain * math.sqrt(3 / fans(shape)[0]))(rng, shape)


def fan_in_uniform() -> Initialiser:
    """bound = 1 / sqrt(fan_in): PyTorch's default for linear and convolutional layers, and ours."""
    return he_uniform(gain=math.sqrt(1 / 3))


def orthogonal(gain: float = 1.0) -> Initialiser:
    """gain times a random [fan_in, n_out] with orthonormal columns (rows, where it has fewer); Saxe et al. 2014."""

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        rows, columns = fans(shape)[0], shape[-1]
        q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
        q *= np.where(np.diag(r) < 0, -1, 1)  # makes the distribution uniform (Mezzadri 2007)
        return (gain * (q if rows >= columns else q.T)).reshape(shape).astype(np.float32)

    return draw


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight [..., n_in, n_out]. ValueError for a shape of fewer than two axes."""
    if len(shape) < 2:
        raise ValueError(f"a fan needs a weight [..., n_in, n_out], got the shape {list(shape)}; use normal or uniform")
    taps = math.prod(shape[:-2])
    return taps * shape[-2], taps * shape[-1]
