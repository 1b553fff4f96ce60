"""The cost of a recorded operation: a chain of 2,000 `mul` of 32x32, forward and backward, against PyTorch.

    python benchmarks/overhead.py

Prints one line: microseconds an operation, ours and PyTorch's, and their ratio.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import numpy as np
import tyro

from micrognm import Tensor, bench


@dataclass
class Settings:
    length: int = 2000
    """operations in the chain"""
    repeats: int = 101
    """how often each side runs, by turns"""


def main(settings: Settings) -> None:
    torch = bench.torch() or sys.exit(bench.NO_PEER)
    ones = np.ones((32, 32), np.float32)
    x, g = Tensor(ones, requires_grad=True), Tensor(ones)
    tx, tg = torch.from_numpy(ones).requires_grad_(), torch.from_numpy(ones)
    forward: dict[str, list[float]] = {"ours": [], "peer": []}

    def chain(name: str, x, g) -> None:
        start = time.perf_counter()
        y = x
        for _ in range(settings.length):
            y = y * x
        forward[name].append(time.perf_counter() - start)
        y.backward(g)
        x.grad = None

    ours, theirs = bench.compare(lambda: chain("ours", x, g), lambda: chain("peer", tx, tg), settings.repeats)
    scale = 1e6 / settings.length
    first = {name: float(np.median(times)) * scale for name, times in forward.items()}
    print(
        f"one recorded mul of 32x32, forward + backward: "
        f"micrognm {first['ours']:.2f} + {ours * scale - first['ours']:.2f} us, "
        f"PyTorch {torch.__version__} {first['peer']:.2f} + {theirs * scale - first['peer']:.2f} us, "
        f"ratio {ours / theirs:.2f}"
    )


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
