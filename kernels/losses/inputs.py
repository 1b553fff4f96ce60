"""What the tests call each function with."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from micrognm.kernels.drawn import Drawn
from micrognm.kernels.losses import reference

THREADS_AGREE = True


def _generator(draw: st.DrawFn) -> np.random.Generator:
    return np.random.default_rng(draw(st.integers(0, 2**32 - 1)))


@st.composite
def _categorical(draw: st.DrawFn, gradient: bool) -> Drawn:
    rows, classes = draw(st.sampled_from([0, 1, 5, 31, 33, 300])), draw(st.sampled_from([1, 2, 17, 63, 64, 65, 300]))
    rng = _generator(draw)
    logits, index = 4 * rng.standard_normal((rows, classes)), rng.integers(0, classes, rows)
    if not gradient:
        return Drawn((logits, index), classes)
    _, largest, total = reference.categorical(logits, index)
    # largest and total are rounded to float32 by the tests, and exp(x - largest) with them
    return Drawn((rng.standard_normal(rows), logits, index, largest, total), 16 + classes)


@st.composite
def _logistic_mixture(draw: st.DrawFn) -> Drawn:
    pixels, channels = draw(st.sampled_from([0, 1, 15, 16, 17, 40, 700])), draw(st.sampled_from([1, 3]))
    mixtures, levels = draw(st.sampled_from([1, 2, 10])), draw(st.sampled_from([2, 3, 17, 256]))
    rng = _generator(draw)
    x = rng.integers(0, levels, (pixels, channels))
    params = rng.standard_normal((pixels, (3 if channels == 1 else 10) * mixtures))
    params[:, (1 + channels) * mixtures : (1 + 2 * channels) * mixtures] -= draw(st.sampled_from([0.0, 2.0, 8.0]))
    # The ends of a bin are differences of numbers around 1, times 1 / scale, which is at most e^7 = 1097; a gradient
    # multiplies them by 1 / scale again.
    return Drawn((x, params, levels, mixtures), 1000)


STRATEGIES = {
    "categorical": _categorical(gradient=False),
    "categorical_grad": _categorical(gradient=True),
    "logistic_mixture": _logistic_mixture(),
    "logistic_mixture_slopes": _logistic_mixture(),
}
