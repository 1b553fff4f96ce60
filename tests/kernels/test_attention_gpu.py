"""Attention's CUDA C on tensor cores, in TF32: against a sum over tiles in float64 with the same factors rounded.

It runs on the CPU through kernels/cuda.cuh and g++.
"""

from __future__ import annotations

import importlib
import shutil
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.kernels.tf32 import in_tf32, rounded

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="CUDA C runs here only through g++; install it")

# Of a largest value: what a float32 sum may be off, and a weight before it is rounded.
BOUND, NEAR = 2e-6, 4e-6


class Shape(NamedTuple):
    images: int
    length: int
    m: int
    heads: int
    d: int
    e: int
    reach: int
    keys: float | None = None  # the share of them that may be read
    tile: int = 32


SHAPES = {
    "one tile, no mask": Shape(2, 32, 32, 2, 16, 16, 32),
    "causal, wide values": Shape(1, 70, 70, 2, 16, 128, 1),
    "strictly causal, odd widths": Shape(2, 65, 65, 1, 5, 19, 0),
    "padded keys, odd lengths": Shape(2, 37, 75, 2, 33, 9, 75, 0.4),
    "causal and padded keys": Shape(2, 67, 67, 2, 8, 8, 1, 0.3),
    "more rows than columns": Shape(1, 90, 33, 1, 3, 4, 1),
    "more columns than rows": Shape(1, 33, 90, 1, 24, 40, 0),
    "no key may be read": Shape(1, 33, 40, 1, 8, 8, 40, 0.0),
    "one position": Shape(3, 1, 1, 1, 1, 1, 1),
    "no columns": Shape(1, 5, 0, 1, 4, 4, 0),
    "queries of no width": Shape(1, 40, 40, 1, 0, 8, 40),
    "tiles of 16 rows": Shape(1, 35, 35, 1, 400, 300, 1, tile=16),
}
every_shape = pytest.mark.parametrize("name", SHAPES)


def gpu() -> Any:
    return importlib.import_module("micrognm.kernels.attention.gpu")


def draw(shape: Shape) -> tuple[np.ndarray, ...]:
    """g, q, k, v in float32 and keys."""
    rng = np.random.default_rng(0)
    sizes = [(shape.length, shape.e), (shape.length, shape.d), (shape.m, shape.d), (shape.m, shape.e)]
    arrays = [rng.standard_normal((shape.images, n, shape.heads, width), np.float32) for n, width in sizes]
    return *arrays, None if shape.keys is None else rng.random((shape.images, shape.m)) < shape.keys


def scores(shape: Shape, q: np.ndarray, k: np.ndarray, keys: Any, scale: float) -> np.ndarray:
    """[N, H, L, M], of rounded factors."""
    s = scale * np.einsum("nlhd,nmhd->nhlm", rounded(q), rounded(k))
    read = np.arange(shape.m) < np.arange(shape.length)[:, None] + shape.reach
    return np.where(read if keys is None else read & keys[:, None, None], s, -np.inf)


