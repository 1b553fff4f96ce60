"""The ladder of the recurrent kernel: both scans of a Diagonal BiLSTM, forward, from NumPy cell by cell to what runs.

    python benchmarks/ladders/recurrent.py

Prints milliseconds (the median of the repeats, made by turns) and what each version is to the one before.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import tyro
from micrognm.kernels.recurrent import cpu, reference

Array = Any


@dataclass
class Settings:
    images: int = 16
    side: int = 28
    h: int = 16
    repeats: int = 11


def skewed(gates: Array, weight: Array, h0: Array, c0: Array, diagonal: bool) -> tuple[Array, Array, Array]:
    """Columns of a skewed copy of the map, all images at once, in NumPy."""
    n, height, width, _, channels = gates.shape
    h = channels // 4
    found = []
    for d in range(2):
        given = gates[:, :, :: 1 - 2 * d, d]
        copy = np.zeros((n, height, width + height - 1, channels), gates.dtype)
        for y in range(height):
            copy[:, y, y : y + width] = given[:, y]
        state = np.zeros((n, height + 1, h), gates.dtype)  # above the first row stand zeros
        state[:, 1:] = h0[d]
        cell = np.repeat(c0[d][None], n, axis=0)
        hidden, cells = np.zeros((2, n, height, width + height - 1, h), gates.dtype)
        for s in range(width + height - 1):
            y0, y1 = max(0, s - width + 1), min(height, s + 1)
            total = copy[:, y0:y1, s] + state[:, y0:y1] @ weight[d, 0] + state[:, y0 + 1 : y1 + 1] @ weight[d, 1]
            copy[:, y0:y1, s, : 3 * h] = 1 / (1 + np.exp(-total[..., : 3 * h]))
            copy[:, y0:y1, s, 3 * h :] = np.tanh(total[..., 3 * h :])
            o, f, i, g = np.split(copy[:, y0:y1, s], 4, axis=-1)
            cell[:, y0:y1] = f * cell[:, y0:y1] + i * g
            state[:, y0 + 1 : y1 + 1] = o * np.tanh(cell[:, y0:y1])
            hidden[:, y0:y1, s], cells[:, y0:y1, s] = state[:, y0 + 1 : y1 + 1], cell[:, y0:y1]
        back = [np.stack([x[:, y, y : y + width] for y in range(height)], axis=1) for x in (hidden, cells, copy)]
        found.append([x[:, :, :: 1 - 2 * d] for x in back])
    hidden, cells, copy = (np.stack(x, axis=3) for x in zip(*found, strict=True))
    return hidden, cells, copy


@numba.njit(parallel=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def _plain(gates: Array, weight: Array, h0: Array, c0: Array, hidden: Array, cells: Array, gated: Array) -> None:
    n, height, width, _, channels = gates.shape
    h = channels // 4
    for scan in numba.prange(2 * n):
        image, d = scan // 2, scan % 2
        total, state, cell = np.empty(channels, gates.dtype), np.empty(2 * h, gates.dtype), np.empty(h, gates.dtype)
        for y in range(height):
            cell[:] = c0[d, y]
            state[h:] = h0[d, y]
            for step in range(width):
                x = step if d == 0 else width - 1 - step
                if y:
                    state[:h] = hidden[image, y - 1, x, d]
                else:
                    state[:h] = 0
                total[:] = gates[image, y, x, d]
                for k in range(2 * h):
                    for j in range(channels):
                        total[j] += state[k] * weight[d, k // h, k % h, j]
                for j in range(h):
                    o, f = 1 / (1 + math.exp(-total[j])), 1 / (1 + math.exp(-total[h + j]))
                    i, g = 1 / (1 + math.exp(-total[2 * h + j])), math.tanh(total[3 * h + j])
                    cell[j] = f * cell[j] + i * g
                    state[h + j] = o * math.tanh(cell[j])
                    gated[image, y, x, d, j], gated[image, y, x, d, h + j] = o, f
                    gated[image, y, x, d, 2 * h + j], gated[image, y, x, d, 3 * h + j] = i, g
                    cells[image, y, x, d, j], hidden[image, y, x, d, j] = cell[j], state[h + j]


def plain(gates: Array, weight: Array, h0: Array, c0: Array, diagonal: bool) -> tuple[Array, Array, Array]:
    """Cell by cell in Numba, in two threads, with the C library's functions."""
    hidden, cells = (np.empty((*gates.shape[:4], h0.shape[2]), gates.dtype) for _ in range(2))
    gated = np.empty_like(gates)
    _plain(gates, weight, h0, c0, hidden, cells, gated)
    return hidden, cells, gated


def one_thread(*arguments: Any) -> tuple[Array, Array, Array]:
    """cpu.py in one thread."""
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        return cpu.forward(*arguments)
    finally:
        numba.set_num_threads(threads)


def main(settings: Settings) -> None:
    rng = np.random.default_rng(0)
    n, side, h = settings.images, settings.side, settings.h
    gates = rng.standard_normal((n, side, side, 2, 4 * h), np.float32)
    weight = rng.standard_normal((2, 2, h, 4 * h), np.float32) / np.float32(math.sqrt(2 * h))
    h0, c0 = rng.standard_normal((2, 2, side, h), np.float32)
    versions: dict[str, Callable[..., Any]] = {
        "NumPy, cell by cell (reference.py)": reference.forward,
        "NumPy, columns of a skewed copy": skewed,
        "Numba, cell by cell, all threads": plain,
        "tiles in registers, 1 thread": one_thread,
        "the same, all threads (cpu.py)": cpu.forward,
    }
    exact = reference.forward(*(x.astype(np.float64) for x in (gates, weight, h0, c0)), True)
    times: dict[str, list[float]] = {name: [] for name in versions}
    for name, version in versions.items():
        for x, want in zip(version(gates, weight, h0, c0, True), exact, strict=True):
            if not np.allclose(x, want, rtol=0, atol=1e-5):
                raise SystemExit(f"{name} does not compute what reference.py does")
    for repeat in range(settings.repeats):
        for name, version in versions.items():
            if repeat < 3 or version is not reference.forward:
                start = time.perf_counter()
                version(gates, weight, h0, c0, True)
                times[name].append(time.perf_counter() - start)
    print(f"Diagonal BiLSTM, forward, {n} images of {side}x{side}, h = {h}, {numba.get_num_threads()} threads")
    last = None
    for name, taken in times.items():
        ms = statistics.median(taken) * 1e3
        print(f"{name:48} {ms:9.2f} ms" + (f"  {last / ms:5.1f} times faster" if last else ""))
        last = ms


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
