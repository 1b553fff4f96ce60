"""reference.py in Numba: a block of images at once, their states side by side in a line that stays in the cache.

A step advances a line of cells: a row, or a diagonal, which is a column once the map is skewed, row y by y to the
right. The map is never copied for that: line l of step s is the pixel (s, l) of a row scan, (l, s - l) of a diagonal
one. The state is one line for each image, [line, image, h], overwritten as the scan goes; since a tap is an offset in
the line, what a step reads is one matrix whose rows lie evenly, and a product of matrices in registers does the rest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from micrognm.kernels.jit import PARALLEL, SERIAL
from micrognm.kernels.maths import sigmoid, tanh
from micrognm.kernels.recurrent.product import FEW, ROWS, add_product, columns, set_product
from numba import njit, prange

Array = Any
INLINED: dict[str, Any] = {**SERIAL, "forceinline": True}
CELLS = 32  # in a step of a block, about: enough rows for the product's tiles, and few enough for the level 1 cache
BLOCKS = 16  # at least so many, where there are as many images


@njit(**INLINED)
def _line(s: int, height: int, width: int, diagonal: bool) -> tuple[int, int]:
    """The first cell of the line of step s, and the one after its last."""
    return (max(0, s - width + 1), min(height, s + 1)) if diagonal else (0, width)


@njit(**INLINED)
def _cell(s: int, line: int, width: int, directions: int, direction: int, diagonal: bool) -> int:
    """Its number in the first image."""
    y, x = s, line
    if diagonal:
        y, x = line, s - line if direction == 0 else width - 1 - s + line
    return (y * width + x) * directions + direction


@njit(**INLINED)
def _began(s: int, line: int, diagonal: bool) -> bool:
    """Whether a line has had a cell before step s; if not, its state is h0 and c0."""
    return s > (line if diagonal else 0)


@njit(**SERIAL)
def _forward_block(
    block: int, shape: tuple[int, int, int, int], gates: Array, panels: Array, h0: Array, c0: Array, diagonal: bool,
    per: int, hidden: Array, cells: Array, gated: Array,
) -> None:  # fmt: skip
    images, height, width, directions = shape
    (h,), (taps, wide) = h0.shape[2:], (panels.shape[2], panels.shape[4])
    direction, first = block % directions, block // directions * per
    count, apart = min(per, images - first), height * width * directions
    lines = height if diagonal else width
    front, back = (1, 0) if diagonal else (taps // 2, taps // 2)
    state = np.zeros(((front + lines + back) * count + ROWS, h), gates.dtype)
    cell = np.empty((lines * count, h), gates.dtype)
    total = np.empty((lines * count + ROWS, 4, h), gates.dtype)
    for line in range(lines):
        for i in range(count):
            for j in range(h):
                state[(front + line) * count + i, j] = h0[direction, line, j]
                cell[line * count + i, j] = c0[direction, line, j]
    for s in range(height + width - 1 if diagonal else height):
        start, stop = _line(s, height, width, diagonal)
        for panel in range(panels.shape[1]):
            set_product(
                total, panel * wide, 4 * h, state, start * count * h, h, 1, count * h,
                panels, (direction * panels.shape[1] + panel) * taps * h * wide, wide, (stop - start) * count, h, taps,
            )  # fmt: skip
        for line in range(start, stop):
            at = _cell(s, line, width, directions, direction, diagonal) + first * apart
            for i in range(count):
                row, source, out = total[(line - start) * count + i], gates[at + i * apart], gated[at + i * apart]
                for q in range(3):
                    for j in range(h):
                        out[q, j] = sigmoid(row[q, j] + source[q, j])
                for j in range(h):
                    out[3, j] = tanh(row[3, j] + source[3, j])
                c, c_out = cell[line * count + i], cells[at + i * apart]
                for j in range(h):
                    c_out[j] = out[1, j] * c[j] + out[2, j] * out[3, j]
                new, h_out = state[(front + line) * count + i], hidden[at + i * apart]
                for j in range(h):
                    new[j] = out[0, j] * tanh(c_out[j])
                for j in range(h):
                    c[j] = c_out[j]
                    h_out[j] = new[j]


@njit(**SERIAL)
def _backward_block(
    block: int, shape: tuple[int, int, int, int], g: Array, panels: Array, h0: Array, c0: Array, hidden: Array,
    cells: Array, gated: Array, diagonal: bool, per: int, dgates: Array, dweight: Array, dh0: Array, dc0: Array,
) -> None:  # fmt: skip
    images, height, width, directions = shape
    (h,), (taps, wide) = h0.shape[2:], (panels.shape[2], panels.shape[4])
    direction, first = block % directions, block // directions * per
    count, apart = min(per, images - first), height * width * directions
    lines = height if diagonal else width
    front, back = (1, 0) if diagonal else (taps // 2, taps // 2)
    read = np.zeros(((front + lines + back) * count, h), g.dtype)  # the state before this step
    # The slopes of the gates that read this step's cells: `back` lines stand before the first. A panel's width more
    # than they need, lest the rows of one panel fall on few sets of the cache.
    later = np.zeros(((front + lines + back) * count + ROWS, 4 * h + wide), g.dtype)
    dh = np.zeros((lines * count + ROWS, panels.shape[1] * wide), g.dtype)
    dc = np.zeros((lines * count, h), g.dtype)
    squashed, weight, one = np.empty(h, g.dtype), dweight[block], g.dtype.type(1)
    pitch = later.shape[1]
    steps = height + width - 1 if diagonal else height
    for s in range(steps - 1, -1, -1):
        start, stop = _line(s, height, width, diagonal)
        rows = (stop - start) * count
        for panel in range(panels.shape[1]):
            set_product(
                dh, panel * wide, dh.shape[1], later, start * count * pitch, pitch, 1, count * pitch,
                panels, (direction * panels.shape[1] + panel) * taps * 4 * h * wide, wide, rows, 4 * h, taps,
            )  # fmt: skip
        for line in range(start, stop):
            at = _cell(s, line, width, directions, direction, diagonal) + first * apart
            before = _cell(s - 1, line, width, directions, direction, diagonal) + first * apart
            for i in range(count):
                a, above = gated[at + i * apart], g[at + i * apart]
                dhi, dci = dh[(line - start) * count + i], dc[line * count + i]
                c, c_before = cells[at + i * apart], c0[direction, line]
                if _began(s, line, diagonal):
                    c_before = cells[before + i * apart]
                out = dgates[at + i * apart]
                for j in range(h):
                    squashed[j] = tanh(c[j])
                for j in range(h):
                    dhi[j] += above[j]
                for j in range(h):
                    out[0, j] = dhi[j] * squashed[j] * a[0, j] * (one - a[0, j])
                for j in range(h):
                    dci[j] += dhi[j] * a[0, j] * (one - squashed[j] * squashed[j])
                for j in range(h):
                    out[1, j] = dci[j] * c_before[j] * a[1, j] * (one - a[1, j])
                for j in range(h):
                    out[2, j] = dci[j] * a[3, j] * a[2, j] * (one - a[2, j])
                for j in range(h):
                    out[3, j] = dci[j] * a[2, j] * (one - a[3, j] * a[3, j])
                for j in range(h):
                    dci[j] *= a[1, j]
                new, flat = later[(back + line) * count + i], out.reshape(-1)
                for j in range(flat.size):
                    new[j] = flat[j]
        for line in range(max(start - front, 0), stop):
            before = _cell(s - 1, line, width, directions, direction, diagonal) + first * apart
            for i in range(count):
                kept, source = read[(front + line) * count + i], h0[direction, line]
                if _began(s, line, diagonal):
                    source = hidden[before + i * apart]
                for j in range(h):
                    kept[j] = source[j]
        for t in range(taps):
            for begin in range(0, 4 * h, wide):
                add_product(
                    weight, t * h * 4 * h + begin, 4 * h, read, (start + t) * count * h, 1, h,
                    later, (back + start) * count * pitch + begin, pitch, h, rows,
                )  # fmt: skip
    # What reads h0. Nothing does through the tap above: without it, the others' mirror image starts at the same line.
    for panel in range(panels.shape[1]):
        set_product(
            dh, panel * wide, dh.shape[1], later, 0, pitch, 1, count * pitch,
            panels, (direction * panels.shape[1] + panel) * taps * 4 * h * wide, wide, lines * count, 4 * h,
            1 if diagonal else taps,
        )  # fmt: skip
    for line in range(lines):
        for j in range(h):
            for i in range(count):
                dh0[block, line, j] += dh[line * count + i, j]
                dc0[block, line, j] += dc[line * count + i, j]


@njit(**PARALLEL)
def _forward(blocks, shape, gates, panels, h0, c0, diagonal, per, hidden, cells, gated):
    for block in prange(blocks):
        _forward_block(np.int64(block), shape, gates, panels, h0, c0, diagonal, per, hidden, cells, gated)


@njit(**PARALLEL)
def _backward(
    blocks, shape, g, panels, h0, c0, hidden, cells, gated, diagonal, per, dgates, dweight, dh0, dc0
):
    for block in prange(blocks):
        _backward_block(
            np.int64(block), shape, g, panels, h0, c0, hidden, cells, gated, diagonal, per, dgates, dweight, dh0, dc0
        )


def forward(gates: Array, weight: Array, h0: Array, c0: Array, diagonal: bool) -> tuple[Array, Array, Array]:
    shape, h = gates.shape[:4], h0.shape[2]
    full = _channels(h, gates.dtype)
    gates, weight = _padded(gates, 4, h, full), _padded(weight, 4, h, full, rows=True)
    h0, c0 = _padded(h0, 1, h, full), _padded(c0, 1, h, full)
    gates = gates.reshape(-1, 4, full)
    hidden, cells, gated = np.empty(gates[:, 0].shape, gates.dtype), np.empty_like(gates[:, 0]), np.empty_like(gates)
    per, blocks = _blocks(shape, diagonal)
    _forward(blocks, shape, gates, _panels(weight), h0, c0, diagonal, per, hidden, cells, gated)
    hidden, cells = (_unpadded(x.reshape(*shape, full), 1, h) for x in (hidden, cells))
    return hidden, cells, _unpadded(gated.reshape(*shape, 4 * full), 4, h)


def backward(
    g: Array, weight: Array, h0: Array, c0: Array, hidden: Array, cells: Array, gated: Array, diagonal: bool
) -> tuple[Array, Array, Array, Array]:
    shape, h = g.shape[:4], h0.shape[2]
    full = _channels(h, g.dtype)
    weight, gated = _padded(weight, 4, h, full, rows=True), _padded(gated, 4, h, full).reshape(-1, 4, full)
    g, hidden, cells = (_padded(x, 1, h, full).reshape(-1, full) for x in (g, hidden, cells))
    h0, c0 = _padded(h0, 1, h, full), _padded(c0, 1, h, full)
    per, blocks = _blocks(shape, diagonal)
    dgates = np.empty_like(gated)
    dweight = np.zeros((blocks, *weight.shape[1:]), g.dtype)
    dh0, dc0 = np.zeros((2, blocks, *h0.shape[1:]), g.dtype)
    panels = _panels(weight.swapaxes(2, 3)[:, ::-1])  # what a cell has read through tap t finds it by the tap mirrored
    _backward(blocks, shape, g, panels, h0, c0, hidden, cells, gated, diagonal, per, dgates, dweight, dh0, dc0)
    parts = blocks // shape[3], shape[3]
    dweight, dh0, dc0 = (x.reshape(*parts, *x.shape[1:]).sum(axis=0) for x in (dweight, dh0, dc0))
    dgates, dweight = _unpadded(dgates.reshape(*shape, 4 * full), 4, h), _unpadded(dweight, 4, h)[:, :, :h]
    return dgates, np.ascontiguousarray(dweight), _unpadded(dh0, 1, h), _unpadded(dc0, 1, h)


def _blocks(shape: tuple[int, ...], diagonal: bool) -> tuple[int, int]:
    """Images in a block, and blocks, each of one direction: by the shape alone, so that sums have one order."""
    images, height, width, directions = shape
    line = max(1, height * width // max(1, height + width - 1) if diagonal else width)  # on average
    per = max(1, min(CELLS // line, images * directions // BLOCKS))
    return per, -(-images // per) * directions


def _channels(h: int, dtype: Any) -> int:
    """h, or the next number that makes whole tiles of gates and of the weight's gradient."""
    whole = max(columns(dtype) // 4, FEW)
    return -(-h // whole) * whole


def _padded(x: Array, groups: int, h: int, channels: int, rows: bool = False) -> Array:
    """x with so many channels in each of the groups of its last axis; with rows, on the axis before it too."""
    if h == channels:
        return np.ascontiguousarray(x)
    wide = np.zeros((*x.shape[:-1], groups, channels), x.dtype)
    wide[..., :h] = x.reshape(*x.shape[:-1], groups, h)
    wide = wide.reshape(*x.shape[:-1], groups * channels)
    return np.ascontiguousarray(np.pad(wide, [(0, 0), (0, 0), (0, channels - h), (0, 0)])) if rows else wide


def _unpadded(x: Array, groups: int, h: int) -> Array:
    if x.shape[-1] == groups * h:
        return x
    split = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    return np.ascontiguousarray(split[..., :h]).reshape(*x.shape[:-1], groups * h)


def _panels(weight: Array) -> Array:
    """[D, taps, in, out] -> [D, panels, taps, in, a tile's columns], zeros behind the last column."""
    directions, taps, rows, length = weight.shape
    wide = columns(weight.dtype)
    panels = -(-length // wide)
    full = np.zeros((directions, taps, rows, panels * wide), weight.dtype)
    full[..., :length] = weight
    return np.ascontiguousarray(full.reshape(directions, taps, rows, panels, wide).transpose(0, 3, 1, 2, 4))
