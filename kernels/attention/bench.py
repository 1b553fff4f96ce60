"""Attention as PixelSNAIL (16 wide keys, 128 wide values) and transformers use it, forward and all three gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from micrognm.kernels.attention import reference

import micrognm as mg
from micrognm.bench import Case
from micrognm.ops.attention import attention


class Shape(NamedTuple):
    mask: str
    images: int
    length: int
    heads: int
    d: int
    e: int


SHAPES = (
    Shape("causal", 16, 256, 1, 16, 128),
    Shape("causal", 8, 1024, 1, 16, 128),
    Shape("causal", 4, 256, 8, 64, 64),
    Shape("causal", 2, 1024, 4, 64, 64),
    Shape("causal", 8, 256, 4, 32, 32),
    Shape("causal", 8, 1024, 4, 32, 32),
    Shape("causal", 4, 1024, 4, 16, 16),
    Shape("strictly causal", 16, 256, 1, 16, 128),
    Shape("strictly causal", 8, 1024, 1, 16, 128),
    Shape("strictly causal", 4, 256, 8, 64, 64),
    Shape("strictly causal", 8, 1024, 4, 32, 32),
    Shape("none", 8, 256, 4, 32, 32),
)


def cases(torch: Any) -> Iterator[Case]:
    for shape in SHAPES:
        yield _case(shape, torch)


def _case(shape: Shape, torch: Any) -> Case:
    mask, images, length, heads, d, e = shape
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((images, length, heads, w), np.float32) for w in (d, d, e, e)]
    leaves, g = [mg.Tensor(x, requires_grad=True) for x in arrays[:3]], mg.Tensor(arrays[3])

    def ours() -> list[Any]:
        out = attention(*leaves, mask=mask)
        return [out, *mg.grad(out, leaves, g)]

    def error() -> float:
        """On the first image: the reference holds the whole matrix."""
        q, k, v, cotangent = (x[:1].astype(np.float64) for x in arrays)
        rest = (None, d**-0.5, {"none": length, "causal": 1, "strictly causal": 0}[mask])
        out, lse = reference.forward(q, k, v, *rest)
        exact = [out, *reference.backward(cotangent, q, k, v, out, lse, *rest)]
        return max(abs(x.numpy()[:1] - y).max() / abs(y).max() for x, y in zip(ours(), exact, strict=True))

    reach = {"none": length, "causal": 1, "strictly causal": 0}[mask]
    pairs = images * heads * sum(min(length, i + reach) for i in range(length))
    return Case(
        f"{mask} N{images} L{length} heads {heads} D{d} E{e}",
        ours,
        None if torch is None else _theirs(torch, mask, arrays),
        error,
        2.0 * pairs * (4 * d + 3 * e),  # q k^T twice, p v, and two products for each of ds and dp
        4.0 * images * length * heads * (6 * d + 6 * e),
    )


def _theirs(torch: Any, mask: str, arrays: list[np.ndarray]) -> Any:
    """scaled_dot_product_attention; the strict mask is the causal one without the first row and the last column."""
    attend = torch.nn.functional.scaled_dot_product_attention
    leaves, g = [torch.tensor(x, requires_grad=True) for x in arrays[:3]], torch.tensor(arrays[3])

    def theirs() -> Any:
        q, k, v = (x.transpose(1, 2) for x in leaves)
        if mask == "strictly causal":
            q, k, v = q[:, :, 1:], k[:, :, :-1], v[:, :, :-1]
        out = attend(q, k, v, is_causal=mask != "none").transpose(1, 2)
        if mask == "strictly causal":
            out = torch.nn.functional.pad(out, (0, 0, 0, 0, 1, 0))
        return torch.autograd.grad(out, leaves, g)

    return theirs
