import json
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from micrognm.data import Batches


@given(n=st.integers(1, 40), size=st.integers(1, 45), seed=st.integers(0, 2**40), drop_last=st.booleans())
def test_each_epoch_visits_every_index_once(n, size, seed, drop_last):
    if drop_last and size > n:
        n, size = size, n
    batches = Batches(n, size, seed, drop_last)
    orders = []
    for epoch in range(3):
        assert batches.epoch == epoch and batches.step == epoch * len(batches)
        parts = list(islice(batches, len(batches)))
        assert all(part.dtype == np.int64 and part.ndim == 1 for part in parts)
        sizes = [size] * (n // size) + [n % size] * (n % size > 0 and not drop_last)
        assert [len(part) for part in parts] == sizes
        orders.append(np.concatenate(parts))
        assert set(orders[-1]) <= set(range(n)) and len(set(orders[-1])) == sum(sizes)
        expected = np.random.default_rng([seed, epoch]).permutation(n)[: sum(sizes)]
        np.testing.assert_array_equal(orders[-1], expected)
    if n >= 30 and not drop_last:  # the chance that two orders agree is below 1e-32
        assert (orders[0] != orders[1]).any() and (orders[1] != orders[2]).any()


@pytest.mark.parametrize("drop_last", [False, True])
def test_resume_at_every_position(drop_last):
    whole = Batches(10, 3, 7, drop_last)
    count = 3 * len(whole) + 1
    states, expected = [], []
    for step in range(count):
        assert whole.step == step and whole.epoch == step // len(whole)
        states.append(json.dumps(whole.state()))
        expected.append(next(whole))
    for step, state in enumerate(states):
        resumed = Batches(10, 3, 7, drop_last)
        for _ in range(step % 4):  # from wherever it stands, a cached order included
            next(resumed)
        resumed.load(json.loads(state))
        assert resumed.step == step and resumed.state() == json.loads(state)
        for batch, right in zip(resumed, expected[step:], strict=False):
            np.testing.assert_array_equal(batch, right)


def test_a_changed_batch_does_not_reach_the_order():
    batches, untouched = Batches(6, 2, 0), Batches(6, 2, 0)
    for _ in range(6):
        batch = next(batches)
        np.testing.assert_array_equal(batch, next(untouched))
        batch[:] = -1


def test_foreign_states_are_refused():
    state = Batches(10, 3, 7).state()
    for other, differ in (
        (Batches(11, 3, 7), r"n \(saved 10, here 11\)$"),
        (Batches(10, 4, 7), r"size \(saved 3, here 4\)$"),
        (Batches(10, 3, 8), r"seed \(saved 7, here 8\)$"),
        (Batches(10, 3, 7, drop_last=True), r"drop_last \(saved 0, here 1\)$"),
        (Batches(11, 3, 8), r"n \(saved 10, here 11\), seed \(saved 7, here 8\)$"),
    ):
        before = other.state()
        with pytest.raises(ValueError, match=differ):
            other.load(state)
        assert other.state() == before
    batches = Batches(10, 3, 7)
    fraction: Any = 1.5
    for change in ({"position": 4}, {"position": -1}, {"epoch": -1}):
        with pytest.raises(ValueError, match=r"expected epoch >= 0 and position in 0 \.\. 3, found"):
            batches.load({**state, **change})
    with pytest.raises(TypeError):
        batches.load({**state, "position": fraction})
    for damaged in ({**state, "more": 0}, {k: v for k, v in state.items() if k != "epoch"}):
        with pytest.raises(ValueError, match="expected the entries"):
            batches.load(damaged)


def test_bad_settings_raise():
    for args, message in (
        ((0, 1, 0), "n must be 1 or more, not 0"),
        ((1, 0, 0), "size must be 1 or more, not 0"),
        ((1, 1, -1), "seed must be 0 or more, not -1"),
        ((3, 4, 0, True), "no batch of size=4 can be made of n=3"),
    ):
        with pytest.raises(ValueError, match=message):
            Batches(*args)
    fraction: Any = 2.5
    with pytest.raises(TypeError):
        Batches(10, fraction, 0)
    assert [len(batch) for batch in islice(Batches(3, 4, 0), 2)] == [3, 3]
