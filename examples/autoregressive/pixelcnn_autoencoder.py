"""Train a PixelCNN auto-encoder (van den Oord et al. 2016b, section 2.4) and draw reconstructions.

python examples/autoregressive/pixelcnn_autoencoder.py              digits as 10 numbers, told to every layer
python examples/autoregressive/pixelcnn_autoencoder.py --maps 16    the numbers become a map of 16 channels first

The value counts log p(x | h(x)): bits that are left once h(x) is known, and no likelihood of x. `other_h` is the same
with h of another image, so what h says is the difference. reconstructions.png: test images, and draws given their h.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from micrognm import concat, data, density, loop, no_grad, picture
from micrognm.models.autoregressive.pixelcnn_autoencoder import PixelCNNAutoencoder
from micrognm.optim import Adam, cosine


@dataclass(kw_only=True)
class Settings(density.Settings):
    epochs: int = 50
    out: Path = Path("runs/pixelcnn_autoencoder")
    lr: float = 3e-3
    average: float = 0.995
    m: int = 10
    """numbers that an image becomes"""
    maps: int = 0
    """channels of the map that the decoder is told; 0 tells it the numbers themselves"""
    layers: int = 5
    """of the decoder: pairs of a vertical and a horizontal convolution"""
    p: int = 32
    """features of each stack"""
    head: int = 64
    """features of the last 1x1 convolutions"""


def main(settings: Settings) -> None:
    task = density.Task(settings)
    levels, source = task.protocol.levels, task.source
    model = PixelCNNAutoencoder(
        task.shape,
        task.rng,
        levels=levels,
        m=settings.m,
        maps=settings.maps,
        layers=settings.layers,
        p=settings.p,
        head=settings.head,
    )

    def reconstructions(split: data.Split, rng: np.random.Generator) -> np.ndarray:
        """16 images, and below them three draws of each."""
        x = task.images(split, slice(16), rng)
        return concat(x, *(model.reconstruct(x, rng) for _ in range(3)), axis=0).numpy() / (levels - 1)

    @no_grad()
    def finish(rng: np.random.Generator) -> dict[str, str | float]:
        picture.grid(reconstructions(source.test, rng), settings.out / "reconstructions.png", columns=16)
        x = task.images(source.test, slice(None), rng)
        other = model.log_prob(x, model.encode(x)[np.roll(np.arange(len(x)), 1)])
        return {"given": "h(x)", "other_h": task.protocol.report(-float(other.mean().item()))}

    optimiser = Adam(model, lr=cosine(settings.lr, task.steps))
    density.fit(
        task,
        model,
        optimiser,
        paper="pixelcnn_autoencoder",
        sample=lambda rng: reconstructions(source.valid, rng),
        finish=finish,
    )


if __name__ == "__main__":
    main(loop.parse(Settings))
