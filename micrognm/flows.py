"""What the training scripts of flows share beside what those of all density models do (`density`).

Images are dequantised, anew at each presentation, and the likelihood is the bound of `data.dequantise`, in bits for
each dimension of the whole-number image. A run also leaves interpolations.png, between pairs of test images, and
temperatures.png, the same latents at temperatures from 0 to 1.
"""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from micrognm import backend, density, picture, storage
from micrognm.data.dequantise import dequantise
from micrognm.engine import Tensor, no_grad
from micrognm.models.flow.flow import Flow
from micrognm.ops import concat, flip, logsumexp, stack, where

PAIRS, STEPS = 8, 10  # test images that are interpolated, and images from one to the other
TEMPERATURES = (0.0, 0.25, 0.5, 0.7, 0.8, 0.9, 1.0)


@dataclass(kw_only=True)
class Settings(density.Settings):
    """density.Settings, and the flags that every flow has."""

    measures: ClassVar[frozenset[str]] = frozenset({"draws"})
    pad: int = 0
    """rows and columns of zeros around each image; its bits count, its dimensions do not"""
    mirrored: bool = False
    """train on images and their mirror images alike"""
    reversible: bool = False
    """recompute instead of storing: memory that does not grow with the depth, and a longer step"""
    conditional: bool = False
    """tell the model the class of each image"""
    draws: int = 16
    """noises for each test image in the tighter bound, which takes as many passes; 1 for none"""


def task(settings: Settings) -> density.Task:
    """What the settings ask for, with dequantised images."""
    if settings.quick:
        settings.draws = min(settings.draws, 2)
    task, pad = density.Task(settings), settings.pad
    read, levels = task.protocol.read, task.protocol.levels

    def noisy(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        whole = read(images, rng).astype(np.int64)
        return dequantise(np.pad(whole, ((0, 0), (pad, pad), (pad, pad), (0, 0))), levels, rng)

    name = f"{task.protocol.name}-dequantised" + (f"-padded{pad}" if pad else "")
    task.protocol = replace(task.protocol, name=name, read=noisy)
    task.shape = (task.shape[0] + 2 * pad, task.shape[1] + 2 * pad, task.shape[2])
    return task


def mirrored(x: Tensor, settings: Settings, rng: np.random.Generator) -> Tensor:
    """Training images, half of them mirrored where the settings ask for it."""
    return where(backend.uniform(rng, (len(x), 1, 1, 1)) < 0.5, flip(x, axis=2), x) if settings.mirrored else x


@no_grad()
@np.errstate(over="ignore", invalid="ignore")  # `pixels` says what overflowed
def finish(task: density.Task, model: Flow, rng: np.random.Generator, draws: int) -> dict[str, float]:
    """Draw the pictures, and measure how much tighter the bound gets with several noises for each image.

    value_16: the bound log of the mean of p over 16 noises (draws), in the protocol's units. inverse_error: how far,
    in levels, decoding leads from the test images that were encoded. dimensions and padded_dimensions, where images are
    padded: bits are per dimension of the image; Glow's authors divide by those of the padded one, which is less.
    """
    test, protocol = task.source.test, task.protocol
    left = test.labels[: 2 * PAIRS : 2]  # both ends of a row are told the left one's class
    x, ends = task.images(test, slice(2 * PAIRS), rng), told(model, left.repeat(2))
    latents, _ = model.encode(x, *ends)
    inverse_error = float(np.abs((model.decode(latents, *ends) - x).data).max())
    steps = [
        model.decode([z[0::2] * (1 - a) + z[1::2] * a for z in latents], *told(model, left))
        for a in np.linspace(0, 1, STEPS).tolist()
    ]
    draw(model, stack(*steps, axis=1), task, "interpolations", STEPS)

    noise, labels = model.noise(STEPS, rng), told(model, np.arange(STEPS) % len(task.source.classes))
    rows = [model.decode([z * t for z in noise], *labels) for t in TEMPERATURES]
    draw(model, concat(*rows, axis=0), task, "temperatures", STEPS)

    found = {"inverse_error": inverse_error}
    if model.D != protocol.dimensions:
        found |= {"dimensions": protocol.dimensions, "padded_dimensions": model.D}
    if draws > 1:
        found[f"value_{draws}"] = protocol.report(tighter(task, model, rng, draws))
    return found


def tighter(task: density.Task, model: Flow, rng: np.random.Generator, draws: int) -> float:
    """-log of the mean of p over the noises, the mean of the test images', in nats."""
    test, nats = task.source.test, 0.0
    for part in np.array_split(np.arange(len(test)), -(-len(test) // density.EVALUATED)):
        labels = told(model, test.labels[part])
        each = [model.log_prob(task.images(test, part, rng), *labels) for _ in range(draws)]
        nats -= float((logsumexp(stack(*each, axis=0), axis=0) - math.log(draws)).sum().item())
    return nats / len(test)


def told(model: Flow, labels: Any) -> tuple[Any, ...]:
    """Labels as a model takes them: none where it is not told the class."""
    return (labels,) if model.classes else ()


def draw(model: Flow, x: Tensor, task: density.Task, name: str, columns: int) -> None:
    """Continuous images [..., H, W, C] as <out>/<name>.png."""
    picture.grid(pixels(model, x), task.settings.out / f"{name}.png", columns=columns)


@np.errstate(over="ignore", invalid="ignore")
def samples(model: Flow, rng: np.random.Generator) -> np.ndarray:
    """Images in [0, 1] for a square; where the model is told the class, one class a column."""
    side = min(model.classes, 10) or 8
    return pixels(model, model.decode(model.noise(side * side, rng), *told(model, np.arange(side * side) % side)))


def pixels(model: Flow, x: Tensor) -> np.ndarray:
    """Continuous images [..., H, W, C] as images [N, H, W, C] in [0, 1].

    Early in training the inverse of a flow may overflow. Such images are grey, and a line says how many there are.
    """
    x = x.reshape(shape=(-1, *model.shape))
    lost = ~np.isfinite(x.data).all(axis=(1, 2, 3), keepdims=True)
    if lost.any():
        print(f"{int(lost.sum())} of {len(x)} images overflow in decoding, and are drawn grey", file=sys.stderr)
    return model.quantise(where(lost, model.levels / 2, x)).numpy() / (model.levels - 1)


def draw_curves(logs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """The validation curves of several runs in one picture: the lines of each one's log.jsonl by the run's name."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    panel = figure.subplots()
    for name, log in logs.items():
        metric = next(key for key in log[0] if key.startswith("valid_"))
        panel.plot([row["epoch"] for row in log], [row[metric] for row in log], label=name.replace("_", ", "))
        panel.set_ylabel(metric.replace("_", " "))
    panel.set_xlabel("epoch")
    panel.grid(alpha=0.3)
    panel.legend(frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    storage.write(path, file.getvalue())
