"""A program as text: NumPy for the reference, Numba for the CPU, CUDA C for the GPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from micrognm.kernels.formula.program import Layout, Program
from micrognm.kernels.formula.symbols import COMPARISONS, CONDITIONS, Symbol, value, walk

MATHS = ("exp", "expm1", "log", "log1p", "tanh", "sigmoid", "softplus", "log_sigmoid", "erf")
LINE = 60  # an expression that is used once stands inside the next while it is shorter
INFIX = {"add": ("+", 4), "sub": ("-", 4), "mul": ("*", 5), "div": ("/", 5)}
INFIX |= {name: (sign, 2) for name, sign in COMPARISONS.items()}
CHOICES = {"where", "maximum", "minimum", "clip", "sign", "pull"}
RESERVED = set("and as c def for i if in j np o or p part row start stop T abs range where".split())


class Dialect:
    """How one language says it. Each method takes the texts of its arguments, in brackets where they need them."""

    functions: ClassVar[dict[str, str]] = {}
    calls = False  # whether choices are calls of functions
    nested = True  # whether choices may stand inside other expressions, and other expressions inside them

    def number(self, x: float) -> str:
        raise NotImplementedError

    def as_number(self, condition: str) -> str:
        """A condition as 1 or 0."""
        raise NotImplementedError

    def as_condition(self, x: str) -> str:
        return f"({x} != 0)"

    def special(self, op: str, args: list[str], node: Symbol) -> tuple[str, int]:
        """And how tightly it binds: 9 a name or a call, 0 a conditional expression."""
        raise NotImplementedError


def expressions(
    outputs: Sequence[Symbol], dialect: Dialect, names: dict[str, str], booleans: set[str]
) -> tuple[list[tuple[str, str]], list[str]]:
    """Statements (name, expression) in order, and the text of each output. names: of inputs and options in the text;
    booleans: the inputs that hold conditions."""
    nodes = walk(outputs)
    uses: dict[Symbol, int] = dict.fromkeys(nodes, 0)
    for x in nodes:
        for a in x.args:
            if isinstance(a, Symbol):
                uses[a] += 1
    for x in outputs:
        uses[x] += 1
    texts: dict[Symbol, tuple[str, int]] = {}  # and how tightly it binds
    conditions = {x for x in nodes if x.op in CONDITIONS or (x.op == "input" and x.args[0] in booleans)}
    apart: set[Symbol] = set()  # what has a name of its own even if it is used once
    if not dialect.nested:
        choices = [x for x in nodes if x.op in CHOICES]
        apart.update(choices, (a for x in choices for a in x.args))
    statements: list[tuple[str, str]] = []

    def text(x: Symbol, wanted: str, tight: int) -> str:
        found, binds = texts[x]
        if wanted == "number" and x in conditions:
            return dialect.as_number(found if binds > 8 else f"({found})")
        if wanted == "condition" and x not in conditions:
            return dialect.as_condition(found if binds > 8 else f"({found})")
        return found if binds >= tight else f"({found})"

    for x in nodes:
        if x.op in ("input", "option"):
            texts[x] = names[x.args[0]], 9
            continue
        if x.op == "number":
            texts[x] = dialect.number(x.args[0]), 9 if x.args[0] >= 0 else 6
            continue
        if x.op in INFIX:
            sign, binds = INFIX[x.op]
            left, right = x.args
            found = f"{text(left, 'number', binds + (binds == 2))} {sign} {text(right, 'number', binds + 1)}", binds
        elif x.op == "neg":
            found = f"-{text(x.args[0], 'number', 6)}", 6
        elif x.op in dialect.functions:
            found = f"{dialect.functions[x.op]}({text(x.args[0], 'number', 0)})", 9
        else:
            kinds = ["condition" if x.op in LOGIC or (x.op == "where" and k == 0) else "number" for k in range(3)]
            tight = 0 if dialect.calls and x.op in CHOICES else 9
            given = [text(a, kinds[k], tight) for k, a in enumerate(x.args)]
            found = dialect.special(x.op, given, x)
        if uses[x] > 1 or len(found[0]) > LINE or x in apart:
            name = f"t{len(statements)}"
            statements.append((name, found[0]))
            found = name, 9
        texts[x] = found
    return statements, [text(x, "number", 0) for x in outputs]


def local_names(program: Program) -> dict[str, str]:
    """A name in generated code for each input and option, that nothing else has."""
    taken = RESERVED | {f"t{k}" for k in range(1000)} | {f"out{k}" for k in range(100)}
    return {name: f"{name}_" if name in taken else name for name in (*program.inputs, *program.options)}


# ---- NumPy -----------------------------------------------------------------------------------------------------------


class NumPy(Dialect):
    calls = True
    functions: ClassVar[dict[str, str]] = {
        **{name: f"np.{name}" for name in ("exp", "expm1", "log", "log1p", "sqrt", "tanh", "abs", "sign", "floor")},
        **{name: name for name in ("sigmoid", "softplus", "log_sigmoid", "erf")},
    }

    def number(self, x: float) -> str:
        return _literal(x)

    def as_number(self, condition: str) -> str:
        return f"(T(1) * {condition})"

    def special(self, op: str, args: list[str], node: Symbol) -> tuple[str, int]:
        if op == "power":
            return f"{args[0]} ** {args[1]}", 7
        if op in LOGIC:
            return LOGIC[op].format(*args), 1
        if op == "where" and all(value(x) is not None for x in node.args[1:]):
            args[1] = f"T({args[1]})"  # two numbers alone would make an array of integers, or of float64
        return f"{'pull' if op == 'pull' else f'np.{op}'}({', '.join(args)})", 9


LOGIC = {"both": "{0} & {1}", "either": "{0} | {1}", "opposite": "~{0}"}


def _literal(x: float) -> str:
    if not math.isfinite(x):
        return "np.nan" if math.isnan(x) else f"{'-' * (x < 0)}np.inf"
    return str(int(x)) if x == int(x) and abs(x) < 1e6 else repr(x)


def numpy_source(program: Program) -> str:
    """def NAME(T, inputs, options): ... return (outputs,)"""
    names = local_names(program)
    statements, outputs = expressions(program.outputs, NumPy(), names, set())
    body = [*(f"{name} = {text}" for name, text in statements), f"return {', '.join(outputs)},"]
    return f"def {program.name}({', '.join(['T', *names.values()])}):\n    " + "\n    ".join(body) + "\n"


# ---- Numba -----------------------------------------------------------------------------------------------------------


class Numba(Dialect):
    functions: ClassVar[dict[str, str]] = {
        **{name: name for name in MATHS},
        **{"abs": "abs", "sqrt": "np.sqrt", "floor": "np.floor"},
    }
    nested = False  # a choice between two names is an instruction of vectors; one between two sums is a jump

    def number(self, x: float) -> str:
        return f"T({_literal(x)})"

    def as_number(self, condition: str) -> str:
        return f"(T(1) if {condition} else T(0))"

    def as_condition(self, x: str) -> str:
        return f"({x} != T(0))"

    def special(self, op: str, args: list[str], node: Symbol) -> tuple[str, int]:
        a, b, c = (*args, "", "")[:3]
        if op == "power":
            return f"{a} ** {b}", 7
        if op in LOGIC:
            return {"both": f"{a} and {b}", "either": f"{a} or {b}", "opposite": f"not {a}"}[op], 1
        if op in ("maximum", "minimum"):  # NaN if either is
            sign = ">" if op == "maximum" else "<"
            x, y = node.args
            if value(x) is not None or value(y) is not None:
                constant, other = (a, b) if value(x) is not None else (b, a)
                return f"{constant} if {constant} {sign} {other} else {other}", 0
            return f"{a} if {a} {sign} {b} else ({b} if {a} == {a} else {a})", 0
        return {
            "where": f"{b} if {a} else {c}",
            "clip": f"{b} if {a} < {b} else ({c} if {a} > {c} else {a})",
            "sign": f"T(1) if {a} > T(0) else (T(-1) if {a} < T(0) else {a})",
            "pull": f"{a} if {a} == T(0) else {a} * {b}",
        }[op], 0


PREAMBLE = """\
# {title}
import numpy as np
from numba import cfunc, njit

