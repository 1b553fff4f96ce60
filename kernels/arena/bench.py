"""Steps of optimisers as training takes them, with an average and clipping, against PyTorch's as it makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from micrognm import Tensor, optim
from micrognm.bench import Case

# (optimiser, its options, averaged, parameters, tensors); 100k to 10M parameters are the papers' models.
SHAPES: tuple[tuple[str, dict[str, Any], bool, int, int], ...] = (
    ("Adam", {}, True, 10_000_000, 100),
    ("Adam", {}, False, 10_000_000, 100),
    ("Adam", {"clip_norm": 1.0}, True, 10_000_000, 100),
    ("Adam", {"clip_norm": 1.0}, True, 1_000_000, 40),
    ("Adam", {}, False, 500_000, 6),
    ("Adam", {}, True, 50_000, 10),
    ("AdamW", {"weight_decay": 0.05}, True, 3_000_000, 150),
    ("Adamax", {}, True, 3_000_000, 150),
    ("RMSProp", {}, False, 3_000_000, 60),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4}, False, 3_000_000, 60),
)
PEERS = {"RMSProp": "RMSprop"}
RATE, DECAY = 1e-3, 0.999


def cases(torch: Any) -> Iterator[Case]:
    for name, options, averaged, size, tensors in SHAPES:
        yield _case(torch, name, options, averaged, size, tensors)


def _optimiser(
    name: str, options: dict[str, Any], averaged: bool, size: int, tensors: int, dtype: Any
) -> optim.Optimiser:
    rng = np.random.default_rng(0)
    parameters = []
    for _ in range(tensors):
        draw = rng.standard_normal((2, size // tensors), np.float32).astype(dtype)
        parameters.append(Tensor(draw[0].copy(), requires_grad=True))
        parameters[-1].grad = Tensor(draw[1].copy())
    optimiser = getattr(optim, name)(parameters, **{"lr": RATE, **options})
    if averaged:
        optim.EMA(optimiser, DECAY)
    return optimiser


def _case(torch: Any, name: str, options: dict[str, Any], averaged: bool, size: int, tensors: int) -> Case:
    made = name, options, averaged, size, tensors
    optimiser = _optimiser(*made, np.float32)

    def error() -> float:
        ends = []
        for dtype in (np.float32, np.float64):  # one formula for both: tests/kernels hold float64 to the reference
            mine = _optimiser(*made, dtype)
            for _ in range(3):
                mine.step()
            ends.append([mine.arena.data, *(ema.average for ema in mine.averages)])
        return max(np.abs(x - exact).max() / np.abs(exact).max() for x, exact in zip(*ends, strict=True))

    theirs: Callable[[], Any] | None = None
    if torch is not None:
        leaves = [torch.from_numpy(p.data.copy()).requires_grad_() for p in optimiser.arena.parameters]
        for leaf, p in zip(leaves, optimiser.arena.parameters, strict=True):
            leaf.grad = torch.from_numpy(p.grad.data)  # type: ignore[union-attr]
        averages = [leaf.detach().clone() for leaf in leaves]
        most, given = options.get("clip_norm"), {k: v for k, v in options.items() if k != "clip_norm"}
        peer = getattr(torch.optim, PEERS.get(name, name))(leaves, **{"lr": RATE, **given})

        def theirs() -> None:
            if most is not None:
                torch.nn.utils.clip_grad_norm_(leaves, most, foreach=True)
            peer.step()
            if averaged:
                with torch.no_grad():
                    torch._foreach_lerp_(averages, leaves, 1 - DECAY)

    arrays = 1 + 2 * (1 + len(optimiser.moments)) + 2 * averaged + ("clip_norm" in options)
    extras = "".join(f", {k}" for k in options if k in ("clip_norm", "momentum", "weight_decay"))
    return Case(
        f"{name}{extras}{', EMA' if averaged else ''}: {size / 1e6:g}M in {tensors}",
        optimiser.step, theirs, error, 16.0 * size, 4.0 * arrays * size,
    )  # fmt: skip
