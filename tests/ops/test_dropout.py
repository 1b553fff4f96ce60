"""The dropout operation: its gradient draws the same mask."""

from __future__ import annotations

import numpy as np
import pytest

import micrognm as mg
from micrognm import Tensor, backend, grad
from micrognm.ops.dropout import dropout


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9])
def test_gradients_of_every_order(rate):
    mg.check(lambda x: dropout(x, rate=rate, key=5), (7, 5))
    mg.check(lambda x: dropout(x, rate=rate, key=5) * x, (7, 5))


def test_the_gradient_is_dropped_where_the_value_is(rng):
    x = Tensor(rng.standard_normal((40, 50)).astype(np.float32), requires_grad=True)
    y = dropout(x, rate=0.4, key=backend.key(rng))
    g = rng.standard_normal((40, 50)).astype(np.float32)
    (dx,) = grad(y, [x], Tensor(g))
    kept = y.numpy() != 0
    assert 0.5 < kept.mean() < 0.7
    np.testing.assert_allclose(dx.numpy(), np.where(kept, g / 0.6, 0), rtol=1e-6)


def test_a_key_drops_the_same_elements_in_both_dtypes(rng):
    x = rng.uniform(1, 2, 3000)
    single, double = (dropout(Tensor(x.astype(t)), rate=0.2, key=9).numpy() for t in (np.float32, np.float64))
    assert (single.dtype, double.dtype) == (np.float32, np.float64)
    np.testing.assert_array_equal(single == 0, double == 0)


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_wrong_rates(rate):
    with pytest.raises(ValueError, match=r"dropout.*rate must lie in \[0, 1\), is"):
        dropout(Tensor(np.ones(3)), rate=rate, key=0)


@pytest.mark.parametrize("key", [-1, 2**64])
def test_wrong_keys(key):
    with pytest.raises(
        ValueError, match=r"dropout.*key must be an integer of \[0, 2\^64\), as backend\.key\(rng\) gives"
    ):
        dropout(Tensor(np.ones(3)), rate=0.5, key=key)
