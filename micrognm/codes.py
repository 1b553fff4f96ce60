"""What the training scripts of VQ-VAE and VQ-VAE-2 share: their flags, and the two stages.

First an autoencoder learns to turn images into codes and back, then a prior learns which codes go together; the first
is not changed by the second. The codes of a split are a list, one array [N, h, w] a level, the top first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from micrognm import backend, data, loop
from micrognm.engine import Tensor, no_grad
from micrognm.models.latent.vq_vae import Autoencoder
from micrognm.nn import Module
from micrognm.nn.quantiser import perplexity
from micrognm.optim import Adam, cosine

EVALUATED = 500  # images at once, at most
Codes = list[np.ndarray]
Terms = Callable[[list[Tensor], Any], Sequence[Tensor]]  # (codes, labels) -> log p of each level, [N] nats each


@dataclass(kw_only=True)
class Settings(loop.Settings):
    """loop.Settings, and what both scripts ask; a script gives the sizes its defaults."""

    data: str = "digits"
    prior_epochs: int
    """how often the prior goes through the codes"""
    batch: int = 64
    """images a step"""
    lr: float = 2e-3
    """of the autoencoder at the start; it falls along a cosine"""
    prior_lr: float = 3e-3
    """of the prior at the start; it falls along a cosine"""
    h: int
    """features of encoder and decoder"""
    K: int
    """entries of a codebook"""
    D: int
    """numbers of an entry"""
    beta: float = 0.25
    """weight of the commitment"""
    decay: float = 0.99
    """of the codebook's averages; 0 trains it by the loss instead"""


class Task:
    """The data, and the stages of a run."""

    def __init__(self, settings: Settings) -> None:
        backend.use(settings.device)
        if settings.quick:
            settings.epochs = settings.prior_epochs = 1
        self.settings = settings
        self.source = data.load(settings.data, settings.root)
        self.shape = self.source.train.images.shape[1:]
        self.seconds = 0.0

    def rng(self, stage: int) -> np.random.Generator:
        """The generator of all that is random in a stage."""
        return np.random.default_rng([self.settings.seed, stage])

    def images(self, split: data.Split, chosen: Any = slice(None)) -> Tensor:
        """Images as a model takes them."""
        return Tensor(split.images[chosen].astype(np.int64))

    def pixels(self, split: data.Split) -> np.ndarray:
        """Images [N, H, W, C] of [0, 1]."""
        return split.images / np.float32(self.source.levels - 1)

    @no_grad()
    def mean(self, values: Callable[[Tensor], Tensor], split: data.Split) -> float:
        """Of values(images), [N], over a split."""
        return float(np.mean(np.concatenate([values(self.images(split, part)).numpy() for part in parts(len(split))])))

    def codes(self, model: Autoencoder, split: data.Split) -> Codes:
        """The codes of a split, in two bytes each."""
        found = [model.encode(self.images(split, part)) for part in parts(len(split))]
        levels = zip(*(x if isinstance(x, list) else [x] for x in found), strict=True)
        return [np.concatenate([x.numpy() for x in level]).astype(np.uint16) for level in levels]

    def fit(self, model: Autoencoder, rng: np.random.Generator, folder: str = "") -> None:
        """Train an autoencoder; validation's squared error chooses. The perplexity of each level is in the log."""
        settings, source = self.settings, self.source

        def evaluate(rng: np.random.Generator) -> dict[str, float]:
            used = [perplexity(codes, settings.K) for codes in self.codes(model, source.valid)]
            names = [f"perplexity_{i}" for i in range(len(used))] if len(used) > 1 else ["perplexity"]
            return {"mse": self.mean(model.squared_error, source.valid), **dict(zip(names, used, strict=True))}

        batches = data.Batches(len(source.train), settings.batch, settings.seed)
        self.seconds += loop.fit(
            model,
            Adam(model, lr=cosine(settings.lr, settings.epochs * len(batches))),
            batches,
            lambda indices, rng: model.loss(self.images(source.train, indices)),
            settings=replace(settings, out=settings.out / folder),
            rng=rng,
            evaluate=evaluate,
            select="mse",
        ).seconds

    def fit_prior(
        self,
        prior: Module,
        terms: Terms,
        train: Codes,
        valid: Codes,
        rng: np.random.Generator,
        sample: Callable[[np.random.Generator], np.ndarray],
    ) -> None:
        """Train a prior on codes; validation's nats choose. Log and pictures are in the folder `prior` of the run."""
        settings, source = self.settings, self.source

        def loss(indices: np.ndarray, rng: np.random.Generator) -> Tensor:
            found = terms([Tensor(codes[indices]) for codes in train], source.train.labels[indices])
            return -sum(found[1:], found[0]).mean()

        batches = data.Batches(len(source.train), settings.batch, settings.seed)
        self.seconds += loop.fit(
            prior,
            Adam(prior, lr=cosine(settings.prior_lr, settings.prior_epochs * len(batches))),
            batches,
            loss,
            settings=replace(settings, out=settings.out / "prior", epochs=settings.prior_epochs),
            rng=rng,
            evaluate=lambda rng: {"nats": sum(nats(terms, valid, source.valid.labels))},
            select="nats",
            loss_name="nats",
            sample=sample,
        ).seconds


@no_grad()
def nats(terms: Terms, codes: Codes, labels: np.ndarray) -> list[float]:
    """What the codes of an image cost on average under a prior: nats of each level."""
    found = [terms([Tensor(x[part]) for x in codes], labels[part]) for part in parts(len(labels))]
    return [-float(np.mean(np.concatenate([x.numpy() for x in level]))) for level in zip(*found, strict=True)]


def histogram_nats(train: np.ndarray, held_out: np.ndarray, K: int) -> float:
    """What the codes of an image cost on average if all places were independent: what a prior must beat.

    The probability of a code at a place is its share there in `train`, with one count added to each of the K.
    """
    train, held_out = (x.reshape(len(x), -1) for x in (train, held_out))
    total = 0.0
    for place in range(train.shape[1]):
        counts = np.bincount(train[:, place], minlength=K) + 1
        total -= np.log(counts / counts.sum())[held_out[:, place]].mean()
    return float(total)


def parts(n: int) -> list[np.ndarray]:
    """0 .. n - 1 in parts of as many images as are evaluated at once."""
    return np.array_split(np.arange(n), -(-n // EVALUATED))
