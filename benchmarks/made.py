"""MADE's training step against its twin in PyTorch: the same weights, masks, batch and Adam; the losses must agree.

    python benchmarks/made.py

Prints a line for each width: milliseconds a step (loss, gradients, Adam), ours and PyTorch's, and their ratio.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
import tyro

from micrognm import Tensor, bench
from micrognm.models.autoregressive.made import MADE
from micrognm.optim import Adam


@dataclass
class Settings:
    hidden: tuple[int, ...] = (500, 2000)
    """widths of the one hidden layer"""
    batch: int = 100
    """images a step"""
    repeats: int = 100
    """how often each side steps, by turns"""


def main(settings: Settings) -> None:
    torch = bench.torch() or sys.exit(bench.NO_PEER)
    F = torch.nn.functional
    rng = np.random.default_rng(0)
    images = (rng.random((settings.batch, 28, 28, 1)) < 0.2).astype(np.float32)
    for width in settings.hidden:
        model = MADE((28, 28, 1), [width], rng)
        optimiser = Adam(model.parameters(), 1e-3)
        # torch.nn.functional.linear holds weights as [out, in]
        W = [torch.tensor(w.numpy().T.copy(), requires_grad=True) for w in model.W]
        b = [torch.tensor(v.numpy(), requires_grad=True) for v in model.b]
        M = [torch.from_numpy(m.T.copy()) for m in model.masks(0)]
        x, tx = Tensor(images), torch.from_numpy(images).reshape(settings.batch, 784)
        adam = torch.optim.Adam([*W, *b], 1e-3)
        losses: dict[str, float] = {}

        def ours(model=model, optimiser=optimiser, x=x, losses=losses) -> None:
            optimiser.zero_grad()
            loss = -model.log_prob(x).mean()
            loss.backward()
            optimiser.step()
            losses["ours"] = loss.item()

        def theirs(W=W, b=b, M=M, tx=tx, adam=adam, losses=losses) -> None:
            adam.zero_grad()
            h = F.relu(F.linear(tx, W[0] * M[0], b[0]))
            logits = F.linear(h, W[1] * M[1], b[1])
            loss = F.binary_cross_entropy_with_logits(logits, tx, reduction="none").sum(1).mean()
            loss.backward()
            adam.step()
            losses["peer"] = loss.item()

        a, p = bench.compare(ours, theirs, settings.repeats)
        if not np.isclose(losses["ours"], losses["peer"], rtol=1e-3):
            raise SystemExit(f"the two do not compute the same: losses {losses}")
        print(
            f"MADE 784-{width}-784, batch {settings.batch}, a training step: "
            f"micrognm {a * 1e3:.2f} ms, PyTorch {torch.__version__} {p * 1e3:.2f} ms, ratio {a / p:.2f}"
        )


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
