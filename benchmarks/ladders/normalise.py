"""The ladder of the normalise kernel: batch norm and relu, forward and backward, 64x16x16x128 float32.

python benchmarks/ladders/normalise.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from micrognm.kernels.normalise import cpu, reference


def single(x: Any, g: Any, scale: Any, shift: Any) -> Any:
    """NumPy in float32, one pass over memory for each operation."""
    mean = x.mean((0, 1), keepdims=True)
    r = 1 / np.sqrt(x.var((0, 1), keepdims=True) + 1e-5)
    hat = (x - mean) * r
    z = hat * scale + shift
    y = np.maximum(z, 0)
    gz = g * (z > 0)
    dscale, dshift = (gz * hat).sum((0, 1)), gz.sum((0, 1))
    count = np.float32(x.shape[0] * x.shape[1])
    return y, scale * r * (gz - dshift / count - hat * (dscale / count)), dscale, dshift


def of(module: Any) -> Callable[..., Any]:
    def run(x: Any, g: Any, scale: Any, shift: Any) -> Any:
        y, *statistics_ = module.forward(x, scale, shift, x.shape[2], True, True, 1e-5, 0.0, False)
        nothing = np.zeros_like(statistics_[0])
        return y, module.backward(g, nothing, nothing, x, *statistics_, scale, shift, True, 1e-5, 0.0, False)

    return run


def main() -> None:
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal((2, 64, 256, 128), np.float32)
    scale, shift = rng.standard_normal((2, 1, 128), np.float32)
    versions: dict[str, Callable[..., Any]] = {
        "NumPy in float64 (reference.py)": of(reference),
        "NumPy in float32": single,
        "Numba, statistics by parts, fused (cpu.py)": of(cpu),
    }
    times: dict[str, list[float]] = {name: [] for name in versions}
    for _ in range(7):
        for name, version in versions.items():
            version(x, g, scale, shift)
            start = time.perf_counter()
            version(x, g, scale, shift)
            times[name].append(time.perf_counter() - start)
    for name, taken in times.items():
        print(f"{name}: {statistics.median(taken) * 1e3:.1f} ms")


if __name__ == "__main__":
    main()
