"""A program as a CUDA kernel in float32, compiled at the first call of its kind: on a GPU or, for tests, the CPU."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from micrognm.kernels import cuda
from micrognm.kernels.formula import reference
from micrognm.kernels.formula.emit import cuda_source
from micrognm.kernels.formula.program import Array, Program, Shape, layout

from micrognm import backend

THREADS = 256  # of a block
SHARE = 2048  # elements of a block, where blocks are not rows


def run(
    program: Program, inputs: Sequence[Any], options: Mapping[str, float], shapes: tuple[Shape, ...] | None = None
) -> list[Array]:
    """The outputs for inputs (arrays and numbers) and options. shapes: as in Program. TypeError for float64."""
    full, within, results = program.ends(shapes or tuple(getattr(x, "shape", ()) for x in inputs))
    at = layout(full, [x.shape if backend.is_array(x) else None for x in inputs], within)
    kinds = tuple(x.dtype.name if backend.is_array(x) else None for x in inputs)
    like = next(x for x in inputs if backend.is_array(x) and x.dtype.kind == "f")
    if 0 in full:
        return [np.full_like(like, 0, shape=result) for result in results]
    key = ("cuda", at.inputs, at.outputs, at.outer > 1, at.inner > 1, kinds)
    if key not in program.made:
        program.made[key] = cuda.Module(cuda_source(program, at, kinds), f"formula {program.name}")
    module = program.made[key]
    whole = [
        x if k else np.broadcast_to(x, full) for x, k in zip(inputs, at.inputs, strict=True) if backend.is_array(x)
    ]
    arrays = [backend.contiguous(x) if x.dtype.kind == "b" else module.float32(x)[0] for x in whole]
    numbers = [float(x) for x in inputs if not backend.is_array(x)] + [float(options[name]) for name in program.options]
    size = math.prod(full)
    every = f"{int(at.outer > 1)}{int(at.inner > 1)}"
    by_row = every + "0" in at.outputs and every != "00"
    share = at.columns if by_row else SHARE
    blocks = cuda.ceil_div(size, share)
    summed = [x == "000" or (by_row and x == every + "0") for x in at.outputs]
    outs = [np.empty_like(like, shape=blocks if partial else size) for partial in summed]
    module.launch("part", blocks, THREADS, *arrays, *outs, *numbers, size, at.inner, at.columns, share)
    return [
        _finished(out, partial, x, full, shape).reshape(result)
        for out, partial, x, shape, result in zip(outs, summed, at.outputs, within, results, strict=True)
    ]


def _finished(out: Array, partial: bool, letters: str | None, full: Shape, shape: Shape) -> Array:
    """What the blocks wrote, added up where they could not."""
    if not partial:
        return reference.summed(out.reshape(full), full, shape)
    return np.sum(out, keepdims=True) if letters == "000" else out
