"""VQ-VAE's training step against its twin in PyTorch: the same weights, batch and Adam; the losses must agree.

    python benchmarks/vq_vae.py

A step is the loss, its gradients, the averages of the codebook, and Adam. The twin multiplies by the codebook to find
the nearest entries and sums what chose them by index_add_; of PyTorch's two layouts of images the faster is the peer.
Prints milliseconds a step, ours and PyTorch's, and their ratio, for images like MNIST's and like CIFAR's.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro

from micrognm import Tensor, bench
from micrognm.models.latent.vq_vae import VQVAE
from micrognm.nn import Conv, ConvTranspose
from micrognm.optim import Adam

LR = 2e-4


@dataclass
class Settings:
    batch: int = 32
    """images a step"""
    repeats: int = 20
    """how often each side steps, by turns"""


CASES: tuple[tuple[tuple[int, int, int], dict[str, int]], ...] = (
    ((28, 28, 1), {"h": 64, "r": 32, "K": 128, "D": 32}),
    ((32, 32, 3), {"h": 128, "r": 32, "K": 512, "D": 64}),
)


def twin(torch: Any, model: VQVAE, layout: Any) -> Any:
    """A module of the same weights: images [N, C, H, W] of -1 .. 1 -> the loss."""
    nn, F = torch.nn, torch.nn.functional
    Module: Any = nn.Module
    tensor = torch.from_numpy

    def convolution(ours: Conv | ConvTranspose) -> Any:
        transposed, k = isinstance(ours, ConvTranspose), round(len(ours.taps) ** 0.5)
        weight = ours.weight.numpy().reshape(k, k, *ours.weight.shape[1:]).transpose(3, 2, 0, 1).copy()
        into, out = (weight.shape[0], weight.shape[1]) if transposed else (weight.shape[1], weight.shape[0])
        kind = nn.ConvTranspose2d if transposed else nn.Conv2d
        made = kind(into, out, k, stride=ours.stride, padding=(k - 1) // 2)
        made.weight.data, made.bias.data = tensor(weight), tensor(ours.bias.numpy().copy())  # type: ignore[union-attr]
        return made

    class Residual(Module):
        def __init__(self, block: Any) -> None:
            super().__init__()
            self.inner, self.outer = convolution(block.inner), convolution(block.outer)

        def forward(self, x: Any) -> Any:
            return x + self.outer(F.relu(self.inner(F.relu(x))))

    def sequence(ours: Any) -> Any:
        return nn.Sequential(
            *(
                convolution(layer)
                if isinstance(layer, (Conv, ConvTranspose))
                else Residual(layer)
                if hasattr(layer, "inner")
                else nn.ReLU()
                for layer in ours.layers
            )
        )

    class Twin(Module):
        e: Any
        N: Any
        m: Any

        def __init__(self) -> None:
            super().__init__()
            q = model.quantiser
            self.encoder, self.to_z = sequence(model.encoder), convolution(model.to_z)
            self.decoder = sequence(model.decoder)
            self.K, self.beta, self.decay, self.eps = q.K, q.beta, q.decay, q.EPS
            for name in ("e", "N", "m"):
                self.register_buffer(name, tensor(getattr(q, name).numpy().copy()))

        def forward(self, x: Any) -> Any:
            z = self.to_z(self.encoder(x)).permute(0, 2, 3, 1)
            flat = z.detach().reshape(-1, z.shape[-1])
            index = torch.addmm((self.e * self.e).sum(1), flat, self.e.T, alpha=-2).argmin(1)
            e = self.e[index].reshape(z.shape)
            N = self.decay * self.N + (1 - self.decay) * torch.bincount(index, minlength=self.K)
            m = self.decay * self.m + (1 - self.decay) * torch.zeros_like(self.m).index_add_(0, index, flat)
            self.e, self.N, self.m = (m + self.eps * self.e) / (N + self.eps)[:, None], N, m
            z_q = z + (e - z).detach()
            return F.mse_loss(self.decoder(z_q.permute(0, 3, 1, 2)), x) + self.beta * F.mse_loss(z, e)

    return Twin().to(memory_format=layout)


def compare(torch: Any, shape: tuple[int, int, int], sizes: dict[str, int], settings: Settings) -> str:
    """A line; SystemExit where the two do not compute the same."""
    rng = np.random.default_rng(0)
    model = VQVAE(shape, rng, revive=0.0, **sizes)
    model.quantiser.e.data *= sizes["K"]  # as large as what is encoded, so that many entries are used
    x = rng.integers(256, size=(settings.batch, *shape))
    scaled = torch.from_numpy((x / 127.5 - 1).astype(np.float32).transpose(0, 3, 1, 2).copy())
    images = Tensor(x)
    peers = [twin(torch, model, layout) for layout in (torch.contiguous_format, torch.channels_last)]
    optimiser = Adam(model, LR)

    def ours() -> float:
        optimiser.zero_grad()
        loss = model.loss(images)
        loss.backward()
        optimiser.step()
        return loss.item()

    def stepper(peer: Any, x: Any) -> Callable[[], float]:
        adam = torch.optim.Adam(peer.parameters(), LR)

        def theirs() -> float:
            adam.zero_grad()
            loss = peer(x)
            loss.backward()
            adam.step()
            return loss.item()

        return theirs

    layouts = (torch.contiguous_format, torch.channels_last)
    steps = [
        stepper(peer, scaled.contiguous(memory_format=layout)) for peer, layout in zip(peers, layouts, strict=True)
    ]
    losses = [[run() for _ in range(5)] for run in (ours, *steps)]
    if not np.allclose(losses[0], losses[1:], rtol=1e-3):
        raise SystemExit(f"the two do not compute the same: losses {losses}")
    theirs = min(steps, key=lambda run: statistics.median(seconds(run) for _ in range(3)))
    a, b = bench.compare(ours, theirs, settings.repeats)
    described = ", ".join(f"{name}={size}" for name, size in sizes.items())
    return (
        f"{shape[0]}x{shape[1]}x{shape[2]}, {described}, batch {settings.batch}: micrognm {a * 1e3:.1f} ms, "
        f"PyTorch {b * 1e3:.1f} ms, ratio {a / b:.2f} (wanted <= 0.9)"
    )


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main(settings: Settings) -> None:
    torch = bench.torch() or sys.exit(bench.NO_PEER)
    for shape, sizes in CASES:
        print(compare(torch, shape, sizes, settings), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
