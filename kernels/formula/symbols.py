"""What a formula is made of: a graph of symbols, in which equal subexpressions are one node.

A formula's function is called once on symbols. What it returns is differentiated (derive.py) and written out as code
(emit.py). Simplifications are those that lose nothing: constants among themselves, signs, zeros and ones. Sums are not
reordered, so that (1 + e) - 1 means what it says.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Iterator
from typing import Any

# Functions of one number, with their value on a Python number.
FUNCTIONS: dict[str, Callable[[float], float]] = {
    "exp": math.exp,
    "expm1": math.expm1,
    "log": math.log,
    "log1p": math.log1p,
    "sqrt": math.sqrt,
    "tanh": math.tanh,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "softplus": lambda x: max(x, 0.0) + math.log1p(math.exp(-math.fabs(x))),
    "log_sigmoid": lambda x: min(x, 0.0) - math.log1p(math.exp(-math.fabs(x))),
    "erf": math.erf,
    "abs": math.fabs,
    "sign": lambda x: math.copysign(1.0, x) if x else 0.0,
    "floor": lambda x: float(math.floor(x)),
}
COMPARISONS = {"less": "<", "less_equal": "<=", "equal": "==", "not_equal": "!="}
CONDITIONS = {*COMPARISONS, "both", "either", "opposite"}  # what is true or false


class Symbol:
    """A node: op and the nodes (or the name, or the number) it is made from. Equal nodes are the same object."""

    __slots__ = ("args", "op", "order")
    __array_ufunc__ = None  # a NumPy number meets a symbol's own methods

    op: str
    args: tuple[Any, ...]
    order: int  # of creation: arguments come before what is made of them

    def __add__(self, other: Any) -> Symbol:
        return add(self, other)

    def __radd__(self, other: Any) -> Symbol:
        return add(other, self)

    def __sub__(self, other: Any) -> Symbol:
        return sub(self, other)

    def __rsub__(self, other: Any) -> Symbol:
        return sub(other, self)

    def __mul__(self, other: Any) -> Symbol:
        return mul(self, other)

    def __rmul__(self, other: Any) -> Symbol:
        return mul(other, self)

    def __truediv__(self, other: Any) -> Symbol:
        return div(self, other)

    def __rtruediv__(self, other: Any) -> Symbol:
        return div(other, self)

    def __pow__(self, other: Any) -> Symbol:
        return power(self, other)

    def __rpow__(self, other: Any) -> Symbol:
        return power(other, self)

    def __neg__(self) -> Symbol:
        return neg(self)

    def __abs__(self) -> Symbol:
        return function("abs", self)

    def __lt__(self, other: Any) -> Symbol:
        return compare("less", self, other)

    def __le__(self, other: Any) -> Symbol:
        return compare("less_equal", self, other)

    def __gt__(self, other: Any) -> Symbol:
        return compare("less", other, self)

    def __ge__(self, other: Any) -> Symbol:
        return compare("less_equal", other, self)

    def __eq__(self, other: Any) -> Symbol:  # type: ignore[override]  # elementwise, as for tensors
        return compare("equal", self, other)

    def __ne__(self, other: Any) -> Symbol:  # type: ignore[override]
        return compare("not_equal", self, other)

    def __and__(self, other: Any) -> Symbol:
        return node("both", symbol(self), symbol(other))

    def __or__(self, other: Any) -> Symbol:
        return node("either", symbol(self), symbol(other))

    def __invert__(self) -> Symbol:
        return node("opposite", self)

    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        raise TypeError(
            "a formula is traced once, on symbols, for all values: instead of if, and, or, not or min on values write "
            "where(condition, a, b), &, |, ~, minimum and maximum"
        )

    def __iter__(self, *index: Any) -> Iterator[Any]:
        raise TypeError("a formula works on one element at a time: its arguments cannot be indexed or iterated over")

    __getitem__ = __len__ = __iter__

    def __float__(self) -> float:
        raise TypeError("a symbol of a formula has no value: use the functions of micrognm.formula, not math's")

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"a symbol of a formula has no {name!r}: a formula works on one element at a time, and sums over axes only "
            "at its end, by sum(expression, axes=...) of micrognm.formula"
        )

    def __repr__(self) -> str:
        return f"{self.op}({', '.join(map(repr, self.args))})"


_known: dict[tuple, Symbol] = {}


def node(op: str, *args: Any) -> Symbol:
    """The node of this op and these arguments, made if it is new."""
    key = (op, *(id(a) if isinstance(a, Symbol) else (type(a), a, math.copysign(1, a) if a == 0 else 0) for a in args))
    found = _known.get(key)
    if found is None:
        found = object.__new__(Symbol)
        found.op, found.args, found.order = op, args, len(_known)
        _known[key] = found
    return found


def variable(name: str) -> Symbol:
    """An input: an array."""
    return node("input", name)


def option(name: str) -> Symbol:
    """A number that each call gives."""
    return node("option", name)


def number(x: float) -> Symbol:
    """A constant."""
    return node("number", float(x))


def symbol(x: Any) -> Symbol:
    """x, a symbol or a number, as a symbol. TypeError for anything else."""
    if isinstance(x, Symbol):
        return x
    if isinstance(x, numbers.Real):
        return number(float(x))
    raise TypeError(f"a formula is made of its arguments and of numbers, got {type(x).__name__}")


def value(x: Symbol) -> float | None:
    """The number that a constant is; None for any other symbol."""
    return x.args[0] if x.op == "number" else None


def walk(roots: Iterable[Symbol]) -> list[Symbol]:
    """Every node below the roots and the roots, arguments first."""
    seen: dict[int, Symbol] = {}
    stack = list(roots)
    while stack:
        x = stack.pop()
        if id(x) not in seen:
            seen[id(x)] = x
            stack += [a for a in x.args if isinstance(a, Symbol)]
    return sorted(seen.values(), key=lambda x: x.order)


def rebuilt(x: Symbol, replaced: dict[Symbol, Symbol]) -> Symbol:
    """x with nodes replaced."""
    done = dict(replaced)
    for y in walk([x]):
        if y not in done:
            done[y] = node(y.op, *(done[a] if isinstance(a, Symbol) else a for a in y.args))
    return done[x]


# ---- arithmetic ------------------------------------------------------------------------------------------------------


def add(a: Any, b: Any) -> Symbol:
    a, b = symbol(a), symbol(b)
    p, q = value(a), value(b)
    if p is not None and q is not None:
        return number(p + q)
    if p == 0:
        return b
    if q == 0:
        return a
    if b.op == "neg":
        return sub(a, b.args[0])
    if a.op == "neg":
        return sub(b, a.args[0])
    return node("add", a, b)


def sub(a: Any, b: Any) -> Symbol:
    a, b = symbol(a), symbol(b)
    p, q = value(a), value(b)
    if p is not None and q is not None:
        return number(p - q)
    if q == 0:
        return a
    if p == 0:
        return neg(b)
    if b.op == "neg":
        return add(a, b.args[0])
    return node("sub", a, b)


def neg(a: Any) -> Symbol:
    a = symbol(a)
    p = value(a)
    if p is not None:
        return number(-p)
    if a.op == "neg":
        return a.args[0]
    if a.op == "sub":
        return sub(a.args[1], a.args[0])
    if a.op in ("mul", "div") and value(a.args[0]) is not None:
        return node(a.op, neg(a.args[0]), a.args[1])
    return node("neg", a)


def mul(a: Any, b: Any) -> Symbol:
    a, b = symbol(a), symbol(b)
    if value(b) is not None:
        a, b = b, a  # a constant comes first
    p, q = value(a), value(b)
    if p is not None and q is not None:
        return number(p * q)
    if p == 0:
        return number(0)
    if p == 1:
        return b
    if p == -1:
        return neg(b)
    if a.op == "neg":
        return neg(mul(a.args[0], b))
    if b.op == "neg":
        return mul(neg(a), b.args[0]) if p is not None else neg(mul(a, b.args[0]))
    if p is not None and b.op == "mul" and value(b.args[0]) is not None:
        return mul(p * b.args[0].args[0], b.args[1])
    if p is None and b.op == "mul" and value(b.args[0]) is not None:
        return mul(b.args[0], mul(a, b.args[1]))
    if a.op == "mul" and value(a.args[0]) is not None:
        return mul(a.args[0], mul(a.args[1], b))
    for x, y in ((a, b), (b, a)):
        if y.op == "div" and value(y.args[0]) == 1:
            return div(x, y.args[1])
    if p is None and b.order < a.order:
        a, b = b, a
    return node("mul", a, b)


def div(a: Any, b: Any) -> Symbol:
    a, b = symbol(a), symbol(b)
    p, q = value(a), value(b)
    if p is not None and q:
        return number(p / q)
    if p == 0:
        return number(0)
    if q == 1:
        return a
    if q is not None and q < 0:
        return neg(div(a, -q))
    if a.op == "neg":
        return neg(div(a.args[0], b))
    if b.op == "neg":
        return neg(div(a, b.args[0]))
    return node("div", a, b)


def power(a: Any, b: Any) -> Symbol:
    a, b = symbol(a), symbol(b)
    p, q = value(a), value(b)
    if p is not None and q is not None:
        return number(p**q)
    if q == 0:
        return number(1)
    if q == 1:
        return a
    if q == 2:
        return mul(a, a)
    if q == 0.5:
        return function("sqrt", a)
    if q == -0.5:
        return div(1, function("sqrt", a))
    if q is not None and q == int(q) and 2 < q <= 16:
        half = power(a, int(q) // 2)
        return mul(mul(half, half), a) if q % 2 else mul(half, half)
    if q is not None and q == int(q) and -16 <= q < 0:
        return div(1, power(a, -q))
    return node("power", a, b)


def function(name: str, a: Any) -> Symbol:
    a = symbol(a)
    p = value(a)
    return node(name, a) if p is None else number(FUNCTIONS[name](p))


def compare(name: str, a: Any, b: Any) -> Symbol:
    return node(name, symbol(a), symbol(b))


def where(condition: Any, a: Any, b: Any) -> Symbol:
    """a where the condition is true, else b. The branch not taken has no part in the gradient."""
    a, b = symbol(a), symbol(b)
    return a if a is b else node("where", symbol(condition), a, b)


def maximum(a: Any, b: Any) -> Symbol:
    """The larger of a and b; equal values share the gradient."""
    return node("maximum", symbol(a), symbol(b))


def minimum(a: Any, b: Any) -> Symbol:
    """The smaller of a and b; equal values share the gradient."""
    return node("minimum", symbol(a), symbol(b))


def clip(x: Any, low: Any, high: Any) -> Symbol:
    """x within [low, high]; the gradient passes inside, ends included."""
    return node("clip", symbol(x), symbol(low), symbol(high))


def pull(g: Any, slope: Any) -> Symbol:
    """g * slope, and 0 where g is 0 even if the slope is infinite or NaN; see pull in ops/arithmetic.py."""
    g, slope = symbol(g), symbol(slope)
    return mul(g, slope) if value(slope) is not None else node("pull", g, slope)


def exp(x: Any) -> Symbol:
    """e^x"""
    return function("exp", x)


def expm1(x: Any) -> Symbol:
    """e^x - 1, exact near 0."""
    return function("expm1", x)


def log(x: Any) -> Symbol:
    """Natural logarithm."""
    return function("log", x)


def log1p(x: Any) -> Symbol:
    """log(1 + x), exact near 0."""
    return function("log1p", x)


def sqrt(x: Any) -> Symbol:
    """Square root."""
    return function("sqrt", x)


def tanh(x: Any) -> Symbol:
    """Hyperbolic tangent."""
    return function("tanh", x)


def sigmoid(x: Any) -> Symbol:
    """1 / (1 + e^-x)"""
    return function("sigmoid", x)


def softplus(x: Any) -> Symbol:
    """log(1 + e^x)"""
    return function("softplus", x)


def log_sigmoid(x: Any) -> Symbol:
    """log(sigmoid(x))"""
    return function("log_sigmoid", x)


def erf(x: Any) -> Symbol:
    """The error function."""
    return function("erf", x)


def abs(x: Any) -> Symbol:
    """|x|; its gradient at 0 is 0."""
    return function("abs", x)


def sign(x: Any) -> Symbol:
    """-1, 0 or 1; no gradient."""
    return function("sign", x)


def floor(x: Any) -> Symbol:
    """To the next integer below; no gradient."""
    return function("floor", x)
