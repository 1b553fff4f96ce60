"""Glow's laws: an exact inverse, the log-determinant of the full Jacobian, a density that integrates to 1."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from micrognm import Tensor, check, concat, grad, no_grad
from micrognm.models.flow import flow
from micrognm.models.flow.flow import squeeze, standard_normal, unsqueeze
from micrognm.models.flow.glow import FACTOR, Conv, Glow, Step, outside
from micrognm.nn import Module
from micrognm.optim import Adam
from micrognm.taps import square

MIXINGS, COUPLINGS = ("1x1", "plu", "shuffle", "reverse"), ("affine", "additive")
kinds = pytest.mark.parametrize(("mixing", "coupling"), [*itertools.product(MIXINGS, COUPLINGS)])


def jacobian(f, x: Tensor) -> np.ndarray:
    """[N, outputs, inputs] of f(x) [N, outputs], whose samples do not depend on each other."""
    x = Tensor(x.data, requires_grad=True)
    y = f(x)
    return np.stack([grad(y[:, i].sum(), x).numpy().reshape(len(x), -1) for i in range(y.shape[1])], axis=1)


def rows(x: Tensor) -> Tensor:
    return x.reshape(shape=(len(x), x.size // len(x)))


def moved(model: Module, rng: np.random.Generator, by: float) -> Module:
    """In float64, past its initialisation by data, every parameter away from where it starts."""
    for m in model.modules():
        if hasattr(m, "initialised"):
            m.initialised = Tensor(np.array(True))
    model.cast("float64")
    for p in model.parameters():
        p.data += by * rng.standard_normal(p.shape)
    return model


def trained(rng: np.random.Generator, steps: int = 5, **options) -> tuple[Glow, Tensor, list]:
    """A small Glow in float64 after some steps of training, images, and their labels where it is told any."""
    model = Glow((4, 4, 1), rng, levels=17, **{"L": 2, "K": 2, "width": 5} | options)
    model.cast("float64")
    x = Tensor(rng.uniform(0, 17, (6, 4, 4, 1)))
    labels = [np.arange(6) % model.classes] if model.classes else []
    optimiser = Adam(model, 0.02)
    for _ in range(steps):
        optimiser.zero_grad()
        (-(model.log_joint if labels else model.log_prob)(x, *labels).mean()).backward()
        optimiser.step()
    return model, x, labels


def test_squeeze_keeps_squares_together_and_has_an_inverse(rng):
    x = Tensor(rng.standard_normal((2, 4, 6, 3)))
    y = squeeze(x).numpy()
    for i, j in np.ndindex(2, 3):
        square = x.numpy()[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        np.testing.assert_array_equal(y[:, i, j], square.reshape(2, 12))
    np.testing.assert_array_equal(unsqueeze(squeeze(x)).numpy(), x.numpy())
    with pytest.raises(ValueError, match="even height and width"):
        squeeze(Tensor(np.zeros((1, 3, 4, 1))))
    with pytest.raises(ValueError, match="multiple of 4"):
        unsqueeze(Tensor(np.zeros((1, 3, 4, 6))))


@kinds
def test_a_step_has_an_inverse_and_the_log_determinant_of_its_jacobian(mixing, coupling, rng):
    step = moved(Step(4, 5, rng, mixing=mixing, coupling=coupling), rng, 0.2)
    x = Tensor(rng.standard_normal((3, 2, 3, 4)))
    y, logdet = step(x)
    np.testing.assert_allclose(step.inverse(y).numpy(), x.numpy(), rtol=1e-9, atol=1e-10)
    J = jacobian(lambda x: rows(step(x)[0]), x)
    np.testing.assert_allclose(logdet.numpy(), np.linalg.slogdet(J)[1], rtol=1e-9)


@kinds
def test_a_trained_model_has_an_inverse_and_the_log_determinant_of_its_jacobian(mixing, coupling, rng):
    model, x, _ = trained(rng, mixing=mixing, coupling=coupling)
    latents, logdet = model.encode(x)
    assert [z.shape[1:] for z in latents] == model.latent_shapes
    np.testing.assert_allclose(model.decode(latents).numpy(), x.numpy(), rtol=0, atol=1e-9)
    J = jacobian(lambda x: concat(*map(rows, model.encode(x)[0]), axis=1), x)
    assert J.shape == (6, 16, 16)
    np.testing.assert_allclose(logdet.numpy(), np.linalg.slogdet(J)[1], rtol=1e-9)
    e = np.concatenate([rows(z).numpy() for z in latents], axis=1)
    want = -0.5 * (e**2).sum(1) - 8 * math.log(2 * math.pi) + logdet.numpy()
    np.testing.assert_allclose(model.log_prob(x).numpy(), want, rtol=1e-12)


@pytest.mark.parametrize("mixing", ["1x1", "plu"])
def test_a_density_of_two_numbers_integrates_to_one(mixing, rng):
    steps = [moved(Step(2, 4, rng, mixing=mixing), rng, 0.15) for _ in range(2)]
    n, side = 601, 24.0
    points = np.stack(np.meshgrid(*[np.linspace(-side, side, n)] * 2), axis=-1).reshape(-1, 1, 1, 2)
    with no_grad():
        y, logdet = Tensor(points), 0.0
        for step in steps:
            y, each = step(y)
            logdet = logdet + each
        p = np.exp((standard_normal([y]) + logdet).numpy()).reshape(n, n)
    assert max(p[0].max(), p[-1].max(), p[:, 0].max(), p[:, -1].max()) < 1e-9
    assert p.sum() * (2 * side / (n - 1)) ** 2 == pytest.approx(1, abs=1e-6)


def test_a_whole_model_integrates_to_one(rng):
    """Over the four pixels of a 2x2 image, by importance sampling from a wide normal."""
    model = moved(Glow((2, 2, 1), rng, levels=2, L=1, K=2, width=4), rng, 0.1)
    with no_grad():
        spread = 1.5
        y = rng.standard_normal((200_000, 2, 2, 1)) * spread
        q = -0.5 * ((y / spread) ** 2).sum((1, 2, 3)) - 4 * math.log(spread * math.sqrt(2 * math.pi))
        latents, logdet = model.to_latents(Tensor(y), None)
        weights = np.exp((standard_normal(latents) + logdet).numpy() - q)
    assert weights.mean() == pytest.approx(1, abs=5 * weights.std() / math.sqrt(len(weights)))
    assert weights.std() / math.sqrt(len(weights)) < 0.02


def test_the_first_batch_leaves_actnorm_with_mean_0_and_variance_1(rng):
    step = Step(4, 6, rng)
    step.cast("float64")
    x = Tensor(3 * rng.standard_normal((8, 4, 4, 4)) + [5, -2, 0, 1])
    step(x)
    y = x.numpy() * np.exp(FACTOR * step.logs.numpy()) + step.b.numpy()
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-12)
    np.testing.assert_allclose(y.std((0, 1, 2)), 1, rtol=1e-5)
    inner = step.net[0].apply(Tensor(np.split(y @ step.W.numpy(), 2, axis=-1)[0]), None).numpy()
    np.testing.assert_allclose(inner.mean((0, 1, 2)), 0, atol=1e-12)
    np.testing.assert_allclose(inner.std((0, 1, 2)), 1, rtol=1e-4)
    before = step.state()
    step(Tensor(rng.standard_normal((8, 4, 4, 4))))  # a second batch changes nothing
    step.eval()
    fresh = Step(4, 6, rng)
    fresh.cast("float64")
    fresh.load(before)  # nor does a batch after a load
    fresh(Tensor(rng.standard_normal((8, 4, 4, 4))))
    for name, value in fresh.state().items():
        np.testing.assert_array_equal(value, before[name])
        np.testing.assert_array_equal(value, step.state()[name])


def test_nothing_is_initialised_in_evaluation_or_by_decoding(rng):
    model = Glow((4, 4, 1), rng, levels=17, L=1, K=1, width=4)
    before = model.state()
    model.sample(2, rng)
    model.eval()
    model.log_prob(Tensor(rng.uniform(0, 17, (2, 4, 4, 1)).astype(np.float32)))
    for name, value in model.state().items():
        np.testing.assert_array_equal(value, before[name])


def test_a_coupling_starts_as_a_constant_scale(rng):
    step = Step(4, 6, rng)
    step.cast("float64")
    a = Tensor(rng.standard_normal((3, 2, 2, 2)))
    assert all((h.numpy() == 0).all() for h in step.predict(a))


def test_plu_is_the_same_matrix_and_determinant(rng):
    step = moved(Step(6, 4, rng, mixing="plu"), rng, 0.3)
    W, logdet = step.weight()
    assert float(logdet) == pytest.approx(np.linalg.slogdet(W.numpy())[1], rel=1e-12)
    fresh = Step(6, 4, np.random.default_rng(3), mixing="plu").weight()[0].numpy()
    np.testing.assert_allclose(fresh @ fresh.T, np.eye(6), atol=1e-5)  # it starts as a rotation


def test_fixed_mixings_are_permutations(rng):
    assert (Step(4, 4, rng, mixing="reverse").W.numpy() == np.eye(4)[:, ::-1]).all()
    shuffle = Step(8, 4, rng, mixing="shuffle").W.numpy()
    assert (np.sort(shuffle, axis=0)[:-1] == 0).all() and (shuffle.sum(0) == 1).all() and (shuffle.sum(1) == 1).all()
    for mixing in ("reverse", "shuffle"):
        step = Step(4, 4, rng, mixing=mixing)
        assert "W" not in step.named_parameters() and "W" in step.named_buffers()


def test_a_convolution_knows_the_edge(rng):
    """It is that of images with a channel more, which is 1 in a margin around them."""
    layer = moved(Conv(2, 3, 3, rng), rng, 0.5)
    x = rng.standard_normal((2, 3, 4, 2))
    framed = np.zeros((2, 5, 6, 3))
    framed[..., 2] = 1
    framed[:, 1:-1, 1:-1] = np.concatenate([x, np.zeros((2, 3, 4, 1))], axis=-1)
    weight = np.concatenate([layer.W.numpy(), layer.E.numpy()[:-1, None]], axis=1)
    want = np.zeros((2, 3, 4, 3))
    for w, (dy, dx) in zip(weight, square(3).offsets, strict=True):
        want += framed[:, 1 + dy : 4 + dy, 1 + dx : 5 + dx] @ w
    want = (want + layer.E.numpy()[-1]) * np.exp(FACTOR * layer.logs.numpy())
    np.testing.assert_allclose(layer(Tensor(x)).numpy(), want, rtol=1e-10, atol=1e-12)
    assert outside(square(1), 2, 2, "float64", "cpu").numpy()[:, :-1].sum() == 0


def test_temperature(rng):
    model, _, _ = trained(rng, 3)
    model.eval()
    draws = [model.sample(3, np.random.default_rng(seed), temperature=0).numpy() for seed in (0, 1)]
    np.testing.assert_array_equal(*draws)
    assert (draws[0] == draws[0][:1]).all()
    noise, calm = model.noise(4, np.random.default_rng(0)), model.noise(4, np.random.default_rng(0), 0.7)
    for a, b in zip(noise, calm, strict=True):  # all scales
        np.testing.assert_allclose(b.numpy(), 0.7 * a.numpy())
    hot = [model.sample(50, np.random.default_rng(0), temperature=t).numpy().std(axis=0).mean() for t in (0.3, 1.0)]
    assert 0 < hot[0] < hot[1]


def test_samples_are_whole_numbers_within_the_range(rng):
    model, _, _ = trained(rng, 2)
    draws = model.sample(200, rng)
    assert draws.shape == (200, 4, 4, 1) and draws.dtype == np.int64
    assert 0 <= draws.numpy().min() < draws.numpy().max() <= 16
    np.testing.assert_array_equal(
        model.quantise(Tensor(np.array([-3.0, 0.0, 0.999, 16.5, 17.0, 90.0]))).numpy(), [0, 0, 0, 16, 16, 16]
    )
    with pytest.raises(FloatingPointError, match="NaN or infinity"):
        model.quantise(Tensor(np.array([1.0, np.nan])))


def test_classes(rng):
    model, x, (labels,) = trained(rng, classes=3, steps=8)
    np.testing.assert_allclose(model.decode(model.encode(x, labels)[0], labels).numpy(), x.numpy(), rtol=0, atol=1e-9)
    J = jacobian(lambda x: concat(*map(rows, model.encode(x, labels)[0]), axis=1), x)
    np.testing.assert_allclose(model.encode(x, labels)[1].numpy(), np.linalg.slogdet(J)[1], rtol=1e-9)
    assert (np.abs(model.log_prob(x, labels).numpy() - model.log_prob(x, (labels + 1) % 3).numpy()) > 1e-6).all()
    joint = model.log_joint(x, labels, 0.5).numpy() - model.log_prob(x, labels).numpy()
    with no_grad():
        logits = model.classifier(model.to_top(model.read(x)[0])[1].mean(axis=(1, 2))).numpy()
    q = np.take_along_axis(logits, labels[:, None], 1)[:, 0] - np.log(np.exp(logits).sum(1))
    np.testing.assert_allclose(joint, 0.5 * q, rtol=1e-9)
    assert model.sample(4, rng, np.array([0, 1, 2, 2])).shape == (4, 4, 4, 1)
    with pytest.raises(ValueError, match="expected 6 labels"):
        model.log_prob(x)
    with pytest.raises(ValueError, match="labels run from 0 to 3"):
        model.log_prob(x, np.array([0, 1, 2, 3, 0, 0]))
    with pytest.raises(ValueError, match="without classes"):
        trained(rng, 0)[0].log_prob(x, labels)
    with pytest.raises(ValueError, match="without classes"):
        trained(rng, 0)[0].log_joint(x, labels)


@pytest.mark.parametrize("mixing", ["1x1", "plu"])
def test_gradients(mixing, rng):
    model, x, _ = trained(rng, 2, mixing=mixing, K=1)
    names = model.named_parameters()
    p = names["steps.0.0.W" if mixing == "1x1" else "steps.0.0.L"]

    def f(w: Tensor) -> Tensor:
        p.data, p.node = w.data, w.node
        return model.log_prob(x)

    check(f, p.data.copy(), order=1, single=False)


def test_samples_follow_the_density(rng):
    """As many images fall into the range of pixels as the density has mass there, summed over all whole images."""
    model = Glow((2, 2, 1), rng, levels=3, L=1, K=2, width=4)
    model.cast("float64")
    model.log_prob(Tensor(rng.uniform(0, 3, (500, 2, 2, 1))))
    moved(model, rng, 0.05)
    with no_grad():
        every = np.array(list(itertools.product(range(3), repeat=4))).reshape(-1, 2, 2, 1)
        x = (every + rng.random((400, 1, 2, 2, 1))).reshape(-1, 2, 2, 1)
        p = np.exp(model.log_prob(Tensor(x)).numpy()).reshape(400, 81)
        drawn = model.decode(model.noise(40_000, rng)).numpy().reshape(40_000, 4)
    mass, share = p.mean(0).sum(), ((drawn >= 0) & (drawn <= 3)).all(1).mean()
    error = p.sum(1).std() / 20 + math.sqrt(share * (1 - share) / 40_000)
    assert 0.05 < mass < 0.95 and error < 0.02
    assert share == pytest.approx(mass, abs=5 * error)


def test_a_singular_weight_is_named_before_there_is_a_nan(rng):
    model, x, _ = trained(rng, 1)
    model.steps[0][0].W.data[:, 0] = 0
    with pytest.raises(ValueError, match="weight is singular"):
        model.log_prob(x)
    with pytest.raises(ValueError, match="singular"):
        model.sample(1, rng)


def test_bad_input(rng):
    model, x, _ = trained(rng, 0)
    with pytest.raises(ValueError, match="images of 6x8 cannot be squeezed 2 times: both sides must be multiples of 4"):
        Glow((6, 8, 1), rng, L=2, K=1, width=4)
    with pytest.raises(ValueError, match=r"dequantised pixels, x \+ u of 0 to 17"):
        model.log_prob(Tensor(x.numpy() + 1))
    with pytest.raises(ValueError, match="dequantised pixels"):
        model.log_prob(Tensor(x.numpy() * np.nan))
    with pytest.raises(ValueError, match=r"expected images \[N, 4, 4, 1\], got \[6, 4, 4\]"):
        model.log_prob(Tensor(x.numpy()[..., 0]))
    with pytest.raises(TypeError, match="expected dequantised images of float64, got int64"):
        model.log_prob(x.cast("int64"))
    with pytest.raises(ValueError, match="temperature must be 0 or more"):
        model.sample(1, rng, temperature=-1)
    with pytest.raises(ValueError, match="expected latents"):
        model.decode(model.noise(2, rng)[:1])
    with pytest.raises(ValueError, match="mixing"):
        Step(4, 4, rng, mixing="rotate")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="coupling must be"):
        Step(4, 4, rng, coupling="linear")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="even number"):
        Step(3, 4, rng)
    with pytest.raises(ValueError, match="L, K and width"):
        Glow((4, 4, 1), rng, L=0)
    with pytest.raises(ValueError, match="2 or more levels"):
        Glow((4, 4, 1), rng, levels=1)


def test_standard_normal(rng):
    z = [Tensor(rng.standard_normal((3, 2, 2, 2))), Tensor(rng.standard_normal((3, 1, 1, 4)))]
    want = sum((-0.5 * rows(e).numpy() ** 2 - 0.5 * math.log(2 * math.pi)).sum(1) for e in z)
    np.testing.assert_allclose(flow.standard_normal(z).numpy(), want, rtol=1e-12)
