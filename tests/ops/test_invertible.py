"""The invertible operations: inverses, log-determinants of whole Jacobians, gradients to order 2."""

from __future__ import annotations

import numpy as np
import pytest

from micrognm import Tensor, backend, check, grad, ops
from micrognm.ops.invertible import coupling, coupling_inverse, invertible, invertible_inverse, plu

either = pytest.mark.parametrize("sigmoid", [False, True], ids=["exp", "sigmoid"])


@pytest.fixture(params=["reference", "cpu"])
def kernels(request, monkeypatch):
    monkeypatch.setattr(backend, "_kernels", request.param)


def parameters(rng, c):
    """A weight with a determinant of either sign far from 1, a log_scale, a shift."""
    weight = np.linalg.qr(rng.standard_normal((c, c)))[0] * rng.uniform(0.5, 2, c)
    return weight, rng.uniform(-0.7, 0.7, c), rng.standard_normal(c)


def jacobian(f, x):
    """Of a map between arrays of one shape, by gradients."""
    leaf = Tensor(x, requires_grad=True)
    y = f(leaf)
    rows = [grad(y, leaf, Tensor(row.reshape(x.shape))).numpy().ravel() for row in np.eye(x.size)]
    return np.array(rows)


def log_abs_det(matrix):
    return np.linalg.slogdet(matrix)[1]


# ---- the step --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5)])
@pytest.mark.parametrize("c", [1, 3, 12, 48])
def test_the_inverse_gives_back_the_input(c, dtype, tolerance, rng):
    x = rng.standard_normal((2, 3, 4, c)).astype(dtype)
    given = [Tensor(p.astype(dtype)) for p in parameters(rng, c)]
    y, logdet = invertible(Tensor(x), *given)
    assert y.dtype == logdet.dtype == dtype and logdet.shape == ()
    np.testing.assert_allclose(
        invertible_inverse(y, *given).numpy(), x, rtol=0, atol=tolerance * np.abs(y.numpy()).max()
    )
    back = invertible_inverse(Tensor(x), *given)
    np.testing.assert_allclose(invertible(back, *given)[0].numpy(), x, rtol=0, atol=tolerance * 10)


@pytest.mark.usefixtures("kernels")
def test_the_log_determinant_is_that_of_the_whole_jacobian(rng):
    p = [Tensor(a) for a in parameters(rng, 3)]
    x = rng.standard_normal((1, 2, 3, 3))
    whole = log_abs_det(jacobian(lambda x: invertible(x, *p)[0], x))
    assert whole == pytest.approx(invertible(Tensor(x), *p)[1].item(), rel=1e-12)
    known = 2 * 3 * log_abs_det(p[0].numpy())
    without = invertible(Tensor(x), *p, determinant=False)
    assert whole == pytest.approx(without[1].item() + known, rel=1e-12)
    np.testing.assert_array_equal(without[0].numpy(), invertible(Tensor(x), *p)[0].numpy())
    twice = np.concatenate([x, x])  # of one sample, however many there are
    assert invertible(Tensor(twice), *p)[1].item() == pytest.approx(whole, rel=1e-12)


@pytest.mark.usefixtures("kernels")
def test_gradients_of_the_step_and_its_inverse(rng):
    p = parameters(rng, 3)
    check(lambda *a: invertible(*a)[0], (2, 2, 3), *p, rng=rng)
    check(lambda *a: invertible(*a)[1], (2, 2, 3), *p, rng=rng)
    check(lambda *a: ops.mul(*invertible(*a)), (2, 2, 3), *p, rng=rng)
    check(lambda *a: ops.mul(*invertible(*a, determinant=False)), (2, 2, 3), *p, rng=rng)
    check(invertible_inverse, (2, 2, 3), *p, rng=rng)
    check(lambda *a: invertible(*a)[0], (1, 3), *p, rng=rng)  # one pixel
    leaves = [Tensor(a, requires_grad=True) for a in (rng.standard_normal((0, 2, 3)), *p)]
    for leaf, g in zip(leaves, grad(invertible(*leaves)[0].sum(), leaves), strict=True):
        assert g.shape == leaf.shape and not g.numpy().any()


