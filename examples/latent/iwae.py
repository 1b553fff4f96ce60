"""Train IWAE (Burda et al. 2015), or a VAE with as many draws, and report its test likelihood.

python examples/latent/iwae.py                            scikit-learn's digits, binary, 50 draws an image
python examples/latent/iwae.py --objective vae --k 1      the control: the same network as a VAE
python examples/latent/iwae.py --layers 2                 two stochastic layers
python examples/latent/iwae.py --data mnist --k 5 --hidden 400 --units 50 --batch 100 --lr 2e-3 --epochs 52
python examples/latent/iwae.py --data mnist --hidden 200 --units 50 --schedule stages --epochs 3280   the paper's

The value is estimated from --samples draws an image; validation, from --k, or ten. active: units of each layer that say
something of x. removed: the value without the others. --start begins at best.safetensors of another run (section 5.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from micrognm import concat, density, loop, no_grad, picture, storage
from micrognm.metrics import active_units
from micrognm.models.latent.iwae import IWAE, stages
from micrognm.optim import Adam, cosine


@dataclass(kw_only=True)
class Settings(density.Settings):
    measures: ClassVar[frozenset[str]] = frozenset({"samples"})
    levels: Literal["binary"] = "binary"
    """of a pixel: few are cut at the middle, 256 are binarised at random, anew at each presentation"""
    epochs: int = 100
    out: Path = Path("runs/iwae")
    batch: int = 20
    lr: float = 3e-3
    average: float = 0.0
    objective: Literal["iwae", "vae", "dreg"] = "iwae"
    """the log of the mean weight, the mean of the log weights, or the first with DReG's gradient"""
    k: int = 50
    """draws an image"""
    layers: Literal[1, 2] = 1
    """stochastic ones; the second has half the units and half the widths"""
    units: int = 10
    """of the first stochastic layer"""
    hidden: int = 100
    """width of the deterministic layers, two for each stochastic one"""
    schedule: Literal["cosine", "stages"] = "cosine"
    """of the learning rate: from --lr along a cosine, or the paper's, of which 40 epochs are 4 stages, 3280 all 8"""
    start: Path | None = None
    """weights of the same network to start from"""
    samples: int = 5000
    """draws an image for the test likelihood"""


def main(settings: Settings) -> None:
    if settings.quick:
        settings.samples = min(settings.samples, 100)
    task = density.Task(settings)
    train, test = task.source.train, task.source.test
    mean = task.protocol.read(train.images, task.rng).mean(axis=0)
    sizes = [(settings.units >> i, settings.hidden >> i) for i in range(settings.layers)]
    model = IWAE([units for units, _ in sizes], [(width, width) for _, width in sizes], task.rng, mean=mean)
    if settings.start is not None:
        model.load(storage.load(settings.start)[0])
    objective = {"iwae": model.bound, "vae": model.elbo, "dreg": model.dreg}[settings.objective]
    rate = stages(len(task.batches)) if settings.schedule == "stages" else cosine(settings.lr, task.steps)

    @no_grad()
    def finish(rng: np.random.Generator) -> dict[str, str | float]:
        x = task.images(test, slice(None), rng)
        shown = concat(x[:16], model.reconstruct(x[:16], rng), axis=0)
        picture.grid(shown.numpy(), settings.out / "reconstructions.png", columns=16)
        active = [active_units(means.numpy()) for means in model.posterior_means(x, rng)]
        more: dict[str, str | float] = {
            "objective": f"{settings.objective}-{settings.k}",
            "samples": float(settings.samples),
            "active": "+".join(str(units.sum()) for units in active),
        }
        if not all(units.all() for units in active):
            parts = np.array_split(np.arange(len(x)), -(-len(x) // density.EVALUATED))
            nats = [model.log_prob(x[part], rng, settings.samples, active).numpy() for part in parts]
            more["removed"] = -float(np.concatenate(nats).mean())
        return more

    density.fit(
        task,
        model,
        Adam(model, lr=rate, eps=1e-4),
        paper="iwae",
        train=lambda x: objective(x, settings.k, task.rng),
        estimate=lambda x, rng, final: model.log_prob(x, rng, settings.samples if final else max(settings.k, 10)),
        sample=lambda rng: model.sample_means(64, rng).numpy(),
        finish=finish,
    )


if __name__ == "__main__":
    main(loop.parse(Settings))
