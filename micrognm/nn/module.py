"""Parameter and Module: what a model owns is found in its attributes; nothing needs to be registered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from micrognm import backend
from micrognm.engine import Leaf, Tensor


class Parameter(Tensor):
    """A leaf that a Module owns and an optimiser moves. It copies its data, which is later written in place."""

    __slots__ = ()

    def __init__(self, data: Any) -> None:
        super().__init__(data, requires_grad=True)
        self.data = self.data.copy()


class Module:
    """A function with parameters. Subclasses assign attributes in `__init__` and write `forward`.

    Found in the attributes, in order of assignment and also inside lists, tuples and dicts: parameters, modules,
    buffers (tensors without history: masks, running statistics) and random generators. Each goes under its dotted name
    ("layers.0.weight"); what is reached on several ways, such as a tied weight, is listed once, under the first.
    """

    training = True  # `train` and `eval` set it on the instance

    def forward(self, *xs: Any, **options: Any) -> Any:
        """What a call computes."""
        raise NotImplementedError(f"{type(self).__name__}.forward is not written")

    def __call__(self, *xs: Any, **options: Any) -> Any:
        return self.forward(*xs, **options)

    def _walk(self) -> dict[str, Any]:
        """Everything that this module owns, itself under ""."""
        found: dict[str, Any] = {}
        _collect(self, "", found, set())
        return found

    def named_parameters(self) -> dict[str, Parameter]:
        """Parameters by name."""
        return {name: x for name, x in self._walk().items() if isinstance(x, Parameter)}

    def parameters(self) -> list[Parameter]:
        """Parameters, in the order of their names."""
        return list(self.named_parameters().values())

    def named_buffers(self) -> dict[str, Tensor]:
        """Tensors that belong to the state but are not trained, by name."""
        return {name: x for name, x in self._walk().items() if isinstance(x, Tensor) and not isinstance(x, Parameter)}

    def modules(self) -> list[Module]:
        """This module and all within it."""
        return [x for x in self._walk().values() if isinstance(x, Module)]

    def generators(self) -> dict[str, np.random.Generator]:
        """Random generators by name: a checkpoint saves their states."""
        return {name: x for name, x in self._walk().items() if isinstance(x, np.random.Generator)}

    def train(self) -> None:
        """Behave as in training (Dropout drops), here and in all modules within."""
        for module in self.modules():
            module.training = True

    def eval(self) -> None:
        """Behave as in evaluation, here and in all modules within."""
        for module in self.modules():
            module.training = False

    def state(self) -> dict[str, np.ndarray]:
        """Copies, on the host, of all parameters and buffers by name."""
        return {name: np.array(backend.to_numpy(x.data)) for name, x in self._walk().items() if isinstance(x, Tensor)}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Take the values of `state()`. ValueError names every entry that does not fit; nothing is changed then.

        Parameters are written in place, because an optimiser holds views of them; buffers get arrays of their own,
        because a mask may be shared.
        """
        here = {name: x for name, x in self._walk().items() if isinstance(x, Tensor)}
        wrong = [f"missing: {name} {_form(x.data)}" for name, x in here.items() if name not in state]
        for name, value in state.items():
            if name not in here:
                wrong.append(f"unexpected: {name} {_form(value)}")
            elif _form(value) != _form(here[name].data):
                wrong.append(f"{name}: expected {_form(here[name].data)}, got {_form(value)}")
        if wrong:
            raise ValueError(f"{type(self).__name__}.load: the state does not fit this model:\n  " + "\n  ".join(wrong))
        for name, x in here.items():
            if isinstance(x, Parameter):
                x.data[...] = backend.asarray(state[name])
            else:
                x.data = backend.asarray(state[name].copy())

    def cast(self, dtype: Any) -> None:
        """Turn parameters and floating buffers into another dtype. An optimiser made before holds the old ones."""
        for x in self._walk().values():
            if isinstance(x, Tensor) and x.dtype.kind == "f":
                x.data = x.data.astype(dtype)
                if isinstance(x, Parameter):
                    x.node = Leaf(x.shape, x.dtype)

    def __repr__(self) -> str:
        return "\n".join(_tree(self, ""))


def _contents(holder: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """What an object's attributes hold, with lists, tuples and dicts opened: (dotted name, value)."""
    items = holder.items() if isinstance(holder, dict) else enumerate(holder)
    for key, value in items:
        if isinstance(value, (list, tuple, dict)):
            yield from _contents(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _collect(module: Module, name: str, found: dict[str, Any], seen: set[int]) -> None:
    """Add what the module owns to `found`, depth first."""
    found[name] = module
    seen.add(id(module))
    for key, value in _contents(vars(module), f"{name}." if name else ""):
        if not isinstance(value, (Tensor, Module, np.random.Generator)) or id(value) in seen:
            continue
        if key in found:
            raise ValueError(f"{type(module).__name__}: two things are named {key!r}; rename a key of the dict")
        if isinstance(value, Module):
            _collect(value, key, found, seen)
            continue
        if isinstance(value, Tensor) and value.node is not None and not isinstance(value, Parameter):
            raise TypeError(
                f"{type(module).__name__}: {key} is a recorded Tensor, neither a parameter nor a buffer. "
                "Assign Parameter(data) to train it, or stop_gradient(x) to keep its value"
            )
        found[key] = value
        seen.add(id(value))


def _form(x: Any) -> str:
    """dtype[shape], or the type of what is no array."""
    return f"{x.dtype}{list(x.shape)}" if isinstance(x, np.ndarray) or backend.is_array(x) else type(x).__name__


def _tree(module: Module, name: str) -> list[str]:
    """The lines of a module's repr: settings and shapes, then what it contains, indented."""
    own, children = [], []
    for key, value in _contents(vars(module)):
        if isinstance(value, Module):
            children += [f"  {line}" for line in _tree(value, key)]
        elif isinstance(value, Tensor):
            own.append(f"{key} {list(value.shape)}{'' if isinstance(value, Parameter) else ' (buffer)'}")
        elif callable(value):
            children.append(f"  {key}: {getattr(value, '__name__', repr(value))}")
        elif isinstance(value, (bool, int, float, str)) and key != "training" and "." not in key:
            own.append(f"{key}={value!r}")
    count = sum(x.size for x in module.parameters())
    head = f"{name}: " if name else ""
    total = f"  {count:,} parameters" if children or not name else ""
    return [f"{head}{type(module).__name__}({', '.join(own)}){total}", *children]
