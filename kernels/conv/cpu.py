"""reference.py in Numba: tiles of pixels by outputs in vector registers, one loop for every kind of convolution.

Between padding and storing, everything is one tile: sums over k of x[rows[m] + steps[k]] * panel[k, lane]. In a
convolution the rows are pixels, the steps taps and channels, the panel weights; in the gradient to the weights the rows
are taps and channels, the steps pixels, the panel that of g. A transposed convolution is one convolution for each phase
of the stride. README.md has the layout and what each choice bought.
"""

from __future__ import annotations

import inspect
import math
import threading
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from micrognm.kernels.conv.plan import plan
from micrognm.kernels.formula.cpu import address
from micrognm.kernels.formula.loops import call as run_part
from micrognm.kernels.formula.program import Activation
from micrognm.kernels.jit import INNER, REGISTERS, SERIAL, WIDTH
from micrognm.kernels.vectors import scratch
from micrognm.kernels.workers import run, share_of
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.unsafe.ndarray import to_fixed_tuple

Array = Any
Offsets = Sequence[Sequence[int]]

# A tile is ROWS x 2 vectors of sums; two of weights and one of x go with them. More rows would leave the registers,
# and so would more than 8 addresses. Where one vector holds all outputs, a tile is NARROW_ROWS x 1.
ROWS = 6 if REGISTERS == 16 else 8
NARROW_ROWS = 8
BLOCK_BYTES = 4 * WIDTH * 2
DEPTH = 128  # pixels summed at once in the gradient to the weights: x and g of them stay in the level 1 cache
SMALL = 30_000  # products: not worth the launch of threads
PART_PIXELS = 1024  # in a part at least: fewer are not worth another sum of the size of the weights
PARTS = 8  # partial sums of the gradient to the weights, whatever the number of threads


def _tile_of(size: int, vectors: int) -> Any:
    """The innermost loop, as vector instructions: Numba alone does not keep an array of sums in registers.

    tile(x, base, r, last, steps, count, vector, panel, p, bias, q, fresh, out, o, ro, rlast, table):
    sum over k < count of x[base + rows[m] + steps[k]] * panel[p + k, :] for `size` rows m, added to bias[q + :], or to
    what is in `out` unless `fresh`; written to out[o + outs[m] + :]. rows, steps and outs lie in the table, from r,
    steps and ro on; there is no row past `last` (it is done again instead), whose outs is rlast.
    vector: as many numbers of x as lanes (depthwise); otherwise one number of x times all lanes.
    """

    def code(context, x, base, r, last, steps, count, vector, panel, p, bias, q, fresh, out, o, ro, rlast, table):
        def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
            names = inspect.signature(code).parameters
            kind = dict(zip(list(names)[1:], signature.args, strict=True))
            given = dict(zip(list(names)[1:], args, strict=True))
            number = context.get_data_type(kind["x"].dtype)
            width = kind["x"].dtype.bitwidth // 8
            lanes = 4 * WIDTH // width
            vector, i64 = ir.VectorType(number, lanes), ir.IntType(64)
            name = f"llvm.fma.v{lanes}f{8 * width}"
            fma = cgutils.get_or_insert_function(b.module, ir.FunctionType(vector, [vector] * 3), name)
            whole = lambda v: ir.Constant(i64, v)  # noqa: E731

            def integer(name: str) -> Any:
                return context.cast(b, given[name], kind[name], types.int64)

            def at(array: str, start: str) -> Any:
                return b.gep(context.make_array(kind[array])(context, b, given[array]).data, [integer(start)])

            def load(pointer: Any, i: int) -> Any:
                loaded = b.load(b.bitcast(b.gep(pointer, [whole(i * lanes)]), vector.as_pointer()))
                loaded.align = width
                return loaded

            def addresses(pointer: Any, start: str, last: str) -> list[Any]:
                places, most = at("table", start), b.sub(integer(last), integer(start))
                found = []
                for m in range(size):
                    i = b.select(b.icmp_signed("<", whole(m), most), whole(m), most)
                    found.append(b.gep(pointer, [b.load(b.gep(places, [i]))]))
                return found

            places = addresses(at("out", "o"), "ro", "rlast")
            sums = [[cgutils.alloca_once(b, vector) for _ in range(vectors)] for _ in range(size)]
            with b.if_else(given["fresh"]) as (start, go_on):
                with start:
                    initial = [load(at("bias", "q"), v) for v in range(vectors)]
                    for m in range(size):
                        for v in range(vectors):
                            b.store(initial[v], sums[m][v])
                with go_on:
                    for m in range(size):
                        for v in range(vectors):
                            b.store(load(places[m], v), sums[m][v])
            sources = addresses(at("x", "base"), "r", "last")
            steps, weights = at("table", "steps"), at("panel", "p")

            def loop(factors: Any) -> None:
                with cgutils.for_range(b, integer("count")) as k:
                    step = b.load(b.gep(steps, [k.index]))
                    line = b.gep(weights, [b.mul(k.index, whole(vectors * lanes))])
                    w = [load(line, v) for v in range(vectors)]
                    for m in range(size):
                        for v, factor in enumerate(factors(b.gep(sources[m], [step]))):
                            b.store(b.call(fma, [factor, w[v], b.load(sums[m][v])]), sums[m][v])

            def repeated(pointer: Any) -> list[Any]:
                one = b.insert_element(ir.Constant(vector, ir.Undefined), b.load(pointer), whole(0))
                zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
                return [b.shuffle_vector(one, ir.Constant(vector, ir.Undefined), zeros)] * vectors

            with b.if_else(given["vector"]) as (as_many, one):
                with as_many:
                    loop(lambda pointer: [load(pointer, v) for v in range(vectors)])
                with one:
                    loop(repeated)
            for m in range(size):
                for v in range(vectors):
                    pointer = b.bitcast(b.gep(places[m], [whole(v * lanes)]), vector.as_pointer())
                    b.store(b.load(sums[m][v]), pointer).align = width
            return context.get_dummy_value()

        kinds = x, base, r, last, steps, count, vector, panel, p, bias, q, fresh, out, o, ro, rlast, table
        return types.void(*kinds), emit

    return intrinsic(code)


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


