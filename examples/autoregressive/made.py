"""Train MADE (Germain et al. 2015) and report its test likelihood.

python examples/autoregressive/made.py                          scikit-learn's digits, binary
python examples/autoregressive/made.py --grey                   the same with all 17 levels, in bits per dimension
python examples/autoregressive/made.py --data mnist --masks 1   MNIST, downloaded where --root does not hold it
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from micrognm import Tensor, backend, concat, data, loop, no_grad, picture, where
from micrognm.metrics import bits_per_dimension
from micrognm.models.autoregressive.made import MADE
from micrognm.optim import Adam, cosine

# What a simpler model reaches on the same test images; benchmarks/baselines.py prints these.
BASELINES = {"digits-binary": 18.10, "digits-17": 2.18, "mnist-dynamic": 205.7}


@dataclass(kw_only=True)
class Settings(loop.Settings):
    data: str = "digits"
    epochs: int = 200
    out: Path = Path("runs/made")
    grey: bool = False
    """keep all grey levels, each pixel a softmax over them, instead of binarising"""
    hidden: tuple[int, ...] = (1000,)
    """units of each hidden layer"""
    masks: int = 8
    """how many orders and degrees to train over, and to average at test time"""
    direct: bool = False
    """connect input and output directly as well"""
    dropout: float = 0.2
    """share of the hidden units left out in training"""
    batch: int = 64
    """images a step"""
    lr: float = 4e-3
    """learning rate at the start; it falls along a cosine"""


def main(settings: Settings) -> None:
    backend.use(settings.device)
    if settings.quick:
        settings.epochs = 2
    source = data.load(settings.data, settings.root)
    levels = source.levels if settings.grey else 2
    protocol = (
        f"{source.name}-{levels}"
        if settings.grey
        else f"{source.name}-{'binary' if source.levels < 256 else 'dynamic'}"
    )
    metric = "bits_per_dim" if settings.grey else "nats"

    def read(images: np.ndarray, rng: np.random.Generator) -> Tensor:
        """Images as the model takes them. Few levels are binarised at the middle, 256 at random (both named so)."""
        if settings.grey:
            return Tensor(images.astype(np.int64))
        if source.levels < 256:
            return Tensor(data.threshold(images, at=source.levels // 2))
        return Tensor(data.dynamic(images, source.levels, rng))

    rng = np.random.default_rng(settings.seed)
    shape = source.train.images.shape[1:]
    model = MADE(
        shape,
        settings.hidden,
        rng,
        levels=levels,
        masks=settings.masks,
        direct=settings.direct,
        dropout=settings.dropout,
    )
    batches = data.Batches(len(source.train), settings.batch, settings.seed)
    optimiser = Adam(model, lr=cosine(settings.lr, settings.epochs * len(batches)))

    def loss(indices: np.ndarray, rng: np.random.Generator) -> Tensor:
        return -model.log_prob(read(source.train.images[indices], rng), optimiser.steps % model.S).mean()

    @no_grad()
    def likelihood(split: data.Split, rng: np.random.Generator) -> float:
        """Mean negative log-likelihood of the ensemble."""
        parts = np.array_split(split.images, -(-len(split) // 500))
        nats = -np.concatenate([model.log_prob(read(part, rng)).numpy() for part in parts]).mean()
        return bits_per_dimension(nats, model.D) if settings.grey else nats

    fitted = loop.fit(
        model,
        optimiser,
        batches,
        loss,
        settings=settings,
        rng=rng,
        evaluate=lambda rng: {metric: likelihood(source.valid, rng)},
        select=metric,
        loss_name="nats",
        sample=lambda rng: model.sample(64, rng).numpy() / (levels - 1),
    )
    known = np.zeros(shape, bool)
    known[: shape[0] // 2] = True  # the upper half
    rng = np.random.default_rng(settings.seed)
    with no_grad():
        value = likelihood(source.test, rng)
        images = read(source.test.images[:16], rng)
        occluded = where(known, images, 0)
        rows = [images, occluded, *(model.complete(images, known, rng) for _ in range(6))]
    picture.grid(concat(*rows, axis=0).numpy() / (levels - 1), settings.out / "completions.png", columns=16)
    loop.result(
        settings,
        paper="made",
        data=protocol,
        split="test",
        metric=metric,
        value=value,
        baseline=BASELINES.get(protocol, math.log2(levels) if settings.grey else model.D * math.log(2)),
        seconds=fitted.seconds,
    )


if __name__ == "__main__":
    main(loop.parse(Settings))
