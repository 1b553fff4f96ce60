"""reference.py in Numba.

Vectors run over rows (or pixels), not along them: a row of 10 mixtures or 17 classes does not fill registers, a block
of LANES rows does. So a block is turned on its side into memory that stays in the level 1 cache, worked on there, and
turned back. Only long rows of logits are read as they lie. Each row is summed by itself, so that results do not depend
on the number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from micrognm.kernels.jit import FAST, INLINED, INNER, WIDTH
from micrognm.kernels.losses.reference import FLOOR, NARROW
from micrognm.kernels.maths import exp, expm1, log, tanh
from micrognm.kernels.workers import run, share_of
from numba import njit

Array = Any
# Rows in a block. It is handed down as a number: of a constant LLVM would unroll the loops, and not find the vectors.
LANES = 4 * WIDTH
LONG = 64  # logits a row from which a row fills registers by itself
PARTS = 16  # pieces of work for the threads


@njit(**INLINED)
def _lie(rows: Array, start: int, stop: int, block: Array) -> None:
    """block [K, lanes] = rows[start : start + lanes] on its side; beyond stop, the last row again."""
    for i in range(block.shape[1]):
        row = min(start + i, stop - 1)
        for k in range(rows.shape[1]):
            block[k, i] = rows[row, k]


# ---- categorical -----------------------------------------------------------------------------------------------------


@njit(**INNER)
def _short_rows(
    logits: Array, index: Array, out: Array, largest: Array, total: Array, memory: Array, lanes: int,
    worker: int, workers: int,
) -> None:  # fmt: skip
    n, classes = logits.shape
    rows = share_of(n, worker, workers)
    start, stop = rows.start, rows.stop
    block = memory[worker]
    top, rest = block[classes], block[classes + 1]
    for first in range(start, stop, lanes):
        _lie(logits, first, stop, block)
        for i in range(lanes):
            top[i] = block[0, i]
            rest[i] = 0
        for k in range(1, classes):
            x = block[k]
            for i in range(lanes):
                top[i] = x[i] if x[i] > top[i] else top[i]
        for k in range(classes):
            x = block[k]
            for i in range(lanes):
                rest[i] += exp(x[i] - top[i])
        for i in range(min(lanes, stop - first)):
            row = first + i
            largest[row] = top[i]
            total[row] = rest[i]
            out[row] = logits[row, index[row]]
    a, b, c = out[start:stop], largest[start:stop], total[start:stop]
    for i in range(stop - start):
        a[i] = (a[i] - b[i]) - log(c[i])


@njit(**{**INNER, "fastmath": FAST})
def _long_rows(
    logits: Array, index: Array, out: Array, largest: Array, total: Array, memory: Array, lanes: int,
    worker: int, workers: int,
) -> None:  # fmt: skip
    n, classes = logits.shape
    top = memory[worker, 0]
    whole = classes - classes % lanes
    for row in share_of(n, worker, workers):
        x = logits[row]
        for i in range(lanes):
            top[i] = x[0]
        for k in range(0, whole, lanes):  # LLVM makes vectors of sums alone, not of maxima
            part = x[k : k + lanes]
            for i in range(lanes):
                top[i] = part[i] if part[i] > top[i] else top[i]
        highest = top[0]
        for i in range(1, lanes):
            highest = top[i] if top[i] > highest else highest
        for k in range(whole, classes):
            highest = x[k] if x[k] > highest else highest
        rest = x.dtype.type(0)
        for k in range(classes):
            rest += exp(x[k] - highest)
        largest[row] = highest
        total[row] = rest
        out[row] = (x[index[row]] - highest) - log(rest)


def categorical(logits: Array, index: Array) -> tuple[Array, Array, Array]:
    logits, index = np.ascontiguousarray(logits), np.ascontiguousarray(index, np.int64)
    out, largest, total = (np.empty(len(logits), logits.dtype) for _ in range(3))
    long = logits.shape[1] >= LONG
    memory = np.empty((PARTS, 1 if long else logits.shape[1] + 2, LANES), logits.dtype)
    run(_long_rows if long else _short_rows, (logits, index, out, largest, total, memory, LANES), PARTS)
    return out, largest, total


@njit(**INNER)
def _long_slopes(
    g: Array, logits: Array, index: Array, largest: Array, total: Array, out: Array, worker: int, workers: int
) -> None:
    n, classes = logits.shape
    for row in share_of(n, worker, workers):
        shift, scale = largest[row], -g[row] / total[row]
        a, b = logits[row], out[row]
        for k in range(classes):
            b[k] = exp(a[k] - shift) * scale
        b[index[row]] += g[row]


@njit(**INNER)
def _short_slopes(
    g: Array, logits: Array, index: Array, largest: Array, total: Array, out: Array, memory: Array, classes: int,
    worker: int, workers: int,
) -> None:  # fmt: skip
    """logits and out flat. The largest of each row and its factor are spread out, for some rows at once."""
    n = len(index)
    top, factor = memory[worker, 0], memory[worker, 1]
    rows, some = share_of(n, worker, workers), top.size // classes
    start, stop = rows.start, rows.stop
    for first in range(start, stop, some):
        last = min(first + some, stop)
        at = 0
        for row in range(first, last):
            shift, scale = largest[row], -g[row] / total[row]
            for _ in range(classes):
                top[at] = shift
                factor[at] = scale
                at += 1
        a, b = logits[first * classes : last * classes], out[first * classes : last * classes]
        for i in range(b.size):
            b[i] = exp(a[i] - top[i]) * factor[i]
        for row in range(first, last):
            out[row * classes + index[row]] += g[row]


def categorical_grad(g: Array, logits: Array, index: Array, largest: Array, total: Array) -> Array:
    g, logits, largest, total = (np.ascontiguousarray(x) for x in (g, logits, largest, total))
    index = np.ascontiguousarray(index, np.int64)
    out, classes = np.empty_like(logits), logits.shape[1]
    if classes >= LONG:
        run(_long_slopes, (g, logits, index, largest, total, out), PARTS)
    else:
        memory = np.empty((PARTS, 2, 1024), g.dtype)
        rows = g, logits.reshape(-1), index, largest, total, out.reshape(-1)
        run(_short_slopes, (*rows, memory, max(classes, 1)), PARTS)
    return out


# ---- logistic mixture ------------------------------------------------------------------------------------------------


@njit(**INLINED)
def _bin(T: Any, level: Any, mean: Any, raw: Any, half: Any, log_width: Any) -> Any:
    """Log-mass of the bin around level, and its slope in the mean and in the log-scale: see reference.py.

    The logs of the three factors of the mass are one log of their product, as the large parts of them, the linear ones,
    are added apart: the product stays between 1 and 10^6.
    """
    zero, one = T(0), T(1)
    log_scale = T(FLOOR) if raw < T(FLOOR) else raw  # written so that NaN stays
    inverse = exp(-log_scale)
    low, high = one if level < one else zero, one if level > -one else zero
    middle = low * high
    centred = level - mean
    a, b, w = inverse * (centred + half), inverse * (centred - half), (half + half) * inverse
    w = T(NARROW) if w < T(NARROW) else w
    outside = -expm1(-w)
    narrow = outside / w if middle > zero else one
    ea, eb = exp(-abs(a)), exp(-abs(b))
    linear = middle * (log_width - log_scale) - low * (zero if a > zero else -a) - high * (b if b > zero else zero)
    mass = linear - log((one + low * ea) * (one + high * eb) / narrow)
    up = low * (ea if a > zero else one) / (one + ea)
    down = high * (one if b > zero else eb) / (one + eb)
    by_scale = b * down - a * up - middle * (one - outside) / narrow
    return mass, inverse * (down - up), zero if raw < T(FLOOR) else by_scale


@njit(**INLINED)
def _spread(x: Array, levels: int, first: int, stop: int, level: Array, lanes: int) -> None:
    """level [C, M lanes]: for each channel, the levels of a block's pixels as -1..1, once for each mixture."""
    T = level.dtype.type
    last = levels - 1
    for c in range(len(level)):
        here = level[c]
        for i in range(lanes):
            here[i] = T(2 * x[min(first + i, stop - 1), c] - last) / T(last)
        for m in range(lanes, here.size, lanes):
            for i in range(lanes):
                here[m + i] = here[i]


