"""Train a VAE (Kingma & Welling 2013) and report its test likelihood.

python examples/latent/vae.py                                   scikit-learn's digits, binary
python examples/latent/vae.py --levels all                      all 17 levels: a Gaussian decoder, bits per dimension
python examples/latent/vae.py --n-z 2                           also draws the manifold
python examples/latent/vae.py --sweep 2 3 5 10 20               figure 2: sizes of z, and wake-sleep with each
python examples/latent/vae.py --n-z 3 --objective mcem          figure 3's other way to train, without an encoder
python examples/latent/vae.py --data mnist --n-z 20 --hidden 500 500 --lr 2e-3 --epochs 50 --samples 500

The value is estimated from --samples draws an image; validation, from ten. elbo: the bound on test, and kl the part of
it that the code costs. active: latent dimensions that say something of x. by_posterior: log p(x) of the first 1,000
test images by appendix D's estimate, where z has 3 dimensions or fewer; of Monte Carlo EM it is the value itself. With
all levels the pixels get uniform noise, and the values bound those of whole numbers.
"""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from micrognm import Tensor, concat, density, loop, no_grad, picture, storage
from micrognm.data.dequantise import dequantise
from micrognm.metrics import active_units
from micrognm.models.latent import posterior
from micrognm.models.latent.full_vb import FullVB
from micrognm.models.latent.vae import VAE
from micrognm.optim import Adam, cosine

POSTERIOR = 1000  # test images, the paper's number, of which appendix D's estimate is made


@dataclass(kw_only=True)
class Settings(density.Settings):
    measures: ClassVar[frozenset[str]] = frozenset({"samples"})
    levels: Literal["all", "binary"] = "binary"
    """of a pixel: two and a Bernoulli decoder, or all that the data has and a Gaussian one"""
    epochs: int = 300
    out: Path = Path("runs/vae")
    batch: int = 100
    lr: float = 3e-3
    average: float = 0.0
    n_z: int = 8
    """latent dimensions"""
    hidden: tuple[int, ...] = (128,)
    """units of the encoder's layers, and in reverse of the decoder's"""
    objective: Literal["sgvb_b", "sgvb_a", "full_vb", "wake_sleep", "mcem"] = "sgvb_b"
    """the bound with its divergence in closed form, with all of it sampled, with uncertain weights too; or what the
    paper compares with: wake-sleep, and Monte Carlo EM, which has no encoder and takes about ten times as long"""
    L: int = 1
    """draws an image in training, of either bound"""
    samples: int = 5000
    """draws an image for the test likelihood; Monte Carlo EM's takes 50 of the posterior instead"""
    sweep: tuple[int, ...] = ()
    """sizes of z to compare instead of --n-z, and the bound with wake-sleep; each has its run in --out"""


def main(settings: Settings) -> None:
    if settings.sweep:
        sweep(settings)
    else:
        train(settings)


