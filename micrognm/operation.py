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

A kernel that computes all gradients in one pass declares `vjp_at_once` instead, for one or several outputs.

An operation is called a million times, so the declaration is compiled, once, into a function without loops or
dictionaries: `op` writes its source below, one line per input, and `_Rules` the small functions that pick what is kept.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol, overload

import numpy as np

from micrognm import backend
from micrognm.engine import OUTPUT, Node, Tensor, look, pull_through, state, tensor, users_line

NUMBERS = frozenset({float, int, bool})  # they never promote a dtype: NEP 50
FORWARD_ERRORS = (ValueError, TypeError, IndexError, AttributeError)
Rule = Callable[..., Any]


class Operation(Protocol):
    """What `op` makes of a forward."""

    __name__: str

    def __call__(self, *inputs: Any, **options: Any) -> Tensor: ...

    def vjp(self, **rules: Rule | None) -> None:
        """Declare the rule of each named argument: rule(g, *what it needs) -> gradient, or None where none exists."""

    def vjp_at_once(self, rule: Rule, composed: Rule) -> None:
        """Declare one rule for all inputs: rule(g, needs, *what it needs) -> one gradient, or None, for each input.

        It sees arrays, as the forward does, and computes the gradients that `needs` (booleans) asks for, in one pass.
        g is a list for several outputs, with None for those that were not used. composed(*inputs, **options) is the
        same function written in operations: gradients that are recorded are pulled through it.
        """


class _Rules:
    """The rules of one operation, compiled.

    pull[i](g, saved, nodes, i) calls the rule of input i; keep[live] picks (parents, saved) when the inputs with those
    bits are recorded, or is None when none of them has a rule.
    """

    pull_all: Any = None

    def __init__(self, forward: Callable[..., Any], keeps: tuple[str, ...] = (), outputs: int = 1) -> None:
        self.forward = forward
        self.name = forward.__name__.lstrip("_")  # _matmul is the core of matmul: errors call it that
        parameters = inspect.signature(forward).parameters.values()
        self.args = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
        self.options = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        self.variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        if self.variadic and len(self.args) > 1:
            raise TypeError(f"{self.name}: an operation takes named inputs or *inputs, not both")
        self.outputs = outputs
        self.places = [*self.args, *self.options, *keeps, "out", "shapes", "dtypes"]
        self.rules: dict[str, tuple[Rule, list[str]] | None] = {}
        self.pull: Any = []
        self.keep: dict[int, Any] = {}
        self.unknown: Any = _Repeat(None) if self.variadic else (None,) * (len(self.args) + 1)

    def vjp(self, **rules: Rule | None) -> None:
        for arg, rule in rules.items():
            names = [] if rule is None else list(inspect.signature(rule).parameters)[1:]
            self._known([name for name in names if name not in self._named()] if arg in self.args else [arg], arg)
            self.rules[arg] = None if rule is None else (rule, names)
        compiled = [self._adapter(arg) for arg in self.args]
        self.pull = _Repeat(compiled[0]) if self.variadic else compiled
        self.keep.clear()

    def vjp_at_once(self, rule: Rule, composed: Rule) -> None:
        if self.variadic:
            raise TypeError(f"{self.name}: vjp_at_once needs named inputs, not *{self.args[0]}")
        names = list(inspect.signature(rule).parameters)[2:]
        self._known([name for name in names if name not in self._named()], "all inputs")
        places = [self.places.index(name) for name in names]
        # The composed function runs on all inputs and options, so all are kept.
        self.rules = {arg: (rule, [*names, *self.args, *self.options]) for arg in self.args}

        def pull_all(g: Any, node: Node, create_graph: bool, wanted: Sequence[bool]) -> Sequence[Tensor | None]:
            inputs = node.saved[: len(self.args)]
            if create_graph:
                options = dict(zip(self.options, node.saved[len(self.args) :], strict=False))
                return pull_through(lambda *xs: composed(*xs, **options), inputs, node, g, wanted)
            arrays = [None if x is None else x.data for x in g] if isinstance(g, list) else g.data
            found = rule(arrays, tuple(wanted), *(node.saved[place] for place in places))
            if len(found) != len(inputs):
                raise TypeError(f"{self.name}: the rule gives {len(found)} gradients for {len(inputs)} inputs")
            return [None if x is None else tensor(x) for x in found]

        self.pull_all = pull_all
        self.keep.clear()

    def _named(self) -> list[str]:
        return [*self.places, *(["i"] if self.variadic else [])]

    def _known(self, wrong: list[str], arg: str) -> None:
        if wrong:
            raise TypeError(
                f"{self.name}: the rule for {arg!r} names {', '.join(wrong)}; "
                f"known are the inputs {', '.join(self.args)} and {', '.join(self._named()[len(self.args) :])}"
            )

    def _adapter(self, arg: str) -> Any:
        """lambda g, s, n, i: rule(g, ...) with what it names taken from saved s, nodes n (inputs, output) and i."""
        rule, names = self.rules.get(arg) or (None, [])
        given = "".join(f", {self._given(name)}" for name in names)
        return rule and eval(f"lambda g, s, n, i: rule(g{given})", {"rule": rule, "wrap": _wrap})

    def _given(self, name: str) -> str:
        if name == "i" and self.variadic:  # the index; elsewhere an input may be called i
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
        given = ", ".join([*(f"n_{a}" for a in self.args), *self.places[:-2]])
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
    if isinstance({a}, _Tensor):
        n_{a} = {a}.node
        {a} = {a}.data
    else:
        n_{a} = None
        if {a}.__class__ not in _NUMBERS:
            {a} = _rules.constant('{a}', {a})"""
_INPUTS = """
    n_{a} = [x.node if isinstance(x, _Tensor) else None for x in {a}]
    {a} = [
        x.data if isinstance(x, _Tensor) else x if x.__class__ in _NUMBERS else _rules.constant('{a}', x) for x in {a}
    ]"""
_AGREE_TWO = """
    _mixed = None
    if {0}.__class__ not in _NUMBERS and {1}.__class__ not in _NUMBERS:
        if {0}.dtype is not {1}.dtype or {0}.__class__ is not {1}.__class__:
            _mixed = _rules.agree(({0}, {1}))"""
_BODY = """
    try:
        {results} = _forward({given})
    except _FORWARD_ERRORS as _error:
        raise _rules.explained({inputs}, _error) from _error