def test_the_log_determinant_alone_has_no_gradient_to_x_and_shift(rng):
    leaves = [Tensor(a, requires_grad=True) for a in (rng.standard_normal((2, 4, 3)), *parameters(rng, 3))]
    logdet = invertible(*leaves)[1]
    with pytest.raises(ValueError, match=r"y does not depend on wrt\[0\] .*, wrt\[3\]"):
        grad(logdet, leaves)
    dweight, dlog_scale = grad(logdet, leaves[1:3])
    np.testing.assert_allclose(dweight.numpy(), 4 * np.linalg.inv(leaves[1].numpy()).T, rtol=1e-12)
    np.testing.assert_array_equal(dlog_scale.numpy(), np.full(3, 4.0))
    known = invertible(*leaves, determinant=False)[1]
    np.testing.assert_array_equal(grad(known, leaves[2]).numpy(), np.full(3, 4.0))
    assert not grad(known, leaves[1], allow_unused=True).numpy().any()
    # With a constant log_scale nothing recorded is behind the log-determinant, though it is an output like the other.
    y, known = invertible(leaves[0], leaves[1], Tensor(leaves[2].data), leaves[3], determinant=False)
    dweight = grad((y * y).sum() * known, leaves[1], create_graph=True)
    want = grad((y * y).sum() * known.item(), leaves[1])
    np.testing.assert_allclose(dweight.numpy(), want.numpy(), rtol=1e-12)


def fused_and_composed(f, arrays, outputs):
    """Gradients by the fused rule and, recorded, through composed operations; each output alone and all together."""
    leaves = [Tensor(a, requires_grad=True) for a in arrays]
    rng = np.random.default_rng(1)
    for used in [*([k] for k in range(outputs)), list(range(outputs))]:
        y = f(*leaves)
        parts = list(y) if isinstance(y, tuple) else [y]
        some = [parts[k] for k in used]
        weights = [Tensor(rng.standard_normal(part.shape).astype(arrays[0].dtype)) for part in some]
        fused = grad(some, leaves, weights, allow_unused=True)
        composed = grad(some, leaves, weights, create_graph=True, allow_unused=True)
        yield from zip(fused, composed, strict=True)


@pytest.mark.usefixtures("kernels")
@either
def test_the_fused_gradients_are_the_composed_ones(sigmoid, rng):
    shape = (3, 4, 2)
    step = (rng.standard_normal((2, 5, 3)), *parameters(rng, 3))
    couplings = rng.standard_normal((3, *shape))
    for f, arrays, outputs in (
        (invertible, step, 2),
        (lambda *a: invertible(*a, determinant=False), step, 2),
        (lambda *a: coupling(*a, sigmoid=sigmoid), couplings, 2),
        (lambda *a: coupling_inverse(*a, sigmoid=sigmoid), couplings, 2),
    ):
        for fused, composed in fused_and_composed(f, arrays, outputs):
            np.testing.assert_allclose(fused.numpy(), composed.numpy(), rtol=1e-10, atol=1e-12)


def test_a_singular_weight_raises_before_any_nan(rng):
    weight, log_scale, shift = parameters(rng, 3)
    y = Tensor(np.ones((2, 3)))
    singular = weight.copy()
    singular[:, 2] = singular[:, 0] + singular[:, 1]
    for bad in (np.ones((3, 3)), np.zeros((3, 3)), singular):
        with pytest.raises(ValueError, match=r"inverse\(x: float64\[3, 3\]\): x is singular.*condition number"):
            invertible_inverse(y, Tensor(bad), Tensor(log_scale), Tensor(shift))
    for bad in (np.ones((3, 3)), np.zeros((3, 3))):
        with pytest.raises(ValueError, match=r"invertible\(x: .*\): weight is singular: its determinant is 0"):
            invertible(y, Tensor(bad), Tensor(log_scale), Tensor(shift))
    nearly = (np.eye(3) + 1e-9 * rng.standard_normal((3, 3)) - np.diag([0, 0, 1 - 1e-9])).astype(np.float32)
    with pytest.raises(ValueError, match=r"x is singular to float32: its condition number is \d.*e\+.*, over 8.4e\+06"):
        ops.inverse(Tensor(nearly))
    ops.inverse(Tensor(nearly.astype(np.float64)))
    with pytest.raises(ValueError, match=r"logabsdet\(x: float64\[3, 3\]\): x is singular.*condition number infinite"):
        ops.logabsdet(Tensor(np.ones((3, 3))))


