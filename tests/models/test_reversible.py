"""Chains that store nothing: the gradients of ordinary ones, in memory that does not grow with the depth."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from micrognm import Tensor, check, concat, coupling, coupling_inverse, grad, no_grad, split, tanh
from micrognm.models.flow.glow import Glow, Step
from micrognm.models.flow.real_nvp import Coupling, RealNVP, channelwise
from micrognm.nn import Module, Parameter
from micrognm.reversible import chain, frozen, is_frozen, reversible


class Half(Module):
    """A coupling of the halves of x [N, 2 d] through one layer, which may be told something [N, d]."""

    def __init__(self, d: int, rng: np.random.Generator) -> None:
        self.W = Parameter(0.5 * rng.standard_normal((d, 2 * d)))
        self.calls: list[bool] = []

    def predict(self, a: Tensor, told: tuple) -> list[Tensor]:
        return split(tanh((a + told[0] if told else a) @ self.W), (a.shape[1],) * 2)

    def forward(self, x: Tensor, *told: Tensor) -> tuple[Tensor, Tensor]:
        self.calls.append(is_frozen())
        a, b = split(x, (x.shape[1] // 2,) * 2)
        b, logdet = coupling(b, *self.predict(a, told))
        return concat(b, a, axis=1), logdet

    def inverse(self, y: Tensor, *told: Tensor) -> Tensor:
        b, a = split(y, (y.shape[1] // 2,) * 2)
        return concat(a, coupling_inverse(b, *self.predict(a, told))[0], axis=1)


def gradients(run: Callable, blocks: list, x: Tensor, *told: Tensor, cotangents: tuple, of: list) -> list[np.ndarray]:
    y, logdet = run(blocks, x, *told)
    gy, glogdet = cotangents
    return [y.numpy(), logdet.numpy(), *(g.numpy() for g in grad((y * gy).sum() + (logdet * glogdet).sum(), of))]


@pytest.mark.parametrize("depth", [1, 2, 7])
def test_values_and_gradients_are_those_of_the_chain(depth, rng):
    blocks = [Half(3, rng) for _ in range(depth)]
    x, told = (Tensor(rng.standard_normal((4, n)), requires_grad=True) for n in (6, 3))
    of = [x, told, *(p for b in blocks for p in b.parameters())]
    cotangents = rng.standard_normal((4, 6)), rng.standard_normal(4)
    want, got = (gradients(run, blocks, x, told, cotangents=cotangents, of=of) for run in (chain, reversible))
    for a, b in zip(want, got, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("used", [0, 1])
def test_one_output_alone(used, rng):
    blocks = [Half(2, rng) for _ in range(3)]
    x = Tensor(rng.standard_normal((3, 4)), requires_grad=True)
    want, got = (grad((run(blocks, x)[used] * 1.5).sum(), x).numpy() for run in (chain, reversible))
    np.testing.assert_allclose(got, want, rtol=1e-10)


def test_a_block_that_is_used_twice_gets_both_gradients(rng):
    block = Half(2, rng)
    x = Tensor(rng.standard_normal((3, 4)))  # and the input needs none
    want, got = (grad(run([block, block], x)[0].sum(), block.W).numpy() for run in (chain, reversible))
    np.testing.assert_allclose(got, want, rtol=1e-10)


def test_gradients_of_gradients(rng):
    blocks = [Half(2, rng) for _ in range(3)]

    def f(x: Tensor, told: Tensor) -> Tensor:
        y, logdet = reversible(blocks, x, told)
        return (y * y).sum(axis=1) + logdet

    check(f, (3, 4), (3, 2), order=2, single=False)


def test_blocks_run_once_and_then_frozen(rng):
    blocks = [Half(2, rng) for _ in range(2)]
    y, _ = reversible(blocks, Tensor(rng.standard_normal((3, 4)), requires_grad=True))
    y.sum().backward()
    assert [b.calls for b in blocks] == [[False, True]] * 2
    with no_grad():
        reversible(blocks, Tensor(rng.standard_normal((3, 4))))
    assert blocks[0].calls == [False, True, False]
    with frozen(), frozen():
        pass
    assert not is_frozen()


def step(rng: np.random.Generator) -> Step:
    block = Step(4, 5, rng)
    block.cast("float64")
    return block


def masked(rng: np.random.Generator) -> Coupling:
    block = Coupling(channelwise(2, 3, 4), 5, 1, rng, classes=0, rho=0.7)
    block.cast("float64")
    return block


@pytest.mark.parametrize("make", [step, masked])
def test_blocks_of_the_models(make, rng):
    """In training mode, where a block's function depends on the batch; its buffers move as in the ordinary way."""
    blocks = [make(rng) for _ in range(4)]
    x = Tensor(rng.standard_normal((5, 2, 3, 4)), requires_grad=True)
    chain(blocks, x)  # the initialisation that depends on the data
    parameters = [p for b in blocks for p in b.parameters()]
    for p in parameters:
        p.data += 0.03 * rng.standard_normal(p.shape)
    cotangents = rng.standard_normal(x.shape), rng.standard_normal(5)
    start = [b.state() for b in blocks]
    results = []
    for run in (chain, reversible):
        for block, state in zip(blocks, start, strict=True):
            block.load(state)
        values = gradients(run, blocks, x, cotangents=cotangents, of=[x, *parameters])
        results.append(values + [v for b in blocks for v in b.state().values()])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-8, atol=1e-10)


