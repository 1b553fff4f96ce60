"""What the tests call each function with."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from micrognm.kernels.drawn import Drawn

THREADS_AGREE = True


@st.composite
def _nearest(draw: st.DrawFn) -> Drawn:
    rows = draw(st.sampled_from([0, 1, 5, 6, 7, 48, 49, 97, 400]))
    entries, depth = draw(st.sampled_from([1, 2, 15, 16, 17, 40])), draw(st.sampled_from([1, 2, 3, 8, 33]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    # Entries a part of the lattice of whole numbers, z near to one of them: rounding does not change which is nearest.
    codebook = rng.integers(-3, 4, (entries, depth)).astype(np.float64)
    z = codebook[rng.integers(0, entries, rows)] + rng.uniform(-0.1, 0.1, (rows, depth))
    return Drawn((z, codebook), depth)


STRATEGIES = {"nearest": _nearest()}
