"""Compile the kernels ahead of time: each operation that has one runs once, forward and backward, on small arrays.

    python -m micrognm warmup [kernel ...]

Numba keeps what it compiles, so the first training run does not wait for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from micrognm import ops, optim
from micrognm.engine import Tensor, grad
from micrognm.nn import Parameter
from micrognm.taps import causal, square


def _drawn(*shape: int) -> Tensor:
    return Tensor(np.random.default_rng(0).standard_normal(shape, np.float32), requires_grad=True)


def _run(f: Callable[..., Any], *xs: Any) -> None:
    """f(*xs), and the gradients of its first output to all of xs that have one."""
    y = f(*xs)
    y = y[0] if isinstance(y, tuple) else y
    if y.node is not None:
        grad(y, [x for x in xs if isinstance(x, Tensor) and x.node], Tensor(np.ones_like(y.data)), allow_unused=True)


def _conv() -> None:
    x = _drawn(8, 16, 16, 16)
    _run(lambda *xs: ops.conv(*xs, taps=causal(3, "B")), x, _drawn(5, 16, 16), _drawn(16))
    for f in (ops.relu, ops.elu):
        _run(lambda *xs, f=f: ops.conv(*xs, taps=square(1), activation=f), x, _drawn(1, 16, 16), _drawn(16))
    _run(lambda *xs: ops.conv_transpose(*xs, taps=square(4), stride=2), x, _drawn(16, 16, 16), _drawn(16))


def _attention() -> None:
    qkv = [_drawn(2, 128, 2, 16) for _ in range(3)]
    for mask in ("none", "causal"):
        _run(lambda *xs, mask=mask: ops.attention(*xs, mask=mask), *qkv)


def _normalise() -> None:
    for options in ({"kind": "batch"}, {"kind": "layer"}, {"kind": "instance"}, {"kind": "group", "groups": 2}):
        _run(lambda *xs, o=options: ops.normalise(*xs, **o), _drawn(16, 8, 8, 16), _drawn(16), _drawn(16))


def _invertible() -> None:
    _run(ops.invertible, _drawn(2, 4, 4, 12), _drawn(12, 12), _drawn(12), _drawn(12))
    for sigmoid in (False, True):
        _run(lambda *xs, s=sigmoid: ops.coupling(*xs, sigmoid=s), *(_drawn(2, 4, 4, 6) for _ in range(3)))


def _recurrent() -> None:
    _run(ops.row_lstm, _drawn(8, 8, 8, 64), _drawn(3, 16, 64), _drawn(16), _drawn(16))
    _run(ops.diagonal_bilstm, _drawn(8, 8, 8, 128), _drawn(2, 2, 16, 64), _drawn(2, 16), _drawn(2, 16))


def _losses() -> None:
    index = np.zeros((2, 4, 4), np.int64)
    _run(lambda x: ops.categorical_log_prob(x, index), _drawn(2, 4, 4, 17))
    for channels, numbers in ((1, 30), (3, 100)):
        x = np.zeros((2, 4, 4, channels), np.int64)
        _run(lambda p, x=x: ops.logistic_mixture_log_prob(x, p, levels=256, mixtures=10), _drawn(2, 4, 4, numbers))


def _nearest() -> None:
    ops.nearest(_drawn(64, 16), _drawn(32, 16))


def _scatter_add() -> None:
    _run(lambda x: x[np.arange(40) % 8], _drawn(8, 16))


def _rng() -> None:
    _run(lambda x: ops.dropout(x, rate=0.5, key=1), _drawn(64, 64))


def _arena() -> None:
    for kind in (optim.SGD, optim.Adam, optim.AdamW, optim.Adamax, optim.RMSProp, optim.Adagrad):
        weight = Parameter(np.ones((8, 8), np.float32))
        optimiser = kind([weight], 1e-3)
        optim.EMA(optimiser, 0.9)
        (weight * weight).sum().backward()
        optimiser.step()


def _formula() -> None:
    for f in (ops.tanh, ops.sigmoid, ops.softplus, ops.relu, ops.elu, ops.gelu, ops.swish, ops.leaky_relu):
        _run(f, _drawn(64, 64))
    _run(ops.bernoulli_log_prob, Tensor(np.ones((64, 64), np.float32)), _drawn(64, 64))


KERNELS = {
    name: globals()[f"_{name}"]
    for name in (
        "arena", "attention", "conv", "formula", "invertible", "losses", "nearest", "normalise", "recurrent", "rng",
        "scatter_add",
    )
}  # fmt: skip


def main(names: Sequence[str]) -> int:
    """Warm these kernels, or all where none is named, and print seconds. ValueError for an unknown one."""
    unknown = [name for name in names if name not in KERNELS]
    if unknown:
        raise ValueError(f"warmup: no kernel {', '.join(unknown)}; there are {', '.join(KERNELS)}")
    for name in names or KERNELS:
        start = time.perf_counter()
        KERNELS[name]()
        print(f"{name:12} {time.perf_counter() - start:6.2f} s", flush=True)
    return 0
