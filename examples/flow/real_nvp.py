"""Train Real NVP (Dinh et al. 2016) and report its test likelihood.

python examples/flow/real_nvp.py                      scikit-learn's digits, all 17 levels, dequantised
python examples/flow/real_nvp.py --conditional        the same, told the class
python examples/flow/real_nvp.py --data mnist --scales 3 --width 32 --blocks 4 ...     see README.md for the long runs

Beside what every flow leaves in --out, manifold.png: the images between four of the test images (equation 19).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from micrognm import Tensor, density, flows, loop, no_grad
from micrognm.models.flow.real_nvp import RealNVP
from micrognm.optim import Adam, cosine

ANGLES = 9  # of each of the two in the manifold


@dataclass(kw_only=True)
class Settings(flows.Settings):
    epochs: int = 30
    out: Path = Path("runs/real_nvp")
    lr: float = 8e-3
    average: float = 0.0
    scales: int = 2
    """3 checkerboard couplings, a squeeze, 3 channel couplings; 4 checkerboard couplings at the last"""
    width: int = 24
    """features of the residual networks at the first scale"""
    blocks: int = 1
    """residual blocks of each network"""
    rho: float = 0.5
    """how much of batch norm's running averages stays in a step"""
    penalty: float = 5e-5
    """of the squared gains of weight norm, in the loss (in nats a dimension)"""


def main(settings: Settings) -> None:
    task = flows.task(settings)
    model = RealNVP(
        task.shape,
        task.rng,
        levels=task.protocol.levels,
        scales=settings.scales,
        width=settings.width,
        blocks=settings.blocks,
        classes=len(task.source.classes) if settings.conditional else 0,
        rho=settings.rho,
        reversible=settings.reversible,
    )
    optimiser = Adam(model, lr=cosine(settings.lr, task.steps), clip_norm=100.0 * model.D)

    def train(x: Tensor, *labels: Any) -> Tensor:
        log_prob = model.log_prob(flows.mirrored(x, settings, task.rng), *labels)
        return log_prob - settings.penalty * model.D * model.penalty()

    def finish(rng: np.random.Generator) -> dict[str, float]:
        draw_manifold(task, model, rng)
        return flows.finish(task, model, rng, settings.draws)

    density.fit(
        task, model, optimiser, paper="real_nvp", labelled=settings.conditional, train=train,
        sample=lambda rng: flows.samples(model, rng), finish=finish,
    )  # fmt: skip


@no_grad()
@np.errstate(over="ignore", invalid="ignore")  # flows.pixels says what overflowed
def draw_manifold(task: density.Task, model: RealNVP, rng: np.random.Generator) -> None:
    """manifold.png: cos a (cos b z1 + sin b z2) + sin a (cos b z3 + sin b z4), for angles a down and b across."""
    test = task.source.test
    z, _ = model.encode(task.images(test, slice(4), rng), *flows.told(model, test.labels[:4]))
    a, b = np.meshgrid(*[np.arange(ANGLES) * 2 * math.pi / ANGLES] * 2, indexing="ij")
    parts = np.stack([np.cos(a) * np.cos(b), np.cos(a) * np.sin(b), np.sin(a) * np.cos(b), np.sin(a) * np.sin(b)])
    weights = Tensor(parts.reshape(4, -1, 1, 1, 1).astype(np.float32))
    labels = flows.told(model, test.labels[parts.argmax(axis=0).ravel()])  # of the image that is nearest
    x = model.decode([(weights * each[:, None]).sum(axis=0) for each in z], *labels)
    flows.draw(model, x, task, "manifold", ANGLES)


if __name__ == "__main__":
    main(loop.parse(Settings))
