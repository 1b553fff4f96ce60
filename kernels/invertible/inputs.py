"""What the tests give to the kernels of this folder: channels around the width of a vector, samples around a part."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from micrognm.kernels.drawn import Drawn

THREADS_AGREE = True

SHAPES = st.sampled_from([(1,), (5,), (0,), (2, 3), (4, 7), (3, 2, 5), (1, 33), (2, 0)])  # of the axes before channels
CHANNELS = st.sampled_from([1, 2, 3, 4, 6, 7, 8, 9, 12, 15, 16, 17, 24, 31, 48])
SAMPLES = st.sampled_from(
    [(1, 1), (3, 5), (2, 3, 4), (4,), (0, 3), (3, 0), (1, 8191), (2, 8192), (1, 8193), (2, 3, 2731)]
)


def _rng(draw: Any) -> np.random.Generator:
    return np.random.default_rng(draw(st.integers(0, 2**32 - 1)))


@st.composite
def steps(draw: Any, backward: bool) -> Drawn:
    lead, c = draw(SHAPES), draw(CHANNELS)
    rng = _rng(draw)
    x, g = rng.standard_normal((2, *lead, c))
    weight, (scale, shift) = rng.standard_normal((c, c)), rng.standard_normal((2, c))
    args = (x, weight, scale, shift)
    # Folded, scale and shift meet the weight before x does: twice the roundings.
    return Drawn((g, *args), 2 * c + 2 * x.size // c) if backward else Drawn(args, 2 * c)


@st.composite
def matrices(draw: Any) -> Drawn:
    """Of condition below 10 or so: the errors of an inverse grow with it."""
    c = draw(st.sampled_from([0, 1, 2, 3, 5, 8, 17, 48]))
    rng = _rng(draw)
    rotation = np.linalg.qr(rng.standard_normal((c, c)))[0]
    return Drawn((rotation * rng.uniform(0.5, 2, c),), c)


@st.composite
def couplings(draw: Any, backward: bool) -> Drawn:
    shape, sigmoid = draw(SAMPLES), draw(st.booleans())
    rng = _rng(draw)
    x, h, t, g = rng.standard_normal((4, *shape))
    h = h * draw(st.sampled_from([0.5, 3.0]))
    args = (x, h, t, sigmoid)
    return (
        Drawn((g, rng.standard_normal(shape[:1]), *args), 16) if backward else Drawn(args, int(np.prod(shape[1:])) + 16)
    )


STRATEGIES = {
    "forward": steps(False),
    "backward": steps(True),
    "determinant": matrices(),
    "coupling": couplings(False),
    "coupling_inverse": couplings(False),
    "coupling_backward": couplings(True),
}