def test_determinants_and_inverses_are_computed_in_float64(rng):
    """A float32 weight of condition 1e5: in float32 its inverse would be off by 1e-2."""
    u, v = (np.linalg.qr(rng.standard_normal((40, 40)))[0] for _ in range(2))
    weight = (u * np.logspace(0, -5, 40) @ v).astype(np.float32)
    exact = np.linalg.inv(weight.astype(np.float64))
    got = ops.inverse(Tensor(weight))
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got.numpy(), exact.astype(np.float32))
    leaf = Tensor(weight, requires_grad=True)
    logdet = ops.logabsdet(leaf)
    assert logdet.item() == pytest.approx(np.linalg.slogdet(weight.astype(np.float64))[1], rel=1e-7)
    np.testing.assert_allclose(grad(logdet, leaf).numpy(), exact.T, rtol=1e-6, atol=1e-6 * np.abs(exact).max())


def test_what_the_step_refuses(rng):
    x, (weight, log_scale, shift) = np.ones((2, 3)), parameters(rng, 3)
    for args, message in (
        (
            (x, weight[:2], log_scale, shift),
            r"invertible\(x: .*\): weight must be \[3, 3\] for 3 channels of x, is \[2, 3\]",
        ),
        ((x, weight, log_scale[:2], shift), r"log_scale must be \[3\] for 3 channels of x, is \[2\]"),
        ((x, weight, log_scale, shift[None]), r"shift must be \[3\] for 3 channels of x, is \[1, 3\]"),
        ((x[0], weight, log_scale, shift), r"x has no axis of samples before that of channels; write x\[None\]"),
    ):
        with pytest.raises(ValueError, match=message):
            invertible(*map(Tensor, args))


# ---- PLU -------------------------------------------------------------------------------------------------------------


def plu_parts(rng, c):
    permutation = np.eye(c)[rng.permutation(c)]
    return (
        permutation,
        rng.standard_normal((c, c)),
        rng.standard_normal((c, c)),
        rng.standard_normal(c),
        rng.choice([-1.0, 1.0], c),
    )


@pytest.mark.parametrize("c", [1, 2, 7])
def test_plu_gives_the_matrix_and_its_determinant(c, rng):
    p, lower, upper, log_scale, sign = plu_parts(rng, c)
    weight, logabsdet = plu(*map(Tensor, (p, lower, upper, log_scale, sign)))
    want = p @ (np.tril(lower, -1) + np.eye(c)) @ (np.triu(upper, 1) + np.diag(sign * np.exp(log_scale)))
    np.testing.assert_allclose(weight.numpy(), want, rtol=1e-13, atol=1e-13)
    assert logabsdet.item() == pytest.approx(log_abs_det(want), abs=1e-12)
    assert np.sign(np.linalg.det(want)) == np.prod(sign) * np.linalg.det(p).round()


def test_gradients_of_plu_and_of_no_element_that_is_not_read(rng):
    p, lower, upper, log_scale, sign = plu_parts(rng, 4)
    check(
        lambda a, b, s: plu(*(Tensor(p.astype(a.dtype)), a, b, s, Tensor(sign.astype(a.dtype))))[0],
        lower,
        upper,
        log_scale,
    )
    leaves = [Tensor(a, requires_grad=True) for a in (lower, upper, log_scale)]
    weight, logabsdet = plu(Tensor(p), *leaves, Tensor(sign))
    dlower, dupper, _ = grad(weight, leaves, Tensor(rng.standard_normal((4, 4))))
    assert not np.triu(dlower.numpy()).any() and not np.tril(dupper.numpy()).any()
    assert np.tril(dlower.numpy(), -1).any() and np.triu(dupper.numpy(), 1).any()
    np.testing.assert_array_equal(grad(logabsdet, leaves[2]).numpy(), np.ones(4))


