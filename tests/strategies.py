"""Hypothesis strategies for arrays: shapes, values with the edges of a domain, and layouts in memory."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

Shape = tuple[int, ...]
INF, NAN = float("inf"), float("nan")


_SIDES = (3, 2, 4, 1, 3, 2, 0)  # mostly of several elements, so that an order mistaken shows
_FULL_SIDES = (3, 2, 4, 1)


@st.composite
def shapes(draw: st.DrawFn, min_dims: int = 0, max_dims: int = 4, empty: bool = True) -> Shape:
    """Shapes of up to 4 axes; 0-d too, and zero-sized ones unless empty=False."""
    sides = st.sampled_from(_SIDES if empty else _FULL_SIDES)
    return tuple(draw(sides) for _ in range(draw(st.integers(min_dims, max_dims))))


@st.composite
def repeatable(draw: st.DrawFn) -> tuple[Shape, Shape]:
    """A shape, and one to which it can be repeated."""
    target = draw(shapes())
    return draw(_repeated_to(target)), target


@st.composite
def broadcastable(draw: st.DrawFn, number: int) -> tuple[Shape, ...]:
    """Shapes that broadcast together."""
    target = draw(shapes())
    return tuple(draw(_repeated_to(target)) for _ in range(number))


@st.composite
def _repeated_to(draw: st.DrawFn, target: Shape) -> Shape:
    kept = tuple(1 if draw(st.integers(0, 3)) == 3 else n for n in target)
    return kept[draw(st.integers(0, len(kept))) if draw(st.integers(0, 2)) == 2 else 0 :]


def axis_of(shape: Shape) -> st.SearchStrategy[int]:
    """An axis, counted from either end."""
    return st.integers(-len(shape), len(shape) - 1)


@st.composite
def reductions(
    draw: st.DrawFn, empty: bool = False, one_axis: bool = False, keepdims: bool = True
) -> tuple[Shape, dict]:
    """A shape and the options of a reduction. empty: the reduced axes may be of length 0."""
    shape = list(draw(shapes(min_dims=1 if one_axis else 0)))
    numbers = st.integers(-len(shape), len(shape) - 1)
    kinds: list[st.SearchStrategy[Any]] = [numbers] if shape else []
    if not one_axis:
        several = st.lists(numbers, unique_by=lambda a: a % len(shape)).map(tuple) if shape else st.just(())
        kinds += [st.none(), several]
    axis = draw(st.one_of(kinds))
    options = {"axis": axis, **({"keepdims": draw(st.booleans())} if keepdims else {})}
    for i in range(len(shape)) if axis is None else np.atleast_1d(np.array(axis, int)):
        shape[i] = shape[i] if empty else max(shape[i], 1)
    return tuple(shape), options


@dataclass(frozen=True)
class Domain:
    """Where an operation is defined: draws where it is smooth, and the odd points that a forward must get right."""

    smooth: Callable[[np.random.Generator, Shape], np.ndarray]
    edges: tuple[float, ...] = ()

    def draw(self, rng: np.random.Generator, shape: Shape, edges: float) -> np.ndarray:
        """Values of this shape, a share of them edges."""
        x = np.asarray(self.smooth(rng, shape))
        if self.edges and edges:
            x = np.where(rng.random(shape) < edges, rng.choice(self.edges, shape), x)
        return x


def _matrices(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Far from singular, not symmetric, of either sign of the determinant."""
    n = shape[-1]
    signs = rng.choice([-1.0, 1.0], (*shape[:-2], n, 1))
    return signs * (2 * np.eye(n) + rng.uniform(-0.5, 0.5, shape))


def _uniform(low: float, high: float) -> Callable[[np.random.Generator, Shape], np.ndarray]:
    return lambda rng, shape: rng.uniform(low, high, shape)


_normal = np.random.Generator.standard_normal
FINITE = Domain(
    _normal, (0.0, -0.0, 1.0, -1.0, 2.0, 0.5, 30.0, -30.0)
)  # for sums, where infinities would hide the rest
BOUNDED = Domain(_normal, (*FINITE.edges, 1e4, -1e4, 1e30, -1e30, 1e-30, -1e-30, NAN))
REAL = Domain(_normal, (*BOUNDED.edges, INF, -INF, 100.0, -100.0, 1.5, -1.5, 2.5, 1e300, 1e-300, 1e-320))
POSITIVE = Domain(_uniform(0.3, 3), (0.0, -0.0, 1.0, INF, 1e30, 1e-30, 1e-300, 1e-320, -1.0, NAN))  # log(-1) is NaN
ABOVE_MINUS_ONE = Domain(_uniform(-0.7, 3), (0.0, -0.0, -1.0, 1e-12, -1e-12, INF, 1e30, -2.0, NAN))
NOT_ZERO = Domain(lambda rng, shape: rng.uniform(0.5, 3, shape) * rng.choice([-1, 1], shape), REAL.edges)
# Not -INF, for which NumPy's power is pow's or sqrt's, as the shapes have it: (-inf)^0.5 is inf or NaN.
BASE = Domain(_uniform(0.3, 3), (0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, INF, NAN))
EXPONENT = Domain(_normal, (0.0, -0.0, 1.0, -1.0, 2.0, 3.0, 0.5, -0.5, INF, -INF, NAN))
LOGITS = Domain(_normal, (0.0, -0.0, 80.0, -80.0, 1e4, -1e4, -INF))
SQUARE = Domain(_matrices)
MASK = Domain(lambda rng, shape: rng.random(shape) < 0.5)


def laid_out(draw: st.DrawFn, x: np.ndarray) -> np.ndarray:
    """x with the same values in another layout: transposed, strided, backwards; read-only, so that a write raises."""
    if layout := draw(st.sampled_from(["C", "F", "step", "back"])) if x.ndim else "":
        if layout in "CF":
            x = np.array(x, order=layout)  # type: ignore[call-overload]
        else:
            axis, step = draw(axis_of(x.shape)), 2 if layout == "step" else -1
            wide = np.repeat(x, abs(step), axis)
            x = np.flip(wide, axis).copy() if step < 0 else wide
            x = x[(slice(None),) * (axis % x.ndim) + (slice(None, None, step),)]
    x = x.view()
    x.flags.writeable = False
    return x


def generators() -> st.SearchStrategy[np.random.Generator]:
    """Seeded generators: the values of an array are drawn by one, at once, not by hypothesis one by one."""
    return st.integers(0, 2**32 - 1).map(np.random.default_rng)


def alike(got: Any, want: Any, tol: float, scale: Any = 0.0) -> None:
    """Assert got = want: NaN and infinities in the same places, else |got - want| <= tol (|want| + scale)."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    if want.dtype.kind != "f":
        np.testing.assert_array_equal(got, want)
        return
    with np.errstate(all="ignore"):
        want = want.astype(got.dtype)  # what is too large for float32 is infinite there
        finite = np.isfinite(want)
        np.testing.assert_array_equal(np.where(finite, 0, got), np.where(finite, 0, want))
        room = tol * (np.abs(want) + scale) + np.finfo(got.dtype).tiny
        wrong = finite & ~(np.abs(got - want) <= room)
    assert not wrong.any(), f"got {got[wrong]}, want {want[wrong]}"