_tile, _narrow = _tile_of(ROWS, 2), _tile_of(NARROW_ROWS, 1)
_move: Any = intrinsic(_move_code)
_clear: Any = intrinsic(_clear_code)
_numbers: Any = to_fixed_tuple  # the first so many of an array


class _Kept(threading.local):
    """Memory of a thread, by what it is for and by dtype."""

    def __init__(self) -> None:
        self.memory: dict[tuple[str, Any], Array] = {}


_kept = _Kept()


def _scratch(name: str, size: int, dtype: Any) -> Array:
    """Uninitialised memory from the start of a line of the cache; kept for the next call, for fresh memory is slow."""
    flat = _kept.memory.get((name, dtype))
    if flat is None or flat.size < size:
        flat = _kept.memory[name, dtype] = scratch(size, dtype)
    return flat[:size]


@njit(**INNER)
def _source(job: int, x: Array, copies: Array, copy: int, table: Array) -> tuple[bool, int, int, int]:
    """What a job reads: whether from x or from its copy, made here from `copy` on; the start in it; how many images the
    job does, and where what it writes starts.
    """
    numbers = _numbers(table[table[0] :], 19)
    n, d, h, w, channels, pitch, low0, low1, low2, e1, e2, height, images, band, bands, scale, direct = numbers[:17]
    image_pitch, row_pitch = numbers[17:]
    first, row = job // bands * images, job % bands * band
    some = min(images, n - first)
    top = row * scale + low0
    start = first * image_pitch + row * row_pitch
    if direct and top >= 0 and top + height <= d:
        return True, (first * d + top) * h * w * channels, some, start
    left = min(max(-low2, 0), e2)  # pixels of zeros before what a line reads, then that
    begin = max(low2, 0)
    wide = max(min(w, low2 + e2) - begin, 0)
    at = copy
    for i in range(some):
        for y in range(top, top + height):
            for z in range(low1, low1 + e1):
                if 0 <= y < d and 0 <= z < h:
                    read = ((((first + i) * d + y) * h + z) * w + begin) * channels
                    _clear(copies, at, left * pitch)
                    each, runs = (wide * channels, 1) if pitch == channels else (channels, wide)
                    for c in range(runs):
                        _move(copies, at + (left + c) * pitch, x, read + c * channels, each)
                    _clear(copies, at + (left + wide) * pitch, (e2 - left - wide) * pitch)
                else:
                    _clear(copies, at, e2 * pitch)
                at += e2 * pitch
    return False, copy, some, start


