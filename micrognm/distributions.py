"""Distributions with log-probabilities that stay finite for logits of any size, and samples from given uniforms.

`sample(rng)` draws uniforms (for Normal, standard normal noise) and gives them to `sample_from`, a plain function of
them: a fast sampler that computes the same logits in another order draws the same. Axes are independent variables;
sum log_prob over them for their joint probability.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from micrognm import backend
from micrognm.engine import Tensor, stop_gradient
from micrognm.ops import (
    broadcast_to,
    cast,
    exp,
    expm1,
    log_softmax,
    reshape,
    sigmoid,
    softmax,
    softplus,
    sum,
    take_along_axis,
)
from micrognm.ops.categorical import categorical_log_prob
from micrognm.ops.logistic_mixture import FLOOR, logistic_mixture_log_prob
from micrognm.ops.losses import bernoulli_log_prob


@dataclass(frozen=True, eq=False)
class Bernoulli:
    """1 with probability sigmoid(logits), else 0, elementwise."""

    logits: Tensor

    def __post_init__(self) -> None:
        _check_parameters(self, logits=self.logits)

    def log_prob(self, x: Any) -> Tensor:
        """x log p + (1 - x) log(1 - p); shapes broadcast.

        Values between 0 and 1 are taken too: the cross-entropy of grey targets, which is no log-probability. ValueError
        for values outside [0, 1].
        """
        x = x if isinstance(x, Tensor) else Tensor(x)
        low, high = (x.data.min(), x.data.max()) if x.size else (0, 0)
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"Bernoulli.log_prob: x must lie in [0, 1], got values from {low} to {high}. "
                "Binarise it, or divide it by its largest level"
            )
        return bernoulli_log_prob(x if x.dtype.kind == "f" else cast(x, self.logits.dtype), self.logits)

    def sample(self, rng: np.random.Generator) -> Tensor:
        """0 and 1, in the shape and dtype of logits."""
        return self.sample_from(backend.uniform(rng, self.logits.shape, self.logits.dtype))

    def sample_from(self, u: Any) -> Tensor:
        """The draw made with uniforms u: 1 where u < sigmoid(logits)."""
        u = _uniforms("Bernoulli", u, self.logits.shape)
        return Tensor((u < sigmoid(self.logits).data).astype(self.logits.dtype))

    @property
    def mean(self) -> Tensor:
        """The probability of 1."""
        return sigmoid(self.logits)

    def entropy(self) -> Tensor:
        """In nats, elementwise."""
        a = self.logits
        return sigmoid(a) * softplus(-a) + sigmoid(-a) * softplus(a)


@dataclass(frozen=True, eq=False)
class Categorical:
    """k of 0..K-1 with probability softmax(logits)[k], for logits [..., K]."""

    logits: Tensor

    def __post_init__(self) -> None:
        _check_parameters(self, logits=self.logits)
        if self.logits.ndim == 0 or self.logits.shape[-1] == 0:
            raise ValueError(f"Categorical: logits must be [..., K] with K of 1 or more, got {list(self.logits.shape)}")

    def log_prob(self, x: Any) -> Tensor:
        """Of integers x, whose shape broadcasts with logits' without its last axis. IndexError outside 0..K-1."""
        x = backend.asarray(x.data if isinstance(x, Tensor) else x)
        *batch, classes = self.logits.shape
        try:
            shape = np.broadcast_shapes(x.shape, tuple(batch))
        except ValueError:
            raise ValueError(
                f"Categorical.log_prob: x {list(x.shape)} must broadcast with {batch}, "
                f"the shape of logits {list(self.logits.shape)} without its last axis"
            ) from None
        logits = self.logits if shape == tuple(batch) else broadcast_to(self.logits, shape=(*shape, classes))
        return categorical_log_prob(logits, np.broadcast_to(x, shape))

    def sample(self, rng: np.random.Generator) -> Tensor:
        """int64, in the shape of logits without its last axis."""
        return self.sample_from(backend.uniform(rng, self.logits.shape[:-1], self.logits.dtype))

    def sample_from(self, u: Any) -> Tensor:
        """The draw made with uniforms u, one each: the first k whose cumulative probability exceeds u."""
        u = _uniforms("Categorical", u, self.logits.shape[:-1])
        cumulative = np.cumsum(softmax(self.logits).data, axis=-1)
        # The last one is 1 but for rounding; as a factor of u it keeps every draw within 0..K-1.
        return Tensor(np.sum(cumulative <= (u * cumulative[..., -1])[..., None], axis=-1))

    @property
    def mean(self) -> Tensor:
        """The expected index [...]: of use where classes are levels."""
        return sum(softmax(self.logits) * _levels(self.logits), axis=-1)

    def entropy(self) -> Tensor:
        """In nats [...]."""
        return -sum(softmax(self.logits) * log_softmax(self.logits), axis=-1)


