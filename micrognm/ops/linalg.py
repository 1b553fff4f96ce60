"""Products and solves. Leading axes are batches and broadcast."""

from __future__ import annotations

import numpy as np

from micrognm import backend
from micrognm.engine import Tensor, tensor
from micrognm.kernels import matmul as kernel
from micrognm.operation import op
from micrognm.ops.arithmetic import mul
from micrognm.ops.shape import _transpose, broadcast_to, reshape


def swap(x: Tensor) -> Tensor:
    """The last two axes exchanged: each matrix transposed."""
    return _transpose(x, axes=(*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


@op
def _matmul(a, b):
    """[..., n, k] @ [..., k, m] -> [..., n, m]; the k must be equal, leading axes broadcast."""
    return kernel.matmul(a, b)


_matmul.vjp(a=lambda g, b: _matmul(g, swap(b)), b=lambda g, a: _matmul(swap(a), g))


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """a @ b for matrices [..., n, k] and [..., k, m]; a vector [k] counts as one row or one column."""
    for name, x in (("a", a), ("b", b)):
        if not hasattr(x, "ndim") or x.ndim == 0:
            raise ValueError(f"matmul: {name} is a number; write a * b")
    a = a if isinstance(a, Tensor) else tensor(a)
    b = b if isinstance(b, Tensor) else tensor(b)
    if a.shape[-1] != b.shape[-2:][0]:
        raise ValueError(
            f"matmul(a: {a.dtype}{list(a.shape)}, b: {b.dtype}{list(b.shape)}): a has {a.shape[-1]} columns, "
            f"b {b.shape[-2:][0]} rows. The rule: [..., n, k] @ [..., k, m] -> [..., n, m]"
        )
    if a.ndim == 1 or b.ndim == 1:
        left = reshape(a, shape=(1, -1)) if a.ndim == 1 else a
        out = matmul(left, reshape(b, shape=(-1, 1)) if b.ndim == 1 else b)
        kept = [True] * (out.ndim - 2) + [a.ndim > 1, b.ndim > 1]
        return reshape(out, shape=tuple(n for n, keep in zip(out.shape, kept, strict=True) if keep))
    if b.ndim == 2 and a.ndim > 2:  # one product for the whole batch, and one for the gradient of b
        flat = _matmul(reshape(a, shape=(int(np.prod(a.shape[:-1])), a.shape[-1])), b)
        return reshape(flat, shape=(*a.shape[:-1], b.shape[-1]))
    return _matmul(a, b)


@op
def affine(x, w, b):
    """x [n, k] @ w [k, m] + b [m] -> [n, m]"""
    if x.ndim < 2:
        raise ValueError("x is not a matrix; one row is x[None]")
    if b.shape != w.shape[1:]:
        raise ValueError(f"b must be {list(w.shape[1:])}, is {list(b.shape)}")
    return kernel.matmul(x, w, b)


affine.vjp(x=lambda g, w: _matmul(g, swap(w)), w=lambda g, x: _matmul(swap(x), g), b=lambda g: g)


def einsum(subscripts: str, *xs: Tensor) -> Tensor:
    """The sum of products that "ij,jk->ik" describes; the output is written out, and no letter twice in one input."""
    inputs, output = _subscripts(subscripts, xs)
    return _einsum(*xs, inputs=inputs, output=output)


def _subscripts(subscripts, xs):
    text = subscripts.replace(" ", "")
    if text.count("->") != 1:
        raise ValueError(f"einsum {subscripts!r}: write the output, as in 'ij,jk->ik'")
    left, output = text.split("->")
    inputs = tuple(left.split(","))
    if len(inputs) != len(xs):
        raise ValueError(f"einsum {subscripts!r}: describes {len(inputs)} inputs, got {len(xs)}")
    if "." in text:
        raise ValueError(f"einsum {subscripts!r}: name every axis instead of '...'")
    for letters in (*inputs, output):
        if len(set(letters)) != len(letters):
            raise ValueError(f"einsum {subscripts!r}: a letter stands twice in {letters!r}; multiply by an identity")
    if unknown := set(output) - set(left):
        raise ValueError(f"einsum {subscripts!r}: output letters {sorted(unknown)} are in no input")
    sizes: dict[str, int] = {}
    for letters, x in zip(inputs, xs, strict=True):
        if len(letters) != x.ndim or any(sizes.setdefault(i, n) != n for i, n in zip(letters, x.shape, strict=True)):
            raise ValueError(
                f"einsum {subscripts!r}: does not fit the shapes {', '.join(str(list(x.shape)) for x in xs)}. "
                "The rule: one letter an axis; equal letters, equal sizes"
            )
    return inputs, output


@op
def _einsum(*xs, inputs, output):
    """One letter an axis; equal letters, equal sizes."""
    return np.einsum(f"{','.join(inputs)}->{output}", *xs, optimize=len(xs) > 2 or xs[0].size > 256)


def _einsum_rule(g, xs, i, inputs, output, shapes):
    others = [x for j, x in enumerate(xs) if j != i]
    known = set(output).union(*(letters for j, letters in enumerate(inputs) if j != i))
    reach = "".join(letter for letter in inputs[i] if letter in known)
    letters = tuple(letters for j, letters in enumerate(inputs) if j != i)
    gx = _einsum(g, *others, inputs=(output, *letters), output=reach)
    if reach != inputs[i]:  # axes of this input alone were summed away: every element along them gets the same
        sizes = zip(inputs[i], shapes[i], strict=True)
        gx = reshape(gx, shape=tuple(n if letter in known else 1 for letter, n in sizes))
        gx = broadcast_to(gx, shape=shapes[i])
    return gx


_einsum.vjp(xs=_einsum_rule)


@op
def solve_triangular(a, b, *, lower=True):
    """a [..., n, n], of which only the lower (or upper) triangle is read, and b [..., n, m] -> x with a x = b."""
    if a.ndim < 2 or b.ndim < 2:
        raise ValueError("a or b is not a matrix; one column is b[:, None]")
    if a.ndim == b.ndim == 2:
        return backend.linalg(a).solve_triangular(a, b, lower=lower, check_finite=False)
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])  # CuPy's solve does not broadcast
    a, b = (np.broadcast_to(x, batch + x.shape[-2:]) for x in (a, b))
    return np.linalg.solve(np.tril(a) if lower else np.triu(a), b)


