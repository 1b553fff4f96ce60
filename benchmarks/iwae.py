"""IWAE's training step against its twin in PyTorch: the same weights, noise, batch and Adam; the losses must agree.

    python benchmarks/iwae.py

A step is L_50 of 20 MNIST-sized images (784-200-200-50), its gradients, and Adam. The twin encodes an image once too.
Prints milliseconds a step, ours and PyTorch's, and their ratio; then the same with two stochastic layers.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro

from micrognm import Tensor, backend, bench
from micrognm.models.latent.iwae import IWAE
from micrognm.optim import Adam


@dataclass
class Settings:
    batch: int = 20
    """images a step"""
    k: int = 50
    """draws an image"""
    repeats: int = 100
    """how often each side steps, by turns"""


def twin(torch: Any, model: IWAE) -> tuple[list[Any], Callable[[Any, list[Any]], Any]]:
    """PyTorch's parameters, and its loss of images [N, D] with the noise [N, k, n] of each layer."""
    F, made = torch.nn.functional, {}
    for name, p in model.named_parameters().items():  # torch.nn.functional.linear holds weights as [out, in]
        made[name] = torch.tensor(p.numpy().T.copy(), requires_grad=True)

    def linear(x: Any, name: str) -> Any:
        return F.linear(x, made[f"{name}.weight"], made[f"{name}.bias"])

    def hidden(x: Any, name: str) -> Any:
        return torch.tanh(linear(torch.tanh(linear(x, f"{name}.hidden.layers.0")), f"{name}.hidden.layers.2"))

    def normal(x: Any, name: str) -> tuple[Any, Any]:
        h = hidden(x, name)
        return linear(h, f"{name}.mean"), linear(h, f"{name}.log_std")

    def log_normal(z: Any, mean: Any, log_std: Any) -> Any:
        return (-0.5 * ((z - mean) * torch.exp(-log_std)) ** 2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)

    def loss(x: Any, noise: list[Any]) -> Any:
        log_w, below, z = 0.0, x[:, None], []
        for i, e in enumerate(noise):
            mean, log_std = normal(below, f"q.{i}")
            below = mean + torch.exp(log_std) * e
            log_w = log_w - log_normal(below, mean, log_std)
            z.append(below)
        for i, above in enumerate(z[1:]):
            log_w = log_w + log_normal(z[i], *normal(above, f"p.{i}"))
        log_w = log_w - 0.5 * (z[-1] ** 2 + math.log(2 * math.pi)).sum(-1)
        logits = linear(hidden(z[0], "decoder"), "decoder.logits")
        target = x[:, None].expand_as(logits)
        log_w = log_w - F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(-1)
        return -(torch.logsumexp(log_w, 1) - math.log(log_w.shape[1])).mean()

    return list(made.values()), loss


def main(settings: Settings) -> None:
    torch = bench.torch() or sys.exit(bench.NO_PEER)
    images = (np.random.default_rng(0).random((settings.batch, 28, 28, 1)) < 0.2).astype(np.float32)
    for units, widths in (([50], [(200, 200)]), ([100, 50], [(200, 200), (100, 100)])):
        model = IWAE(units, widths, np.random.default_rng(0), mean=np.full((28, 28, 1), 0.2, np.float32))
        parameters, loss = twin(torch, model)
        optimiser, adam = Adam(model, 1e-3, eps=1e-4), torch.optim.Adam(parameters, 1e-3, eps=1e-4)
        x, tx = Tensor(images), torch.from_numpy(images).reshape(settings.batch, 784)
        shapes = [(settings.batch, settings.k, n) for n in units]

        def noise(rng: np.random.Generator, shapes=shapes) -> list[Any]:
            """What the model draws."""
            return [torch.from_numpy(backend.normal(rng, shape)) for shape in shapes]

        rng = np.random.default_rng(1)

        def ours(model=model, optimiser=optimiser, x=x, rng=rng) -> float:
            optimiser.zero_grad()
            value = -model.bound(x, settings.k, rng).mean()
            value.backward()
            optimiser.step()
            return value.item()

        def theirs(given: list[Any] | None = None, adam=adam, loss=loss, tx=tx, shapes=shapes) -> float:
            adam.zero_grad()
            value = loss(tx, [torch.randn(shape) for shape in shapes] if given is None else given)
            value.backward()
            adam.step()
            return value.item()

        same = np.random.default_rng(1)
        for step in range(5):
            a, b = ours(), theirs(noise(same))
            if not np.isclose(a, b, rtol=1e-4):
                raise SystemExit(f"the two do not compute the same: losses {a} and {b} at step {step + 1}")
        mine, peer = bench.compare(ours, theirs, settings.repeats)
        print(
            f"IWAE {'-'.join(map(str, [784, *(n for w, u in zip(widths, units, strict=True) for n in (*w, u))]))}, "
            f"batch {settings.batch}, k {settings.k}, a training step: "
            f"micrognm {mine * 1e3:.2f} ms, PyTorch {torch.__version__} {peer * 1e3:.2f} ms, ratio {mine / peer:.2f}"
        )


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
