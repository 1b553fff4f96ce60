"""What the tests give to the convolution: few pixels, and any taps, strides, sizes and groups."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st
from micrognm.kernels.drawn import Drawn
from micrognm.kernels.formula.program import Activation

from micrognm.ops import elu, gelu

THREADS_AGREE = True

# Channels of a group: none, one, fewer than a vector, and around one and two of them.
CHANNELS = st.sampled_from([1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 33, 0])

# An activation and whether to keep what it is applied to. Both have slopes of about 1 at most.
ELU, GELU = Activation(elu.program, {"alpha": 0.5}), Activation(gelu.program, {})
ENDS = [(), (None, False), (ELU, False), (ELU, True), (GELU, False), (GELU, True)]


@st.composite
def problems(draw: Any) -> dict[str, Any]:
    """Sizes for all three functions, and arrays to fit them."""
    axes = draw(st.sampled_from([2, 1, 3]))
    longest = {1: 60, 2: 12, 3: 5}[axes]  # 60 pixels: several tiles
    sizes = st.tuples(*[st.integers(0, longest)] * axes) | st.just((longest,) * axes)
    space = draw(sizes)
    stride = draw(st.just((1,) * axes) | st.tuples(*[st.integers(1, 3)] * axes))
    shape = draw(st.just(tuple(-(-size // s) for size, s in zip(space, stride, strict=True))) | sizes)
    reach = draw(st.sampled_from([1, 2, 9]))  # 9: far outside
    offset = st.tuples(*[st.integers(-reach, reach)] * axes)
    offsets = tuple(draw(st.lists(offset, max_size=9)))
    kind = draw(st.sampled_from(["dense", "groups", "depthwise"]))
    groups = {"dense": 1, "groups": draw(st.integers(2, 3)), "depthwise": draw(CHANNELS.filter(bool))}[kind]
    inputs, outputs = (1, 1) if kind == "depthwise" else (draw(CHANNELS), draw(CHANNELS))
    images = draw(st.integers(0, 3) | st.just(20))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    biased = draw(st.booleans())
    return {
        "x": rng.standard_normal((images, *space, inputs * groups)),
        "w": rng.standard_normal((len(offsets), inputs, outputs * groups)),
        "g": rng.standard_normal((images, *shape, outputs * groups)),
        "end": draw(st.sampled_from(ENDS)),
        "bias": rng.standard_normal(outputs * groups) if biased else None,
        "input_bias": rng.standard_normal(inputs * groups) if biased else None,
        "rest": (offsets, stride, shape, groups),
        "input_rest": (offsets, stride, space, groups),
        "weight_rest": (offsets, stride, groups),
        "terms": (len(offsets) * inputs, len(offsets) * outputs, images * math.prod(shape)),
    }


STRATEGIES = {
    "forward": problems().map(lambda p: Drawn((p["x"], p["w"], p["bias"], *p["rest"], *p["end"]), p["terms"][0] + 1)),
    "input_gradient": problems().map(
        lambda p: Drawn((p["g"], p["w"], p["input_bias"], *p["input_rest"], *p["end"]), p["terms"][1] + 1)
    ),
    "weight_gradient": problems().map(lambda p: Drawn((p["x"], p["g"], *p["weight_rest"]), p["terms"][2] + 1)),
}
