"""Train Gated PixelCNN (van den Oord et al. 2016b) and report its test likelihood.

python examples/autoregressive/gated_pixelcnn.py                   scikit-learn's digits, all 17 levels
python examples/autoregressive/gated_pixelcnn.py --conditional     the same, told the class
python examples/autoregressive/gated_pixelcnn.py --data mnist --levels binary ...    see README.md for the long run
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from micrognm import density, loop, no_grad
from micrognm.models.autoregressive.gated_pixelcnn import GatedPixelCNN
from micrognm.optim import Adam, cosine, warmup


@dataclass(kw_only=True)
class Settings(density.Settings):
    epochs: int = 20
    out: Path = Path("runs/gated_pixelcnn")
    lr: float = 3e-3
    average: float = 0.995
    conditional: bool = False
    """tell the model the class of each image"""
    layers: int = 5
    """pairs of a vertical and a horizontal convolution"""
    dilations: tuple[int, ...] = (1,)
    """how far apart their taps are, layer by layer and from the start again"""
    p: int = 32
    """features of each stack"""
    head: int = 64
    """features of the last 1x1 convolutions"""


def main(settings: Settings) -> None:
    task = density.Task(settings)
    classes = len(task.source.classes) if settings.conditional else 0
    model = GatedPixelCNN(
        task.shape,
        task.rng,
        levels=task.protocol.levels,
        layers=settings.layers,
        dilations=settings.dilations,
        p=settings.p,
        head=settings.head,
        classes=classes,
    )
    optimiser = Adam(model, lr=warmup(cosine(settings.lr, task.steps), 100))
    finish = (lambda rng: recognised(task, model, rng)) if settings.conditional else None
    density.fit(task, model, optimiser, paper="gated_pixelcnn", labelled=settings.conditional, finish=finish)


@no_grad()
def recognised(task: density.Task, model: GatedPixelCNN, rng: np.random.Generator) -> dict[str, float]:
    """The share of samples that a nearest-neighbour classifier, of the training images, sees as the asked class."""
    from sklearn.neighbors import KNeighborsClassifier

    train, labels = task.source.train, np.arange(500) % len(task.source.classes)
    classifier = KNeighborsClassifier(1)
    classifier.fit(task.protocol.read(train.images, rng).reshape(len(train), -1), train.labels)
    found = classifier.predict(model.sample(len(labels), rng, labels).numpy().reshape(len(labels), -1))
    density.draw_completions(task, model, rng, task.source.test.labels[: density.COMPLETED])
    return {"recognised": float((found == labels).mean())}


if __name__ == "__main__":
    main(loop.parse(Settings))
