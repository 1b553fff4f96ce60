"""What the tests give to attention: lengths around the edges of a tile, widths around those of a vector."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from micrognm.kernels.attention import reference
from micrognm.kernels.drawn import Drawn

THREADS_AGREE = True

LENGTHS = st.sampled_from([1, 2, 0, 5, 17, 63, 64, 65, 127, 130, 200])
WIDTHS = st.sampled_from([1, 2, 3, 6, 8, 15, 16, 17, 33, 64, 0])


@st.composite
def problems(draw: Any) -> dict[str, Any]:
    """The arguments of both functions, by name."""
    images, heads = draw(st.sampled_from([(1, 1), (2, 3), (3, 2), (0, 2), (2, 0)]))
    d, e = draw(WIDTHS), draw(WIDTHS)
    length = draw(LENGTHS)
    m = draw(st.just(length) | LENGTHS)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    share = draw(st.sampled_from([None, 0.5, 0.02, 0.0]))  # of the keys that may be read
    size = draw(st.sampled_from([1.0, 20.0]))  # of the scores: 20 gives weights that are all but 0 or 1
    p: dict[str, Any] = {
        "q": size * rng.standard_normal((images, length, heads, d)),
        "k": rng.standard_normal((images, m, heads, d)),
        "v": rng.standard_normal((images, m, heads, e)),
        "keys": None if share is None else rng.random((images, m)) < share,
        "scale": float(max(d, 1) ** -0.5),
        "reach": draw(st.sampled_from([1, 0, m])),
    }
    p["g"] = rng.standard_normal((images, length, heads, e))
    p["out"], p["lse"] = reference.forward(*(p[name] for name in FORWARD))
    # A score of size s is off by s roundings, and so is its weight.
    p["terms"] = length + m + d + e + int(20 * size)
    return p


FORWARD = ("q", "k", "v", "keys", "scale", "reach")
BACKWARD = ("g", "q", "k", "v", "out", "lse", "keys", "scale", "reach")

STRATEGIES = {
    "forward": problems().map(lambda p: Drawn(tuple(p[name] for name in FORWARD), p["terms"])),
    "backward": problems().map(lambda p: Drawn(tuple(p[name] for name in BACKWARD), p["terms"])),
}
