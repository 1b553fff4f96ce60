"""The counter-based generator: the published vectors, what its numbers depend on, and how they are distributed."""

from __future__ import annotations

import math
import shutil

import numba
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from micrognm.kernels.rng import cpu, gpu, reference

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ (apt-get install g++)")
MODULES = [reference, cpu, pytest.param(gpu, marks=needs_compiler)]
LIKE = np.zeros(1, np.float32)
KEY = 0x0123456789ABCDEF

# Random123's kat_vectors for philox4x32, 10 rounds: counter, key, result.
PUBLISHED = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "want"), PUBLISHED)
def test_the_reference_gives_the_published_words(counter, key, want):
    words = reference.philox(tuple(np.array([c], np.uint64) for c in counter), key)
    assert tuple(int(word[0]) for word in words) == want


def by_hand(n, key):
    """uniform(n, key), one element at a time, in Python's integers."""
    out = []
    for i in range(n):
        block, word, lane = i // 1024, i % 1024 // 256, i % 256
        counter = block * 256 + lane
        c = [counter % 2**32, counter >> 32, 0, 0]
        k = [key % 2**32, key >> 32]
        for _ in range(10):
            p, q = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
            c = [(q >> 32) ^ c[1] ^ k[0], q % 2**32, (p >> 32) ^ c[3] ^ k[1], p % 2**32]
            k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
        out.append((c[word] >> 8) * 2.0**-24)
    return out


@pytest.mark.parametrize("module", MODULES)
def test_uniform_element_by_element(module):
    assert module.uniform(LIKE, 2500, KEY).tolist() == by_hand(2500, KEY)
    # Key 0 and counter 0: the first words published are elements 0, 256, 512, 768.
    first = module.uniform(LIKE, 1024, 0)[::256]
    assert [int(u * 2**24) for u in first] == [word >> 8 for word in PUBLISHED[0][2]]


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("name", ["uniform", "normal"])
def test_more_numbers_begin_with_the_same(module, name):
    many = getattr(module, name)(LIKE, 40_000, KEY)
    for n in (0, 1, 300, 1024, 16_385):
        np.testing.assert_array_equal(getattr(module, name)(LIKE, n, KEY), many[:n])


@pytest.mark.parametrize("module", [reference, cpu])
def test_float64_holds_the_same_uniform_numbers_and_closer_normal_ones(module):
    like = np.zeros(1)
    np.testing.assert_array_equal(module.uniform(like, 5000, KEY), module.uniform(LIKE, 5000, KEY))
    np.testing.assert_allclose(module.normal(LIKE, 5000, KEY), module.normal(like, 5000, KEY), rtol=2e-6, atol=2e-7)
    np.testing.assert_allclose(
        module.normal(like, 5000, KEY), reference.normal(like, 5000, KEY), rtol=1e-13, atol=1e-15
    )
    assert module.uniform(like, 3, KEY).dtype == module.normal(like, 3, KEY).dtype == np.float64


@pytest.mark.parametrize("module", MODULES)
def test_normal_is_box_and_muller_of_the_uniform_numbers(module):
    u = reference.uniform(np.zeros(1), 2048, KEY).reshape(2, 2, 2, 256)  # block, pair, radius or angle, lane
    radius, angle = np.sqrt(-2 * np.log(u[:, :, 0] + 2.0**-24)), 2 * math.pi * u[:, :, 1]
    want = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=2).reshape(-1)
    np.testing.assert_allclose(module.normal(LIKE, 2048, KEY), want, rtol=2e-6, atol=5e-7)


@pytest.mark.parametrize("module", MODULES)
@given(rate=st.sampled_from([0.0, 0.1, 1 / 3, 0.5, 0.9, 1 - 2**-24]), key=st.integers(0, 2**64 - 1))
def test_dropout_drops_where_uniform_is_below_the_rate(module, rate, key):
    x = np.linspace(-3, 5, 1500, dtype=np.float32).reshape(3, 500)
    kept = reference.uniform(np.zeros(1), 1500, key).reshape(3, 500) >= rate
    y = module.dropout(x, rate, key)
    np.testing.assert_array_equal(y != 0, kept & (x != 0))
    np.testing.assert_array_equal(y[kept], x[kept] * np.float32(1 / (1 - rate)))


@pytest.mark.parametrize("module", MODULES)
def test_dropout_keeps_an_element_whose_number_is_the_rate(module):
    """And drops it where the rate is less than one step of the numbers above."""
    u = reference.uniform(np.zeros(1), 300, KEY)
    for i in (0, 7, 299):
        assert module.dropout(np.ones(300, np.float32), float(u[i]), KEY)[i] != 0
        assert module.dropout(np.ones(300, np.float32), float(u[i]) + 2.0**-25, KEY)[i] == 0


@pytest.mark.parametrize("module", MODULES)
def test_what_is_dropped_is_zero_whatever_it_was(module):
    x = np.full(400, np.nan, np.float32)
    x[::2] = np.inf
    y = module.dropout(x, 0.5, KEY)
    kept = reference.uniform(LIKE, 400, KEY) >= 0.5
    assert (y[~kept] == 0).all() and not np.isfinite(y[kept]).any()


def test_keys_near_and_far_give_other_numbers():
    seen = [reference.uniform(LIKE, 1024, key) for key in (0, 1, 2**32, 2**63, 2**64 - 1)]
    for i, a in enumerate(seen):
        for b in seen[:i]:
            assert (a == b).sum() <= 2 and abs(np.corrcoef(a, b)[0, 1]) < 0.15


def test_beyond_two_to_the_32_lanes_the_counter_goes_on():
    """The high half of the counter counts: block 2^24 has counters from 2^32."""
    words = np.empty(1024, np.int32)
    cpu._words(2**24, np.uint64(7), np.uint64(9), words)
    want = reference.philox(tuple(np.array([c], np.uint64) for c in (5, 1, 0, 0)), (7, 9))
    assert words[5::256].tolist() == [int(word[0]) >> 8 for word in want]


def test_distributions_and_independence():
    """Kolmogorov and Smirnov, moments, and correlations at the distances that the layout could leave marks at."""
    n = 1 << 20
    for key in (0, KEY):
        u, z = cpu.uniform(LIKE, n, key).astype(np.float64), cpu.normal(LIKE, n, key).astype(np.float64)
        assert scipy.stats.kstest(u, "uniform").pvalue > 1e-4 and scipy.stats.kstest(z, "norm").pvalue > 1e-4
        counts = np.bincount((u * 256).astype(int), minlength=256)
        assert scipy.stats.chisquare(counts).pvalue > 1e-4
        for power, moment, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
            assert abs((z**power).mean() - moment) < 5 * math.sqrt(spread / n)
        for x in (u - 0.5, z, z * z - 1):
            for apart in (1, 2, 255, 256, 512, 1024):
                assert abs((x[apart:] * x[:-apart]).mean() / x.var()) < 5 / math.sqrt(n)


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads, NUMBA_NUM_THREADS=2")
def test_any_number_of_threads_draws_the_same():
    x = np.linspace(-3, 5, 100_000, dtype=np.float32)
    seen = []
    for threads in (1, 2):
        numba.set_num_threads(threads)
        seen.append([cpu.uniform(LIKE, 100_000, KEY), cpu.normal(LIKE, 100_000, KEY), cpu.dropout(x, 0.3, KEY)])
    for one, two in zip(*seen, strict=True):
        np.testing.assert_array_equal(one, two)
