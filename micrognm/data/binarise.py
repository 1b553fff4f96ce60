"""Binary images out of grey ones. The two protocols give different likelihoods: say which one was used."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def threshold(images: NDArray[np.integer], at: int) -> NDArray[np.float32]:
    """Static binarisation: 1 where a pixel is `at` or more, else 0; float32 of the images' shape."""
    _check_integers("threshold", images)
    return (images >= at).astype(np.float32)


def dynamic(images: NDArray[np.integer], levels: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Dynamic binarisation: each pixel x of 0 .. levels - 1 is 1 with probability x / (levels - 1), drawn anew at each
    call; float32 of the images' shape. Raises ValueError for a pixel outside 0 .. levels - 1.
    """
    _check_integers("dynamic", images)
    if levels < 2:
        raise ValueError(f"dynamic: levels must be 2 or more, not {levels}")
    if images.size and not 0 <= images.min() <= images.max() < levels:
        raise ValueError(
            f"dynamic: pixels must be 0 to {levels - 1} for levels={levels}, not {images.min()} to {images.max()}"
        )
    # A draw from the levels - 1 numbers 0 .. levels - 2 is below x in exactly x of the cases: no rounding.
    draw = rng.integers(levels - 1, size=images.shape, dtype=np.min_scalar_type(levels - 2))
    return (draw < images).astype(np.float32)


def _check_integers(operation: str, images: NDArray[np.integer]) -> None:
    if not np.issubdtype(images.dtype, np.integer):
        raise TypeError(f"{operation}: images must hold whole numbers 0 .. levels - 1, not {images.dtype}")
