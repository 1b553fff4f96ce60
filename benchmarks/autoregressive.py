"""Models that write an image pixel by pixel, against the same models in PyTorch: a training step, and 64 samples.

    python benchmarks/autoregressive.py
    python benchmarks/autoregressive.py --quick        small models and few repeats: whether it runs
    python benchmarks/autoregressive.py --json FILE    the rows as JSON too

A step is loss, gradients and Adam, by turns; times are medians. The twins are written as is usual in PyTorch: masks
multiply the weights of Conv2d, a scan is a loop over skewed columns, attention is scaled_dot_product_attention. They
are given our weights, and the losses of the first three steps must agree. The peer is the twin in PyTorch's faster
memory layout.

Samples are 64 images. `model.sample` computes each layer once at each pixel; the usual way makes a whole forward pass
a pixel. Of the usual way some pixels are timed, ours and the twin's, and their time is scaled to the whole image.
"""

from __future__ import annotations

import functools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro

from micrognm import Tensor, bench, no_grad, storage
from micrognm.models.autoregressive.gated_pixelcnn import GatedPixelCNN
from micrognm.models.autoregressive.pixel_rnn import PixelRNN, RowLSTM
from micrognm.models.autoregressive.pixelcnn import PixelCNN
from micrognm.models.autoregressive.pixelsnail import PixelSNAIL
from micrognm.models.autoregressive.raster import Raster
from micrognm.nn import Conv
from micrognm.optim import Adam
from micrognm.taps import Taps

SHAPE = (28, 28, 1)
BATCH = 16
SAMPLES = 64


@dataclass
class Settings:
    quick: bool = False
    """small models and few repeats: shows that it runs, not how fast"""
    json: Path | None = None
    """a file for the rows as JSON"""


class Case(NamedTuple):
    """A model and what it should reach: at most `step` of the twin's time, samples at least `samples` times faster."""

    name: str
    make: Callable[..., Raster]
    sizes: dict[str, Any]
    small: dict[str, Any]  # what --quick makes of the sizes
    step: float | None = None
    samples: float | None = None


CASES = (
    Case("Gated PixelCNN", GatedPixelCNN, {"layers": 15, "p": 32, "head": 64}, {"layers": 2, "p": 8}, 0.7, 100),
    Case(
        "PixelSNAIL",
        PixelSNAIL,
        {"blocks": 2, "resnets": 4, "F": 32, "keys": 16, "mixtures": 0},
        {"blocks": 1, "resnets": 1, "F": 8},
        0.9,
        50,
    ),
    Case("Diagonal BiLSTM", PixelRNN, {"kind": "diagonal", "layers": 7, "h": 16}, {"layers": 1, "h": 4}, 0.3, 50),
    Case("Row LSTM", PixelRNN, {"kind": "row", "layers": 7, "h": 16}, {"layers": 1, "h": 4}),
    Case("PixelCNN", PixelCNN, {"blocks": 15, "h": 32}, {"blocks": 1, "h": 4}),
)


# ---- the twins -------------------------------------------------------------------------------------------------------


def kernel(weight: np.ndarray, taps: Taps) -> tuple[np.ndarray, np.ndarray]:
    """Our weight [taps, in, out] as Conv2d's [out, in, rows, columns] around the centre, and its mask."""
    half = np.abs(np.array(taps.offsets)).max(axis=0)
    full = np.zeros((weight.shape[2], weight.shape[1], *(2 * half + 1)), np.float32)
    mask = np.zeros_like(full)
    for w, offset in zip(weight, taps.offsets, strict=True):
        full[:, :, half[0] + offset[0], half[1] + offset[1]] = w.T
        mask[:, :, half[0] + offset[0], half[1] + offset[1]] = 1
    return full, mask


