"""reference.py in Numba: a block of images at once, their states side by side in a line that stays in the cache.

A step advances a line of cells: a row, or a diagonal, which is a column once the map is skewed, row y by y to the
right. The map is never copied for that: line l of step s is the pixel (s, l) of a row scan, (l, s - l) of a diagonal
one. The state is one line for each image, [line, image, h], overwritten as the scan goes; since a tap is an offset in
the line, what a step reads is one matrix whose rows lie evenly, and a product of matrices in registers does the rest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from micrognm.kernels.jit import INNER
from micrognm.kernels.product import product
from micrognm.kernels.recurrent.gates import advance, copy, retreat
from micrognm.kernels.vectors import VECTORS, address, columns, lanes
from micrognm.kernels.workers import run, share_of, threads
from numba import njit

Array = Any
CELLS = 32  # in a step of a block, about: enough rows for the product's tiles, and few enough for the level 1 cache
BLOCKS = 16  # at least so many, where there are as many images


@njit(**INNER)
def _line(s: int, shape: tuple[int, int, int, int], direction: int, diagonal: bool) -> tuple[int, int, int, int]:
    """The first line that has a cell in step s, the one after the last; the first's cell, and how far the next is."""
    _, height, width, directions = shape
    if not diagonal:
        return 0, width, s * width * directions + direction, directions
    start = s - width + 1 if s >= width else 0
    x, right = (s - start, -1) if direction == 0 else (width - 1 - s + start, 1)
    stop = s + 1 if s < height else height
    return start, stop, (start * width + x) * directions + direction, (width + right) * directions


@njit(**INNER)
def _fill(x: Array, begin: int, end: int) -> None:
    for i in range(begin, end):
        x[i] = 0


