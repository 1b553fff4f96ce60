"""How an operation is declared: a function of arrays, and one rule per argument.

    @op
    def mul(a, b):
        "a * b, elementwise; shapes broadcast."
        return a * b

    mul.vjp(a=lambda g, b: g * b,
            b=lambda g, a: g * a)

A rule is the vector-Jacobian product of its argument: it sees tensors and is written in operations. The names of its
parameters say what the tape keeps alive for it: inputs, `out`, keyword-only options, `shapes`, `dtypes` (by input);
`add` keeps nothing. A misspelt name raises where it is declared. None declares that there is no gradient (a mask, an
index).

An operation is called a million times, so the declaration is compiled, once, into a function without loops or
dictionaries: `op` writes its source below, one line per input, and `_Rules` the small functions that pick what is kept.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from micrognm import backend
from micrognm.engine import Node, Tensor, look, state, tensor, users_line

NUMBERS = frozenset({float, int, bool})  # they never promote a dtype: NEP 50
FORWARD_ERRORS = (ValueError, TypeError, IndexError, AttributeError)
Rule = Callable[..., Any]


class Operation(Protocol):
    """What `op` makes of a forward."""

    __name__: str

    def __call__(self, *inputs: Any, **options: Any) -> Tensor: ...

    def vjp(self, **rules: Rule | None) -> None:
        """Declare the rule of each named argument: rule(g, *what it needs) -> gradient, or None where none exists."""


class _Rules:
    """The rules of one operation, compiled.

    pull[i](g, saved, nodes, i) calls the rule of input i; keep[live] picks (parents, saved) when the inputs with those
    bits are recorded, or is None when none of them has a rule.
    """

    pull_all = None  # one rule per input; a checkpoint computes all at once

    def __init__(self, forward: Callable[..., Any]) -> None:
        self.forward = forward
        self.name = forward.__name__.lstrip("_")  # _matmul is the core of matmul: errors call it that
        parameters = inspect.signature(forward).parameters.values()
        self.args = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
        self.options = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        self.variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        if self.variadic and len(self.args) > 1:
            raise TypeError(f"{self.name}: an operation takes named inputs or *inputs, not both")
        self.places = [*self.args, *self.options, "out", "shapes", "dtypes"]
        self.rules: dict[str, tuple[Rule, list[str]] | None] = {}
        self.pull: Any = []
        self.keep: dict[int, Any] = {}
        self.unknown: Any = _Repeat(None) if self.variadic else (None,) * (len(self.args) + 1)

    def vjp(self, **rules: Rule | None) -> None:
        for arg, rule in rules.items():
            names = [] if rule is None else list(inspect.signature(rule).parameters)[1:]
            known = [*self.places, *(["i"] if self.variadic else [])]
            wrong = [name for name in names if name not in known] if arg in self.args else [arg]
            if wrong:
                raise TypeError(
                    f"{self.name}: the rule for {arg!r} names {', '.join(wrong)}; "
                    f"known are the inputs {', '.join(self.args)} and {', '.join(known[len(self.args) :])}"
                )
            self.rules[arg] = None if rule is None else (rule, names)
        compiled = [self._adapter(arg) for arg in self.args]
        self.pull = _Repeat(compiled[0]) if self.variadic else compiled
        self.keep.clear()

    def _adapter(self, arg: str) -> Any:
        """lambda g, s, n, i: rule(g, ...) with what it names taken from saved s, nodes n (inputs, output) and i."""
        rule, names = self.rules.get(arg) or (None, [])
        given = "".join(f", {self._given(name)}" for name in names)
        return rule and eval(f"lambda g, s, n, i: rule(g{given})", {"rule": rule, "wrap": _wrap})

    def _given(self, name: str) -> str:
        if name == "i":
            return "i"
        place = self.places.index(name)
        if name == "out":
            return f"wrap(s[{place}], n[-1])"
        if name not in self.args:
            return f"s[{place}]"
        return "[wrap(x, m) for x, m in zip(s[0], n)]" if self.variadic else f"wrap(s[{place}], n[{place}])"

    def keeper(self, live: int) -> Any:
        """Compile keep[live]: (nodes, inputs, options, out) -> (parents, saved)."""
        recorded = [arg for i, arg in enumerate(self.args) if live >> i & 1]
        for arg in recorded:
            if arg not in self.rules:
                raise TypeError(
                    f"{self.name}: argument {arg!r} has no gradient rule. Pass stop_gradient({arg}), or declare "
                    f"{self.name}.vjp({arg}=rule), or {arg}=None where no gradient exists"
                )
        ruled = [arg for arg in recorded if self.rules[arg] is not None]
        named = {name for arg in ruled for name in self.rules[arg][1]}  # type: ignore[index]
        saved = [self._saved(place) if place in named else "None" for place in self.places]
        if self.variadic:
            parents = f"tuple(n_{self.args[0]})"
        else:
            parents = "(" + "".join(f"n_{a}, " if a in ruled else "None, " for a in self.args) + ")"
        given = ", ".join([*(f"n_{a}" for a in self.args), *self.args, *self.options, "out"])
        keep = eval(f"lambda {given}: ({parents}, ({', '.join(saved)}))", {}) if ruled else None
        self.keep[live] = keep
        return keep

    def _saved(self, place: str) -> str:
        attribute = {"shapes": "shape", "dtypes": "dtype"}.get(place)
        if attribute is None:
            return place
        if self.variadic:
            return f"[getattr(x, '{attribute}', ()) for x in {self.args[0]}]"
        return "{" + ", ".join(f"'{a}': getattr({a}, '{attribute}', ())" for a in self.args) + "}"

    def describe(self, inputs: Sequence[Any]) -> str:
        """name(argument: dtype[shape], ...) for messages."""
        names = [f"{self.args[0]}[{i}]" for i in range(len(inputs))] if self.variadic else self.args
        shown = [f"{x.dtype}{list(x.shape)}" if hasattr(x, "shape") else repr(x) for x in inputs]
        return f"{self.name}({', '.join(f'{n}: {x}' for n, x in zip(names, shown, strict=True))})"

    def rule_of(self, i: int) -> str:
        return f"{self.name}: the rule for {self.args[0] + f'[{i}]' if self.variadic else self.args[i]!r}"

    # What a call does with inputs that are not plain tensors of one dtype.

    def constant(self, arg: str, x: Any) -> Any:
        """An input that is not a tensor: an array, or a NumPy number made Python's."""
        if isinstance(x, np.generic):
            return x.item()
        if not backend.is_array(x):
            raise TypeError(f"{self.name}: argument {arg!r} is {type(x).__name__}; expected a Tensor, array or number")
        return x

    def agree(self, inputs: Sequence[Any]) -> Any:
        """The one floating dtype of the inputs, or None; TypeError where dtypes or devices are mixed."""
        arrays = [x for x in inputs if x.__class__ not in NUMBERS]
        floats = [x.dtype for x in arrays if x.dtype.kind == "f"]
        if any(dtype != floats[0] for dtype in floats):
            raise TypeError(
                f"{self.describe(inputs)}: mixed dtypes; floating inputs must have one. "
                f"Cast the odd one: x.cast(dtype={floats[0].name!r})"
            )
        devices = [backend.device_of(x) for x in arrays]
        if any(device != devices[0] for device in devices):
            raise TypeError(
                f"{self.describe(inputs)}: mixed devices ({', '.join(devices)}). "
                "Make all inputs on one: backend.use(device) before they are made"
            )
        return floats[0] if floats else None

    def promoted(self, inputs: Sequence[Any], dtype: Any, out: Any) -> TypeError:
        return TypeError(
            f"{self.describe(inputs)}: the integer input turns {dtype} into {out.dtype}. "
            f"Cast it first: x.cast(dtype={dtype.name!r})"
        )

    def explained(self, inputs: Sequence[Any], error: Exception) -> Exception:
        """The forward's error, with the operation, its inputs and its rule."""
        kind = next(k for k in FORWARD_ERRORS if isinstance(error, k))
        rule = (self.forward.__doc__ or "").strip().split("\n")[0]
        return kind(f"{self.describe(inputs)}: {error}. The rule: {rule}")

    def look(self, inputs: Sequence[Any], out: Any) -> None:
        look(self.describe(inputs), inputs, out)


