"""Normalisation and activation in training, forward and backward, against PyTorch in the faster of its layouts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from micrognm.kernels.normalise import reference

from micrognm import Tensor, grad
from micrognm.bench import Case
from micrognm.ops.normalise import normalise

# (kind, groups, shape, activation): generators and discriminators, residual networks, VAEs, an MLP, a style layer.
CASES = (
    ("batch", 1, (64, 32, 32, 64), "relu"),
    ("batch", 1, (64, 16, 16, 128), "leaky_relu"),
    ("batch", 1, (128, 8, 8, 256), "relu"),
    ("batch", 1, (64, 64, 64, 32), "relu"),
    ("batch", 1, (32, 28, 28, 64), "swish"),
    ("batch", 1, (64, 16, 16, 128), "swish"),
    ("batch", 1, (64, 32, 32, 64), "none"),
    ("batch", 1, (128, 1, 1, 512), "relu"),
    ("layer", 1, (64, 16, 16, 128), "none"),
    ("instance", 1, (32, 32, 32, 64), "leaky_relu"),
    ("group", 8, (32, 32, 32, 64), "swish"),
)


def cases(torch: Any) -> Iterator[Case]:
    rng = np.random.default_rng(0)
    for kind, groups, shape, activation in CASES:
        yield _case(torch, rng, kind, groups, shape, activation)


def _case(
    torch: Any, rng: np.random.Generator, kind: str, groups: int, shape: tuple[int, ...], activation: str
) -> Case:
    c = shape[-1]
    x, scale, shift = (
        Tensor(rng.standard_normal(s, np.float32) + m, requires_grad=True)
        for s, m in ((shape, 0.5), (c, 1.0), (c, 0.0))
    )
    g = Tensor(rng.standard_normal(shape, np.float32))
    options = {"kind": kind, "groups": groups, "activation": activation}

    def ours() -> Any:
        return grad(normalise(x, scale, shift, **options)[0], [x, scale, shift], g)

    def error() -> float:
        slope = {"relu": 0.0, "leaky_relu": 0.2}.get(activation, 1.0)
        wide = [a.data.astype(np.float64) for a in (x, scale[None], shift[None], g)]
        positions = (-1, 1, c) if kind == "layer" else (shape[0], -1, c)
        x64, g64 = wide[0].reshape(positions), wide[3].reshape(positions)
        sets = {"layer": 1, "group": groups}.get(kind, c)
        rest = (1e-5, slope, activation == "swish")
        y, *statistics = reference.forward(x64, *wide[1:3], sets, kind == "batch", True, *rest)
        nothing = np.zeros_like(statistics[0])
        want = reference.backward(g64, nothing, nothing, x64, *statistics, *wide[1:3], True, *rest)
        got = [normalise(x, scale, shift, **options)[0], *ours()]
        return max(
            float(np.abs(a.numpy() - b.reshape(a.shape)).max() / np.abs(b).max())
            for a, b in zip(got, [y, *want], strict=True)
        )

    reads = 2 if kind == "layer" else 3  # of x and y forward; backward g and x twice and dx, or once
    bytes_ = 4.0 * x.size * (reads + (3 if kind == "layer" else 5))
    name = f"{kind} {'x'.join(map(str, shape))} {activation}"
    return Case(name, ours, _theirs(torch, x, scale, shift, g, options), error, 20.0 * x.size, bytes_)


def _theirs(torch: Any, x: Any, scale: Any, shift: Any, g: Any, options: dict[str, Any]) -> Callable[[], Any] | None:
    if torch is None:
        return None
    F = torch.nn.functional
    act = {"none": lambda y: y, "relu": F.relu, "leaky_relu": lambda y: F.leaky_relu(y, 0.2), "swish": F.silu}
    act = act[options["activation"]]
    kind, groups = options["kind"], options["groups"]
    weight, bias = (torch.from_numpy(a.data.copy()).requires_grad_() for a in (scale, shift))

    def in_layout(leaf: Any, cotangent: Any) -> Callable[[], Any]:
        def run() -> Any:
            if kind == "batch":
                y = F.batch_norm(leaf, None, None, weight, bias, True)
            elif kind == "layer":
                y = F.layer_norm(leaf, (leaf.shape[-1],), weight, bias)
            elif kind == "instance":
                y = F.instance_norm(leaf, None, None, weight, bias)
            else:
                y = F.group_norm(leaf, groups, weight, bias)
            return torch.autograd.grad(act(y), [leaf, weight, bias], cotangent)

        return run

    last, cotangent = torch.from_numpy(x.data), torch.from_numpy(g.data)
    if kind == "layer":
        return in_layout(last.requires_grad_(), cotangent)
    first = [a.permute(0, 3, 1, 2) for a in (last, cotangent)]
    layouts = [in_layout(a.requires_grad_(), b) for a, b in (first, [a.contiguous() for a in first])]
    return min(layouts, key=_seconds)


def _seconds(run: Callable[[], Any]) -> float:
    times = []
    for _ in range(4):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times[1:])
