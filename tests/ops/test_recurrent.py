"""Row LSTM and Diagonal BiLSTM as operations: gradients, what each pixel sees, messages."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from micrognm import Tensor, backend, grad, gradcheck, no_grad
from micrognm.ops import recurrent
from micrognm.ops.recurrent import diagonal_bilstm, lstm_cell, row_lstm

SHAPES = [(2, 3, 3), (1, 1, 4), (2, 3, 1), (1, 1, 1)]


def row_inputs(rng, n, height, width, h=2, k=3, per_column=False):
    state = (width, h) if per_column else (h,)
    return [rng.standard_normal(shape) for shape in ((n, height, width, 4 * h), (k, h, 4 * h), state, state)]


def diagonal_inputs(rng, n, height, width, h=2, per_row=False):
    state = (2, height, h) if per_row else (2, h)
    return [rng.standard_normal(shape) for shape in ((n, height, width, 8 * h), (2, 2, h, 4 * h), state, state)]


CASES = [
    pytest.param(f, draw, shape, lines, id=f"{f.__name__}-{'x'.join(map(str, shape))}{'-lines' if lines else ''}")
    for (f, draw), shape, lines in itertools.product(
        [(row_lstm, row_inputs), (diagonal_bilstm, diagonal_inputs)], SHAPES, [False, True]
    )
]


def inputs(draw, rng, shape, lines):
    return draw(rng, *shape, **{"per_column" if draw is row_inputs else "per_row": lines})


@pytest.mark.parametrize(("f", "draw", "shape", "lines"), CASES)
def test_gradients_are_right_to_order_2(f, draw, shape, lines, rng):
    gradcheck.check(f, *inputs(draw, rng, shape, lines), rng=rng)


@pytest.mark.parametrize(("f", "draw", "shape", "lines"), CASES)
def test_the_kernel_and_the_loop_of_operations_agree(f, draw, shape, lines, rng):
    composed = {row_lstm: recurrent._row_composed, diagonal_bilstm: recurrent._diagonal_composed}[f]
    xs = [Tensor(x, requires_grad=True) for x in inputs(draw, rng, shape, lines)]
    y, loop = f(*xs), composed(*xs)
    np.testing.assert_allclose(y.numpy(), loop.numpy(), rtol=1e-12, atol=1e-14)
    g = Tensor(rng.standard_normal(y.shape))
    fused, replayed, wanted = grad(y, xs, g), grad(f(*xs), xs, g, create_graph=True), grad(loop, xs, g)
    for one, two, three in zip(fused, replayed, wanted, strict=True):
        np.testing.assert_allclose(one.numpy(), three.numpy(), rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(two.numpy(), three.numpy(), rtol=1e-10, atol=1e-13)


def seen(f, xs, height, width):
    """[H, W, H, W]: whether output pixel (y, x) changes with the gates of pixel (v, u), by perturbation."""
    before = f(*xs).numpy()
    found = np.zeros((height, width, height, width), bool)
    for v, u in np.ndindex(height, width):
        moved = xs[0].copy()
        moved[:, v, u] += 1.0
        found[:, :, v, u] = (f(moved, *xs[1:]).numpy() != before).any(axis=(0, 3))
    return found


@pytest.mark.parametrize("k", [1, 3, 5])
def test_a_row_lstm_sees_a_triangle(k, rng):
    height, width = 5, 6
    found = seen(row_lstm, row_inputs(rng, 1, height, width, k=k), height, width)
    for y, x, v, u in np.ndindex(*found.shape):
        assert found[y, x, v, u] == (v <= y and abs(u - x) <= (y - v) * (k // 2))


def test_a_diagonal_bilstm_sees_all_above_and_left_and_nothing_else(rng):
    height, width = 5, 6
    found = seen(diagonal_bilstm, diagonal_inputs(rng, 1, height, width, h=4), height, width)
    for y, x, v, u in np.ndindex(*found.shape):
        assert found[y, x, v, u] == (v < y or (v == y and u <= x))


def test_the_second_scan_alone_is_one_row_late(rng):
    """With the first scan's gates so low that its cells stay closed, only what lies above, to the right, is seen."""
    height, width, h = 4, 4, 3
    gates, weight, h0, c0 = diagonal_inputs(rng, 1, height, width, h=h)
    gates[..., : 4 * h], weight[0], h0[0], c0[0] = -1e4, 0, 0, 0
    found = seen(diagonal_bilstm, [gates, weight, h0, c0], height, width)
    for y, x, v, u in np.ndindex(*found.shape):
        assert found[y, x, v, u] == (v < y and u >= x)


def test_initial_states_are_read_where_the_scan_begins(rng):
    gates, weight, h0, c0 = row_inputs(rng, 1, 3, 5, per_column=True)
    before = row_lstm(gates, weight, h0, c0).numpy()
    third = np.zeros((5, 1))
    third[2] = 1.0
    for moved, reach in (((h0 + third, c0), 1), ((h0, c0 + third), 0)):
        changed = (row_lstm(gates, weight, *moved).numpy() != before).any(axis=(0, 3))
        assert changed[0].tolist() == [abs(x - 2) <= reach for x in range(5)]
    gates, weight, h0, c0 = diagonal_inputs(rng, 1, 4, 3, per_row=True)
    before = diagonal_bilstm(gates, weight, h0, c0).numpy()
    h0[0, 2] += 1.0
    changed = (diagonal_bilstm(gates, weight, h0, c0).numpy() != before).any(axis=(0, 3))
    assert changed.tolist() == [[False] * 3, [False] * 3, [True] * 3, [True] * 3]


