"""What the tests give to the arena kernel. Its functions change their arrays in place."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from micrognm.kernels.drawn import Drawn

IN_PLACE = True
# Of each tensor: none, one, odd ones, around a block of the GPU and a piece of the CPU.
SIZES = st.lists(st.sampled_from([0, 1, 2, 7, 8, 31, 255, 257, 16_383, 16_385]), min_size=1, max_size=4)
SEEDS = st.integers(0, 2**32 - 1)
# How many moments a function takes, whether the second is a square, and how many numbers of its own.
FUNCTIONS = {"sgd": (0, 1), "momentum": (1, 2), "adam": (2, 5), "adamax": (2, 4), "rmsprop": (2, 4), "adagrad": (1, 2)}


def _step(name: str) -> st.SearchStrategy[Drawn]:
    moments, numbers = FUNCTIONS[name]

    @st.composite
    def drawn(draw: st.DrawFn) -> Drawn:
        sizes, rng = draw(SIZES), np.random.default_rng(draw(SEEDS))
        n = sum(sizes)
        arrays = [rng.standard_normal(n), *(rng.uniform(0.1, 2.0, n) for _ in range(moments))]
        average = rng.standard_normal(n) if draw(st.booleans()) else None
        own = [*rng.uniform(0.1, 0.9, numbers), *([draw(st.booleans())] if name == "momentum" else [])]
        limit = draw(st.sampled_from([0.5, np.inf]))
        gradients = [rng.standard_normal(size) for size in sizes]
        return Drawn(
            (*arrays, average, *rng.uniform(0.1, 2.0, 1), limit, *rng.uniform(0.0, 1.0, 2), *own, *gradients), 4
        )

    return drawn()


@st.composite
def _ema(draw: st.DrawFn) -> Drawn:
    n, rng = draw(st.sampled_from([0, 1, 7, 1000])), np.random.default_rng(draw(SEEDS))
    return Drawn((rng.standard_normal(n), rng.standard_normal(n), 0.3), 2)


STRATEGIES = {**{name: _step(name) for name in FUNCTIONS}, "ema": _ema()}
