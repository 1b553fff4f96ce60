"""Glow's training step against its twin in PyTorch, and the memory that a step takes as the flow gets deeper.

    python benchmarks/glow.py
    python benchmarks/glow.py --quick      a small model and few repeats: shows that it runs, not how fast

A step is loss, gradients and Adam, by turns, on the same images and weights; losses and gradients of both must agree.
The twin is written with the same formulas: actnorm is folded into the convolutions, and the edge of the image is a map
that is added. Memory is what a step takes at its peak beside parameters and their gradients: ours as tracemalloc sees
it, PyTorch's as the bytes that its autograd keeps for the backward pass, which are most of it.
"""

from __future__ import annotations

import sys
import tracemalloc
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro

from micrognm import Tensor, bench, grad
from micrognm.models.flow.glow import FACTOR, Conv, Glow, Step, outside
from micrognm.optim import Adam


@dataclass
class Settings:
    side: int = 32
    """of the images, which have three colours"""
    batch: int = 32
    """images a step"""
    L: int = 3
    """scales"""
    K: int = 8
    """steps of flow at each scale, where time is measured"""
    width: int = 64
    """channels within the couplings' networks"""
    shallow: int = 4
    """steps of flow where memory is measured, and"""
    deep: int = 32
    """as many again"""
    repeats: int = 20
    """how often each side steps, by turns"""
    quick: bool = False
    """a small model and few repeats"""


def main(settings: Settings) -> None:
    torch = bench.torch() or sys.exit(bench.NO_PEER)
    if settings.quick:
        settings.side, settings.batch, settings.K, settings.width, settings.repeats = 16, 4, 2, 8, 1
        settings.shallow, settings.deep = 1, 4
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 256, (settings.batch, settings.side, settings.side, 3)).astype(np.float32)
    time_step(torch, settings, x)
    peaks, kept = {}, {}
    for K in (settings.shallow, settings.deep):
        peaks[K] = {way: peak(glow(settings, K, x, way), x) for way in (False, True)}
        kept[K] = saved_bytes(torch, Twin(torch, glow(settings, K, x)), x)
        print(
            f"K={K}: a step takes {peaks[K][True] / 1e6:.1f} MB reversible, {peaks[K][False] / 1e6:.1f} MB storing; "
            f"PyTorch's autograd keeps {kept[K] / 1e6:.1f} MB",
            flush=True,
        )
    few, many = settings.shallow, settings.deep
    print(
        f"K={many} over K={few}: reversible {peaks[many][True] / peaks[few][True]:.2f}, "
        f"storing {peaks[many][False] / peaks[few][False]:.2f}, PyTorch {kept[many] / kept[few]:.2f}"
    )
    exact, drifted = (gradient(glow(settings, many, x, way), x) for way in (False, True))
    print(f"K={many}: reversible gradients are {apart(drifted, exact):.1e} (relative) from the stored ones, in float32")


def glow(settings: Settings, K: int, x: np.ndarray, reversible: bool = False) -> Glow:
    """The model, initialised by the batch, its last convolutions moved away from 0."""
    rng = np.random.default_rng(1)
    model = Glow(x.shape[1:], rng, L=settings.L, K=K, width=settings.width, reversible=reversible)
    model.log_prob(Tensor(x))
    for p in model.parameters():
        p.data += 0.01 * rng.standard_normal(p.shape, np.float32)
    return model


def gradient(model: Glow, x: np.ndarray) -> np.ndarray:
    """All of it in one vector."""
    return np.concatenate([g.numpy().ravel() for g in grad(model.log_prob(Tensor(x)).mean(), model.parameters())])


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """|a - b| / |b|"""
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def time_step(torch: Any, settings: Settings, images: np.ndarray) -> None:
    storing, recomputing = (glow(settings, settings.K, images, way) for way in (False, True))
    twin = Twin(torch, storing)
    x, tx = Tensor(images), twin.images(images)
    losses = float(-storing.log_prob(x).mean()), float(twin.loss(tx).detach())
    ours, theirs = gradient(storing, images), -twin.gradient(tx)
    if not np.isclose(*losses, rtol=1e-4) or apart(theirs, ours) > 1e-3:
        raise SystemExit(f"the two do not compute the same: losses {losses}, gradients {apart(theirs, ours):.1e} apart")
    adam = torch.optim.Adam(twin.parameters, 1e-6)

    def steps(model: Glow) -> Any:
        optimiser = Adam(model, 1e-6)

        def step() -> None:
            optimiser.zero_grad()
            (-model.log_prob(x).mean()).backward()
            optimiser.step()

        return step

    def their_step() -> None:
        adam.zero_grad()
        twin.loss(tx).backward()
        adam.step()

    for name, model in (("storing", storing), ("reversible", recomputing)):
        a, p = bench.compare(steps(model), their_step, settings.repeats, turn=min(5, settings.repeats))
        print(
            f"Glow L={settings.L} K={settings.K} width {settings.width}, {settings.side}x{settings.side}x3, "
            f"batch {settings.batch}, a training step, {name}: micrognm {a * 1e3:.1f} ms, "
            f"PyTorch {torch.__version__} {p * 1e3:.1f} ms, ratio {a / p:.2f}",
            flush=True,
        )


