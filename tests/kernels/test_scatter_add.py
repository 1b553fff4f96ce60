"""Rows added into slots, against loops; the order of the sums."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from micrognm.kernels.scatter_add import cpu, reference

from tests.strategies import generators

IMPLEMENTATIONS = [reference, cpu]


@settings(max_examples=40)
@given(rng=generators(), rows=st.integers(0, 30), columns=st.integers(0, 20), slots=st.integers(1, 5))
def test_against_loops(rng, rows, columns, slots):
    index, values = rng.integers(0, slots, rows), rng.standard_normal((rows, columns))
    want = np.zeros((slots, columns))
    for i, c in np.ndindex(rows, columns):
        want[index[i], c] += values[i, c]
    for module in IMPLEMENTATIONS:
        np.testing.assert_allclose(module.scatter_add(index, values, slots), want, rtol=0, atol=1e-13)


@pytest.mark.parametrize("columns", [1, 16, 33, 100])
@pytest.mark.parametrize("rows", [50, 8000])
def test_a_slot_is_summed_in_the_order_of_the_rows(rows, columns, rng):
    """So that the bits are those of the reference."""
    index, values = rng.integers(0, 9, rows), rng.standard_normal((rows, columns)).astype(np.float32)
    want = np.zeros((9, columns), np.float32)
    for k, row in zip(index, values, strict=True):
        want[k] += row
    np.testing.assert_array_equal(cpu.scatter_add(index, values, 9), want)
    np.testing.assert_array_equal(reference.scatter_add(index, values, 9), want)
