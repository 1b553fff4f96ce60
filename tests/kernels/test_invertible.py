"""The invertible kernel against loops over pixels, and its laws: inverses, determinants of whole Jacobians, sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
from micrognm.kernels.invertible import cpu, reference

both = pytest.mark.parametrize("module", [reference, cpu], ids=["reference", "cpu"])
either = pytest.mark.parametrize("sigmoid", [False, True], ids=["exp", "sigmoid"])


def step(rng, lead=(2, 3), c=5):
    return rng.standard_normal((*lead, c)), rng.standard_normal((c, c)), *rng.standard_normal((2, c))


@both
def test_the_step_is_what_loops_over_pixels_compute(module, rng):
    x, weight, scale, shift = step(rng)
    want = np.zeros_like(x)
    for at in np.ndindex(x.shape[:-1]):
        for j in range(5):
            want[(*at, j)] = math.fsum((scale[i] * x[(*at, i)] + shift[i]) * weight[i, j] for i in range(5))
    np.testing.assert_allclose(module.forward(x, weight, scale, shift), want, rtol=0, atol=1e-13)


@both
def test_the_gradients_of_a_step_are_differences_of_its_output(module, rng):
    args = step(rng)
    g, h = rng.standard_normal(args[0].shape), 1e-6
    for i, gradient in enumerate(module.backward(g, *args)):
        for at in [tuple(rng.integers(0, n) for n in args[i].shape) for _ in range(5)]:
            ends = []
            for way in (h, -h):
                moved = [a.copy() for a in args]
                moved[i][at] += way
                ends.append(math.fsum((g * module.forward(*moved)).ravel()))
            assert gradient[at] == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-6, abs=1e-7)


def couple(x, h, t, sigmoid):
    """One number: Real NVP's equation 7, or what Glow's code computes, by the C library."""
    if not sigmoid:
        return x * math.exp(h) + t, h
    s = 1 / (1 + math.exp(-(h + 2)))
    return (x + t) * s, math.log(s)


@both
@either
def test_the_coupling_is_what_a_loop_computes(module, sigmoid, rng):
    x, h, t = 3 * rng.standard_normal((3, 2, 4, 3))
    y, logdet = module.coupling(x, h, t, sigmoid)
    want = np.vectorize(lambda *a: couple(*a, sigmoid))(x, h, t)
    np.testing.assert_allclose(y, want[0], rtol=1e-13)
    np.testing.assert_allclose(logdet, [math.fsum(each.ravel()) for each in want[1]], rtol=1e-13)
    back, minus = module.coupling_inverse(y, h, t, sigmoid)
    np.testing.assert_allclose(back, x, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(minus, -logdet, rtol=1e-13)


@both
@either
def test_a_scale_far_from_one_neither_overflows_nor_loses_the_logarithm(module, sigmoid):
    """The logarithm of sigmoid(-60) is -60, and of sigmoid(60) is -e^-60, though 1 + e^-60 rounds to 1."""
    x, t = np.zeros((2, 2, 1))
    h = np.array([[-62.0], [58.0]])
    y, logdet = module.coupling(x, h, t, sigmoid)
    assert np.isfinite(y).all()
    np.testing.assert_allclose(logdet, [-60, -math.exp(-60)] if sigmoid else [-62, 58], rtol=1e-12)


@pytest.mark.parametrize("size", [1, 8191, 8192, 8193, 1 << 17])
def test_log_determinants_are_summed_as_exactly_as_float32_can(size, rng):
    """Numbers around 1,000 that cancel: the error is a few units of the largest part's sum, not of size numbers."""
    h = (1000 * rng.standard_normal((2, size))).astype(np.float32)
    zeros = np.zeros_like(h)
    got = cpu.coupling_inverse(zeros, np.abs(h), zeros, False)[1]
    want = np.array([-math.fsum(np.abs(row).tolist()) for row in h])
    # a lane adds a part's 8192 numbers over WIDTH or more, and parts are added in float64
    np.testing.assert_allclose(got, want, rtol=2e-5 if size > 8 else 1e-7)
    small = cpu.coupling(zeros, np.full_like(h, 1e-3), zeros, False)[1]
    np.testing.assert_allclose(small, size * float(np.float32(1e-3)), rtol=1e-5)


@either
def test_nan_stays_in_its_sample(sigmoid, rng):
    x, h, t = rng.standard_normal((3, 3, 5)).astype(np.float32)
    h[1, 2] = np.nan
    y, logdet = cpu.coupling(x, h, t, sigmoid)
    assert np.isnan(logdet).tolist() == [False, True, False] and np.isnan(y).sum() == 1


@either
def test_workers_share_the_parts_and_change_nothing(sigmoid, monkeypatch, rng):
    x, h, t, g = rng.standard_normal((4, 3, 2 * cpu.PART + 5))
    slope = rng.standard_normal(3)

    def everything(module):
        inverse = module.coupling_inverse(x, h, t, sigmoid)
        return [*module.coupling(x, h, t, sigmoid), *inverse, *module.coupling_backward(g, slope, x, h, t, sigmoid)]

    results = []
    for workers in (1, 2, 3):
        monkeypatch.setattr(cpu, "threads", lambda work, workers=workers: workers)
        results.append(everything(cpu))
    for first, *others, exact in zip(*results, everything(reference), strict=True):
        assert all((first == other).all() for other in others)
        np.testing.assert_allclose(first, exact, rtol=1e-11, atol=1e-10)


@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("function", ["coupling", "coupling_inverse"])
def test_a_sum_does_not_depend_on_where_the_arrays_lie(function, sigmoid, rng):
    """Compiled loops that write have a second version for arrays that overlap, or lie close enough to be taken so."""
    x, h, t = (rng.standard_normal((1, 8191)).astype(np.float32) for _ in range(3))
    found = set()
    for i in range(60):
        kept = [np.empty(8191 + i % 7, np.float32) for _ in range(i % 3)]  # moves what comes after
        found.add(float(getattr(cpu, function)(x.copy(), h.copy(), t.copy(), sigmoid)[1][0]))
        del kept
    assert len(found) == 1
