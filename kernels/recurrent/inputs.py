"""What the generic tests call this kernel with."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from micrognm.kernels.drawn import Drawn

THREADS_AGREE = True


@st.composite
def _scan(draw: st.DrawFn, back: bool) -> Drawn:
    diagonal = draw(st.booleans())
    n, height, width = draw(st.sampled_from([0, 1, 2, 5, 20])), draw(st.integers(0, 5)), draw(st.integers(0, 5))
    directions, h = draw(st.integers(1, 2)), draw(st.sampled_from([1, 2, 3, 4, 5, 8, 16, 17]))
    taps = 2 if diagonal else draw(st.sampled_from([1, 3, 5]))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    gates = rng.standard_normal((n, height, width, directions, 4 * h)) * draw(st.sampled_from([1.0, 30.0]))
    weight = rng.standard_normal((directions, taps, h, 4 * h)) / np.sqrt(taps * h)
    h0, c0 = rng.standard_normal((2, directions, height if diagonal else width, h))
    steps = height + width if diagonal else height
    if not back:
        return Drawn((gates, weight, h0, c0, diagonal), terms=taps * h * max(steps, 1))
    shape = (*gates.shape[:4], h)
    g, hidden, cells = rng.standard_normal((3, *shape))
    gated = rng.uniform(0, 1, (*gates.shape[:4], 4, h))
    gated[..., 3, :] = rng.uniform(-1, 1, shape)
    states = np.tanh(hidden), cells, gated.reshape(gates.shape)
    terms = 4 * taps * h * max(steps, 1) + n * height * width
    return Drawn((g, weight, h0, c0, *states, diagonal), terms=terms)


STRATEGIES = {"forward": _scan(False), "backward": _scan(True)}