def twins(torch: Any) -> dict[Callable[..., Raster], Callable[[Any], Any]]:
    """What makes the twin of each model, with the model's weights: images [N, 1, H, W] -> logits [N, 1, H, W]."""
    nn, F = torch.nn, torch.nn.functional
    Module: Any = nn.Module
    Conv2d: Any = nn.Conv2d
    tensor = torch.from_numpy

    def parameter(x: Tensor) -> Any:
        return nn.Parameter(tensor(x.numpy().copy()))

    class Masked(Conv2d):
        """A convolution whose weight is multiplied by a mask."""

        def __init__(self, conv: Conv) -> None:
            weight, mask = kernel(conv.weight.numpy(), conv.taps)
            out, into, *sides = weight.shape
            super().__init__(into, out, sides, padding=[side // 2 for side in sides])
            self.weight.data = tensor(weight)
            if conv.bias is not None:
                self.bias.data = tensor(conv.bias.numpy().copy())
            self.register_buffer("mask", tensor(mask))

        def forward(self, x: Any) -> Any:
            return self._conv_forward(x, self.weight * self.mask, self.bias)

    def gate(x: Any) -> Any:
        a, b = x.chunk(2, dim=1)
        return torch.tanh(a) * torch.sigmoid(b)

    class Gated(Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            for name in ("v", "link", "h", "out"):
                setattr(self, name, nn.ModuleList(Masked(getattr(layer, name)) for layer in model.layers))
            self.head = nn.ModuleList(map(Masked, model.head))

        def forward(self, x: Any) -> Any:
            v = h = x
            for i in range(len(self.v)):
                z = self.v[i](v)
                y = self.out[i](gate(self.h[i](h) + self.link[i](z)))
                h = y if i == 0 else h + y
                if i < len(self.v) - 1:
                    v = gate(z)
            return self.head[1](F.relu(self.head[0](F.relu(h))))

    class Plain(Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.first = Masked(model.first)
            self.blocks = nn.ModuleList(nn.ModuleList(map(Masked, block.steps)) for block in model.blocks)
            self.head = nn.ModuleList(map(Masked, model.head))

        def forward(self, x: Any) -> Any:
            h = self.first(x)
            for block in self.blocks:
                y = h
                for step in block:
                    y = step(F.relu(y))
                h = h + y
            return self.head[1](F.relu(self.head[0](F.relu(h))))

    def cell(gates: Any, c: Any) -> tuple[Any, Any]:
        o, f, i, g = gates.chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    class Row(Module):
        """Of a whole row at once, from the top down."""

        def __init__(self, layer: Any) -> None:
            super().__init__()
            self.K_is = Masked(layer.K_is)
            self.K_ss = nn.Parameter(tensor(layer.K_ss.numpy().transpose(2, 1, 0).copy()))
            self.h0, self.c0 = parameter(layer.h0), parameter(layer.c0)

        def forward(self, x: Any) -> Any:
            gates = self.K_is(x)
            n, _, H, W = gates.shape
            h, c = (y[None, :, None].expand(n, -1, W) for y in (self.h0, self.c0))
            rows = []
            for y in range(H):
                h, c = cell(gates[:, :, y] + F.conv1d(h, self.K_ss, padding=self.K_ss.shape[2] // 2), c)
                rows.append(h)
            return torch.stack(rows, dim=2)

    def skew(x: Any) -> Any:
        """Each row one column further to the right than the one above: a diagonal becomes a column."""
        n, channels, H, W = x.shape
        return F.pad(x, (0, H)).reshape(n, channels, -1)[:, :, : H * (W + H - 1)].reshape(n, channels, H, W + H - 1)

    def unskew(x: Any) -> Any:
        n, channels, H, wide = x.shape
        W = wide - H + 1
        return F.pad(x.reshape(n, channels, -1), (0, H)).reshape(n, channels, H, W + H)[..., :W]

    class Diagonal(Module):
        """Both ways, each of a whole diagonal at once."""

        def __init__(self, layer: Any) -> None:
            super().__init__()
            self.K_is = Masked(layer.K_is)
            self.K_ss = nn.Parameter(tensor(layer.K_ss.numpy().transpose(0, 3, 2, 1).copy()))
            self.h0, self.c0 = parameter(layer.h0), parameter(layer.c0)

        def scan(self, gates: Any, way: int) -> Any:
            n, _, H, W = gates.shape
            gates = skew(gates)
            place = torch.arange(H)
            h, c = (torch.zeros(n, self.h0.shape[1], H) for _ in range(2))
            columns = []
            for t in range(W + H - 1):
                if t < H:  # row t begins at column t of the skewed map
                    h = torch.where(place == t, self.h0[way][:, None], h)
                    c = torch.where(place == t, self.c0[way][:, None], c)
                h, c = cell(gates[..., t] + F.conv1d(F.pad(h, (1, 0)), self.K_ss[way]), c)
                columns.append(h)
            return unskew(torch.stack(columns, dim=3))

        def forward(self, x: Any) -> Any:
            right, left = self.K_is(x).chunk(2, dim=1)
            back = self.scan(left.flip(3), 1).flip(3)
            return self.scan(right, 0) + F.pad(back, (0, 0, 1, 0))[:, :, :-1]

    class Recurrent(Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            kind = Row if isinstance(model.scans[0], RowLSTM) else Diagonal
            self.first = Masked(model.first)
            self.scans = nn.ModuleList(map(kind, model.scans))
            self.up = nn.ModuleList(map(Masked, model.up))
            self.head = nn.ModuleList(map(Masked, model.head))

        def forward(self, x: Any) -> Any:
            h = self.first(x)
            for scan, up in zip(self.scans, self.up, strict=True):
                h = h + up(scan(h))
            return self.head[1](F.relu(self.head[0](F.relu(h))))

    class Normed(Conv2d):
        """Weight normalised; what it reads is shifted by padding and cropping, so that no mask is needed."""

        def __init__(self, wrapped: Any) -> None:
            conv = wrapped.layer
            low, high = (np.array(conv.taps.offsets).min(axis=0), np.array(conv.taps.offsets).max(axis=0))
            rows, columns = (high - low + 1).tolist()
            super().__init__(*conv.weight.shape[1:], (rows, columns))
            self.weight.data = tensor(
                conv.weight.numpy().reshape(rows, columns, *conv.weight.shape[1:]).transpose(3, 2, 0, 1).copy()
            )
            self.bias.data, self.gain = tensor(conv.bias.numpy().copy()), parameter(wrapped.gain.reshape(shape=(-1,)))
            self.around = [int(-low[1]), int(max(high[1], 0)), int(-low[0]), 0]

        def forward(self, x: Any) -> Any:
            H, W = x.shape[2:]
            length = self.weight.flatten(1).norm(dim=1)
            weight = self.weight * (self.gain / length)[:, None, None, None]
            if max(self.around) > 0:
                x = F.pad(x, self.around)[:, :, : H + weight.shape[2] - 1, : W + weight.shape[3] - 1]
            return F.conv2d(x, weight, self.bias)

    class Resnet(Module):
        def __init__(self, block: Any) -> None:
            super().__init__()
            self.first, self.second = Normed(block.first), Normed(block.second)
            self.also = Normed(block.also) if block.also else None

        def forward(self, x: Any, also: Any = None) -> Any:
            h = self.first(F.elu(x))
            if self.also is not None:
                h = h + self.also(F.elu(also))
            a, b = self.second(F.elu(h)).chunk(2, dim=1)
            return x + a * torch.sigmoid(b)

    class Attention(Module):
        def __init__(self, attention: Any, length: int) -> None:
            super().__init__()
            before = torch.ones(length, length, dtype=torch.bool).tril(-1)
            before[0, 0] = True  # a softmax over nothing is NaN; what the first pixel reads is made zero below
            self.register_buffer("before", before)
            self.keys, self.merge = attention.keys, Resnet(attention.merge)
            for name in ("to_kv", "to_q"):
                resnet, nin = getattr(attention, name)
                setattr(self, name, nn.Sequential(Resnet(resnet), Normed(nin)))

        def forward(self, x: Any, u: Any, b: Any) -> Any:
            n, _, H, W = u.shape
            q = self.to_q(torch.cat([u, b], dim=1)).flatten(2).transpose(1, 2)
            kv = self.to_kv(torch.cat([x, u, b], dim=1)).flatten(2).transpose(1, 2)
            k, v = kv[..., : self.keys], kv[..., self.keys :]
            read = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], attn_mask=self.before)[:, 0]
            read = torch.cat([torch.zeros_like(read[:, :1]), read[:, 1:]], dim=1)
            return self.merge(u, read.transpose(1, 2).reshape(n, -1, H, W))

    class Snail(Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.above, self.left, self.out = Normed(model.above), Normed(model.left), Normed(model.out)
            self.resnets = nn.ModuleList(nn.ModuleList(map(Resnet, block)) for block in model.resnets)
            self.attention = nn.ModuleList(
                Attention(attention, model.shape[0] * model.shape[1]) for attention in model.attention
            )
            self.register_buffer("position", tensor(model.position.numpy().transpose(0, 3, 1, 2).copy()))

        def forward(self, x: Any) -> Any:
            x = torch.cat([x, torch.ones_like(x)], dim=1)
            b = self.position.expand(len(x), -1, -1, -1)
            u = self.above(x) + self.left(x)
            for resnets, attend in zip(self.resnets, self.attention, strict=True):
                for resnet in resnets:
                    u = resnet(u)
                u = attend(x, u, b)
            return self.out(F.elu(u))

    return {GatedPixelCNN: Gated, PixelCNN: Plain, PixelRNN: Recurrent, PixelSNAIL: Snail}


# ---- what is timed ---------------------------------------------------------------------------------------------------


def make(case: Case, quick: bool) -> Raster:
    sizes = case.sizes | (case.small if quick else {})
    return case.make(SHAPE, np.random.default_rng(0), levels=2, **sizes)


def described(case: Case, quick: bool) -> str:
    return ", ".join(f"{key}={value}" for key, value in (case.sizes | (case.small if quick else {})).items())


def step(torch: Any, case: Case, quick: bool) -> dict[str, Any]:
    """A training step of both, by turns. SystemExit where the two do not compute the same."""
    model = make(case, quick)
    images = (np.random.default_rng(1).random((BATCH, *SHAPE)) < 0.2).astype(np.float32)
    x, tx = Tensor(images), torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    model.log_prob(x)  # weight normalisation sets itself by the first batch
    peers = [twins(torch)[case.make](model).to(memory_format=layout) for layout in layouts(torch)]
    optimiser = Adam(model.parameters(), 1e-3)

    def ours() -> float:
        optimiser.zero_grad()
        loss = -model.log_prob(x).mean()
        loss.backward()
        optimiser.step()
        return loss.item()

    def stepper(peer: Any) -> Callable[[], float]:
        adam = torch.optim.Adam(peer.parameters(), 1e-3)
        lost = torch.nn.functional.binary_cross_entropy_with_logits

        def theirs() -> float:
            adam.zero_grad()
            loss = lost(peer(2 * tx - 1), tx, reduction="none").flatten(1).sum(1).mean()
            loss.backward()
            adam.step()
            return loss.item()

        return theirs

    steppers = [stepper(peer) for peer in peers]
    losses = [[run() for _ in range(3)] for run in (ours, *steppers)]
    if not np.allclose(losses[0], losses[1:], rtol=1e-3):
        raise SystemExit(f"{case.name}: the two do not compute the same: losses {losses}")
    theirs = min(steppers, key=lambda run: statistics.median(seconds(run) for _ in range(3)))
    a, p = bench.compare(ours, theirs, 2 if quick else 10, 2 if quick else 5)
    return {
        "model": case.name,
        "sizes": described(case, quick),
        "what": f"training step, batch {BATCH}",
        "micrognm_ms": a * 1e3,
        "peer_ms": p * 1e3,
        "ratio": a / p,
        "target": None if quick else case.step,
    }


def layouts(torch: Any) -> tuple[Any, ...]:
    """PyTorch's memory layouts of images. The faster one is the peer."""
    return torch.contiguous_format, torch.channels_last


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def samples(torch: Any, case: Case, quick: bool) -> Iterator[dict[str, Any]]:
    """64 samples: all of ours, and some pixels of the usual way, ours and the twin's. SystemExit where draws differ."""
    rng = np.random.default_rng(0)
    model = make(case, quick)
    for p in model.parameters():  # away from 0, so that images vary
        p.data += 0.02 * rng.standard_normal(p.shape, np.float32)
    with no_grad():
        model.log_prob(Tensor((rng.random((BATCH, *SHAPE)) < 0.2).astype(np.float32)))
    model.eval()
    peer = twins(torch)[case.make](model)
    H, W, _ = SHAPE
    u = rng.random((SAMPLES, *SHAPE), np.float32)
    pixels = 2 if quick else 20

    drawn, image = (np.zeros((SAMPLES, *SHAPE), np.float32) for _ in range(2))
    theirs = torch.zeros(SAMPLES, 1, H, W)

    def fast(first: int, last: int) -> None:
        drawn[...] = model.sample_from(Tensor(u)).numpy()

    def slow(first: int, last: int) -> None:
        with no_grad():
            for i in range(first, last):
                y, x = divmod(i, W)
                out = model(Tensor(image))[:, y, x]
                image[:, y, x] = model.distribution(out).sample_from(Tensor(u[:, y, x])).numpy()

    def twin(first: int, last: int) -> None:
        with torch.no_grad():
            for i in range(first, last):
                y, x = divmod(i, W)
                draw = torch.from_numpy(u[:, y, x]) < torch.sigmoid(peer(2 * theirs - 1)[:, :, y, x])
                theirs[:, :, y, x] = draw.float()

    times: list[list[float]] = [[], [], []]
    turn = max(1, pixels // 4)
    for first in range(0, pixels, turn):
        part = first, first + turn
        for run, kept in zip((fast, slow, twin), times, strict=True):
            time.sleep(0.25)  # OpenMP's threads spin up to 0.2 s after their last work
            kept.append(seconds(functools.partial(run, *part)))
    for name, other in (("our", image), ("the twin's", theirs.numpy().transpose(0, 2, 3, 1))):
        same = (drawn == other).reshape(SAMPLES, -1)[:, :pixels].mean()
        if same < 0.998:  # a uniform number may fall between two probabilities that differ in their last bits
            raise SystemExit(f"{case.name}: model.sample draws other pixels than {name} whole passes: {same:.2%} equal")
    mine = statistics.median(times[0])
    for part_times, what in ((times[1], "micrognm"), (times[2], f"PyTorch {torch.__version__}")):
        whole = statistics.median(part_times) / turn * H * W
        yield {
            "model": case.name,
            "sizes": described(case, quick),
            "what": f"{SAMPLES} samples against whole passes in {what}, {pixels} pixels timed and scaled to {H * W}",
            "micrognm_ms": mine * 1e3,
            "peer_ms": whole * 1e3,
            "ratio": whole / mine,
            "target": None if quick else case.samples,
        }


def main(settings: Settings) -> None:
    torch = bench.torch() or sys.exit(bench.NO_PEER)
    rows = []
    versions = f"numpy {np.__version__}, torch {torch.__version__}"
    print(f"images of {SHAPE[0]} x {SHAPE[1]}, {os.cpu_count()} cores, {versions}")
    for case in CASES:
        row = step(torch, case, settings.quick)
        rows.append(row)
        print(f"{shown(row)}, ratio {row['ratio']:.2f}{wanted(row, '<=')}", flush=True)
    for case in CASES:
        if case.samples is not None:
            for row in samples(torch, case, settings.quick):
                rows.append(row)
                print(f"{shown(row)}, {row['ratio']:.0f} times faster{wanted(row, '>=')}", flush=True)
    if settings.json is not None:
        storage.write(settings.json, (json.dumps(rows, indent=1) + "\n").encode())


def shown(row: dict[str, Any]) -> str:
    return (
        f"{row['model']} ({row['sizes']}), {row['what']}: "
        f"micrognm {row['micrognm_ms']:.0f} ms, peer {row['peer_ms']:.0f} ms"
    )


def wanted(row: dict[str, Any], relation: str) -> str:
    return "" if row["target"] is None else f" (wanted {relation} {row['target']})"


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
