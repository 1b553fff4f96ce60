"""The ladder of attention, causal, forward and backward: whole matrices, tiles, tiles in Numba, tiles in registers.

    python benchmarks/ladders/attention.py

Prints milliseconds, and megabytes that a call allocates beside its inputs; then how those grow with the length.
"""

from __future__ import annotations

import math
import statistics
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro
from micrognm.kernels.attention import cpu, reference
from micrognm.kernels.jit import FAST, PARALLEL
from numba import njit, prange

Array = Any
TILE = 64


@dataclass
class Settings:
    images: int = 2
    length: int = 1024
    heads: int = 4
    d: int = 32
    """width of queries and keys"""
    e: int = 32
    """width of values"""
    repeats: int = 5


def whole_matrix(g: Array, q: Array, k: Array, v: Array, scale: float) -> list[Array]:
    """Products by BLAS, the matrix of scores in memory."""
    q, k, v, g = (np.ascontiguousarray(np.swapaxes(x, 1, 2)) for x in (q, k, v, g))
    s = q @ np.swapaxes(k, 2, 3)
    s *= q.dtype.type(scale)
    s[..., np.triu(np.ones(s.shape[2:], bool), 1)] = -np.inf
    s -= s.max(axis=-1, keepdims=True)
    p = np.exp(s, out=s)
    p /= p.sum(axis=-1, keepdims=True)
    out = p @ v
    ds = p * (g @ np.swapaxes(v, 2, 3) - (g * out).sum(axis=-1, keepdims=True)) * q.dtype.type(scale)
    found = out, ds @ k, np.swapaxes(ds, 2, 3) @ q, np.swapaxes(p, 2, 3) @ g
    return [np.swapaxes(x, 1, 2) for x in found]


def by_tiles(g: Array, q: Array, k: Array, v: Array, scale: float) -> list[Array]:
    """Products by BLAS, a tile of scores at a time; masked tiles are skipped."""
    q, k, v, g = (np.ascontiguousarray(np.swapaxes(x, 1, 2)) for x in (q, k, v, g))
    length = q.shape[2]
    out, dq, dk, dv = (np.zeros_like(x) for x in (v, q, k, v))
    lse = np.empty((*q.shape[:3], 1), q.dtype)
    tiles = [slice(at, min(at + TILE, length)) for at in range(0, length, TILE)]

    def scores(rows: slice, columns: slice) -> Array:
        s = q[:, :, rows] @ np.swapaxes(k[:, :, columns], 2, 3)
        s *= q.dtype.type(scale)
        if rows == columns:
            s[..., np.triu(np.ones(s.shape[2:], bool), 1)] = -np.inf
        return s

    for i, rows in enumerate(tiles):
        top, total, sums = np.float32(-np.inf), np.float32(0), np.float32(0)
        for columns in tiles[: i + 1]:
            s = scores(rows, columns)
            new = np.maximum(top, s.max(axis=-1, keepdims=True))
            p, fade = np.exp(s - new), np.exp(top - new)
            total = total * fade + p.sum(axis=-1, keepdims=True)
            sums = sums * fade + p @ v[:, :, columns]
            top = new
        out[:, :, rows] = sums / total
        lse[:, :, rows] = top + np.log(total)
    dot = (g * out).sum(axis=-1, keepdims=True)
    for i, rows in enumerate(tiles):
        for columns in tiles[: i + 1]:
            p = np.exp(scores(rows, columns) - lse[:, :, rows])
            dv[:, :, columns] += np.swapaxes(p, 2, 3) @ g[:, :, rows]
            ds = g[:, :, rows] @ np.swapaxes(v[:, :, columns], 2, 3)
            ds = p * (ds - dot[:, :, rows]) * q.dtype.type(scale)
            dq[:, :, rows] += ds @ k[:, :, columns]
            dk[:, :, columns] += np.swapaxes(ds, 2, 3) @ q[:, :, rows]
    return [np.swapaxes(x, 1, 2) for x in (out, dq, dk, dv)]


