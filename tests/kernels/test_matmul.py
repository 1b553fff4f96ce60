"""Large products in threads: what NumPy gives, for every layout."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from micrognm.kernels import matmul

LAYOUTS = {
    "rows": np.ascontiguousarray,
    "columns": np.asfortranarray,
    "rows apart": lambda x: np.concatenate([x, x], axis=1)[:, : x.shape[1]],
    "every second": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "from the last": lambda x: x[::-1].copy()[::-1],
    "the same row": lambda x: np.broadcast_to(x[:1], x.shape),
}


PAIRS = [(a, b) for a in LAYOUTS for b in LAYOUTS if a == b or "rows" in (a, b)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(
    ("shape", "layout_a", "layout_b"),
    [(shape, *pair) for shape in [(300, 200, 500), (500, 200, 300), (50, 4003, 90)] for pair in PAIRS]
    + [(shape, name, name) for shape in [(1, 4100, 4100), (4100, 4100, 1)] for name in ("rows", "columns")],
)
def test_a_large_product_is_numpys(shape, dtype, biased, layout_a, layout_b, rng):
    n, k, m = shape
    a = LAYOUTS[layout_a](rng.standard_normal((n, k)).astype(dtype))
    b = LAYOUTS[layout_b](rng.standard_normal((k, m)).astype(dtype))
    bias = rng.standard_normal(m).astype(dtype) if biased else None
    assert n * k * m >= matmul.LARGE
    found = matmul.matmul(a, b, bias)
    assert found.dtype == dtype and found.flags.c_contiguous
    exact = a.astype(np.float64) @ b.astype(np.float64) + (0 if bias is None else bias)
    np.testing.assert_allclose(
        found, exact, rtol=0, atol=(1e-5 if dtype == np.float32 else 1e-11) * np.abs(exact).max()
    )


@pytest.mark.parametrize("threads", range(1, min(4, numba.config.NUMBA_NUM_THREADS) + 1))
def test_however_many_threads(threads, rng):
    before = numba.get_num_threads()
    a, b = rng.standard_normal((301, 203), np.float32), rng.standard_normal((203, 307), np.float32)
    try:
        numba.set_num_threads(threads)
        np.testing.assert_allclose(matmul.matmul(a, b), a @ b, rtol=0, atol=1e-4)
    finally:
        numba.set_num_threads(before)


@pytest.mark.parametrize("threads", range(2, min(4, numba.config.NUMBA_NUM_THREADS) + 1))
def test_a_long_sum_does_not_depend_on_the_number_of_threads(threads, rng):
    before = numba.get_num_threads()
    a, b = rng.standard_normal((4003, 50), np.float32).T, rng.standard_normal((4003, 90), np.float32)
    try:
        numba.set_num_threads(1)
        alone = matmul.matmul(a, b)
        numba.set_num_threads(threads)
        np.testing.assert_array_equal(matmul.matmul(a, b), alone)
    finally:
        numba.set_num_threads(before)


def test_numbers_of_two_dtypes_go_to_numpy(rng):
    a, b = rng.standard_normal((300, 300), np.float32), rng.standard_normal((300, 300))
    np.testing.assert_array_equal(matmul.matmul(a, b), a @ b)


@pytest.mark.parametrize("shape", [(5003, 7), (2, 3), (1024, 1), (3, 2000), (6, 7, 5, 3)])
def test_the_bias_is_added_wherever_the_product_lies(shape, rng):
    a, b = rng.standard_normal((*shape[:-1], 4)), rng.standard_normal((4, shape[-1]))
    bias = rng.standard_normal(shape[-1])
    np.testing.assert_allclose(matmul.matmul(a, b, bias), a @ b + bias, rtol=1e-12)
    if len(shape) > 2:  # NumPy lays the product as its factor lies
        a = a.swapaxes(0, 1)
        assert not np.matmul(a, b).flags.c_contiguous
        np.testing.assert_allclose(matmul.matmul(a, b, bias), a @ b + bias, rtol=1e-12)
