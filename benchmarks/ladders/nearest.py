"""The ladder of the nearest codebook entry.

    python benchmarks/ladders/nearest.py

Prints milliseconds and GFLOP/s: 2 n K D operations, whatever a version makes of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import tyro
from micrognm.kernels.nearest import cpu

from micrognm import bench


@dataclass
class Settings:
    rows: int = 6272
    """of z: 128 maps of 7 x 7"""
    entries: int = 512
    """of the codebook"""
    depth: int = 64
    """numbers of each"""
    repeats: int = 20
    """of each version, by turns with the product alone"""


def whole(z: Any, codebook: Any) -> Any:
    """The matrix of distances, as most code has it."""
    squares = (z * z).sum(axis=1)[:, None] - 2 * (z @ codebook.T) + (codebook * codebook).sum(axis=1)
    return squares.argmin(axis=1)


def by_rows(z: Any, codebook: Any) -> Any:
    """256 rows at a time: products and their maxima stay in the level 2 cache."""
    half, turned = 0.5 * (codebook * codebook).sum(axis=1), codebook.T
    index = np.empty(len(z), np.int64)
    for start in range(0, len(z), 256):
        products = z[start : start + 256] @ turned
        products -= half
        index[start : start + 256] = products.argmax(axis=1)
    return index


def main(settings: Settings) -> None:
    rng = np.random.default_rng(0)
    z = rng.standard_normal((settings.rows, settings.depth), np.float32)
    codebook = rng.standard_normal((settings.entries, settings.depth), np.float32)
    flops, exact = 2 * z.size * settings.entries, whole(z.astype(np.float64), codebook.astype(np.float64))
    versions = {
        "NumPy, the whole matrix of distances": whole,
        "NumPy, 256 rows at a time": by_rows,
        "Numba, register tile (cpu.py)": lambda z, codebook: cpu.nearest(z, codebook)[0],
    }
    print(f"{settings.rows} rows, {settings.entries} entries of {settings.depth} numbers")
    for name, version in versions.items():
        if (version(z, codebook) != exact).mean() > 1e-3:
            raise SystemExit(f"{name} does not find the nearest entries")
        mine, product = bench.compare(partial(version, z, codebook), lambda: z @ codebook.T, settings.repeats)
        print(
            f"  {name}: {mine * 1e3:.2f} ms, {flops / mine / 1e9:.0f} GFLOP/s; "
            f"NumPy's product alone {product * 1e3:.2f} ms"
        )


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
