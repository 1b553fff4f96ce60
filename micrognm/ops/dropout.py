"""Dropout, whose mask is never stored: the backward pass draws it again from the key."""

from __future__ import annotations

from micrognm import backend
from micrognm.operation import op


@op
def dropout(x, *, rate, key):
    """x / (1 - rate), but 0 with probability `rate` in [0, 1); key, an integer of [0, 2^64), says where.

    Srivastava et al. 2014, in the form that keeps the mean. `backend.key(rng)` draws a key. One key drops the same
    elements on every device and in every dtype.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"rate must lie in [0, 1), is {rate}")
    if not 0 <= key < 2**64:
        raise ValueError(f"key must be an integer of [0, 2^64), as backend.key(rng) gives, is {key}")
    return backend.kernel("rng", x).dropout(x, rate, key)


dropout.vjp(x=lambda g, rate, key: dropout(g, rate=rate, key=key))
