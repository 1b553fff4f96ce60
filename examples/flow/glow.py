"""Train Glow (Kingma and Dhariwal 2018) and report its test likelihood.

python examples/flow/glow.py                      scikit-learn's digits, all 17 levels, dequantised
python examples/flow/glow.py --conditional        the same, told the class
python examples/flow/glow.py --ablation           channels reversed, shuffled or mixed, couplings additive or affine
python examples/flow/glow.py --data mnist --pad 2 --L 3 ...     see README.md for the long runs

Beside what every flow leaves in --out, attributes.png: test images, and the mean latents of one class less those of
another added to them (the paper's figure 6). The ablation leaves six runs in --out, and ablation.png (its figure 3).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from micrognm import Tensor, concat, density, flows, loop, no_grad
from micrognm.models.flow.glow import Coupling, Glow, Mixing
from micrognm.optim import Adamax, cosine, warmup

SHIFTS = (-1.0, -0.5, 0.0, 0.5, 1.0)  # of an attribute
WARMUP = 300  # steps in which the learning rate rises, or one epoch where that is shorter


@dataclass(kw_only=True)
class Settings(flows.Settings):
    epochs: int = 30
    out: Path = Path("runs/glow")
    lr: float = 4e-3
    average: float = 0.995
    L: int = 2
    """scales"""
    K: int = 8
    """steps of flow at each scale"""
    width: int = 64
    """channels within the couplings' networks"""
    mixing: Mixing = "1x1"
    """of the channels, before each coupling"""
    coupling: Coupling = "affine"
    """what a network does to the other half of the channels"""
    weight_y: float = 0.01
    """of the classifier on the top latents, where the model is told the class"""
    ablation: bool = False
    """train with every kind of mixing and of coupling, and compare"""


def main(settings: Settings) -> None:
    if settings.ablation:
        ablation(settings)
        return
    task = flows.task(settings)
    model = Glow(
        task.shape,
        task.rng,
        levels=task.protocol.levels,
        L=settings.L,
        K=settings.K,
        width=settings.width,
        mixing=settings.mixing,
        coupling=settings.coupling,
        classes=len(task.source.classes) if settings.conditional else 0,
        reversible=settings.reversible,
    )
    optimiser = Adamax(model, lr=warmup(cosine(settings.lr, task.steps), min(WARMUP, len(task.batches))))

    def train(x: Tensor, *labels: Any) -> Tensor:
        x = flows.mirrored(x, settings, task.rng)
        return model.log_joint(x, labels[0], settings.weight_y) if labels else model.log_prob(x)

    def finish(rng: np.random.Generator) -> dict[str, float]:
        draw_attributes(task, model, rng)
        return flows.finish(task, model, rng, settings.draws)

    density.fit(
        task, model, optimiser, paper="glow", labelled=settings.conditional, train=train,
        sample=lambda rng: flows.samples(model, rng), finish=finish,
    )  # fmt: skip


@no_grad()
@np.errstate(over="ignore", invalid="ignore")  # flows.pixels says what overflowed
def draw_attributes(task: density.Task, model: Glow, rng: np.random.Generator) -> None:
    """attributes.png: a row is an image of class k, moved along the mean latents of class k + 1 less those of k."""
    train, test, classes = task.source.train, task.source.test, len(task.source.classes)
    means, rows = [], []
    for k in range(classes):
        chosen = np.flatnonzero(train.labels == k)[: density.EVALUATED]
        z, _ = model.encode(task.images(train, chosen, rng), *flows.told(model, train.labels[chosen]))
        means.append([each.mean(axis=0, keepdims=True) for each in z])
    for k in range(classes):
        chosen = np.flatnonzero(test.labels == k)[:1]
        told = flows.told(model, test.labels[chosen])
        z, _ = model.encode(task.images(test, chosen, rng), *told)
        towards = [b - a for a, b in zip(means[k], means[(k + 1) % classes], strict=True)]
        rows += [model.decode([e + t * d for e, d in zip(z, towards, strict=True)], *told) for t in SHIFTS]
    flows.draw(model, concat(*rows, axis=0), task, "attributes", len(SHIFTS))


def ablation(settings: Settings) -> None:
    """The six kinds, each in a folder of its own, and what they reach."""
    couplings: list[Coupling] = ["additive", "affine"]
    mixings: list[Mixing] = ["reverse", "shuffle", "1x1"]
    if settings.quick:
        settings.K, settings.width = 1, 4
    runs = {}
    for coupling, mixing in product(couplings, mixings):
        out = settings.out / f"{coupling}-{mixing}"
        main(replace(settings, ablation=False, coupling=coupling, mixing=mixing, out=out))
        log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        runs[f"{coupling}_{mixing}"] = json.loads((out / "result.json").read_text()), log
    flows.draw_curves({name: log for name, (_, log) in runs.items()}, settings.out / "ablation.png")
    last = runs["affine_1x1"][0]
    values = {name: found["value"] for name, (found, _) in runs.items()}
    same = {name: last[name] for name in ("data", "split", "metric", "value", "baseline")}
    seconds = sum(found["seconds"] for found, _ in runs.values())
    loop.result(settings, paper="glow", **same, seconds=seconds, **values)


if __name__ == "__main__":
    main(loop.parse(Settings))
