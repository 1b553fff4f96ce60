"""The gradient of picked rows, and the sums and counts of an EMA codebook, by turns with PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from micrognm.kernels.scatter_add import reference

from micrognm import Tensor, grad
from micrognm.bench import Case
from micrognm.ops.index import scatter_add


def cases(torch: Any) -> Iterator[Case]:
    rng = np.random.default_rng(0)
    for rows, slots, columns in ((2048, 512, 64), (6272, 128, 64), (65_536, 512, 64), (65_536, 512, 1)):
        yield _codebook(torch, rng, rows, slots, columns)
    for rows, slots, columns in ((128, 10, 256), (4096, 17, 64), (16_384, 10_000, 64)):
        yield _embedding(torch, rng, rows, slots, columns)


def _codebook(torch: Any, rng: np.random.Generator, rows: int, slots: int, columns: int) -> Case:
    index, values = rng.integers(0, slots, rows), Tensor(rng.standard_normal((rows, columns), np.float32))

    def ours() -> Any:
        return scatter_add(values, index, (slots, columns))

    theirs: Callable[[], Any] | None = None
    if torch is not None:
        places, added = torch.from_numpy(index), torch.from_numpy(values.data)

        def theirs() -> Any:
            return torch.zeros(slots, columns).index_add_(0, places, added)

    def error() -> float:
        return _error(ours().data, index, values.data, slots)

    return _case(f"codebook {rows}x{columns} into {slots}", ours, theirs, error, values.size, slots * columns)


def _embedding(torch: Any, rng: np.random.Generator, rows: int, slots: int, columns: int) -> Case:
    index = rng.integers(0, slots, rows)
    weight = Tensor(rng.standard_normal((slots, columns), np.float32), requires_grad=True)
    g = Tensor(rng.standard_normal((rows, columns), np.float32))

    def ours() -> Any:
        return grad(weight[index], weight, g)

    theirs: Callable[[], Any] | None = None
    if torch is not None:
        places, leaf = torch.from_numpy(index), torch.from_numpy(weight.data).requires_grad_()
        cotangent = torch.from_numpy(g.data)

        def theirs() -> Any:
            return torch.autograd.grad(torch.nn.functional.embedding(places, leaf), leaf, cotangent)

    def error() -> float:
        return _error(ours().data, index, g.data, slots)

    return _case(f"embedding {rows}x{columns} of {slots}", ours, theirs, error, 3 * g.size, slots * columns)


def _case(shape: str, ours: Any, theirs: Any, error: Any, moved: int, out: int) -> Case:
    return Case(shape, ours, theirs, error, moved, 4 * (moved + out))


def _error(found: Any, index: Any, values: Any, slots: int) -> float:
    exact = reference.scatter_add(index, values.astype(np.float64), slots)
    return float(np.abs(found - exact).max() / np.abs(exact).max())