@njit(**INLINED)
def _weigh(logits: Array, top: Array, total: Array) -> None:
    """total [lanes] = logsumexp of logits [M lanes] for each lane."""
    lanes = total.size
    for i in range(lanes):
        top[i] = logits[i]
        total[i] = 0
    for m in range(lanes, logits.size, lanes):
        x = logits[m : m + lanes]
        for i in range(lanes):
            top[i] = x[i] if x[i] > top[i] else top[i]
    for m in range(0, logits.size, lanes):
        x = logits[m : m + lanes]
        for i in range(lanes):
            total[i] += exp(x[i] - top[i])
    for i in range(lanes):
        total[i] = log(total[i]) + top[i]


@njit(**INNER)
def _mixture(
    params: Array, x: Array, out: Array, turneds: Array, parts: Array, spreads: Array, weigheds: Array, sums: Array,
    levels: int, mixtures: int, lanes: int, worker: int, workers: int,
) -> None:  # fmt: skip
    n = len(params)
    rows = share_of(n, worker, workers)
    start, stop = rows.start, rows.stop
    T = params.dtype.type
    channels, long = x.shape[1], mixtures * lanes
    half, log_width = T(1 / (levels - 1)), T(np.log(2 / (levels - 1)))
    turned, part, level, weighed = turneds[worker], parts[worker], spreads[worker], weigheds[worker]
    top, prior, total = sums[worker, 0], sums[worker, 1], sums[worker, 2]
    for first in range(start, stop, lanes):
        _lie(params, first, stop, turned)
        _spread(x, levels, first, stop, level, lanes)
        logits = part[0]
        for i in range(long):
            weighed[i] = logits[i]
        _weigh(logits, top, prior)
        for c in range(channels):
            mean, log_scale, here = part[1 + c], part[1 + channels + c], level[c]
            for j in range(c):
                coefficient, there = part[2 * channels + c + j], level[j]
                for i in range(long):
                    mean[i] += tanh(coefficient[i]) * there[i]
            for i in range(long):
                mass, _, _ = _bin(T, here[i], mean[i], log_scale[i], half, log_width)
                weighed[i] += mass
        _weigh(weighed, top, total)
        for i in range(min(lanes, stop - first)):
            out[first + i] = total[i] - prior[i]