def glow(**options) -> Glow:
    return Glow((8, 8, 1), np.random.default_rng(0), levels=17, L=2, width=8, **options)


def real_nvp(**options) -> RealNVP:
    return RealNVP((8, 8, 1), np.random.default_rng(0), levels=17, width=4, blocks=1, **options)


@pytest.mark.parametrize("make", [lambda **o: glow(K=3, **o), real_nvp])
@pytest.mark.parametrize("classes", [0, 3])
def test_whole_models(make, classes, rng):
    x, labels = Tensor(rng.uniform(0, 17, (4, 8, 8, 1))), [np.array([0, 2, 1, 1])] if classes else []
    found = []
    for storing_nothing in (False, True):
        model = make(classes=classes, reversible=storing_nothing)
        model.cast("float64")
        model.log_prob(x, *labels)
        for i, p in enumerate(model.parameters()):
            p.data += 0.03 * np.random.default_rng(i).standard_normal(p.shape)
        log_prob = model.log_prob(x, *labels)
        parameters = [p for name, p in model.named_parameters().items() if "classifier" not in name]
        found.append([log_prob.numpy(), *(g.numpy() for g in grad(log_prob.sum(), parameters))])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-7, atol=1e-8)


def peak(K: int, reversible: bool) -> int:
    """Bytes that a step takes at once, beside parameters and their gradients."""
    model = glow(K=K, reversible=reversible)
    x = Tensor(np.random.default_rng(0).uniform(0, 17, (256, 8, 8, 1)).astype(np.float32))
    for _ in range(2):  # the first fills caches
        for p in model.parameters():
            p.grad = None
        tracemalloc.start()
        (-model.log_prob(x).mean()).backward()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return most - sum(p.data.nbytes for p in model.parameters())


def test_memory_does_not_grow_with_the_depth():
    assert peak(8, True) < 1.1 * peak(2, True)
    assert peak(8, False) > 2.5 * peak(2, False)  # the measure sees what is stored


class Wrong(Half):
    def inverse(self, y: Tensor, *told: Tensor) -> Tensor:
        return super().inverse(y, *told) + 0.1


def test_an_inverse_that_leads_elsewhere_is_told(rng):
    y, _ = reversible([Half(2, rng), Wrong(2, rng)], Tensor(rng.standard_normal((3, 4)), requires_grad=True))
    with pytest.raises(FloatingPointError, match=r"2 blocks lead .* away from an input"):
        y.sum().backward()
    with pytest.raises(ValueError, match="no block"):
        reversible([], Tensor(np.zeros((3, 4)), requires_grad=True))
    with pytest.raises(ValueError, match="no block"):
        chain([], Tensor(np.zeros((3, 4))))
