"""reference.py in Numba: tiles of pixels by outputs in vector registers, one loop for every kind of convolution.

Between padding and storing, everything is one tile: sums over k of x[rows[m] + steps[k]] * panel[k, lane]. In a
convolution the rows are pixels, the steps taps and channels, the panel weights; in the gradient to the weights the rows
are taps and channels, the steps pixels, the panel that of g. A transposed convolution is one convolution for each phase
of the stride. README.md has the layout and what each choice bought.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from micrognm.kernels.conv.plan import plan
from micrognm.kernels.jit import PARALLEL, REGISTERS, SERIAL, WIDTH
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

Array = Any
Offsets = Sequence[Sequence[int]]

# A tile is ROWS x 2 vectors of sums; two of weights and one of x go with them. More rows would leave the registers,
# and so would more than 8 addresses.
ROWS = 6 if REGISTERS == 16 else 8
VECTORS = 2
BLOCK_BYTES = 4 * WIDTH * VECTORS
DEPTH = 128  # pixels summed at once in the gradient to the weights: x and g of them stay in the level 1 cache
SMALL = 30_000  # products: not worth the launch of threads
THREADS = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
PART_PIXELS = 1024  # in a part at least: fewer are not worth another sum of the size of the weights
PARTS = 8  # partial sums of the gradient to the weights, whatever the number of threads


def _make_tile(broadcast: bool) -> Any:
    """The innermost loop, as vector instructions: Numba alone does not keep an array of sums in registers.

    sum over k of x[base + rows[m] + steps[k]] * panel[p + k, :] for ROWS rows m from r on (none past `last`: it is done
    again instead), added to bias[q + :], or to what is in `out` unless `fresh`; written to out[o + outs[m] + :].
    broadcast: one number of x times all lanes; otherwise as many numbers of x as lanes (depthwise).
    """

    @intrinsic
    def tile(context, x, base, rows, r, last, steps, k, count, panel, p, bias, q, out, o, outs, ro, rlast, fresh):
        signature = types.void(
            x, base, rows, r, last, steps, k, count, panel, p, bias, q, out, o, outs, ro, rlast, fresh
        )

        def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
            kinds = signature.args
            number = context.get_data_type(kinds[0].dtype)
            size = kinds[0].dtype.bitwidth // 8
            lanes = 4 * WIDTH // size
            vector, i64 = ir.VectorType(number, lanes), ir.IntType(64)
            name = f"llvm.fma.v{lanes}f{8 * size}"
            fma = cgutils.get_or_insert_function(b.module, ir.FunctionType(vector, [vector] * 3), name)
            whole = lambda v: ir.Constant(i64, v)  # noqa: E731

            def data(i: int) -> Any:
                return context.make_array(kinds[i])(context, b, args[i]).data

            def integer(i: int) -> Any:
                return context.cast(b, args[i], kinds[i], types.int64)

            def load(pointer: Any, i: int) -> Any:
                loaded = b.load(b.bitcast(b.gep(pointer, [whole(i * lanes)]), vector.as_pointer()))
                loaded.align = size
                return loaded

            def addresses(pointer: Any, table: Any, start: Any, last: Any) -> list[Any]:
                found = []
                for m in range(ROWS):
                    i = b.add(start, whole(m))
                    i = b.select(b.icmp_signed("<", i, last), i, last)
                    found.append(b.gep(pointer, [b.load(b.gep(table, [i]))]))
                return found

            places = addresses(b.gep(data(12), [integer(13)]), data(14), integer(15), integer(16))
            sums = [[cgutils.alloca_once(b, vector) for _ in range(VECTORS)] for _ in range(ROWS)]
            with b.if_else(args[17]) as (start, go_on):
                with start:
                    pointer = b.gep(data(10), [integer(11)])
                    initial = [load(pointer, v) for v in range(VECTORS)]
                    for m in range(ROWS):
                        for v in range(VECTORS):
                            b.store(initial[v], sums[m][v])
                with go_on:
                    for m in range(ROWS):
                        for v in range(VECTORS):
                            b.store(load(places[m], v), sums[m][v])
            sources = addresses(b.gep(data(0), [integer(1)]), data(2), integer(3), integer(4))
            table = b.gep(data(5), [integer(6)])
            weights = b.gep(data(8), [integer(9)])
            with cgutils.for_range(b, integer(7)) as loop:
                step = b.load(b.gep(table, [loop.index]))
                line = b.gep(weights, [b.mul(loop.index, whole(VECTORS * lanes))])
                w = [load(line, v) for v in range(VECTORS)]
                for m in range(ROWS):
                    pointer = b.gep(sources[m], [step])
                    if broadcast:
                        one = b.insert_element(ir.Constant(vector, ir.Undefined), b.load(pointer), whole(0))
                        zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
                        factors = [b.shuffle_vector(one, ir.Constant(vector, ir.Undefined), zeros)] * VECTORS
                    else:
                        factors = [load(pointer, v) for v in range(VECTORS)]
                    for v in range(VECTORS):
                        b.store(b.call(fma, [factors[v], w[v], b.load(sums[m][v])]), sums[m][v])
            for m in range(ROWS):
                for v in range(VECTORS):
                    pointer = b.bitcast(b.gep(places[m], [whole(v * lanes)]), vector.as_pointer())
                    b.store(b.load(sums[m][v]), pointer).align = size
            return context.get_dummy_value()

        return signature, emit

    return tile


def _move_code(context, to, at, x, first, count):
    """to[at : at + count] = x[first : first + count], as memcpy: a loop does not become one."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        kinds = signature.args
        to, x = (context.make_array(kinds[i])(context, b, args[i]).data for i in (0, 2))
        at, first, count = (context.cast(b, args[i], kinds[i], types.int64) for i in (1, 3, 4))
        cgutils.raw_memcpy(b, b.gep(to, [at]), b.gep(x, [first]), count, kinds[0].dtype.bitwidth // 8, 1)
        return context.get_dummy_value()

    return types.void(to, at, x, first, count), emit


def _clear_code(context, to, at, count):
    """to[at : at + count] = 0, as memset."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        kinds = signature.args
        to = context.make_array(kinds[0])(context, b, args[0]).data
        at, count = (context.cast(b, args[i], kinds[i], types.int64) for i in (1, 2))
        size = ir.Constant(ir.IntType(64), kinds[0].dtype.bitwidth // 8)
        cgutils.memset(b, b.gep(to, [at]), b.mul(count, size), 0)
        return context.get_dummy_value()

    return types.void(to, at, count), emit


_move: Any = intrinsic(_move_code)
_clear: Any = intrinsic(_clear_code)
_broadcast_tile, _vector_tile = _make_tile(True), _make_tile(False)

_local = threading.local()


def _scratch(name: str, rows: int, size: int, dtype: Any) -> Array:
    """[rows, size] uninitialised, lines of the cache unbroken; kept for the next call, for fresh memory is slow."""
    line = 64 // np.dtype(dtype).itemsize
    size = -(-size // line) * line
    key = f"{name} {np.dtype(dtype)}"
    flat = _local.__dict__.get(key)
    if flat is None or flat.size < rows * size:
        flat = np.empty(rows * size + line, dtype)
        start = -flat.ctypes.data % 64 // flat.itemsize
        flat = _local.__dict__[key] = flat[start : start + rows * size]
    return flat[: rows * size].reshape(rows, size)


@njit(**SERIAL)
def _pad(x: Array, copy: Array, n: int, row: int, geometry: Any, images: int) -> None:
    """Images n ... from row on, with zeros around them, into copy."""
    _, d, h, w, channels, pitch, low0, low1, low2, e1, e2, height, _, _, _, _, _, _, _ = geometry
    left = min(max(-low2, 0), e2)  # pixels of zeros before what a line reads, then that
    start = max(low2, 0)
    wide = max(min(w, low2 + e2) - start, 0)
    at = 0
    for i in range(images):
        for a in range(height):
            y = row + low0 + a
            for b in range(e1):
                z = low1 + b
                if 0 <= y < d and 0 <= z < h:
                    first = ((((n + i) * d + y) * h + z) * w + start) * channels
                    _clear(copy, at, left * pitch)
                    at += left * pitch
                    if pitch == channels:
                        _move(copy, at, x, first, wide * channels)
                    else:
                        for c in range(wide):
                            _move(copy, at + c * pitch, x, first + c * channels, channels)
                    at += wide * pitch
                    _clear(copy, at, (e2 - left - wide) * pitch)
                    at += (e2 - left - wide) * pitch
                else:
                    _clear(copy, at, e2 * pitch)
                    at += e2 * pitch


@njit(**SERIAL)
def _source(job: int, x: Array, copy: Array, geometry: Any) -> tuple[Array, int, int, int, int]:
    """What a job reads: the array, the start in it; and how many images it does, from which image, from which row."""
    n, d, h, w, channels, _, low0, _, _, _, _, height, images, band, bands, scale, direct, _, _ = geometry
    first, row = job // bands * images, job % bands * band
    some = min(images, n - first)
    top = row * scale + low0
    if direct and top >= 0 and top + height <= d:
        return x, (first * d + top) * h * w * channels, some, first, row
    _pad(x, copy, first, row * scale, geometry, some)
    return copy, 0, some, first, row


@njit(**SERIAL)
def _pack(w: Array, panels: Array, tables: Any, sizes: Any, layout: Any) -> None:
    """w [T, ...] as panels [phase][group][block][tap and input, lane], zeros in the lanes past the outputs."""
    groups, inputs, outputs = sizes
    each, base, si, so = layout  # apart in w: taps, groups, inputs, outputs
    phases, _, _, _, taps = tables
    lanes = BLOCK_BYTES // w.itemsize
    blocks = (outputs + lanes - 1) // lanes
    to = first = 0
    for f in range(len(phases)):
        own = phases[f, 4] // max(inputs, 1)
        for q in range(groups * blocks):
            group, b = q // blocks, q % blocks
            width = min(lanes, outputs - b * lanes)
            for t in range(first, first + own):
                at = taps[t] * each + group * base + b * lanes * so
                for _ in range(inputs):
                    if width < lanes:
                        for c in range(lanes):
                            panels[to + c] = w[at + c * so] if c < width else w.dtype.type(0)
                    elif so == 1:
                        _move(panels, to, w, at, lanes)
                    else:
                        for c in range(lanes):
                            panels[to + c] = w[at + c * so]
                    at += si
                    to += lanes
        first += own


@njit(**SERIAL)
def _convolve_job(
    job: int, x: Array, panels: Array, bias: Array, y: Array, copy: Array, tables: Any, geometry: Any, sizes: Any,
    vector: bool,
) -> None:  # fmt: skip
    """Every pixel of one job. bias [group][block][lane]."""
    groups, inputs, outputs = sizes
    phases, source, target, steps, _ = tables
    lanes = BLOCK_BYTES // x.itemsize
    blocks = (outputs + lanes - 1) // lanes
    band, image_pitch, row_pitch = geometry[13], geometry[17], geometry[18]
    array, base, some, first, row = _source(job, x, copy, geometry)
    start = first * image_pitch + row * row_pitch
    spill = np.empty(ROWS * lanes, x.dtype)
    local = np.arange(ROWS) * lanes
    for f in range(len(phases)):
        at, here, count = phases[f, 2], phases[f, 3], phases[f, 4]
        last = some * min(band, phases[f, 0] - row) * phases[f, 1] - 1
        for q in range(groups * blocks):
            group, b = q // blocks, q % blocks
            s = base + (b * lanes if vector else group * inputs)
            p = (here * groups * blocks + q * count) * lanes
            o = start + group * outputs + b * lanes
            width = min(lanes, outputs - b * lanes)
            whole = width == lanes
            out, to, outs = (y, o, target) if whole else (spill, 0, local)
            for r in range(0, last + 1, ROWS):
                ro, end = (at + r, at + last) if whole else (0, ROWS)
                if vector:
                    _vector_tile(array, s, source, at + r, at + last, steps, here, count, panels, p, bias, q * lanes, out, to, outs, ro, end, True)  # fmt: skip # noqa: E501
                else:
                    _broadcast_tile(array, s, source, at + r, at + last, steps, here, count, panels, p, bias, q * lanes, out, to, outs, ro, end, True)  # fmt: skip # noqa: E501
                if not whole:
                    for m in range(min(ROWS, last + 1 - r)):
                        for c in range(width):
                            y[o + target[at + r + m] + c] = spill[m * lanes + c]


@njit(**PARALLEL)
def _convolve(
    jobs: int, x: Array, panels: Array, bias: Array, y: Array, copies: Array, tables: Any, geometry: Any, sizes: Any,
    vector: bool,
) -> None:  # fmt: skip
    for i in prange(jobs):
        job = np.int64(i)  # prange counts in another type, for which all would be compiled again
        _convolve_job(job, x, panels, bias, y, copies[numba.get_thread_id()], tables, geometry, sizes, vector)


@njit(**SERIAL)
def _weigh_part(
    item: int, parts: int, splits: int, jobs: int, x: Array, g: Array, sums: Array, copy: Array, panel: Array,
    zeros: Array, tables: Any, lines: Array, geometry: Any, sizes: Any, vector: bool,
) -> None:  # fmt: skip
    """The sum over the jobs of one part, for one split of the outputs.

    sums [part][group][block][step, lane], panel [pixel, lane].
    """
    groups, inputs, outputs = sizes
    phases, source, target, steps, _ = tables
    lanes = BLOCK_BYTES // x.itemsize
    blocks = (outputs + lanes - 1) // lanes
    band, image_pitch, row_pitch = geometry[13], geometry[17], geometry[18]
    count = len(steps)
    part, split = item // splits, item % splits
    mine = sums[part]
    low, high = groups * blocks * split // splits, groups * blocks * (split + 1) // splits
    begin, end = jobs * part // parts, jobs * (part + 1) // parts
    if begin == end:
        mine[low * count * lanes : high * count * lanes] = 0
    for job in range(begin, end):
        array, base, some, first, row = _source(job, x, copy, geometry)
        start = first * image_pitch + row * row_pitch
        pixels = some * min(band, phases[0, 0] - row) * phases[0, 1]
        for deep in range(0, pixels, DEPTH):
            depth = min(DEPTH, pixels - deep)
            fresh = job == begin and deep == 0
            for q in range(low, high):
                group, b = q // blocks, q % blocks
                width = min(lanes, outputs - b * lanes)
                at = start + group * outputs + b * lanes
                for i in range(depth):
                    if width == lanes:
                        _move(panel, i * lanes, g, at + target[deep + i], lanes)
                    else:
                        for c in range(lanes):
                            panel[i * lanes + c] = g[at + target[deep + i] + c] if c < width else g.dtype.type(0)
                s = base + (b * lanes if vector else group * inputs)
                o = q * count * lanes
                for r in range(0, count, ROWS):
                    if vector:
                        _vector_tile(array, s, steps, r, count - 1, source, deep, depth, panel, 0, zeros, 0, mine, o, lines, r, count - 1, fresh)  # fmt: skip # noqa: E501
                    else:
                        _broadcast_tile(array, s, steps, r, count - 1, source, deep, depth, panel, 0, zeros, 0, mine, o, lines, r, count - 1, fresh)  # fmt: skip # noqa: E501


@njit(**PARALLEL)
def _weigh(
    items: int, parts: int, splits: int, jobs: int, x: Array, g: Array, sums: Array, copies: Array, panels: Array,
    zeros: Array, tables: Any, lines: Array, geometry: Any, sizes: Any, vector: bool,
) -> None:  # fmt: skip
    for i in prange(items):
        item, t = np.int64(i), numba.get_thread_id()
        _weigh_part(item, parts, splits, jobs, x, g, sums, copies[t], panels[t], zeros, tables, lines, geometry, sizes, vector)  # fmt: skip # noqa: E501


@njit(**SERIAL)
def _add(sums: Array, w: Array, count: int, sizes: Any) -> None:
    """w is the sum of the parts."""
    groups, _, outputs = sizes
    lanes = BLOCK_BYTES // w.itemsize
    blocks = (outputs + lanes - 1) // lanes
    for q in range(groups * blocks):
        width = min(lanes, outputs - q % blocks * lanes)
        for k in range(count):
            to = (k * groups + q // blocks) * outputs + q % blocks * lanes
            for c in range(width):
                w[to + c] = sums[0, (q * count + k) * lanes + c]
            for part in range(1, len(sums)):
                for c in range(width):
                    w[to + c] += sums[part, (q * count + k) * lanes + c]


@lru_cache(maxsize=512)
def _lines(count: int, lanes: int) -> Array:
    """Where each line of `lanes` starts."""
    return np.arange(count, dtype=np.int64) * lanes


def _apart(channels: int, itemsize: int) -> int:
    """Elements from pixel to pixel that keep DEPTH pixels in the level 1 cache: 4, 8 ... lines apart share few sets."""
    line = 64 // itemsize
    return channels if channels % (4 * line) else channels + line


def _run(
    x: Array, w: Array, bias: Array | None, offsets: Offsets, stride: Sequence[int], shape: Sequence[int], groups: int,
    transposed: bool,
) -> Array:  # fmt: skip
    x, w = np.ascontiguousarray(x), np.ascontiguousarray(w)
    channels, lanes = x.shape[-1], BLOCK_BYTES // x.itemsize
    inner, wide = w.shape[1:]
    total = inner * groups if transposed else wide
    vector = groups > 1 and groups == channels == total
    if vector:
        sizes, strides, gap = (1, 1, channels), (0, 0, 1), -(-channels // lanes) * lanes
    elif transposed:
        sizes, strides, gap = (groups, wide // groups, inner), (wide // groups, 1, wide), channels
    else:
        sizes, strides, gap = (groups, inner, wide // groups), (wide // groups, wide, 1), channels
    p = plan(
        x.shape[0], x.shape[1:-1], channels, sizes[1], total, tuple(offsets), tuple(stride), tuple(shape), gap,
        transposed,
    )  # fmt: skip
    y = np.empty((x.shape[0], *shape, total), x.dtype)
    padded = -(-sizes[2] // lanes) * lanes
    biases = np.zeros((sizes[0], padded), x.dtype)
    if bias is not None:
        biases[:, : sizes[2]] = bias.reshape(sizes[0], sizes[2])
    panels = _scratch("panels", 1, len(p.steps) * sizes[0] * padded, x.dtype)[0]
    tables = p.phases, p.source, p.target, p.steps, p.taps
    _pack(w.reshape(-1), panels, tables, sizes, (inner * wide, *strides))
    flat, out = x.reshape(-1), y.reshape(-1)
    if p.jobs > 1 and x.shape[0] * len(p.source) * len(p.steps) * total > SMALL:
        copies = _scratch("copies", THREADS, p.scratch, x.dtype)
        _convolve(p.jobs, flat, panels, biases.reshape(-1), out, copies, tables, p.geometry, sizes, vector)
    else:
        copy = _scratch("copies", 1, p.scratch, x.dtype)[0]
        for job in range(p.jobs):
            _convolve_job(job, flat, panels, biases.reshape(-1), out, copy, tables, p.geometry, sizes, vector)
    return y


def forward(
    x: Array, w: Array, bias: Array | None, offsets: Offsets, stride: Sequence[int], shape: Sequence[int], groups: int
) -> Array:
    return _run(x, w, bias, offsets, stride, shape, groups, False)


def input_gradient(
    g: Array, w: Array, bias: Array | None, offsets: Offsets, stride: Sequence[int], shape: Sequence[int], groups: int
) -> Array:
    return _run(g, w, bias, offsets, stride, shape, groups, True)


def weight_gradient(x: Array, g: Array, offsets: Offsets, stride: Sequence[int], groups: int) -> Array:
    x, g = np.ascontiguousarray(x), np.ascontiguousarray(g)
    channels, total, lanes = x.shape[-1], g.shape[-1], BLOCK_BYTES // x.itemsize
    vector = groups > 1 and groups == channels == total
    sizes = (1, 1, total) if vector else (groups, channels // groups, total // groups)
    p = plan(
        x.shape[0], x.shape[1:-1], channels, sizes[1], total, tuple(offsets), tuple(stride), g.shape[1:-1],
        _apart(channels, x.itemsize), False,
    )  # fmt: skip
    count = len(p.steps)
    pixels = math.prod(g.shape[:-1])
    parts = max(1, min(PARTS, p.jobs, pixels // PART_PIXELS))
    splits = max(1, min(sizes[0] * -(-sizes[2] // lanes), PARTS // parts))
    items = parts * splits
    w = np.empty((len(offsets), channels // groups, total), x.dtype)
    tables = p.phases, p.source, p.target, p.steps, p.taps
    sums = _scratch("sums", parts, sizes[0] * count * -(-sizes[2] // lanes) * lanes, x.dtype)
    zeros, lines = np.zeros(lanes, x.dtype), _lines(count, lanes)
    threads = THREADS if items > 1 and pixels * count * total > SMALL else 1
    copies = _scratch("copies", threads, p.scratch, x.dtype)
    panels = _scratch("panels", threads, DEPTH * lanes, x.dtype)
    flat, out = x.reshape(-1), g.reshape(-1)
    if threads > 1:
        _weigh(
            items, parts, splits, p.jobs, flat, out, sums, copies, panels, zeros, tables, lines, p.geometry, sizes,
            vector,
        )  # fmt: skip
    else:
        for item in range(items):
            _weigh_part(
                item, parts, splits, p.jobs, flat, out, sums, copies[0], panels[0], zeros, tables, lines, p.geometry,
                sizes, vector,
            )  # fmt: skip
    _add(sums, w.reshape(-1), count, sizes)
    return w
