"""Rows added into slots, in NumPy. What lands in one slot is added in the order of the rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from micrognm import backend

Array = Any


def scatter_add(index: Array, values: Array, slots: int) -> Array:
    """out[k] = sum of values[i] over the i with index[i] = k: integers [n] of 0..slots-1, [n, C] -> [slots, C]."""
    out = np.zeros_like(values, shape=(slots, values.shape[1]))
    backend.add_at(out, index, values)
    return out
