"""Indexing: what is picked, what adds up, what is out of range."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micrognm import Tensor, backend, check, grad, ops
from tests.ops.cases import CASES
from tests.strategies import generators


def filled(*shape):
    return Tensor(np.arange(float(np.prod(shape))).reshape(shape), requires_grad=True)


def test_repeated_indices_add_up():
    x = filled(3)
    y = x[np.array([0, 2, 2, -1])]
    assert grad(y, x, Tensor(np.array([1.0, 2.0, 4.0, 8.0]))).numpy().tolist() == [1, 0, 14]
    z = filled(2, 3)
    picked = z[np.array([1, 1]), :, None]
    assert picked.shape == (2, 3, 1)
    assert grad(picked.sum(), z).numpy().tolist() == [[0, 0, 0], [2, 2, 2]]


@pytest.mark.parametrize(
    ("index", "plain"),
    [
        (Tensor([2, 0]), np.array([2, 0])), ([2, 0], np.array([2, 0])), ([], np.array([], int)), (np.int64(1), 1),
        (Tensor(1), 1), ((Tensor([0, 1]), slice(None)), (np.array([0, 1]), slice(None))), ((..., [1]), (..., [1])),
        (Tensor([True, False, True]), np.array([True, False, True])), ([True, False, True], [True, False, True]),
        ((), ()), (True, True), (np.array(2), 2), ((None, ..., -1), (None, ..., -1)), (np.zeros((3, 4), bool),) * 2,
    ],
    ids=repr,
)  # fmt: skip
def test_every_kind_of_index(index, plain):
    x = filled(3, 4)
    y = x[index]
    np.testing.assert_array_equal(y.numpy(), x.numpy()[plain])
    check(lambda x: x[index] * x[index], (3, 4))


@settings(max_examples=30)
@given(data=st.data(), rng=generators())
def test_picking_and_putting_are_adjoint(data, rng):
    """<x[i], v> = <x, scatter_add(v, i)>"""
    (case,) = [case for case in CASES if case.name == "scatter_add"]
    (shape,), options = data.draw(case.inputs)
    x, v = Tensor(rng.standard_normal(options["shape"])), Tensor(rng.standard_normal(shape))
    there = (x[options["index"]] * v).sum().item()
    back = (x * ops.scatter_add(v, **options)).sum().item()
    assert math.isclose(there, back, abs_tol=1e-12)


@pytest.mark.parametrize("index", [3, -4, np.array([0, 3]), [0, -4], (0, 4), Tensor(5)], ids=repr)
def test_out_of_range(index):
    with pytest.raises(
        IndexError, match=r"getitem\(x: float64\[3, 4\]\): .*out of bounds.* The rule: .*every index within"
    ):
        filled(3, 4)[index]
    with pytest.raises(IndexError, match=r"scatter_add\(values: float64\[\]\): .*out of bounds"):
        ops.scatter_add(Tensor(np.array(1.0)), index, (3, 4))


def test_other_bad_indices():
    x = filled(3, 4)
    for index in ((0, 0, 0), np.array([True, False]), np.array([0.5]), "a", Tensor([1.0])):
        with pytest.raises(IndexError, match=r"getitem\(x: float64\[3, 4\]\): "):
            x[index]
    with pytest.raises(ValueError, match=r"scatter_add\(values: float64\[2\]\): .*The rule: "):
        ops.scatter_add(Tensor(np.ones(2)), slice(0, 3), (3,))


# ---- rows, which a kernel adds up ------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    rng=generators(),
    index_shape=st.sampled_from([(), (0,), (1,), (7,), (2, 3), (40,)]),
    rest=st.sampled_from([(), (0,), (1,), (5,), (2, 3)]),
    kind=st.sampled_from([np.int64, np.int8, np.uint8]),
)
def test_the_gradient_of_rows_adds_up(rng, index_shape, rest, kind):
    slots = 6
    index = np.asarray(rng.integers(0 if kind is np.uint8 else -slots, slots, index_shape), kind)
    x, v = Tensor(rng.standard_normal((slots, *rest)), requires_grad=True), rng.standard_normal((*index_shape, *rest))
    want = np.zeros((slots, *rest))
    for place in np.ndindex(*index_shape):
        want[int(index[place])] += v[place]
    np.testing.assert_allclose(grad(x[index], x, Tensor(v)).numpy(), want, rtol=0, atol=1e-14)
    np.testing.assert_allclose(ops.scatter_add(Tensor(v), index, (slots, *rest)).numpy(), want, rtol=0, atol=1e-14)
    check(lambda x: x[index] * x[index], x, rng=rng)


def test_rows_go_through_the_kernel(monkeypatch):
    """Not so what NumPy adds up itself: other axes, several arrays, slices."""
    calls = []
    kernel = backend.kernel
    monkeypatch.setattr(backend, "kernel", lambda name, x: calls.append(name) or kernel(name, x))
    x, rows = filled(3, 4), np.array([0, 0, 2])
    grad(x[rows].sum(), x)
    grad(x[Tensor(rows)].sum(), x)
    assert calls == ["scatter_add"] * 2
    for index in (slice(1), 2, (rows, rows), (slice(None), rows), np.array([True, False, True]), (rows, None)):
        grad(x[index].sum(), x)
    assert len(calls) == 2


def test_whole_numbers_add_up_too():
    y = ops.scatter_add(Tensor(np.array([1, 2, 4])), np.array([1, 1, 0]), (3,))
    assert y.numpy().tolist() == [4, 3, 0] and y.dtype == np.int64


def test_values_for_rows_repeat_where_they_are_one():
    v = Tensor(np.array([[1.0], [2.0]]), requires_grad=True)
    y = ops.scatter_add(v, np.array([2, 0]), (3, 2))
    assert y.numpy().tolist() == [[2, 2], [0, 0], [1, 1]]
    assert grad(y.sum(), v).numpy().tolist() == [[2], [2]]
    with pytest.raises(ValueError, match=r"scatter_add\(values: float64\[2\]\): .*The rule: "):
        ops.scatter_add(Tensor(np.ones(2)), np.array([0, 1, 1]), (3,))


# ---- along an axis ---------------------------------------------------------------------------------------------------


def test_take_along_axis_repeats_what_is_one():
    x = filled(2, 3)
    y = ops.take_along_axis(x, [[2, 2]], axis=1)
    assert y.numpy().tolist() == [[2, 2], [5, 5]]
    assert grad(y.sum(), x).numpy().tolist() == [[0, 0, 2], [0, 0, 2]]
    assert ops.take_along_axis(x, Tensor([[0], [1]]), axis=-1).numpy().tolist() == [[0], [4]]


def test_what_take_along_axis_refuses():
    x = filled(2, 3)
    with pytest.raises(ValueError, match=r"indices \[2\] must have the 2 axes of x \[2, 3\]"):
        ops.take_along_axis(x, [0, 1], axis=1)
    with pytest.raises(ValueError, match=r"indices \[3, 1\] must have .* along all but axis 1 its sizes or 1"):
        ops.take_along_axis(x, [[0], [1], [2]], axis=1)
    with pytest.raises(ValueError, match="take_along_axis: axis 2 is out of bounds for array of dimension 2"):
        ops.take_along_axis(x, [[0]], axis=2)
    with pytest.raises(IndexError, match=r"getitem\(x: float64\[2, 3\]\): index 3 is out of bounds"):
        ops.take_along_axis(x, [[3]], axis=1)


def test_one_hot():
    assert ops.one_hot([2, 0], 3).numpy().tolist() == [[0, 0, 1], [1, 0, 0]]
    assert ops.one_hot(1, 2).shape == (2,) and ops.one_hot((0, 1), 2).shape == (2, 2)
    assert ops.one_hot([0], 2).dtype == np.float32 and ops.one_hot([0], 2, dtype=np.float64).dtype == np.float64
    assert ops.one_hot(np.zeros((0, 2), int), 3).shape == (0, 2, 3)
    for bad in ([0, 3], [-1, 0]):
        with pytest.raises(
            IndexError, match=rf"one_hot: indices run from {min(bad)} to {max(bad)}, classes from 0 to 2"
        ):
            ops.one_hot(bad, 3)
    for wrong in ([0.5], [True], Tensor([1.0])):
        with pytest.raises(TypeError, match=r"one_hot: indices must be integers, got (float|bool)"):
            ops.one_hot(wrong, 3)


# ---- order -----------------------------------------------------------------------------------------------------------


def test_the_gradient_of_sort_follows_the_elements():
    x = Tensor(np.array([[3.0, 1.0, 2.0]]), requires_grad=True)
    assert grad(ops.sort(x), x, Tensor(np.array([[1.0, 2.0, 4.0]]))).numpy().tolist() == [[4, 1, 2]]


def test_top_k():
    x = Tensor(np.array([[1.0, 5.0, 5.0, -math.inf], [0.0, 0.0, 2.0, 2.0]]), requires_grad=True)
    values, indices = ops.top_k(x, 3)
    assert values.numpy().tolist() == [[5, 5, 1], [2, 2, 0]]
    assert indices.numpy().tolist() == [[1, 2, 0], [2, 3, 0]] and indices.dtype == np.int64
    assert grad(values, x, Tensor(np.array([[1.0, 2, 4], [1, 2, 4]]))).numpy().tolist() == [[4, 1, 2, 0], [4, 0, 1, 2]]
    for k in (0, 5, -1):
        with pytest.raises(ValueError, match=rf"top_k: k={k} is not within 1\.\.4, the length of axis 1"):
            ops.top_k(x, k)
    with pytest.raises(ValueError, match="top_k: axis 2 is out of bounds"):
        ops.top_k(x, 1, axis=2)
    with pytest.raises(ValueError, match="axis -1 is out of bounds for array of dimension 0"):
        ops.top_k(Tensor(1.0), 1)
    with pytest.raises(ValueError, match="out of bounds"):
        ops.sort(Tensor(1.0))
