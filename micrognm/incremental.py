"""Samplers that never recompute: a model's own forward runs at one place of the image at a time.

    with incremental() as at:
        for y in range(H):
            for x in range(W):
                with at(y, x):
                    logits = model.logits(image)  # [N, 1, 1, ...], for this pixel alone

At a place, a layer that reads its neighbours is given the whole image, and reads it; or the part of a map that belongs
to the place, which it keeps, and reads with what it kept before. So each part of each map is computed once, and an
image costs about one forward pass in all. Weights that are computed from parameters are computed once. Everything else
sees a [N, 1, width, C] tensor and needs no change. What is read must have been computed, so the model must be causal.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from micrognm import backend
from micrognm.engine import Tensor, no_grad, tensor
from micrognm.taps import Taps


class _Place(threading.local):
    """Where the running thread is: row y, columns left to right, of an image of `size`; nowhere outside of `at`."""

    kept: dict[Any, Any] | None = None
    y: int = -1
    left: int = 0
    right: int = 0
    size: tuple[int, int] = (0, 0)


place = _Place()


@contextmanager
def incremental(size: tuple[int, int]) -> Iterator[Callable[..., Any]]:
    """Inside, `with at(y):` is row y, and `with at(y, x):` a pixel, of images of `size`. Nothing is recorded."""

    @contextmanager
    def at(y: int, x: int | None = None) -> Iterator[None]:
        place.y, place.left, place.right = (y, 0, size[1]) if x is None else (y, x, x + 1)
        try:
            yield
        finally:
            place.y = -1

    if place.kept is not None:
        raise RuntimeError("incremental: already inside another one")
    place.kept, place.size = {}, size
    try:
        with no_grad():
            yield at
    finally:
        place.kept = None


def active() -> bool:
    """Whether a place is set."""
    return place.y >= 0


def here(x: Tensor) -> Tensor:
    """The part of a whole map [N, H, W, ...] that belongs to the place; the map itself outside of one."""
    return x[:, place.y : place.y + 1, place.left : place.right] if active() else x


def once(owner: Any, name: str, compute: Callable[[], Any]) -> Any:
    """compute(), kept for the other places: for what depends on parameters alone."""
    if not active():
        return compute()
    kept = place.kept
    assert kept is not None
    if (id(owner), name) not in kept:
        kept[id(owner), name] = compute()
    return kept[id(owner), name]


def conv(layer: Any, x: Tensor, weight: Tensor, bias: Tensor | None, taps: Taps) -> Tensor:
    """The convolution at the place: x is the whole image, or its part there."""
    T, C, wide = weight.shape
    rows = x.data.reshape(-1, C) if taps.offsets == ((0, 0),) else _read(layer, x.data, taps)
    out = rows @ weight.data.reshape(T * C, wide)
    if bias is not None:
        out += bias.data
    return tensor(out.reshape(x.shape[0], 1, place.right - place.left, wide))


def _read(layer: Any, x: Any, taps: Taps) -> Any:
    """[N * width, taps * C]: what the taps read at the place, zero outside of the image."""
    kept, (H, W), y, left, right = place.kept, place.size, place.y, place.left, place.right
    assert kept is not None
    N, C = x.shape[0], x.shape[-1]
    if x.shape[1:3] != (H, W) or (H, W) == (1, right - left):  # a part: its row and those above it are kept, by turns
        if id(layer) not in kept:
            if taps.offsets[-1] > (0, W if right - left == W else 0):
                raise ValueError(f"incremental: these taps read what comes after the pixel:\n{taps.draw()}")
            kept[id(layer)] = np.zeros_like(x, shape=(N, 1 - taps.offsets[0][0], W, C))
        row, x = x[:, 0], kept[id(layer)]
        x[:, y % x.shape[1], left:right] = row
    index, outside = _index(kept, taps, x.shape[1])
    found = x.reshape(N, -1, C).take(index, axis=1)
    if len(outside):
        found[:, outside] = 0
    return found.reshape(N * (right - left), -1)


def _index(kept: dict[Any, Any], taps: Taps, height: int) -> tuple[Any, Any]:
    """Where the taps read at the place in images of this height, taken by turns: pixels, and which lie outside."""
    (H, W), y, left, right = place.size, place.y, place.left, place.right
    key = taps.offsets, height, y, left, right
    if key not in kept:
        offsets = np.array(taps.offsets)
        rows = np.tile(y + offsets[:, 0], right - left)
        columns = (np.arange(left, right)[:, None] + offsets[:, 1]).reshape(-1)
        outside = (rows < 0) | (rows >= H) | (columns < 0) | (columns >= W)
        index = rows % height * W + columns.clip(0, W - 1)
        kept[key] = backend.asarray(index), backend.asarray(np.flatnonzero(outside))
    return kept[key]


def column(row: Tensor) -> Tensor:
    """The part of a whole row [N, 1, W, ...] that belongs to the place; the map itself outside of one."""
    return row[:, :, place.left : place.right] if active() else row