def peak(model: Glow, x: np.ndarray) -> int:
    """Bytes that a step takes at its most, beside parameters and their gradients."""
    most = 0
    for _ in range(2):  # the first fills caches
        for p in model.parameters():
            p.grad = None
        tracemalloc.start()
        (-model.log_prob(Tensor(x)).mean()).backward()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return most - sum(p.data.nbytes for p in model.parameters())


def saved_bytes(torch: Any, twin: Twin, x: np.ndarray) -> int:
    """Bytes that PyTorch keeps for the backward pass beside the parameters, each storage once."""
    own = {p.untyped_storage().data_ptr() for p in twin.parameters}
    found: dict[int, int] = {}

    def pack(t: Any) -> Any:
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        twin.loss(twin.images(x))
    return sum(found.values())


class Twin:
    """The same flow in PyTorch, with copies of a model's parameters: affine couplings and plain 1x1 convolutions."""

    def __init__(self, torch: Any, model: Glow) -> None:
        self.torch, self.F, self.model = torch, torch.nn.functional, model
        self.own = {id(p): torch.from_numpy(p.numpy().copy()).requires_grad_() for p in model.parameters()}
        self.parameters = list(self.own.values())

    def images(self, x: np.ndarray) -> Any:
        """[N, C, H, W], in PyTorch's faster layout."""
        return self.torch.from_numpy(x).permute(0, 3, 1, 2)

    def of(self, p: Tensor | None) -> Any:
        return self.own[id(p)]

    def conv(self, layer: Conv, x: Any) -> Any:
        k = round(len(layer.taps) ** 0.5)
        scale = self.torch.exp(FACTOR * self.of(layer.logs))
        weight = self.of(layer.W) * scale
        kernel = weight.reshape(k, k, *weight.shape[1:]).permute(3, 2, 0, 1)
        E = self.of(layer.E) * scale
        if k == 1:
            return self.F.conv2d(x, kernel, E.reshape(-1))
        H, W = x.shape[2:]
        edge = self.torch.from_numpy(outside(layer.taps, H, W, "float32", "cpu").numpy())
        return self.F.conv2d(x, kernel, padding=k // 2) + (edge @ E).T.reshape(1, -1, H, W)

    def step(self, step: Step, x: Any) -> tuple[Any, Any]:
        torch, F = self.torch, self.F
        W, logs = self.of(step.W), FACTOR * self.of(step.logs)
        scale, b = (each.reshape(1, -1, 1, 1) for each in (torch.exp(logs), self.of(step.b)))
        y = F.conv2d(x * scale + b, W.T[..., None, None])
        logdet = x.shape[2] * x.shape[3] * (torch.linalg.slogdet(W)[1] + logs.sum())
        a, b = y.chunk(2, 1)
        h = F.relu(self.conv(step.net[1], F.relu(self.conv(step.net[0], a))))
        shift, h = self.conv(step.net[2], h).chunk(2, 1)
        b = (b + shift) * torch.sigmoid(h + 2)
        return torch.cat([a, b], 1), logdet + F.logsigmoid(h + 2).sum((1, 2, 3))

    def loss(self, x: Any) -> Any:
        """The mean of -log p."""
        torch, model = self.torch, self.model
        y, logdet, squares = x / model.levels - 0.5, -model.D * np.log(model.levels), 0.0
        for scale, steps in enumerate(model.steps):
            N, C, H, W = y.shape
            y = y.reshape(N, C, H // 2, 2, W // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(N, 4 * C, H // 2, W // 2)
            for step in steps:
                y, each = self.step(step, y)
                logdet = logdet + each
            if scale < len(model.priors):
                y, z = y.chunk(2, 1)
                logs, mean = self.conv(model.priors[scale], y).chunk(2, 1)
            else:
                z = y
                logs, mean = (part.reshape(1, -1, 1, 1).expand_as(z) for part in self.of(model.top).chunk(2))
            logdet = logdet - logs.sum((1, 2, 3))
            squares = squares + ((z - mean) * torch.exp(-logs)).square().sum((1, 2, 3))
        return (0.5 * squares + 0.5 * np.log(2 * np.pi) * model.D - logdet).mean()

    def gradient(self, x: Any) -> np.ndarray:
        found = self.torch.autograd.grad(self.loss(x), self.parameters)
        return np.concatenate([g.numpy().ravel() for g in found])


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