"""
_ONE = """
    if out.__class__ is not _ndarray:
        out = _as_array(out, {inputs})
    if _mixed is not None and out.dtype != _mixed and out.dtype.kind == 'f':
        raise _rules.promoted({inputs}, _mixed, out)
    if _state.debug:
        _rules.look({inputs}, out)
    _y = _new(_Tensor)
    _y.data = out
    _y.node = None
    if _live and _state.recording:
        _keep = _kept[_live] if _live in _kept else _rules.keeper(_live)
        if _keep is not None:
            _parents, _saved = _keep({keep})
            _y.node = _Node(_rules, _parents, _saved, out.shape, out.dtype)
            if _state.debug:
                _y.node.where = _users_line()
    return _y
"""
_SEVERAL = """
    if _state.debug:
        for _y in out:
            _rules.look({inputs}, _y)
    _node = None
    if _live and _state.recording:
        _keep = _kept[_live] if _live in _kept else _rules.keeper(_live)
        if _keep is not None:
            _parents, _saved = _keep({keep})
            _node = _Node(_rules, _parents, _saved, [_y.shape for _y in out], [_y.dtype for _y in out])
            if _state.debug:
                _node.where = _users_line()
    return _several(out, _node)
"""


def _several(out: Sequence[Any], node: Node | None) -> tuple[Tensor, ...]:
    """The outputs of one operation; each has a node of its own, whose parent is the operation's."""
    if node is None:
        return tuple(map(tensor, out))
    return tuple(tensor(y, Node(OUTPUT, (node,), (i,), y.shape, y.dtype)) for i, y in enumerate(out))


@overload
def op(forward: Callable[..., Any]) -> Operation: ...
@overload
def op(*, keeps: tuple[str, ...] = ..., outputs: int = ...) -> Callable[[Callable[..., Any]], Operation]: ...
def op(
    forward: Callable[..., Any] | None = None, *, keeps: tuple[str, ...] = (), outputs: int = 1
) -> Operation | Callable[[Callable[..., Any]], Operation]:
    """Make a function of arrays an operation on tensors; declare its rules with `.vjp` or `.vjp_at_once`.

    Inputs are the positional parameters, or one *inputs; options the keyword-only ones, which a call may give by
    place too. Inputs may be tensors, arrays or numbers. The first line of the docstring states the rule that shapes and
    dtypes must follow: errors quote it.

    A forward gives its output. With `@op(outputs=2)` it gives several, and the call a tuple of tensors; `keeps` names
    what it gives after them, for the rules alone.
    """
    if forward is None:
        return lambda forward: _compile(forward, keeps, outputs)
    return _compile(forward, keeps, outputs)


def _compile(forward: Callable[..., Any], keeps: tuple[str, ...], outputs: int) -> Operation:
    """Write the source of the operation, and run it. Its own names start with _, so that no input's name meets them."""
    rules = _Rules(forward, keeps, outputs)
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
        unpack += f"\n    _mixed = _rules.agree({inputs})"
    else:
        unpack += _AGREE_TWO.format(*args) if len(args) == 2 else "\n    _mixed = None"
    keep = ", ".join([*(f"n_{a}" for a in args), *rules.places[:-2]])
    out = "out" if outputs == 1 else f"({', '.join(f'out_{i}' for i in range(outputs))})"
    results = ", ".join([*(out.strip("()").split(", ")), *keeps])
    body = _BODY.format(given=", ".join(given), inputs=inputs, results=results)
    if outputs > 1:
        body += f"    out = {out}"
    body += (_ONE if outputs == 1 else _SEVERAL).format(inputs=inputs, keep=keep)
    source = f"def {rules.name}({', '.join(head)}):{unpack}\n    _live = {live}{body}"
    scope = {
        "_FORWARD_ERRORS": FORWARD_ERRORS, "_NUMBERS": NUMBERS, "_Node": Node, "_Tensor": Tensor,
        "_as_array": _as_array, "_forward": forward, "_kept": rules.keep, "_ndarray": np.ndarray,
        "_new": object.__new__, "_rules": rules, "_several": _several, "_state": state, "_users_line": users_line,
        **{f"default_{o}": default for o, default in options.items()},
    }  # fmt: skip
    exec(compile(source, f"<operation {rules.name}>", "exec"), scope)
    call = scope[rules.name]
    call.__doc__, call.__module__, call.__wrapped__ = forward.__doc__, forward.__module__, forward
    call.vjp, call.vjp_at_once = rules.vjp, rules.vjp_at_once
    return call
