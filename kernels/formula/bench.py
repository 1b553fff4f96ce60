"""Formulas of two or more functions at 4M and 64k elements, forward and backward, against PyTorch's operations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from micrognm import Tensor, grad
from micrognm.bench import Case
from micrognm.formula import erf, exp, formula, sigmoid, softplus, sum, tanh

SIZES = (64, 64 << 6)  # rows of 1024


@formula
def gated(a: Any, b: Any) -> Any:
    """The gate of PixelCNN, tanh(a) sigmoid(b); shapes broadcast."""
    return tanh(a) * sigmoid(b)


@formula
def gelu(x: Any) -> Any:
    """x times the normal distribution function of x."""
    return 0.5 * x * (1 + erf(math.sqrt(0.5) * x))


@formula
def swish(x: Any) -> Any:
    """x sigmoid(x)"""
    return x * sigmoid(x)


@formula
def bce(x: Any, logits: Any) -> Any:
    """-log p(x) of a Bernoulli variable under logits; shapes broadcast."""
    return softplus(logits) - x * logits


@formula
def kl(mean: Any, log_scale: Any) -> Any:
    """KL divergence of a normal distribution from the standard one, summed over the last axis."""
    return sum(0.5 * (mean * mean + exp(2 * log_scale) - 1) - log_scale, axes=1)


class Work(NamedTuple):
    """A formula, its like in PyTorch, its inputs that need a gradient, operations and arrays moved for an element."""

    name: str
    ours: Any
    theirs: Callable[..., Any]
    needs: tuple[bool, ...]
    flops: float
    arrays: float  # read or written, forward and backward, at least


def works(torch: Any) -> list[Work]:
    """The formulas that the papers' models use."""
    F = torch and torch.nn.functional
    cross_entropy = torch and F.binary_cross_entropy_with_logits
    return [
        Work("gated", gated, lambda a, b: torch.tanh(a) * torch.sigmoid(b), (True, True), 90, 3 + 5),
        Work("gelu", gelu, lambda x: F.gelu(x), (True,), 110, 2 + 3),
        Work("swish", swish, lambda x: F.silu(x), (True,), 60, 2 + 3),
        Work("bce", bce, lambda x, z: cross_entropy(z, x, reduction="none"), (False, True), 70, 3 + 4),
        Work("kl", kl, lambda m, s: (0.5 * (m * m + (2 * s).exp() - 1) - s).sum(1), (True, True), 60, 2 + 4),
    ]


def cases(torch: Any) -> Iterator[Case]:
    """One case for each formula and size."""
    for work in works(torch):
        for rows in SIZES:
            yield _case(torch, work, rows)


def _case(torch: Any, work: Work, rows: int) -> Case:
    rng = np.random.default_rng(0)
    xs = [rng.standard_normal((rows, 1024), np.float32) for _ in work.needs]
    if work.name == "bce":
        xs[0] = (xs[0] > 0).astype(np.float32)
    ours = [Tensor(x, requires_grad=need) for x, need in zip(xs, work.needs, strict=True)]
    wanted = [x for x in ours if x.requires_grad]
    shape = work.ours(*ours).shape
    g = rng.standard_normal(shape, np.float32)
    cotangent = Tensor(g)

    def run() -> Any:
        return grad(work.ours(*ours), wanted, cotangent)

    def error() -> float:
        exact = [Tensor(x.astype(np.float64), requires_grad=need) for x, need in zip(xs, work.needs, strict=True)]
        want = grad(work.ours(*exact), [x for x in exact if x.requires_grad], Tensor(g.astype(np.float64)))
        pairs = [(a.numpy(), b.numpy()) for a, b in zip(run(), want, strict=True)]
        return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)

    theirs = None
    if torch:
        peers = [torch.tensor(x, requires_grad=need) for x, need in zip(xs, work.needs, strict=True)]
        tg = torch.from_numpy(g)
        leaves = [x for x in peers if x.requires_grad]

        def theirs() -> Any:
            return torch.autograd.grad(work.theirs(*peers), leaves, tg)

    size = rows * 1024
    return Case(f"{work.name} [{rows}, 1024]", run, theirs, error, work.flops * size, 4 * work.arrays * size)
