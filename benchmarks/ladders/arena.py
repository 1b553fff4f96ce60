"""The ladder of the arena kernel on Adam with EMA, from NumPy to what runs; against PyTorch's Adam and a foreach EMA.

    python benchmarks/ladders/arena.py

Prints milliseconds a step, and gigabytes a second: 9 numbers move for each parameter, whatever a version makes of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro
from micrognm.kernels.arena import cpu, reference
from micrognm.kernels.jit import SERIAL
from numba import njit

from micrognm import bench


@dataclass
class Settings:
    parameters: int = 10_000_000
    """in all"""
    tensors: int = 100
    """of equal size"""
    repeats: int = 20
    """steps of each, by turns"""


BLOCK = 1 << 14  # elements: five arrays of them fit in a level 2 cache
NUMBERS = b1, b2, eta, floor, shrink = 0.9, 0.999, 1e-3, 1e-8, 1.0
REST = 0.001


def by_blocks(p: Any, m: Any, v: Any, average: Any, *gradients: Any) -> None:
    """Each operation of NumPy on a part that stays in the cache."""
    first = 0
    for g in gradients:
        for start in range(first, first + g.size, BLOCK):
            end = min(start + BLOCK, first + g.size)
            G = g[start - first : end - first]
            P, M, V, A = (x[start:end] for x in (p, m, v, average))
            M *= b1
            M += G
            V *= b2
            T = G * G
            V += T
            np.sqrt(V, out=T)
            T += floor
            np.divide(M, T, out=T)
            T *= eta
            P -= T
            np.subtract(P, A, out=T)
            T *= REST
            A += T
        first += g.size


@njit(**SERIAL)
def _adam(p: Any, g: Any, m: Any, v: Any, b1: Any, b2: Any, eta: Any, floor: Any, shrink: Any) -> None:
    for i in range(p.size):
        m[i] = b1 * m[i] + g[i]
        v[i] = b2 * v[i] + g[i] * g[i]
        p[i] = shrink * p[i] - eta * m[i] / (np.sqrt(v[i]) + floor)


@njit(**SERIAL)
def _adam_ema(
    p: Any, g: Any, m: Any, v: Any, average: Any, b1: Any, b2: Any, eta: Any, floor: Any, shrink: Any, rest: Any
) -> None:
    for i in range(p.size):
        m[i] = b1 * m[i] + g[i]
        v[i] = b2 * v[i] + g[i] * g[i]
        p[i] = shrink * p[i] - eta * m[i] / (np.sqrt(v[i]) + floor)
        average[i] += rest * (p[i] - average[i])


@njit(**SERIAL)
def _ema(average: Any, p: Any, rest: Any) -> None:
    for i in range(p.size):
        average[i] += rest * (p[i] - average[i])


def _tensors(gradients: tuple[Any, ...]) -> list[slice]:
    ends = np.cumsum([g.size for g in gradients])
    return [slice(end - g.size, end) for end, g in zip(ends, gradients, strict=True)]


def two_loops(p: Any, m: Any, v: Any, average: Any, *gradients: Any) -> None:
    """A call for each tensor, all of Adam in one loop; the average in another."""
    numbers = [np.float32(x) for x in NUMBERS]
    for part, g in zip(_tensors(gradients), gradients, strict=True):
        _adam(p[part], g, m[part], v[part], *numbers)
    _ema(average, p, np.float32(REST))


def one_loop(p: Any, m: Any, v: Any, average: Any, *gradients: Any) -> None:
    """A call for each tensor, the average in the same loop."""
    numbers = [np.float32(x) for x in (*NUMBERS, REST)]
    for part, g in zip(_tensors(gradients), gradients, strict=True):
        _adam_ema(p[part], g, m[part], v[part], average[part], *numbers)


def kernel(module: Any) -> Callable[..., None]:
    def adam(p: Any, m: Any, v: Any, average: Any, *gradients: Any) -> None:
        module.adam(p, m, v, average, 1.0, np.inf, 0.0, REST, *NUMBERS, *gradients)

    return adam


def main(settings: Settings) -> None:
    torch = bench.torch()
    if torch is None:
        raise SystemExit(bench.NO_PEER)
    size = settings.parameters // settings.tensors
    gradients = [np.random.default_rng(i).standard_normal(size, np.float32) for i in range(settings.tensors)]
    leaves = [torch.zeros(size, requires_grad=True) for _ in gradients]
    averages = [torch.zeros(size) for _ in gradients]
    for leaf, g in zip(leaves, gradients, strict=True):
        leaf.grad = torch.from_numpy(g)

    def peer_step(**options: bool) -> Callable[[], None]:
        adam = torch.optim.Adam(leaves, **options)

        def step() -> None:
            adam.step()
            with torch.no_grad():
                torch._foreach_lerp_(averages, leaves, REST)

        return step

    theirs = peer_step()
    default, fused = bench.compare(theirs, peer_step(fused=True), settings.repeats)
    print(
        f"PyTorch {torch.__version__}: Adam {default * 1e3:.1f} ms, with fused=True {fused * 1e3:.1f} ms, EMA in both"
    )

    versions: dict[str, Callable[..., None]] = {
        "NumPy (reference.py)": kernel(reference),
        "NumPy by blocks": by_blocks,
        "Numba, Adam and EMA in two loops": two_loops,
        "Numba, one loop for each tensor": one_loop,
        "Numba, one loop in threads (cpu.py)": kernel(cpu),
    }
    ends = []
    for name, version in versions.items():
        state = [np.zeros(size * settings.tensors, np.float32) for _ in range(4)]
        version(*state, *gradients)
        ends.append(np.concatenate([x[: 1 << 10] for x in state]))
        if not np.allclose(ends[0], ends[-1], rtol=1e-4, atol=1e-7):
            raise SystemExit(f"{name} does not compute what reference.py does")
        mine, peer = bench.compare(lambda v=version, s=state: v(*s, *gradients), theirs, settings.repeats)  # type: ignore[misc]
        print(
            f"Adam with EMA, {settings.parameters:,} parameters in {settings.tensors} tensors: {name} {mine * 1e3:.1f} "
            f"ms ({36e-9 * settings.parameters / mine:.0f} GB/s), PyTorch {torch.__version__} {peer * 1e3:.1f} ms, "
            f"ratio {mine / peer:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
