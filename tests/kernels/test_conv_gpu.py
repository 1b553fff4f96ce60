"""The convolution's CUDA C where the generated tests do not reach: several tiles and parts, and TF32.

It runs on a card where there is one, else on the CPU through kernels/cuda.cuh and g++.
"""

from __future__ import annotations

import importlib
import itertools
import shutil
from typing import Any

import numpy as np
import pytest

from tests.kernels.tf32 import in_tf32, rounded

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="CUDA C runs here only through g++; install it")

reference = importlib.import_module("micrognm.kernels.conv.reference")
SQUARE = tuple(itertools.product((-1, 0, 1), repeat=2))
WIDE = tuple(itertools.product((-1, 0, 1, 2), repeat=2))
# images, sizes of the input, inputs, outputs, offsets, stride, groups
SHAPES: dict[str, tuple[int, tuple[int, ...], int, int, tuple, tuple[int, ...], int]] = {
    "tiles of columns": (2, (5, 7), 70, 130, SQUARE, (1, 1), 1),
    "whole tiles": (1, (8, 8), 64, 64, SQUARE, (1, 1), 1),
    "parts of pixels": (40, (8, 8), 20, 9, SQUARE, (1, 1), 1),
    "strided": (2, (9, 8), 66, 65, WIDE, (2, 2), 1),
    "groups": (2, (6, 5), 36, 72, SQUARE, (1, 2), 3),
    "depthwise, parts": (40, (8, 8), 40, 40, SQUARE, (1, 1), 40),
    "one channel in": (2, (9, 9), 1, 70, SQUARE, (1, 1), 1),
    "one channel out": (2, (9, 9), 70, 1, SQUARE, (1, 1), 1),
    "dilated series": (3, (90,), 17, 70, ((-4,), (0,)), (1,), 1),
    "volume": (2, (3, 4, 5), 9, 66, tuple(itertools.product((0, 1), (-1, 1), (0, 2))), (1, 1, 2), 1),
}
every_shape = pytest.mark.parametrize("name", SHAPES)


def gpu() -> Any:
    return importlib.import_module("micrognm.kernels.conv.gpu")


def calls(name: str) -> dict[str, tuple[Any, ...]]:
    """The arguments of each function."""
    images, space, inputs, outputs, offsets, stride, groups = SHAPES[name]
    rng = np.random.default_rng(0)
    shape = tuple(-(-n // s) for n, s in zip(space, stride, strict=True))

    def draw(*sizes: int) -> np.ndarray:
        return rng.standard_normal(sizes, np.float32)

    x, w, g = draw(images, *space, inputs), draw(len(offsets), inputs // groups, outputs), draw(images, *shape, outputs)
    return {
        "forward": (x, w, draw(outputs), offsets, stride, shape, groups),
        "input_gradient": (g, w, draw(inputs), offsets, stride, space, groups),
        "weight_gradient": (x, g, offsets, stride, groups),
    }


def exact(function: str, args: tuple[Any, ...]) -> np.ndarray:
    return getattr(reference, function)(*(x.astype(float) if isinstance(x, np.ndarray) else x for x in args))


@every_shape
def test_several_tiles_and_parts(name):
    for function, args in calls(name).items():
        got, want = getattr(gpu(), function)(*args), exact(function, args)
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * np.abs(want).max(), err_msg=function)
        np.testing.assert_array_equal(getattr(gpu(), function)(*args), got, err_msg=f"{function}, run again")


@every_shape
def test_tf32_rounds_the_factors_and_nothing_else(name):
    for function, args in calls(name).items():
        factors = args[:2]
        with in_tf32():
            got = getattr(gpu(), function)(*args)
        plain = getattr(gpu(), function)(*args)
        want = exact(function, (*map(rounded, factors), *args[2:]))
        if np.array_equal(got, plain):  # no tensor core is used for few channels a group
            _, _, inputs, outputs, _, _, groups = SHAPES[name]
            assert min(inputs, outputs) // groups < 8
            continue
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * np.abs(want).max(), err_msg=function)
