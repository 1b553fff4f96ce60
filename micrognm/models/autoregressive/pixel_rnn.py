"""PixelRNN: Pixel Recurrent Neural Networks (van den Oord, Kalchbrenner & Kavukcuoglu 2016a, arXiv 1601.06759).

Two-dimensional LSTMs read the pixels above and to the left. Their input-to-state part is a masked convolution of the
whole map at once, the state-to-state part a scan (equation 3). Row LSTM (section 3.1) goes down the rows and sees a
triangle above the pixel; Diagonal BiLSTM (3.2) goes along diagonals, in both directions, and sees all earlier pixels
but the last of the row above: no feature of that row knows it, so it is seen by 7 x 7 taps alone, from nearby.

Where what is: residual connections (3.3), masks (3.4), the map that a conditional model is given (3.6). The first layer
is a 7 x 7 convolution with mask A; initial states are learned. Of three colours, features are in three groups; the
states that are recalled belong to earlier pixels and need no mask. The convolutional model is in pixelcnn.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.random import Generator

from micrognm import incremental
from micrognm.engine import Tensor
from micrognm.models.autoregressive import raster
from micrognm.models.autoregressive.raster import Raster, masked
from micrognm.nn import Conv, Module, Parameter, init
from micrognm.ops import concat, flip, relu, reshape, stack, transpose
from micrognm.ops.recurrent import diagonal_bilstm, lstm_cell, row_lstm
from micrognm.taps import horizontal, square


class RowLSTM(Module):
    """x [N, H, W, 2h] -> hidden states [N, H, W, h]: equation 3 with K_is of 1 x k, mask B, and K_ss of k."""

    def __init__(self, h: int, rng: Generator, groups: int, told: int, k: int = 3) -> None:
        self.h, self.groups, self.k = h, groups, k
        self.K_is = masked(2 * h, 4 * h, k, "B", rng, groups, horizontal)
        self.K_ss = Parameter(init.fan_in_uniform()(rng, (k, h, 4 * h)))
        self.h0, self.c0 = (Parameter(np.zeros(h, np.float32)) for _ in range(2))
        self.told = Conv(told, 4 * h, square(1), rng, bias=False) if told else None

    def forward(self, x: Tensor, s: Tensor | None) -> Tensor:
        gates = _by_gate(self.K_is(x), self.groups, 1)
        if self.told is not None:
            gates = gates + self.told(s)
        if not incremental.active():
            return row_lstm(gates, self.K_ss, self.h0, self.c0)
        return incremental.once(self, "states", lambda: _RowStates(self, gates)).step(gates)


class DiagonalBiLSTM(Module):
    """x [N, H, W, 2h] -> hidden states [N, H, W, h]: K_is of 1 x 1, mask B, K_ss reads above and behind, both ways."""

    def __init__(self, h: int, rng: Generator, groups: int, told: int) -> None:
        self.h, self.groups = h, groups
        self.K_is = masked(2 * h, 8 * h, 1, "B", rng, groups)
        self.K_ss = Parameter(np.stack([init.fan_in_uniform()(rng, (2, h, 4 * h)) for _ in range(2)]))
        self.h0, self.c0 = (Parameter(np.zeros((2, h), np.float32)) for _ in range(2))
        self.told = Conv(told, 8 * h, square(1), rng, bias=False) if told else None

    def forward(self, x: Tensor, s: Tensor | None) -> Tensor:
        gates = _by_gate(self.K_is(x), self.groups, 2)
        if self.told is not None:
            gates = gates + self.told(s)
        if not incremental.active():
            return diagonal_bilstm(gates, self.K_ss, self.h0, self.c0)
        return incremental.once(self, "states", lambda: _DiagonalStates(self, gates)).step(gates)


def _by_gate(z: Tensor, groups: int, directions: int) -> Tensor:
    """Channels in the order direction, gate, colour, from colour, direction, gate."""
    if groups == 1:
        return z
    parts = reshape(z, shape=(*z.shape[:-1], groups, directions, 4, z.shape[-1] // (4 * directions * groups)))
    return reshape(transpose(parts, axes=(0, 1, 2, 4, 5, 3, 6)), shape=z.shape)


class _RowStates:
    """What a Row LSTM keeps while an image is drawn: hidden states and cells of all rows, those above the first too."""

    def __init__(self, layer: RowLSTM, like: Tensor) -> None:
        n, (H, W), h = len(like), incremental.place.size, layer.h
        self.weight, self.side = layer.K_ss.reshape(shape=(layer.k * h, 4 * h)), layer.k // 2
        self.hidden = Tensor(np.zeros_like(like.data, shape=(n, H + 1, W + 2 * self.side, h)))
        self.cells = Tensor(np.zeros_like(like.data, shape=(n, H + 1, W, h)))
        self.hidden[:, 0, self.side : self.side + W] = layer.h0
        self.cells[:, 0] = layer.c0

    def step(self, gates: Tensor) -> Tensor:
        y, x = incremental.place.y, incremental.place.left
        read = self.hidden[:, y, x : x + 2 * self.side + 1].reshape(shape=(len(gates), len(self.weight)))
        hidden, self.cells[:, y + 1, x] = lstm_cell(gates[:, 0, 0], read, self.cells[:, y, x], self.weight)
        self.hidden[:, y + 1, x + self.side] = hidden
        return hidden[:, None, None]


class _DiagonalStates:
    """What a Diagonal BiLSTM keeps while an image is drawn. The way back along a row runs when the row is finished."""

    def __init__(self, layer: DiagonalBiLSTM, like: Tensor) -> None:
        n, (_, W), h = len(like), incremental.place.size, layer.h
        self.layer, self.y = layer, 0
        self.gates = Tensor(np.zeros_like(like.data, shape=(n, W, 8 * h)))  # of the row so far
        self.recalled = Tensor(np.zeros_like(like.data, shape=(n, W, 4 * h)))  # from the row above, to the right
        self.back = Tensor(np.zeros_like(like.data, shape=(n, W, h)))  # hidden states of the row above, on the way back
        # Of the row so far, to the right, and before it the initial ones.
        self.hidden, self.cells = (Tensor(np.zeros_like(like.data, shape=(n, W + 1, h))) for _ in range(2))
        self.hidden[:, 0], self.cells[:, 0] = layer.h0[0], layer.c0[0]

    def step(self, gates: Tensor) -> Tensor:
        y, x, h = incremental.place.y, incremental.place.left, self.layer.h
        if y > self.y:
            self._next_row()
        self.gates[:, x] = gates[:, 0, 0]
        right = gates[:, 0, 0, : 4 * h] + self.recalled[:, x]
        hidden, self.cells[:, x + 1] = lstm_cell(right, self.hidden[:, x], self.cells[:, x], self.layer.K_ss[0, 1])
        self.hidden[:, x + 1] = hidden
        return (hidden + self.back[:, x])[:, None, None]

    def _next_row(self) -> None:
        """What the next row needs of the finished one. The way back is a scan of one row, to the right if flipped."""
        layer = self.layer
        gates = flip(self.gates[:, :, 4 * layer.h :] + self.back @ layer.K_ss[1, 0], axis=1)[:, None]
        twice = [stack(x[1], x[1]) for x in (layer.K_ss, layer.h0, layer.c0)]  # the scan runs both ways
        self.back = flip(diagonal_bilstm(concat(gates, gates, axis=-1), *twice)[:, 0], axis=1)
        self.recalled = self.hidden[:, 1:] @ layer.K_ss[0, 0]
        self.y += 1


class PixelRNN(Raster):
    """A density of images; see Raster for what it is asked.

    kind: "row" or "diagonal". layers of h hidden units in 2h features; the last two 1 x 1 convolutions have `head`
    features. told: channels of a map [N, H, W, told] that each layer is given (section 3.6), or 0. skip: layers add
    to the output too. h and head must be divisible by 3 for images of three colours.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        rng: Generator,
        *,
        kind: str,
        levels: int = 2,
        layers: int = 2,
        h: int = 16,
        head: int = 32,
        mixtures: int = 0,
        told: int = 0,
        skip: bool = False,
    ) -> None:
        super().__init__(shape, levels, mixtures)
        if kind not in ("row", "diagonal"):
            raise ValueError(f'PixelRNN: kind must be "row" or "diagonal", got {kind!r}')
        groups, self.told, self.skip = self.groups, told, skip
        scan = RowLSTM if kind == "row" else DiagonalBiLSTM
        self.first = masked(shape[2], 2 * h, 7, "A", rng, groups)
        self.scans = [scan(h, rng, groups, told) for _ in range(layers)]
        self.up = [masked(h, 2 * h, 1, "B", rng, groups) for _ in range(layers)]
        self.head = raster.head(2 * h, head, self.outputs, rng, groups)

    def condition(self, given: Any, n: int) -> Tensor | None:
        """The map that the layers are given. ValueError where it does not fit."""
        if not self.told:
            return super().condition(given, n)
        wanted = (n, *self.shape[:2], self.told)
        if not isinstance(given, Tensor) or given.shape != wanted:
            raise ValueError(f"PixelRNN: expected a map {list(wanted)}, got {getattr(given, 'shape', given)}")
        return given

    def pixels(self, x: Tensor, rows: None, condition: Tensor | None) -> Tensor:
        s = None if condition is None else incremental.here(condition)
        out = features = self.first(x)
        for scan, up in zip(self.scans, self.up, strict=True):
            found = up(scan(features, s))
            features, out = features + found, out + found
        return self.head[1](self.head[0](relu(out if self.skip else features)))