@njit(**SERIAL)
def _pack(w: Array, panels: Array, table: Array, taps: Array, sizes: Array) -> None:
    """w [T, ...] as panels [phase][group][block][tap and input, lane], zeros in the lanes past the outputs.

    sizes: groups, inputs, outputs; how far apart in w are taps, groups, inputs, outputs; and lanes.
    """
    groups, inputs, outputs, each, base, si, so, lanes = _numbers(sizes, 8)
    blocks = (outputs + lanes - 1) // lanes
    to = first = 0
    for f in range(table[1], table[2], 5):
        own = table[f + 4] // max(inputs, 1)
        for q in range(groups * blocks):
            group, b = q // blocks, q % blocks
            width = min(lanes, outputs - b * lanes)
            for t in range(first, first + own):
                at = taps[t] * each + group * base + b * lanes * so
                for _ in range(inputs):
                    if so == 1:
                        _move(panels, to, w, at, width)
                    else:
                        for c in range(width):
                            panels[to + c] = w[at + c * so]
                    _clear(panels, to + width, lanes - width)
                    at += si
                    to += lanes
        first += own


@njit(**INNER)
def _apply(numbers: Array, worker: int, itemsize: int, start: int, at: int, count: int) -> None:
    """The formula on `count` elements, from `start` on in what it is applied to and from `at` on in the output.

    numbers: at 7 the addresses of its run_part, of its options and of both arrays; from 11 on room for 8 a worker.
    """
    here = 11 + 8 * worker
    call, sizes = numbers[here : here + 4], numbers[here + 4 : here + 8]
    call[0], call[1] = sizes.ctypes.data, numbers[8]
    call[2], call[3] = numbers[9] + start * itemsize, numbers[10] + at * itemsize
    sizes[0], sizes[1], sizes[2], sizes[3] = count, count, 1, count
    run_part(numbers[7], call, 0)


@njit(**INNER)
def _convolve(
    x: Array, panels: Array, bias: Array, y: Array, copies: Array, table: Array, numbers: Array,
    worker: int, workers: int,
) -> None:  # fmt: skip
    """Every pixel of a worker's jobs. bias [group][block][lane]. y: the output, or what a formula is applied to.

    numbers: groups, inputs, outputs, jobs, elements of a worker's copy, whether depthwise, elements of y that are a
    worker's own (0: y is whole), `_apply`'s from 7 on, and last the lanes.
    """
    groups, inputs, outputs, jobs, apart, depthwise, own, formula = _numbers(numbers, 8)
    band, bands, lanes = table[table[0] + 13], table[table[0] + 14], numbers[-1]
    narrow = lanes < BLOCK_BYTES // x.itemsize
    size = NARROW_ROWS if narrow else ROWS
    blocks = (outputs + lanes - 1) // lanes
    spill = worker * apart  # sums of blocks that are not full, then the copy
    for job in share_of(jobs, worker, workers):
        direct, base, some, at = _source(job, x, copies, spill + size * lanes, table)
        array = x if direct else copies
        start = worker * own if own else at
        for f in range(table[1], table[2], 5):
            source, target, steps = table[2] + table[f + 2], table[3] + table[f + 2], table[4] + table[f + 3]
            count = table[f + 4]
            last = some * min(band, table[f] - job % bands * band) * table[f + 1] - 1
            for q in range(groups * blocks):
                group, b = q // blocks, q % blocks
                s = base + (b * lanes if depthwise else group * inputs)
                p = (table[f + 3] * groups * blocks + q * count) * lanes
                o = start + group * outputs + b * lanes
                width = min(lanes, outputs - b * lanes)
                whole = width == lanes
                out, to = (y, o) if whole else (copies, spill)
                for r in range(0, last + 1, size):
                    ro, end = (target + r, target + last) if whole else (table[5], table[5] + size)
                    if narrow:
                        _narrow(array, s, source + r, source + last, steps, count, False, panels, p, bias, q * lanes, True, out, to, ro, end, table)  # fmt: skip # noqa: E501
                    else:
                        _tile(array, s, source + r, source + last, steps, count, depthwise != 0, panels, p, bias, q * lanes, True, out, to, ro, end, table)  # fmt: skip # noqa: E501
                    if not whole:
                        for m in range(min(size, last + 1 - r)):
                            _move(y, o + table[target + r + m], copies, spill + m * lanes, width)
        if formula:
            image, row = table[table[0] + 17], table[table[0] + 18]
            done = (some - 1) * image + min(band * row, image - job % bands * band * row)
            _apply(numbers, worker, x.itemsize, start, at, done)


