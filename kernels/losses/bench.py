"""What the losses cost in training: value and gradient, by turns with PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from micrognm.kernels.losses import cpu, reference

from micrognm import Tensor, grad
from micrognm.bench import Case
from micrognm.ops.categorical import categorical_log_prob
from micrognm.ops.logistic_mixture import logistic_mixture_log_prob


def cases(torch: Any) -> Iterator[Case]:
    rng = np.random.default_rng(0)
    for images, side, channels, mixtures, levels in (
        (16, 32, 3, 10, 256), (8, 32, 3, 32, 256), (32, 28, 1, 10, 256), (64, 8, 1, 10, 17), (64, 8, 1, 5, 17),
    ):  # fmt: skip
        yield _mixture(torch, rng, images, side, channels, mixtures, levels)
    for rows, classes in (
        (64 * 64, 2), (64 * 64, 17), (32 * 784, 32), (64 * 64, 128), (16 * 3072, 256), (2048, 512), (512, 1000),
        (64, 10_000),
    ):  # fmt: skip
        yield _categorical(torch, rng, rows, classes)


def _mixture(
    torch: Any, rng: np.random.Generator, images: int, side: int, channels: int, mixtures: int, levels: int
) -> Case:
    width = mixtures * (3 if channels == 1 else 10)
    x = rng.integers(0, levels, (images, side, side, channels))
    params = Tensor(rng.standard_normal((images, side, side, width), np.float32), requires_grad=True)
    g = Tensor(rng.standard_normal((images, side, side), np.float32))

    def ours() -> Any:
        return grad(logistic_mixture_log_prob(x, params, levels=levels, mixtures=mixtures), params, g)

    def error() -> float:
        rows, pixels = params.data.reshape(-1, width), x.reshape(-1, channels)
        return _error(
            (cpu.logistic_mixture(pixels, rows, levels, mixtures), ours().data.reshape(-1, width)),
            (
                reference.logistic_mixture(pixels, rows.astype(np.float64), levels, mixtures),
                g.data.reshape(-1, 1)
                * reference.logistic_mixture_slopes(pixels, rows.astype(np.float64), levels, mixtures)[1],
            ),
        )

    theirs: Callable[[], Any] | None = None
    if torch is not None:
        level = torch.from_numpy((2 * x / (levels - 1) - 1).astype(np.float32))
        leaf = torch.from_numpy(params.data).requires_grad_()
        cotangent = torch.from_numpy(g.data)

        def theirs() -> Any:
            return torch.autograd.grad(usual_mixture(torch, level, leaf, levels, mixtures), leaf, cotangent)

    # A bin takes about 8 exponentials, logarithms and quotients of about 15 operations each.
    pixels = images * side * side
    return Case(
        f"logistic mixture {images}x{side}x{side}x{channels}, M={mixtures}, {levels} levels",
        ours, theirs, error, 8 * 15 * pixels * channels * mixtures, 4 * pixels * (4 * width + 3),
    )  # fmt: skip


def usual_mixture(torch: Any, x: Any, params: Any, levels: int, mixtures: int) -> Any:
    """The log-likelihood as PyTorch models compute it: PixelCNN++'s formula, one operation after another."""
    F = torch.nn.functional
    channels = x.shape[-1]
    parts = params.view(*params.shape[:-1], -1, mixtures)
    means, log_scales = parts[..., 1 : 1 + channels, :], parts[..., 1 + channels : 1 + 2 * channels, :].clamp(min=-7.0)
    x = x.unsqueeze(-1).expand(*means.shape)
    if channels == 3:
        c = torch.tanh(parts[..., 7:10, :])
        green = means[..., 1, :] + c[..., 0, :] * x[..., 0, :]
        blue = means[..., 2, :] + c[..., 1, :] * x[..., 0, :] + c[..., 2, :] * x[..., 1, :]
        means = torch.stack([means[..., 0, :], green, blue], dim=-2)
    centred, inverse = x - means, torch.exp(-log_scales)
    half = 1 / (levels - 1)
    plus, middle, minus = inverse * (centred + half), inverse * centred, inverse * (centred - half)
    delta = torch.sigmoid(plus) - torch.sigmoid(minus)
    density = middle - log_scales - 2 * F.softplus(middle) + float(np.log(2 * half))
    mass = torch.where(delta > 1e-5, torch.log(delta.clamp(min=1e-12)), density)
    mass = torch.where(x > 0.999, -F.softplus(minus), mass)
    mass = torch.where(x < -0.999, plus - F.softplus(plus), mass)
    return torch.logsumexp(mass.sum(dim=-2) + F.log_softmax(parts[..., 0, :], dim=-1), dim=-1)


def _categorical(torch: Any, rng: np.random.Generator, rows: int, classes: int) -> Case:
    logits = Tensor(3 * rng.standard_normal((rows, classes), np.float32), requires_grad=True)
    index = rng.integers(0, classes, rows)
    g = Tensor(rng.standard_normal(rows, np.float32))

    def ours() -> Any:
        return grad(categorical_log_prob(logits, index), logits, g)

    def error() -> float:
        exact = logits.data.astype(np.float64)
        value, *kept = reference.categorical(exact, index)
        return _error(
            (categorical_log_prob(logits, index).data, ours().data),
            (value, reference.categorical_grad(g.data.astype(np.float64), exact, index, *kept)),
        )

    theirs: Callable[[], Any] | None = None
    if torch is not None:
        leaf = torch.from_numpy(logits.data).requires_grad_()
        target, cotangent = torch.from_numpy(index), torch.from_numpy(-g.data)

        def theirs() -> Any:
            loss = torch.nn.functional.cross_entropy(leaf, target, reduction="none")
            return torch.autograd.grad(loss, leaf, cotangent)

    return Case(
        f"cross-entropy {rows} of {classes}", ours, theirs, error, 2 * 15 * rows * classes, 4 * (3 * rows * classes)
    )


def _error(found: tuple[Any, ...], exact: tuple[Any, ...]) -> float:
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(found, exact, strict=True))
