"""VQ-VAE: the quantiser against its equations, the bound against the likelihood, and priors that are densities."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from micrognm import Tensor, grad, no_grad
from micrognm.codes import histogram_nats
from micrognm.distributions import LogisticMixture
from micrognm.models.latent.prior import CodePixelCNN, CodePixelSNAIL, _embedded
from micrognm.models.latent.vq_vae import VQVAE
from micrognm.nn import Embedding
from micrognm.nn.quantiser import Quantiser, perplexity
from micrognm.optim import Adam, cosine


def quantiser(rng, K=5, D=3, **options) -> Quantiser:
    """In float64, with entries that are far apart."""
    made = Quantiser(K, D, rng, **options)
    made.cast("float64")
    made.e.data[...] = rng.standard_normal((K, D))
    return made


def drawn(model, rng):
    """The model in float64, its weights large enough that every input counts."""
    model.cast("float64")
    for p in model.parameters():
        p.data[...] = 0.3 * rng.standard_normal(p.shape)
    for layer in model.modules():
        if hasattr(layer, "initialised"):
            layer.initialised = Tensor(np.array(True))
    model.eval()
    return model


def small(rng, **options) -> VQVAE:
    return drawn(
        VQVAE((4, 4, 1), rng, **{"levels": 3, "halvings": 1, "h": 5, "r": 4, "blocks": 1, "K": 3, "D": 2, **options}),
        rng,
    )


# ---- the quantiser ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_the_nearest_entry_is_taken_and_passes_the_decoders_gradient_to_the_encoder(decay, rng):
    q = quantiser(rng, decay=decay)
    z, w = Tensor(rng.standard_normal((2, 3, 4, 3)), requires_grad=True), Tensor(rng.standard_normal((2, 3, 4, 3)))
    e = q.e.numpy().copy()
    z_q, index, _ = q(z)
    want = ((z.numpy()[..., None, :] - e) ** 2).sum(axis=-1).argmin(axis=-1)
    np.testing.assert_array_equal(index.numpy(), want)
    np.testing.assert_array_equal(z_q.numpy(), e[want])

    def decoder(x: Tensor) -> Tensor:
        return (w * x * x * x).sum()

    at = Tensor(z_q.numpy(), requires_grad=True)
    np.testing.assert_array_equal(grad(decoder(z_q), z).numpy(), grad(decoder(at), at).numpy())
    if decay == 0:  # nothing of it reaches the codebook, which the loss trains
        assert grad(decoder(z_q), q.e, allow_unused=True).numpy().any() == 0


def test_the_loss_and_its_gradients_are_those_of_equation_3(rng):
    z = Tensor(rng.standard_normal((2, 4, 3)), requires_grad=True)
    q = quantiser(rng, decay=0.0, beta=0.3)
    _, index, loss = q(z)
    away = z.numpy() - q.e.numpy()[index.numpy()]
    assert loss.item() == pytest.approx(1.3 * (away**2).mean(), rel=1e-12)
    dz, de = (g.numpy() for g in grad(loss, [z, q.e]))
    np.testing.assert_allclose(dz, 0.3 * 2 * away / z.size, rtol=1e-12)  # 0 if it were computed from z_q
    want = np.zeros_like(de)
    np.add.at(want, index.numpy(), -2 * away / z.size)
    np.testing.assert_allclose(de, want, rtol=1e-12, atol=1e-15)
    averaged = quantiser(rng, decay=0.9, beta=0.3)
    _, index, loss = averaged(z)
    assert not averaged.parameters()
    assert loss.item() > 0 and np.abs(grad(loss, z).numpy()).max() > 0


def test_the_averages_are_those_of_appendix_a1(rng):
    q = quantiser(rng, decay=0.8, revive=0.0)
    N, m, e = np.zeros(5), np.zeros((5, 3)), q.e.numpy().copy()
    for _ in range(4):
        z = rng.standard_normal((6, 5, 3))
        index = q(Tensor(z)).codes.numpy()
        for k in range(5):
            N[k] = 0.8 * N[k] + 0.2 * (index == k).sum()
            m[k] = 0.8 * m[k] + 0.2 * z[index == k].sum(axis=0)
            e[k] = (m[k] + q.EPS * e[k]) / (N[k] + q.EPS)
        for mine, want in ((q.N, N), (q.m, m), (q.e, e)):
            np.testing.assert_allclose(mine.numpy(), want, rtol=1e-12)


def test_after_one_batch_a_used_entry_is_the_mean_of_what_used_it(rng):
    q = quantiser(rng, decay=0.99, revive=0.0)
    z = rng.standard_normal((200, 3))
    index = q(Tensor(z)).codes.numpy()
    for k in np.unique(index):
        np.testing.assert_allclose(q.e.numpy()[k], z[index == k].mean(axis=0), rtol=1e-3, atol=1e-5)


def test_on_a_fixed_batch_the_entries_become_k_means(rng):
    from sklearn.cluster import KMeans

    centres = 10 * np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    separate = centres.repeat(20, axis=0) + rng.standard_normal((100, 3)), centres + 3 * rng.standard_normal((5, 3))
    cloud = rng.standard_normal((200, 3)), rng.standard_normal((5, 3))
    for z, start in (separate, cloud):
        q = quantiser(rng, decay=0.7)
        q.e.data[...] = start
        for _ in range(200):
            index = q(Tensor(z)).codes.numpy()
        means = np.stack([z[index == k].mean(axis=0) for k in range(5)])
        np.testing.assert_allclose(q.e.numpy(), means, atol=1e-10)
        # Lloyd's algorithm has nothing to add; on separate clusters it also ends there from the same start.
        for init in (means, start)[: 2 if z is separate[0] else 1]:
            lloyd = KMeans(5, init=init, n_init=1, tol=0).fit(z)
            np.testing.assert_allclose(lloyd.cluster_centers_, means, atol=1e-10)


def test_an_entry_that_nothing_uses_stays_where_it_is(rng):
    q = quantiser(rng, decay=0.5, revive=0.0)
    q.e.data[2] = 100
    for _ in range(100):
        q(Tensor(rng.standard_normal((20, 3))))
    np.testing.assert_array_equal(q.e.numpy()[2], 100)


def test_dead_entries_come_back(rng):
    z = rng.standard_normal((50, 3))
    revived = []
    for seed in (1, 1, 2):
        q = quantiser(np.random.default_rng(seed), K=8, decay=0.9, revive=0.1)
        q.e.data[...] = np.arange(8)[:, None] * 1000  # all choose the first
        assert perplexity(q(Tensor(z)).codes, 8) == 1
        np.testing.assert_allclose(q.e.numpy()[0], z.mean(axis=0), rtol=1e-4)
        rows = [int(np.flatnonzero((z == e).all(axis=1))[0]) for e in q.e.numpy()[1:]]
        assert len(set(rows)) == 7  # seven different ones of the batch
        even = 0.1 * 50 / 8
        np.testing.assert_allclose(q.N.numpy(), [0.1 * 50] + [even] * 7)
        np.testing.assert_allclose(q.m.numpy()[1:], even * q.e.numpy()[1:])
        revived.append(rows)
        for _ in range(20):
            index = q(Tensor(z)).codes
        assert perplexity(index, 8) > 5
    assert revived[0] == revived[1] != revived[2]


def test_only_dead_entries_are_moved(rng):
    """Of shares of 40, 40, 1 and 19 %, the third is less than 0.2 / 4: alone it is moved, to a number of the batch."""
    for revive, moved in ((0.2, [2]), (0.03, [])):
        q = quantiser(rng, K=4, D=1, decay=0.9, revive=revive)
        q.e.data[...] = e = np.array([[0.0], [1.0], [9.0], [3.0]])
        q.N.data[...] = [40, 40, 1, 19]
        q.m.data[...] = q.N.numpy()[:, None] * e
        q(Tensor(np.array([0.0, 0.0, 1.0, 1.0, 3.0])[:, None]))
        np.testing.assert_array_equal(np.flatnonzero(np.abs(q.e.numpy() - e) > 1e-9), moved)
        assert q.e.numpy()[2, 0] in ((0, 1, 3) if moved else (9,))


def test_nothing_moves_in_evaluation_nor_when_codes_are_read(rng):
    q = quantiser(rng)
    z = Tensor(rng.standard_normal((30, 3)))
    q(z)
    before = q.state()
    q.choose(z)
    q.eval()
    q(z)
    model = small(rng)
    model.train()
    parts = model.quantiser.state()
    model.encode(Tensor(rng.integers(3, size=(5, 4, 4, 1))))
    for after, was in ((q.state(), before), (model.quantiser.state(), parts)):
        for name, value in was.items():
            np.testing.assert_array_equal(after[name], value)
    model.loss(Tensor(rng.integers(3, size=(5, 4, 4, 1))))
    assert (model.quantiser.state()["N"] != parts["N"]).any()


def test_a_saved_quantiser_goes_on_as_it_would_have(rng):
    z = [Tensor(rng.standard_normal((9, 3))) for _ in range(6)]
    first = quantiser(np.random.default_rng(3), K=12, decay=0.5, revive=0.3)
    for each in z[:3]:
        first(each)
    second = quantiser(np.random.default_rng(4), K=12, decay=0.5, revive=0.3)
    second.load(first.state())
    second.rng.bit_generator.state = first.generators()["rng"].bit_generator.state
    for each in z[3:]:
        first(each), second(each)
    np.testing.assert_array_equal(first.e.numpy(), second.e.numpy())


def test_perplexity():
    assert perplexity(np.arange(12).reshape(3, 4) % 6, 6) == pytest.approx(6)
    assert perplexity(np.full((2, 3), 4), 6) == 1
    assert perplexity(np.array([0, 0, 0, 1]), 512) == pytest.approx(4 / 27**0.25)  # exp(-3/4 log 3/4 - 1/4 log 1/4)
    with pytest.raises(ValueError, match="no codes"):
        perplexity(np.zeros(0, int), 3)


def test_what_the_quantiser_refuses(rng):
    for options in ({"K": 0}, {"D": 0}, {"decay": 1.0}, {"revive": 1.0}, {"beta": -1.0}):
        with pytest.raises(ValueError, match="Quantiser: "):
            Quantiser(**{"K": 2, "D": 2, "rng": rng, **options})
    q = quantiser(rng)
    with pytest.raises(ValueError, match=r"no latent in z_e \[0, 3\]"):
        q(Tensor(np.zeros((0, 3))))
    with pytest.raises(ValueError, match="same D"):
        q(Tensor(np.zeros((2, 4))))
    with pytest.raises(IndexError, match="codes run from 0 to 5, the entries from 0 to 4"):
        q.entries(np.array([0, 5]))
    with pytest.raises(TypeError, match="codes must be integers"):
        q.entries(np.zeros(2))


# ---- the model -------------------------------------------------------------------------------------------------------


def test_the_encoder_learns_by_the_decoders_gradient_and_the_commitment(rng):
    """At every parameter the gradient is that of both halves written out, with z_q as a constant between them."""
    model = small(rng, mixtures=2, beta=0.4)
    x = Tensor(rng.integers(3, size=(4, 4, 4, 1)))
    got = grad(model.loss(x), model.parameters())
    scaled = model.read(x)
    z_e = model.z_e(scaled)
    z_q = Tensor(model.quantiser.entries(model.quantiser.choose(z_e)).numpy(), requires_grad=True)
    nats = -LogisticMixture(model.decoder(z_q), 3, 2).log_prob(x).mean()
    passed = grad(nats, z_q)
    away = z_e - Tensor(z_q.numpy())
    surrogate = (z_e * Tensor(passed.numpy())).sum() + 0.4 * (away * away).mean()
    decoder = {id(p) for p in model.decoder.parameters()}
    for p, g in zip(model.parameters(), got, strict=True):
        want = grad(nats if id(p) in decoder else surrogate, p).numpy()
        np.testing.assert_allclose(g.numpy(), want, rtol=1e-9, atol=1e-13)
        assert np.abs(want).max() > 0


@pytest.mark.parametrize("colours", [1, 3])
def test_for_given_codes_the_probabilities_of_all_images_sum_to_one(colours, rng):
    model = drawn(
        VQVAE((2, 2, colours), rng, levels=3 if colours == 1 else 2, halvings=1, h=4, r=3,
              blocks=1, K=3, D=2, mixtures=2), rng,
    )  # fmt: skip
    levels = model.levels
    images = np.array(list(itertools.product(range(levels), repeat=4 * colours))).reshape(-1, 2, 2, colours)
    codes = np.full((len(images), 1, 1), 1)
    assert np.exp(model.log_prob_given(Tensor(images), codes).numpy()).sum() == pytest.approx(1, abs=1e-9)


def test_the_bound_is_below_the_likelihood(rng):
    model = small(rng, mixtures=2)
    prior = drawn(CodePixelCNN(model.size, 3, rng, d=3, p=4, layers=2, head=4), rng)
    x = Tensor(rng.integers(3, size=(5, 4, 4, 1)))
    every = np.array(list(itertools.product(range(3), repeat=4))).reshape(-1, 2, 2)
    given = np.stack([model.log_prob_given(x, np.tile(z, (5, 1, 1))).numpy() for z in every])
    codes = model.encode(x).numpy()
    place = [int(np.flatnonzero((every == z).all(axis=(1, 2)))[0]) for z in codes]
    with no_grad():
        learned = prior.log_prob(Tensor(every[..., None])).numpy()
    for chosen, log_p in ((None, np.full(81, -4 * np.log(3))), (prior, learned)):
        joint = given + log_p[:, None]
        got = model.bound(x, chosen).numpy()
        np.testing.assert_allclose(got, joint[place, np.arange(5)], rtol=1e-10)
        assert (got < np.log(np.exp(joint).sum(axis=0))).all()


def test_reconstructions(rng):
    x = Tensor(rng.integers(3, size=(5, 4, 4, 1)))
    for mixtures in (0, 2):
        model = small(rng, mixtures=mixtures)
        images = model.decode(model.encode(x)).numpy()
        with no_grad():
            np.testing.assert_array_equal(images, model.image(model.out(model.read(x))[0]).numpy())
        assert images.shape == (5, 4, 4, 1) and 0 <= images.min() < images.max() <= 1
        want = ((x.numpy() / 2 - images) ** 2).mean(axis=(1, 2, 3))
        np.testing.assert_allclose(model.squared_error(x).numpy(), want)


@pytest.mark.parametrize("colours", [1, 3])
def test_the_image_of_a_mixture_is_the_mean_of_its_draws(colours, rng):
    model = VQVAE((4, 4, colours), rng, levels=256, halvings=1, h=4, r=3, K=3, D=2, mixtures=2)
    numbers = 3 if colours == 1 else 10
    params = rng.uniform(-0.3, 0.3, (1, 2, 2, numbers, 2))
    params[..., 1 + colours : 1 + 2 * colours, :] = -6  # narrow, so that nothing lies beyond the ends
    if colours == 3:  # what green looks at is red itself, the same for both components
        params[..., 1, :] = params[..., 1, :1]
        params[..., 2, :] = params[..., 2, :1]
        params[..., 7:, :] = params[..., 7:, :1]
    params = params.reshape(1, 2, 2, -1)
    draws = LogisticMixture(Tensor(np.tile(params, (4000, 1, 1, 1))), 256, 2).sample(rng).numpy() / 255
    np.testing.assert_allclose(model.image(Tensor(params)).numpy()[0], draws.mean(axis=0), atol=0.006)


def test_training_writes_images_into_codes(rng):
    """Four patterns, four codes: the error goes to nothing, and every code is used."""
    patterns = rng.integers(2, size=(4, 2, 2, 1)) * 16
    patterns[:, 0, 0, 0] = [0, 16, 0, 16]
    patterns[:, 0, 1, 0] = [0, 0, 16, 16]
    x = patterns[np.arange(64) % 4]
    model = VQVAE((2, 2, 1), rng, levels=17, halvings=1, h=16, r=8, blocks=1, K=4, D=4, decay=0.9)
    optimiser = Adam(model, lr=cosine(0.005, 240))
    for _ in range(240):
        optimiser.zero_grad()
        model.loss(Tensor(x)).backward()
        optimiser.step()
    model.eval()
    assert model.squared_error(Tensor(x)).numpy().max() < 1e-3
    assert perplexity(model.encode(Tensor(x)), 4) == pytest.approx(4)


def test_what_the_model_refuses(rng):
    with pytest.raises(ValueError, match="sides that 4 divides, got 6 x 8"):
        VQVAE((6, 8, 1), rng, halvings=2)
    for options in ({"levels": 1}, {"mixtures": -1}, {"halvings": 0}):
        with pytest.raises(ValueError, match="VQVAE: expected"):
            VQVAE((8, 8, 1), rng, **options)
    model = small(rng)
    with pytest.raises(ValueError, match=r"images \[N, 4, 4, 1\], got \[1, 4, 5, 1\]"):
        model.encode(Tensor(np.zeros((1, 4, 5, 1), int)))
    with pytest.raises(ValueError, match="integers from 0 to 2, got int64 from 0 to 3"):
        model.loss(Tensor(np.arange(16).reshape(1, 4, 4, 1) % 4))
    with pytest.raises(ValueError, match="integers from 0 to 2, got float64"):
        model.loss(Tensor(np.zeros((1, 4, 4, 1))))
    with pytest.raises(ValueError, match="mixtures=1 or more"):
        model.bound(Tensor(np.zeros((1, 4, 4, 1), int)))


# ---- the priors ------------------------------------------------------------------------------------------------------


def prior(name: str, rng, size=(2, 2), K=4):
    if name == "PixelCNN":
        return drawn(CodePixelCNN(size, K, rng, d=3, p=4, layers=3, head=4), rng)
    return drawn(CodePixelSNAIL(size, K, rng, d=3, F=6, keys=3), rng)


PRIORS = pytest.mark.parametrize("name", ["PixelCNN", "PixelSNAIL"])


@PRIORS
def test_the_probabilities_of_all_codes_sum_to_one(name, rng):
    every = np.array(list(itertools.product(range(4), repeat=4))).reshape(-1, 2, 2, 1)
    with no_grad():
        log_p = prior(name, rng).log_prob(Tensor(every)).numpy()
    assert np.exp(log_p).sum() == pytest.approx(1, abs=1e-9)
    assert np.ptp(log_p) > 0.1


@PRIORS
def test_the_sampler_draws_what_whole_passes_draw(name, rng):
    model = prior(name, rng, (3, 4), 5)
    u = rng.random((4, 3, 4, 1))
    slow = np.zeros((4, 3, 4, 1), np.int64)
    with no_grad():
        for i, j in np.ndindex(3, 4):
            slow[:, i, j] = model.distribution(model(Tensor(slow))[:, i, j]).sample_from(Tensor(u[:, i, j])).numpy()
    np.testing.assert_array_equal(model.sample_from(Tensor(u)).numpy(), slow)
    assert len(np.unique(slow)) == 5


def test_a_code_is_read_as_its_own_embedding(rng):
    """Of all codes of a large codebook, through the scaling in float32."""
    for K in (2, 3, 512, 8192):
        embedding = Embedding(K, 2, rng)
        codes = Tensor(np.arange(K).reshape(1, 1, K, 1))
        scaled = codes.cast(np.float32) * (2 / (K - 1)) - 1
        np.testing.assert_array_equal(_embedded(embedding, scaled).numpy()[0, 0], embedding.weight.numpy())


def test_samples_are_decoded_codes(rng):
    model = small(rng)
    codes = prior("PixelCNN", rng, model.size, 3)
    images = model.sample(6, np.random.default_rng(1), codes).numpy()
    want = model.decode(codes.sample(6, np.random.default_rng(1))[..., 0]).numpy()
    np.testing.assert_array_equal(images, want)


def test_the_histogram_is_of_each_place(rng):
    train, held_out = np.array([[0, 1], [0, 2], [0, 2]]), np.array([[0, 2], [1, 0]])
    want = [-np.log(4 / 6) - np.log(3 / 6), -np.log(1 / 6) - np.log(1 / 6)]  # counts 4 1 1 and 1 2 3
    assert histogram_nats(train, held_out, 3) == pytest.approx(np.mean(want))
