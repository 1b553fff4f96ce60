"""What the training scripts of density models share: their flags, and the way from the data to the result line.

A model has log_prob(x[, labels]) -> [N] nats, sample(n, rng[, labels]) and complete(x, known, rng[, labels]). A run
leaves, beside what `loop.fit` does, completions.png: test images, their upper halves, and what the model drew below.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from micrognm import backend, data, loop, picture
from micrognm.engine import Tensor, no_grad
from micrognm.ops import concat, where
from micrognm.optim import EMA, Optimiser

# What a simpler model reaches on the same test images; benchmarks/baselines.py prints these.
BASELINES = {"digits-binary": 18.10, "digits-17": 2.18, "digits-17-dequantised": 2.44, "mnist-dynamic": 205.7}
EVALUATED = 500  # images at once, at most
COMPLETED, ROWS = 16, 6  # images that are completed, and how often each


@dataclass(kw_only=True)
class Settings(loop.Settings):
    """loop.Settings, and the flags that every density model has; a script gives lr and average its defaults."""

    data: str = "digits"
    levels: Literal["all", "binary"] = "all"
    """of a pixel: all that the data has, or two (few are cut at the middle, 256 are binarised at random)"""
    batch: int = 64
    """images a step"""
    lr: float
    """learning rate at the start; it falls along a cosine"""
    average: float
    """decay of the moving average of the weights, which is what is evaluated; 0 for none"""


class Task:
    """What the settings ask for: data, protocol, batches, and the generator of everything random."""

    def __init__(self, settings: Settings) -> None:
        backend.use(settings.device)
        if settings.quick:
            settings.epochs = 1
        self.settings = settings
        self.source = data.load(settings.data, settings.root)
        self.protocol = data.protocol(self.source, settings.levels)
        self.shape = self.source.train.images.shape[1:]
        self.batches = data.Batches(len(self.source.train), settings.batch, settings.seed)
        self.steps = settings.epochs * len(self.batches)
        self.rng = np.random.default_rng(settings.seed)

    def images(self, split: data.Split, chosen: Any, rng: np.random.Generator) -> Tensor:
        """Images of a split as the model takes them."""
        return Tensor(self.protocol.read(split.images[chosen], rng))


def fit(
    task: Task,
    model: Any,
    optimiser: Optimiser,
    *,
    paper: str,
    labelled: bool = False,
    train: Callable[..., Tensor] | None = None,
    estimate: Callable[[Tensor, np.random.Generator, bool], Tensor] | None = None,
    sample: Callable[[np.random.Generator], np.ndarray] | None = None,
    finish: Callable[[np.random.Generator], Mapping[str, str | float]] | None = None,
) -> None:
    """Fit the model, evaluate the weights that validation chose on the test split, draw, and print the result line.

    labelled: the model is told the labels. train(x[, labels]): [N] log-probabilities to maximise, where they are not
    model.log_prob's. estimate(images, rng, final): the same to evaluate; `final` on test, where it may take longer.
    sample: images in [0, 1] for samples.png, where they are not model.sample's. finish: what else is done in the end,
    instead of completions.png; it returns further fields of the result line.
    """
    settings, protocol, source = task.settings, task.protocol, task.source

    def given(labels: np.ndarray) -> tuple[Any, ...]:
        return (backend.asarray(labels),) if labelled else ()

    def loss(indices: np.ndarray, rng: np.random.Generator) -> Tensor:
        x = task.images(source.train, indices, rng)
        return -(train or model.log_prob)(x, *given(source.train.labels[indices])).mean()

    @no_grad()
    def likelihood(split: data.Split, rng: np.random.Generator) -> float:
        """The mean negative log-likelihood, in the protocol's units."""
        nats = 0.0
        for part in np.array_split(np.arange(len(split)), -(-len(split) // EVALUATED)):
            x, labels = task.images(split, part, rng), given(split.labels[part])
            found = estimate(x, rng, split is source.test) if estimate else model.log_prob(x, *labels)
            nats -= float(found.sum().item())
        return protocol.report(nats / len(split))

    def samples(rng: np.random.Generator) -> np.ndarray:
        """A square of images; where labels are told, each column has its own."""
        side = min(len(source.classes), 10) if labelled else 8
        return model.sample(side * side, rng, *given(np.arange(side * side) % side)).numpy() / (protocol.levels - 1)

    fitted = loop.fit(
        model,
        optimiser,
        task.batches,
        loss,
        settings=settings,
        rng=task.rng,
        evaluate=lambda rng: {protocol.metric: likelihood(source.valid, rng)},
        select=protocol.metric,
        loss_name="nats",
        sample=sample or samples,
        ema=EMA(optimiser, _rising(settings.average)) if settings.average else None,
    )
    rng = np.random.default_rng(settings.seed)
    value = likelihood(source.test, rng)
    more = finish(rng) if finish else draw_completions(task, model, rng, *given(source.test.labels[:COMPLETED]))
    nothing = math.log2(protocol.levels) if protocol.metric == "bits_per_dim" else protocol.dimensions * math.log(2)
    loop.result(
        settings,
        paper=paper,
        data=protocol.name,
        split="test",
        metric=protocol.metric,
        value=value,
        baseline=BASELINES.get(protocol.name, nothing),
        seconds=fitted.seconds,
        **more,
    )


def _rising(decay: float) -> Callable[[int], float]:
    """A moving average that forgets the first weights soon: it is of all steps, nearly, until there are many."""
    return lambda step: min(decay, (1 + step) / (10 + step))


@no_grad()
def draw_completions(task: Task, model: Any, rng: np.random.Generator, *labels: Any) -> dict[str, float]:
    """completions.png: test images, whose labels may be told, their upper halves, and six completions of each."""
    H, W, _ = task.shape
    images = task.images(task.source.test, slice(COMPLETED), rng)
    known = np.zeros((H, W, 1), bool)
    known[: H // 2] = True
    rows = [images, where(known, images, 0), *(model.complete(images, known, rng, *labels) for _ in range(ROWS))]
    pixels = concat(*rows, axis=0).numpy() / (task.protocol.levels - 1)
    picture.grid(pixels, task.settings.out / "completions.png", columns=COMPLETED)
    return {}
