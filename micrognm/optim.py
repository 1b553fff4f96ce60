"""Optimisers over one arena: all parameters are views of one flat array, and so are moments and averages.

A step is one pass of one kernel (`kernels/arena`) over parameters, gradients, moments and an average. Learning rates
are numbers or functions of the step; `warmup`, `cosine` ... make such functions.

    optimiser = Adam(model.parameters(), lr=warmup(cosine(1e-3, steps=10_000), steps=500))
    average = EMA(optimiser, decay=0.999)
    optimiser.zero_grad(); loss.backward(); optimiser.step()  # the average follows
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from micrognm import backend
from micrognm.engine import Leaf, Tensor

Array = backend.Array
Rate = float | Callable[[int], float]


class Arena:
    """Parameters of one dtype laid out in one flat array, `data`; each parameter becomes a view of its part.

    Optimisers and averages of the same parameters share one arena. ValueError where the parameters are none, of several
    dtypes or devices, named twice, or partly in another arena.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.parameters = list(parameters)
        if not self.parameters:
            raise ValueError("optim: there are no parameters")
        leaves: list[Leaf] = []
        for i, p in enumerate(self.parameters):
            if not isinstance(p.node, Leaf):
                raise ValueError(f"optim: parameter {i}, {p!r}, is not a leaf made with requires_grad=True")
            if p.node.arena() is not None:
                raise ValueError(
                    f"optim: parameter {i} ({p.dtype}{list(p.shape)}) is in another optimiser's arena. "
                    "Optimisers may share all of their parameters, or none"
                )
            leaves.append(p.node)
        first = self.parameters[0]
        kinds = {(p.dtype.name, backend.device_of(p.data)) for p in self.parameters}
        if len(kinds) > 1:
            raise ValueError(f"optim: parameters of several dtypes or devices: {sorted(kinds)}")
        if len(set(leaves)) < len(leaves):
            raise ValueError("optim: a parameter is given twice")
        ends = np.cumsum([p.size for p in self.parameters]).tolist()
        starts = [end - p.size for end, p in zip(ends, self.parameters, strict=True)]
        self.size = ends[-1]
        self.data = np.empty_like(first.data, shape=self.size)
        for p, leaf, start, end in zip(self.parameters, leaves, starts, ends, strict=True):
            self.data[start:end] = p.data.reshape(-1)
            p.data = self.data[start:end].reshape(p.shape)
            leaf.arena = weakref.ref(self)
        self.parts = [slice(start, end) for start, end in zip(starts, ends, strict=True)]

    @staticmethod
    def of(parameters: Any) -> Arena:
        """The arena of these parameters (or of a module's), made where there is none yet."""
        parameters = list(parameters.parameters() if hasattr(parameters, "parameters") else parameters)
        arena = parameters[0].node.arena() if parameters and isinstance(parameters[0].node, Leaf) else None
        if arena and len(arena.parameters) == len(parameters):
            if all(a is b for a, b in zip(arena.parameters, parameters, strict=True)):
                return arena
        return Arena(parameters)

    def zeros(self) -> backend.Array:
        """A flat array of zeros beside `data`: a moment."""
        return np.zeros_like(self.data)

    def gradients(self) -> list[backend.Array]:
        """The gradient of each parameter, flattened; ValueError where one has none."""
        missing = [f"{i} ({p.dtype}{list(p.shape)})" for i, p in enumerate(self.parameters) if p.grad is None]
        if missing:
            raise ValueError(
                f"optim: no gradient for parameter {', '.join(missing)}; call loss.backward() before step()"
            )
        return [p.grad.data.reshape(-1) for p in self.parameters]  # type: ignore[union-attr]