@njit(**INNER)
def _weigh(
    x: Array, g: Array, sums: Array, panels: Array, copies: Array, table: Array, sizes: Array, worker: int, workers: int
) -> None:
    """A worker's items: each is the sum over the jobs of one part, for one split of the outputs.

    sums [part][group][block][step, lane], panels [worker][pixel, lane]. sizes: as in _convolve, parts, splits.
    """
    groups, inputs, outputs, jobs, apart, depthwise, parts, splits = _numbers(sizes, 8)
    band, bands = table[table[0] + 13], table[table[0] + 14]
    source, target, steps, lines = table[2], table[3], table[4], table[5]
    count = lines - steps
    lanes = BLOCK_BYTES // x.itemsize
    blocks = (outputs + lanes - 1) // lanes
    panel = worker * (DEPTH + 1) * lanes
    zeros = panel + DEPTH * lanes
    _clear(panels, zeros, lanes)
    rows, wide = table[table[1]], table[table[1] + 1]
    for item in share_of(parts * splits, worker, workers):
        part, split = item // splits, item % splits
        mine = part * groups * blocks * count * lanes
        low, high = groups * blocks * split // splits, groups * blocks * (split + 1) // splits
        begin, end = jobs * part // parts, jobs * (part + 1) // parts
        if begin == end:
            _clear(sums, mine + low * count * lanes, (high - low) * count * lanes)
        for job in range(begin, end):
            direct, base, some, start = _source(job, x, copies, worker * apart, table)
            array = x if direct else copies
            pixels = some * min(band, rows - job % bands * band) * wide
            for deep in range(0, pixels, DEPTH):
                depth = min(DEPTH, pixels - deep)
                fresh = job == begin and deep == 0
                for q in range(low, high):
                    group, b = q // blocks, q % blocks
                    width = min(lanes, outputs - b * lanes)
                    at = start + group * outputs + b * lanes
                    for i in range(depth):
                        if width == lanes:  # a number that the compiler knows: no call
                            _move(panels, panel + i * lanes, g, at + table[target + deep + i], lanes)
                        else:
                            _move(panels, panel + i * lanes, g, at + table[target + deep + i], width)
                            _clear(panels, panel + i * lanes + width, lanes - width)
                    s = base + (b * lanes if depthwise else group * inputs)
                    o = mine + q * count * lanes
                    for r in range(0, count, ROWS):
                        _tile(array, s, steps + r, steps + count - 1, source + deep, depth, depthwise != 0, panels, panel, panels, zeros, fresh, sums, o, lines + r, lines + count - 1, table)  # fmt: skip # noqa: E501


def _apart(channels: int, itemsize: int) -> int:
    """Elements from pixel to pixel that keep DEPTH pixels in the level 1 cache: 4, 8 ... lines apart share few sets."""
    line = 64 // itemsize
    return channels if channels % (4 * line) else channels + line