class _Repeat:
    """An endless sequence of one thing: every input of a variadic operation has the same rule."""

    def __init__(self, it: Any) -> None:
        self.it = it

    def __getitem__(self, i: int) -> Any:
        if i >= 10**6:
            raise IndexError
        return self.it


def _wrap(data: Any, node: Node | None) -> Any:
    """A saved input as a tensor; a number stays a number."""
    return data if data.__class__ in NUMBERS else tensor(data, node)


def _as_array(out: Any, inputs: Sequence[Any]) -> Any:
    """NumPy reduces to scalars, and numbers alone make numbers: back to arrays, float32 from numbers alone."""
    if backend.is_array(out):
        return out
    if isinstance(out, float) and all(x.__class__ in NUMBERS for x in inputs):  # np.float64 is a float too
        return backend.asarray(out, np.float32)
    return np.asarray(out)


_INPUT = """
    if isinstance({a}, Tensor):
        n_{a} = {a}.node
        {a} = {a}.data
    else:
        n_{a} = None
        if {a}.__class__ not in NUMBERS:
            {a} = rules.constant('{a}', {a})"""
_INPUTS = """
    n_{a} = [x.node if isinstance(x, Tensor) else None for x in {a}]
    {a} = [
        x.data if isinstance(x, Tensor) else x if x.__class__ in NUMBERS else rules.constant('{a}', x) for x in {a}
    ]"""
