"""The ladder of the formula kernel on tanh(a) sigmoid(b): NumPy, Numba with math.tanh, with vector maths, in threads.

    python benchmarks/ladders/formula.py

Prints milliseconds forward, and gigabytes a second that it moves: two arrays read, one written; and a copy's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import tyro
from micrognm.kernels import maths
from micrognm.kernels.formula.bench import gated
from micrognm.kernels.jit import SERIAL

from micrognm import Tensor, backend
from micrognm.bench import compare

OPTIONS: dict[str, Any] = {**SERIAL, "cache": False}


@dataclass
class Settings:
    size: int = 1 << 22
    """elements"""
    repeats: int = 20
    """runs of each, by turns with the copy"""


@numba.njit(**OPTIONS)
def library(a: Any, b: Any, out: Any) -> None:
    """The C library's functions, one number at a time."""
    one = np.float32(1)
    for i in range(a.size):
        out[i] = np.float32(math.tanh(a[i])) * (one / (one + np.float32(math.exp(-b[i]))))


@numba.njit(**OPTIONS)
def vectors(a: Any, b: Any, out: Any) -> None:
    """The functions of maths.py, which LLVM vectorises."""
    for i in range(a.size):
        out[i] = maths.tanh(a[i]) * maths.sigmoid(b[i])


def main(settings: Settings) -> None:
    rng = np.random.default_rng(0)
    a, b = (Tensor(rng.standard_normal(settings.size, np.float32)) for _ in range(2))
    out, target = np.empty_like(a.data), a.data.copy()

    def reference() -> Any:
        backend.use_kernels("reference")
        try:
            return gated(a, b).data
        finally:
            backend.use_kernels("auto")

    def into(f: Callable[..., None]) -> Callable[[], Any]:
        def run() -> Any:
            f(a.data, b.data, out)
            return out

        return run

    versions: dict[str, Callable[[], Any]] = {
        "NumPy, one pass over memory for each operation (reference.py)": reference,
        "Numba, the C library's tanh and exp": into(library),
        "Numba, vector maths (maths.py), into an array that is there": into(vectors),
        "what runs: the same in threads, into a new array (cpu.py)": lambda: gated(a, b).data,
    }
    want = np.tanh(a.data.astype(np.float64)) / (1 + np.exp(-b.data.astype(np.float64)))
    for name, version in versions.items():
        if not np.allclose(version(), want, rtol=1e-5, atol=1e-7):
            raise SystemExit(f"{name} is wrong")
        ours, copy = compare(version, lambda: np.copyto(target, a.data), settings.repeats)
        moved, copied = 12e-9 * settings.size / ours, 8e-9 * settings.size / copy
        print(f"{name}: {ours * 1e3:.2f} ms, {moved:.1f} GB/s; a copy {copied:.1f} GB/s")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