def _memory(x: Array, params: Array, mixtures: int, lanes: int) -> tuple[Array, ...]:
    """For a block: parameters on their side, twice the same memory; levels; weighed logits; three numbers a pixel."""
    long = mixtures * lanes
    turned = np.empty((PARTS, params.shape[1], lanes), params.dtype)
    others = (np.empty((PARTS, *shape), params.dtype) for shape in ((x.shape[1], long), (long,), (3, lanes)))
    return turned, turned.reshape(PARTS, -1, long), *others


def logistic_mixture(x: Array, params: Array, levels: int, mixtures: int) -> Array:
    x, params = np.ascontiguousarray(x, np.int32), np.ascontiguousarray(params)
    out = np.empty(len(params), params.dtype)
    run(_mixture, (params, x, out, *_memory(x, params, mixtures, LANES), levels, mixtures, LANES), PARTS)
    return out


@njit(**INNER)
def _mixture_slopes(
    params: Array, x: Array, value: Array, out: Array, turneds: Array, parts: Array, spreads: Array, weigheds: Array,
    sums: Array, levels: int, mixtures: int, lanes: int, worker: int, workers: int,
) -> None:  # fmt: skip
    """As _mixture; each part of the block becomes its own derivative, in place."""
    n = len(params)
    rows = share_of(n, worker, workers)
    start, stop = rows.start, rows.stop
    T = params.dtype.type
    channels, long = x.shape[1], mixtures * lanes
    half, log_width = T(1 / (levels - 1)), T(np.log(2 / (levels - 1)))
    turned, part, level, weighed = turneds[worker], parts[worker], spreads[worker], weigheds[worker]
    top, prior, total = sums[worker, 0], sums[worker, 1], sums[worker, 2]
    for first in range(start, stop, lanes):
        _lie(params, first, stop, turned)
        _spread(x, levels, first, stop, level, lanes)
        logits = part[0]
        for i in range(long):
            weighed[i] = logits[i]
        _weigh(logits, top, prior)
        for c in range(channels):
            mean, log_scale, here = part[1 + c], part[1 + channels + c], level[c]
            for j in range(c):
                coefficient, there = part[2 * channels + c + j], level[j]
                for i in range(long):
                    t = tanh(coefficient[i])
                    mean[i] += t * there[i]
                    coefficient[i] = (T(1) - t * t) * there[i]
            for i in range(long):
                mass, mean[i], log_scale[i] = _bin(T, here[i], mean[i], log_scale[i], half, log_width)
                weighed[i] += mass
        _weigh(weighed, top, total)
        for m in range(0, long, lanes):
            a, b = weighed[m : m + lanes], logits[m : m + lanes]
            for i in range(lanes):
                a[i] = exp(a[i] - total[i])
                b[i] = a[i] - exp(b[i] - prior[i])
        for row in range(1, 1 + 2 * channels):
            slope = part[row]
            for i in range(long):
                slope[i] *= weighed[i]
        for c in range(1, channels):
            mean = part[1 + c]
            for j in range(c):
                coefficient = part[2 * channels + c + j]
                for i in range(long):
                    coefficient[i] *= mean[i]
        for i in range(min(lanes, stop - first)):
            value[first + i] = total[i] - prior[i]
            for k in range(params.shape[1]):
                out[first + i, k] = turned[k, i]


def logistic_mixture_slopes(x: Array, params: Array, levels: int, mixtures: int) -> tuple[Array, Array]:
    x, params = np.ascontiguousarray(x, np.int32), np.ascontiguousarray(params)
    value, out = np.empty(len(params), params.dtype), np.empty_like(params)
    run(_mixture_slopes, (params, x, value, out, *_memory(x, params, mixtures, LANES), levels, mixtures, LANES), PARTS)
    return value, out