@njit(**{**PARALLEL, "fastmath": FAST})
def _scalar(g: Array, q: Array, k: Array, v: Array, scale: float, out: Array, dq: Array, dk: Array, dv: Array) -> None:
    images, length, heads, d = q.shape
    e = v.shape[3]
    for job in prange(images * heads):
        n, h = job // heads, job % heads
        p = np.empty(length, q.dtype)
        for i in range(length):
            top = q.dtype.type(-3e38)
            for j in range(i + 1):
                s = q.dtype.type(0)
                for x in range(d):
                    s += q[n, i, h, x] * k[n, j, h, x]
                p[j] = scale * s
                top = max(top, p[j])
            total = q.dtype.type(0)
            for j in range(i + 1):
                p[j] = np.exp(p[j] - top)
                total += p[j]
            for x in range(e):
                out[n, i, h, x] = 0
            dot = q.dtype.type(0)
            for j in range(i + 1):
                p[j] /= total
                for x in range(e):
                    out[n, i, h, x] += p[j] * v[n, j, h, x]
            for x in range(e):
                dot += g[n, i, h, x] * out[n, i, h, x]
            for j in range(i + 1):
                dp = q.dtype.type(0)
                for x in range(e):
                    dp += g[n, i, h, x] * v[n, j, h, x]
                    dv[n, j, h, x] += p[j] * g[n, i, h, x]
                ds = p[j] * (dp - dot) * scale
                for x in range(d):
                    dq[n, i, h, x] += ds * k[n, j, h, x]
                    dk[n, j, h, x] += ds * q[n, i, h, x]


def scalar(g: Array, q: Array, k: Array, v: Array, scale: float) -> list[Array]:
    """Numba's own loops, a row of scores at a time."""
    found = [np.zeros_like(x) for x in (v, q, k, v)]
    _scalar(g, q, k, v, q.dtype.type(scale), *found)
    return found


def registers(g: Array, q: Array, k: Array, v: Array, scale: float) -> list[Array]:
    """cpu.py"""
    out, lse = cpu.forward(q, k, v, None, scale, 1)
    return [out, *cpu.backward(g, q, k, v, out, lse, None, scale, 1)]


def plain(g: Array, q: Array, k: Array, v: Array, scale: float) -> list[Array]:
    """reference.py"""
    out, lse = reference.forward(q, k, v, None, scale, 1)
    return [out, *reference.backward(g, q, k, v, out, lse, None, scale, 1)]


def megabytes(f: Callable, *args: Any) -> float:
    tracemalloc.start()
    f(*args)
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return used / 1e6


def main(settings: Settings) -> None:
    rng = np.random.default_rng(0)
    shape = (settings.images, settings.length, settings.heads)
    g, q, k, v = (
        rng.standard_normal((*shape, w), np.float32) for w in (settings.e, settings.d, settings.d, settings.e)
    )
    args = (g, q, k, v, settings.d**-0.5)
    pairs = math.prod(shape) * (settings.length + 1) / 2
    flops = 2 * pairs * (4 * settings.d + 3 * settings.e)
    wide = [x.astype(np.float64) for x in (g, q, k, v)]
    exact = plain(wide[0], wide[1], wide[2], wide[3], args[4])
    versions: dict[str, tuple[Callable, int]] = {
        "NumPy, einsum, whole matrix (reference.py)": (plain, 1),
        "NumPy, BLAS, whole matrix": (whole_matrix, settings.repeats),
        "NumPy, BLAS, by tiles": (by_tiles, settings.repeats),
        "Numba, loops over numbers": (scalar, settings.repeats),
        "Numba, tiles in registers (cpu.py)": (registers, settings.repeats),
    }
    print(f"causal, {shape[0]} images x {shape[2]} heads, length {shape[1]}, D {settings.d}, E {settings.e}")
    for name, (version, repeats) in versions.items():
        error = max(abs(x - y).max() / abs(y).max() for x, y in zip(version(*args), exact, strict=True))
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            version(*args)
            times.append(time.perf_counter() - start)
        seconds = statistics.median(times)
        print(
            f"{name:44} {seconds * 1e3:8.1f} ms {flops / seconds / 1e9:6.1f} GFLOP/s "
            f"{megabytes(version, *args):7.1f} MB error {error:.0e}",
            flush=True,
        )
    print("megabytes by length, one image and head")
    for length in (1024, 2048, 4096, 8192, 16384):
        one = [
            rng.standard_normal((1, length, 1, w), np.float32) for w in (settings.e, settings.d, settings.d, settings.e)
        ]
        print(f"{length:6} {megabytes(registers, *one, 1.0):7.1f} MB; one matrix of scores {length**2 * 4e-6:7.1f} MB")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
