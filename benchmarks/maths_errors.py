"""How far the vector maths of the kernels is from the truth: the table of kernels/formula/README.md.

    python benchmarks/maths_errors.py

Prints, for each function and dtype, the largest error in units in the last place (ulp), where it is, and nanoseconds an
element in one thread. The truth is NumPy's in extended precision; float32 is swept by bit patterns from -inf to inf,
subnormal numbers and NaN included, float64 drawn at random. A 0 for a value that is subnormal counts as no error of
sigmoid, softplus and log_sigmoid.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import tyro
from micrognm.kernels import maths
from micrognm.kernels.jit import SERIAL

Array = Any
WIDE = np.longdouble


def _erf(x: Array) -> Array:
    """erf by a series of positive terms: 2/sqrt(pi) e^(-x^2) (x + 2 x^3/3 + 4 x^5/15 + ...)"""
    z = np.minimum(np.abs(x), 7)
    total, term = z.copy(), z.copy()
    for n in range(1, 220):
        term = term * (2 * z * z / (2 * n + 1))
        total += term
    return np.copysign(2 / np.sqrt(WIDE("3.14159265358979323846264338327950288")) * np.exp(-z * z) * total, x)


def _softplus(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


TRUTH: dict[str, Callable[[Array], Array]] = {
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "sigmoid": lambda x: np.exp(np.minimum(x, 0)) / (1 + np.exp(-np.abs(x))),
    "softplus": _softplus,
    "log_sigmoid": lambda x: -_softplus(-x),
    "erf": _erf,
}


FLUSHED = ("sigmoid", "softplus", "log_sigmoid")  # 0 where the value is subnormal


def truth(name: str, x: Array) -> Array:
    """The function in extended precision."""
    with np.errstate(all="ignore"):
        return TRUTH[name](x.astype(WIDE))


def points(dtype: Any, count: int) -> Array:
    """Numbers of the whole line: by bit patterns, and where the functions bend; the ends and both zeros too."""
    bits = np.dtype(dtype).itemsize * 8
    rng = np.random.default_rng(0)
    if bits == 32:
        patterns = np.arange(0, 2**32, 2**32 // count + 1, dtype=np.uint64).astype(np.uint32).view(np.float32)
    else:
        patterns = rng.integers(0, 2**64, count, dtype=np.uint64).view(np.float64)
    bends = np.concatenate([rng.standard_normal(count // 4) * scale for scale in (1, 10, 300)]).astype(dtype)
    ends = np.array([0, 1, 88.72283, 103.9, 709.7827, 745.1, np.inf, np.nan], dtype)
    return np.concatenate([patterns, bends, ends, -ends])


def ulps(name: str, x: Array, got: Array) -> Array:
    """|got - truth| in units in the last place of got's dtype; infinite where only one is NaN or infinite."""
    dtype, want = np.finfo(got.dtype), truth(name, x)
    with np.errstate(all="ignore"):
        rounded = want.astype(got.dtype)
        unit = np.exp2(np.maximum(np.floor(np.log2(np.abs(want))), dtype.minexp) - dtype.nmant)
        error = np.abs(got.astype(WIDE) - want) / unit
    same = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
    off = ~(np.isfinite(got) & np.isfinite(rounded))
    flushed = (got == 0) & (np.abs(want) < dtype.tiny) if name in FLUSHED else False
    return np.where(off, np.where(same, 0, np.inf), np.where(flushed, 0, error)).astype(np.float64)


@functools.cache
def loop(name: str, fastmath: frozenset = frozenset(SERIAL["fastmath"])) -> Callable[[Array, Array], None]:
    """The function over an array, compiled as kernels are, with these licences."""
    f = getattr(maths, name)

    @numba.njit(**{**SERIAL, "cache": False, "fastmath": set(fastmath)})
    def run(x: Array, out: Array) -> None:
        for i in range(x.size):
            out[i] = f(x[i])

    return run


@dataclass
class Settings:
    count: int = 1 << 18
    """bit patterns of each dtype"""


def table(settings: Settings) -> Iterator[str]:
    """The rows, in Markdown."""
    yield "| function | float32 ulp | at | ns | float64 ulp | at | ns |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for name in TRUTH:
        row = f"| {name} |"
        for dtype in (np.float32, np.float64):
            f, x = loop(name), points(dtype, settings.count)
            out = np.empty_like(x)
            f(x, out)
            error = ulps(name, x, out)
            small = np.random.default_rng(0).standard_normal(1 << 12).astype(dtype)
            out, times = np.empty_like(small), []
            for _ in range(200):
                start = time.perf_counter()
                f(small, out)
                times.append(time.perf_counter() - start)
            worst = int(np.argmax(error))
            row += f" {error[worst]:.2f} | {x[worst]:.6g} | {statistics.median(times) / small.size * 1e9:.2f} |"
        yield row


def main(settings: Settings) -> None:
    for line in table(settings):
        print(line, flush=True)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
