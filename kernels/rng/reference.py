"""Random numbers from a counter: Philox 4x32-10 (Salmon et al. 2011), so that element i depends on the key and i alone.

Each function takes a key, an integer of [0, 2^64), and `like` or x, an array whose dtype and device the result has. The
numbers of float32 and float64 are the same: a uniform one has 24 bits. The same key and a larger n begin with the same
numbers. Elements are laid out in blocks of 1024: lane t of block b encrypts the counter 256 b + t, and its word w goes
to element 1024 b + 256 w + t. Neighbours in memory then come from neighbours in a vector or a warp.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from micrognm import backend

Array = Any
LANES = 256
BLOCK = 4 * LANES
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
KEY_STEPS = 0x9E3779B9, 0xBB67AE85  # the golden ratio and sqrt(3) - 1
UNIT = 2.0**-24


def philox(counter: tuple[Array, Array, Array, Array], key: tuple[int, int]) -> tuple[Array, Array, Array, Array]:
    """Ten rounds: four 32-bit words for each counter of four 32-bit words. NumPy arrays of dtype uint64."""
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = np.uint64(MULTIPLIERS[0]) * c0, np.uint64(MULTIPLIERS[1]) * c2
        c0, c1, c2, c3 = (p1 >> shift) ^ c1 ^ np.uint64(k0), p1 & low, (p0 >> shift) ^ c3 ^ np.uint64(k1), p0 & low
        k0, k1 = (k0 + KEY_STEPS[0]) % 2**32, (k1 + KEY_STEPS[1]) % 2**32
    return c0, c1, c2, c3


def _words(n: int, key: int) -> np.ndarray:
    """The upper 24 bits of n words, as [blocks, 4, 256]."""
    counter = np.arange(-(-n // BLOCK) * LANES, dtype=np.uint64).reshape(-1, LANES)
    zero = np.zeros_like(counter)
    parts = counter & np.uint64(0xFFFFFFFF), counter >> np.uint64(32), zero, zero
    return np.stack(philox(parts, (key % 2**32, key >> 32)), axis=1) >> np.uint64(8)


def _like(x: Array, numbers: np.ndarray, n: int) -> Array:
    """The first n numbers, where x lives and in its dtype. They are made on the host."""
    return backend.array_module(x).asarray(numbers.reshape(-1)[:n].astype(x.dtype))


def uniform(like: Array, n: int, key: int) -> Array:
    """n multiples of 2^-24 in [0, 1)."""
    return _like(like, _words(n, key) * UNIT, n)


def normal(like: Array, n: int, key: int) -> Array:
    """n standard normal numbers within 5.8, by Box and Muller: words 0 and 1 make a pair, and so do 2 and 3."""
    words = _words(n, key)
    radius = np.sqrt(-2 * np.log((words[:, ::2] + np.uint64(1)) * UNIT))
    angle = 2 * math.pi * UNIT * words[:, 1::2]
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=2)
    return _like(like, pairs, n)


def threshold(rate: float) -> int:
    """An element is dropped where its word's upper 24 bits are below this."""
    return math.ceil(rate * 2**24)


def dropout(x: Array, rate: float, key: int) -> Array:
    """x / (1 - rate) where uniform >= rate, else 0. Its own derivative: the gradient to x is dropout(g, rate, key)."""
    kept = _like(x, _words(x.size, key) >= np.uint64(threshold(rate)), x.size).reshape(x.shape)
    return np.where(kept != 0, x * x.dtype.type(1 / (1 - rate)), np.zeros_like(x))