from micrognm.kernels.formula.loops import OPTIONS, PART, accumulate, add, load, store
from micrognm.kernels.maths import {maths}
from micrognm.kernels.views import array_at

T = np.{dtype}


"""


def numba_source(
    program: Program, at: Layout, kinds: Sequence[str | None], dtype: str, apart: Sequence[bool] = ()
) -> str:
    """A module with part(arrays, outputs, numbers, start, stop, inner, columns, p), the loops of part p, and
    run_part(addresses, p), the same from addresses. kinds: the dtype of each input, None for a number. apart: the
    inputs that are not contiguous; how far apart their rows are is passed last."""
    names = local_names(program)
    booleans = {name for name, kind in zip(program.inputs, kinds, strict=True) if kind == "bool"}
    statements, texts = expressions(program.outputs, Numba(), names, booleans)
    full = at.every
    arrays = [(name, kind, x or full) for name, kind, x in zip(program.inputs, kinds, at.inputs, strict=True) if kind]
    numbers = [names[name] for name, kind in zip(program.inputs, kinds, strict=True) if not kind]
    numbers += [names[name] for name in program.options]
    flat = at.outer == at.inner == 1
    rows, row = at.outer > 1, {"000": "0", "010": "row", "100": "row // inner", "110": "row"}
    if rows:
        row["010"] = "row % inner"

    before: list[str] = []
    each_row: list[str] = []
    each: list[str] = []
    after_row: list[str] = []
    after: list[str] = []
    for name in numbers:
        before.append(f"{name} = T({name})")
    fulls = {x for x in (full, *(x for _, _, x in arrays)) if x[-1] == "1"}
    bases = {} if flat else {x: f"at_{x}" for x in sorted(fulls) if x != "001"}
    each_row += [f"at_{x} = ({row[x[:2] + '0']}) * columns" for x in bases]
    cut = [name for name, away in zip(program.inputs, apart, strict=False) if away]
    each_row += [f"at_{name} = row * apart_{name}" for name in cut]

    def place(x: str) -> str:
        if x[-1] == "1":
            return f"{bases[x]} + j" if x in bases else "j"
        return row[x]

    for name, _, x in arrays:
        where = each if x[-1] == "1" else before if x == "000" else each_row
        where.append(f"{names[name]} = load(p_{name}, {f'at_{name} + j' if name in cut else place(x)})")
    each += [f"{name} = {text}" for name, text in statements]
    for k, (x, text) in enumerate(zip(at.outputs, texts, strict=True)):
        if x is None or x == full:
            each.append(f"store({k}, out{k}, {place(full)}, {text})")
        elif x == "001":  # down the columns: a row of partial sums for each part
            each.append(f"accumulate({k}, out{k}, p * columns + j, {text})")
        else:
            total = x == "000"
            (before if total else each_row).append(f"sum{k} = T(0)")
            each.append(f"sum{k} = add(sum{k}, {text})")
            (after if total else after_row).append(f"store({k}, out{k}, {'p' if total else 'row'}, sum{k})")
    if flat:
        body = [*before, *each_row, "for j in range(start, stop):", *_indented(each), *after_row, *after]
    else:
        inner = [*each_row, "for j in range(columns):", *_indented(each), *after_row]
        body = [*before, "for row in range(start, stop):", *_indented(inner), *after]
    outs = [f"out{k}" for k in range(len(texts))]
    pointers = [f"p_{name}" for name, *_ in arrays]
    strides = [f"apart_{name}" for name in cut]
    given = ", ".join([*pointers, *outs, *numbers, "start", "stop", "inner", "columns", "p", *strides])
    used = sorted({x.op for x in walk(program.outputs)} & set(MATHS)) or ["exp"]
    text = PREAMBLE.format(title=program.name, maths=", ".join(used), dtype=dtype)
    text += f"@njit(**OPTIONS)\ndef part({given}):\n" + "\n".join(_indented(body)) + "\n\n\n"
    kinds_of = [*(kind for _, kind, _ in arrays), *[dtype] * len(outs)]
    views = [f"{name} = array_at(addresses[{k + 2}], 1, {'np.bool_' if kind == 'bool' else f'np.{kind}'})"
             for k, (name, kind) in enumerate(zip([*pointers, *outs], kinds_of, strict=True))]  # fmt: skip
    scalars = [f"numbers[{k}]" for k in range(len(numbers))]
    given_strides = [f"sizes[{4 + k}]" for k in range(len(cut))]
    passed = ", ".join([*pointers, *outs, *scalars, "start", "stop", "sizes[2]", "sizes[3]", "p", *given_strides])
    return (
        text
        + f"""\
