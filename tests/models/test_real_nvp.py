"""Real NVP's laws: an exact inverse, the log-determinant of the full Jacobian, a density that integrates to 1."""

from __future__ import annotations

import math

import numpy as np
import pytest

from micrognm import Tensor, check, concat, grad, no_grad
from micrognm.data.dequantise import dequantise
from micrognm.models.flow.real_nvp import (
    BatchNorm,
    Coupling,
    RealNVP,
    ResNet,
    channelwise,
    checkerboard,
    factor_out,
    put_back,
)
from micrognm.nn import WeightNorm
from micrognm.optim import Adam
from micrognm.reversible import frozen


def jacobian(f, x: Tensor) -> np.ndarray:
    """[N, outputs, inputs] of f(x) [N, outputs], whose samples do not depend on each other."""
    x = Tensor(x.data, requires_grad=True)
    y = f(x)
    return np.stack([grad(y[:, i].sum(), x).numpy().reshape(len(x), -1) for i in range(y.shape[1])], axis=1)


def rows(x: Tensor) -> Tensor:
    return x.reshape(shape=(len(x), x.size // len(x)))


def trained(rng: np.random.Generator, steps: int = 5, shape=(4, 4, 1), **options) -> tuple[RealNVP, Tensor, list]:
    """A small Real NVP in float64 after some steps of training, images, and their labels where it is told any."""
    model = RealNVP(shape, rng, **{"levels": 17, "width": 4, "blocks": 1} | options)
    model.cast("float64")
    x = Tensor(rng.uniform(0, model.levels, (6, *shape)))
    labels = [np.arange(6) % model.classes] if model.classes else []
    optimiser = Adam(model, 0.02)
    for _ in range(steps):
        optimiser.zero_grad()
        (-model.log_prob(x, *labels).mean()).backward()
        optimiser.step()
    model.eval()
    return model, x, labels


def test_masks():
    np.testing.assert_array_equal(checkerboard(2, 3, 1)[..., 0], [[0, 1, 0], [1, 0, 1]])
    np.testing.assert_array_equal(channelwise(1, 2, 4), [[[1, 1, 0, 0]] * 2])
    for mask in (checkerboard(4, 4, 3), channelwise(4, 4, 4)):
        assert mask.mean() == 0.5


@pytest.mark.parametrize("mask", [checkerboard(2, 3, 2), 1 - checkerboard(2, 3, 2), channelwise(2, 3, 2)])
def test_a_coupling_leaves_what_its_mask_shows_and_reads_nothing_else(mask, rng):
    layer = Coupling(mask, 4, 1, rng, classes=0, rho=0.5)
    layer.cast("float64")
    x = Tensor(rng.standard_normal((5, 2, 3, 2)))
    for _ in range(3):
        layer(x)
    for p in layer.parameters():
        p.data += 0.2 * rng.standard_normal(p.shape)
    layer.eval()
    y, logdet = layer(x)
    np.testing.assert_allclose(layer.inverse(y).numpy(), x.numpy(), rtol=1e-10, atol=1e-11)
    J = jacobian(lambda x: rows(layer(x)[0]), x)
    np.testing.assert_allclose(logdet.numpy(), np.linalg.slogdet(J)[1], rtol=1e-10)
    shown = mask.reshape(-1) == 1
    own = np.eye(12, dtype=bool)
    assert (J[:, shown][:, :, ~own[0]] != 0).any()  # the next line is not about an empty set
    assert (J[:, shown] * ~own[shown] == 0).all()  # what is shown is normalised, and no more
    assert (J[:, ~shown][:, :, ~shown] * ~own[np.ix_(~shown, ~shown)] == 0).all()  # hidden ones do not see each other
    assert (np.abs(J[:, ~shown][:, :, shown]) > 0).any()


@pytest.mark.parametrize(("shape", "scales"), [((4, 4, 1), 2), ((4, 8, 3), 3), ((3, 5, 1), 1), ((6, 6, 1), 2)])
def test_a_trained_model_has_an_inverse_and_the_log_determinant_of_its_jacobian(shape, scales, rng):
    model, x, _ = trained(rng, 3, shape, scales=scales)
    latents, logdet = model.encode(x)
    assert [z.shape[1:] for z in latents] == model.latent_shapes
    assert sum(math.prod(s) for s in model.latent_shapes) == model.D
    np.testing.assert_allclose(model.decode(latents).numpy(), x.numpy(), rtol=0, atol=1e-9)
    few = Tensor(x.numpy()[:2])
    J = jacobian(lambda x: concat(*map(rows, model.encode(x)[0]), axis=1), few)
    np.testing.assert_allclose(logdet.numpy()[:2], np.linalg.slogdet(J)[1], rtol=1e-9)
    e = np.concatenate([rows(z).numpy() for z in latents], axis=1)
    want = -0.5 * (e**2).sum(1) - model.D / 2 * math.log(2 * math.pi) + logdet.numpy()
    np.testing.assert_allclose(model.log_prob(x).numpy(), want, rtol=1e-12)


def test_the_inverse_is_exact_in_training_too(rng):
    model, x, _ = trained(rng, 4)
    model.train()
    before = model.state()
    latents, _ = model.encode(x)
    moved = model.state()
    np.testing.assert_allclose(model.decode(latents).numpy(), x.numpy(), rtol=0, atol=1e-9)
    after = model.state()
    assert all((after[name] == moved[name]).all() for name in after)  # decoding moves no running average
    assert any((before[name] != moved[name]).any() for name in after if name.endswith("mean"))


@pytest.mark.parametrize("shape", [(1, 2, 1), (2, 1, 1)])
def test_a_density_of_two_numbers_integrates_to_one(shape, rng):
    """Over the logits, whose domain is the plane: where the logit's map leads, and with its density."""
    model, _, _ = trained(rng, 6, shape, scales=1, levels=3)
    n, side = 601, 24.0
    points = np.stack(np.meshgrid(*[np.linspace(-side, side, n)] * 2), axis=-1).reshape(-1, *shape)
    with no_grad():
        latents, logdet = model.to_latents(Tensor(points), None)
        (e,) = latents
        log_p = logdet.numpy() - 0.5 * (e.numpy() ** 2).sum((1, 2, 3)) - math.log(2 * math.pi)
        p = np.exp(log_p).reshape(n, n)
        assert max(p[0].max(), p[-1].max(), p[:, 0].max(), p[:, -1].max()) < 1e-9
        assert p.sum() * (2 * side / (n - 1)) ** 2 == pytest.approx(1, abs=3e-4)  # rectifiers have kinks
        # And over the pixels: log_prob against the density of the logits, by finite differences of the map.
        x = rng.uniform(0.1, 2.9, (50, *shape))
        y, step = model.read(Tensor(x))[0].numpy(), 1e-6
        slope = (model.read(Tensor(x + step))[0].numpy() - model.read(Tensor(x - step))[0].numpy()) / (2 * step)
        latents, logdet = model.to_latents(Tensor(y), None)
        want = logdet.numpy() - 0.5 * (latents[0].numpy() ** 2).sum((1, 2, 3)) - math.log(2 * math.pi)
        want += np.log(slope).sum((1, 2, 3))
        np.testing.assert_allclose(model.log_prob(Tensor(x)).numpy(), want, rtol=1e-6)
        np.testing.assert_allclose(model.write(Tensor(y)).numpy(), x, rtol=1e-9)


def test_the_logit_is_finite_at_both_ends(rng):
    model, _, _ = trained(rng, 1, levels=256)
    ends = Tensor(np.stack([np.zeros((4, 4, 1)), np.full((4, 4, 1), 256.0)]))
    assert np.isfinite(model.log_prob(ends).numpy()).all()
    y = model.read(ends)[0].numpy()
    np.testing.assert_allclose(y[0], -y[1], rtol=1e-12)
    np.testing.assert_allclose(y[0], math.log(0.05 / 0.95), rtol=1e-12)


def test_batch_norm_is_by_running_averages(rng):
    norm = BatchNorm(3, rho=0.8)
    norm.cast("float64")
    batches = rng.standard_normal((4, 5, 2, 2, 3)) * [1, 2, 3] + [0, 1, -1]
    mean, var, weight = np.zeros(3), np.zeros(3), 0.0
    for x in batches:
        mean, var, weight = (
            0.8 * old + 0.2 * new for old, new in ((mean, x.mean((0, 1, 2))), (var, x.var((0, 1, 2))), (weight, 1.0))
        )
        y, logdet = norm.flow(Tensor(x))
        want = (x - mean / weight) / np.sqrt(var / weight + 1e-5)
        np.testing.assert_allclose(y.numpy(), want, rtol=1e-9, atol=1e-12)
        assert float(logdet) == pytest.approx(-2 * np.log(var / weight + 1e-5).sum(), rel=1e-10)  # of 4 pixels
        np.testing.assert_allclose(norm.inverse(y).numpy(), x, rtol=1e-9, atol=1e-12)
    norm.eval()
    np.testing.assert_allclose(norm(Tensor(batches[-1])).numpy(), want, rtol=1e-9, atol=1e-12)  # the same function


def test_batch_norms_gradient_goes_through_this_batchs_part(rng):
    """Against the function that the averages are of this batch, given those of the batches before."""
    first, g = rng.standard_normal((4, 2, 2, 2)), rng.standard_normal((5, 2, 2, 2))

    def f(x: Tensor) -> Tensor:
        norm = BatchNorm(2, rho=0.6)
        norm.cast("float64")
        norm(Tensor(first))
        y, logdet = norm.flow(x)
        return (y * g).sum() + 3 * logdet

    check(f, rng.standard_normal((5, 2, 2, 2)), order=2, single=False)


def test_frozen_repeats_what_was_computed(rng):
    norm = BatchNorm(2, rho=0.6)
    norm.cast("float64")
    x = Tensor(rng.standard_normal((5, 2, 2, 2)))
    norm(Tensor(rng.standard_normal((5, 2, 2, 2))))
    y, before = norm(x).numpy(), norm.state()
    with frozen():
        np.testing.assert_allclose(norm(x).numpy(), y, rtol=1e-12)
    for name, value in norm.state().items():
        np.testing.assert_array_equal(value, before[name])


def test_networks_start_at_zero_and_every_residual_block_reaches_the_output(rng):
    net = ResNet(3, 4, 5, 2, rng, classes=0, rho=0.5)
    net.cast("float64")
    x = Tensor(rng.standard_normal((6, 3, 3, 3)))
    assert (net(x).numpy() == 0).all()
    net.last.gain.data += 1
    y = net(x)
    for p in [*net.blocks[0], *net.blocks[1], *net.skips]:
        assert np.abs(grad((y * y).sum(), p.layer.weight, allow_unused=True).numpy()).max() > 1e-9


def test_what_leaves_are_pixels_of_a_diagonal(rng):
    x = Tensor(np.arange(8.0).reshape(1, 1, 1, 8))  # two channels of the pixels 0 1 / 2 3
    stays, leaves = factor_out(x)
    assert stays.numpy().ravel().tolist() == [0, 1, 6, 7] and leaves.numpy().ravel().tolist() == [2, 3, 4, 5]
    np.testing.assert_array_equal(put_back(stays, leaves).numpy(), x.numpy())


def test_classes(rng):
    model, x, (labels,) = trained(rng, classes=3)
    np.testing.assert_allclose(model.decode(model.encode(x, labels)[0], labels).numpy(), x.numpy(), rtol=0, atol=1e-9)
    J = jacobian(lambda x: concat(*map(rows, model.encode(x, labels)[0]), axis=1), x)
    np.testing.assert_allclose(model.encode(x, labels)[1].numpy(), np.linalg.slogdet(J)[1], rtol=1e-9)
    assert (np.abs(model.log_prob(x, labels).numpy() - model.log_prob(x, (labels + 1) % 3).numpy()) > 1e-6).all()
    with pytest.raises(ValueError, match="expected 6 labels"):
        model.log_prob(x)


def test_the_penalty_is_of_the_gains(rng):
    model, _, _ = trained(rng, 1)
    gains = [m.gain.numpy() for m in model.modules() if isinstance(m, WeightNorm)]
    assert len(gains) == 6 * 10  # 6 convolutions in each of 3 + 3 + 4 couplings
    assert float(model.penalty()) == pytest.approx(sum((g**2).sum() for g in gains), rel=1e-12)


def test_gradients(rng):
    model, x, _ = trained(rng, 2)
    p = model.checkered[0][0].net.first.layer.weight

    def f(w: Tensor) -> Tensor:
        p.data, p.node = w.data, w.node
        return model.log_prob(x)

    check(f, p.data.copy(), order=1, single=False)


def test_samples_and_temperature(rng):
    model, _, _ = trained(rng)
    draws = [model.sample(3, np.random.default_rng(seed), temperature=0).numpy() for seed in (0, 1)]
    np.testing.assert_array_equal(*draws)
    hot = model.sample(100, rng)
    assert hot.dtype == np.int64 and 0 <= hot.numpy().min() < hot.numpy().max() <= 16


def test_dequantised_images_stay_within_their_level(rng):
    x = np.array([0, 1, 100, 254, 255], np.uint8).repeat(20_000)
    y = dequantise(x, 256, rng)
    assert y.dtype == np.float32 and (np.floor(y) == x).all()  # rounding to float32 leads none to the next level
    for level in np.unique(x):
        u = y[x == level] - level
        assert u.mean() == pytest.approx(0.5, abs=0.01) and u.var() == pytest.approx(1 / 12, abs=0.002)
    assert (dequantise(x, 256, rng) != y).any()

    class Largest:
        def random(self, shape: tuple, dtype: type) -> np.ndarray:
            return np.full(shape, np.nextafter(dtype(1), dtype(0)))

    assert (np.floor(dequantise(x, 256, Largest())) == x).all()  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pixels must be 0 to 16 for levels=17, not 0 to 255"):
        dequantise(x, 17, rng)
    with pytest.raises(TypeError, match="whole numbers"):
        dequantise(x / 2, 256, rng)


def test_bad_input(rng):
    model, x, _ = trained(rng, 1)
    with pytest.raises(ValueError, match="images of 6x8 cannot be squeezed 2 times: both sides must be multiples of 4"):
        RealNVP((6, 8, 1), rng, scales=3, width=2, blocks=1)
    with pytest.raises(ValueError, match=r"dequantised pixels, x \+ u of 0 to 17"):
        model.log_prob(Tensor(x.numpy() - 5))
    with pytest.raises(ValueError, match="dequantised pixels"):
        model.log_prob(Tensor(x.numpy() * np.nan))
    with pytest.raises(TypeError, match="expected dequantised images of float64, got float32"):
        model.log_prob(x.cast("float32"))
    with pytest.raises(ValueError, match="scales and width"):
        RealNVP((4, 4, 1), rng, scales=0)
    with pytest.raises(ValueError, match="rho in"):
        RealNVP((4, 4, 1), rng, rho=1.0)


def test_drawing_before_the_first_batch_initialises_nothing(rng):
    model = RealNVP((4, 4, 1), rng, levels=4, scales=2, width=4, blocks=1)
    model.train()
    model.decode(model.noise(3, rng))
    marks = [value for name, value in model.state().items() if name.endswith("initialised")]
    assert marks and not any(np.asarray(mark).any() for mark in marks)
