"""The tape: tensors, and gradients of every order. How an operation is declared is in `operation.py`.

A node remembers which operation made a tensor, from which nodes, and the arrays that the operation's rules named.
`grad` walks the nodes from the youngest to the oldest; a rule sees tensors and is written in operations, so that
gradients have gradients. The engine alone sums a gradient down to its argument's shape after broadcasting, checks
shape and dtype, and skips the rules that nobody needs.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from micrognm import backend

if TYPE_CHECKING:
    from micrognm.operation import Operation


class State(threading.local):
    """What the running thread does with the operations it calls."""

    recording = True  # write them on the tape
    debug = False  # look at their results for the first value that is not finite


state = State()
created = itertools.count()
_age = attrgetter("order")


class Node:
    """A vertex of the tape. It holds nodes and arrays, never tensors: no cycles, and what is not needed is freed.

    op: the rules of the operation (None for a leaf). where: the user's line, under `debug`.
    """

    __slots__ = ("dtype", "op", "order", "parents", "saved", "shape", "where")

    def __init__(self, op: Any, parents: tuple, saved: tuple, shape: tuple[int, ...], dtype: Any) -> None:
        self.op = op
        self.parents = parents
        self.saved = saved
        self.shape = shape
        self.dtype = dtype
        self.order = next(created)  # an operation is younger than its inputs: this order is topological


class Leaf(Node):
    """The node of a tensor that was not computed; `backward` adds up its gradient here.

    arena: a weak reference to the flat array of an optimiser that the tensor is part of.
    """

    __slots__ = ("arena", "grad")

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        super().__init__(None, (), (), shape, dtype)
        self.grad: Tensor | None = None
        self.arena: Callable[[], Any] = _nothing


def _nothing() -> None:
    """A reference that is dead already."""


class _Output:
    """The op of each output of an operation that has several: its one parent is the operation's node."""

    name = "output"


OUTPUT = _Output()


