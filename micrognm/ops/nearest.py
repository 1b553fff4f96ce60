"""The nearest entry of a codebook (van den Oord et al. 2017, equation 1)."""

from __future__ import annotations

import math
from typing import Any

from micrognm import backend
from micrognm.engine import Tensor, tensor


def nearest(z: Any, codebook: Any) -> tuple[Tensor, Tensor]:
    """z [..., D], codebook [K, D] -> index [...] int64 of the nearest entry, and the squared distance to it [...].

    Of entries equally near, the first. In float32 entries whose distances differ by no more than rounding may change
    places. Neither output has a gradient: for a loss, pick codebook[index] and square the difference. Raises
    TypeError or ValueError where dtypes or shapes do not fit, or the codebook is empty.
    """
    z, codebook = (x.data if isinstance(x, Tensor) else x for x in (z, codebook))
    for name, x in (("z", z), ("codebook", codebook)):
        if not backend.is_array(x) or x.dtype.kind != "f":
            found = x.dtype if backend.is_array(x) else type(x).__name__
            raise TypeError(f"nearest: {name} must be a Tensor or array of float32 or float64, got {found}")
    if z.dtype != codebook.dtype or backend.device_of(z) != backend.device_of(codebook):
        raise TypeError(
            f"nearest: z is {z.dtype} on {backend.device_of(z)}, codebook {codebook.dtype} on "
            f"{backend.device_of(codebook)}; cast one: x.cast(dtype={codebook.dtype.name!r})"
        )
    if z.ndim == 0 or codebook.ndim != 2 or z.shape[-1] != codebook.shape[1]:
        raise ValueError(
            f"nearest: z {list(z.shape)} must be [..., D] and codebook {list(codebook.shape)} [K, D] with the same D"
        )
    if codebook.shape[0] == 0:
        raise ValueError(f"nearest: codebook {list(codebook.shape)} has no entry")
    *batch, depth = z.shape
    rows = z.reshape((math.prod(batch), depth))
    index, square = backend.kernel("nearest", z).nearest(rows, codebook)
    return tensor(index.reshape(batch)), tensor(square.reshape(batch))
