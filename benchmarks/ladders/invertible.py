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
from scipy.linalg import lapack


def folded(x: Any, g: Any, weight: Any, scale: Any, shift: Any) -> Any:
    """One product forward, two backward, and NumPy's two LU decompositions."""
    return (cpu.forward(x, weight, scale, shift), cpu.backward(g, x, weight, scale, shift)), *cpu.determinant(weight)


def one_lu(x: Any, g: Any, weight: Any, scale: Any, shift: Any) -> Any:
    """The same with one LU decomposition, by the LAPACK that SciPy brings."""
    found = cpu.forward(x, weight, scale, shift), cpu.backward(g, x, weight, scale, shift)
    lu, pivots, _ = lapack.dgetrf(weight.astype(np.float64).T)
    inverse_transposed = lapack.dgetrs(lu, pivots, np.eye(len(lu), order="F"))[0]
    return found, np.log(np.abs(np.diagonal(lu))).sum(), inverse_transposed.astype(weight.dtype)


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
        "actnorm folded, one LU by SciPy's LAPACK": one_lu,
        "actnorm folded, NumPy's LAPACK (cpu.py)": folded,
    }
    times: dict[str, list[float]] = {name: [] for name in versions}
    for _ in range(15):
        for name, version in versions.items():
            version(x, g, weight, scale, shift)
            start = time.perf_counter()
            version(x, g, weight, scale, shift)
            times[name].append(time.perf_counter() - start)
    for name, taken in times.items():
        print(f"{name}: {statistics.median(taken) * 1e3:.2f} ms")


if __name__ == "__main__":
    main()
