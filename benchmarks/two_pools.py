"""Numba's threads and those of NumPy's matrix products on the same cores: a small kernel and a product, by turns.

    python benchmarks/two_pools.py

Prints microseconds of each alone and of a pair, as GNU OpenMP waits by default and as backend.py sets it.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numba
import numpy as np


@numba.njit(parallel=True)
def kernel(x: Any, y: Any) -> None:
    for i in numba.prange(x.size):
        y[i] = x[i] * x[i] + x[i]


def microseconds(run: Callable[[], Any]) -> float:
    run()
    times = []
    for _ in range(200):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def measure() -> None:
    a = np.random.default_rng(0).standard_normal((512, 512), np.float32)
    b, x = np.empty_like(a), a.reshape(-1)
    y = np.empty_like(x)
    alone = microseconds(lambda: kernel(x, y)), microseconds(lambda: np.matmul(a, a, out=b))
    pair = microseconds(lambda: (kernel(x, y), np.matmul(a, a, out=b)))
    print(f"kernel {alone[0]:.0f} us, product {alone[1]:.0f} us, a pair {pair:.0f} us")


if __name__ == "__main__":
    if sys.argv[1:] == ["measure"]:
        measure()
    else:
        for spin in (None, "1000"):
            environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
            print(f"GOMP_SPINCOUNT={spin or 'not set'}: ", end="", flush=True)
            subprocess.run(
                [sys.executable, __file__, "measure"],
                env=environment | ({"GOMP_SPINCOUNT": spin} if spin else {}),
                check=True,
            )
