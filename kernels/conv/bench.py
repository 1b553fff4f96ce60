"""Convolutions as the papers' models use them, forward and both gradients, against PyTorch's faster memory layout."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from micrognm.kernels.conv import reference

import micrognm as mg
from micrognm.bench import Case
from micrognm.ops import elu
from micrognm.ops.conv import conv, conv_transpose
from micrognm.taps import Taps, box, causal, past


class Layer(NamedTuple):
    name: str
    images: int
    size: tuple[int, ...]  # of the input
    channels: int
    outputs: int
    taps: Taps
    kernel: int  # PyTorch's: sides, padding
    padding: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    transposed: bool = False
    elu: bool = False  # ends in a bias and elu


def _dense(n: int, side: int, channels: int, outputs: int, k: int, stride: int = 1, name: str = "dense") -> Layer:
    label = f"{name} {k}x{k}{f'/{stride}' if stride > 1 else ''}"
    return Layer(label, n, (side, side), channels, outputs, box(k, k), k, (k - 1) // 2, stride)


def _masked(mask: str, n: int, side: int, channels: int, outputs: int, k: int) -> Layer:
    return Layer(f"mask {mask} {k}x{k}", n, (side, side), channels, outputs, causal(k, mask), k, k // 2)


def _transposed(n: int, side: int, channels: int, outputs: int) -> Layer:
    layer = _dense(n, side, channels, outputs, 4, 2, "transposed")
    return layer._replace(transposed=True)


def _depthwise(n: int, side: int, channels: int, k: int) -> Layer:
    return _dense(n, side, channels, channels, k, name="depthwise")._replace(groups=channels)


def _causal(n: int, length: int, channels: int, k: int, dilation: int) -> Layer:
    name = f"dilated causal 1-D, {k} taps {dilation} apart"
    taps = past(k).dilate(dilation)
    return Layer(name, n, (length,), channels, channels, taps, k, (k - 1) * dilation, dilation=dilation)


LAYERS = (
    _dense(32, 28, 64, 64, 3),
    _dense(32, 16, 128, 128, 3),
    _dense(64, 8, 128, 128, 3),
    _dense(32, 8, 256, 256, 3),
    _dense(32, 32, 32, 32, 3),
    _dense(32, 16, 64, 128, 5),
    _dense(16, 28, 64, 64, 7),
    _dense(64, 32, 32, 64, 4, 2),
    _dense(64, 16, 64, 128, 4, 2),
    _transposed(64, 8, 128, 64),
    _transposed(64, 16, 64, 32),
    _dense(32, 16, 128, 128, 3, name="bias, elu")._replace(elu=True),
    _dense(64, 16, 64, 128, 4, 2, name="bias, elu")._replace(elu=True),
    _masked("B", 32, 28, 64, 64, 3),
    _masked("A", 32, 16, 128, 128, 3),
    _masked("B", 32, 16, 128, 128, 5),
    _masked("A", 32, 16, 64, 64, 5),
    _masked("B", 32, 28, 32, 32, 7),
    _masked("A", 32, 28, 32, 32, 7),
    _dense(32, 28, 1, 64, 7, name="1 channel"),
    _dense(64, 28, 1, 32, 3, name="1 channel"),
    _dense(64, 32, 3, 64, 4, 2, name="3 channels"),
    _dense(32, 32, 3, 64, 5, name="3 channels"),
    _masked("A", 32, 28, 1, 64, 7)._replace(name="1 channel, mask A 7x7"),
    _depthwise(32, 28, 64, 3),
    _depthwise(32, 16, 128, 5),
    _depthwise(32, 14, 96, 7),
    _causal(16, 1024, 64, 2, 4),
    _causal(16, 1024, 64, 2, 64),
    _causal(8, 1024, 128, 3, 16),
)


def cases(torch: Any) -> Iterator[Case]:
    for layer in LAYERS:
        yield _case(layer, torch)


def _case(a: Layer, torch: Any) -> Case:
    rng = np.random.default_rng(0)
    size = tuple(s * a.stride if a.transposed else -(-s // a.stride) for s in a.size)
    inside, outside = (a.outputs, a.channels) if a.transposed else (a.channels, a.outputs)
    x = rng.standard_normal((a.images, *a.size, a.channels), np.float32)
    w = rng.standard_normal((len(a.taps), inside // a.groups, outside), np.float32)
    g = rng.standard_normal((a.images, *size, a.outputs), np.float32)
    image = a.channels <= 3  # nobody asks for the gradient to an image
    op = conv_transpose if a.transposed else conv

    X, W, G = mg.Tensor(x, requires_grad=not image), mg.Tensor(w, requires_grad=True), mg.Tensor(g)
    bias = rng.standard_normal(a.outputs, np.float32) if a.elu else None
    B = None if bias is None else mg.Tensor(bias, requires_grad=True)
    wanted = [v for v in (W, None if image else X, B) if v is not None]
    activation = elu if a.elu else None

    def ours() -> list[Any]:
        y = op(X, W, B, taps=a.taps, stride=a.stride, shape=size, groups=a.groups, activation=activation)
        return [y, *mg.grad(y, wanted, G)]

    def error() -> float:
        stride = (a.stride,) * len(a.size)
        rest = a.taps.offsets, stride
        x64, w64, g64 = (v.astype(np.float64) for v in (x, w, g))
        if a.transposed:
            exact = [
                reference.input_gradient(x64, w64, None, *rest, size, a.groups),
                reference.weight_gradient(g64, x64, *rest, a.groups),
                reference.forward(g64, w64, None, *rest, a.size, a.groups),
            ]
        else:
            y = reference.forward(x64, w64, bias, *rest, size, a.groups)
            if a.elu:
                g64 = np.where(y > 0, g64, g64 * np.exp(y))
                y = np.where(y > 0, y, np.expm1(y))
            exact = [
                y,
                reference.weight_gradient(x64, g64, *rest, a.groups),
                reference.input_gradient(g64, w64, None, *rest, a.size, a.groups),
                g64.sum(axis=tuple(range(g64.ndim - 1))),
            ]
        return max(float(abs(o.numpy() - e).max() / abs(e).max()) for o, e in zip(ours(), exact, strict=False))

    pixels = a.images * math.prod(a.size if a.transposed else size)
    passes = 2 if image else 3
    return Case(
        shape=f"{a.name} {a.images}x{'x'.join(map(str, a.size))}x{a.channels}->{a.outputs}",
        ours=ours,
        theirs=None if torch is None else _theirs(torch, a, x, g, image),
        error=error,
        flops=2.0 * passes * pixels * len(a.taps) * a.channels * a.outputs / a.groups,
        bytes=4.0 * passes * (x.size + w.size + g.size),
    )


def _theirs(torch: Any, a: Layer, x: np.ndarray, g: np.ndarray, image: bool) -> Callable[[], Any]:
    """PyTorch's forward and gradients, in the layout in which they are faster here."""
    function = getattr(torch.nn.functional, f"conv{'_transpose' if a.transposed else ''}{len(a.size)}d")
    sides = (a.kernel,) * len(a.size)
    w = torch.randn(a.channels, a.outputs, *sides) if a.transposed else None
    w = torch.randn(a.outputs, a.channels // a.groups, *sides) if w is None else w
    read = [o in a.taps.offsets for o in itertools.product(*[range(-(k // 2), k - k // 2) for k in sides])]
    masked = len(a.taps) < a.kernel ** len(a.size)
    mask = torch.tensor(read, dtype=torch.float32).reshape(sides) if masked else None
    options = {"stride": a.stride, "groups": a.groups}
    if a.padding and len(a.size) == 2:
        options["padding"] = a.padding
    if a.dilation > 1:
        options["dilation"] = a.dilation
    bias = torch.randn(a.outputs).requires_grad_() if a.elu else None
    runs = []
    formats = [torch.contiguous_format] + [torch.channels_last] * (len(a.size) == 2)
    for memory_format in formats:
        X, G = (torch.from_numpy(np.moveaxis(v, -1, 1).copy()).contiguous(memory_format=memory_format) for v in (x, g))
        W = w.clone(memory_format=memory_format).requires_grad_()
        X.requires_grad_(not image)

        def run(X: Any = X, W: Any = W, G: Any = G) -> Any:
            inputs = torch.nn.functional.pad(X, (a.padding, 0)) if len(a.size) == 1 else X
            y = function(inputs, W if mask is None else W * mask, bias, **options)
            if a.elu:
                y = torch.nn.functional.elu(y)
            if y.shape != G.shape:
                raise RuntimeError(f"bench: PyTorch's {a.name} gives {list(y.shape)}, ours {list(G.shape)}")
            return torch.autograd.grad(y, [v for v in (W, None if image else X, bias) if v is not None], G)

        runs.append(run)
    return min(runs, key=_seconds)


def _seconds(run: Callable[[], Any]) -> float:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
