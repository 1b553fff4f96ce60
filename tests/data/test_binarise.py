from typing import Any

import numpy as np
import pytest

from micrognm.data import dynamic, threshold


def test_threshold():
    found = threshold(np.array([[0, 7, 8, 16]], np.uint8), 8)
    assert found.dtype == np.float32 and found.tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize(
    ("levels", "dtype"), [(2, np.uint8), (17, np.uint8), (256, np.uint8), (256, np.int64), (1000, np.int16)]
)
def test_dynamic_frequency_of_every_level(levels, dtype):
    """Each level's frequency within 5 standard deviations of x / (levels - 1); the two ends are certain."""
    draws = 40_000
    x = np.arange(levels, dtype=dtype)
    rng = np.random.default_rng(3)
    ones = sum(dynamic(np.broadcast_to(x, (1000, levels)), levels, rng).sum(0) for _ in range(draws // 1000))
    p = np.arange(levels) / (levels - 1)
    assert (np.abs(ones - draws * p) <= 5 * np.sqrt(draws * p * (1 - p))).all()


def test_dynamic_pixels_are_independent():
    """Two pixels, and one pixel at two calls, agree half of the time when each is 1 half of the time."""
    rng = np.random.default_rng(4)
    images = np.full((20_000, 2), 1, np.uint8)
    a, b = dynamic(images, 3, rng), dynamic(images, 3, rng)
    for left, right in ((a[:, 0], a[:, 1]), (a, b)):
        assert abs((left == right).mean() - 0.5) < 5 * 0.5 / np.sqrt(left.size)


def test_dynamic_is_redrawn_and_reproducible():
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1), dtype=np.uint8)
    before = images.copy()
    a, b = np.random.default_rng(1), np.random.default_rng(1)
    first, second = dynamic(images, 256, a), dynamic(images, 256, a)
    assert first.dtype == np.float32 and first.shape == images.shape and set(np.unique(first)) == {0, 1}
    assert (first != second).any()
    np.testing.assert_array_equal(first, dynamic(images.astype(np.int64), 256, b))  # whatever the dtype
    np.testing.assert_array_equal(second, dynamic(images, 256, b))
    np.testing.assert_array_equal(images, before)
    assert dynamic(images[:0], 256, a).shape == (0, 28, 28, 1)


def test_bad_input_raises():
    rng = np.random.default_rng(0)
    scaled: Any = np.zeros(3, np.float32)
    with pytest.raises(TypeError, match=r"dynamic: images must hold whole numbers.*float32"):
        dynamic(scaled, 256, rng)
    with pytest.raises(TypeError, match=r"threshold: images must hold whole numbers.*float32"):
        threshold(scaled, 8)
    with pytest.raises(ValueError, match="dynamic: pixels must be 0 to 16 for levels=17, not 3 to 17"):
        dynamic(np.array([3, 17], np.uint8), 17, rng)
    with pytest.raises(ValueError, match="not -1 to 3"):
        dynamic(np.array([3, -1]), 17, rng)
    with pytest.raises(ValueError, match="levels must be 2 or more, not 1"):
        dynamic(np.zeros(3, np.uint8), 1, rng)
