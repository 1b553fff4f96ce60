"""Pictures of a run as PNG files: images in a grid, and learning curves."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from micrognm import storage

GUTTER = 2  # pixels between images
GREY = 128  # of the gutters: told from black and from white


def grid(images: ArrayLike, path: str | os.PathLike[str], columns: int | None = None, scale: int | None = None) -> None:
    """Write images [N, H, W, C], grey (C = 1) or RGB (C = 3), uint8 or floats in [0, 1], row by row into one PNG file.

    columns: images a row; by default as many as rows, nearly. scale: the side of the square that shows a pixel; by
    default images grow to about 64 pixels. Raises ValueError or TypeError for anything else.
    """
    from PIL import Image

    pixels = _eight_bit(np.asarray(images))
    n, height, width, channels = pixels.shape
    columns = math.ceil(math.sqrt(n)) if columns is None else columns
    scale = max(1, 64 // max(height, width)) if scale is None else scale
    for name, value in (("columns", columns), ("scale", scale)):
        if value < 1:
            raise ValueError(f"grid: {name} must be 1 or more, not {value}")
    pixels = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
    down, right = height * scale + GUTTER, width * scale + GUTTER
    canvas = np.full((-(-n // columns) * down + GUTTER, columns * right + GUTTER, channels), GREY, np.uint8)
    for i, image in enumerate(pixels):
        y, x = i // columns * down + GUTTER, i % columns * right + GUTTER
        canvas[y : y + height * scale, x : x + width * scale] = image
    file = io.BytesIO()
    Image.fromarray(canvas[..., 0] if channels == 1 else canvas).save(file, "PNG", optimize=True)
    storage.write(path, file.getvalue())


def _eight_bit(images: NDArray[Any]) -> NDArray[np.uint8]:
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise ValueError(f"grid: images must be [N, H, W, 1] or [N, H, W, 3], none of them 0, not {list(images.shape)}")
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind != "f":
        raise TypeError(f"grid: images must be uint8, or floats in [0, 1], not {images.dtype}")
    if not (images.min() >= 0 and images.max() <= 1):  # NaN fails too
        raise ValueError(f"grid: float images must be in [0, 1], these go from {images.min():g} to {images.max():g}")
    return np.rint(images * 255).astype(np.uint8)


def curves(log: str | os.PathLike[str] | Iterable[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Draw the lines of a log.jsonl, or the same as dictionaries, against the step, into one PNG file.

    Each quantity has its panel, in which `train_<quantity>` and `valid_<quantity>` stand together. Raises ValueError
    where there is nothing to draw.
    """
    from matplotlib.figure import Figure  # not pyplot, which may open windows and keeps figures alive

    rows: list[Mapping[str, Any]]
    if isinstance(log, str | os.PathLike):
        rows = [json.loads(line) for line in Path(log).read_text().splitlines()]
    else:
        rows = list(log)
    names = list(dict.fromkeys(name for row in rows for name in row if name.startswith(("train_", "valid_"))))
    quantities = list(dict.fromkeys(name.split("_", 1)[1] for name in names))
    if not quantities:
        raise ValueError("curves: the log has no line with a train_... or valid_... entry; run one evaluation first")
    figure = Figure(figsize=(6, 1 + 2.5 * len(quantities)), layout="constrained")
    panels = figure.subplots(len(quantities), sharex=True, squeeze=False)[:, 0]
    for panel, quantity in zip(panels, quantities, strict=True):
        for split, label, colour in (("train", "training", "tab:blue"), ("valid", "validation", "tab:orange")):
            points = [(row["step"], row[f"{split}_{quantity}"]) for row in rows if f"{split}_{quantity}" in row]
            if points:
                marker = "." if len(points) < 30 else ""  # a single point makes no line
                panel.plot(*zip(*points, strict=True), color=colour, label=label, marker=marker)
        panel.set_ylabel(quantity.replace("_", " "))
        panel.grid(alpha=0.3)
        panel.legend(frameon=False)
    panels[-1].set_xlabel("training step (one batch each)")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    storage.write(path, file.getvalue())
