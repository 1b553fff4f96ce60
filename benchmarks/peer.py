"""How benchmarks compare: our work and the peer's, by turns in one run, by the median of the repeats."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any


def torch() -> Any:
    """PyTorch with as many threads as this machine has cores, or a message that says how to install it."""
    try:
        import torch
    except ImportError:
        raise SystemExit('The peer is PyTorch: python -m pip install -e ".[bench]"') from None
    return torch


def compare(ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int, turn: int = 10) -> tuple[float, float]:
    """Median seconds of a run of each, over at least `repeats` runs of both, made by turns.

    A turn is `turn` runs in a row, after two that are not counted: the threads of the one that ran before go on
    spinning for a while, and would be charged to the other.
    """
    times: tuple[list[float], list[float]] = ([], [])
    while len(times[1]) < repeats:
        for run, kept in zip((ours, theirs), times, strict=True):
            run()
            time.sleep(0.25)  # OpenMP's threads spin up to 0.2 s after their last work
            run()
            for _ in range(turn):
                start = time.perf_counter()
                run()
                kept.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])
