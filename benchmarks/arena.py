"""The ladder of the arena kernel on Adam: NumPy, NumPy by blocks, Numba, Numba in threads; and PyTorch's Adam.

    python benchmarks/arena.py

Prints milliseconds a step, and gigabytes a second that it moves: 7 numbers for each parameter.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numba
import numpy as np
import tyro
from micrognm.kernels.arena import cpu, reference

from micrognm import Tensor, backend, bench
from micrognm.optim import Adam

BLOCK = 1 << 14  # elements: five arrays of them fit in a level 2 cache


@dataclass
class Settings:
    parameters: int = 10_000_000
    """in all"""
    tensors: int = 100
    """of equal size"""
    repeats: int = 30
    """steps of each, by turns"""


def by_blocks(p: Any, g: Any, m: Any, v: Any, scale: Any, limit: Any, decay: Any, *numbers: Any) -> None:
    """Adam with each operation of NumPy on a part that stays in the cache; without clipping and decay."""
    b1, b2, eta, floor, shrink = numbers
    for start in range(0, len(p), BLOCK):
        P, G, M, V = (x[start : start + BLOCK] for x in (p, g, m, v))
        M *= b1
        M += G
        V *= b2
        T = G * G
        V += T
        np.sqrt(V, out=T)
        T += floor
        np.divide(M, T, out=T)
        T *= eta
        P *= shrink
        P -= T


@numba.njit(parallel=True, error_model="numpy", fastmath={"contract"})
def in_threads(p: Any, g: Any, m: Any, v: Any, scale: Any, limit: Any, decay: Any, *numbers: Any) -> None:
    """Adam in Numba's threads; without clipping and decay."""
    b1, b2, eta, floor, shrink = numbers
    for i in numba.prange(p.size):
        m[i] = b1 * m[i] + g[i]
        v[i] = b2 * v[i] + g[i] * g[i]
        p[i] = shrink * p[i] - eta * m[i] / (np.sqrt(v[i]) + floor)


def main(settings: Settings) -> None:
    torch = bench.torch() or sys.exit(bench.NO_PEER)
    size = settings.parameters // settings.tensors
    gradient = np.random.default_rng(0).standard_normal(size, np.float32)
    theirs = [torch.zeros(size, requires_grad=True) for _ in range(settings.tensors)]
    for y in theirs:
        y.grad = torch.from_numpy(gradient)
    peers = torch.optim.Adam(theirs)
    versions: dict[str, Callable[..., None]] = {
        "Numba (cpu.py)": cpu.adam,
        "NumPy (reference.py)": reference.adam,
        "NumPy by blocks": by_blocks,
        "Numba in threads": in_threads,  # last: the threads that it starts disturb what comes after
    }
    kernel, ends = backend.kernel, []
    for name, version in versions.items():
        ours = [Tensor(np.zeros(size, np.float32), requires_grad=True) for _ in range(settings.tensors)]
        for x in ours:
            x.grad = Tensor(gradient)
        backend.kernel = lambda name, x, version=version: SimpleNamespace(adam=version)  # type: ignore[assignment,misc]
        adam = Adam(ours)
        a, p = bench.compare(adam.step, peers.step, settings.repeats)
        backend.kernel = kernel
        ends.append(ours[0].numpy()[: 1 << 10].copy())
        if not np.allclose(ends[0], ends[-1], rtol=1e-4, atol=1e-6):
            raise SystemExit(f"{name} does not compute what cpu.py does")
        print(
            f"Adam, {settings.parameters:,} parameters in {settings.tensors} tensors: {name} {a * 1e3:.1f} ms "
            f"({28e-9 * settings.parameters / a:.0f} GB/s), "
            f"PyTorch {torch.__version__} {p * 1e3:.1f} ms, ratio {a / p:.2f}"
        )


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
