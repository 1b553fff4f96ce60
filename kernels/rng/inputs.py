"""What the tests give to the rng kernel."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from micrognm.kernels.drawn import Drawn

THREADS_AGREE = True
SIZES = st.sampled_from([0, 1, 3, 255, 257, 1023, 1024, 1025, 16_384, 16_385, 40_000])  # blocks, and parts on the CPU
KEYS = st.integers(0, 2**64 - 1)
RATES = st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.999])

_numbers = st.builds(lambda n, key: Drawn((np.zeros(1), n, key), 4), SIZES, KEYS)


@st.composite
def _dropout(draw: st.DrawFn) -> Drawn:
    n, key, rate = draw(SIZES), draw(KEYS), draw(RATES)
    x = np.random.default_rng(0).standard_normal(n)
    return Drawn((x.reshape(draw(st.sampled_from([(-1,), (n, 1), (1, n)]))), rate, key), 1)


STRATEGIES = {"uniform": _numbers, "normal": _numbers, "dropout": _dropout()}
