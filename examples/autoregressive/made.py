"""Train MADE (Germain et al. 2015) and report its test likelihood.

python examples/autoregressive/made.py                          scikit-learn's digits, binary
python examples/autoregressive/made.py --levels all             the same with all 17 levels, in bits per dimension
python examples/autoregressive/made.py --data mnist --masks 1   MNIST, downloaded where --root does not hold it
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from micrognm import density, loop
from micrognm.models.autoregressive.made import MADE
from micrognm.optim import Adam, cosine


@dataclass(kw_only=True)
class Settings(density.Settings):
    levels: Literal["all", "binary"] = "binary"
    """of a pixel: all that the data has, or two (few are cut at the middle, 256 are binarised at random)"""
    epochs: int = 200
    out: Path = Path("runs/made")
    lr: float = 4e-3
    average: float = 0.0
    hidden: tuple[int, ...] = (1000,)
    """units of each hidden layer"""
    masks: int = 8
    """how many orders and degrees to train over, and to average at test time"""
    direct: bool = False
    """connect input and output directly as well"""
    dropout: float = 0.2
    """share of the hidden units left out in training"""


def main(settings: Settings) -> None:
    task = density.Task(settings)
    model = MADE(
        task.shape,
        settings.hidden,
        task.rng,
        levels=task.protocol.levels,
        masks=settings.masks,
        direct=settings.direct,
        dropout=settings.dropout,
    )
    optimiser = Adam(model, lr=cosine(settings.lr, task.steps))
    density.fit(task, model, optimiser, paper="made", train=lambda x: model.log_prob(x, optimiser.steps % model.S))


if __name__ == "__main__":
    main(loop.parse(Settings))
