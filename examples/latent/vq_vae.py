"""Train VQ-VAE and a PixelCNN over its codes (van den Oord et al. 2017); report the error of reconstructions on test.

python examples/latent/vq_vae.py                   digits as 4x4 codes of 32
python examples/latent/vq_vae.py --mixtures 1      the same by likelihood, with bits/dim
python examples/latent/vq_vae.py --data mnist --halvings 2 --K 128 --D 32 --epochs 5 --prior-epochs 5

The value is the mean squared error of pixels of 0 to 1; the baseline that of the mean training image. prior: nats that
the codes of a test image cost under the PixelCNN; histogram: under how often each code occurs at each place.
bits_per_dim bounds what an image costs if all codes are equally probable, bits_with_prior if the PixelCNN says how.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from micrognm import Tensor, loop, picture
from micrognm.codes import Settings as Shared
from micrognm.codes import Task, histogram_nats, nats
from micrognm.metrics import bits_per_dimension
from micrognm.models.latent.prior import CodePixelCNN
from micrognm.models.latent.vq_vae import VQVAE
from micrognm.nn.quantiser import perplexity


@dataclass(kw_only=True)
class Settings(Shared):
    epochs: int = 40
    out: Path = Path("runs/vq_vae")
    prior_epochs: int = 12
    halvings: int = 1
    """how often the encoder halves the sides"""
    h: int = 64
    K: int = 32
    D: int = 16
    mixtures: int = 0
    """of discretised logistics, whose likelihood is raised; 0 for the squared error"""
    p: int = 32
    """features of the prior's stacks"""
    layers: int = 4
    """of the prior: pairs of a vertical and a horizontal convolution"""


def main(settings: Settings) -> None:
    task = Task(settings)
    source, K, first, second = task.source, settings.K, task.rng(1), task.rng(2)
    model = VQVAE(
        task.shape,
        first,
        levels=source.levels,
        halvings=settings.halvings,
        h=settings.h,
        K=K,
        D=settings.D,
        beta=settings.beta,
        decay=settings.decay,
        mixtures=settings.mixtures,
    )
    task.fit(model, first)

    train, valid, test = (task.codes(model, split) for split in (source.train, source.valid, source.test))
    prior = CodePixelCNN(model.size, K, second, p=settings.p, layers=settings.layers)

    def terms(codes: list[Tensor], labels: np.ndarray) -> list[Tensor]:
        return [prior.log_prob(codes[0][..., None])]

    def samples(rng: np.random.Generator) -> np.ndarray:
        return model.sample(64, rng, prior).numpy()

    task.fit_prior(prior, terms, train, valid, second, samples)

    picture.grid(samples(task.rng(0)), settings.out / "samples.png")
    shown, again = task.pixels(source.test)[:32], model.decode(test[0][:32]).numpy()
    pairs = np.concatenate([shown[:16], again[:16], shown[16:], again[16:]])
    picture.grid(pairs, settings.out / "reconstructions.png", columns=16)
    more = {
        "perplexity": perplexity(test[0], K),
        "prior": nats(terms, test, source.test.labels)[0],
        "histogram": histogram_nats(train[0], test[0], K),
    }
    if settings.mixtures:
        size = int(np.prod(task.shape))
        more["bits_per_dim"] = bits_per_dimension(-task.mean(model.bound, source.test), size)
        more["bits_with_prior"] = bits_per_dimension(-task.mean(lambda x: model.bound(x, prior), source.test), size)
    loop.result(
        settings,
        paper="vq_vae",
        data=source.name,
        split="test",
        metric="mse",
        value=task.mean(model.squared_error, source.test),
        baseline=float(((task.pixels(source.test) - task.pixels(source.train).mean(axis=0)) ** 2).mean()),
        seconds=task.seconds,
        **more,
    )


if __name__ == "__main__":
    main(loop.parse(Settings))
