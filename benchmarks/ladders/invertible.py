"""The ladder of the invertible kernel: Glow's step with its log-determinant, forward and backward, 32x8x8x24 float32.

python benchmarks/ladders/invertible.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from micrognm.kernels.invertible import cpu, reference


def folded(x: Any, g: Any, weight: Any, scale: Any, shift: Any) -> Any:
    """One product forward, two backward; NumPy's determinant and inverse, an LU decomposition each."""
    found = cpu.forward(x, weight, scale, shift), cpu.backward(g, x, weight, scale, shift)
    return found, *reference.determinant(weight)


def one_lu(x: Any, g: Any, weight: Any, scale: Any, shift: Any) -> Any:
    """The same with one LU decomposition, by the LAPACK that SciPy brings."""
    return (cpu.forward(x, weight, scale, shift), cpu.backward(g, x, weight, scale, shift)), *cpu.determinant(weight)


def plain(x: Any, g: Any, weight: Any, scale: Any, shift: Any) -> Any:
    args = (x, weight, scale, shift)
    return (reference.forward(*args), reference.backward(g, *args)), *reference.determinant(weight)


def main() -> None:
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal((2, 32, 8, 8, 24), np.float32)
    weight = np.linalg.qr(rng.standard_normal((24, 24)))[0].astype(np.float32)
    scale, shift = rng.standard_normal((2, 24), np.float32)
    versions: dict[str, Callable[..., Any]] = {
        "NumPy (reference.py)": plain,
        "actnorm folded, two LU decompositions by NumPy": folded,
        "actnorm folded, one LU decomposition (cpu.py)": one_lu,
    }
    times: dict[str, list[float]] = {name: [] for name in versions}
    for _ in range(50):
        for name, version in versions.items():
            version(x, g, weight, scale, shift)
            start = time.perf_counter()
            version(x, g, weight, scale, shift)
            times[name].append(time.perf_counter() - start)
    for name, taken in times.items():
        print(f"{name}: {statistics.median(taken) * 1e3:.2f} ms")


if __name__ == "__main__":
    main()
