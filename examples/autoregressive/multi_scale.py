"""Train the multi-scale PixelRNN (van den Oord et al. 2016a, section 3.6) and report its bound on the test likelihood.

python examples/autoregressive/multi_scale.py                  scikit-learn's digits: 4x4, then 8x8 given that
python examples/autoregressive/multi_scale.py --kind row       with Row LSTMs

The value is NLL(x_s) + NLL(x | x_s) >= NLL(x), x_s being every second pixel of x: an upper bound of the bits that the
model needs. `small` and `rest` are the two terms. samples.png shows each small image beside what was made of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from micrognm import density, loop, no_grad
from micrognm.models.autoregressive.multi_scale import MultiScale
from micrognm.optim import Adam, cosine


@dataclass(kw_only=True)
class Settings(density.Settings):
    epochs: int = 60
    out: Path = Path("runs/multi_scale")
    lr: float = 4e-3
    average: float = 0.995
    kind: Literal["row", "diagonal"] = "diagonal"
    """Row LSTM, or Diagonal BiLSTM"""
    scale: int = 2
    """how many times smaller the first image is"""
    layers: int = 2
    """of LSTM, at each size"""
    h: int = 16
    """hidden units of a layer; between layers there are twice as many features"""
    head: int = 64
    """features of the last 1x1 convolutions"""
    told: int = 16
    """channels of the map that the larger size is told of the smaller one"""


def main(settings: Settings) -> None:
    task = density.Task(settings)
    model = MultiScale(
        task.shape,
        task.rng,
        kind=settings.kind,
        scales=(settings.scale,),
        levels=task.protocol.levels,
        layers=settings.layers,
        h=settings.h,
        head=settings.head,
        told=settings.told,
    )

    def sample(rng: np.random.Generator) -> np.ndarray:
        """32 small images, enlarged, each beside its large one."""
        small, large = (images.numpy() for images in model.sample_sizes(32, rng))
        small = small.repeat(settings.scale, axis=1).repeat(settings.scale, axis=2)
        return np.stack([small, large], axis=1).reshape(64, *task.shape) / (task.protocol.levels - 1)

    @no_grad()
    def finish(rng: np.random.Generator) -> dict[str, float]:
        terms = model.terms(task.images(task.source.test, slice(None), rng))
        density.draw_completions(task, model, rng)
        small, rest = (task.protocol.report(-float(term.mean().item())) for term in terms)
        return {"small": small, "rest": rest}

    optimiser = Adam(model, lr=cosine(settings.lr, task.steps), clip_norm=1.0)
    density.fit(task, model, optimiser, paper="multi_scale", sample=sample, finish=finish)


if __name__ == "__main__":
    main(loop.parse(Settings))
