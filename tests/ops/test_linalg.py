"""Linear algebra: identities, matrices that are singular or half read, and shapes that do not fit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micrognm import Tensor, check, grad, ops
from tests.ops.cases import EINSUMS
from tests.strategies import SQUARE, generators


def leaf(x):
    return Tensor(np.asarray(x, np.float64), requires_grad=True)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ((2, 3), (4, 5), r"matmul\(a: float64\[2, 3\], b: float64\[4, 5\]\): a has 3 columns, b 4 rows. The rule: "),
        ((2, 2, 3), (4, 5), r"matmul\(a: float64\[2, 2, 3\], b: float64\[4, 5\]\)"),
        ((3,), (4,), r"matmul\(a: float64\[3\], b: float64\[4\]\)"),
        ((3,), (2, 4, 5), r"matmul\(a: float64\[3\], b: float64\[2, 4, 5\]\)"),
        ((2, 3), (4,), r"matmul\(a: float64\[2, 3\], b: float64\[4\]\)"),
        (
            (2, 3, 4),
            (3, 4, 5),
            r"matmul\(a: float64\[2, 3, 4\], b: float64\[3, 4, 5\]\): .*The rule: .*leading axes broadcast",
        ),
        ((), (2, 2), r"matmul: a is a number; write a \* b"),
        ((2, 2), (), r"matmul: b is a number; write a \* b"),
    ],
)
def test_matrices_that_do_not_fit(a, b, message):
    with pytest.raises(ValueError, match=message):
        ops.matmul(leaf(np.ones(a)), leaf(np.ones(b)))


def test_a_number_is_no_matrix():
    with pytest.raises(ValueError, match=r"b is a number; write a \* b"):
        leaf(np.eye(2)) @ 2.0


@settings(max_examples=15)
@given(rng=generators(), batch=st.sampled_from([(), (2,), (2, 3), (0,), (1, 2)]))
def test_one_product_for_a_whole_batch(rng, batch):
    """x [..., k] @ w [k, m] is done as one product: as it would be one by one."""
    x, w = rng.standard_normal((*batch, 4, 3)), rng.standard_normal((3, 5))
    a, b = leaf(x), leaf(w)
    y = a @ b
    np.testing.assert_allclose(y.numpy(), np.einsum("...ik,km->...im", x, w), atol=1e-12)
    v = rng.standard_normal(y.shape)
    ga, gb = grad(y, [a, b], Tensor(v))
    np.testing.assert_allclose(ga.numpy(), np.einsum("...im,km->...ik", v, w), atol=1e-12)
    np.testing.assert_allclose(gb.numpy(), x.reshape(-1, 3).T @ v.reshape(-1, 5), atol=1e-12)


def test_affine_refuses():
    x, w, b = leaf(np.ones((2, 3))), leaf(np.ones((3, 4))), leaf(np.ones(4))
    with pytest.raises(ValueError, match=r"affine\(x: float64\[3\], .*x is not a matrix; one row is x\[None\]"):
        ops.affine(x[0], w, b)
    with pytest.raises(
        ValueError, match=r"affine\(x: float64\[2, 3\], w: float64\[4, 3\], b: float64\[4\]\): .*The rule: x \[n, k\]"
    ):
        ops.affine(x, ops.swap(w), b)
    with pytest.raises(ValueError, match=r"affine\(.*b: float64\[3\]\): .*The rule: "):
        ops.affine(x, w, leaf(np.ones(3)))
    check(ops.affine, (2, 3, 4), (4, 5), (5,))  # leading axes are rows too


@pytest.mark.parametrize(
    ("text", "inputs", "message"),
    [
        ("ij,jk", [(2, 3), (3, 4)], "write the output, as in 'ij,jk->ik'"),
        ("ij->i->j", [(2, 3)], "write the output"),
        ("ij,jk->ik", [(2, 3)], "describes 2 inputs, got 1"),
        ("...i->i", [(2, 3)], "name every axis instead of '...'"),
        ("ii->i", [(2, 2)], "a letter stands twice in 'ii'"),
        ("i->ii", [(2,)], "a letter stands twice in 'ii'"),
        ("ij->ik", [(2, 3)], r"output letters \['k'\] are in no input"),
        (
            "ij,jk->ik",
            [(2, 3), (4, 5)],
            r"does not fit the shapes \[2, 3\], \[4, 5\]. The rule: .*equal letters, equal sizes",
        ),
        (
            "ij,i->j",
            [(1, 3), (2,)],
            r"does not fit the shapes \[1, 3\], \[2\]",
        ),  # NumPy would broadcast; its gradient could not
        ("ij->i", [(2,)], r"does not fit the shapes \[2\]"),
    ],
)
def test_einsum_refuses(text, inputs, message):
    with pytest.raises(ValueError, match=f"einsum '{text}': {message}".replace("...i", r"\.\.\.i")):
        ops.einsum(text, *(leaf(np.ones(shape)) for shape in inputs))


@pytest.mark.parametrize("text", EINSUMS)
def test_gradients_of_einsum(text, rng):
    sizes = {letter: 2 + i % 3 for i, letter in enumerate(sorted(set(text) - set("->,")))}
    shapes = [tuple(sizes[letter] for letter in part) for part in text.split("->")[0].split(",")]
    check(lambda *xs: ops.einsum(text, *xs), *shapes, rng=rng)


def test_einsum_of_large_inputs_agrees_with_small_ones(rng):
    a, b, c = (rng.standard_normal(s) for s in ((20, 30), (30, 10), (10, 20)))
    np.testing.assert_allclose(ops.einsum("ij, jk, ki ->", leaf(a), leaf(b), leaf(c)).item(), np.trace(a @ b @ c))


# ---- solves ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("lower", [True, False])
def test_only_one_triangle_is_read_and_gets_a_gradient(lower, batch, rng):
    x, y = SQUARE.smooth(rng, (*batch, 4, 4)), rng.standard_normal((*batch, 4, 2))
    mask = np.tri(4, dtype=bool) if lower else np.tri(4, dtype=bool).T
    a, b = leaf(np.where(mask, x, np.nan)), leaf(y)
    z = ops.solve_triangular(a, b, lower=lower)
    np.testing.assert_allclose(np.where(mask, x, 0) @ z.numpy(), y, atol=1e-12)
    ga, gb = grad(z.sum(), [a, b])
    assert np.isfinite(gb.numpy()).all() and (ga.numpy()[..., ~mask] == 0).all() and (ga.numpy()[..., mask] != 0).any()


def test_solve_triangular_refuses():
    a = leaf(np.eye(3))
    with pytest.raises(
        ValueError, match=r"solve_triangular\(a: float64\[3, 3\], b: float64\[3\]\): .*one column is b\[:, None\]"
    ):
        ops.solve_triangular(a, leaf(np.ones(3)))
    with pytest.raises(ValueError, match=r"a or b is not a matrix"):
        ops.solve_triangular(a[0], leaf(np.ones((3, 1))))
    for bad in ((4, 1), (2, 4, 1)):
        with pytest.raises(ValueError, match=r"solve_triangular\(.*The rule: a \[\.\.\., n, n\]"):
            ops.solve_triangular(a, leaf(np.ones(bad)))


@pytest.mark.parametrize(
    "singular", [np.zeros((2, 2)), np.ones((3, 3)), np.stack([np.eye(2), np.zeros((2, 2))])], ids=str
)
def test_singular_matrices_raise(singular):
    x = leaf(singular)
    for f in (ops.inverse, ops.logabsdet, lambda x: ops.slogdet(x)[1]):
        with pytest.raises(
            ValueError, match=r"(inverse|logabsdet)\(x: float64\[.*[Ss]ingular.*The rule: .*not singular"
        ):
            f(x)


@pytest.mark.parametrize("name", ["inverse", "logabsdet", "slogdet"])
def test_what_is_not_square_raises(name):
    for shape in ((2, 3), (3,)):
        with pytest.raises(ValueError, match=r"(inverse|logabsdet|det_sign)\(x: float64\["):
            getattr(ops, name)(leaf(np.ones(shape)))


@settings(max_examples=15)
@given(rng=generators(), shape=st.sampled_from([(1, 1), (3, 3), (2, 4, 4), (0, 2, 2), (0, 0)]))
def test_determinants_and_inverses(rng, shape):
    x = leaf(SQUARE.smooth(rng, shape))
    np.testing.assert_allclose((ops.inverse(x) @ x).numpy(), np.broadcast_to(np.eye(shape[-1]), shape), atol=1e-12)
    sign, logdet = ops.slogdet(x)
    assert sign.node is None and sign.shape == logdet.shape == shape[:-2]
    np.testing.assert_allclose(sign.numpy() * np.exp(logdet.numpy()), np.linalg.det(x.numpy()), rtol=1e-9)
    if x.size:
        transposed_inverse = grad(logdet.sum(), x).numpy()
        np.testing.assert_allclose(transposed_inverse, np.swapaxes(np.linalg.inv(x.numpy()), -1, -2), atol=1e-12)


@settings(max_examples=15)
@given(rng=generators(), shape=st.sampled_from([(3, 3), (4, 2), (2, 4), (2, 3, 3), (1, 1)]))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_qr(rng, shape, dtype):
    x = rng.standard_normal(shape).astype(dtype)
    q, r = ops.qr(Tensor(x))
    tol = 20 * np.finfo(dtype).eps
    assert q.dtype == r.dtype == dtype
    np.testing.assert_allclose((q @ r).numpy(), x, atol=tol * 5)
    np.testing.assert_allclose(
        (ops.swap(q) @ q).numpy(), np.broadcast_to(np.eye(q.shape[-1]), (*shape[:-2], *q.shape[-1:] * 2)), atol=tol
    )
    np.testing.assert_array_equal(r.numpy(), np.triu(r.numpy()))


def test_qr_has_no_gradient():
    with pytest.raises(ValueError, match=r"qr has no gradient; pass stop_gradient\(x\)"):
        ops.qr(leaf(np.eye(2)))
    with pytest.raises(ValueError, match=r"qr: x \[2\] is not a matrix"):
        ops.qr(Tensor(np.ones(2)))


def test_swap_and_triangle_refuse_vectors():
    with pytest.raises(ValueError, match=r"triangle\(x: float64\[3\]\): x is not a matrix"):
        ops.triangle(leaf(np.ones(3)))  # NumPy would repeat it
    with pytest.raises(ValueError, match=r"transpose\(x: float64\[3\]\)"):
        ops.swap(leaf(np.ones(3)))
