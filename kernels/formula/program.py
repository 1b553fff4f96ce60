"""What the implementations run: symbols with the names of their inputs, and how shapes map onto two loops."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from micrognm.kernels.formula.symbols import Symbol

Array = Any
Shape = tuple[int, ...]


# Shapes of some arrays -> the shape to which they broadcast; those of the outputs, with a 1 for each axis that is
# summed over; and the outputs' shapes in the end.
Ends = Callable[[tuple[Shape, ...]], tuple[Shape, tuple[Shape, ...], tuple[Shape, ...]]]


def _elementwise(shapes: tuple[Shape, ...]) -> tuple[Shape, tuple[Shape, ...], tuple[Shape, ...]]:
    full = np.broadcast_shapes(*shapes)
    return full, (full,), (full,)


class Program:
    """Outputs as symbols of inputs and options.

    ends: says how outputs are summed, for the shapes that a call gives, else those of the inputs (numbers have none).
    made: what implementations have built from it, by their own keys.
    """

    def __init__(
        self,
        name: str,
        inputs: Sequence[str],
        options: Sequence[str],
        outputs: Sequence[Symbol],
        ends: Ends = _elementwise,
    ) -> None:
        self.name = name
        self.ends = ends
        self.inputs = tuple(inputs)
        self.options = tuple(options)
        self.outputs = tuple(outputs)
        self.made: dict[Any, Any] = {}


class Activation(NamedTuple):
    """A program of one input and one output of its shape, with its options: what a kernel applies before it writes."""

    program: Program
    options: Mapping[str, float]


class Layout(NamedTuple):
    """Shapes as loops: for o in range(outer): for i in range(inner): for j in range(columns).

    inputs: for each, whether it changes with o, i and j ("111" is an array of the full shape, "001" a vector along the
    columns); "n" for a number; None for one that must be repeated to the full shape first. outputs: the same, where
    "0" means that the output is the sum along that loop; None for one that is made in full and summed afterwards.
    """

    outer: int
    inner: int
    columns: int
    inputs: tuple[str | None, ...]
    outputs: tuple[str | None, ...]

    @property
    def every(self) -> str:
        """The letters of an array that changes along all loops."""
        return f"{int(self.outer > 1)}{int(self.inner > 1)}1"


def layout(full: Shape, inputs: Sequence[Shape | None], outputs: Sequence[Shape]) -> Layout:
    """The loops over `full` for inputs (None: a number) and outputs of shapes that broadcast to it."""
    shapes = [*inputs, *outputs]
    padded = [None if s is None else (1,) * (len(full) - len(s)) + tuple(s) for s in shapes]
    axes: list[tuple[int, tuple[bool, ...]]] = []  # length, and which of the shapes change along it
    for k, n in enumerate(full):
        if n == 1:
            continue
        moves = tuple(s is not None and s[k] == n for s in padded)
        if axes and axes[-1][1] == moves:
            axes[-1] = (axes[-1][0] * n, moves)
        else:
            axes.append((n, moves))
    if len(axes) > 3:  # seldom: one loop, over arrays made full
        axes = [(math.prod(full), tuple(all(m) for m in zip(*(m for _, m in axes), strict=True)))]
        alone = [s is None or padded[k] == full or math.prod(s) == 1 for k, s in enumerate(padded)]
    else:
        alone = [True] * len(shapes)
    axes = [(1, (False,) * len(shapes))] * (3 - len(axes)) + axes
    letters: list[str | None] = []
    for k, s in enumerate(padded):
        letters.append("n" if s is None else "".join("01"[moves[k]] for _, moves in axes) if alone[k] else None)
    outer, inner, columns = (n for n, _ in axes)
    # One pass makes the sums along the columns, down the columns and of everything, and arrays of the full shape.
    rows = "01"[outer > 1] + "01"[inner > 1]
    easy = {rows + "1", rows + "0", "000", "001" if outer == 1 else ""}
    made = tuple(x if x in easy else None for x in letters[len(inputs) :])
    return Layout(outer, inner, columns, tuple(letters[: len(inputs)]), made)