def train(settings: Settings) -> None:
    if settings.quick:
        settings.samples = min(settings.samples, 100)
    task = density.Task(settings)
    binary, levels = settings.levels == "binary", task.protocol.levels
    decoder: Literal["bernoulli", "gaussian"] = "bernoulli" if binary else "gaussian"
    sizes = task.shape, settings.n_z, settings.hidden, task.rng
    if settings.objective == "full_vb":
        model: VAE = FullVB(*sizes, images=len(task.source.train), decoder=decoder)
    else:
        model = VAE(*sizes, decoder=decoder)
    cost = 0.0 if binary else task.protocol.dimensions * math.log(levels)  # of a density's unit of length, 1 / levels

    def read(x: Tensor, rng: np.random.Generator) -> Tensor:
        return x if binary else Tensor(dequantise(x.numpy(), levels, rng) / np.float32(levels))

    def objective(x: Tensor) -> Tensor:
        x = read(x, task.rng)
        if settings.objective == "wake_sleep":
            return model.wake_sleep(x, task.rng) - cost
        if settings.objective == "mcem":
            return model.monte_carlo_em(x, task.rng) - cost
        if isinstance(model, FullVB):
            return model.full_bound(x, task.rng, settings.L) - cost
        return (model.sgvb_a if settings.objective == "sgvb_a" else model.sgvb_b)(x, task.rng, settings.L) - cost

    def by_posterior(x: Tensor, rng: np.random.Generator, final: bool) -> Tensor:
        """log p(x) by appendix D's estimate, a short one in validation and under --quick."""
        draws, *transitions = (50, 100, 30) if final and not settings.quick else (10, 20, 5)
        return posterior.log_prob(model, x, rng, max(draws, settings.n_z + 2), *transitions) - cost

    def estimate(x: Tensor, rng: np.random.Generator, final: bool) -> Tensor:
        x = read(x, rng)
        if settings.objective == "mcem":
            return by_posterior(x, rng, final)
        return model.log_prob(x, rng, settings.samples if final else 10) - cost

    @no_grad()
    def finish(rng: np.random.Generator) -> dict[str, str | float]:
        x = read(task.images(task.source.test, slice(None), rng), rng)
        if settings.objective == "mcem":
            z = posterior.Chains(model, x[:16], rng, 1).run(100, adapting=True)
            reconstructed = model.images(model.decoder(Tensor(z)).mean)
        else:
            reconstructed = model.reconstruct(x[:16], rng)
        shown = concat(x[:16], reconstructed, axis=0)
        picture.grid(shown.numpy(), settings.out / "reconstructions.png", columns=16)
        if settings.n_z == 2:
            picture.grid(model.manifold(20).numpy(), settings.out / "manifold.png")
        if settings.objective == "mcem":
            return {}  # no encoder has learned anything
        more = {}
        if settings.n_z <= 3:
            nats = by_posterior(x[:POSTERIOR], rng, True).mean()
            more["by_posterior"] = task.protocol.report(-float(nats.item()))
        reconstruction, kl = (float(part.mean().item()) for part in model.terms(x, rng))
        (means,) = model.posterior_means(x, rng)
        return {
            "samples": float(settings.samples),
            "elbo": task.protocol.report(cost + kl - reconstruction),
            "kl": task.protocol.report(kl),
            "active": float(active_units(means.numpy()).sum()),
            **more,
        }

    density.fit(
        task,
        model,
        # The prior N(0, I) on the weights, as the paper has it; under full_vb it is in the bound.
        Adam(
            model.decoder if settings.objective == "mcem" else model,
            lr=cosine(settings.lr, task.steps),
            weight_decay=0.0 if isinstance(model, FullVB) else 1 / len(task.source.train),
        ),
        paper="vae",
        train=objective,
        estimate=estimate,
        sample=lambda rng: model.sample_means(64, rng).numpy(),
        finish=finish,
    )


def sweep(settings: Settings) -> None:
    """sweep.png: what the runs reach on test, by the size of z."""
    from matplotlib.figure import Figure

    panel = (figure := Figure(figsize=(6, 4), layout="constrained")).subplots()
    for objective, colour in ((settings.objective, "tab:blue"), ("wake_sleep", "tab:orange")):
        results = []
        for n_z in settings.sweep:
            out = settings.out / f"{objective}-{n_z}"
            train(replace(settings, n_z=n_z, objective=objective, sweep=(), out=out))
            results.append(json.loads((out / "result.json").read_text()))
        for field, line, what in (("elbo", "-", "bound"), ("value", ":", f"from {results[0]['samples']:g} draws")):
            values, label = [-result[field] for result in results], f"{objective.replace('_', '-')}, {what}"
            panel.plot(settings.sweep, values, line, marker="o", color=colour, label=label)
    unit = "nats" if settings.levels == "binary" else "bits/dim"
    panel.set(xlabel="dimensions of z", ylabel=f"log-likelihood of a test image, {unit}")
    panel.legend(frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    storage.write(settings.out / "sweep.png", file.getvalue())


if __name__ == "__main__":
    main(loop.parse(Settings))
