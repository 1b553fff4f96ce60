"""Dropout in training, forward and backward, and noise, against PyTorch's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from micrognm.kernels.rng import cpu, reference

from micrognm import Tensor, backend, grad
from micrognm.bench import Case
from micrognm.ops.dropout import dropout

KEY = 0x0123456789ABCDEF
# Activations of an MLP, of PixelCNNs and attention blocks, and of a wide residual network.
DROPPED = ((100, 500), (64, 28, 28, 32), (16, 32, 32, 160), (32, 1024, 128), (128, 32, 32, 64))
NOISE = ((64, 50), (64, 28, 28, 32), (128, 32, 32, 64))


def cases(torch: Any) -> Iterator[Case]:
    rng = np.random.default_rng(0)
    for shape in DROPPED:
        yield _dropout(torch, rng, shape, 0.5)
    for name in ("uniform", "normal"):
        for shape in NOISE:
            yield _noise(torch, rng, name, shape)


def _dropout(torch: Any, rng: np.random.Generator, shape: tuple[int, ...], rate: float) -> Case:
    x = Tensor(rng.standard_normal(shape, np.float32), requires_grad=True)
    g = Tensor(rng.standard_normal(shape, np.float32))

    def ours() -> Any:
        return grad(dropout(x, rate=rate, key=backend.key(rng)), x, g)

    def error() -> float:
        found = cpu.dropout(x.data, rate, KEY)
        exact = reference.dropout(x.data.astype(np.float64), rate, KEY)
        return np.abs(found - exact).max() / np.abs(exact).max()

    theirs: Callable[[], Any] | None = None
    if torch is not None:
        leaf, cotangent = torch.from_numpy(x.data).requires_grad_(), torch.from_numpy(g.data)

        def theirs() -> Any:
            return torch.autograd.grad(torch.nn.functional.dropout(leaf, rate), leaf, cotangent)

    # Twice: a word is 10 rounds of 8 operations for 4 elements; read and write.
    return Case(f"dropout {list(shape)}", ours, theirs, error, 2 * 22.0 * x.size, 2 * 8.0 * x.size)


def _noise(torch: Any, rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> Case:
    size = int(np.prod(shape))

    def error() -> float:
        found = getattr(cpu, name)(np.zeros(1, np.float32), size, KEY)
        exact = getattr(reference, name)(np.zeros(1), size, KEY)
        return np.abs(found - exact).max() / np.abs(exact).max()

    theirs: Callable[[], Any] | None = None
    if torch is not None:
        draw = {"uniform": torch.rand, "normal": torch.randn}[name]

        def theirs() -> Any:
            return draw(shape)

    work = 22.0 if name == "uniform" else 60.0
    return Case(
        f"{name} {list(shape)}", lambda: getattr(backend, name)(rng, shape), theirs, error, work * size, 4.0 * size
    )
