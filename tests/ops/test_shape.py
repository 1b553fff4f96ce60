"""What the operations that move elements refuse, and what they keep."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micrognm import Tensor, check, grad, ops
from tests.strategies import generators, shapes


def filled(*shape):
    return Tensor(np.arange(float(np.prod(shape))).reshape(shape), requires_grad=True)


def test_views_are_not_copies():
    x = filled(4, 6)
    for view in (
        x.reshape(shape=(6, 4)), x.transpose(), x[1:3], ops.flip(x, axis=0),
        ops.broadcast_to(x, shape=(2, 4, 6)), ops.swap(x)
    ):  # fmt: skip
        assert np.shares_memory(view.numpy(), x.numpy())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x: x.reshape(shape=(4, 2)),
            r"reshape\(x: float64\[2, 3\]\): cannot reshape array of size 6 .*The rule: .*same size",
        ),
        (lambda x: x.reshape(shape=(-1, -1)), r"reshape\(x: float64\[2, 3\]\): .*The rule: .*one entry may be -1"),
        (lambda x: ops.broadcast_to(x, shape=(3, 2)), r"broadcast_to\(x: float64\[2, 3\]\): .*The rule: .*equal or 1"),
        (
            lambda x: ops.concat(x, filled(2, 4), axis=0),
            r"concat\(xs\[0\]: float64\[2, 3\], xs\[1\]: float64\[2, 4\]\): .*all other",
        ),
        (lambda x: ops.concat(x, x, axis=2), r"concat\(.*axis 2 is out of bounds"),
        (lambda x: ops.concat(axis=0), r"concat\(\): need at least one array"),
        (
            lambda x: ops.stack(x, filled(3, 2)),
            r"stack\(xs\[0\]: float64\[2, 3\], xs\[1\]: float64\[3, 2\]\): .*all of one shape",
        ),
        (
            lambda x: ops.pad(x, widths=((1, 1),)),
            r"pad\(x: float64\[2, 3\]\): widths \(\(1, 1\),\) must be 2 pairs of numbers >= 0",
        ),
        (lambda x: ops.pad(x, widths=((0, 0), (0, -1))), r"pad\(.* must be 2 pairs of numbers >= 0"),
        (lambda x: ops.flip(x, axis=2), r"flip\(x: float64\[2, 3\]\): axis 2 is out of bounds"),
        (lambda x: ops.roll(x, shift=1, axis=-3), r"roll\(x: float64\[2, 3\]\): axis -3 is out of bounds"),
        (
            lambda x: ops.split(x, (1, 1)),
            r"split: sizes \[1, 1\] must be at least 0 and add up to 3, the length of axis 1",
        ),
        (lambda x: ops.split(x, (4, -1)), r"split: sizes \[4, -1\] must be at least 0 and add up to 3"),
        (lambda x: ops.split(x, (1, 1), axis=2), "split: axis 2 is out of bounds for array of dimension 2"),
        (lambda x: ops.split(filled(), (1,)), "split: axis -1 is out of bounds for array of dimension 0"),
        (
            lambda x: ops.transpose(x, (0, 0)),
            r"transpose: axes \[0, 0\] is not a permutation of the 2 axes of \[2, 3\]",
        ),
        (lambda x: ops.transpose(x, (1,)), r"transpose: axes \[1\] is not a permutation"),
        (lambda x: ops.transpose(x, (3, 2)), r"transpose: axes \[3, 2\] is not a permutation"),
        (lambda x: ops.transpose(filled(), (0,)), r"transpose: axes \[0\] is not a permutation of the 0 axes of \[\]"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(filled(2, 3))


@settings(max_examples=20)
@given(data=st.data(), rng=generators(), shape=shapes(min_dims=1))
def test_parts_join_to_the_whole(data, rng, shape):
    x = Tensor(rng.standard_normal(shape), requires_grad=True)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    cut = data.draw(st.integers(0, shape[axis]))
    parts = ops.split(x, (cut, shape[axis] - cut), axis=axis)
    again = ops.concat(*parts, axis=axis)
    np.testing.assert_array_equal(again.numpy(), x.numpy())
    cotangent = rng.standard_normal(shape)
    np.testing.assert_array_equal(grad(again, x, Tensor(cotangent)).numpy(), cotangent)


@pytest.mark.parametrize("axes", [(1, 2, 0), (2, 0, 1), (3, 1, 0, 2)])
def test_the_gradient_of_a_cycle_of_axes(axes, rng):
    check(lambda x: ops.transpose(x, axes), (2, 3, 4, 5)[: len(axes)], rng=rng)


@pytest.mark.parametrize(("shift", "axis"), [(1, 0), (-2, 1), ((1, 3), (0, 1)), (7, None)])
def test_the_gradient_of_roll_rolls_back(shift, axis, rng):
    check(lambda x: ops.roll(x, shift=shift, axis=axis), (4, 5), rng=rng)


def test_negative_axes_permute_too():
    x = filled(2, 3, 4)
    assert ops.transpose(x, (-1, 0, 1)).shape == (4, 2, 3)
    assert grad(ops.transpose(x, (-1, 0, 1)).sum(), x).shape == (2, 3, 4)


def test_joined_constants_need_no_gradient():
    x = filled(2)
    y = ops.concat(x, np.array([5.0]), stop := Tensor(np.array([6.0])), axis=0)
    assert y.numpy().tolist() == [0, 1, 5, 6] and stop.node is None
    assert grad(y, x, Tensor(np.array([1.0, 2.0, 3.0, 4.0]))).numpy().tolist() == [1, 2]
