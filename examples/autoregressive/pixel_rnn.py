"""Train a PixelRNN (van den Oord et al. 2016a) and report its test likelihood.

python examples/autoregressive/pixel_rnn.py                  Diagonal BiLSTM, scikit-learn's digits, all 17 levels
python examples/autoregressive/pixel_rnn.py --kind row       Row LSTM
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from micrognm import density, loop
from micrognm.models.autoregressive.pixel_rnn import PixelRNN
from micrognm.optim import Adam, cosine


@dataclass(kw_only=True)
class Settings(density.Settings):
    epochs: int = 60
    out: Path = Path("runs/pixel_rnn")
    lr: float = 4e-3
    average: float = 0.995
    kind: Literal["row", "diagonal"] = "diagonal"
    """Row LSTM, or Diagonal BiLSTM"""
    layers: int = 2
    """of LSTM"""
    h: int = 16
    """hidden units of a layer; between layers there are twice as many features"""
    head: int = 64
    """features of the last 1x1 convolutions"""
    skip: bool = False
    """connect each layer to the output as well"""


def main(settings: Settings) -> None:
    task = density.Task(settings)
    model = PixelRNN(
        task.shape,
        task.rng,
        kind=settings.kind,
        levels=task.protocol.levels,
        layers=settings.layers,
        h=settings.h,
        head=settings.head,
        skip=settings.skip,
    )
    optimiser = Adam(model, lr=cosine(settings.lr, task.steps), clip_norm=1.0)
    density.fit(task, model, optimiser, paper="pixel_rnn")


if __name__ == "__main__":
    main(loop.parse(Settings))
