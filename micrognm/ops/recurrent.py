"""The recurrent layers of PixelRNN (van den Oord et al. 2016): whole scans over an image, and one cell of them.

What a cell is given (the masked convolution of the input, for the whole image at once) and what it recalls (its
neighbours' hidden states times a weight) add up to four gates, in the paper's order: o, f, i and the content g.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from micrognm import backend
from micrognm.engine import Tensor
from micrognm.formula import formula, sigmoid, tanh
from micrognm.operation import op
from micrognm.ops.linalg import matmul
from micrognm.ops.shape import broadcast_to, concat, flip, pad, reshape, split, stack


@op(keeps=("hidden", "cells", "gated"))
def row_lstm(gates, weight, h0, c0):
    """Row LSTM: gates [N, H, W, 4h], weight [k, h, 4h] with k odd, h0 and c0 [h] or [W, h] -> [N, H, W, h].

    From the top down. Column x of a row recalls the hidden states of columns x - k // 2 to x + k // 2 of the row above
    (0 beyond the sides) and the cell straight above. h0 and c0 stand above the first row. Gates are in the order o, f,
    i, g.
    Raises ValueError where shapes do not fit, TypeError where something is not an array of floats.
    """
    h = _check(gates, weight, h0, c0, "[N, H, W, 4h]", "[k, h, 4h]")
    if len(weight) % 2 == 0:
        raise ValueError(
            f"weight must have an odd number of taps k, so that one is straight above; it has {len(weight)}"
        )
    n, height, width, _ = gates.shape
    h0, c0 = (_line(name, x, (width, h), "[h] or [W, h]")[None] for name, x in (("h0", h0), ("c0", c0)))
    scan = backend.kernel("recurrent", gates).forward
    hidden, cells, gated = scan(gates[:, :, :, None], weight[None], h0, c0, False)
    return hidden.reshape(n, height, width, h), hidden, cells, gated


def _row_gradients(g, needs, gates, weight, h0, c0, hidden, cells, gated):
    states = [np.broadcast_to(x, hidden.shape[2::2])[None] for x in (h0, c0)]
    scan = backend.kernel("recurrent", g).backward
    dgates, dweight, dh0, dc0 = scan(g.reshape(hidden.shape), weight[None], *states, hidden, cells, gated, False)
    return dgates.reshape(gates.shape), dweight[0], dh0[0], dc0[0]


def _row_composed(gates, weight, h0, c0):
    """The same, row by row."""
    n, height, width, _ = gates.shape
    k, h, _ = weight.shape
    weight = reshape(weight, shape=(k * h, 4 * h))
    state, c = (broadcast_to(x, shape=(n, width, h)) for x in (h0, c0))
    rows = []
    for y in range(height):
        padded = pad(state, widths=((0, 0), (k // 2, k // 2), (0, 0)))
        read = concat(*(padded[:, t : t + width] for t in range(k)), axis=-1)
        state, c = lstm_cell(gates[:, y], read, c, weight)
        rows.append(state)
    return stack(*rows, axis=1) if rows else gates[..., :h]


row_lstm.vjp_at_once(_row_gradients, _row_composed)


@op(keeps=("hidden", "cells", "gated"))
def diagonal_bilstm(gates, weight, h0, c0):
    """Diagonal BiLSTM: gates [N, H, W, 8h], weight [2, 2, h, 4h], h0 and c0 [2, h] or [2, H, h] -> [N, H, W, h].

    Two scans, added: the first goes to the right, the second to the left; each has its gates (o, f, i, g, then o, f, i,
    g), weight, h0 and c0. A pixel recalls the hidden states above it (weight[., 0]; 0 above the first row) and behind
    it in the row (weight[., 1]), and the cell behind it. h0 and c0 stand where each row begins. **The second scan is
    shifted down one row**, so that a pixel sees all that lies above it and left of it, itself, and nothing else.
    Raises ValueError where shapes do not fit, TypeError where something is not an array of floats.
    """
    h = _check(gates, weight, h0, c0, "[N, H, W, 8h]", "[2, 2, h, 4h]")
    n, height, width, _ = gates.shape
    h0, c0 = (_states(name, x, height, h) for name, x in (("h0", h0), ("c0", c0)))
    scan = backend.kernel("recurrent", gates).forward
    hidden, cells, gated = scan(gates.reshape(n, height, width, 2, 4 * h), weight, h0, c0, True)
    out = hidden[:, :, :, 0].copy()
    out[:, 1:] += hidden[:, :-1, :, 1]
    return out, hidden, cells, gated


def _diagonal_gradients(g, needs, gates, weight, h0, c0, hidden, cells, gated):
    both = np.zeros_like(hidden)
    both[:, :, :, 0] = g
    both[:, :-1, :, 1] = g[:, 1:]
    states = [_states("", x, *hidden.shape[1::3]) for x in (h0, c0)]
    scan = backend.kernel("recurrent", g).backward
    dgates, dweight, dh0, dc0 = scan(both, weight, *states, hidden, cells, gated, True)
    if h0.ndim == 2:
        dh0, dc0 = dh0.sum(axis=1), dc0.sum(axis=1)
    return dgates.reshape(gates.shape), dweight, dh0, dc0


def _diagonal_composed(gates, weight, h0, c0):
    """The same, pixel by pixel."""
    height = gates.shape[1]
    right, left = split(gates, [gates.shape[3] // 2] * 2)
    right = _scan_right(right, weight[0], h0[0], c0[0])
    left = flip(_scan_right(flip(left, axis=2), weight[1], h0[1], c0[1]), axis=2)
    return right + pad(left, widths=((0, 0), (1, 0), (0, 0), (0, 0)))[:, :height]


def _scan_right(gates, weight, h0, c0):
    n, height, width, _ = gates.shape
    h = weight.shape[1]
    if not gates.size:
        return gates[..., :h]
    weight = reshape(weight, shape=(2 * h, 4 * h))
    h0, c0 = (broadcast_to(x, shape=(height, h)) for x in (h0, c0))
    above = [Tensor(np.zeros_like(gates.data, shape=(n, h)))] * width
    rows = []
    for y in range(height):
        behind, c = (broadcast_to(x[y], shape=(n, h)) for x in (h0, c0))
        for x in range(width):
            behind, c = lstm_cell(gates[:, y, x], concat(above[x], behind, axis=-1), c, weight)
            above[x] = behind
        rows.append(stack(*above, axis=1))
    return stack(*rows, axis=1)


diagonal_bilstm.vjp_at_once(_diagonal_gradients, _diagonal_composed)


def lstm_cell(gates: Tensor, read: Tensor, c: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """One cell of the scans, for any number of pixels at once: -> its hidden state and cell, both [..., h].

    gates [..., 4h]; read [..., taps h], the hidden states that the taps read, side by side; c [..., h], the cell
    before; weight [taps h, 4h], that of a scan with its taps and their channels in one axis.
    """
    o, f, i, g = split(gates + matmul(read, weight), [c.shape[-1]] * 4)
    c = _next_cell(f, i, g, c)
    return _hidden(o, c), c


@formula
def _next_cell(f, i, g, c):
    """sigmoid(f) c + sigmoid(i) tanh(g)"""
    return sigmoid(f) * c + sigmoid(i) * tanh(g)


@formula
def _hidden(o, c):
    """sigmoid(o) tanh(c)"""
    return sigmoid(o) * tanh(c)


def _check(gates: Any, weight: Any, h0: Any, c0: Any, gates_are: str, weight_is: str) -> int:
    """h. TypeError or ValueError unless gates and weight fit together."""
    for name, x in (("gates", gates), ("weight", weight), ("h0", h0), ("c0", c0)):
        if not backend.is_array(x) or x.dtype.kind != "f":
            kind = x.dtype if backend.is_array(x) else type(x).__name__
            raise TypeError(f"{name} must hold floating-point numbers, got {kind}; cast it: x.cast(dtype='float32')")
    axes = weight_is.count(",") + 1
    if weight.ndim != axes or weight.shape[-1] != 4 * weight.shape[-2] or (axes == 4 and weight.shape[:2] != (2, 2)):
        raise ValueError(f"weight must be {weight_is}, is {list(weight.shape)}")
    h = weight.shape[-2]
    wanted = (8 if axes == 4 else 4) * h
    if gates.ndim != 4 or gates.shape[3] != wanted:
        raise ValueError(
            f"gates must be {gates_are} with h = {h} as in weight, so {wanted} channels; is {list(gates.shape)}"
        )
    return h


def _line(name: str, x: Any, shape: tuple[int, ...], rule: str) -> Any:
    """x repeated to a scan's line."""
    if x.shape not in (shape, shape[-1:]):
        raise ValueError(f"{name} must be {rule} = {list(shape[-1:])} or {list(shape)}, is {list(x.shape)}")
    return np.broadcast_to(x, shape)


def _states(name: str, x: Any, height: int, h: int) -> Any:
    """[2, H, h] from what the caller gave."""
    if x.shape not in ((2, h), (2, height, h)):
        raise ValueError(f"{name} must be [2, h] or [2, H, h] = {[2, h]} or {[2, height, h]}, is {list(x.shape)}")
    return np.broadcast_to(x[:, None] if x.ndim == 2 else x, (2, height, h))