def factor(x: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x rounded, and how far off that may be where x itself is off by an error: one step, for the few near a half."""
    return rounded(x), np.maximum(rounded(x + error) - rounded(x), rounded(x) - rounded(x - error))


def forward(shape: Shape, q: Any, k: Any, v: Any, keys: Any, scale: float) -> tuple[np.ndarray, ...]:
    """out, how far off it may be, and the logsumexp: the running maximum decides what is rounded, so tile by tile."""
    s, values = scores(shape, q, k, keys, scale), rounded(v).transpose(0, 2, 1, 3)
    top = np.full((*s.shape[:3], 1), -np.inf)
    total, sums, off = np.zeros_like(top), *np.zeros((2, *s.shape[:3], shape.e))
    for begin in range(0, shape.m, shape.tile):
        part, there = s[..., begin : begin + shape.tile], values[:, :, begin : begin + shape.tile]
        highest = np.maximum(top, part.max(axis=-1, keepdims=True))
        finite = np.where(np.isneginf(highest), 0.0, highest)
        fade, weights = np.exp(top - finite), np.exp(part - finite)
        multiplied, doubt = factor(weights, NEAR * weights)
        sums, off = sums * fade + multiplied @ there, off * fade + doubt @ np.abs(there)
        total, top = total * fade + weights.sum(axis=-1, keepdims=True), highest
    any_read = total > 0
    divisor = np.where(any_read, total, 1.0)
    lse = np.where(any_read, np.where(any_read, top, 0.0) + np.log(divisor), 0.0)[..., 0]
    return (sums / divisor).transpose(0, 2, 1, 3), (off / divisor).transpose(0, 2, 1, 3), lse.transpose(0, 2, 1)


def backward(shape: Shape, g: Any, q: Any, k: Any, v: Any, out: Any, lse: Any, keys: Any, scale: float) -> list:
    """The three gradients, each with how far off it may be."""
    p = np.exp(scores(shape, q, k, keys, scale) - lse.astype(float).transpose(0, 2, 1)[..., None])
    dp = np.einsum("nlhe,nmhe->nhlm", rounded(g), rounded(v))
    level = np.sum(g.astype(float) * out, axis=-1).transpose(0, 2, 1)[..., None]
    size = np.abs(g.astype(float)).max(initial=0) * np.abs(v).max(initial=0) * np.sqrt(shape.e)  # of dp, and of level
    ds, ds_doubt = factor(p * (dp - level), NEAR * p * size)
    p, p_doubt = factor(p, NEAR * p)
    return [
        (factor * np.einsum(letters, x, rounded(y)), factor * np.einsum(letters, doubt, np.abs(rounded(y))))
        for letters, factor, x, doubt, y in (
            ("nhlm,nmhd->nlhd", scale, ds, ds_doubt, k),
            ("nhlm,nlhd->nmhd", scale, ds, ds_doubt, q),
            ("nhlm,nlhe->nmhe", 1.0, p, p_doubt, g),
        )
    ]


def assert_near(found: np.ndarray, wanted: np.ndarray, doubt: Any = 0.0) -> None:
    assert found.dtype == np.float32 and found.shape == wanted.shape and np.isfinite(found).all()
    assert (np.abs(found - wanted) <= BOUND * np.abs(wanted).max(initial=1.0) + doubt).all()


@every_shape
def test_tf32_rounds_the_factors_of_products_and_nothing_else(name):
    shape = SHAPES[name]
    g, q, k, v, keys = draw(shape)
    scale = max(shape.d, 1) ** -0.5
    with in_tf32():
        out, lse = gpu().forward(q, k, v, keys, scale, shape.reach)
        found = gpu().backward(g, q, k, v, out, lse, keys, scale, shape.reach)
        again = *gpu().forward(q, k, v, keys, scale, shape.reach), *found
    wanted, doubt, wanted_lse = forward(shape, q, k, v, keys, scale)
    assert_near(out, wanted, doubt)
    assert_near(lse, wanted_lse)
    for x, (wanted, doubt) in zip(found, backward(shape, g, q, k, v, out, lse, keys, scale), strict=True):
        assert_near(x, wanted, doubt)
    for x, y in zip((out, lse, *found), again, strict=True):
        np.testing.assert_array_equal(x, y)


def test_the_bound_tells_tf32_from_float32():
    """So that the test above cannot pass on a kernel that rounds nothing."""
    shape = SHAPES["causal, wide values"]
    g, q, k, v, keys = draw(shape)
    out, lse = gpu().forward(q, k, v, keys, 0.25, 1)
    with pytest.raises(AssertionError):
        assert_near(out, *forward(shape, q, k, v, keys, 0.25)[:2])
    exact = backward(shape, g, q, k, v, out, lse, keys, 0.25)
    for x, (wanted, doubt) in zip(gpu().backward(g, q, k, v, out, lse, keys, 0.25, 1), exact, strict=True):
        with pytest.raises(AssertionError):
            assert_near(x, wanted, doubt)
        np.testing.assert_allclose(x, wanted, rtol=0, atol=3e-3 * np.abs(wanted).max())


def test_vectors_too_wide_for_shared_memory():
    x = np.zeros((1, 2, 1, 3000), np.float32)
    mend = r"does not fit in .* heads of less width, or MICROGNM_PRECISION=float32, or MICROGNM_KERNELS=reference"
    with in_tf32(), pytest.raises(ValueError, match=rf"in tf32: a tile of 16 rows of .*, 3000 and 3000 wide, {mend}"):
        gpu().forward(x, x, x, None, 1.0, 1)
    mend = r"heads of less width, or MICROGNM_KERNELS=reference"
    with pytest.raises(ValueError, match=rf"in float32: a tile of 8 rows of .*, 3000 and 3000 wide, .* {mend}"):
        gpu().forward(x, x, x, None, 1.0, 1)
    x = x[..., :1000]  # which 8 rows of fit, and 16 do not
    with in_tf32(), pytest.raises(ValueError, match="or MICROGNM_PRECISION=float32"):
        gpu().forward(x, x, x, None, 1.0, 1)
    assert (gpu().forward(x, x, x, None, 1.0, 1)[0] == 0).all()
