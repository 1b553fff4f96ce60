"""Benchmarks: our work and the peer's, by turns in one run, by the median of the repeats; and the kernels' table.

python -m micrognm bench [kernel ...] [--json FILE]
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import time
import timeit
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from micrognm import storage
from micrognm.kernels.matmul import matmul

WARM = 0.02
NO_PEER = 'The peer is PyTorch: python -m pip install -e ".[bench]"'


@dataclass(frozen=True)
class Case:
    """One row: the same work by us and by PyTorch.

    ours and theirs run it once; theirs is None where PyTorch is not installed. error: our largest error against a
    reference in float64, as a part of its largest value. flops and bytes: what the work needs at least.
    """

    shape: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any] | None
    error: Callable[[], float]
    flops: float
    bytes: float
    dtype: str = "float32"


def torch() -> Any:
    """PyTorch as it comes, with as many threads as this machine has cores; or None."""
    ours = os.environ.pop("GOMP_SPINCOUNT", None)  # backend.py's: OpenMP reads it once, and theirs is faster without
    try:
        return importlib.import_module("torch")
    except ImportError:
        return None
    finally:
        if ours is not None:
            os.environ["GOMP_SPINCOUNT"] = ours


def compare(ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int, turn: int = 5) -> tuple[float, float]:
    """Median seconds of a run of each, over at least `repeats` runs of both, made by turns.

    A turn is `turn` runs in a row. What comes before is not counted: a pause, for the threads of the one that ran
    before go on spinning for a while and would be charged to the other, and runs for WARM seconds, for after a pause
    the caches are cold and the threads asleep.
    """
    times: tuple[list[float], list[float]] = ([], [])
    while len(times[1]) < repeats:
        for run, kept in zip((ours, theirs), times, strict=True):
            run()
            time.sleep(0.25)  # OpenMP's threads spin up to 0.2 s after their last work
            end = time.perf_counter() + WARM
            run()
            while time.perf_counter() < end:
                run()
            for _ in range(turn):
                start = time.perf_counter()
                run()
                kept.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def peak() -> tuple[float, float]:
    """What this machine can do: floating-point operations a second (a product of 1024 x 1024) and bytes a second.

    Bytes: those read and written by a copy of 64 MiB in as many threads as there are cores. Both at their quickest of
    40, for that is a limit: what else runs on the machine only adds to it.
    """
    a = np.random.default_rng(0).standard_normal((1024, 1024), np.float32)
    source = np.zeros(1 << 24, np.float32)
    target = source.copy()
    cores = os.cpu_count() or 1
    parts = list(zip(np.array_split(target, cores), np.array_split(source, cores), strict=True))
    with ThreadPoolExecutor(cores) as pool:
        product = _quickest(lambda: matmul(a, a))
        copy = _quickest(lambda: list(pool.map(lambda part: np.copyto(*part), parts)))
    return 2 * 1024**3 / product, 2 * source.nbytes / copy


def _quickest(run: Callable[[], Any]) -> float:
    return min(timeit.repeat(run, number=1, repeat=40))


def kernels() -> list[str]:
    """The kernels that have a benchmark."""
    folders = importlib.import_module("micrognm.kernels").__path__
    return sorted(path.parent.name for folder in folders for path in Path(folder).glob("*/bench.py"))


def rows(name: str, peer: Any, flops: float, bytes: float, repeats: int = 20) -> Iterator[dict[str, Any]]:
    """One row for each case of a kernel: kernel, shape, dtype, error, micrognm_ms, peer_ms, ratio, share_of_peak.

    peer: PyTorch or None. share_of_peak: the larger of the shares of flops and bytes a second, which `peak` measures,
    that the least work needed makes up.
    """
    for case in importlib.import_module(f"micrognm.kernels.{name}.bench").cases(peer):
        error = case.error()
        mine, theirs = compare(case.ours, case.theirs or (lambda: None), repeats)
        yield {
            "kernel": name,
            "shape": case.shape,
            "dtype": case.dtype,
            "error": float(error),
            "micrognm_ms": mine * 1e3,
            "peer_ms": theirs * 1e3 if case.theirs else None,
            "ratio": mine / theirs if case.theirs else None,
            "share_of_peak": max(case.flops / flops, case.bytes / bytes) / mine,
        }


def main(names: Sequence[str], path: Path | None) -> int:
    """Print the rows of these kernels, all where none is named, as they come; and write them as JSON.

    What the machine can do is measured anew before each kernel: others that work on it change that within minutes.
    ValueError for an unknown kernel.
    """
    unknown = [name for name in names if name not in kernels()]
    if unknown:
        raise ValueError(f"bench: no benchmark of {', '.join(unknown)}; there are {', '.join(kernels())}")
    peer = torch()  # first, before anything sets its threads to work
    versions = f"numpy {np.__version__}, {f'torch {peer.__version__}' if peer else 'no torch: no peer'}"
    print(f"{os.cpu_count()} cores, {versions}")
    print(f"{'kernel':12} {'shape':44} {'error':>8} {'micrognm':>12} {'peer':>12} {'ratio':>6} {'of peak':>8}")
    found, peaks = [], {}
    for name in names or kernels():
        flops, bytes = peak()
        peaks[name] = {"flops": flops, "bytes": bytes}
        print(f"{name:12} peak: {flops / 1e9:.0f} GFLOP/s in a product of matrices, {bytes / 1e9:.1f} GB/s in a copy")
        for row in rows(name, peer, flops, bytes):
            found.append(row)
            theirs = "-" if row["peer_ms"] is None else f"{row['peer_ms']:.3f} ms"
            ratio = "-" if row["ratio"] is None else f"{row['ratio']:.2f}"
            print(
                f"{name:12} {row['shape']:44} {row['error']:8.1e} {row['micrognm_ms']:9.3f} ms {theirs:>12} "
                f"{ratio:>6} {row['share_of_peak']:8.0%}",
                flush=True,
            )
    if path is not None:
        report = {"cores": os.cpu_count(), "versions": versions, "peaks": peaks, "rows": found}
        storage.write(path, (json.dumps(report, indent=1) + "\n").encode())
    return 0
