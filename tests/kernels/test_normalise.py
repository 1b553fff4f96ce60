"""The normalise kernel against loops over sets, and where float32 is at its worst: large means, tiny sets."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from micrognm.kernels.normalise import cpu, reference

both = pytest.mark.parametrize("module", [reference, cpu], ids=["reference", "cpu"])


def sets(shape, groups, over_batch):
    """Which elements share statistics: for each set, its place in mean and the indices of its elements."""
    n, p, c = shape
    for i in range(1 if over_batch else n):
        for m in range(groups):
            members = [
                (k, r, j)
                for k in (range(n) if over_batch else [i])
                for r in range(p)
                for j in range(m * c // groups, (m + 1) * c // groups)
            ]
            yield (i, m), tuple(np.array(members).T)


def activated(z, slope, swish):
    return z / (1 + math.exp(-z)) if swish else z if z > 0 else slope * z


@both
@pytest.mark.parametrize(("slope", "swish"), [(1.0, False), (0.0, False), (0.3, False), (1.0, True)])
@pytest.mark.parametrize(
    ("shape", "groups", "over_batch"),
    [((3, 4, 6), 6, True), ((3, 4, 6), 6, False), ((2, 3, 6), 2, False), ((5, 1, 6), 1, False), ((5, 1, 6), 3, False)],
    ids=["batch", "instance", "group", "layer", "layer by groups"],
)
@pytest.mark.parametrize("own", [False, True], ids=["one scale", "own scales"])
def test_it_is_what_loops_over_the_sets_compute(module, shape, groups, over_batch, own, slope, swish, rng):
    x = 2 * rng.standard_normal(shape) + 1
    scale, shift = rng.standard_normal((2, shape[0] if own else 1, shape[2]))
    y, mean, low, var = module.forward(x, scale, shift, groups, over_batch, True, 1e-3, slope, swish)
    seen = np.zeros(shape, int)
    for at, members in sets(shape, groups, over_batch):
        values = x[members].tolist()
        seen[members] += 1
        assert mean[at] == pytest.approx(statistics.fmean(values), rel=1e-12) and low[at] == 0
        assert var[at] == pytest.approx(statistics.pvariance(values), rel=1e-12)
        for i, r, j in zip(*members, strict=True):
            z = (x[i, r, j] - mean[at]) / math.sqrt(var[at] + 1e-3) * scale[i if own else 0, j] + shift[
                i if own else 0, j
            ]
            assert y[i, r, j] == pytest.approx(activated(z, slope, swish), rel=1e-11, abs=1e-12)
    assert (seen == 1).all()
    off = module.forward(x, scale, shift, groups, over_batch, False, 1e-3, slope, swish)
    for at, members in sets(shape, groups, over_batch):
        assert off[1][at] == 0 and off[3][at] == pytest.approx(statistics.fmean(v * v for v in x[members]), rel=1e-12)


@pytest.mark.parametrize("offset", [0.0, 1e2, 1e4])
@pytest.mark.parametrize(
    ("shape", "groups", "over_batch"),
    [((8, 500, 16), 16, True), ((8, 500, 16), 16, False), ((8, 500, 16), 4, False), ((100, 1, 512), 1, False)],
    ids=["batch", "instance", "group", "layer"],
)
def test_a_large_mean_costs_no_digits(shape, groups, over_batch, offset, rng):
    """The mean 10,000 deviations away: y and dx are as exact as without it. E[x^2] - E[x]^2 would have none left."""
    x = (rng.standard_normal(shape) + offset).astype(np.float32)
    g = rng.standard_normal(shape).astype(np.float32)
    ones, zeros = np.ones((1, shape[2]), np.float32), np.zeros((1, shape[2]), np.float32)
    options = (groups, over_batch, True, 1e-5, 1.0, False)
    y, *statistics_ = cpu.forward(x, ones, zeros, *options)
    exact, *want = reference.forward(x.astype(np.float64), ones.astype(np.float64), zeros.astype(np.float64), *options)
    np.testing.assert_allclose(y, exact, rtol=0, atol=4e-6)
    np.testing.assert_allclose(statistics_[2], want[2], rtol=1e-5)
    nothing = np.zeros_like(statistics_[0])
    dx = cpu.backward(g, nothing, nothing, x, *statistics_, ones, zeros, *options[2:])[0]
    wide = [a.astype(np.float64) for a in (g, nothing, nothing, x)]
    exact = reference.backward(*wide, *want, ones.astype(np.float64), zeros.astype(np.float64), *options[2:])[0]
    np.testing.assert_allclose(dx, exact, rtol=0, atol=1e-5)


@both
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [1, 2])
def test_sets_of_one_or_two_elements(module, dtype, count, rng):
    """One element is its own mean: y is the shift, and no gradient passes. Two give plus and minus one."""
    x = rng.standard_normal((3, count, 4)).astype(dtype)
    scale, shift = rng.standard_normal((2, 1, 4)).astype(dtype)
    y, *found = module.forward(x, scale, shift, 4, False, True, 1e-5, 1.0, False)
    signs = np.sign(x - x.mean(1, keepdims=True)) if count > 1 else np.zeros_like(x)
    np.testing.assert_allclose(y, signs * scale + shift, atol=0.1)
    g, nothing = rng.standard_normal(x.shape).astype(dtype), np.zeros_like(found[0])
    dx, _, dshift = module.backward(g, nothing, nothing, x, *found, scale, shift, True, 1e-5, 1.0, False)
    if count == 1:
        np.testing.assert_allclose(dx, 0, atol=3e3 * np.finfo(dtype).eps)  # 1 / sqrt(eps) is 316
    np.testing.assert_allclose(dshift, g.sum((0, 1))[None], rtol=1e-5, atol=1e-6)


def test_nan_stays_in_its_set(rng):
    x = rng.standard_normal((3, 4, 2)).astype(np.float32)
    x[1, 2, 0] = np.nan
    ones = np.ones((1, 2), np.float32)
    for slope, swish in ((1.0, False), (0.0, False), (1.0, True)):
        y = cpu.forward(x, ones, 0 * ones, 2, False, True, 1e-5, slope, swish)[0]
        assert np.isnan(y).all(1).tolist() == [[False, False], [True, False], [False, False]]
        assert np.isnan(y).sum() == 4


@pytest.mark.parametrize("own", [False, True], ids=["one scale", "own scales"])
@pytest.mark.parametrize(("slope", "swish"), [(0.3, False), (1.0, True)], ids=["leaky", "swish"])
@pytest.mark.parametrize(
    ("shape", "groups", "over_batch"),
    [((3, 5000, 8), 8, True), ((3, 5000, 8), 8, False), ((5000, 1, 8), 2, False)],
    ids=["batch", "instance", "layer"],
)
def test_workers_share_the_parts_and_change_nothing(shape, groups, over_batch, own, slope, swish, monkeypatch, rng):
    x, g = rng.standard_normal((2, *shape)) + 0.1
    scale, shift = rng.standard_normal((2, shape[0] if own else 1, shape[2]))
    options = (True, 1e-5, slope, swish)

    def everything(module):
        y, *found = module.forward(x, scale, shift, groups, over_batch, *options)
        back = module.backward(g, *found[::2], x, *found, scale, shift, *options)  # any gradients to the statistics
        rest = [module.scale_shift(x, scale, shift, slope, swish)]
        return [y, *found, *back, *rest, *module.scale_shift_backward(g, x, scale, shift, slope, swish)]

    results = []
    for workers in (1, 2, 3):
        monkeypatch.setattr(cpu, "threads", lambda work, workers=workers: workers)
        results.append(everything(cpu))
    for first, *others, exact in zip(*results, everything(reference), strict=True):
        assert all((first == other).all() for other in others)
        np.testing.assert_allclose(first, exact, rtol=0, atol=1e-11 * max(abs(exact).max(), 1))
