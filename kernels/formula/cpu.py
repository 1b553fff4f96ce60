"""A program as one pass over memory, compiled by Numba at the first call of its kind. Generated modules are kept."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import math
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from micrognm.kernels import maths, views
from micrognm.kernels.formula import loops, reference
from micrognm.kernels.formula.emit import numba_source
from micrognm.kernels.formula.program import Array, Layout, Program, Shape, layout
from numba.core.errors import NumbaError

FOLDER = "MICROGNM_FORMULAS"  # the environment variable that says where generated code is kept
SERIAL_BELOW = 100_000  # elements: for fewer, to start the other threads takes longer than they save
SHORT = 8  # numbers: rows below are not worth a loop of their own
PART = 8192  # elements in a part of the work: parts do not depend on the number of threads, nor do sums, then
MOST_PARTS = 256  # where each leaves a row of partial sums
MOST_PLANS = 2000  # of one program; more shapes than that are forgotten and planned again


class Plan(NamedTuple):
    """How a program runs on inputs of one kind and shape."""

    module: ModuleType
    at: Layout
    apart: tuple[int | None, ...]  # how far apart the rows of an input are that is read as it lies; else it is raveled
    dtype: Any
    rows: int  # of the loop that is cut into parts: the columns where there are no rows
    step: int  # rows of a part
    parts: int
    lengths: tuple[int, ...]  # of the outputs as the loops write them
    full: Shape
    shapes: tuple[Shape, ...]  # of the outputs in the loops: sums have ones
    results: tuple[Shape, ...]  # of the outputs


def run(
    program: Program, inputs: Sequence[Any], options: Mapping[str, float], shapes: tuple[Shape, ...] | None = None
) -> list[Array]:
    """The outputs for inputs (arrays and numbers) and options. shapes: as in Program."""
    arrays = [x if x.__class__ is np.ndarray else None for x in inputs]
    key = (*[x is None or (x.shape, x.dtype.char, x.flags.c_contiguous or x.strides) for x in arrays], shapes)
    found = program.made.get(key)
    if found is not None:
        return found(inputs, options)
    plan = _plan(program, inputs, shapes)
    made = _runner(program, plan)
    try:
        outputs = made(inputs, options)
    except NumbaError as error:
        raise RuntimeError(
            f"formula {program.name}: Numba cannot compile {plan.module.__file__}. MICROGNM_KERNELS=reference runs "
            f"without it. Its log:\n{error}"
        ) from error
    if len(program.made) > MOST_PLANS:
        program.made.clear()
    program.made[key] = made
    return outputs


def _runner(program: Program, plan: Plan) -> Callable[[Sequence[Any], Mapping[str, float]], list[Array]]:
    """What runs the plan. Small arrays feel every line of it."""
    module, at, apart, dtype, rows, _, parts, lengths, full, shapes, results = plan
    options, empty, ndarray = program.options, np.empty, np.ndarray
    ends = (0, rows, at.inner, at.columns, 0)
    plain = all(letters == at.every for letters in at.outputs)

    def arguments(inputs: Sequence[Any]) -> list[Array]:
        if None in at.inputs:
            inputs = [np.broadcast_to(x, full) if k is None else x for x, k in zip(inputs, at.inputs, strict=True)]
        each = zip(inputs, apart, strict=True)
        return [x.ravel() if between is None else x for x, between in each if x.__class__ is ndarray]

    def numbers(inputs: Sequence[Any], given: Mapping[str, float]) -> list[float]:
        return [float(x) for x in inputs if x.__class__ is not ndarray] + [float(given[name]) for name in options]

    def nothing(inputs: Sequence[Any], given: Mapping[str, float]) -> list[Array]:
        return [np.zeros(shape, dtype) for shape in results]

    def small(inputs: Sequence[Any], given: Mapping[str, float]) -> list[Array]:
        out = empty(lengths[0], dtype)
        module.part(*[x.ravel() for x in inputs], out, *[float(given[name]) for name in options], *ends)
        return [out.reshape(results[0])]

    def any_size(inputs: Sequence[Any], given: Mapping[str, float]) -> list[Array]:
        outs = [empty(n, dtype) for n in lengths]
        for out, letters in zip(outs, at.outputs, strict=True):
            if letters == "001" and at.inner > 1:
                out[:] = 0
        if parts == 1:
            module.part(*arguments(inputs), *outs, *numbers(inputs, given), *ends)
        else:
            _in_threads(plan, [*arguments(inputs), *outs], numbers(inputs, given))
        if plain:
            return [out.reshape(shape) for out, shape in zip(outs, results, strict=True)]
        each = zip(outs, shapes, at.outputs, results, strict=True)
        return [_summed(out, shape, letters, full, at).reshape(result) for out, shape, letters, result in each]

    if 0 in full:
        return nothing
    arrays_alone = "n" not in at.inputs and None not in at.inputs
    return small if arrays_alone and plain and parts == 1 and len(lengths) == 1 else any_size


def _summed(out: Array, shape: Shape, letters: str | None, full: Shape, at: Layout) -> Array:
    """What the loops wrote, added up where they could not."""
    if letters is None:
        return reference.summed(out.reshape(full), full, shape)
    if letters == "000":
        return out.sum(keepdims=True)
    if letters == "001" and at.inner > 1:
        return out.reshape(-1, at.columns).sum(axis=0)
    return out


def _in_threads(plan: Plan, arrays: list[Array], numbers: list[float]) -> None:
    between = [n for n in plan.apart if n is not None]
    sizes = np.array([plan.rows, plan.step, plan.at.inner, plan.at.columns, *between], np.int64)
    held = [sizes, np.array(numbers, np.float64), *arrays]
    addresses = np.array([x.ctypes.data for x in held], np.uintp)
    loops.in_threads(_address(plan.module), addresses, plan.parts)


def _address(module: Any) -> int:
    if not hasattr(module, "address"):
        module.address = module.in_threads().address
    return module.address


def address(program: Program, dtype: Any) -> int:
    """Where run_part lies for one array in and one out, which are contiguous and of this dtype: see emit.py."""
    return _address(_plan(program, [np.empty(2, dtype)], None).module)


def _plan(program: Program, inputs: Sequence[Any], shapes: tuple[Shape, ...] | None) -> Plan:
    full, within, results = program.ends(shapes or tuple(getattr(x, "shape", ()) for x in inputs))
    at = layout(full, [x.shape if isinstance(x, np.ndarray) else None for x in inputs], within)
    at, apart = _as_they_lie(inputs, full, at)
    kinds = tuple(x.dtype.name if isinstance(x, np.ndarray) else None for x in inputs)
    dtype = next(x.dtype for x in inputs if isinstance(x, np.ndarray) and x.dtype.kind == "f")
    flat = at.outer == at.inner == 1
    rows, columns = (at.columns, 1) if flat else (at.outer * at.inner, at.columns)
    down = any(x == "001" for x in at.outputs) and not flat
    step = max(1, PART // max(1, columns), -(-rows // MOST_PARTS) if down else 1)
    if rows * columns < SERIAL_BELOW:
        step = max(1, rows)
    parts = -(-rows // step)
    size = math.prod(full)
    lengths = tuple(
        size if x is None or x == at.every else parts if x == "000" else parts * columns if x == "001" else rows
        for x in at.outputs
    )
    lying = [n is not None for n in apart]
    kind = (at.inputs, at.outputs, at.outer > 1, at.inner > 1, kinds, *lying)
    module = program.made.get(kind)
    if module is None:
        module = program.made[kind] = _module(program.name, numba_source(program, at, kinds, dtype.name, lying))
    return Plan(module, at, apart, dtype, rows, step, parts, lengths, full, within, results)


def _as_they_lie(inputs: Sequence[Any], full: Shape, at: Layout) -> tuple[Layout, tuple[int | None, ...]]:
    """The loops over rows, and how far apart these are in each input, where large inputs are cut from wider arrays:
    halves of the channels, say. Else the layout as it is, and None for each: then to copy them is simpler or no dearer.
    """
    cut = {k: _rows(x) for k, x in enumerate(inputs) if isinstance(x, np.ndarray) and not x.flags.c_contiguous}
    lengths = {rows and rows[0] for rows in cut.values()}
    flat = at.outer == at.inner == 1 and at.columns >= SERIAL_BELOW
    if not flat or len(lengths) != 1 or None in lengths or any(inputs[k].shape != full for k in cut):
        return at, (None,) * len(inputs)
    (n,) = lengths
    by_rows = [tuple("011" if x == "001" else x for x in letters) for letters in (at.inputs, at.outputs)]
    apart = {k: rows[1] for k, rows in cut.items() if rows}
    return Layout(1, at.columns // n, n, *by_rows), tuple(apart.get(k) for k in range(len(inputs)))


def _rows(x: Array) -> tuple[int, int] | None:
    """How long the contiguous rows of an array are, and how far apart, in numbers; None where it has no such rows."""
    axes = [(n, stride / x.itemsize) for n, stride in zip(x.shape, x.strides, strict=True) if n > 1]
    columns = 1
    while axes and axes[-1][1] == columns:
        columns *= axes.pop()[0]
    if not axes or columns < SHORT:
        return None
    apart = axes[-1][1]
    for k, (_, stride) in enumerate(axes):
        if stride != apart * math.prod(n for n, _ in axes[k + 1 :]) or stride != int(stride):
            return None
    return columns, int(apart)


def folder() -> Path:
    """Where generated modules are kept."""
    import pooch

    return Path(os.environ.get(FOLDER) or Path(pooch.os_cache("micrognm")) / "formulas")


def _module(name: str, text: str) -> ModuleType:
    """The module of this text, written into the folder if it is not there."""
    mark = hashlib.sha256((text + _runtime()).encode()).hexdigest()[:16]
    path = folder() / f"{name}_{mark}.py"
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as beside:
                written = Path(beside) / path.name
                written.write_text(text, encoding="utf-8")
                os.replace(written, path)
        except OSError as error:
            raise RuntimeError(
                f"formula {name}: its generated code cannot be written to {path.parent} ({error}). Set {FOLDER} to a "
                "folder that can be written, or MICROGNM_KERNELS=reference to run without"
            ) from error
    spec = importlib.util.spec_from_file_location(f"micrognm_formula_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where Numba looks for it when it loads what it compiled
    spec.loader.exec_module(module)
    return module


@functools.cache
def _runtime() -> str:
    """The source of what generated code calls: Numba's cache sees no change in it."""
    return "".join(Path(str(module.__file__)).read_text(encoding="utf-8") for module in (maths, loops, views))
