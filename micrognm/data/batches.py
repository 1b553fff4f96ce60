"""Batches of indices in a seeded order that a resumed run continues exactly."""

from __future__ import annotations

import operator
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


class Batches:
    """Endless batches of `size` indices out of 0 .. n - 1, each epoch in a new order; `next(batches)` is int64 [size].

    The last batch of an epoch is shorter where `size` does not divide n, or left out with `drop_last`. The order of
    epoch e depends on (seed, e) alone, so `state()` is a few numbers and a run that loads them goes on where it was.
    """

    def __init__(self, n: int, size: int, seed: int, drop_last: bool = False) -> None:
        for name, value, least in (("n", n, 1), ("size", size, 1), ("seed", seed, 0)):
            if operator.index(value) < least:
                raise ValueError(f"Batches: {name} must be {least} or more, not {value}")
        if drop_last and size > n:
            raise ValueError(f"Batches: no batch of size={size} can be made of n={n} examples with drop_last")
        self._made_with = {"n": int(n), "size": int(size), "seed": int(seed), "drop_last": int(drop_last)}
        self._length = n // size if drop_last else -(-n // size)
        self._epoch = self._position = 0
        self._order: NDArray[np.int64] | None = None

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return self._epoch

    @property
    def step(self) -> int:
        """Batches given out since the start."""
        return self._epoch * self._length + self._position

    def __len__(self) -> int:
        """Batches an epoch."""
        return self._length

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        return self

    def __next__(self) -> NDArray[np.int64]:
        if self._order is None:
            rng = np.random.default_rng([self._made_with["seed"], self._epoch])
            self._order = rng.permutation(self._made_with["n"])
        start = self._position * self._made_with["size"]
        batch = self._order[start : start + self._made_with["size"]]
        self._position += 1
        if self._position == self._length:
            self._epoch, self._position, self._order = self._epoch + 1, 0, None
        return batch

    def state(self) -> dict[str, int]:
        """What `load` needs to go on from here: epochs completed, batches given out in this one, and the settings."""
        return {**self._made_with, "epoch": self._epoch, "position": self._position}

    def load(self, state: dict[str, int]) -> None:
        """Go on from a saved state. Raises ValueError where it was saved with other settings, or is damaged."""
        expected = self.state()
        if state.keys() != expected.keys():
            raise ValueError(f"Batches.load: expected the entries {sorted(expected)}, found {sorted(state)}")
        differ = [f"{k} (saved {state[k]}, here {v})" for k, v in self._made_with.items() if state[k] != v]
        if differ:
            raise ValueError(f"Batches.load: the state was saved with other settings: {', '.join(differ)}")
        epoch, position = operator.index(state["epoch"]), operator.index(state["position"])
        if epoch < 0 or not 0 <= position < self._length:
            raise ValueError(
                f"Batches.load: expected epoch >= 0 and position in 0 .. {self._length - 1}, found {epoch}, {position}"
            )
        self._epoch, self._position, self._order = epoch, position, None
