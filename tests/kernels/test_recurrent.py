"""The recurrent kernel against the paper's equations, written anew: number by number, and by skewed columns."""

from __future__ import annotations

import math

import numpy as np
import pytest
from micrognm.kernels.recurrent import cpu, reference


def draw(rng, n, height, width, directions, h, taps, diagonal):
    gates = rng.standard_normal((n, height, width, directions, 4 * h))
    weight = rng.standard_normal((directions, taps, h, 4 * h)) / math.sqrt(h)
    h0, c0 = rng.standard_normal((2, directions, height if diagonal else width, h))
    return gates, weight, h0, c0


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def rows_by_numbers(gates, weight, h0, c0):
    """Row LSTM by equation (3) of the paper, one number at a time: [N, H, W, 4h], [k, h, 4h], [W, h], [W, h]."""
    n, height, width, _ = gates.shape
    k, h, _ = weight.shape
    hidden, cells = np.zeros((2, n, height, width, h))
    for i in np.ndindex(n, height, width, h):
        image, y, x, j = i
        gate = [0.0] * 4
        for q in range(4):
            gate[q] = gates[image, y, x, q * h + j]
            for t in range(k):
                column = x + t - k // 2
                if 0 <= column < width:
                    for m in range(h):
                        state = hidden[image, y - 1, column, m] if y else h0[column, m]
                        gate[q] += state * weight[t, m, q * h + j]
        o, f, new = sigmoid(gate[0]), sigmoid(gate[1]), sigmoid(gate[2]) * math.tanh(gate[3])
        cells[i] = f * (cells[image, y - 1, x, j] if y else c0[x, j]) + new
        hidden[i] = o * math.tanh(cells[i])
    return hidden, cells


def columns_of_the_skewed_map(gates, weight, h0, c0):
    """One direction of Diagonal BiLSTM as section 3.2 has it: skew the map, scan its columns, skew it back."""
    n, height, width, _ = gates.shape
    h = weight.shape[1]
    wide = width + height - 1
    skewed = np.zeros((n, height, wide, gates.shape[3]))
    for y in range(height):
        skewed[:, y, y : y + width] = gates[:, y]
    state, cell = (np.repeat(x[None], n, axis=0) for x in (h0, c0))
    hidden = np.zeros((n, height, wide, h))
    for column in range(wide):
        padded = np.concatenate([np.zeros((n, 1, h)), state], axis=1)  # at the top: below lies the future
        total = skewed[:, :, column] + padded[:, :-1] @ weight[0] + padded[:, 1:] @ weight[1]
        o, f, i = 1 / (1 + np.exp(-total[..., : 3 * h].reshape(n, height, 3, h).transpose(2, 0, 1, 3)))
        c = f * cell + i * np.tanh(total[..., 3 * h :])
        inside = np.array([y <= column < y + width for y in range(height)])[:, None]
        cell = np.where(inside, c, cell)
        state = np.where(inside, o * np.tanh(c), state)
        hidden[:, :, column] = state
    return np.stack([hidden[:, y, y : y + width] for y in range(height)], axis=1)


@pytest.mark.parametrize("module", [reference, cpu])
@pytest.mark.parametrize(("height", "width", "taps"), [(3, 4, 3), (1, 3, 3), (4, 1, 3), (3, 2, 5), (2, 3, 1)])
def test_row_scans_follow_the_papers_equation(module, height, width, taps, rng):
    gates, weight, h0, c0 = draw(rng, 2, height, width, 2, 3, taps, False)
    hidden, cells, gated = module.forward(gates, weight, h0, c0, False)
    for d in range(2):
        want = rows_by_numbers(gates[:, :, :, d], weight[d], h0[d], c0[d])
        np.testing.assert_allclose(hidden[:, :, :, d], want[0], rtol=1e-12)
        np.testing.assert_allclose(cells[:, :, :, d], want[1], rtol=1e-12)
    o, new = gated[..., :3], gated[..., 9:]
    np.testing.assert_allclose(o * np.tanh(cells), hidden, rtol=1e-12)
    assert (o > 0).all() and (new < 0).any()  # a sigmoid and a tanh


@pytest.mark.parametrize("module", [reference, cpu])
@pytest.mark.parametrize(("height", "width"), [(3, 4), (4, 3), (1, 3), (4, 1), (1, 1)])
def test_diagonal_scans_are_columns_of_the_skewed_map(module, height, width, rng):
    gates, weight, h0, c0 = draw(rng, 2, height, width, 2, 3, 2, True)
    hidden, _, _ = module.forward(gates, weight, h0, c0, True)
    right = columns_of_the_skewed_map(gates[:, :, :, 0], weight[0], h0[0], c0[0])
    left = columns_of_the_skewed_map(gates[:, :, ::-1, 1], weight[1], h0[1], c0[1])[:, :, ::-1]
    np.testing.assert_allclose(hidden[:, :, :, 0], right, rtol=1e-12)
    np.testing.assert_allclose(hidden[:, :, :, 1], left, rtol=1e-12)


@pytest.mark.parametrize("diagonal", [False, True])
def test_backward_is_the_transposed_jacobian(diagonal, rng):
    """Against complex-step derivatives of forward, which have no rounding error of differences."""
    _gates, weight, h0, c0 = xs = draw(rng, 2, 3, 2, 2, 2, 2 + (not diagonal), diagonal)
    g = rng.standard_normal((2, 3, 2, 2, 2))
    found = reference.backward(g, weight, h0, c0, *reference.forward(*xs, diagonal), diagonal)
    for k, x in enumerate(xs):
        for place in np.ndindex(x.shape):
            moved = [y.astype(complex) for y in xs]
            moved[k][place] += 1e-30j
            slope = (reference.forward(*moved, diagonal)[0].imag * 1e30 * g).sum()
            assert found[k][place] == pytest.approx(slope, rel=1e-10, abs=1e-13)


@pytest.mark.parametrize("diagonal", [False, True])
def test_a_block_of_images_is_computed_as_its_images_alone(diagonal, rng):
    gates, weight, h0, c0 = draw(rng, 67, 3, 4, 2, 4, 2 + (not diagonal), diagonal)
    together = cpu.forward(gates, weight, h0, c0, diagonal)
    for image in (0, 1, 5, 66):
        alone = cpu.forward(gates[image : image + 1], weight, h0, c0, diagonal)
        for x, y in zip(together, alone, strict=True):
            np.testing.assert_array_equal(x[image], y[0])


@pytest.mark.parametrize("diagonal", [False, True])
def test_nan_reaches_what_reads_it_and_nothing_before(diagonal, rng):
    gates, weight, h0, c0 = draw(rng, 2, 3, 3, 1, 4, 2 + (not diagonal), diagonal)
    gates[1, 1, 1] = np.nan
    bad = np.isnan(cpu.forward(gates, weight, h0, c0, diagonal)[0]).all(axis=(3, 4))
    assert not bad[0].any()
    assert bad[1].tolist() == [[False] * 3, [False, True, diagonal], [not diagonal, True, True]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gates_far_beyond_where_they_saturate(dtype, rng):
    """The exponential of a gate has ends on both sides, beyond which its power of two is no number."""
    gates, *rest = (x.astype(dtype) for x in draw(rng, 2, 2, 3, 1, 8, 3, False))
    gates[...] = rng.choice([-1e30, -2000, -200, 200, 2000, 1e30], gates.shape)
    for got, want in zip(cpu.forward(gates, *rest, False), reference.forward(gates, *rest, False), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-30)
