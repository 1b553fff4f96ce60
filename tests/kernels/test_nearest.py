"""The nearest entry, against loops; ties; and what float32 may change."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from micrognm.kernels.nearest import cpu, reference

from tests.strategies import generators

IMPLEMENTATIONS = [reference, cpu]


@settings(max_examples=40)
@given(rng=generators(), rows=st.integers(0, 9), entries=st.integers(1, 20), depth=st.integers(0, 5))
def test_against_loops(rng, rows, entries, depth):
    z, codebook = rng.standard_normal((rows, depth)), rng.standard_normal((entries, depth))
    want = []
    for row in z:
        distances = [sum((a - b) ** 2 for a, b in zip(row, entry, strict=True)) for entry in codebook]
        want.append((distances.index(min(distances)), min(distances)))
    for module in IMPLEMENTATIONS:
        index, square = module.nearest(z, codebook)
        assert index.dtype == np.int64 and index.shape == square.shape == (rows,)
        assert index.tolist() == [k for k, _ in want]
        np.testing.assert_allclose(square, [d for _, d in want], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("module", IMPLEMENTATIONS)
def test_of_equal_entries_the_first_is_taken(module, dtype, rng):
    """Wherever in a tile they lie."""
    for _ in range(20):
        codebook = rng.standard_normal((50, 7)).astype(dtype)[rng.integers(0, 12, 50)]
        z = rng.standard_normal((61, 7)).astype(dtype)
        index, _ = module.nearest(z, codebook)
        assert all((codebook[k] == codebook).all(axis=1).argmax() == k for k in index)


@settings(max_examples=20)
@given(
    rng=generators(),
    rows=st.sampled_from([1, 47, 200]),
    entries=st.sampled_from([3, 100, 512]),
    depth=st.sampled_from([2, 64]),
)
def test_float32_takes_an_entry_as_near_but_for_rounding(rng, rows, entries, depth):
    z = rng.standard_normal((rows, depth)).astype(np.float32)
    codebook = rng.standard_normal((entries, depth)).astype(np.float32)
    index, square = cpu.nearest(z, codebook)
    exact = ((z.astype(np.float64)[:, None] - codebook) ** 2).sum(axis=2)
    # z e - |e|^2 / 2 is what is compared: D products and their sums, each rounded
    size = np.abs(z.astype(np.float64)) @ np.abs(codebook.T) + 0.5 * (codebook.astype(np.float64) ** 2).sum(axis=1)
    room = 2 * np.finfo(np.float32).eps * (depth + 2) * size.max(axis=1)
    taken = np.take_along_axis(exact, index[:, None], axis=1)[:, 0]
    assert (taken - exact.min(axis=1) <= 2 * room).all()
    np.testing.assert_allclose(square, taken, rtol=1e-5)


def test_far_from_the_origin_float32_still_measures_the_distance_itself(rng):
    codebook = (100 + rng.standard_normal((40, 8))).astype(np.float32)
    z = codebook[rng.integers(0, 40, 30)] + np.float32(0.125)
    index, square = cpu.nearest(z, codebook)
    exact = ((z.astype(np.float64) - codebook[index]) ** 2).sum(axis=1)
    np.testing.assert_allclose(square, exact, rtol=1e-5)


def test_an_entry_that_is_not_there_is_never_taken():
    """The last strip of the codebook is filled up with nothing, even for z so large that products overflow."""
    for scale in (1.0, 1e30, 1e38):
        z = np.full((7, 3), -scale, np.float32)
        index, _ = cpu.nearest(z, np.full((17, 3), scale, np.float32))
        assert ((index >= 0) & (index < 17)).all()
