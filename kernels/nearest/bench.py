"""The nearest codebook entry, by turns with PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from micrognm import Tensor
from micrognm.bench import Case
from micrognm.ops.nearest import nearest


def cases(torch: Any) -> Iterator[Case]:
    rng = np.random.default_rng(0)
    for shape, entries in (
        ((32, 8, 8, 64), 512), ((128, 7, 7, 64), 128), ((64, 32, 32, 64), 512), ((64, 4, 4, 16), 32),
        ((8, 16, 16, 256), 512),
    ):  # fmt: skip
        yield _case(torch, rng, shape, entries)


def _case(torch: Any, rng: np.random.Generator, shape: tuple[int, ...], entries: int) -> Case:
    z = Tensor(rng.standard_normal(shape, np.float32))
    codebook = Tensor(rng.standard_normal((entries, shape[-1]), np.float32))

    def ours() -> Any:
        return nearest(z, codebook)

    def error() -> float:
        """Of the squared distance to what was taken, against the least there is."""
        rows, exact = z.data.reshape(-1, shape[-1]).astype(np.float64), codebook.data.astype(np.float64)
        least = np.concatenate([((part[:, None] - exact) ** 2).sum(axis=2).min(axis=1) for part in np.split(rows, 32)])
        return float(np.abs(ours()[1].data.ravel() - least).max() / least.max())

    theirs: Callable[[], Any] | None = None
    if torch is not None:
        a, b = torch.from_numpy(z.data), torch.from_numpy(codebook.data)

        def theirs() -> Any:
            """As VQ-VAE models in PyTorch have it."""
            rows = a.view(-1, shape[-1])
            squares = rows.pow(2).sum(1, keepdim=True) - 2 * rows @ b.T + b.pow(2).sum(1)
            return squares.argmin(1)

    size = z.size // shape[-1]
    return Case(
        f"{'x'.join(map(str, shape))}, K={entries}", ours, theirs, error, 2 * z.size * entries,
        4 * (z.size + codebook.size) + 12 * size,
    )  # fmt: skip
