"""Train VQ-VAE-2 and its priors (Razavi et al. 2019); report the classification accuracy score (CAS) of its samples.

python examples/latent/vq_vae_2.py                 digits: a map of 4x4 codes under one of 2x2
python examples/latent/vq_vae_2.py --data mnist --halvings 1 1 --K 128 --D 32 --epochs 8 --prior-epochs 10

CAS: the accuracy on test images of a logistic regression that saw samples alone; the baseline is chance. cas_kept:
trained on the `keep` share of them that a classifier of real images recognises best; cas_reconstructed and cas_real: on
reconstructed and on real training images. mse is of pixels of 0 to 1; mse_top that of the same network trained with the
top level alone. nats_0, nats_1 ...: what the codes of a test image cost under the prior of each level, the top first,
histogram_...: under how often each code occurs at each place. Pictures: samples.png, a column a class; kept.png, the
most recognised; reconstructions.png, test images, of all levels, of the top alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from micrognm import loop, picture
from micrognm.codes import Settings as Shared
from micrognm.codes import Task, histogram_nats, nats, parts
from micrognm.metrics import classification_accuracy_score, linear_classifier, most_recognised
from micrognm.models.latent.vq_vae_2 import VQVAE2, Prior
from micrognm.nn.quantiser import perplexity

SHOWN = 16


@dataclass(kw_only=True)
class Settings(Shared):
    measures: ClassVar[frozenset[str]] = frozenset({"samples"})
    epochs: int = 40
    out: Path = Path("runs/vq_vae_2")
    prior_epochs: int = 12
    halvings: tuple[int, ...] = (1, 1)
    """how often each level halves the sides of the one below it, bottom first"""
    h: int = 48
    K: int = 32
    D: int = 16
    F: int = 32
    """features of the top's PixelSNAIL"""
    p: int = 32
    """features of the other levels' Gated PixelCNNs"""
    layers: int = 4
    """of these"""
    samples: int = 2000
    """how many to draw for the CAS"""
    keep: float = 0.5
    """share of the samples that are not rejected"""


def main(settings: Settings) -> None:
    task = Task(settings)
    if settings.quick:
        settings.samples = 200
    source, K, second = task.source, settings.K, task.rng(2)
    train, valid, test = source.train, source.valid, source.test
    classes = len(source.classes)

    def trained(halvings: tuple[int, ...], folder: str) -> VQVAE2:
        rng = task.rng(1)
        model = VQVAE2(
            task.shape,
            rng,
            levels=source.levels,
            halvings=halvings,
            h=settings.h,
            K=K,
            D=settings.D,
            beta=settings.beta,
            decay=settings.decay,
        )
        task.fit(model, rng, folder)
        return model

    model, top = trained(settings.halvings, ""), trained((sum(settings.halvings),), "top")
    codes = {split: task.codes(model, split) for split in (train, valid, test)}
    prior = Prior(model.sizes, K, second, classes=classes, F=settings.F, p=settings.p, layers=settings.layers)

    def draw(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Images and their classes, by turns; a few at once."""
        asked = np.arange(n) % classes
        images = [model.decode(prior.sample(len(part), rng, asked[part])).numpy() for part in parts(n)]
        return np.concatenate(images), asked

    task.fit_prior(prior, prior.terms, codes[train], codes[valid], second, lambda rng: draw(10 * classes, rng)[0])

    samples, asked = draw(settings.samples, task.rng(0))
    kept = most_recognised(linear_classifier(task.pixels(train), train.labels), samples, asked, settings.keep)
    picture.grid(samples[: 10 * classes], settings.out / "samples.png", columns=classes)
    columns = np.stack([kept[asked[kept] == c][: settings.samples // classes // 4] for c in range(classes)], axis=1)
    picture.grid(samples[columns[:10].reshape(-1)], settings.out / "kept.png", columns=classes)
    some = task.images(test, slice(SHOWN))
    rows = [task.pixels(test)[:SHOWN], *(each.decode(each.encode(some)).numpy() for each in (model, top))]
    picture.grid(np.concatenate(rows), settings.out / "reconstructions.png", columns=SHOWN)

    real, labels = task.pixels(test), test.labels
    again = np.concatenate([model.decode([x[part] for x in codes[train]]).numpy() for part in parts(len(train))])
    level_nats = nats(prior.terms, codes[test], labels)
    more: dict[str, float] = {
        "cas_kept": classification_accuracy_score(samples[kept], asked[kept], real, labels),
        "cas_reconstructed": classification_accuracy_score(again, train.labels, real, labels),
        "cas_real": classification_accuracy_score(task.pixels(train), train.labels, real, labels),
        "mse": task.mean(model.squared_error, test),
        "mse_top": task.mean(top.squared_error, test),
    }
    for i, (each, known) in enumerate(zip(codes[test], codes[train], strict=True)):
        more[f"perplexity_{i}"] = perplexity(each, K)
        more[f"nats_{i}"], more[f"histogram_{i}"] = level_nats[i], histogram_nats(known, each, K)
    loop.result(
        settings,
        paper="vq_vae_2",
        data=source.name,
        split="test",
        metric="cas",
        value=classification_accuracy_score(samples, asked, real, labels),
        baseline=1 / classes,
        seconds=task.seconds,
        **more,
    )


if __name__ == "__main__":
    main(loop.parse(Settings))
