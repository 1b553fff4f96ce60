"""Numba's threads and those of NumPy's matrix products on the same cores: a small kernel and a product, by turns.

    python benchmarks/two_pools.py

Prints microseconds of each alone, of the kernel after a rest of 10 ms, and of a pair; and for how long the threads keep
a core busy after a kernel: as GNU OpenMP and BLAS wait by default; where OpenMP waits less; and as micrognm has them,
whose products run in the kernels' threads (kernels/matmul.py).
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


def microseconds(run: Callable[[], Any], rest: float = 0.0) -> float:
    run()
    times = []
    for _ in range(200):
        time.sleep(rest)
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def measure(matmul: Callable[[Any, Any], Any]) -> None:
    a = np.random.default_rng(0).standard_normal((512, 512), np.float32)
    x = a.reshape(-1)
    y = np.empty_like(x)
    alone = microseconds(lambda: kernel(x, y)), microseconds(lambda: matmul(a, a))
    pair = microseconds(lambda: (kernel(x, y), matmul(a, a)))
    rested = microseconds(lambda: kernel(x, y), rest=0.01)
    busy = []
    for _ in range(5):
        kernel(x, y)
        before = time.process_time()
        time.sleep(0.3)
        busy.append(time.process_time() - before)
    print(
        f"kernel {alone[0]:.0f} us, {rested:.0f} us after a rest, product {alone[1]:.0f} us, a pair {pair:.0f} us; "
        f"busy for {statistics.median(busy) * 1e3:.1f} ms after a kernel"
    )


SETTINGS = {"as they come": {}, "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"}, "as micrognm has them": {}}

if __name__ == "__main__":
    if sys.argv[1:] == ["as micrognm has them"]:
        from micrognm.kernels.matmul import matmul

        measure(matmul)
    elif sys.argv[1:]:
        measure(np.matmul)
    else:
        for name, changed in SETTINGS.items():
            print(f"{name}: ", end="", flush=True)
            subprocess.run([sys.executable, __file__, name], env=os.environ | changed, check=True)