def test_what_plu_refuses(rng):
    parts = [Tensor(x) for x in plu_parts(rng, 3)]
    for i, name in enumerate(("permutation", "upper", "log_scale", "sign")):
        place = [0, 2, 3, 4][i]
        wrong = [Tensor(np.ones(5)) if k == place else part for k, part in enumerate(parts)]
        with pytest.raises(ValueError, match=rf"plu: {name} must be \[3.*\], is \[5\]"):
            plu(*wrong)


# ---- the coupling ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("kernels")
@either
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-13), (np.float32, 2e-6)])
def test_the_coupling_is_undone(sigmoid, dtype, tolerance, rng):
    x, h, t = rng.standard_normal((3, 4, 3, 5)).astype(dtype)
    y, logdet = coupling(*map(Tensor, (x, h, t)), sigmoid=sigmoid)
    back, minus = coupling_inverse(y, Tensor(h), Tensor(t), sigmoid=sigmoid)
    assert y.dtype == logdet.dtype == dtype and logdet.shape == (4,)
    np.testing.assert_allclose(back.numpy(), x, rtol=0, atol=10 * tolerance)
    np.testing.assert_allclose(minus.numpy(), -logdet.numpy(), rtol=10 * tolerance)


@pytest.mark.usefixtures("kernels")
@either
def test_the_log_determinant_of_a_whole_coupling_layer(sigmoid, rng):
    """[a, b] -> [a, coupling(b, h(a), t(a))], where h and t mix everything in a: the Jacobian is triangular."""
    w, v = rng.standard_normal((2, 6, 6))

    def layer(x):
        a, b = x[:, :6], x[:, 6:]
        return ops.concat(a, coupling(b, ops.tanh(a @ Tensor(w)), a @ Tensor(v), sigmoid=sigmoid)[0], axis=1)

    x = rng.standard_normal((1, 12))
    h = np.tanh(x[:, :6] @ w)
    logdet = coupling(Tensor(x[:, 6:]), Tensor(h), Tensor(x[:, :6] @ v), sigmoid=sigmoid)[1]
    assert log_abs_det(jacobian(layer, x)) == pytest.approx(logdet.item(), rel=1e-12)


@pytest.mark.usefixtures("kernels")
@either
@pytest.mark.parametrize("f", [coupling, coupling_inverse])
def test_gradients_of_the_coupling(f, sigmoid, rng):
    shapes = [(2, 3, 2)] * 3
    for k in range(2):
        check(lambda *a, k=k: f(*a, sigmoid=sigmoid)[k], *shapes, rng=rng)

    def both(*a):
        y, logdet = f(*a, sigmoid=sigmoid)
        return y.sum(axis=(1, 2)) * logdet

    check(both, *shapes, rng=rng)
    check(lambda *a: both(*(x.reshape(shape=(2, 1, 1)) for x in a)), (2,), (2,), (2,), rng=rng)


def test_a_sample_may_be_one_number(rng):
    x, h, t = (Tensor(a, requires_grad=True) for a in rng.standard_normal((3, 4)))
    y, logdet = coupling(x, h, t)
    np.testing.assert_array_equal(logdet.numpy(), h.numpy())
    check(lambda *a: coupling(*a)[0] * coupling(*a)[1], (4,), (4,), (4,))
    assert grad(y.sum(), h).shape == (4,)


def test_what_the_coupling_refuses(rng):
    x = Tensor(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"coupling\(x: .*\): h \[2, 1\] must have the shape of .* \[2, 3\]. The rule"):
        coupling(x, x[:, :1], x)
    with pytest.raises(ValueError, match=r"coupling_inverse\(y: .*\): shift \[3\] must have the shape of"):
        coupling_inverse(x, x, x[0])
    with pytest.raises(ValueError, match=r"x has no axis of samples; write x\[None\]"):
        coupling(x[0, 0], x[0, 0], x[0, 0])