class Tensor:
    """An array and, where it is recorded, its node on the tape.

    data: an array, a number or nested lists. Python numbers become float32; arrays keep their dtype. requires_grad
    makes a leaf, for which gradients can be asked. Raises TypeError where a gradient is asked of integers.
    """

    __slots__ = ("__weakref__", "data", "node")
    __array_ufunc__ = None  # numpy_array * tensor is the tensor's business

    data: backend.Array
    node: Node | None

    def __init__(self, data: Any, requires_grad: bool = False, dtype: Any = None) -> None:
        if isinstance(data, Tensor):
            raise TypeError("Tensor: data is a Tensor already; stop_gradient(x) gives it without its history")
        if dtype is None and not hasattr(data, "dtype") and np.asarray(data).dtype == np.float64:
            dtype = np.float32
        self.data = backend.asarray(data, dtype)
        if requires_grad and self.data.dtype.name not in backend.DTYPES:
            raise TypeError(f"Tensor: a gradient needs float32 or float64, got {self.data.dtype}")
        self.node = Leaf(self.data.shape, self.data.dtype) if requires_grad else None

    if TYPE_CHECKING:  # `ops` attaches these operations; see its table there
        __add__: Operation
        __radd__: Operation
        __sub__: Operation
        __rsub__: Operation
        __mul__: Operation
        __rmul__: Operation
        __truediv__: Operation
        __rtruediv__: Operation
        __pow__: Operation
        __rpow__: Operation
        __matmul__: Operation
        __rmatmul__: Operation
        __neg__: Operation
        __abs__: Operation
        __eq__: Operation  # type: ignore[assignment]  # elementwise, as in NumPy
        __ne__: Operation  # type: ignore[assignment]
        __lt__: Operation
        __le__: Operation
        __gt__: Operation
        __ge__: Operation
        __getitem__: Operation
        sum: Operation
        mean: Operation
        var: Operation
        max: Operation
        min: Operation
        argmax: Operation
        reshape: Operation
        transpose: Operation
        cast: Operation

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return self.data.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.data.ndim

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.data.size

    @property
    def dtype(self) -> np.dtype:
        """Type of the elements."""
        return self.data.dtype

    @property
    def requires_grad(self) -> bool:
        """Whether a gradient can reach this tensor."""
        return self.node is not None

    @property
    def grad(self) -> Tensor | None:
        """What `backward` has added up here (leaves only)."""
        return self.node.grad if isinstance(self.node, Leaf) else None

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if not isinstance(self.node, Leaf):
            raise AttributeError("grad: only a leaf, made with requires_grad=True, holds a gradient")
        self.node.grad = value

    def backward(self, grad_output: Tensor | None = None) -> None:
        """Add the gradients of this tensor (one number unless grad_output is given) to `.grad` of the leaves behind."""
        for leaf, g in pull_back([self], [grad_output]).items():
            leaf.grad = g if leaf.grad is None else leaf.grad + g  # not in place: g may be another leaf's gradient too

    def numpy(self) -> np.ndarray:
        """The values as a NumPy array (shared, not copied, where they live on the CPU)."""
        return backend.to_numpy(self.data)

    def item(self) -> float:
        """The one value, as a Python number."""
        return self.data.item()

    __float__ = item

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self.node is not None:
            raise TypeError("a recorded Tensor as an array would lose its gradient without a word; write x.numpy()")
        return np.array(self.numpy(), dtype, copy=copy)

    def __bool__(self) -> bool:
        return bool(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        values = np.array2string(self.numpy(), separator=", ", threshold=20, edgeitems=2, precision=5)
        origin = "" if self.node is None else f", by {self.node.op.name}" if self.node.op else ", requires_grad"
        return f"Tensor({values}, {self.dtype}{list(self.shape)}{origin})"

    def __setitem__(self, index: Any, value: Any) -> None:
        if self.node is not None:
            raise TypeError(
                "x[index] = value would change a recorded Tensor, and its gradient with it. "
                "Write x = where(mask, value, x), or concat of the parts"
            )
        self.data[index.data if isinstance(index, Tensor) else index] = (
            value.data if isinstance(value, Tensor) else value
        )

    def _in_place(self, other: Any) -> Tensor:
        if self.node is not None:
            raise TypeError(
                "x += y (-=, *=, /=) would change a recorded Tensor, and its gradient with it. Write x = x + y"
            )
        return NotImplemented  # Python then rebinds: x = x + y

    __iadd__ = __isub__ = __imul__ = __itruediv__ = __ipow__ = __imatmul__ = _in_place


def tensor(data: Any, node: Node | None = None, _new: Any = object.__new__) -> Tensor:
    """A tensor around an array as it is: for the engine, where every nanosecond counts."""
    x = _new(Tensor)
    x.data = data
    x.node = node
    return x


@contextmanager
def setting(**flags: bool) -> Iterator[None]:
    """Inside, these attributes of `state` have these values."""
    before = {name: getattr(state, name) for name in flags}
    vars(state).update(flags)
    try:
        yield
    finally:
        vars(state).update(before)


def no_grad() -> Any:
    """`with no_grad():` (or `@no_grad()`) runs operations without recording them."""
    return setting(recording=False)


def debug() -> Any:
    """`with debug():` raises FloatingPointError at the first value that is not finite, forward or backward.

    The message names the operation, the shapes and the user's line. First means: from inputs that are finite.
    """
    return setting(debug=True)


def stop_gradient(x: Tensor) -> Tensor:
    """x without its history: a constant for every gradient."""
    return tensor(x.data)


# ---- gradients -------------------------------------------------------------------------------------------------------


Tensors = Sequence[Tensor]


@overload
def grad(
    y: Tensor | Tensors, wrt: Tensor, grad_output: Any = ..., create_graph: bool = ..., allow_unused: bool = ...
) -> Tensor: ...
@overload
def grad(
    y: Tensor | Tensors, wrt: Tensors, grad_output: Any = ..., create_graph: bool = ..., allow_unused: bool = ...
) -> list[Tensor]: ...
def grad(
    y: Tensor | Tensors,
    wrt: Tensor | Tensors,
    grad_output: Tensor | Sequence[Tensor | None] | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> Tensor | list[Tensor]:
    """Gradient of y with respect to a tensor, or a list of them for several tensors.

    y is one number, unless grad_output, of y's shape, weighs its elements (the cotangent). Of several y, with as many
    grad_output, it is the gradient of the sum, in one walk. create_graph records the gradients, so that they have
    gradients in turn. ValueError where no y depends on a tensor; zeros instead with allow_unused.
    """
    targets = [wrt] if isinstance(wrt, Tensor) else list(wrt)
    for i, x in enumerate(targets):
        if x.node is None:
            raise ValueError(f"grad: wrt[{i}] {_named(x)} requires no gradient; make it with requires_grad=True")
    ys, gs = ([y], [grad_output]) if isinstance(y, Tensor) else (list(y), _cotangents(grad_output, len(y)))
    if allow_unused:
        gs = [g for one, g in zip(ys, gs, strict=True) if one.node is not None]
        ys = [one for one in ys if one.node is not None]
    found = pull_back(ys, gs, {x.node for x in targets}, create_graph)  # type: ignore[arg-type]
    missing = [f"wrt[{i}] {_named(x)}" for i, x in enumerate(targets) if x.node not in found]
    if missing and not allow_unused:
        raise ValueError(f"grad: y does not depend on {', '.join(missing)}; allow_unused=True gives zeros")
    grads = [found[x.node] if x.node in found else tensor(np.zeros_like(x.data)) for x in targets]
    return grads[0] if isinstance(wrt, Tensor) else grads


def _cotangents(grad_output: Any, count: int) -> list[Tensor | None]:
    given = [None] * count if grad_output is None else [grad_output] if isinstance(grad_output, Tensor) else grad_output
    if len(given) != count:
        raise ValueError(f"grad: {count} y need as many grad_output, got {len(given)}; None stands for one of 1")
    return list(given)


def _named(x: Tensor) -> str:
    return f"({x.dtype}{list(x.shape)})"


def path_to(roots: Iterable[Node], targets: set | None, floor: int) -> tuple[list[Node], set]:
    """The nodes between the roots and the targets (every leaf where None), youngest first, and the same as a set."""
    oldest = -1 if targets is None else min(map(_age, targets), default=0)
    stack = list(roots)
    seen = set(stack)
    while stack:
        node = stack.pop()
        if node.order >= floor:
            for parent in node.parents:
                if parent is not None and parent not in seen and parent.order >= oldest:
                    seen.add(parent)
                    stack.append(parent)
    nodes = sorted(seen, key=_age)
    if targets is not None:
        seen = set()
        for node in nodes:
            if node in targets or not seen.isdisjoint(node.parents):
                seen.add(node)
        nodes = [node for node in nodes if node in seen]
    nodes.reverse()
    return nodes, seen


def pull_back(
    ys: Sequence[Tensor],
    grad_outputs: Sequence[Tensor | None],
    targets: set | None = None,
    create_graph: bool = False,
    floor: int = -1,
) -> dict[Any, Tensor]:
    """Gradients at the target nodes, at every leaf where None. Nodes older than floor are not entered."""
    given = [_cotangent(y, g) for y, g in zip(ys, grad_outputs, strict=True)]
    nodes, needed = path_to([y.node for y in ys], targets, floor)  # type: ignore[misc]
    everything, debugging = targets is None, state.debug
    grads: dict[Any, Any] = {}
    found: dict[Any, Tensor] = {}
    ours: set[Node] = set()  # their gradients are sums made here, which nobody else holds
    with setting(recording=create_graph, debug=False), np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for y, g in zip(ys, given, strict=True):
            grads[y.node] = grads[y.node] + g if y.node in grads else g
        for node in nodes:
            g = grads.pop(node, None)
            if g is None:  # only an output that nobody used leads here
                continue
            op = node.op
            if op is None if everything else node in targets:  # type: ignore[operator]
                found[node] = g
            if op is None or node.order < floor:
                continue
            if op is OUTPUT:  # one of several: its gradient waits until the others' are there
                (several,) = node.parents
                grads.setdefault(several, [None] * len(several.shape))[node.saved[0]] = g
                continue
            known = (*node.parents, node) if create_graph else op.unknown
            at_once = None
            if op.pull_all is not None:
                wanted = [parent is not None and (everything or parent in needed) for parent in node.parents]
                at_once = op.pull_all(g, node, create_graph, wanted)
            i = -1
            for parent in node.parents:
                i += 1
                if parent is None or not (everything or parent in needed):
                    continue
                gx = op.pull[i](g, node.saved, known, i) if at_once is None else at_once[i]
                if gx is None:  # the outputs that were used do not depend on this input
                    continue
                data = gx.data
                if data.shape != parent.shape:
                    gx = _unbroadcast(gx, parent.shape, op, i)
                    data = gx.data
                if data.dtype is not parent.dtype and data.dtype != parent.dtype:  # unpickled dtypes are not unique
                    raise TypeError(f"{op.rule_of(i)} gives {gx.dtype}, the argument is {parent.dtype}")
                if debugging:
                    _look_back(node, i, g, gx)
                if parent not in grads:
                    grads[parent] = gx
                elif parent in ours:
                    grads[parent].data += data
                else:
                    grads[parent] = grads[parent] + gx
                    if not create_graph:
                        ours.add(parent)
    return found


def _cotangent(y: Tensor, g: Tensor | None) -> Tensor:
    """g, or 1 for a y of one number, if y can be differentiated and g can weigh it."""
    if y.node is None:
        raise ValueError(f"grad: y {_named(y)} depends on nothing that requires a gradient, or ran under no_grad")
    if g is None:
        if y.data.size != 1:
            raise ValueError(f"grad: y {_named(y)} is not one number; take its sum or mean, or give grad_output")
        return tensor(np.ones_like(y.data))
    if g.shape != y.shape or g.dtype != y.dtype:
        raise ValueError(f"grad: grad_output {_named(g)} must have y's shape and dtype {_named(y)}")
    return g


def _unbroadcast(g: Tensor, shape: tuple[int, ...], op: Any, i: int) -> Tensor:
    """Sum g over the axes along which an argument of this shape was repeated."""
    lead = g.ndim - len(shape)
    if lead < 0 or any(n not in (1, m) for n, m in zip(shape, g.shape[lead:], strict=True)):
        raise TypeError(f"{op.rule_of(i)} gives shape {list(g.shape)}, the argument has {list(shape)}")
    repeated = tuple(k for k in range(g.ndim) if k < lead or (shape[k - lead] == 1 and g.shape[k] != 1))
    g = g.sum(axis=repeated, keepdims=True)
    return g.reshape(shape=shape) if lead else g


def pull_through(
    f: Callable[..., Any], inputs: Sequence[Any], node: Node, g: Any, wanted: Sequence[bool]
) -> list[Tensor | None]:
    """Recorded gradients of an operation that f writes in other operations: f runs again, on the operation's inputs.

    g: the gradient of its output; of several, a list, with None for those that were not used.
    """
    floor = next(created)
    again = [
        tensor(x, None if parent is None else Node(_SAME, (parent,), (), parent.shape, parent.dtype))
        for x, parent in zip(inputs, node.parents, strict=True)
    ]
    y = f(*(x.data if x.node is None and not backend.is_array(x.data) else x for x in again))
    parts = zip(y, g, strict=True) if isinstance(g, list) else [(y, g)]
    used = [(part, each) for part, each in parts if each is not None and part.node is not None]
    targets = {x.node for x, needed in zip(again, wanted, strict=True) if needed}
    found = pull_back([part for part, _ in used], [each for _, each in used], targets, True, floor)
    return [found.get(x.node) if needed else None for x, needed in zip(again, wanted, strict=True)]


class _Same:
    """The op of an input that runs again under a node of its own: the same tensor may be two inputs."""

    name = "same"
    pull_all, unknown = None, ()
    pull = (lambda g, s, n, i: g,)

    def rule_of(self, i: int) -> str:
        return "the gradient of an input"


_SAME = _Same()


# ---- memory for time -------------------------------------------------------------------------------------------------


def checkpoint(f: Callable[..., Tensor], *xs: Any) -> Tensor:
    """f(*xs), keeping only xs: the backward pass runs f again. Gradients flow to xs and to all that f closes over.

    f returns one tensor and must give the same result twice. A np.random.Generator among xs is put back to its state
    for the second run; one that f merely closes over is not, so pass it.
    """
    if not state.recording:
        return f(*xs)
    floor = next(created)
    before = tuple(copy.deepcopy(x) if isinstance(x, np.random.Generator) else x for x in xs)
    y = f(*xs)
    if not isinstance(y, Tensor):
        raise TypeError(f"checkpoint: f must return one Tensor, got {type(y).__name__}; concat several into one")
    if y.node is None or y.node.order < floor:
        return y
    outside = tuple(node for node in path_to([y.node], None, floor)[0] if node.order < floor)
    again = _Replay(f, tuple(tensor(x.data, x.node) if isinstance(x, Tensor) else x for x in before))
    return tensor(y.data, Node(again, outside, (), y.shape, y.dtype))


class _Replay:
    """The rules of a checkpoint: run f again on the tape, and pull the gradient back through that."""

    name = "checkpoint"
    pull, unknown = (), ()

    def __init__(self, f: Callable[..., Tensor], xs: tuple) -> None:
        self.f, self.xs = f, xs

    def pull_all(self, g: Tensor, node: Node, create_graph: bool, wanted: Sequence[bool]) -> list[Tensor | None]:
        floor = next(created)
        with setting(recording=True):
            y = self.f(*(copy.deepcopy(x) if isinstance(x, np.random.Generator) else x for x in self.xs))
        if y.shape != node.shape or y.node is None:
            raise ValueError(f"checkpoint: f gave {list(node.shape)} and, run again, {list(y.shape)} or no gradient")
        found = pull_back([y], [g], set(node.parents), create_graph, floor)
        return [found.get(parent) for parent in node.parents]

    def rule_of(self, i: int) -> str:
        return f"checkpoint: the gradient of outer tensor {i}"


# ---- the first value that is not finite ------------------------------------------------------------------------------


def _finite(x: Any) -> bool:
    return not hasattr(x, "dtype") or x.dtype.kind != "f" or bool(np.isfinite(x).all())


def users_line() -> str:
    """File and line of the innermost caller outside this package."""
    ours = (os.path.dirname(__file__) + os.sep, "<operation", contextlib.__file__)
    frame: Any = sys._getframe(1)
    while frame.f_back and frame.f_code.co_filename.startswith(ours):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def look(described: str, inputs: Iterable[Any], out: Any) -> None:
    """Raise FloatingPointError if out is not finite though all inputs are."""
    if not _finite(out) and all(map(_finite, inputs)):
        what = "NaN" if np.isnan(out).any() else "infinity"
        raise FloatingPointError(f"{described} gives {what} from finite inputs, at {users_line()}")


def _look_back(node: Node, i: int, g: Any, gx: Tensor) -> None:
    given = g if isinstance(g, list) else [g]
    if not _finite(gx.data) and all(_finite(each.data) for each in given if each is not None):
        where = getattr(node, "where", "a line that ran outside debug()")
        raise FloatingPointError(
            f"{node.op.rule_of(i)} gives a gradient that is not finite {list(gx.shape)}; the operation ran at {where}"
        )
