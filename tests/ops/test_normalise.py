"""Normalisation: statistics against NumPy's, invariances, gradients to order 2, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from micrognm import Tensor, backend, check, grad, ops
from micrognm.ops.normalise import ACTIVATIONS, normalise, pixel_norm, scale_shift

KINDS = [("batch", 1), ("instance", 1), ("group", 2), ("layer", 1)]
AXES = {"batch": (0, 1, 2), "instance": (1, 2), "layer": (3,)}
every_kind = pytest.mark.parametrize(("kind", "groups"), KINDS, ids=[kind for kind, _ in KINDS])
SHAPE = (3, 4, 5, 6)


@pytest.fixture(params=["reference", "cpu"])
def kernels(request, monkeypatch):
    monkeypatch.setattr(backend, "_kernels", request.param)


def plain(c=6, dtype=np.float64):
    return Tensor(np.ones(c, dtype)), Tensor(np.zeros(c, dtype))


def over_sets(x, kind, groups, f):
    """A NumPy reduction over each set: what mean and var hold."""
    if kind == "group":
        return f(x.reshape(3, 20, groups, 3), axis=(1, 3))
    return f(x, axis=AXES[kind])


@pytest.mark.usefixtures("kernels")
@every_kind
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 2e-6)])
def test_the_output_has_mean_0_and_variance_1(kind, groups, dtype, tolerance, rng):
    x = (rng.standard_normal(SHAPE) * 3 + 5).astype(dtype)
    y, mean, var = normalise(Tensor(x), *plain(dtype=dtype), kind=kind, groups=groups, eps=0.0)
    assert y.dtype == mean.dtype == var.dtype == dtype
    wide = x.astype(np.float64)
    np.testing.assert_allclose(mean.numpy(), over_sets(wide, kind, groups, np.mean), rtol=tolerance)
    np.testing.assert_allclose(var.numpy(), over_sets(wide, kind, groups, np.var), rtol=5 * tolerance)
    got = y.numpy().astype(np.float64)
    np.testing.assert_allclose(over_sets(got, kind, groups, np.mean), 0, atol=tolerance)
    np.testing.assert_allclose(over_sets(got, kind, groups, np.var), 1, rtol=5 * tolerance)


@pytest.mark.usefixtures("kernels")
@every_kind
def test_scaling_and_shifting_the_input_changes_nothing(kind, groups, rng):
    x = rng.standard_normal(SHAPE)
    parameters = [Tensor(p) for p in rng.standard_normal((2, 6))]
    a, b = (normalise(Tensor(z), *parameters, kind=kind, groups=groups, eps=0.0)[0].numpy() for z in (x, 7 * x - 3))
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("kernels")
@every_kind
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_it_is_normalise_then_scale_then_shift_then_activate(kind, groups, activation, rng):
    x, (scale, shift) = rng.standard_normal(SHAPE), rng.standard_normal((2, 6))
    got = normalise(Tensor(x), Tensor(scale), Tensor(shift), kind=kind, groups=groups, activation=activation, slope=0.3)
    z = normalise(Tensor(x), *plain(), kind=kind, groups=groups)[0].numpy() * scale + shift
    want = {
        "none": z,
        "relu": np.maximum(z, 0),
        "leaky_relu": np.where(z > 0, z, 0.3 * z),
        "swish": z / (1 + np.exp(-z)),
    }
    np.testing.assert_allclose(got[0].numpy(), want[activation], rtol=1e-10, atol=1e-12)
    straight = scale_shift(Tensor(x), Tensor(scale), Tensor(shift), activation=activation, slope=0.3).numpy()
    z = x * scale + shift
    want = {
        "none": z,
        "relu": np.maximum(z, 0),
        "leaky_relu": np.where(z > 0, z, 0.3 * z),
        "swish": z / (1 + np.exp(-z)),
    }
    np.testing.assert_allclose(straight, want[activation], rtol=1e-10, atol=1e-12)


def all_outputs(*args, **options):
    """y, and something of mean and var that depends on both."""
    y, mean, var = normalise(*args, **options)
    return ops.concat(y.reshape(shape=(-1,)), (mean * var).reshape(shape=(-1,)), axis=0)


@pytest.mark.usefixtures("kernels")
@every_kind
@pytest.mark.parametrize("activation", ["none", "leaky_relu", "swish"])
def test_gradients(kind, groups, activation, rng):
    options = {"kind": kind, "groups": groups, "activation": activation}
    check(lambda *a: all_outputs(*a, **options), (3, 2, 2, 4), (4,), (4,), rng=rng)
    if kind != "layer":
        check(lambda *a: all_outputs(*a, **options), (3, 2, 2, 4), (3, 4), (3, 4), rng=rng)
    check(lambda *a: scale_shift(*a, activation=activation), (3, 2, 4), (3, 4), (3, 4), rng=rng)
    check(lambda *a: scale_shift(*a, activation=activation), (3, 4), (4,), (4,), rng=rng)


@pytest.mark.usefixtures("kernels")
def test_gradients_of_the_rest(rng):
    check(lambda *a: normalise(*a, kind="layer")[0], (3, 4), (3, 4), (3, 4), rng=rng)
    check(lambda *a: normalise(*a, activation="relu")[0], (6, 4), (4,), (4,), rng=rng)
    check(pixel_norm, (3, 2, 5), rng=rng)
    check(lambda *a: all_outputs(*a, centred=False), (3, 2, 4), (4,), (4,), rng=rng)


@pytest.mark.usefixtures("kernels")
@every_kind
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("own", [False, True], ids=["one scale", "own scales"])
def test_the_fused_gradients_are_the_composed_ones(kind, groups, activation, own, rng):
    if kind == "layer" and own:
        pytest.skip("layer norm of images has one scale for all samples")
    leaves = [Tensor(rng.standard_normal(s), requires_grad=True) for s in (SHAPE, *[(3, 6) if own else (6,)] * 2)]
    for used in ([0], [1], [2], [0, 1, 2]):
        outputs = normalise(*leaves, kind=kind, groups=groups, activation=activation)
        loss = sum((outputs[k] * Tensor(rng.standard_normal(outputs[k].shape))).sum() for k in used)
        fused = grad(loss, leaves, allow_unused=True)
        composed = grad(loss, leaves, create_graph=True, allow_unused=True)
        for a, b in zip(fused, composed, strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("kernels")
def test_pixel_norm_makes_the_mean_square_1(rng):
    y = pixel_norm(Tensor(rng.standard_normal((3, 4, 5)) * 7)).numpy()
    np.testing.assert_allclose((y**2).mean(-1), 1, rtol=1e-6)
    zero = Tensor(np.zeros((2, 3), np.float32), requires_grad=True)
    y = pixel_norm(zero)
    assert not y.numpy().any() and np.isfinite(grad(y.sum(), zero).numpy()).all()


def test_own_scales_are_each_samples_own(rng):
    """AdaIN: sample i has the style of row i, as if it were alone."""
    x, (scale, shift) = rng.standard_normal(SHAPE), rng.standard_normal((2, 3, 6))
    together = normalise(Tensor(x), Tensor(scale), Tensor(shift), kind="instance")[0].numpy()
    for i in range(3):
        alone = normalise(Tensor(x[i : i + 1]), Tensor(scale[i]), Tensor(shift[i]), kind="instance")[0].numpy()
        np.testing.assert_allclose(together[i : i + 1], alone, rtol=1e-12)


@pytest.mark.parametrize(
    ("shape", "scale", "options", "message"),
    [
        ((2, 3), (3,), {"kind": "row"}, "kind 'row' is unknown; known ones: batch, layer, instance, group"),
        ((2, 3), (3,), {"activation": "elu"}, "activation 'elu' is unknown; known ones: none, relu, leaky_relu, swish"),
        ((3,), (3,), {}, r"x must be \[N, ..., C\], with at least two axes"),
        ((2, 3), (2,), {}, r"scale must be \[3\] or \[2, 3\] for 2 samples of 3 channels"),
        ((2, 4), (4,), {"kind": "group", "groups": 3}, "groups=3 must divide the 4 channels"),
        ((2, 4), (4,), {"groups": 2}, "groups=2 goes with kind='group' alone"),
        ((2, 5, 4), (2, 4), {"kind": "layer"}, r"kind='layer' takes scale and shift \[4\] where x has positions"),
        ((0, 4), (4,), {}, "a mean of no elements"),
        ((2, 0, 4), (4,), {"kind": "instance"}, "a mean of no elements"),
    ],
)
def test_what_it_refuses(shape, scale, options, message):
    with pytest.raises(ValueError, match=rf"normalise\(x: float64.*\): {message}.*The rule: activation\(\(x - mean\)"):
        normalise(Tensor(np.ones(shape)), Tensor(np.ones(scale)), Tensor(np.ones(scale)), **options)


def test_no_samples_give_no_output():
    x = Tensor(np.ones((0, 2, 4)), requires_grad=True)
    y, mean, _ = normalise(x, *plain(4), kind="instance")
    assert y.shape == (0, 2, 4) and mean.shape == (0, 4) and grad(y.sum(), x).shape == (0, 2, 4)
