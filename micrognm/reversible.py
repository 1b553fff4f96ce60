"""Chains of invertible blocks that store nothing: the backward pass computes each block's input from its output.

    y, logdet = reversible(blocks, x)

is `for block in blocks: x, each = block(x); logdet = logdet + each`, with the same gradients, but of all that the
blocks compute only y is kept. So memory does not grow with their number, and a step takes about a forward pass longer
(Gomez et al. 2017, arXiv 1707.04585). `checkpoint` is for functions without an inverse.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from micrognm.engine import OUTPUT, Leaf, Node, Tensor, created, path_to, pull_back, setting, state, tensor

DRIFT = 1e-2  # of an input that was computed from the output, relative to its largest element


class Block(Protocol):
    """What a chain is made of."""

    def __call__(self, x: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
        """y, and log |det dy/dx| of each sample, [N]."""

    def inverse(self, y: Tensor, *given: Any) -> Tensor:
        """x. The blocks of a chain invert the call that was their last, running statistics included."""


class _Frozen(threading.local):
    """Whether the running thread only repeats what was computed before."""

    now = False


_frozen = _Frozen()


@contextmanager
def frozen() -> Iterator[None]:
    """Inside, layers must repeat what they last computed: they leave running statistics as they are."""
    before, _frozen.now = _frozen.now, True
    try:
        yield
    finally:
        _frozen.now = before


def is_frozen() -> bool:
    """Whether this is inside `frozen`: a layer asks before it changes a buffer in its forward."""
    return _frozen.now


def chain(blocks: Sequence[Block], x: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
    """One block after another, as usual: the last one's output, and the sum of all log-determinants, [N]."""
    if not blocks:
        raise ValueError("chain: there is no block")
    x, total = blocks[0](x, *given)
    for block in blocks[1:]:
        x, each = block(x, *given)
        total = total + each
    return x, total


def reversible(blocks: Sequence[Block], x: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
    """What `chain` gives, keeping only the output. Gradients flow to x, to `given` and to all that the blocks use.

    Each block is called once and, in the backward pass, inverted and called once more under `frozen`: it must then give
    what it gave, so nothing random, and parameters as they were. FloatingPointError in the backward pass where the
    inverses do not lead back to x, because a block is singular but for rounding.
    """
    if not state.recording:
        return chain(blocks, x, *given)
    outside: dict[Node, None] = {}  # what blocks use beside their input, in order
    y, total = x.data, None
    for block in blocks:
        floor = next(created)
        out, each = block(tensor(y, Leaf(x.shape, x.dtype)), *given)
        for result in (out, each):
            if result.node is not None:
                outside.update((node, None) for node in path_to([result.node], None, floor)[0] if node.order < floor)
        y, total = out.data, each.data if total is None else total + each.data
        del out, each, result  # the tape of this block, before the next one writes its own
    if total is None:
        raise ValueError("reversible: there is no block")
    if x.node is None and not outside:
        return tensor(y), tensor(total)
    outputs = y, total
    op = _Inverted(tuple(blocks), y, x.data[:1].copy(), given)
    node = Node(op, (x.node, *outside), (), [a.shape for a in outputs], [a.dtype for a in outputs])  # type: ignore[arg-type]
    first, second = (tensor(a, Node(OUTPUT, (node,), (i,), a.shape, a.dtype)) for i, a in enumerate(outputs))
    return first, second


class _Inverted:
    """The rules of a chain: from the last block to the first, invert it, run it on the tape, pull the gradient back.

    start: the first sample of the chain's input, to see whether the inverses lead back there.
    """

    name = "reversible"
    pull, unknown = (), ()

    def __init__(self, blocks: tuple[Block, ...], y: Any, start: Any, given: tuple) -> None:
        self.blocks, self.y, self.start, self.given = blocks, y, start, given

    def pull_all(self, g: list, node: Node, create_graph: bool, wanted: Sequence[bool]) -> list[Tensor | None]:
        shapes, dtypes = node.shape, node.dtype
        gy, glogdet = (
            tensor(np.zeros_like(self.y, shape=shape, dtype=dtype)) if each is None else each
            for each, shape, dtype in zip(g, shapes, dtypes, strict=True)
        )
        outside = {parent for parent, needed in zip(node.parents[1:], wanted[1:], strict=True) if needed}
        found: dict[Any, Tensor] = {}
        x, gx = tensor(self.y), None
        # Gradients that are recorded need the whole chain on the tape.
        parts = [self.blocks] if create_graph else [(block,) for block in self.blocks]
        for i, part in reversed(list(enumerate(parts))):
            with setting(recording=False), frozen():
                for block in reversed(part):
                    x = block.inverse(x, *self.given)
            if i == 0:
                self.check(x.data)
            floor = next(created)
            leaf = node.parents[0] if create_graph else Leaf(x.shape, x.dtype)
            with setting(recording=True), frozen():
                y, logdet = chain(part, tensor(x.data, leaf), *self.given)
            used = [(each, g) for each, g in ((y, gy), (logdet, glogdet)) if each.node is not None]
            targets = outside | ({leaf} if leaf is not None and (i > 0 or wanted[0]) else set())
            pulled = pull_back([y for y, _ in used], [g for _, g in used], targets, create_graph, floor)
            del y, logdet, used
            gx = pulled.pop(leaf, None)
            for parent, each in pulled.items():
                found[parent] = found[parent] + each if parent in found else each
            if i > 0:
                gy = tensor(np.zeros_like(x.data)) if gx is None else gx
        return [gx, *(found.get(parent) for parent in node.parents[1:])]

    def check(self, x: Any) -> None:
        if not self.start.size:
            return
        off, size = (float(np.absolute(each).max()) for each in (x[:1] - self.start, self.start))
        if not off <= DRIFT * size:
            raise FloatingPointError(
                f"reversible: inverted, {len(self.blocks)} blocks lead {off:.1e} away from an input of size "
                f"{size:.1e}, so gradients would be wrong: a block is nearly singular, or its inverse is none. "
                "Try a lower learning rate, fewer blocks in a chain, or chain, which stores"
            )

    def rule_of(self, i: int) -> str:
        return f"reversible: the gradient of {'x' if i == 0 else f'outer tensor {i - 1}'}"
