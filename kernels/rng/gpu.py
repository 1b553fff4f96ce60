"""reference.py in CUDA C."""

from __future__ import annotations

from typing import Any

import numpy as np
from micrognm.kernels import cuda
from micrognm.kernels.rng.reference import BLOCK, LANES, threshold

Array = Any
module = cuda.module(__file__)


def _run(name: str, out: Array, *arguments: Any) -> Array:
    module.launch(name, cuda.ceil_div(out.size, BLOCK), LANES, *arguments, out.size)
    return out


def uniform(like: Array, n: int, key: int) -> Array:
    module.float32(like)
    out = np.empty_like(like, shape=n)
    return _run("uniform", out, out, key)


def normal(like: Array, n: int, key: int) -> Array:
    module.float32(like)
    out = np.empty_like(like, shape=n)
    return _run("normal", out, out, key)


def dropout(x: Array, rate: float, key: int) -> Array:
    (x,) = module.float32(x)
    out = np.empty_like(x)
    return _run("dropout", out, x, out, threshold(rate), 1 / (1 - rate), key)