def _run(
    x: Array, w: Array, bias: Array | None, offsets: Offsets, stride: Sequence[int], shape: Sequence[int], groups: int,
    activation: Activation | None, keep: bool, transposed: bool,
) -> Any:  # fmt: skip
    x, w = np.ascontiguousarray(x), np.ascontiguousarray(w)
    channels, lanes = x.shape[-1], BLOCK_BYTES // x.itemsize
    inner, wide = w.shape[1:]
    total = inner * groups if transposed else wide
    depthwise = groups > 1 and groups == channels == total
    if depthwise:
        sizes, strides, gap = (1, 1, channels), (0, 0, 1), -(-channels // lanes) * lanes
    elif transposed:
        sizes, strides, gap = (groups, wide // groups, inner), (wide // groups, 1, wide), channels
    else:
        sizes, strides, gap = (groups, inner, wide // groups), (wide // groups, wide, 1), channels
    if sizes[2] <= lanes // 2 and not depthwise:
        lanes //= 2
    p = plan(
        x.shape[0], x.shape[1:-1], channels, sizes[1], total, tuple(offsets), tuple(stride), tuple(shape), gap, lanes,
        transposed,
    )  # fmt: skip
    y = before = np.empty((x.shape[0], *shape, total), x.dtype)
    padded = -(-sizes[2] // lanes) * lanes
    biases = np.zeros((sizes[0], padded), x.dtype)
    if bias is not None:
        biases[:, : sizes[2]] = bias.reshape(sizes[0], sizes[2])
    panels = _scratch("panels", len(p.steps) * sizes[0] * padded, x.dtype)
    _pack(w.reshape(-1), panels, p.table, p.taps, np.array([*sizes, inner * wide, *strides, lanes], np.int64))
    products = x.shape[0] * len(p.source) * len(p.steps) * total
    workers = numba.get_num_threads() if p.jobs > 1 and products > SMALL else 1
    apart = p.scratch + (NARROW_ROWS if lanes < BLOCK_BYTES // x.itemsize else ROWS) * lanes
    copies = _scratch("copies", workers * apart, x.dtype)
    own, calls = 0, [0]
    if activation is not None:
        images, band, bands, image_pitch, row_pitch = p.geometry[[12, 13, 14, 17, 18]].tolist()
        own = 0 if keep else images * image_pitch if bands == 1 else band * row_pitch
        before = np.empty_like(y) if keep else _scratch("before", workers * own, x.dtype)
        options = np.array([*activation.options.values()], np.float64)
        given = [options.ctypes.data, before.ctypes.data, y.ctypes.data]
        calls = [address(activation.program, x.dtype), *given, *[0] * 8 * workers]
    numbers = np.array([*sizes, p.jobs, apart, depthwise, own, *calls, lanes], np.int64)
    run(_convolve, (x.reshape(-1), panels, biases.reshape(-1), before.reshape(-1), copies, p.table, numbers), workers)
    return (y, before) if keep else y


def forward(
    x: Array, w: Array, bias: Array | None, offsets: Offsets, stride: Sequence[int], shape: Sequence[int], groups: int,
    activation: Activation | None = None, keep: bool = False,
) -> Any:  # fmt: skip
    return _run(x, w, bias, offsets, stride, shape, groups, activation, keep, False)


def input_gradient(
    g: Array, w: Array, bias: Array | None, offsets: Offsets, stride: Sequence[int], shape: Sequence[int], groups: int,
    activation: Activation | None = None, keep: bool = False,
) -> Any:  # fmt: skip
    return _run(g, w, bias, offsets, stride, shape, groups, activation, keep, True)


def weight_gradient(x: Array, g: Array, offsets: Offsets, stride: Sequence[int], groups: int) -> Array:
    channels, outputs, lanes = x.shape[-1], g.shape[-1], BLOCK_BYTES // x.itemsize
    if groups == 1 and set(stride) == {1} and -outputs % lanes * channels > -channels % lanes * outputs:
        # Outputs would leave more lanes idle than inputs do. Each pair of pixels is the same seen from the other one.
        back = [[-step for step in offset] for offset in offsets]
        return np.ascontiguousarray(np.swapaxes(weight_gradient(g, x, tuple(map(tuple, back)), stride, 1), 1, 2))
    x, g = np.ascontiguousarray(x), np.ascontiguousarray(g)
    depthwise = groups > 1 and groups == channels == outputs
    sizes = (1, 1, outputs) if depthwise else (groups, channels // groups, outputs // groups)
    p = plan(
        x.shape[0], x.shape[1:-1], channels, sizes[1], outputs, tuple(offsets), tuple(stride), g.shape[1:-1],
        _apart(channels, x.itemsize), lanes, False,
    )  # fmt: skip
    count, blocks = len(p.steps), -(-sizes[2] // lanes)
    pixels = math.prod(g.shape[:-1])
    parts = max(1, min(PARTS, p.jobs, pixels // PART_PIXELS))
    splits = max(1, min(sizes[0] * blocks, PARTS // parts))
    workers = numba.get_num_threads() if parts * splits > 1 and pixels * count * outputs > SMALL else 1
    sums = _scratch("sums", parts * sizes[0] * blocks * count * lanes, x.dtype)
    copies = _scratch("copies", workers * p.scratch, x.dtype)
    panels = _scratch("panels", workers * (DEPTH + 1) * lanes, x.dtype)
    counts = np.array([*sizes, p.jobs, p.scratch, depthwise, parts, splits], np.int64)
    run(_weigh, (x.reshape(-1), g.reshape(-1), sums, panels, copies, p.table, counts), workers)
    total = np.add.reduce(sums.reshape(parts, sizes[0], blocks, count, lanes))
    w = total.transpose(2, 0, 1, 3).reshape(count, sizes[0], blocks * lanes)[..., : sizes[2]]
    return w.reshape(len(offsets), channels // groups, outputs)
