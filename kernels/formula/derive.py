"""Derivatives of formulas, by the rules of the school book, written as one would write them by hand.

Forward in direction: the derivative of a node is made from those of its arguments. Formulas are small and equal
subexpressions are one node, so nothing is computed twice; and a branch that `where` does not take never multiplies
anything, so that its NaN stays where it is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from micrognm.kernels.formula import symbols as S
from micrognm.kernels.formula.symbols import Symbol, function, number, value, walk

# Slopes may be infinite where one of these stands: what is multiplied by such a slope is looked at first.
UNBOUNDED = {"div", "exp", "expm1", "log", "log1p", "power", "sqrt"}
COSTLY = {"exp", "expm1", "log", "log1p", "sqrt", "tanh", "sigmoid", "softplus", "log_sigmoid", "erf", "power"}


def derivative(y: Symbol, x: Symbol) -> Symbol:
    """dy / dx"""
    known: dict[Symbol, Symbol] = {}
    for at in walk([y]):
        known[at] = number(1) if at is x else _rule(at, [known[a] for a in at.args if isinstance(a, Symbol)])
    return known[y]


def gradients(y: Symbol, inputs: Sequence[Symbol], g: Symbol, out: Symbol | None) -> list[Symbol]:
    """The cotangent of each input where g is y's, written with `out`, the value of y, where that is cheaper."""
    plain = [_pulled(g, derivative(y, x)) for x in inputs]
    if out is None or y.op in ("input", "number", "option"):
        return plain
    known = {y: out}
    if y.op == "where" and y.args[0].op == "less_equal" and value(y.args[1]) == 0:
        x, zero = y.args[0].args
        if x is y.args[2] and value(zero) == 0:  # relu: 0 where x <= 0, else x, is itself 0 or less where x is
            known[y.args[0]] = out <= 0
    short = [S.rebuilt(d, known) for d in plain]
    return min(short, plain, key=_cost)  # of equals the output: what comes next often keeps it anyway


def _pulled(g: Symbol, slope: Symbol) -> Symbol:
    return (S.pull if any(map(_unbounded, walk([slope]))) else S.mul)(g, slope)


def _unbounded(x: Symbol) -> bool:
    if x.op == "exp":  # e^(-u^2) is bounded
        u = x.args[0].args[-1]
        negative = x.args[0].op == "neg" or (x.args[0].op == "mul" and (value(x.args[0].args[0]) or 0) < 0)
        return not (negative and isinstance(u, Symbol) and u.op == "mul" and u.args[0] is u.args[1])
    return x.op in UNBOUNDED


def _cost(outputs: Sequence[Symbol]) -> float:
    """Twice the functions, and the arrays that are read."""
    nodes = walk(outputs)
    return sum(2 * (a.op in COSTLY) + (a.op == "input") for a in nodes) + len(nodes) / 1000


def _factors(x: Symbol) -> list[Symbol]:
    return _factors(x.args[0]) + _factors(x.args[1]) if x.op == "mul" else [x]


def _product(factors: Sequence[Symbol]) -> Symbol:
    total = number(1)
    for x in factors:
        total = S.mul(total, x)
    return total


def _plus(a: Symbol, b: Symbol) -> Symbol:
    """a + b, factors that both have taken out: s + x s (1 - s) is s (1 + x (1 - s))."""
    if value(a) is not None or value(b) is not None or a.op == "neg" or b.op == "neg":
        return S.add(a, b)
    p, q = Counter(_factors(a)), Counter(_factors(b))
    common = p & q
    if not common:
        return S.add(a, b)
    rest = S.add(_product(list((p - common).elements())), _product(list((q - common).elements())))
    return S.mul(_product(list(common.elements())), rest)


def _rule(y: Symbol, d: list[Symbol]) -> Symbol:
    """The derivative of a node, from the derivatives d of its arguments."""
    op, args = y.op, y.args
    if all(value(dx) == 0 for dx in d) or op in S.CONDITIONS or op in ("sign", "floor"):
        return number(0)
    if op == "where":
        return S.where(args[0], d[1], d[2])
    if op in ("maximum", "minimum"):
        first, second = args if op == "maximum" else args[::-1]
        tie = S.mul(0.5, S.add(d[0], d[1]))
        return S.where(first > second, d[0], S.where(second > first, d[1], tie))
    if op == "clip":
        x, low, high = args
        return S.where((low <= x) & (x <= high), d[0], 0)
    if op == "add":
        return _plus(d[0], d[1])
    if op == "sub":
        return S.sub(d[0], d[1])
    if op == "neg":
        return S.neg(d[0])
    if op == "mul":
        if args[0] is args[1]:
            return S.mul(2, S.mul(args[0], d[0]))
        return _plus(S.mul(d[0], args[1]), S.mul(args[0], d[1]))
    if op == "div":
        return S.div(S.sub(d[0], S.mul(y, d[1])), args[1])
    if op == "pull":
        return S.add(S.pull(d[0], args[1]), S.pull(args[0], d[1]))
    if op == "power":
        a, b = args
        by_a = S.mul(S.mul(b, S.power(a, S.sub(b, 1))), d[0])
        if value(d[1]) == 0:
            return by_a
        logarithm = function("log", S.where(a == 0, 1, a))  # 0^b is 0 for every b > 0
        return S.add(by_a, S.mul(S.mul(y, logarithm), d[1]))
    return S.mul(_slope(y, args[0]), d[0])


def _slope(y: Symbol, x: Symbol) -> Symbol:
    """The derivative of a function of one number, y, by its argument x."""
    if y.op == "exp":
        return y
    if y.op == "expm1":
        return y + 1
    if y.op == "log":
        return 1 / x
    if y.op == "log1p":
        return 1 / (1 + x)
    if y.op == "sqrt":
        return 0.5 / y
    if y.op == "tanh":
        return 1 - y * y
    if y.op == "sigmoid":
        return y * (1 - y)
    if y.op == "softplus":
        return S.sigmoid(x)
    if y.op == "log_sigmoid":
        return S.sigmoid(-x)
    if y.op == "erf":
        return 2 / math.sqrt(math.pi) * S.exp(-(x * x))
    if y.op == "abs":
        return S.sign(x)
    raise TypeError(f"formula: no derivative is known of {y.op}")