@njit(**INNER)
def _forward_share(
    gates: Array, panels: Array, h0: Array, c0: Array, hidden: Array, cells: Array, gated: Array, memory: Array,
    shape: tuple[int, int, int, int], h: int, taps: int, diagonal: bool, per: int, blocks: int,
    worker: int, workers: int,
) -> None:  # fmt: skip
    """One worker's blocks. Arrays are flat; memory, of each worker: the state, the cells and the sums of a line."""
    images, height, width, directions = shape
    one, wide = gates.dtype.type(1), lanes(gates.dtype.type(1))
    none, step, four = np.intp(0), np.intp(1), 4 * h
    pixels, lines = height * width * directions, height if diagonal else width
    front, back = (1, 0) if diagonal else (taps // 2, taps // 2)
    state = worker * (memory.size // workers)
    carry = state + (front + lines + back) * per * h
    total = carry + lines * per * h
    for block in share_of(blocks, worker, workers):
        direction, first = block % directions, block // directions * per
        count = per if per < images - first else images - first
        _fill(memory, state, carry)
        for i in range(count):
            copy(one, lines, h, address(memory, state + (front * count + i) * h), count * h,
                 address(h0, direction * lines * h), h)  # fmt: skip
            copy(one, lines, h, address(memory, carry + i * h), count * h, address(c0, direction * lines * h), h)
        steps = 0 if pixels == 0 else height + width - 1 if diagonal else height
        for s in range(steps):
            start, stop, at, apart = _line(s, shape, direction, diagonal)
            for begin in range(0, four, wide):
                product(
                    one, address(memory, total + begin), four,
                    address(memory, state + start * count * h), h, step, count * h,
                    address(panels, (direction * four + begin) * taps * h), wide, (stop - start) * count, h, taps, none,
                )  # fmt: skip
            for i in range(count):
                here, kept = at + (first + i) * pixels, (start * count + i) * h
                advance(
                    one, stop - start, h, apart, count, address(memory, total + i * four), address(gates, here * four),
                    address(memory, carry + kept), address(memory, state + front * count * h + kept),
                    address(gated, here * four), address(cells, here * h), address(hidden, here * h),
                )  # fmt: skip


@njit(**INNER)
def _backward_share(
    g: Array, panels: Array, h0: Array, c0: Array, hidden: Array, cells: Array, gated: Array, dgates: Array,
    dweight: Array, dh0: Array, dc0: Array, ones: Array, memory: Array,
    shape: tuple[int, int, int, int], h: int, taps: int, diagonal: bool, per: int, blocks: int,
    worker: int, workers: int,
) -> None:  # fmt: skip
    """One worker's blocks. Memory: the states before a step, the slopes of the gates that read its cells (`back` lines
    stand before the first), dh and dc.
    """
    images, height, width, directions = shape
    one, wide = g.dtype.type(1), lanes(g.dtype.type(1))
    none, step, four = np.intp(0), np.intp(1), 4 * h
    pixels, lines = height * width * directions, height if diagonal else width
    front, back = (1, 0) if diagonal else (taps // 2, taps // 2)
    pitch = four + wide  # more than they need, lest the rows of a panel fall on few sets of the cache
    across = (h + wide - 1) // wide * wide
    read = worker * (memory.size // workers)
    later = read + (front + lines + back) * per * h
    dh = later + (front + lines + back) * per * pitch
    dc = dh + lines * per * across
    for block in share_of(blocks, worker, workers):
        direction, first = block % directions, block // directions * per
        count = per if per < images - first else images - first
        behind = directions * (width if not diagonal else 1 if direction == 0 else -1)
        weight, initial = block * taps * h * four, direction * lines * h
        _fill(memory, read, dc + lines * per * h)
        _fill(dweight, weight, weight + taps * h * four)
        steps = 0 if pixels == 0 else height + width - 1 if diagonal else height
        for s in range(steps - 1, -1, -1):
            start, stop, at, apart = _line(s, shape, direction, diagonal)
            # Lines from here on begin in this step, with h0 and c0.
            began = stop - 1 if diagonal and s < height else stop if s > 0 else 0
            rows, above = (stop - start) * count, front if start >= front else start
            for begin in range(0, across, wide):
                product(
                    one, address(memory, dh + begin), across,
                    address(memory, later + start * count * pitch), pitch, step, count * pitch,
                    address(panels, (direction * across + begin) * taps * four), wide, rows, four, taps, none,
                )  # fmt: skip
            for i in range(count):
                for new in range(2):
                    low, high = (began, stop) if new else (start, began)
                    here, kept = at + (low - start) * apart + (first + i) * pixels, low * count + i
                    before = address(cells, (here - behind) * h)
                    if new:
                        before = address(c0, initial + low * h)
                    retreat(
                        one, high - low, h, apart, count, address(memory, dh + (kept - start * count) * across), across,
                        address(memory, dc + kept * h), address(memory, later + (back * count + kept) * pitch), pitch,
                        address(g, here * h), address(gated, here * four), address(cells, here * h),
                        before, h if new else apart * h, address(dgates, here * four),
                    )  # fmt: skip
                    low = low if new else low - above
                    here, kept = at + (low - start) * apart + (first + i) * pixels, low * count + i
                    source = address(hidden, (here - behind) * h)
                    if new:
                        source = address(h0, initial + low * h)
                    copy(one, high - low, h, address(memory, read + (front * count + kept) * h), count * h,
                         source, h if new else apart * h)  # fmt: skip
            for t in range(taps):
                for begin in range(0, four, wide):
                    product(
                        one, address(dweight, weight + t * h * four + begin), four,
                        address(memory, read + (start + t) * count * h), step, h, none,
                        address(memory, later + (back + start) * count * pitch + begin), pitch, h, rows, step,
                        address(ones, 0),
                    )  # fmt: skip
        # What reads h0. Nothing does through the tap above: without it, the others' mirror image starts where it did.
        for begin in range(0, across, wide):
            product(
                one, address(memory, dh + begin), across, address(memory, later), pitch, step, count * pitch,
                address(panels, (direction * across + begin) * taps * four), wide, lines * count, four,
                step if diagonal else taps, none,
            )  # fmt: skip
        for line in range(lines):
            for j in range(h):
                to = (block * lines + line) * h + j
                dh0[to] = dc0[to] = 0
                for i in range(count):
                    dh0[to] += memory[dh + (line * count + i) * across + j]
                    dc0[to] += memory[dc + (line * count + i) * h + j]


def forward(gates: Array, weight: Array, h0: Array, c0: Array, diagonal: bool) -> tuple[Array, Array, Array]:
    shape, h = gates.shape[:4], h0.shape[2]
    full = _channels(h, gates.dtype)
    gates, weight = _padded(gates, 4, h, full), _padded(weight, 4, h, full, rows=True)
    h0, c0 = _padded(h0, 1, h, full), _padded(c0, 1, h, full)
    hidden, cells = (np.empty((*shape, full), gates.dtype) for _ in range(2))
    gated, (taps, lines) = np.empty_like(gates), (weight.shape[1], h0.shape[1])
    per, blocks, workers = _blocks(shape, diagonal, weight)
    memory = np.empty(workers * per * full * (lines + taps - 1 + 5 * lines), gates.dtype)
    arrays = gates, _panels(weight), h0, c0, hidden, cells, gated, memory
    run(_forward_share, (*(x.reshape(-1) for x in arrays), shape, full, taps, diagonal, per, blocks), workers)
    return _unpadded(hidden, 1, h), _unpadded(cells, 1, h), _unpadded(gated, 4, h)


def backward(
    g: Array, weight: Array, h0: Array, c0: Array, hidden: Array, cells: Array, gated: Array, diagonal: bool
) -> tuple[Array, Array, Array, Array]:
    shape, h = g.shape[:4], h0.shape[2]
    full, wide = _channels(h, g.dtype), columns(g.dtype)
    weight, gated = _padded(weight, 4, h, full, rows=True), _padded(gated, 4, h, full)
    g, hidden, cells, h0, c0 = (_padded(x, 1, h, full) for x in (g, hidden, cells, h0, c0))
    taps, lines = weight.shape[1], h0.shape[1]
    per, blocks, workers = _blocks(shape, diagonal, weight)
    dgates = np.empty_like(gated)
    dweight = np.empty((blocks, *weight.shape[1:]), g.dtype)
    dh0, dc0 = np.empty((2, blocks, *h0.shape[1:]), g.dtype)
    panels = _panels(weight.swapaxes(2, 3)[:, ::-1])  # what a cell has read through tap t finds it by the tap mirrored
    around = lines + taps - 1
    memory = np.empty(workers * per * (around * (5 * full + wide) + lines * (full + -(-full // wide) * wide)), g.dtype)
    ones = np.ones(wide, g.dtype)
    arrays = g, panels, h0, c0, hidden, cells, gated, dgates, dweight, dh0, dc0, ones, memory
    run(_backward_share, (*(x.reshape(-1) for x in arrays), shape, full, taps, diagonal, per, blocks), workers)
    parts = blocks // shape[3], shape[3]
    dweight, dh0, dc0 = (x.reshape(*parts, *x.shape[1:]).sum(axis=0) for x in (dweight, dh0, dc0))
    return (
        _unpadded(dgates, 4, h), np.ascontiguousarray(_unpadded(dweight, 4, h)[:, :, :h]), _unpadded(dh0, 1, h),
        _unpadded(dc0, 1, h),
    )  # fmt: skip


def _blocks(shape: tuple[int, ...], diagonal: bool, weight: Array) -> tuple[int, int, int]:
    """Images in a block, and blocks, each of one direction: by the shape alone, so that sums have one order. And
    workers.
    """
    images, height, width, directions = shape
    line = max(1, height * width // max(1, height + width - 1) if diagonal else width)  # on average
    per = max(1, min(CELLS // line, images * directions // BLOCKS))
    return per, -(-images // per) * directions, threads(images * height * width * weight.size)


def _channels(h: int, dtype: Any) -> int:
    """h, or the next number that fills whole registers."""
    whole = columns(dtype) // VECTORS
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
