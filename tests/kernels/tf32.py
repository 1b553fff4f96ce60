"""TF32 for tests: numbers rounded to it, and kernels that multiply in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from micrognm import backend


def rounded(x: np.ndarray) -> np.ndarray:
    """The nearest numbers with 10 bits of mantissa beside the leading one, halves away from zero; in float64."""
    mantissa, exponent = np.frexp(x.astype(np.float64))
    return np.ldexp(np.trunc(mantissa * 2**11 + np.copysign(0.5, mantissa)), exponent - 11)


@contextmanager
def in_tf32() -> Iterator[None]:
    """Inside, CUDA kernels multiply in TF32."""
    before = backend.precision()
    backend.use_precision("tf32")
    try:
        yield
    finally:
        backend.use_precision(before)
