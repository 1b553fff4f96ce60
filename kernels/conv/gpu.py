"""The convolution in CUDA C, float32; what it computes is in reference.py.

Under `backend.use_precision("tf32")` products are in TF32 where channels are many.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from micrognm.kernels import cuda
from micrognm.kernels.formula.emit import cuda_function
from micrognm.kernels.formula.program import Activation, Program

from micrognm import backend

Array = Any
Offsets = Sequence[Sequence[int]]

TILE, DEPTH, THREADS = 64, 16, 128  # as in gpu.cu
FEW = 8  # channels a group below which a tile would be mostly idle
BLOCKS = 512  # that the sum over pixels is split into, where there are pixels enough
IDENTITY = "__device__ inline float activated(float x, const float* options) { return x; }\n"  # in gpu.cu
module = cuda.module(__file__)


def forward(
    x: Array, w: Array, bias: Array | None, offsets: Offsets, stride: Sequence[int], shape: Sequence[int], groups: int,
    activation: Activation | None = None, keep: bool = False,
) -> Any:  # fmt: skip
    return _gather("forward", x, w, bias, offsets, stride, shape, groups, activation, keep)


def input_gradient(
    g: Array, w: Array, bias: Array | None, offsets: Offsets, stride: Sequence[int], shape: Sequence[int], groups: int,
    activation: Activation | None = None, keep: bool = False,
) -> Any:  # fmt: skip
    return _gather("input_gradient", g, w, bias, offsets, stride, shape, groups, activation, keep)


def weight_gradient(x: Array, g: Array, offsets: Offsets, stride: Sequence[int], groups: int) -> Array:
    x, g = module.float32(x, g)
    inputs, outputs, taps = x.shape[-1] // groups, g.shape[-1] // groups, len(offsets)
    xp = backend.array_module(x)
    plan, _, pixels = _plan(xp, x.shape[1:-1], _tuples(offsets), tuple(stride), g.shape[1:-1], False)
    w = np.empty_like(x, shape=(taps, inputs, groups * outputs))
    pixels *= len(x)
    few = inputs < FEW and outputs < FEW
    if few:
        grid = [cuda.ceil_div(groups * outputs, 32), taps * inputs]
    else:
        grid = [cuda.ceil_div(taps * inputs, TILE), cuda.ceil_div(outputs, TILE)]
    blocks = max(1, grid[0] * grid[1] * (1 if few else groups))
    chunk = DEPTH * cuda.ceil_div(max(1, pixels), DEPTH * max(1, BLOCKS // blocks))
    parts = max(1, cuda.ceil_div(pixels, chunk))  # by the sizes alone: the same on every card
    part = np.empty_like(x, shape=(parts, *w.shape)) if parts > 1 else w
    arguments = x, g, part, plan, len(x), groups, inputs, outputs, parts, chunk
    if few:
        module.launch("weight_gradient_few", (*grid, parts), (32, 8), *arguments)
    else:
        module.launch(cuda.in_precision("weight_gradient"), (*grid, groups * parts), THREADS, *arguments)
    if parts > 1:
        module.launch("add_parts", cuda.ceil_div(w.size, 256), 256, part, w, w.size, parts)
    return w


def _gather(
    name: str, x: Array, w: Array, bias: Array | None, offsets: Offsets, stride: Sequence[int], shape: Sequence[int],
    groups: int, activation: Activation | None, keep: bool,
) -> Any:  # fmt: skip
    x, w, bias = module.float32(x, w, bias)
    transposed = name == "input_gradient"
    inputs, outputs = w.shape[1], w.shape[2] // groups
    made = inputs if transposed else outputs  # channels of a group that are written
    xp = backend.array_module(x)
    plan, phases, pixels = _plan(xp, x.shape[1:-1], _tuples(offsets), tuple(stride), tuple(shape), transposed)
    pixels *= len(x)
    y = np.empty_like(x, shape=(len(x), *shape, groups * made))
    before = np.empty_like(y) if keep else None
    options = None if activation is None else xp.asarray(np.array([*activation.options.values()], np.float32))
    arguments = x, w, bias, y, plan, len(x), groups, inputs, outputs, before, options
    own = module if activation is None else _with(activation.program)
    if made < FEW:
        own.launch(f"{name}_few", (cuda.ceil_div(pixels * groups * made, 256), 1, phases), 256, *arguments)
    else:
        grid = cuda.ceil_div(pixels, TILE), cuda.ceil_div(made, TILE), phases * groups
        own.launch(cuda.in_precision(name), grid, THREADS, *arguments)
    return (y, before) if keep else y


def _with(program: Program) -> cuda.Module:
    """gpu.cu with the program as its activation."""
    if "conv" not in program.made:
        text = Path(__file__).with_suffix(".cu").read_text(encoding="utf-8")
        found = text.count(IDENTITY)
        if found != 1:
            raise RuntimeError(f"conv/gpu.cu: the activation that gpu.py replaces is there {found} times, not once")
        text = text.replace(IDENTITY, cuda_function(program, "activated"))
        program.made["conv"] = cuda.Module(text, f"conv/gpu.cu with {program.name}")
    return program.made["conv"]


def _tuples(offsets: Offsets) -> tuple[tuple[int, ...], ...]:
    return tuple(map(tuple, offsets))


@lru_cache(maxsize=512)
def _plan(
    xp: ModuleType, space: tuple[int, ...], offsets: tuple[tuple[int, ...], ...], stride: tuple[int, ...],
    shape: tuple[int, ...], transposed: bool,
) -> tuple[Array, int, int]:  # fmt: skip
    """The table that gpu.cu reads, on the device; the number of phases; the most pixels of an image in one.

    space, shape: sizes of what is read and written. A phase of the transposed map has the pixels first + j stride,
    which read j + (first - offset) / stride for the offsets that leave no remainder.
    """
    space, shape, stride = _three(space, 1), _three(shape, 1), _three(stride, 1)
    scale, step = ((1, 1, 1), stride) if transposed else (stride, (1, 1, 1))
    phases: list[tuple[int, ...]] = []
    steps: list[tuple[int, ...]] = []
    for first in np.ndindex(*step):
        start = len(steps)
        for tap, offset in enumerate(offsets):
            o = _three(offset, 0)
            if not transposed:
                steps.append((*o, tap))
            elif all((f - i) % s == 0 for f, i, s in zip(first, o, stride, strict=True)):
                steps.append((*((f - i) // s for f, i, s in zip(first, o, stride, strict=True)), tap))
        count = [max(0, -(-(size - f) // s)) for size, f, s in zip(shape, first, step, strict=True)]
        phases.append((*first, *count, start, len(steps) - start))
    head = 12 + 8 * len(phases)
    table = [*space, *scale, *step, *shape]
    table += [n for *rest, start, number in phases for n in (*rest, head + 4 * start, number)]
    table += [n for offset_and_tap in steps for n in offset_and_tap]
    pixels = max(math.prod(phase[3:6]) for phase in phases)
    return xp.asarray(np.array(table, np.int32)), len(phases), pixels


def _three(numbers: tuple[int, ...], missing: int) -> tuple[int, ...]:
    return (*[missing] * (3 - len(numbers)), *numbers)