class Optimiser:
    """What all optimisers share: the arena, the step count, the rate, weight decay, clipping and the state.

    parameters: a Module or its parameters. lr: a number, or a function of the step (from 0). weight_decay: adds
    weight_decay * parameter to the gradient (L2). clip_norm: scales all gradients together so that their Euclidean
    norm is at most this; the norm before is left in `grad_norm`. clip_value: clips each element to [-clip_value,
    clip_value].
    """

    kernel: str  # its name in kernels/arena
    moments: tuple[str, ...] = ()  # flat arrays that it keeps, in the order in which the kernel takes them

    def __init__(
        self,
        parameters: Any,
        lr: Rate,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> None:
        for name, value in (("weight_decay", weight_decay), ("clip_norm", clip_norm), ("clip_value", clip_value)):
            if value is not None and not value >= 0:
                raise ValueError(f"{type(self).__name__}: {name} must be >= 0, got {value}")
        if not callable(lr) and not lr >= 0:
            raise ValueError(f"{type(self).__name__}: lr must be >= 0 or a function of the step, got {lr}")
        self.arena = Arena.of(parameters)
        self.rate, self.weight_decay, self.clip_norm, self.clip_value = lr, weight_decay, clip_norm, clip_value
        self.steps = 0
        self.grad_norm = math.nan
        self.slots = [self.arena.zeros() for _ in self.moments]
        self.averages: list[EMA] = []

    @property
    def lr(self) -> float:
        """The learning rate of the coming step."""
        return self.rate(self.steps) if callable(self.rate) else self.rate

    def zero_grad(self) -> None:
        """Forget the gradients, before the next backward."""
        for p in self.arena.parameters:
            p.grad = None

    def step(self) -> None:
        """Change the parameters by their gradients. ValueError where one has none."""
        kernel, data = backend.kernel("arena", self.arena.data), self.arena.data
        gradients, scale = self.arena.gradients(), 1.0
        if self.clip_norm is not None:
            self.grad_norm = kernel.norm(*gradients)
            if not math.isfinite(self.grad_norm):
                raise FloatingPointError(f"{type(self).__name__}: the norm of the gradients is {self.grad_norm}")
            scale = min(1.0, self.clip_norm / max(self.grad_norm, 1e-30))
        limit = math.inf if self.clip_value is None else self.clip_value
        average, rest = (self.averages[0].average, self.averages[0].rest()) if self.averages else (None, 0.0)
        own = self.numbers(self.lr, self.steps + 1)
        update = getattr(kernel, self.kernel)
        update(data, *self.slots, average, scale, limit, self.decay(), rest, *own, *gradients)
        for ema in self.averages[1:]:
            kernel.ema(ema.average, data, ema.rest())
        for ema in self.averages:
            ema.steps += 1
        self.steps += 1

    def decay(self) -> float:
        """How much of a parameter is added to its gradient."""
        return self.weight_decay

    def numbers(self, lr: float, n: int) -> tuple[float, ...]:
        """What the kernel takes last, for step n = 1, 2, ..."""
        raise NotImplementedError

    def state(self) -> dict[str, np.ndarray]:
        """Steps and moments, copied to the host."""
        moments = {name: np.array(backend.to_numpy(slot)) for name, slot in zip(self.moments, self.slots, strict=True)}
        return {"steps": np.asarray(self.steps), **moments}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Take up a state; ValueError names every entry that is missing, unexpected or of another size or dtype."""
        own = self.state()
        wrong = _differences(own, state)
        if wrong:
            raise ValueError(f"{type(self).__name__}: the state does not fit: {'; '.join(wrong)}")
        self.steps = int(state["steps"])
        for name, slot in zip(self.moments, self.slots, strict=True):
            slot[...] = backend.asarray(state[name])


def _differences(own: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray]) -> list[str]:
    wrong = [f"{name} is missing" for name in own if name not in given]
    wrong += [f"{name} is unexpected" for name in given if name not in own]
    for name in own.keys() & given.keys():
        a, b = own[name], given[name]
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            wrong.append(f"{name} is {b.dtype}{list(b.shape)}, expected {a.dtype}{list(a.shape)}")
    return sorted(wrong)


class SGD(Optimiser):
    """p -= lr g; with momentum mu: b = mu b + g, p -= lr b, or with nesterov p -= lr (g + mu b)."""

    def __init__(self, parameters: Any, lr: Rate, momentum: float = 0.0, nesterov: bool = False, **common: Any) -> None:
        if nesterov and not momentum:
            raise ValueError("SGD: nesterov needs a momentum above 0")
        self.kernel = "momentum" if momentum else "sgd"
        self.moments = ("momentum",) if momentum else ()
        self.own = (momentum, nesterov) if momentum else ()
        super().__init__(parameters, lr, **common)

    def numbers(self, lr: float, n: int) -> tuple[float, ...]:
        return lr, *self.own


class Adam(Optimiser):
    """Adam (Kingma & Ba 2015). The moments are kept without the factors 1 - beta, which the step size carries."""

    kernel = "adam"
    moments = ("m", "v")

    def __init__(
        self,
        parameters: Any,
        lr: Rate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        **common: Any,
    ) -> None:
        self.betas, self.eps = _betas(betas), eps
        super().__init__(parameters, lr, **common)

    def numbers(self, lr: float, n: int) -> tuple[float, ...]:
        b1, b2 = self.betas
        second = math.sqrt((1 - b2) / (1 - b2**n))  # sqrt(v_hat) = second sqrt(v)
        eta = lr * (1 - b1) / (1 - b1**n) / second
        return b1, b2, eta, self.eps / second, self.shrink(lr)

    def shrink(self, lr: float) -> float:
        """The factor on a parameter before its step."""
        return 1.0


class AdamW(Adam):
    """Adam with decoupled weight decay: p -= lr * weight_decay * p (Loshchilov & Hutter 2019)."""

    def decay(self) -> float:
        return 0.0

    def shrink(self, lr: float) -> float:
        return 1 - lr * self.weight_decay


class Adamax(Adam):
    """Adam with the infinity norm: u = max(beta2 u, |g| + eps), p -= lr m_hat / u (Kingma & Ba 2015, section 7)."""

    kernel = "adamax"
    moments = ("m", "u")

    def __init__(self, parameters: Any, lr: Rate = 2e-3, **options: Any) -> None:
        super().__init__(parameters, lr, **options)

    def numbers(self, lr: float, n: int) -> tuple[float, ...]:
        b1, b2 = self.betas
        return b1, b2, lr * (1 - b1) / (1 - b1**n), self.eps


class RMSProp(Optimiser):
    """v = alpha v + (1 - alpha) g^2, b = momentum b + g / (sqrt(v) + eps), p -= lr b (Hinton's lecture 6e)."""

    kernel = "rmsprop"
    moments = ("v", "momentum")

    def __init__(
        self,
        parameters: Any,
        lr: Rate = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        momentum: float = 0.0,
        **common: Any,
    ) -> None:
        self.alpha, self.eps, self.mu = alpha, eps, momentum
        super().__init__(parameters, lr, **common)

    def numbers(self, lr: float, n: int) -> tuple[float, ...]:
        return lr, self.alpha, self.eps, self.mu


class Adagrad(Optimiser):
    """h += g^2, p -= lr g / (sqrt(h) + eps) (Duchi et al. 2011)."""

    kernel = "adagrad"
    moments = ("h",)

    def __init__(self, parameters: Any, lr: Rate = 1e-2, eps: float = 1e-10, **common: Any) -> None:
        self.eps = eps
        super().__init__(parameters, lr, **common)

    def numbers(self, lr: float, n: int) -> tuple[float, ...]:
        return lr, self.eps


def _betas(betas: tuple[float, float]) -> tuple[float, float]:
    if len(betas) != 2 or not all(0 <= b < 1 for b in betas):
        raise ValueError(f"optim: betas must be two numbers in [0, 1), got {betas}")
    return betas


class EMA:
    """Exponential moving average of an optimiser's parameters: its `step` ends with average += (1 - decay) (parameter -
    average).

    decay: a number in [0, 1), or a function of the step.
    """

    def __init__(self, optimiser: Optimiser, decay: Rate) -> None:
        if not isinstance(optimiser, Optimiser):
            raise TypeError(f"EMA: expected an optimiser, whose steps it follows, got {type(optimiser).__name__}")
        if not callable(decay) and not 0 <= decay < 1:
            raise ValueError(f"EMA: decay must be in [0, 1) or a function of the step, got {decay}")
        self.arena = optimiser.arena
        self.decay, self.steps = decay, 0
        self.average = self.arena.data.copy()
        optimiser.averages.append(self)

    def rest(self) -> float:
        """1 - decay in the coming step."""
        return 1 - (self.decay(self.steps) if callable(self.decay) else self.decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Inside the block the parameters are the averages."""
        trained = self.arena.data.copy()
        self.arena.data[...] = self.average
        try:
            yield
        finally:
            self.arena.data[...] = trained

    def state(self) -> dict[str, np.ndarray]:
        """Steps and averages, copied to the host."""
        return {"steps": np.asarray(self.steps), "average": np.array(backend.to_numpy(self.average))}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Take up a state; ValueError names every entry that does not fit."""
        wrong = _differences(self.state(), state)
        if wrong:
            raise ValueError(f"EMA: the state does not fit: {'; '.join(wrong)}")
        self.steps = int(state["steps"])
        self.average[...] = backend.asarray(state["average"])


# ---- schedules: functions of the step, from 0 ------------------------------------------------------------------------


def _rate(rate: Rate, step: int) -> float:
    return rate(step) if callable(rate) else rate


def warmup(rate: Rate, steps: int) -> Callable[[int], float]:
    """Rises evenly to `rate` within the first steps: (step + 1) / steps of it, then all."""
    _positive("warmup", steps)
    return lambda step: _rate(rate, step) * min(1.0, (step + 1) / steps)


def cosine(rate: float, steps: int, least: float = 0.0) -> Callable[[int], float]:
    """Half a cosine from `rate` down to `least` at `steps`, and `least` from there on."""
    _positive("cosine", steps)
    return lambda step: least + (rate - least) * 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0)))


def stepwise(rate: float, every: int, factor: float = 0.1) -> Callable[[int], float]:
    """Times `factor` after each `every` steps."""
    _positive("stepwise", every)
    return lambda step: rate * factor ** (step // every)


def exponential(rate: float, every: int, factor: float = 0.5) -> Callable[[int], float]:
    """Falls smoothly, by `factor` in each `every` steps."""
    _positive("exponential", every)
    return lambda step: rate * factor ** (step / every)


def _positive(name: str, steps: int) -> None:
    if not steps >= 1:
        raise ValueError(f"{name}: the number of steps must be at least 1, got {steps}")
