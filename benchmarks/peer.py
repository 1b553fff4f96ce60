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


def compare(ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int, warmup: int = 3) -> tuple[float, float]:
    """Median seconds of each, run by turns; the first `warmup` turns are not counted."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(warmup + repeats):
        for run, kept in zip((ours, theirs), times, strict=True):
            start = time.perf_counter()
            run()
            if turn >= warmup:
                kept.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])
