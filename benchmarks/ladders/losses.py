"""The ladder of the losses: the logistic mixture (RGB, 10 mixtures) and cross-entropy, value and gradient.

    python benchmarks/ladders/losses.py

Prints milliseconds, and nanoseconds for each parameter or logit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro
from micrognm.kernels.losses import cpu, reference
from micrognm.kernels.workers import run

from micrognm import bench


@dataclass
class Settings:
    images: int = 16
    """of 32 x 32 RGB pixels"""
    rows: int = 25_088
    """of the cross-entropy"""
    classes: int = 32
    """of each row"""
    repeats: int = 10
    """of each version, by turns with the first"""


def main(settings: Settings) -> None:
    rng = np.random.default_rng(0)
    pixels, levels, mixtures = settings.images * 32 * 32, 256, 10
    x = rng.integers(0, levels, (pixels, 3)).astype(np.int32)
    params, g = rng.standard_normal((pixels, 100), np.float32), rng.standard_normal(pixels, np.float32)
    value, slope = np.empty(pixels, np.float32), np.empty_like(params)

    def serial(lanes: int) -> Callable[[], Any]:
        rest = *cpu._memory(x, params, mixtures, lanes), levels, mixtures, lanes

        def alone() -> Any:
            run(cpu._mixture, (params, x, value, *rest), 1)
            run(cpu._mixture_slopes, (params, x, value, slope, *rest), 1)
            return value, g[:, None] * slope

        return alone

    def at_once(module: Any) -> Callable[[], Any]:
        def both() -> Any:
            value, slope = module.logistic_mixture_slopes(x, params, levels, mixtures)
            return value, g[:, None] * slope

        return both

    def in_turn() -> Any:
        return cpu.logistic_mixture(x, params, levels, mixtures), at_once(cpu)()[1]

    versions = {
        "NumPy (reference.py)": at_once(reference),
        "Numba, vectors along the mixtures of a pixel": serial(1),
        f"Numba, vectors along {cpu.LANES} pixels laid on their side": serial(cpu.LANES),
        "the same in threads": in_turn,
        "value and gradient at once (cpu.py)": at_once(cpu),
    }
    climb(f"logistic mixture, {pixels} RGB pixels, {mixtures} mixtures", versions, params.size, settings.repeats)

    rows, classes = settings.rows, settings.classes
    logits, index = rng.standard_normal((rows, classes), np.float32), rng.integers(0, classes, rows)
    g, kept, out = rng.standard_normal(rows, np.float32), np.empty((3, rows), np.float32), np.empty_like(logits)
    room, spread = np.empty((1, classes + 2, cpu.LANES), np.float32), np.empty((1, 2, 1024), np.float32)

    def alone(forward: Any) -> Callable[[], Any]:
        def one() -> Any:
            run(forward, (logits, index, *kept, room, cpu.LANES), 1)
            flat = g, logits.reshape(-1), index, kept[1], kept[2], out.reshape(-1)
            run(cpu._short_slopes, (*flat, spread, classes), 1)
            return kept[0], out

        return one

    def together(module: Any) -> Callable[[], Any]:
        def both() -> Any:
            value, largest, total = module.categorical(logits, index)
            return value, module.categorical_grad(g, logits, index, largest, total)

        return both

    versions = {
        "NumPy (reference.py)": together(reference),
        "Numba, a row after the other": alone(cpu._long_rows),
        f"Numba, {cpu.LANES} rows laid on their side": alone(cpu._short_rows),
        "the same in threads (cpu.py)": together(cpu),
    }
    climb(f"cross-entropy, {rows} rows of {classes}", versions, logits.size, settings.repeats)


def climb(title: str, versions: dict[str, Callable[[], Any]], numbers: int, repeats: int) -> None:
    print(title)
    first = next(iter(versions.values()))
    exact = first()
    for name, version in versions.items():
        for a, b in zip(version(), exact, strict=True):
            if not np.allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max()):
                raise SystemExit(f"{name} does not compute what {next(iter(versions))} does")
        mine, start = bench.compare(version, first, repeats)
        print(f"  {name}: {mine * 1e3:.2f} ms, {mine / numbers * 1e9:.2f} ns a number, {start / mine:.1f} times faster")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
