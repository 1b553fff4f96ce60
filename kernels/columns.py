"""Matrices of few columns and many rows, in NumPy, which takes a row at a time: here many rows are taken as one."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any
WIDE = 1024  # numbers that NumPy takes at once, at speed


def column_sums(x: Array) -> Array:
    """The sum of the rows of x [N, C], contiguous."""
    at_once, whole = _rows_as_one(x)
    if not whole:
        return np.sum(x, axis=0)
    sums = x[:whole].reshape(-1, at_once * x.shape[1]).sum(axis=0).reshape(at_once, -1).sum(axis=0)
    return sums + x[whole:].sum(axis=0)


def add_to_rows(x: Array, row: Array) -> None:
    """x += row, in place: x [N, C], contiguous, row [C]."""
    at_once, whole = _rows_as_one(x)
    if whole:
        many = x[:whole].reshape(-1, at_once * x.shape[1])
        many += np.tile(row, at_once)
    x[whole:] += row


def _rows_as_one(x: Array) -> tuple[int, int]:
    """How many rows are taken as one, and how many rows of x that makes in all: none where NumPy alone is as fast."""
    at_once = WIDE // max(x.shape[1], 1)
    return at_once, len(x) // at_once * at_once if at_once > 1 and x.size > WIDE else 0