@op
def triangle(x, *, lower=True):
    """[..., n, m] with the elements above (or, for lower=False, below) the diagonal set to 0."""
    if x.ndim < 2:
        raise ValueError("x is not a matrix")
    return np.tril(x) if lower else np.triu(x)


solve_triangular.vjp(
    a=lambda g, a, out, lower: triangle(-matmul(solve_triangular(swap(a), g, lower=not lower), swap(out)), lower=lower),
    b=lambda g, a, lower: solve_triangular(swap(a), g, lower=not lower),
)
triangle.vjp(x=lambda g, lower: triangle(g, lower=lower))


@op
def inverse(x):
    """[..., n, n], not singular -> its inverse, computed in float64."""
    wide = x.astype(np.float64)
    try:
        out = np.linalg.inv(wide)
    except np.linalg.LinAlgError:
        raise ValueError("x is singular: its condition number is infinite") from None
    condition = _norm(wide) * _norm(out)  # CuPy's inverse of a singular matrix holds infinities
    limit = 1 / np.finfo(x.dtype).eps
    if not (condition < limit).all():
        raise ValueError(
            f"x is singular to {x.dtype}: its condition number is {float(np.max(condition)):.1e}, over {limit:.1e}"
        )
    return out.astype(x.dtype)


def _norm(x):
    """The 1-norm of matrices: [..., n, m] -> [...], 0 for those without elements."""
    return np.max(np.sum(np.absolute(x), axis=-2), axis=-1, initial=0.0)


inverse.vjp(x=lambda g, out: -_matmul(swap(out), _matmul(g, swap(out))))


@op(keeps=("inverse_transposed",))
def logabsdet(x):
    """[..., n, n], not singular -> log |det x|, computed in float64"""
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise ValueError("x is not a square matrix")
    logdet, inverse_transposed = backend.kernel("invertible", x).determinant(x)
    if np.isneginf(logdet).any():
        raise ValueError("x is singular: its determinant is 0, the logarithm -infinity, the condition number infinite")
    return logdet, inverse_transposed


@op
def _logabsdet(x):
    """logabsdet, for gradients that are recorded."""
    return np.linalg.slogdet(x.astype(np.float64))[1].astype(x.dtype)


_logabsdet.vjp(x=lambda g, x: mul(reshape(g, shape=(*g.shape, 1, 1)), swap(inverse(x))))
logabsdet.vjp_at_once(lambda g, needs, inverse_transposed: [g[..., None, None] * inverse_transposed], _logabsdet)


@op
def _det_sign(x):
    """[..., n, n] -> the sign of det x; no gradient."""
    return np.linalg.slogdet(x)[0]


_det_sign.vjp(x=None)


def slogdet(x: Tensor) -> tuple[Tensor, Tensor]:
    """Sign (a constant) and log |det x| of matrices [..., n, n]. ValueError where one is singular."""
    return _det_sign(x), logabsdet(x)


def qr(x: Tensor) -> tuple[Tensor, Tensor]:
    """Q and R of matrices [..., n, m]; forward only, so a recorded x raises."""
    if x.node is not None:
        raise ValueError("qr has no gradient; pass stop_gradient(x)")
    if x.ndim < 2:
        raise ValueError(f"qr: x {list(x.shape)} is not a matrix [..., n, m]")
    q, r = np.linalg.qr(x.data)
    return tensor(q), tensor(r)