def run_part(addresses, p):
    sizes = array_at(addresses[0], {4 + len(cut)}, np.int64)  # rows in all, of a part, inner, columns; strides
    numbers = array_at(addresses[1], {max(1, len(numbers))}, np.float64)
    start = p * sizes[1]
    stop = min(start + sizes[1], sizes[0])
    {f"{chr(10)}    ".join(views)}
    part({passed})


def in_threads():
    return cfunc(PART, **OPTIONS)(run_part)
"""
    )


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"    {line}" for line in lines]


# ---- CUDA C ----------------------------------------------------------------------------------------------------------


class Cuda(Dialect):
    functions: ClassVar[dict[str, str]] = {
        **{name: f"{name}f" for name in ("exp", "expm1", "log", "log1p", "tanh", "erf", "sqrt", "floor")},
        **{name: name for name in ("sigmoid", "softplus", "log_sigmoid", "sign")},
        "abs": "fabsf",
    }

    def number(self, x: float) -> str:
        if not math.isfinite(x):
            return "NAN" if math.isnan(x) else f"{'-' * (x < 0)}INFINITY"
        return f"{x!r}f"

    def as_number(self, condition: str) -> str:
        return f"({condition} ? 1.0f : 0.0f)"

    def as_condition(self, x: str) -> str:
        return f"({x} != 0.0f)"

    def special(self, op: str, args: list[str], node: Symbol) -> tuple[str, int]:
        a, b, c = (*args, "", "")[:3]
        if op in LOGIC:
            return {"both": f"{a} && {b}", "either": f"{a} || {b}", "opposite": f"!{a}"}[op], 1
        if op == "where":
            return f"{a} ? {b} : {c}", 0
        return f"{'powf' if op == 'power' else op}({', '.join(args)})", 9


FUNCTIONS = """\
__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ inline float softplus(float x) { return (x < 0.0f ? 0.0f : x) + log1pf(expf(-fabsf(x))); }
__device__ inline float log_sigmoid(float x) { return -softplus(-x); }
__device__ inline float sign(float x) { return x > 0.0f ? 1.0f : (x < 0.0f ? -1.0f : x); }
__device__ inline float maximum(float a, float b) { return a > b || a != a ? a : b; }
__device__ inline float minimum(float a, float b) { return a < b || a != a ? a : b; }
__device__ inline float clip(float x, float low, float high) { return x < low ? low : (x > high ? high : x); }
__device__ inline float pull(float g, float slope) { return g == 0.0f ? g : g * slope; }

