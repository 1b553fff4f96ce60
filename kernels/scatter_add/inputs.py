"""What the tests call each function with."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from micrognm.kernels.drawn import Drawn

THREADS_AGREE = True


@st.composite
def _scatter_add(draw: st.DrawFn) -> Drawn:
    rows, columns = draw(st.sampled_from([0, 1, 2, 31, 300])), draw(st.sampled_from([0, 1, 7, 8, 9, 32, 33]))
    slots = draw(st.sampled_from([1, 2, 5, 70]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return Drawn((rng.integers(0, slots, rows), rng.standard_normal((rows, columns)), slots), rows)


STRATEGIES = {"scatter_add": _scatter_add()}
