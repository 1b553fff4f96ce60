"""Continuous images out of whole-number ones: what a density, which gives no probability to a point, is trained on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def dequantise(images: NDArray[np.integer], levels: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """x + u, for pixels x of 0 .. levels - 1 and uniform u of [0, 1) drawn anew at each call; float32.

    For a density p on [0, levels), E log p(x + u) <= log P(x), where P(x) is what p gives to the cube of all x + u: so
    its mean is a bound for the likelihood of the whole-number images (Theis et al. 2016), in nats as it is. TypeError
    for images that are no whole numbers, ValueError for a pixel outside 0 .. levels - 1.
    """
    if not np.issubdtype(images.dtype, np.integer):
        raise TypeError(f"dequantise: images must hold whole numbers 0 .. levels - 1, not {images.dtype}")
    if images.size and not 0 <= images.min() <= images.max() < levels:
        raise ValueError(
            f"dequantise: pixels must be 0 to {levels - 1} for levels={levels}, not {images.min()} to {images.max()}"
        )
    x = images.astype(np.float32)
    # Rounded to float32, x + u must stay below x + 1.
    return np.minimum(x + rng.random(x.shape, np.float32), np.nextafter(x + 1, np.float32(0)))