"""


def cuda_function(program: Program, name: str) -> str:
    """float name(float x, const float* its options), for the device: a program of one input and one output."""
    names = local_names(program)
    statements, (result,) = expressions(program.outputs, Cuda(), names, set())
    lines = [f"const float {names[option]} = p[{k}];" for k, option in enumerate(program.options)]
    lines += [*(f"const auto {made} = {text};" for made, text in statements), f"return {result};"]
    (given,) = (names[x] for x in program.inputs)
    head = f"__device__ inline float {name}(float {given}, const float* p)"
    return FUNCTIONS + f"{head} {{\n" + "\n".join(_indented(lines)) + "\n}\n"


def cuda_source(program: Program, at: Layout, kinds: Sequence[str | None], dtype: str = "float32") -> str:
    """A text with the kernel `part`: a block for each row where one is summed, else for each `share` elements.

    Its parameters are the arrays, the outputs, the numbers, and size, inner, columns, share. Sums of everything leave
    one partial sum for each block; sums down the columns are not made here.
    """
    names = local_names(program)
    booleans = {name for name, kind in zip(program.inputs, kinds, strict=True) if kind == "bool"}
    statements, texts = expressions(program.outputs, Cuda(), names, booleans)
    arrays = [(name, kind, x) for name, kind, x in zip(program.inputs, kinds, at.inputs, strict=True) if kind]
    numbers = [names[name] for name, kind in zip(program.inputs, kinds, strict=True) if not kind]
    numbers += [names[name] for name in program.options]
    row = {"00": "0", "01": "row % inner", "10": "row / inner", "11": "row"}
    if at.outer == 1:
        row["01"] = "row"
    full = at.every

    def place(x: str) -> str:
        if x == full:
            return "index"
        return row[x[:2]] if x[2] == "0" else f"({row[x[:2]]}) * columns + index % columns"

    by_row = full[:2] + "0" in at.outputs and full != "001"
    inside = [f"const {'bool' if kind == 'bool' else 'float'} {names[name]} = p_{name}[{place(x or full)}];"
              for name, kind, x in arrays]  # fmt: skip
    inside += [f"const auto {name} = {text};" for name, text in statements]
    sums = {k: x for k, x in enumerate(at.outputs) if x == "000" or (by_row and x == full[:2] + "0")}
    inside += [f"sum{k} += {text};" if k in sums else f"out{k}[index] = {text};" for k, text in enumerate(texts)]
    given = [f"const {'bool' if kind == 'bool' else 'float'}* __restrict__ p_{name}" for name, kind, _ in arrays]
    given += [f"float* __restrict__ out{k}" for k in range(len(texts))] + [f"float {name}" for name in numbers]
    given += ["long long size", "long long inner", "long long columns", "long long share"]
    first = "const long long start = (long long)blockIdx.x * share;"
    loop = "for (long long index = start + threadIdx.x; index < start + share && index < size; index += blockDim.x) {"
    lines = [first, *(f"float sum{k} = 0.0f;" for k in sums), loop, "  const long long row = index / columns;",
             *(f"  {line}" for line in inside), "}"]  # fmt: skip
    for k in sums:
        lines += [f"sum{k} = block_sum(sum{k});", f"if (threadIdx.x == 0) out{k}[blockIdx.x] = sum{k};"]
    head = f'#include "cuda.cuh"\n\n// {program.name}\n\n{FUNCTIONS}'
    text = head + f'extern "C" __global__ void part({", ".join(given)}) {{\n  '
    return text + "\n  ".join(lines) + "\n}\n"
