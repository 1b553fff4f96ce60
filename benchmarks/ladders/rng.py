"""The ladder of dropout, forward and backward, from NumPy's own generator to what runs; against PyTorch's.

    python benchmarks/ladders/rng.py

Prints milliseconds of a forward and a backward pass, and nanoseconds an element. The first version stores its mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro
from micrognm.kernels.jit import SERIAL
from micrognm.kernels.rng import cpu, reference
from numba import get_num_threads, njit, set_num_threads

from micrognm import bench


@dataclass
class Settings:
    elements: int = 4_000_000
    """in the array"""
    rate: float = 0.5
    """of those that are dropped"""
    repeats: int = 10
    """passes of each, by turns"""


KEY = 0x0123456789ABCDEF


@njit(**SERIAL)
def _one_by_one(x: Any, out: Any, k0: Any, k1: Any, least: int, scale: Any) -> None:
    """Each element encrypts its counter by itself: four times the work, and no vectors."""
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    for i in range(x.size):
        block, word, lane = i // 1024, i % 1024 // 256, i % 256
        c0, c1, c2, c3 = (
            np.uint64(block * 256 + lane) & low,
            np.uint64(block * 256 + lane) >> shift,
            low - low,
            low - low,
        )
        a, b = k0, k1
        for _ in range(10):
            p0, p1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
            c0, c1, c2, c3 = (p1 >> shift) ^ c1 ^ a, p1 & low, (p0 >> shift) ^ c3 ^ b, p0 & low
            a, b = (a + np.uint64(0x9E3779B9)) & low, (b + np.uint64(0xBB67AE85)) & low
        chosen = c0 if word == 0 else c1 if word == 1 else c2 if word == 2 else c3
        out[i] = x[i] * scale if (chosen >> np.uint64(8)) >= np.uint64(least) else x.dtype.type(0)


def one_by_one(x: Any, rate: float, key: int) -> Any:
    out = np.empty_like(x)
    halves = np.uint64(key % 2**32), np.uint64(key >> 32)
    _one_by_one(x, out, *halves, reference.threshold(rate), np.float32(1 / (1 - rate)))
    return out


def by_blocks(x: Any, rate: float, key: int) -> Any:
    """cpu.py's blocks, whose loops are vectors, in one thread."""
    threads = get_num_threads()
    set_num_threads(1)
    try:
        return cpu.dropout(x, rate, key)
    finally:
        set_num_threads(threads)


def main(settings: Settings) -> None:
    torch = bench.torch()
    if torch is None:
        raise SystemExit(bench.NO_PEER)
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal((2, settings.elements), np.float32)
    rate = settings.rate
    leaf, cotangent = torch.from_numpy(x).requires_grad_(), torch.from_numpy(g)

    def theirs() -> Any:
        return torch.autograd.grad(torch.nn.functional.dropout(leaf, rate), leaf, cotangent)

    def stored() -> Any:
        mask = (rng.random(x.shape, np.float32) >= rate) * np.float32(1 / (1 - rate))
        return x * mask, g * mask

    def both(dropout: Callable[..., Any]) -> Callable[[], Any]:
        if not np.array_equal(dropout(x, rate, KEY), cpu.dropout(x, rate, KEY)):
            raise SystemExit(f"{dropout} does not compute what cpu.py does")
        return lambda: (dropout(x, rate, KEY), dropout(g, rate, KEY))

    versions = {
        "NumPy's PCG64, the mask stored": stored,
        "NumPy's Philox from the counter (reference.py)": both(reference.dropout),
        "Numba, element by element": both(one_by_one),
        "Numba, by blocks in vectors": both(by_blocks),
        "Numba, by blocks in threads (cpu.py)": both(cpu.dropout),
    }
    for name, version in versions.items():
        mine, peer = bench.compare(version, theirs, settings.repeats, turn=2)
        print(
            f"dropout of {settings.elements:,} elements, both ways: {name} {mine * 1e3:.1f} ms "
            f"({mine / settings.elements * 1e9:.2f} ns an element), PyTorch {torch.__version__} {peer * 1e3:.1f} ms, "
            f"ratio {mine / peer:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
