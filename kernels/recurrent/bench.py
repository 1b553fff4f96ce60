"""What a PixelRNN layer's recurrence costs in training, by turns with loops of PyTorch's operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from micrognm.kernels.recurrent import cpu, reference

from micrognm import Tensor, grad
from micrognm.bench import Case
from micrognm.ops.recurrent import diagonal_bilstm, row_lstm

SHAPES = [(16, 28, 16), (16, 28, 32), (64, 28, 16), (64, 8, 16), (16, 32, 32)]  # images, side, h


def cases(torch: Any) -> Iterator[Case]:
    for layer in (row_lstm, diagonal_bilstm):
        for images, side, h in SHAPES:
            yield _case(torch, layer, images, side, h)


def _case(torch: Any, layer: Any, images: int, side: int, h: int) -> Case:
    rng = np.random.default_rng(0)
    diagonal = layer is diagonal_bilstm
    directions, taps = (2, 2) if diagonal else (1, 3)
    lead = (2,) if diagonal else ()
    arrays = (
        rng.standard_normal((images, side, side, directions * 4 * h), np.float32),
        rng.standard_normal((*lead, taps, h, 4 * h), np.float32) / np.float32(np.sqrt(taps * h)),
        np.zeros((*lead, h), np.float32),  # PyTorch's loop would change others in the padding of the skewed map
        np.zeros((*lead, h), np.float32),
    )
    xs = [Tensor(x, requires_grad=True) for x in arrays]
    g = Tensor(rng.standard_normal((images, side, side, h), np.float32))

    def ours() -> Any:
        return grad(layer(*xs), xs, g)

    def error() -> float:
        """Of the states and all gradients of the first four images."""
        gates = arrays[0][:4].reshape(-1, side, side, directions, 4 * h)
        lines = np.zeros((directions, side, h), np.float32)
        single = [gates, arrays[1].reshape(directions, taps, h, 4 * h), lines, lines]
        slope = rng.standard_normal((*gates.shape[:4], h), np.float32)
        double = [x.astype(np.float64) for x in single]
        found, exact = cpu.forward(*single, diagonal), reference.forward(*double, diagonal)
        found += cpu.backward(slope, *single[1:], *found, diagonal)
        exact += reference.backward(slope.astype(np.float64), *double[1:], *exact, diagonal)
        return max(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(found, exact, strict=True))

    theirs: Callable[[], Any] | None = None
    if torch is not None:
        # As PyTorch lays them: channels before rows and columns, in weights outputs before inputs before taps.
        leaves = [torch.from_numpy(np.moveaxis(arrays[0], -1, 1).copy())]
        leaves += [torch.from_numpy(np.swapaxes(arrays[1], -1, -3).copy()), *map(torch.from_numpy, arrays[2:])]
        leaves = [x.clone().requires_grad_() for x in leaves]
        cotangent = torch.from_numpy(np.moveaxis(g.data, -1, 1).copy())
        loop = usual_diagonal if diagonal else usual_rows

        def theirs() -> Any:
            return torch.autograd.grad(loop(torch, *leaves), leaves, cotangent)

    cells = images * side * side * directions
    # A product forward, two backward. Gates, what they became (twice) and their slopes; states and cells.
    flops = 3 * 2 * cells * taps * h * 4 * h
    name = "Diagonal BiLSTM" if diagonal else "Row LSTM"
    return Case(f"{name} {images}x{side}x{side}, h={h}", ours, theirs, error, flops, 4 * cells * h * (4 * 4 + 6))


def usual_rows(torch: Any, gates: Any, weight: Any, h0: Any, c0: Any) -> Any:
    """Row LSTM in PyTorch, one convolution and one set of gates a row."""
    states = h0[None, :, None].expand(len(gates), -1, gates.shape[3])
    cells = c0[None, :, None].expand(len(gates), -1, gates.shape[3])
    rows = []
    for given in gates.unbind(2):
        recalled = torch.nn.functional.conv1d(states, weight, padding=weight.shape[2] // 2)
        states, cells = _cell(torch, given + recalled, cells)
        rows.append(states)
    return torch.stack(rows, 2)


def usual_diagonal(torch: Any, gates: Any, weight: Any, h0: Any, c0: Any) -> Any:
    """Diagonal BiLSTM in PyTorch: skew the map, one convolution and one set of gates a column, skew it back."""
    right, left = gates.chunk(2, 1)
    right = _usual_scan(torch, right, weight[0], h0[0], c0[0])
    left = _usual_scan(torch, left.flip(3), weight[1], h0[1], c0[1]).flip(3)
    return right + torch.nn.functional.pad(left, (0, 0, 1, 0))[:, :, :-1]


def _usual_scan(torch: Any, gates: Any, weight: Any, h0: Any, c0: Any) -> Any:
    pad = torch.nn.functional.pad
    n, channels, height, width = gates.shape
    wide = width + height - 1
    skewed = pad(gates, (0, height)).reshape(n, channels, -1)[:, :, : height * wide].reshape(n, channels, height, wide)
    states, cells = (x[None, :, None].expand(n, -1, height) for x in (h0, c0))
    columns = []
    for given in skewed.unbind(3):
        recalled = torch.nn.functional.conv1d(pad(states, (1, 0)), weight)
        states, cells = _cell(torch, given + recalled, cells)
        columns.append(states)
    flat = torch.stack(columns, 3).reshape(n, weight.shape[1], height * wide)
    return pad(flat, (0, height)).reshape(n, weight.shape[1], height, wide + 1)[:, :, :, :width]


def _cell(torch: Any, gates: Any, cells: Any) -> Any:
    o, f, i, g = gates.chunk(4, 1)
    cells = torch.sigmoid(f) * cells + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cells), cells
