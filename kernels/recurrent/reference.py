"""The scans of Row LSTM and Diagonal BiLSTM (van den Oord et al. 2016, Pixel Recurrent Neural Networks), cell by cell.

    o, f, i = sigmoid, g = tanh of  gates + sum over t of (hidden state read through tap t) weight[t]
    c = f c' + i g        h = o tanh(c)

A row scan goes down the rows: tap t of K reads column x + t - K // 2 of the row above, c' is straight above. A diagonal
scan reads h above (tap 0) and to the left (tap 1), c' to the left; its second direction, where there is one, reads the
right instead. Before the first row (column) stand h0 and c0; beyond the sides (the top) the hidden state is 0.

Shapes: gates [N, H, W, D, 4h] in the order o, f, i, g, for D directions; weight [D, taps, h, 4h]; h0 and c0 [D, W, h],
[D, H, h] if diagonal; hidden and cells [N, H, W, D, h]; gated, the gates after sigmoid and tanh, [N, H, W, D, 4h].
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

Array = Any


def forward(gates: Array, weight: Array, h0: Array, c0: Array, diagonal: bool) -> tuple[Array, Array, Array]:
    """-> hidden, cells, gated."""
    hidden, cells = (np.empty_like(gates, shape=(*gates.shape[:4], h0.shape[2])) for _ in range(2))
    gated = np.empty_like(gates, shape=gates.shape)
    for direction in range(gates.shape[3]):
        for here, reads, carry in _cells(gates.shape, weight.shape[1], direction, diagonal):
            total = gates[here]
            for t, there in enumerate(reads):
                total = total + _state(hidden, h0, there, direction) @ weight[direction, t]
            o, f, i = (0.5 + 0.5 * np.tanh(0.5 * s) for s in np.split(total, 4, axis=-1)[:3])  # sigmoids
            g = np.tanh(np.split(total, 4, axis=-1)[3])
            cells[here] = f * _state(cells, c0, carry, direction) + i * g
            hidden[here] = o * np.tanh(cells[here])
            gated[here] = np.concatenate([o, f, i, g], axis=-1)
    return hidden, cells, gated


def backward(
    g: Array, weight: Array, h0: Array, c0: Array, hidden: Array, cells: Array, gated: Array, diagonal: bool
) -> tuple[Array, Array, Array, Array]:
    """g like hidden, and what forward gave -> the gradients with respect to gates, weight, h0 and c0."""
    dgates, dweight = np.zeros_like(gated), np.zeros_like(weight)
    dh0, dc0 = np.zeros_like(h0), np.zeros_like(c0)
    dhidden, dcells = g.copy(), np.zeros_like(g)  # what the cells later on have asked for so far
    for direction in range(g.shape[3]):
        for here, reads, carry in reversed(list(_cells(gated.shape, weight.shape[1], direction, diagonal))):
            o, f, i, new = np.split(gated[here], 4, axis=-1)
            squashed = np.tanh(cells[here])
            dh = dhidden[here]
            dc = dcells[here] + dh * o * (1 - squashed**2)
            before = _state(cells, c0, carry, direction)
            slopes = [dh * squashed * o * (1 - o), dc * before * f * (1 - f), dc * new * i * (1 - i)]
            dgates[here] = np.concatenate([*slopes, dc * i * (1 - new**2)], axis=-1)
            _add(dcells, dc0, carry, direction, dc * f)
            for t, there in enumerate(reads):
                state = np.broadcast_to(_state(hidden, h0, there, direction), dh.shape)
                dweight[direction, t] += state.T @ dgates[here]
                _add(dhidden, dh0, there, direction, dgates[here] @ weight[direction, t].T)
    return dgates, dweight, dh0, dc0


Place = tuple[Any, ...]  # (all images, y, x, direction); (line,) of the initial states; () beyond the sides or the top


def _cells(shape: tuple[int, ...], taps: int, direction: int, diagonal: bool) -> Iterator[tuple[Place, list, Place]]:
    """Each cell's place, the places whose h it reads, and that of its c', in an order in which they come first."""
    height, width = shape[1:3]
    every = slice(None)
    for y in range(height):
        for step in range(width):
            if diagonal:
                x, back = (step, -1) if direction == 0 else (width - 1 - step, 1)
                above = (every, y - 1, x, direction) if y else ()
                beside = (every, y, x + back, direction) if step else (y,)
                yield (every, y, x, direction), [above, beside], beside
            else:
                reads: list[Any]
                line = [step + t - taps // 2 for t in range(taps)]
                if y:
                    reads = [(every, y - 1, x, direction) if 0 <= x < width else () for x in line]
                else:
                    reads = [(x,) if 0 <= x < width else () for x in line]
                yield (every, y, step, direction), reads, reads[taps // 2]


def _state(states: Array, initial: Array, place: Place, direction: int) -> Array:
    """[N, h], or [1, h] where it is the same for all images."""
    if not place:
        return np.zeros_like(initial[direction, :1])
    return states[place] if len(place) == 4 else initial[direction, place[0]][None]


def _add(states: Array, initial: Array, place: Place, direction: int, what: Array) -> None:
    if len(place) == 4:
        states[place] += what
    elif place:
        initial[direction, place[0]] += what.sum(axis=0)