def test_cells_one_by_one_make_the_scan(rng):
    """What an incremental sampler does: each cell of both directions once, the second one row late."""
    n, height, width, h = 2, 4, 3, 2
    gates, weight, h0, c0 = map(Tensor, diagonal_inputs(rng, n, height, width, h=h))
    with no_grad():
        whole = diagonal_bilstm(gates, weight, h0, c0).numpy()
        flat = weight.reshape(shape=(2, 2 * h, 4 * h))
        zero = np.zeros((n, h))
        above = [[zero] * width, [zero] * width]
        for y in range(height):
            late = [above[1][x] if y else zero for x in range(width)]
            for d, columns in enumerate((range(width), reversed(range(width)))):
                behind, c = (Tensor(np.repeat(state.numpy()[d][None], n, axis=0)) for state in (h0, c0))
                for x in columns:
                    read = Tensor(np.concatenate([above[d][x], behind.numpy()], axis=-1))
                    behind, c = lstm_cell(gates[:, y, x, d * 4 * h : (d + 1) * 4 * h], read, c, flat[d])
                    above[d][x] = behind.numpy()
            for x in range(width):
                np.testing.assert_allclose(above[0][x] + late[x], whole[:, y, x], rtol=1e-12)


@pytest.mark.parametrize(("f", "draw", "shape", "lines"), CASES[:2] + CASES[8:10])
def test_float32_stays_and_reference_agrees(f, draw, shape, lines, rng, monkeypatch):
    monkeypatch.setattr(backend, "_kernels", "auto")
    xs = [Tensor(x.astype(np.float32), requires_grad=True) for x in inputs(draw, rng, shape, lines)]
    found = []
    for name in ("cpu", "reference"):
        backend.use_kernels(name)
        y = f(*xs)
        found.append([y, *grad(y, xs, Tensor(np.ones(y.shape, np.float32)))])
    for one, two in zip(*found, strict=True):
        assert one.dtype == two.dtype == np.float32
        np.testing.assert_allclose(one.numpy(), two.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(0, 3, 3), (2, 0, 3), (2, 3, 0)])
@pytest.mark.parametrize(("f", "draw"), [(row_lstm, row_inputs), (diagonal_bilstm, diagonal_inputs)])
def test_nothing_gives_nothing(f, draw, shape, rng):
    xs = [Tensor(x, requires_grad=True) for x in draw(rng, *shape)]
    y = f(*xs)
    assert y.shape == (*shape, 2)
    for x, g in zip(xs, grad(y, xs, y), strict=True):
        np.testing.assert_array_equal(g.numpy(), np.zeros(x.shape))


def mistaken(draw, rng, i, shape):
    xs = draw(rng, 2, 3, 4)
    xs[i] = rng.standard_normal(shape)
    return xs


@pytest.mark.parametrize(
    ("f", "draw", "i", "shape", "message"),
    [
        (row_lstm, row_inputs, 0, (2, 3, 4, 7), r"gates must be \[N, H, W, 4h\] with h = 2 as in weight, so 8 "
            r"channels; is \[2, 3, 4, 7\]\. The rule: Row LSTM"),
        (row_lstm, row_inputs, 0, (3, 4, 8), r"gates must be .*; is \[3, 4, 8\]"),
        (row_lstm, row_inputs, 1, (2, 2, 8), r"odd number of taps k, .*; it has 2"),
        (row_lstm, row_inputs, 1, (3, 2, 7), r"weight must be \[k, h, 4h\], is \[3, 2, 7\]"),
        (row_lstm, row_inputs, 2, (3, 2), r"h0 must be \[h\] or \[W, h\] = \[2\] or \[4, 2\], is \[3, 2\]"),
        (row_lstm, row_inputs, 3, (1,), r"c0 must be \[h\] or \[W, h\]"),
        (diagonal_bilstm, diagonal_inputs, 0, (2, 3, 4, 8), r"gates must be \[N, H, W, 8h\] .*, so 16 channels"),
        (diagonal_bilstm, diagonal_inputs, 1, (2, 3, 2, 8), r"weight must be \[2, 2, h, 4h\], is \[2, 3, 2, 8\]"),
        (diagonal_bilstm, diagonal_inputs, 1, (2, 2, 8), r"weight must be \[2, 2, h, 4h\]"),
        (diagonal_bilstm, diagonal_inputs, 2, (2,), r"h0 must be \[2, h\] or .* = \[2, 2\] or \[2, 3, 2\], is \[2\]"),
        (diagonal_bilstm, diagonal_inputs, 3, (2, 4, 2), r"c0 must be \[2, h\] or \[2, H, h\]"),
    ],
)  # fmt: skip
def test_bad_shapes_say_what_is_wanted(f, draw, i, shape, message, rng):
    with pytest.raises(ValueError, match=message):
        f(*mistaken(draw, rng, i, shape))


def test_other_kinds_of_arguments_are_named(rng):
    gates, weight, h0, c0 = row_inputs(rng, 1, 2, 2)
    with pytest.raises(TypeError, match=r"h0 must hold floating-point numbers, got int; cast it"):
        row_lstm(gates, weight, 0, c0)
    with pytest.raises(TypeError, match=r"gates must hold floating-point numbers, got int64; cast it"):
        row_lstm(np.zeros((1, 2, 2, 8), np.int64), weight, h0, c0)
    with pytest.raises(TypeError, match=r"mixed dtypes"):
        row_lstm(gates, weight.astype(np.float32), h0, c0)
