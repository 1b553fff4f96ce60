"""The ladder of the convolution kernel: the slower versions that came before it, on forward and both gradients.

    python benchmarks/ladders/conv.py

Prints milliseconds and GFLOP/s of each, beside a product of two 1024 x 1024 matrices in the same run; then the forward
pass alone with elu after it, within it, and within it where what elu is applied to is kept for its gradient.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numba
import numpy as np
import tyro
from micrognm.kernels.conv import cpu, reference
from micrognm.kernels.formula import cpu as formulas
from micrognm.kernels.formula.program import Activation

from micrognm.ops import elu

TAPS = tuple(itertools.product((-1, 0, 1), repeat=2))
ELU = Activation(elu.program, {"alpha": 1.0})


@dataclass
class Settings:
    images: int = 32
    """in a batch"""
    side: int = 16
    """pixels; 3x3 taps, stride 1"""
    channels: int = 128
    """in and out"""
    repeats: int = 5
    """runs of each version in each of three turns, of which the fastest counts"""


def padded(x: Any) -> Any:
    return np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


def columns(x: Any) -> Any:
    """im2col: the 9 neighbours of every pixel side by side, [pixels, 9 C]."""
    n, h, w, c = x.shape
    windows = np.lib.stride_tricks.sliding_window_view(padded(x), (3, 3), axis=(1, 2))
    return windows.transpose(0, 1, 2, 4, 5, 3).reshape(n * h * w, 9 * c)


def im2col(x: Any, w: Any, g: Any) -> list[Any]:
    c = x.shape[-1]
    back = w[::-1].transpose(0, 2, 1)
    y = (columns(x) @ w.reshape(9 * c, c)).reshape(x.shape)
    x_gradient = (columns(g) @ back.reshape(9 * c, c)).reshape(x.shape)
    return [y, x_gradient, (columns(x).T @ g.reshape(-1, c)).reshape(w.shape)]


@numba.njit(parallel=True, error_model="numpy", fastmath={"contract"})
def loops_forward(x: Any, w: Any, y: Any) -> None:
    """x padded. Numba turns the innermost loop into vectors, whose sums go through memory at every step."""
    n, h, wide, outputs = y.shape
    for job in numba.prange(n * h):
        i, a = job // h, job % h
        for b in range(wide):
            line = y[i, a, b]
            line[:] = 0
            for t in range(9):
                for c in range(x.shape[3]):
                    factor = x[i, a + t // 3, b + t % 3, c]
                    for o in range(outputs):
                        line[o] += factor * w[t, c, o]


@numba.njit(parallel=True, error_model="numpy", fastmath={"contract"})
def loops_weight(x: Any, g: Any, w: Any) -> None:
    n, h, wide, outputs = g.shape
    for t in numba.prange(9):
        w[t] = 0
        for i in range(n):
            for a in range(h):
                for b in range(wide):
                    for c in range(x.shape[3]):
                        factor = x[i, a + t // 3, b + t % 3, c]
                        for o in range(outputs):
                            w[t, c, o] += factor * g[i, a, b, o]


def loops(x: Any, w: Any, g: Any) -> list[Any]:
    y, x_gradient, w_gradient = np.empty_like(g), np.empty_like(x), np.empty_like(w)
    wide = padded(x)
    loops_forward(wide, w, y)
    loops_forward(padded(g), np.ascontiguousarray(w[::-1].transpose(0, 2, 1)), x_gradient)
    loops_weight(wide, g, w_gradient)
    return [y, x_gradient, w_gradient]


def by(module: Any) -> Callable[..., list[Any]]:
    def run(x: Any, w: Any, g: Any) -> list[Any]:
        rest, space = (TAPS, (1, 1)), x.shape[1:-1]
        return [
            module.forward(x, w, None, *rest, space, 1),
            module.input_gradient(g, w, None, *rest, space, 1),
            module.weight_gradient(x, g, *rest, 1),
        ]

    return run


def tiles_at_first(x: Any, w: Any, g: Any) -> list[Any]:
    """cpu.py, but pixels as close in the copy as in the image, and always 8 partial sums of the weights' gradient."""
    apart, pixels = cpu._apart, cpu.PART_PIXELS
    cpu._apart, cpu.PART_PIXELS = (lambda channels, itemsize: channels), 1
    try:
        return by(cpu)(x, w, g)
    finally:
        cpu._apart, cpu.PART_PIXELS = apart, pixels


def forward(x: Any, w: Any, *end: Any) -> Any:
    return cpu.forward(x, w, np.zeros(w.shape[-1], w.dtype), TAPS, (1, 1), x.shape[1:-1], 1, *end)


def best(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Seconds of the fastest run of each, by turns: this is about the work, not about who else uses the machine."""
    times: dict[str, float] = dict.fromkeys(runs, float("inf"))
    for _ in range(3):
        for name, run in runs.items():
            run()
            time.sleep(0.25)  # the threads of what ran before spin for a while
            run()
            for _ in range(repeats):
                start = time.perf_counter()
                run()
                times[name] = min(times[name], time.perf_counter() - start)
    return times


def main(settings: Settings) -> None:
    rng = np.random.default_rng(0)
    n, side, c = settings.images, settings.side, settings.channels
    x, g = (rng.standard_normal((n, side, side, c), np.float32) for _ in range(2))
    w = rng.standard_normal((9, c, c), np.float32)
    a = rng.standard_normal((1024, 1024), np.float32)
    exact = by(cpu)(x, w, g)
    versions = {
        "NumPy, a product for each tap (reference.py)": by(reference),
        "NumPy, im2col and one product": im2col,
        "Numba, plain loops": loops,
        "tiles, as they were at first": tiles_at_first,
        "cpu.py": by(cpu),
    }
    for name, version in versions.items():
        for found, wanted in zip(version(x, w, g), exact, strict=True):
            if not np.allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max()):
                raise SystemExit(f"{name} does not compute what cpu.py does")
    runs: dict[str, Callable[[], Any]] = {name: partial(version, x, w, g) for name, version in versions.items()}
    flops = dict.fromkeys(runs, 6 * 9 * n * side**2 * c * c)
    runs["a matrix product of 1024 x 1024"], flops["a matrix product of 1024 x 1024"] = lambda: a @ a, 2 * 1024**3
    ends: dict[str, Callable[[], Any]] = {
        "forward": lambda: forward(x, w),
        "forward, then elu": lambda: formulas.run(ELU.program, [forward(x, w)], ELU.options),
        "forward with elu within": lambda: forward(x, w, ELU),
        "forward with elu within, all kept": lambda: forward(x, w, ELU, True),
    }
    runs |= ends
    flops |= dict.fromkeys(ends, 2 * 9 * n * side**2 * c * c)
    for name, t in best(runs, settings.repeats).items():
        print(f"3x3, {n}x{side}x{side}x{c}: {name} {t * 1e3:.1f} ms ({flops[name] / t * 1e-9:.0f} GFLOP/s)")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
