"""One Adam step over many tensors: the NumPy reference, the Numba kernel, and PyTorch's Adam.

    python benchmarks/arena.py

Prints milliseconds a step, and gigabytes a second that the kernel moves: 7 numbers for each parameter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import peer
import tyro

from micrognm import Tensor, backend
from micrognm.optim import Adam


@dataclass
class Settings:
    parameters: int = 10_000_000
    """in all"""
    tensors: int = 100
    """of equal size"""
    repeats: int = 30
    """steps of each, by turns"""


def main(settings: Settings) -> None:
    torch = peer.torch()
    size = settings.parameters // settings.tensors
    gradient = np.random.default_rng(0).standard_normal(size, np.float32)
    ours = [Tensor(np.zeros(size, np.float32), requires_grad=True) for _ in range(settings.tensors)]
    theirs = [torch.zeros(size, requires_grad=True) for _ in range(settings.tensors)]
    for x, y in zip(ours, theirs, strict=True):
        x.grad, y.grad = Tensor(gradient), torch.from_numpy(gradient)
    adam, peers = Adam(ours), torch.optim.Adam(theirs)

    def step(kernels: str) -> None:
        backend.use_kernels(kernels)
        adam.step()

    reference, _ = peer.compare(lambda: step("reference"), peers.step, settings.repeats)
    numba, torchs = peer.compare(lambda: step("cpu"), peers.step, settings.repeats)
    moved = 7 * 4 * settings.parameters
    print(
        f"Adam, {settings.parameters:,} parameters in {settings.tensors} tensors: reference {reference * 1e3:.1f} ms, "
        f"Numba {numba * 1e3:.1f} ms ({moved / numba / 1e9:.0f} GB/s), PyTorch {torch.__version__} "
        f"{torchs * 1e3:.1f} ms, ratio {numba / torchs:.2f}"
    )


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
