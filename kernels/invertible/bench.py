"""Glow's step before the coupling, and the coupling, in training: forward, log-determinant, backward; by PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from micrognm.kernels.invertible import reference

from micrognm import Tensor, grad
from micrognm.bench import Case
from micrognm.ops.invertible import coupling, invertible

# Glow on 32 x 32 images, squeezed once to four times, and on the batches that fit.
SHAPES = ((32, 16, 12), (32, 8, 24), (32, 4, 48), (16, 16, 96), (16, 8, 192), (64, 16, 12), (64, 8, 24), (64, 4, 48))


def cases(torch: Any) -> Iterator[Case]:
    rng = np.random.default_rng(0)
    for images, side, channels in SHAPES:
        yield _step(torch, rng, images, side, channels)
    for images, side, channels in SHAPES[:5]:
        for sigmoid in (False, True):
            yield _coupling(torch, rng, images, side, channels // 2, sigmoid)


def _step(torch: Any, rng: np.random.Generator, images: int, side: int, c: int) -> Case:
    shape, pixels = (images, side, side, c), side * side
    x = Tensor(rng.standard_normal(shape, np.float32), requires_grad=True)
    g = Tensor(rng.standard_normal(shape, np.float32))
    weight = Tensor(np.linalg.qr(rng.standard_normal((c, c)))[0].astype(np.float32), requires_grad=True)
    log_scale, shift = (Tensor(0.1 * rng.standard_normal(c, np.float32), requires_grad=True) for _ in range(2))
    leaves = [x, weight, log_scale, shift]

    def ours() -> Any:
        return grad(invertible(x, weight, log_scale, shift), leaves, [g, None])

    def error() -> float:
        found = ours()
        dy, wide_x, wide_weight, logs, b = (a.data.astype(np.float64) for a in (g, x, weight, log_scale, shift))
        dx, dweight, dscale, dshift = reference.backward(dy, wide_x, wide_weight, np.exp(logs), b)
        dweight += pixels * reference.determinant(wide_weight)[1]
        want = [dx, dweight, dscale * np.exp(logs) + pixels, dshift]
        return max(float(np.abs(a.numpy() - b).max() / np.abs(b).max()) for a, b in zip(found, want, strict=True))

    theirs: Callable[[], Any] | None = None
    if torch is not None:
        images_first = torch.from_numpy(x.data).permute(0, 3, 1, 2).requires_grad_()  # channels last: its faster layout
        kernel = torch.from_numpy(weight.data.T.copy()).requires_grad_()
        logs, bias = (torch.from_numpy(a.data.reshape(1, c, 1, 1).copy()).requires_grad_() for a in (log_scale, shift))
        cotangent = torch.from_numpy(g.data).permute(0, 3, 1, 2)

        def theirs() -> Any:
            y = torch.nn.functional.conv2d(images_first * torch.exp(logs) + bias, kernel[:, :, None, None])
            logdet = pixels * (torch.linalg.slogdet(kernel)[1] + logs.sum())
            return torch.autograd.grad([y, logdet], [images_first, kernel, logs, bias], [cotangent, torch.ones(())])

    rows = images * pixels
    return Case(
        f"step {images}x{side}x{side}x{c}", ours, theirs, error, 6.0 * rows * c * c + 8.0 / 3 * c**3, 20.0 * rows * c
    )


def _coupling(torch: Any, rng: np.random.Generator, images: int, side: int, c: int, sigmoid: bool) -> Case:
    shape = (images, side, side, c)
    x, h, t, g = (Tensor(rng.standard_normal(shape, np.float32), requires_grad=True) for _ in range(4))
    glogdet = Tensor(np.ones(images, np.float32))

    def ours() -> Any:
        return grad(coupling(x, h, t, sigmoid=sigmoid), [x, h, t], [g, glogdet])

    def error() -> float:
        y, logdet = coupling(x, h, t, sigmoid=sigmoid)
        want = reference.coupling(*(a.data.astype(np.float64) for a in (x, h, t)), sigmoid)
        return max(float(np.abs(a.numpy() - b).max() / np.abs(b).max()) for a, b in zip((y, logdet), want, strict=True))

    theirs: Callable[[], Any] | None = None
    if torch is not None:
        their = [torch.from_numpy(a.data).requires_grad_() for a in (x, h, t)]
        cotangent, ones = torch.from_numpy(g.data), torch.ones(images)

        def theirs() -> Any:
            x, h, t = their
            if sigmoid:
                s = torch.sigmoid(h + 2)
                y, logdet = (x + t) * s, torch.log(s).sum((1, 2, 3))
            else:
                y, logdet = x * torch.exp(h) + t, h.sum((1, 2, 3))
            return torch.autograd.grad([y, logdet], their, [cotangent, ones])

    size = images * side * side * c
    name = f"coupling {'sigmoid' if sigmoid else 'exp'} {images}x{side}x{side}x{c}"
    return Case(name, ours, theirs, error, 40.0 * size, 40.0 * size)
