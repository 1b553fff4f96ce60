"""What the tests give to the kernels of this folder: rows and channels around a part, a vector and a fourfold step."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from micrognm.kernels.drawn import Drawn
from micrognm.kernels.normalise import reference

THREADS_AGREE = True

# Sets of fewer than four elements have gradients that are differences of nearly equal numbers: test_normalise.py.
SHAPES = st.sampled_from([
    (1, 4, 1), (2, 5, 3), (3, 7, 8), (4, 1, 6), (5, 1, 12), (2, 33, 16), (1, 16385, 1), (1, 16383, 1), (2, 2049, 8),
    (6, 4, 24), (0, 5, 4), (7, 1, 2048), (9, 9, 9), (3, 600, 32),
])  # fmt: skip


@st.composite
def problems(draw: Any) -> dict[str, Any]:
    n, p, c = shape = draw(SHAPES)
    over_batch = draw(st.booleans()) and n > 0
    positions = p * n if over_batch else p
    groups = draw(st.sampled_from([k for k in (1, 2, 3, c) if c % k == 0 and positions * (c // k) >= 4] or [1]))
    own = draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale, shift = rng.standard_normal((2, n if own else 1, c))
    offset = draw(st.sampled_from([0.0, 3.0]))
    slope, swish = draw(st.sampled_from([(1.0, False), (0.0, False), (0.2, False), (1.0, True)]))
    x = rng.standard_normal(shape) * rng.uniform(0.5, 2, c) + offset
    # Away from the kink of the activation, on whose sides the gradient differs.
    args = {"x": x, "scale": scale, "shift": shift, "groups": groups, "over_batch": over_batch}
    args |= {"centred": draw(st.booleans()), "eps": 1e-5, "slope": slope, "swish": swish}
    args |= {"g": rng.standard_normal(shape), "terms": n * p + c + 16}
    return args


def _forward(p: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(
        p[name] for name in ("x", "scale", "shift", "groups", "over_batch", "centred", "eps", "slope", "swish")
    )


def _backward(p: dict[str, Any]) -> Drawn:
    _, mean, low, var = reference.forward(*_forward(p))
    rng = np.random.default_rng(p["terms"])
    gmean, gvar = rng.standard_normal((2, *mean.shape))
    rest = (p[name] for name in ("scale", "shift", "centred", "eps", "slope", "swish"))
    return Drawn((p["g"], gmean, gvar, p["x"], mean, low, var, *rest), p["terms"])


def _away_from_the_kink(p: dict[str, Any]) -> bool:
    z = reference.forward(*_forward({**p, "slope": 1.0, "swish": False}))[0]
    return bool(p["swish"] or p["slope"] == 1 or (np.abs(z) > 1e-4).all())


def _scaled_away_from_the_kink(p: dict[str, Any]) -> bool:
    z = reference.scale_shift(p["x"], p["scale"], p["shift"], 1.0, False)
    return bool(p["swish"] or p["slope"] == 1 or (np.abs(z) > 1e-4).all())


def _drawn(p: dict[str, Any], *names: str) -> Drawn:
    return Drawn(tuple(p[name] for name in names), p["terms"])


STRATEGIES = {
    "forward": problems().map(lambda p: Drawn(_forward(p), p["terms"])),
    "backward": problems().filter(_away_from_the_kink).map(_backward),
    "scale_shift": problems().map(lambda p: _drawn(p, "x", "scale", "shift", "slope", "swish")),
    "scale_shift_backward": problems()
    .filter(_scaled_away_from_the_kink)
    .map(lambda p: _drawn(p, "g", "x", "scale", "shift", "slope", "swish")),
}
