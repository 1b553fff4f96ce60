"""Is a gradient right? Compare it with finite differences along random directions, and its own gradient too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from micrognm.engine import Tensor, grad, tensor


def check(
    f: Callable[..., Tensor],
    *xs: Any,
    order: int = 2,
    rng: np.random.Generator | None = None,
    eps: float = 1e-4,
    tol: float = 1e-6,
    single: bool = True,
) -> None:
    """Raise AssertionError unless the gradients of f at xs, up to this order, are those of f.

    f takes tensors and returns one tensor; xs are float arrays (or shapes, drawn standard normal), and are made
    float64. For a random cotangent g and a random direction v, <g, f(x + h v)> is differenced in h and compared with
    <grad, v>; order 2 does the same to the gradient, as a function of g and xs. A cotangent of ones would be blind: the
    gradient of softmax is then 0, and so is that of a rule that returns nothing. The difference is central with
    Richardson's extrapolation over two steps, so its error is O(eps^4). Where the two steps disagree, or the slopes to
    the left and to the right, the difference is not to be trusted, as at a kink: x is moved, first by a little, and the
    check repeated, up to nine times. A last run in float32 checks that f and its gradients stay float32; single=False
    leaves it out, for an f that closes over float64 tensors. tol is relative to the size of the quantities compared.
    """
    rng = np.random.default_rng(0) if rng is None else rng
    arrays = [rng.standard_normal(x) if isinstance(x, tuple) else np.array(x, np.float64) for x in map(_host, xs)]
    if order < 1:
        raise ValueError(f"check: order must be at least 1, got {order}")
    _check(f, arrays, order, rng, eps, tol, "f")
    if not single:
        return
    leaves = [Tensor(x.astype(np.float32), requires_grad=True) for x in arrays]
    y = f(*leaves)
    assert y.dtype == np.float32, f"float32 inputs give {y.dtype}"
    if y.node is not None:
        cotangent = Tensor(rng.standard_normal(y.shape).astype(np.float32))
        for i, g in enumerate(grad(y, leaves, cotangent, allow_unused=True)):
            assert g.dtype == np.float32, f"the gradient of float32 argument {i} is {g.dtype}"


def _host(x: Any) -> Any:
    return x if isinstance(x, tuple) else x.numpy() if isinstance(x, Tensor) else x


def _direction(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers of either sign, none near 0: every element counts."""
    return rng.choice([-1.0, 1.0], shape) * rng.uniform(0.5, 1.5, shape)


def _check(
    f: Callable, xs: list[np.ndarray], order: int, rng: np.random.Generator, eps: float, tol: float, name: str
) -> None:
    leaves = [Tensor(x, requires_grad=True) for x in xs]
    y = f(*leaves)
    g = _direction(rng, y.shape)
    for attempt in range(10):
        vs = [_direction(rng, x.shape) for x in xs]
        if y.node is None:
            terms = [np.zeros(1)]
        else:
            grads = grad(y, leaves, Tensor(g), allow_unused=True)
            terms = [(gx.numpy() * v).ravel() for gx, v in zip(grads, vs, strict=True)]
        got = float(np.concatenate(terms).sum())

        def along(h: float, xs: list = xs, vs: list = vs) -> np.ndarray:
            y = f(*(Tensor(x + h * v, requires_grad=True) for x, v in zip(xs, vs, strict=True)))
            return y.numpy() * g

        right, left, near_right, near_left = map(along, (eps, -eps, eps / 2, -eps / 2))
        wide = (right - left) / (2 * eps)
        narrow = (near_right - near_left) / eps
        want = float((4 * narrow - wide).sum()) / 3
        size = 1 + float(np.sqrt(sum(float(t @ t) for t in terms))) + abs(want)
        if abs(got - want) <= tol * size:
            break
        middle = along(0.0)
        bend = np.abs(right - 2 * middle + left).sum() / eps  # of slopes: halves with the step, unless at a kink
        near_bend = np.abs(near_right - 2 * middle + near_left).sum() / (eps / 2)
        doubt = max(np.abs(wide - narrow).sum(), near_bend if near_bend > 0.75 * bend else 0.0)
        if not doubt > 0.1 * abs(got - want) or attempt == 9:
            raise AssertionError(
                f"the gradient of {name} along a random direction is {got:.10g}, finite differences give {want:.10g} "
                f"(shapes {[list(x.shape) for x in xs]}, tolerance {tol * size:.1g})"
            )
        xs = [x + eps * 10 ** min(attempt + 1, 3) * rng.standard_normal(x.shape) for x in xs]  # step away from the kink
        leaves = [Tensor(x, requires_grad=True) for x in xs]
        y = f(*leaves)
    if order == 1:
        return
    for i in range(len(xs)):

        def gradient(g: Tensor, *xs: Tensor, i: int = i) -> Tensor:
            y = f(*xs)
            if y.node is None:
                return tensor(np.zeros_like(xs[i].data))
            return grad(y, xs[i], g, create_graph=True, allow_unused=True)

        _check(gradient, [g, *xs], order - 1, rng, eps, tol, f"the gradient of {name} with respect to argument {i}")


__all__ = ["check"]
