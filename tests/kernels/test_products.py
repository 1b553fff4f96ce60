"""Large products in threads: what NumPy gives, for every layout, on both sides of a fork."""

from __future__ import annotations

import multiprocessing
import os

import numpy as np
import pytest
from micrognm.kernels import products


@pytest.mark.parametrize("shape", [(300, 200, 500), (500, 200, 300), (1, 4100, 4100), (4100, 4100, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_large_product_is_numpys(shape, dtype, transposed, rng):
    n, k, m = shape
    a, b = rng.standard_normal((n, k)).astype(dtype), rng.standard_normal((k, m)).astype(dtype)
    if transposed:
        a, b = np.asfortranarray(a), np.asfortranarray(b)
    assert a.size * m >= products.LARGE
    found = products.matmul(a, b)
    assert found.dtype == dtype
    exact = a.astype(np.float64) @ b.astype(np.float64)
    np.testing.assert_allclose(
        found, exact, rtol=0, atol=(2e-4 if dtype == np.float32 else 1e-11) * np.abs(exact).max()
    )


def _child(queue: multiprocessing.Queue) -> None:
    a = np.ones((512, 512), np.float32)
    queue.put(float(products.matmul(a, a)[0, 0]))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python 3.12: a fork of a process with threads
def test_a_fork_multiplies_with_threads_of_its_own():
    a = np.ones((512, 512), np.float32)
    assert products.matmul(a, a)[0, 0] == 512  # the parent has its threads now
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_child, args=(queue,))
    child.start()
    try:
        assert queue.get(timeout=60) == 512
    finally:
        child.join(10)
        child.kill()
