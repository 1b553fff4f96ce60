"""Train PixelSNAIL (Chen et al. 2018) and report its test likelihood.

python examples/autoregressive/pixelsnail.py                   scikit-learn's digits, all 17 levels
python examples/autoregressive/pixelsnail.py --no-attend       the ablation: the same without attention
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from micrognm import density, loop
from micrognm.models.autoregressive.pixelsnail import PixelSNAIL
from micrognm.optim import Adam, cosine


@dataclass(kw_only=True)
class Settings(density.Settings):
    epochs: int = 40
    out: Path = Path("runs/pixelsnail")
    lr: float = 2e-3
    average: float = 0.995
    conditional: bool = False
    """tell the model the class of each image"""
    blocks: int = 2
    """of residual blocks and attention"""
    resnets: int = 2
    """gated residual blocks in each"""
    F: int = 32
    """features"""
    keys: int = 16
    """numbers in a key of attention"""
    mixtures: int = 0
    """of discretised logistics, which colours need; 0: a softmax over the levels"""
    dropout: float = 0.1
    """share of features left out in training"""
    attend: bool = True
    """attend to all earlier pixels"""


def main(settings: Settings) -> None:
    task = density.Task(settings)
    model = PixelSNAIL(
        task.shape,
        task.rng,
        levels=task.protocol.levels,
        mixtures=settings.mixtures,
        blocks=settings.blocks,
        resnets=settings.resnets,
        F=settings.F,
        keys=settings.keys,
        dropout=settings.dropout,
        classes=len(task.source.classes) if settings.conditional else 0,
        attend=settings.attend,
    )
    optimiser = Adam(model, lr=cosine(settings.lr, task.steps), betas=(0.95, 0.9995), eps=1e-6)
    density.fit(task, model, optimiser, paper="pixelsnail", labelled=settings.conditional)


if __name__ == "__main__":
    main(loop.parse(Settings))
