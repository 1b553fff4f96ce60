"""The nearest row of a codebook, in NumPy, by the distances themselves: no square is expanded, so none cancels."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any


def nearest(z: Array, codebook: Array) -> tuple[Array, Array]:
    """z [n, D], codebook [K, D], K of 1 or more -> index [n] int64 of the nearest row (of equal ones, the first), and
    the squared distance [n]."""
    d = z[:, None, :] - codebook
    square = np.sum(d * d, axis=2)
    return np.argmin(square, axis=1), np.min(square, axis=1)
