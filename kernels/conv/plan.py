"""Where a convolution finds and writes each pixel: tables for one shape, made once and kept."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

Array = Any
JOB_BYTES = 1 << 18  # of padded image that a job works on: half of a level 2 cache
JOBS = 8  # at least, where there is work for them
MOST_ROWS = 8  # of a tile


class Plan(NamedTuple):
    """Where things are, for one shape: what a job reads, and tables of addresses. Counts are of elements.

    A job is `images` images or `band` rows (of the first axis) of one; it works on a padded copy of what it reads.
    """

    table: Array  # where the next six start in it, then they: compiled code gets this alone
    geometry: Array  # see the end of `plan`
    phases: Array  # five numbers each: rows, pixels a row, start in `source`, start in `steps`, number of steps
    source: Array  # of every pixel that a job writes: where its tap (0, 0) is in the padded copy
    target: Array  # and where it is written, from the start of what the job writes
    steps: Array  # of every tap and channel: from the pixel's source
    lines: Array  # where lines of `lanes` sums start: as many as steps, or as rows of a tile
    taps: Array  # the taps in the order of steps
    jobs: int
    scratch: int  # elements of the padded copy


@lru_cache(maxsize=512)
def plan(
    n: int, space: tuple[int, ...], channels: int, inputs: int, outputs: int, offsets: tuple[tuple[int, ...], ...],
    stride: tuple[int, ...], shape: tuple[int, ...], wide: int, lanes: int, transposed: bool,
) -> Plan:  # fmt: skip
    """The plan for reading [n, *space, channels] and writing [n, *shape, outputs]; inputs: the channels of a group.

    wide: elements from pixel to pixel in the padded copy; `channels` unless the kernel wants a gap there. lanes:
    outputs that a tile sums at once.
    """
    space, shape, stride = _three(space), _three(shape), _three(stride)
    taps = np.array([_three(o, 0) for o in offsets], np.int64).reshape(len(offsets), 3)
    # A phase: pixels q = first + step j; the tap of pixel j is at j scale + offset.
    phases: list[tuple[tuple[int, ...], Array, Array]] = []
    if transposed:
        scale, step = (1, 1, 1), stride
        for first in np.ndindex(*stride):
            if all(f < size for f, size in zip(first, shape, strict=True)):
                own = np.flatnonzero(((taps - first) % stride == 0).all(1))
                phases.append((first, own, (first - taps[own]) // stride))
    else:
        scale, step = stride, (1, 1, 1)
        phases.append(((0, 0, 0), np.arange(len(taps)), taps))
    used = np.concatenate([o for _, _, o in phases] or [np.zeros((0, 3), np.int64)])
    low, high = (used.min(0), used.max(0)) if len(used) else (np.zeros(3, np.int64), np.zeros(3, np.int64))
    counts = [[-(-(size - f) // s) for size, f, s in zip(shape, first, step, strict=True)] for first, _, _ in phases]
    most = np.array(counts).max(0) if counts else np.zeros(3, np.int64)
    extent = [int((m - 1) * s + h - lo + 1) if m else 0 for m, s, h, lo in zip(most, scale, high, low, strict=True)]

    inner = extent[1] * extent[2] * wide  # elements of a row of the padded copy
    whole = 0 < extent[1] == space[1] and 0 < extent[2] == space[2] and not low[1:].any() and wide == channels
    rows, pixels = int(most[0]), int(most[1] * most[2]) * len(phases)
    span = int(high[0] - low[0]) + 1
    images = 1
    band = max(1, min(rows, (JOB_BYTES // 4 // max(inner, 1) - span) // scale[0] + 1))
    band = min(band, max(1, -(-rows * n // JOBS), -(-48 // max(pixels, 1))))
    band = max(1, min(rows, -(-rows // max(1, -(-rows // band)))))  # equal bands
    if band >= rows:
        fit = JOB_BYTES // 4 // max(extent[0] * inner, 1)
        images = max(1, min(n, fit, -(-256 // max(rows * pixels, 1)), max(1, -(-n // JOBS))))
    height = (band - 1) * scale[0] + span
    # An image whose every tap lies inside is read where it is.
    inside = whole and images > 1 and low[0] == 0 and height == space[0]
    direct = whole and (images == 1 or inside)

    table: list[tuple[int, ...]] = []
    source: list[Array] = []
    target: list[Array] = []
    steps: list[Array] = []
    order: list[Array] = []
    at = here = 0
    pitch = (inner, extent[2] * wide, wide)
    out = (shape[1] * shape[2] * outputs, shape[2] * outputs, outputs)
    for (first, own, offset), count in zip(phases, counts, strict=True):
        j = np.indices((images, min(band, count[0]), count[1], count[2])).reshape(4, -1)
        s = j[0] * height * inner + sum(j[a + 1] * scale[a] * pitch[a] for a in range(3))
        t = j[0] * shape[0] * out[0] + sum((j[a + 1] * step[a] + first[a]) * out[a] for a in range(3))
        k = ((offset - low) @ np.array(pitch))[:, None] + np.arange(inputs)
        table.append((count[0], count[1] * count[2], at, here, k.size))
        for tables, found in ((source, s), (target, t), (steps, k.ravel()), (order, own)):
            tables.append(found)
        at, here = at + s.size, here + k.size
    bands = -(-rows // band) if rows else 0
    parts = [
        np.array([
            n, *space, channels, wide, *low, *extent[1:], height, images, band, bands, scale[0], direct,
            shape[0] * out[0], step[0] * out[0],
        ]),
        np.array(table).ravel(), *map(_join, (source, target, steps)), np.arange(max(here, MOST_ROWS)) * lanes,
    ]  # fmt: skip
    starts = len(parts) + np.cumsum([0, *map(len, parts)])
    joined = _join([starts[:-1], *parts])
    each = [joined[i:j] for i, j in itertools.pairwise(starts)]
    return Plan(
        joined, *each, taps=_join(order),  # type: ignore[misc]  # mypy does not count the parts
        jobs=-(-n // images) * bands if pixels else 0,
        scratch=images * height * inner + 64,  # vector loads of the last channels may read past the end
    )  # fmt: skip


def _three(v: Sequence[int], fill: int = 1) -> tuple[int, int, int]:
    """d numbers as three: [L], [H, ., W], [D, H, W]; the first axis is the one that jobs divide."""
    v = tuple(v)
    return v if len(v) == 3 else (v[0], fill, v[1]) if len(v) == 2 else (v[0], fill, fill)


def _join(parts: list[Array]) -> Array:
    return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)
