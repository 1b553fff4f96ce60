"""The laws of the multi-scale PixelRNN: two densities in a row, the bound they give, and samples as they say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import chisquare

from micrognm import Tensor, grad, no_grad
from micrognm.models.autoregressive.multi_scale import MultiScale
from micrognm.models.autoregressive.upsample import Upsample

KINDS = ["row", "diagonal"]


def small(rng, kind="row", shape=(2, 2, 1), **options) -> MultiScale:
    """A model in float64 whose weights are large, so that every connection shows."""
    model = MultiScale(shape, rng, kind=kind, h=6, head=6, told=5, **options)
    model.cast("float64")
    for p in model.parameters():
        p.data[...] = 0.4 * rng.standard_normal(p.shape)
    model.eval()
    return model


def every(shape, levels=2) -> np.ndarray:
    """All images of a shape."""
    values = list(itertools.product(range(levels), repeat=int(np.prod(shape))))
    return np.array(values, float if levels == 2 else int).reshape(-1, *shape)


def conditional(model, x, smaller) -> np.ndarray:
    """log p(x | x_s) of all pairs, [x_s, x]."""
    pairs = [model.given(1, Tensor(np.broadcast_to(s, (len(x), *s.shape)).copy())) for s in smaller]
    return np.array([model.nets[1].log_prob(Tensor(x), pair).numpy() for pair in pairs])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "levels"), [((2, 2, 1), 2), ((2, 2, 1), 3), ((4, 2, 1), 2), ((2, 2, 3), 2)])
def test_both_densities_sum_to_one_and_log_prob_is_below_that_of_the_whole(kind, shape, levels, rng):
    model = small(rng, kind, shape, levels=levels)
    x, x_s = every(shape, levels), every((shape[0] // 2, shape[1] // 2, shape[2]), levels)
    with no_grad():
        first = model.nets[0].log_prob(Tensor(x_s)).numpy()
        second = conditional(model, x, x_s)
        bound = model.log_prob(Tensor(x)).numpy()
        terms = [term.numpy() for term in model.terms(Tensor(x))]
    assert np.exp(first).sum() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(np.exp(second).sum(axis=1), 1, atol=1e-6)
    assert np.ptp(second, axis=0).max() > 0.01  # x_s counts
    whole = logsumexp(first[:, None] + second, axis=0)
    assert np.exp(whole).sum() == pytest.approx(1, abs=1e-6)
    assert (bound < whole).all() and 0 < np.exp(bound).sum() < 1
    # The bound is the term of the sum whose x_s are the pixels of even rows and columns.
    own = (x[:, None, ::2, ::2] == x_s[None]).all(axis=(2, 3, 4)).argmax(axis=1)
    np.testing.assert_allclose(terms[0], first[own], rtol=1e-12)
    np.testing.assert_allclose(terms[1], second[own, np.arange(len(x))], rtol=1e-12)
    np.testing.assert_allclose(bound, terms[0] + terms[1], rtol=1e-12)


def test_three_sizes(rng):
    model = small(rng, "diagonal", (8, 4, 1), levels=3, scales=(2, 2))
    x = rng.integers(3, size=(5, 8, 4, 1))
    sizes = [x[:, ::4, ::4], x[:, ::2, ::2], x]
    with no_grad():
        for got, expected in zip(model.sizes(Tensor(x)), sizes, strict=True):
            np.testing.assert_array_equal(got.numpy(), expected)
        terms = [model.nets[0].log_prob(Tensor(sizes[0]))]
        terms += [model.nets[i].log_prob(Tensor(sizes[i]), model.given(i, Tensor(sizes[i - 1]))) for i in (1, 2)]
        np.testing.assert_allclose(
            model.log_prob(Tensor(x)).numpy(), np.sum([t.numpy() for t in terms], axis=0), rtol=1e-12
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((4, 6, 1), {"levels": 3}),
        ((4, 4, 1), {"levels": 3, "mixtures": 2}),
        ((4, 4, 3), {}),
        ((4, 8, 1), {"scales": (2, 2)}),
    ],
)
def test_the_sampler_draws_what_whole_passes_draw(kind, shape, options, rng):
    model = small(rng, kind, shape, **options)
    us = [rng.random((3, *net.shape[:2], net.draws)) for net in model.nets]
    fast = model.sample_from([Tensor(u) for u in us], temperature=0.9)
    with no_grad():
        given = None
        for i, (net, u) in enumerate(zip(model.nets, us, strict=True)):
            slow = np.zeros((3, *net.shape), np.int64)
            for y, x, c in np.ndindex(*net.shape):
                p = net.distribution(net(Tensor(slow), given)[:, y, x], 0.9)
                slow[:, y, x, c] = p.sample_from(Tensor(u[:, y, x])).numpy()[:, c]
            np.testing.assert_array_equal(fast[i].numpy(), slow)
            given = model.given(i + 1, Tensor(slow)) if i + 1 < len(model.nets) else None
    assert len(np.unique(slow)) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_sees_a_later_pixel_but_in_the_smaller_image(kind, rng):
    model = small(rng, kind, (4, 4, 1), levels=3)
    x, x_s = rng.integers(3, size=(1, 4, 4, 1)), rng.integers(3, size=(1, 2, 2, 1))
    net = model.nets[1]
    with no_grad():
        given = model.given(1, Tensor(x_s))
        before = net(Tensor(x), given).numpy().reshape(16, -1)
        for i in range(16):
            changed = x.reshape(-1).copy()
            changed[i:] = (changed[i:] + 1) % 3
            after = net(Tensor(changed.reshape(x.shape)), given).numpy().reshape(16, -1)
            np.testing.assert_allclose(after[: i + 1], before[: i + 1], rtol=0, atol=1e-12)
        for i in range(4):  # a pixel of the small image reaches its own place in the large one, and what precedes it
            changed = x_s.reshape(-1).copy()
            changed[i] = (changed[i] + 1) % 3
            after = net(Tensor(x), model.given(1, Tensor(changed.reshape(x_s.shape)))).numpy().reshape(4, 4, -1)
            own = np.s_[i // 2 * 2 : i // 2 * 2 + 2, i % 2 * 2 : i % 2 * 2 + 2]
            assert (np.abs(after - before.reshape(4, 4, -1)).max(axis=-1)[own] > 1e-9).all()


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient(kind, rng):
    model = small(rng, kind, (4, 4, 1), levels=3, scales=(2,), skip=True)
    loss = model.log_prob(Tensor(rng.integers(3, size=(4, 4, 4, 1)))).sum()
    parameters = model.named_parameters()
    for name, g in zip(parameters, grad(loss, list(parameters.values())), strict=True):
        assert np.abs(g.numpy()).max() > 0, name


@pytest.mark.parametrize("kind", KINDS)
def test_completions_follow_the_conditional_density(kind):
    """Of 4 x 2 images the upper half is known, and so the first of the two pixels of the small image."""
    rng = np.random.default_rng(3)
    model = small(rng, kind, (4, 2, 1))
    for p in [*model.nets[1].parameters(), *model.upsample[0].parameters()]:
        p.data *= 2  # so that the upper half says much of the small image's lower pixel
    upper = every((2, 2, 1))[0b0110]
    known = np.zeros((4, 2, 1), bool)
    known[:2] = True
    x = np.array([np.concatenate([upper, lower]) for lower in every((2, 2, 1))])
    x_s = np.array([[[upper[0, 0]], [[value]]] for value in (0.0, 1.0)])
    with no_grad():
        joint = model.nets[0].log_prob(Tensor(x_s)).numpy()[:, None] + conditional(model, x, x_s)
        prior = np.exp(model.nets[0].log_prob(Tensor(x_s)).numpy())
    p = np.exp(logsumexp(joint, axis=0) - logsumexp(joint))
    unweighted = prior / prior.sum() @ np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
    assert np.abs(p - unweighted).max() > 0.05  # what candidates without weights would follow is something else
    done = model.complete(Tensor(x[np.zeros(300, int)]), known, rng, candidates=64).numpy()
    np.testing.assert_array_equal(done[:, :2], np.broadcast_to(upper, (300, 2, 2, 1)))
    counts = np.bincount((done[:, 2:].reshape(-1, 4) @ [8, 4, 2, 1]).astype(int), minlength=16)
    common = p > 0.03  # the others are counted as one
    counts, p = (np.append(v[common], v[~common].sum()) for v in (counts, p))
    assert chisquare(counts, p * 300).pvalue > 1e-3


def test_with_all_pixels_known_the_sampler_gives_every_size_of_the_image(rng):
    model = small(rng, "row", (4, 4, 3), levels=3, scales=(2, 2))
    x = Tensor(rng.integers(3, size=(2, 4, 4, 3)))
    us = [Tensor(rng.random((2, *net.shape[:2], net.draws))) for net in model.nets]
    for got, expected in zip(model.sample_from(us, x=x, known=np.ones((4, 4, 1), bool)), model.sizes(x), strict=True):
        np.testing.assert_array_equal(got.numpy(), expected.numpy())
    np.testing.assert_array_equal(model.complete(x, np.ones((4, 4, 1), bool), rng, candidates=2).numpy(), x.numpy())


@pytest.mark.parametrize(
    ("small_size", "large"),
    [((1, 1), (2, 2)), ((1, 1), (7, 6)), ((2, 3), (12, 6)), ((4, 4), (4, 4)), ((3, 1), (6, 5)), ((2, 2), (4, 2))],
)
def test_every_place_of_the_upsampled_map_hears_what_lies_below_it(small_size, large, rng):
    network = Upsample(small_size, large, 2, 3, rng, width=6)
    network.cast("float64")
    for p in network.parameters():
        p.data[...] = rng.standard_normal(p.shape)
    for layer in network.deconvolutions:
        layer.bias.data[...] = 30  # so that no relu is closed
    x = Tensor(rng.standard_normal((1, *small_size, 2)), requires_grad=True)
    y = network(x)
    assert y.shape == (1, *large, 3)
    steps = [b // a for a, b in zip(small_size, large, strict=True)]
    for i, j in np.ndindex(*large):
        g = grad(y[:, i, j].sum(), x).numpy()[0, i // steps[0], j // steps[1]]
        assert (np.abs(g) > 0).all()
    used = grad(y, network.parameters(), Tensor(rng.standard_normal(y.shape)))
    for layer in network.deconvolutions:
        g = used[[p is layer.weight for p in network.parameters()].index(True)].numpy()
        assert (np.abs(g).max(axis=(1, 2)) > 0).all()  # no tap is out of use


@pytest.mark.parametrize("stride", [2, 3])
def test_each_place_of_the_upsampled_map_reads_two_neighbours_along_each_axis(stride, rng):
    layer = Upsample((1, 1), (stride**2, stride**2), 1, 1, rng, width=1).deconvolutions[1]
    layer.weight.data[...] = 1
    reads = layer(Tensor(np.ones((1, 4, 5, 1), np.float32))).numpy()[0, :, :, 0]
    inside = reads[stride:-stride, stride:-stride]
    np.testing.assert_array_equal(inside, np.full(inside.shape, 4))


def test_errors_say_what_was_expected(rng):
    with pytest.raises(ValueError, match=r"sides are multiples of 4, got \[6, 8, 1\]"):
        MultiScale((6, 8, 1), rng, kind="row", scales=(2, 2))
    with pytest.raises(ValueError, match="scales of 2 or more"):
        MultiScale((4, 4, 1), rng, kind="row", scales=())
    with pytest.raises(ValueError, match=r"told of 1 or more, got \(2,\) and 0"):
        MultiScale((4, 4, 1), rng, kind="row", told=0)
    with pytest.raises(ValueError, match='"row" or "diagonal"'):
        MultiScale((4, 4, 1), rng, kind="column")
    model = small(rng, "row", (4, 4, 1), levels=3)
    with pytest.raises(ValueError, match=r"expected images \[N, 4, 4, 1\], got \[2, 2, 2, 1\]"):
        model.log_prob(Tensor(np.zeros((2, 2, 2, 1), int)))
    with pytest.raises(ValueError, match="pixel values 0 to 2"):
        model.log_prob(Tensor(np.full((2, 4, 4, 1), 3)))
    with pytest.raises(ValueError, match="expected uniform numbers for 2 sizes, got 1"):
        model.sample_from([Tensor(np.zeros((1, 2, 2, 1)))])
    with pytest.raises(ValueError, match=r"expected known \[4, 4, 1\], got \[2, 4, 1\]"):
        model.complete(Tensor(np.zeros((1, 4, 4, 1), int)), np.ones((2, 4, 1), bool), rng)
    with pytest.raises(ValueError, match="temperature > 0"):
        model.sample(1, rng, temperature=0)
    with pytest.raises(ValueError, match=r"sides \(4, 5\) must be multiples"):
        Upsample((2, 2), (4, 5), 1, 1, rng)
    with pytest.raises(ValueError, match=r"expected maps \[N, \(2, 2, 1\)\]"):
        Upsample((2, 2), (4, 4), 1, 1, rng)(Tensor(np.zeros((1, 4, 4, 1), np.float32)))