@dataclass(frozen=True, eq=False)
class LogisticMixture:
    """Pixels of levels 0..levels-1 under a mixture of discretised logistics (Salimans et al. 2017).

    params [..., 3 M] for grey pixels and [..., 10 M] for RGB, M = mixtures: see ops.logistic_mixture_log_prob.
    """

    params: Tensor
    levels: int
    mixtures: int

    def __post_init__(self) -> None:
        _check_parameters(self, params=self.params)
        if self.levels < 2 or self.mixtures < 1:
            raise ValueError(
                "LogisticMixture: levels must be 2 or more and mixtures 1 or more, "
                f"got {self.levels} and {self.mixtures}"
            )
        if self.params.ndim == 0 or self.params.shape[-1] not in (3 * self.mixtures, 10 * self.mixtures):
            raise ValueError(
                f"LogisticMixture: params {list(self.params.shape)} must be [..., {3 * self.mixtures}] for grey pixels "
                f"or [..., {10 * self.mixtures}] for RGB with {self.mixtures} mixtures"
            )

    @property
    def _channels(self) -> int:
        return 1 if self.params.shape[-1] == 3 * self.mixtures else 3

    def log_prob(self, x: Any) -> Tensor:
        """Of integers x [..., 1] (or [...]) of grey pixels, [..., 3] of RGB -> [...]: channels are one variable."""
        x = backend.asarray(x.data if isinstance(x, Tensor) else x)
        return logistic_mixture_log_prob(x, self.params, levels=self.levels, mixtures=self.mixtures)

    def sample(self, rng: np.random.Generator) -> Tensor:
        """int64 [..., 1] for grey pixels, [..., 3] for RGB."""
        shape = (*self.params.shape[:-1], 1 + self._channels)
        return self.sample_from(backend.uniform(rng, shape, self.params.dtype))

    def sample_from(self, u: Any) -> Tensor:
        """The draw made with uniforms u [..., 1 + channels]: the first picks the mixture, then one for each channel.

        A channel is the level whose bin holds the logistic's quantile at u; G sees the level drawn for R, as log_prob
        does, B those of both.
        """
        *batch, numbers = self.params.shape
        channels, last = self._channels, self.levels - 1
        u = _uniforms("LogisticMixture", u, (*batch, 1 + channels))
        parts = reshape(stop_gradient(self.params), (*batch, numbers // self.mixtures, self.mixtures))
        m = Categorical(parts[..., 0, :]).sample_from(u[..., 0])
        chosen = take_along_axis(parts, m.data[..., None, None], -1).data[..., 0]
        levels: list[Any] = []
        for c in range(channels):
            mean = chosen[..., 1 + c]
            for j, level in enumerate(levels):
                mean = mean + np.tanh(chosen[..., 2 * channels + c + j]) * (2 * level - last) / last
            with np.errstate(divide="ignore"):
                quantile = np.log(u[..., 1 + c]) - np.log1p(-u[..., 1 + c])
            value = mean + np.exp(np.maximum(chosen[..., 1 + channels + c], FLOOR)) * quantile
            levels.append(np.clip(np.floor((value + 1) * (last / 2) + 0.5), 0, last))
        return Tensor(np.stack(levels, axis=-1).astype(np.int64))


@dataclass(frozen=True, eq=False)
class Normal:
    """Mean `mean` and standard deviation exp(log_std), elementwise; their shapes broadcast."""

    mean: Tensor
    log_std: Tensor

    def __post_init__(self) -> None:
        _check_parameters(self, mean=self.mean, log_std=self.log_std)

    def log_prob(self, x: Tensor) -> Tensor:
        """The log of the density at x; shapes broadcast."""
        z = (x - self.mean) * exp(-self.log_std)
        return -0.5 * (z * z) - self.log_std - 0.5 * math.log(2 * math.pi)

    def sample(self, rng: np.random.Generator) -> Tensor:
        """mean + std * noise. Gradients pass to mean and log_std (the reparametrisation of Kingma and Welling 2014)."""
        return self.sample_from(backend.normal(rng, self._shape, self.mean.dtype))

    def sample_from(self, noise: Any) -> Tensor:
        """The draw made with standard normal noise."""
        return self.mean + exp(self.log_std) * noise

    def entropy(self) -> Tensor:
        """In nats, elementwise."""
        return broadcast_to(self.log_std, shape=self._shape) + 0.5 * math.log(2 * math.pi * math.e)

    @property
    def _shape(self) -> tuple[int, ...]:
        return np.broadcast_shapes(self.mean.shape, self.log_std.shape)


def kl(p: Any, q: Any) -> Tensor:
    """KL(p || q) in nats, one for each variable: closed form for two distributions of one family, else TypeError."""
    closed_form = _KL.get((type(p), type(q)))
    if closed_form is None:
        known = ", ".join(f"({a.__name__}, {b.__name__})" for a, b in _KL)
        raise TypeError(
            f"kl: no closed form for ({type(p).__name__}, {type(q).__name__}); known: {known}. "
            "Estimate it by the mean of p.log_prob(x) - q.log_prob(x) over samples x of p"
        )
    return closed_form(p, q)


def _kl_bernoulli(p: Bernoulli, q: Bernoulli) -> Tensor:
    a, b = p.logits, q.logits
    return sigmoid(a) * (softplus(-b) - softplus(-a)) + sigmoid(-a) * (softplus(b) - softplus(a))


def _kl_categorical(p: Categorical, q: Categorical) -> Tensor:
    if p.logits.shape[-1] != q.logits.shape[-1]:
        raise ValueError(f"kl: p has {p.logits.shape[-1]} classes, q has {q.logits.shape[-1]}")
    return sum(softmax(p.logits) * (log_softmax(p.logits) - log_softmax(q.logits)), axis=-1)


def _kl_normal(p: Normal, q: Normal) -> Tensor:
    d = p.log_std - q.log_std
    z = (p.mean - q.mean) * exp(-q.log_std)
    return 0.5 * (expm1(2 * d) - 2 * d) + 0.5 * (z * z)


_KL: dict[tuple[type, type], Callable[[Any, Any], Tensor]] = {
    (Bernoulli, Bernoulli): _kl_bernoulli,
    (Categorical, Categorical): _kl_categorical,
    (Normal, Normal): _kl_normal,
}


def _check_parameters(owner: Any, **parameters: Any) -> None:
    """TypeError unless all are tensors of one floating dtype; ValueError unless their shapes broadcast."""
    name = type(owner).__name__
    for argument, x in parameters.items():
        if not isinstance(x, Tensor) or x.dtype.kind != "f":
            found = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"{name}: {argument} must be a Tensor of float32 or float64, got {found}")
    if len({x.dtype for x in parameters.values()}) > 1:
        raise TypeError(f"{name}: mixed dtypes: {', '.join(f'{a} is {x.dtype}' for a, x in parameters.items())}")
    try:
        np.broadcast_shapes(*(x.shape for x in parameters.values()))
    except ValueError:
        shapes = ", ".join(f"{a} {list(x.shape)}" for a, x in parameters.items())
        raise ValueError(f"{name}: shapes must broadcast, got {shapes}") from None


def _uniforms(name: str, u: Any, shape: tuple[int, ...]) -> backend.Array:
    """u as an array; ValueError unless it has this shape and values of [0, 1)."""
    u = backend.asarray(u.data if isinstance(u, Tensor) else u)
    if u.shape != shape:
        raise ValueError(f"{name}.sample_from: u must be {list(shape)}, one uniform a draw; got {list(u.shape)}")
    if u.size and not 0 <= u.min() <= u.max() < 1:
        raise ValueError(f"{name}.sample_from: u must lie in [0, 1), got values from {u.min()} to {u.max()}")
    return u


def _levels(logits: Tensor) -> Tensor:
    """0..K-1 in the dtype of logits [..., K]."""
    return Tensor(np.arange(logits.shape[-1], dtype=logits.dtype))