_AGREE_TWO = """
    mixed = None
    if {0}.__class__ not in NUMBERS and {1}.__class__ not in NUMBERS:
        if {0}.dtype is not {1}.dtype or {0}.__class__ is not {1}.__class__:
            mixed = rules.agree(({0}, {1}))"""
_BODY = """
    try:
        out = forward({given})
    except FORWARD_ERRORS as error:
        raise rules.explained({inputs}, error) from error
    if out.__class__ is not ndarray:
        out = as_array(out, {inputs})
    if mixed is not None and out.dtype != mixed and out.dtype.kind == 'f':
        raise rules.promoted({inputs}, mixed, out)
    if state.debug:
        rules.look({inputs}, out)
    y = new(Tensor)
    y.data = out
    y.node = None
    if live and state.recording:
        keep = kept[live] if live in kept else rules.keeper(live)
        if keep is not None:
            parents, saved = keep({keep})
            y.node = Node(rules, parents, saved, out.shape, out.dtype)
            if state.debug:
                y.node.where = users_line()
    return y
"""


def op(forward: Callable[..., Any]) -> Operation:
    """Make a function of arrays an operation on tensors; declare its rules with `.vjp`.

    Inputs are the positional parameters, or one *inputs; options the keyword-only ones, which a call may give by
    place too. Inputs may be tensors, arrays or numbers. The first line of the docstring states the rule that shapes and
    dtypes must follow: errors quote it.
    """
    rules = _Rules(forward)
    args, options = rules.args, rules.options
    required = inspect.Parameter.empty
    optional = [o for o in options if options[o] is required]
    optional += [f"{o}=default_{o}" for o in options if options[o] is not required]
    given = [*(args if not rules.variadic else [f"*{args[0]}"]), *(f"{o}={o}" for o in options)]
    if rules.variadic:
        head = [f"*{args[0]}", *optional]
        unpack = _INPUTS.format(a=args[0])
        inputs, live = args[0], f"int(any(n is not None for n in n_{args[0]}))"
    else:
        head = [*args, *optional]
        unpack = "".join(_INPUT.format(a=a) for a in args)
        inputs, live = f"({', '.join(args)},)", " | ".join(f"(n_{a} is not None) << {i}" for i, a in enumerate(args))
    if rules.variadic or len(args) > 2:
        unpack += f"\n    mixed = rules.agree({inputs})"
    else:
        unpack += _AGREE_TWO.format(*args) if len(args) == 2 else "\n    mixed = None"
    keep = ", ".join([*(f"n_{a}" for a in args), *args, *options, "out"])
    body = _BODY.format(given=", ".join(given), inputs=inputs, keep=keep)
    source = f"def {rules.name}({', '.join(head)}):{unpack}\n    live = {live}{body}"
    scope = {
        "FORWARD_ERRORS": FORWARD_ERRORS, "NUMBERS": NUMBERS, "Node": Node, "Tensor": Tensor, "as_array": _as_array,
        "forward": forward, "kept": rules.keep, "ndarray": np.ndarray, "new": object.__new__, "rules": rules,
        "state": state, "users_line": users_line, **{f"default_{o}": default for o, default in options.items()},
    }  # fmt: skip
    exec(compile(source, f"<operation {rules.name}>", "exec"), scope)
    call = scope[rules.name]
    call.__doc__, call.__module__, call.__wrapped__, call.vjp = forward.__doc__, forward.__module__, forward, rules.vjp
    return call
