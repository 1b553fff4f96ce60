"""The reference of attention against loops over single rows, and the memory of the streaming kernel."""

import math
import tracemalloc

import numpy as np
import pytest
from micrognm.kernels.attention import cpu, reference

from micrognm import backend


def by_rows(q, k, v, keys, scale, reach):
    """Row by row, in Python's own numbers."""
    images, length, heads, d = q.shape
    m, e = v.shape[1], v.shape[3]
    out, lse = np.zeros((images, length, heads, e)), np.zeros((images, length, heads))
    for n in range(images):
        for h in range(heads):
            for i in range(length):
                read = [j for j in range(m) if j < i + reach and (keys is None or keys[n, j])]
                scores = [scale * math.fsum(q[n, i, h, x] * k[n, j, h, x] for x in range(d)) for j in read]
                if not read:
                    continue
                top = max(scores)
                weights = [math.exp(s - top) for s in scores]
                lse[n, i, h] = top + math.log(math.fsum(weights))
                for x in range(e):
                    terms = [w * v[n, j, h, x] for w, j in zip(weights, read, strict=True)]
                    out[n, i, h, x] = math.fsum(terms) / math.fsum(weights)
    return out, lse


@pytest.mark.parametrize("reach", [7, 1, 0])
@pytest.mark.parametrize("padded", [False, True])
def test_the_reference_is_softmax_row_by_row(reach, padded):
    rng = np.random.default_rng(3)
    q, k, v = rng.standard_normal((2, 6, 2, 3)), rng.standard_normal((2, 7, 2, 3)), rng.standard_normal((2, 7, 2, 5))
    keys = rng.random((2, 7)) < 0.5 if padded else None
    for found, wanted in zip(
        reference.forward(q, k, v, keys, 0.7, reach), by_rows(q, k, v, keys, 0.7, reach), strict=True
    ):
        np.testing.assert_allclose(found, wanted, atol=1e-14)


@pytest.mark.parametrize("reach", [7, 1, 0])
def test_the_reference_gradient_is_the_difference_quotient(reach):
    rng = np.random.default_rng(4)
    xs = [rng.standard_normal(s) for s in ((1, 6, 2, 3), (1, 7, 2, 3), (1, 7, 2, 5))]
    keys = rng.random((1, 7)) < 0.7
    g = rng.standard_normal((1, 6, 2, 5))
    out, lse = reference.forward(*xs, keys, 0.7, reach)
    for i, found in enumerate(reference.backward(g, *xs, out, lse, keys, 0.7, reach)):
        step = rng.standard_normal(xs[i].shape)
        ends = []
        for h in (1e-5, -1e-5):
            moved = [x + h * step if j == i else x for j, x in enumerate(xs)]
            ends.append((g * reference.forward(*moved, keys, 0.7, reach)[0]).sum())
        np.testing.assert_allclose((found * step).sum(), (ends[0] - ends[1]) / 2e-5, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("module", [reference, cpu])
def test_a_constant_added_to_all_scores_changes_only_the_logsumexp(module):
    rng = np.random.default_rng(5)
    q, k, v = (rng.standard_normal((1, 70, 1, 4)) for _ in range(3))
    q[..., 0] = 1
    out, lse = module.forward(q, k, v, None, 1.0, 1)
    k[..., 0] += 600  # e^600 is infinite in float32, and e^-600 is 0
    moved, higher = module.forward(q, k, v, None, 1.0, 1)
    np.testing.assert_allclose(moved, out, atol=1e-10)
    np.testing.assert_allclose(higher, lse + 600)


def test_large_scores_overflow_nothing():
    q = np.full((1, 130, 1, 2), 1e4, np.float32)
    k = np.linspace(-1, 1, 260, dtype=np.float32).reshape(1, 130, 1, 2) * np.float32(1e4)
    out, lse = cpu.forward(q, k, k, None, 1.0, 130)
    np.testing.assert_allclose(out, np.broadcast_to(k[:, -1:], out.shape))  # the largest score takes all
    for x in cpu.backward(out, q, k, k, out, lse, None, 1.0, 130):
        assert np.isfinite(x).all()


def test_nan_is_passed_on_to_the_rows_that_read_it():
    rng = np.random.default_rng(6)
    q, k, v = (rng.standard_normal((1, 100, 1, 4)).astype(np.float32) for _ in range(3))
    k[0, 70] = np.nan
    out, _ = cpu.forward(q, k, v, None, 0.5, 1)
    np.testing.assert_array_equal(np.isnan(out[0, :, 0]).all(axis=1), np.arange(100) >= 70)
    assert not np.isnan(out[0, :70]).any()


def peak(length):
    """Bytes that forward and backward allocate at most, beyond inputs."""
    q = np.ones((1, length, 1, 16), np.float32)
    tracemalloc.start()
    out, lse = cpu.forward(q, q, q, None, 0.25, 0)
    cpu.backward(q, q, q, q, out, lse, None, 0.25, 0)
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return used


def test_memory_is_linear_in_length():
    peak(2048)  # compiles
    short, long = peak(2048), peak(8192)
    assert long <= 4 * short
    assert long < 8192 * 8192  # a quarter of one matrix of scores


def test_the_kernel_is_found_by_name():
    assert backend.kernel("attention", np.zeros(1)) is cpu
