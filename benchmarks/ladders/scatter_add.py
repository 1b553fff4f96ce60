"""The ladder of adding rows into slots.

    python benchmarks/ladders/scatter_add.py

Prints milliseconds, and gigabytes a second of the rows that are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import tyro
from micrognm.kernels.jit import SERIAL
from micrognm.kernels.scatter_add import cpu, reference
from numba import njit

from micrognm import bench


@dataclass
class Settings:
    rows: int = 65_536
    """codes of 64 maps of 32 x 32"""
    columns: int = 64
    """numbers in a row"""
    slots: int = 512
    """of the codebook"""
    repeats: int = 10
    """of each version, by turns with the last"""


def sorted_rows(index: Any, values: Any, slots: int) -> Any:
    """Rows sorted by their slot, each slot's a sum."""
    order = np.argsort(index, kind="stable")
    found, start = np.unique(index[order], return_index=True)
    out = np.zeros((slots, values.shape[1]), values.dtype)
    out[found] = np.add.reduceat(values[order], start)
    return out


@njit(**SERIAL)
def loops(index: Any, values: Any, slots: int) -> Any:
    out = np.zeros((slots, values.shape[1]), values.dtype)
    for i in range(index.size):
        for c in range(values.shape[1]):
            out[index[i], c] += values[i, c]
    return out


def main(settings: Settings) -> None:
    rng = np.random.default_rng(0)
    index = rng.integers(0, settings.slots, settings.rows)
    values = rng.standard_normal((settings.rows, settings.columns), np.float32)
    exact = reference.scatter_add(index, values.astype(np.float64), settings.slots)
    versions = {
        "NumPy, np.add.at (reference.py)": reference.scatter_add,
        "NumPy, rows sorted by slot": sorted_rows,
        "Numba, two loops": loops,
        "Numba, vectors that are known to lie apart (cpu.py)": cpu.scatter_add,
    }
    print(f"{settings.rows} rows of {settings.columns} numbers into {settings.slots} slots")
    for name, version in versions.items():
        if not np.allclose(version(index, values, settings.slots), exact, rtol=1e-4, atol=1e-3):
            raise SystemExit(f"{name} does not add up")
        mine, _ = bench.compare(
            partial(version, index, values, settings.slots),
            lambda: cpu.scatter_add(index, values, settings.slots),
            settings.repeats,
        )
        print(f"  {name}: {mine * 1e3:.2f} ms, {values.nbytes / mine / 1e9:.1f} GB/s")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
