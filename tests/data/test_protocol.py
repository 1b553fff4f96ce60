"""The protocols of likelihoods: their names, what a model sees, and the units."""

from __future__ import annotations

import math

import numpy as np
import pytest

from micrognm.data import Dataset, Split, protocol


def source(levels: int) -> Dataset:
    images = (np.arange(2 * 3 * 3 * 1) % levels).astype(np.uint8).reshape(2, 3, 3, 1)
    split = Split(images, np.zeros(2, np.int64))
    return Dataset("made-up", levels=levels, classes=("one",), train=split, valid=split, test=split)


def test_all_levels_are_whole_numbers_in_bits_per_dimension(rng):
    p = protocol(source(17), "all")
    assert (p.name, p.levels, p.metric) == ("made-up-17", 17, "bits_per_dim")
    x = p.read(source(17).train.images, rng)
    assert x.dtype == np.int64
    np.testing.assert_array_equal(x, source(17).train.images)
    assert p.report(9 * math.log(2)) == pytest.approx(1)  # nine pixels of one bit each


def test_few_levels_are_cut_at_the_middle(rng):
    p = protocol(source(17), "binary")
    assert (p.name, p.levels, p.metric) == ("made-up-binary", 2, "nats")
    np.testing.assert_array_equal(p.read(source(17).train.images, rng), source(17).train.images >= 8)
    assert p.report(3.5) == 3.5


def test_256_levels_are_binarised_anew_at_each_presentation(rng):
    p = protocol(source(256), "binary")
    assert (p.name, p.levels, p.metric) == ("made-up-dynamic", 2, "nats")
    first, second = (p.read(np.full((9, 8, 8, 1), 128, np.uint8), rng) for _ in range(2))
    assert set(np.unique(first)) == {0, 1} and (first != second).any()
    assert first.mean() == pytest.approx(128 / 255, abs=0.1)
