"""Train PixelCNN (van den Oord et al. 2016a) and report its test likelihood.

python examples/autoregressive/pixelcnn.py                                  scikit-learn's digits, all 17 levels
python examples/autoregressive/pixelcnn.py --data mnist --levels binary     MNIST, binarised anew at each presentation
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from micrognm import density, loop
from micrognm.models.autoregressive.pixelcnn import PixelCNN
from micrognm.optim import Adam, cosine


@dataclass(kw_only=True)
class Settings(density.Settings):
    epochs: int = 60
    out: Path = Path("runs/pixelcnn")
    lr: float = 3e-3
    average: float = 0.995
    blocks: int = 5
    """residual blocks after the first convolution"""
    h: int = 32
    """features inside of a block; between blocks there are twice as many"""
    head: int = 64
    """features of the last 1x1 convolutions"""


def main(settings: Settings) -> None:
    task = density.Task(settings)
    model = PixelCNN(
        task.shape, task.rng, levels=task.protocol.levels, blocks=settings.blocks, h=settings.h, head=settings.head
    )
    optimiser = Adam(model, lr=cosine(settings.lr, task.steps))
    density.fit(task, model, optimiser, paper="pixelcnn")


if __name__ == "__main__":
    main(loop.parse(Settings))
