"""Every optimiser against its paper's formulas written plainly, one parameter at a time, in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from micrognm import Tensor, optim

SHAPES = [(3, 4), (5,), (), (2, 0), (1003,)]


def parameters(rng, dtype=np.float64, shapes=SHAPES):
    return [Tensor(rng.standard_normal(shape).astype(dtype), requires_grad=True) for shape in shapes]


def sgd(p, g, s, n, lr, momentum=0.0, nesterov=False):
    s["b"] = momentum * s.get("b", 0) + g
    return p - lr * (g + momentum * s["b"] if nesterov else s["b"])


def adam(p, g, s, n, lr, betas=(0.9, 0.999), eps=1e-8):
    b1, b2 = betas
    s["m"] = b1 * s.get("m", 0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0) + (1 - b2) * g**2
    return p - lr * (s["m"] / (1 - b1**n)) / (np.sqrt(s["v"] / (1 - b2**n)) + eps)


def adamax(p, g, s, n, lr, betas=(0.9, 0.999), eps=1e-8):
    b1, b2 = betas
    s["m"] = b1 * s.get("m", 0) + (1 - b1) * g
    s["u"] = np.maximum(b2 * s.get("u", 0), np.abs(g) + eps)
    return p - lr / (1 - b1**n) * s["m"] / s["u"]


def rmsprop(p, g, s, n, lr, alpha=0.99, eps=1e-8, momentum=0.0):
    s["v"] = alpha * s.get("v", 0) + (1 - alpha) * g**2
    s["b"] = momentum * s.get("b", 0) + g / (np.sqrt(s["v"]) + eps)
    return p - lr * s["b"]


def adagrad(p, g, s, n, lr, eps=1e-10):
    s["h"] = s.get("h", 0) + g**2
    return p - lr * g / (np.sqrt(s["h"]) + eps)


CASES = [
    (optim.SGD, sgd, {}),
    (optim.SGD, sgd, {"momentum": 0.9}),
    (optim.SGD, sgd, {"momentum": 0.8, "nesterov": True}),
    (optim.Adam, adam, {}),
    (optim.Adam, adam, {"betas": (0.5, 0.9), "eps": 1e-2}),
    (optim.Adamax, adamax, {}),
    (optim.Adamax, adamax, {"betas": (0.7, 0.8), "eps": 1e-2}),
    (optim.RMSProp, rmsprop, {}),
    (optim.RMSProp, rmsprop, {"momentum": 0.9, "alpha": 0.8, "eps": 1e-3}),
    (optim.Adagrad, adagrad, {}),
    (optim.Adagrad, adagrad, {"eps": 1e-1}),
]


@pytest.mark.parametrize(("kind", "formula", "options"), CASES)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_steps_follow_the_formulas(kind, formula, options, weight_decay, rng):
    ps = parameters(rng)
    plain = [p.numpy().copy() for p in ps]
    memory: list[dict] = [{} for _ in ps]
    optimiser = kind(ps, lr=lambda step: 0.1 / (step + 1), weight_decay=weight_decay, **options)
    for n in range(1, 6):
        for i, p in enumerate(ps):
            g = rng.standard_normal(p.shape)
            p.grad = Tensor(g)
            plain[i] = formula(plain[i], g + weight_decay * plain[i], memory[i], n, 0.1 / n, **options)
        optimiser.step()
        for p, q in zip(ps, plain, strict=True):
            np.testing.assert_allclose(p.numpy(), q, rtol=1e-11, atol=1e-12)


def test_adamw_decays_the_weights_and_not_the_gradient(rng):
    ps = parameters(rng)
    plain = [p.numpy().copy() for p in ps]
    memory: list[dict] = [{} for _ in ps]
    optimiser = optim.AdamW(ps, lr=0.05, weight_decay=0.3)
    for n in range(1, 5):
        for i, p in enumerate(ps):
            g = rng.standard_normal(p.shape)
            p.grad = Tensor(g)
            plain[i] = adam(plain[i] * (1 - 0.05 * 0.3), g, memory[i], n, 0.05)
        optimiser.step()
    for p, q in zip(ps, plain, strict=True):
        np.testing.assert_allclose(p.numpy(), q, rtol=1e-11, atol=1e-12)


@given(norm=st.floats(1e-3, 1e3), scale=st.floats(1e-2, 1e2), seed=st.integers(0, 99))
def test_clipping_by_norm_scales_all_gradients_alike(norm, scale, seed):
    rng = np.random.default_rng(seed)
    ps = parameters(rng, shapes=[(3, 4), (5,)])
    before = [p.numpy().copy() for p in ps]
    gs = [scale * rng.standard_normal(p.shape) for p in ps]
    for p, g in zip(ps, gs, strict=True):
        p.grad = Tensor(g)
    optimiser = optim.SGD(ps, lr=1.0, clip_norm=norm)
    optimiser.step()
    length = math.sqrt(sum((g**2).sum() for g in gs))
    assert optimiser.grad_norm == pytest.approx(length)
    for p, was, g in zip(ps, before, gs, strict=True):
        np.testing.assert_allclose(was - p.numpy(), g * min(1, norm / length), rtol=1e-9, atol=1e-9)


def test_clipping_by_value(rng):
    ps = parameters(rng, shapes=[(50,)])
    before, g = ps[0].numpy().copy(), rng.standard_normal(50)
    ps[0].grad = Tensor(g)
    optim.SGD(ps, lr=1.0, clip_value=0.5).step()
    np.testing.assert_allclose(before - ps[0].numpy(), np.clip(g, -0.5, 0.5), atol=1e-12)


def test_a_norm_that_is_not_finite_stops_before_the_weights_change(rng):
    ps = parameters(rng, shapes=[(3,)])
    before = ps[0].numpy().copy()
    ps[0].grad = Tensor(np.array([1.0, np.nan, 0.0]))
    with pytest.raises(FloatingPointError, match="norm of the gradients is nan"):
        optim.SGD(ps, lr=1.0, clip_norm=1.0).step()
    np.testing.assert_array_equal(ps[0].numpy(), before)


def test_parameters_are_views_of_one_array_and_keep_their_values(rng):
    ps = parameters(rng)
    values = [p.numpy().copy() for p in ps]
    optimiser = optim.Adam(ps)
    flat = optimiser.arena.data
    assert flat.size == sum(v.size for v in values)
    for p, v in zip(ps, values, strict=True):
        np.testing.assert_array_equal(p.numpy(), v)
        assert p.size == 0 or np.shares_memory(p.data, flat)
    flat[...] = 7
    assert all((p.numpy() == 7).all() for p in ps)


def test_float32_stays_float32(rng):
    for kind, _, options in CASES:
        ps = parameters(rng, np.float32, [(4,)])
        optimiser = kind(ps, lr=0.1, weight_decay=0.1, clip_norm=1.0, **options)
        ps[0].grad = Tensor(rng.standard_normal(4).astype(np.float32))
        optimiser.step()
        assert ps[0].dtype == np.float32
        assert {a.dtype.name for name, a in optimiser.state().items() if name != "steps"} <= {"float32"}


@pytest.mark.parametrize(("kind", "formula", "options"), CASES)
def test_state_resumes_bit_for_bit(kind, formula, options, rng):
    gs = rng.standard_normal((6, 4))

    def run(cut):
        ps = [Tensor(np.ones(4), requires_grad=True)]
        optimiser = kind(ps, lr=optim.cosine(0.1, 6), **options)
        ema = optim.EMA(optimiser, 0.9)
        for n, g in enumerate(gs):
            if n == cut:
                weights, state, averages = ps[0].numpy().copy(), optimiser.state(), ema.state()
                ps = [Tensor(weights, requires_grad=True)]
                optimiser = kind(ps, lr=optim.cosine(0.1, 6), **options)
                optimiser.load(state)
                ema = optim.EMA(optimiser, 0.9)
                ema.load(averages)
            ps[0].grad = Tensor(g)
            optimiser.step()
        return ps[0].numpy().copy(), ema.average.copy()

    for a, b in zip(run(None), run(3), strict=True):
        np.testing.assert_array_equal(a, b)


def test_state_that_does_not_fit_is_refused_entry_by_entry(rng):
    optimiser = optim.Adam(parameters(rng, shapes=[(4,)]))
    state = optimiser.state()
    wrong = {"steps": state["steps"], "m": state["m"][:3], "w": state["v"]}
    with pytest.raises(ValueError, match=r"m is float64\[3\], expected float64\[4\]; v is missing; w is unexpected"):
        optimiser.load(wrong)
    assert optimiser.steps == 0
    ema = optim.EMA(optimiser, 0.5)
    with pytest.raises(ValueError, match="average is missing"):
        ema.load({"steps": np.asarray(1)})


def test_state_is_a_copy(rng):
    ps = parameters(rng, shapes=[(4,)])
    optimiser = optim.Adam(ps)
    state = optimiser.state()
    ps[0].grad = Tensor(np.ones(4))
    optimiser.step()
    assert not state["m"].any() and state["steps"] == 0


def at_rest(ps):
    """An optimiser whose steps leave the parameters as they are."""
    for p in ps:
        p.grad = Tensor(np.zeros(p.shape))
    return optim.SGD(ps, lr=0.0)


def test_ema_is_the_weighted_sum_of_all_weights(rng):
    ps = parameters(rng, shapes=[(3,)])
    optimiser = at_rest(ps)
    ema = optim.EMA(optimiser, 0.9)
    want = ps[0].numpy().copy()
    for _ in range(5):
        ps[0].data[...] = rng.standard_normal(3)
        optimiser.step()
        want = 0.9 * want + 0.1 * ps[0].numpy()
    np.testing.assert_allclose(ema.average, want, rtol=1e-12)
    trained = ps[0].numpy().copy()
    with pytest.raises(KeyError), ema.swapped():
        np.testing.assert_allclose(ps[0].numpy(), want, rtol=1e-12)
        raise KeyError
    np.testing.assert_array_equal(ps[0].numpy(), trained)


def test_ema_decay_may_grow_with_the_step(rng):
    ps = parameters(rng, shapes=[(3,)])
    optimiser = at_rest(ps)
    # so it is the plain mean of what came
    ema = optim.EMA(optimiser, lambda step: min(0.99, step / (step + 1)))
    seen = []
    for _ in range(6):
        ps[0].data[...] = rng.standard_normal(3)
        seen.append(ps[0].numpy().copy())
        optimiser.step()
    np.testing.assert_allclose(ema.average, np.mean(seen, axis=0), rtol=1e-12)
    assert ema.steps == 6


@pytest.mark.parametrize(("kind", "formula", "options"), CASES)
def test_several_averages_follow_the_same_steps(kind, formula, options, rng):
    """The first is part of the step's kernel, the others come after it: each is what it would be alone."""

    def run(decays):
        ps = [Tensor(np.ones(4), requires_grad=True), Tensor(np.full(3, 2.0), requires_grad=True)]
        optimiser = kind(ps, lr=0.1, **options)
        averages = [optim.EMA(optimiser, decay) for decay in decays]
        draws = np.random.default_rng(1)
        for _ in range(4):
            for p in ps:
                p.grad = Tensor(draws.standard_normal(p.shape))
            optimiser.step()
        return [optimiser.arena.data, *(ema.average for ema in averages)]

    weights, *both = run([0.9, 0.5])
    np.testing.assert_array_equal(run([])[0], weights)
    for decay, average in zip([0.9, 0.5], both, strict=True):
        assert (average != weights).all()
        for x, y in zip(run([decay]), [weights, average], strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-14)


def test_schedules():
    ramp = optim.warmup(0.4, 4)
    assert [ramp(n) for n in (0, 1, 3, 100)] == pytest.approx([0.1, 0.2, 0.4, 0.4])
    wave = optim.cosine(1.0, 10, least=0.2)
    assert [wave(n) for n in (0, 5, 10, 99)] == pytest.approx([1.0, 0.6, 0.2, 0.2])
    steps = optim.stepwise(1.0, every=3, factor=0.5)
    assert [steps(n) for n in (0, 2, 3, 6)] == pytest.approx([1.0, 1.0, 0.5, 0.25])
    fall = optim.exponential(1.0, every=2, factor=0.25)
    assert [fall(n) for n in (0, 1, 2)] == pytest.approx([1.0, 0.5, 0.25])
    both = optim.warmup(optim.cosine(1.0, 10), 2)
    assert both(0) == pytest.approx(0.5) and both(10) == pytest.approx(0.0)
    with pytest.raises(ValueError, match="warmup: the number of steps must be at least 1, got 0"):
        optim.warmup(0.1, 0)


def test_the_rate_follows_its_schedule(rng):
    ps = parameters(rng, shapes=[(1,)])
    optimiser = optim.SGD(ps, lr=optim.warmup(0.4, 4))
    seen = []
    for _ in range(3):
        seen.append(optimiser.lr)
        ps[0].grad = Tensor(np.ones(1))
        optimiser.step()
    assert seen == pytest.approx([0.1, 0.2, 0.3])


def test_errors_say_what_is_wrong(rng):
    ps = parameters(rng, shapes=[(2,), (3,)])
    optimiser = optim.Adam(ps)
    ps[0].grad = Tensor(np.ones(2))
    with pytest.raises(ValueError, match=r"no gradient for parameter 1 \(float64\[3\]\); call loss.backward"):
        optimiser.step()
    with pytest.raises(ValueError, match=r"parameter 0 .* is in another optimiser's arena"):
        optim.SGD(ps[:1], lr=0.1)
    with pytest.raises(ValueError, match="given twice"):
        optim.SGD([*parameters(rng, shapes=[(2,)])] * 2, lr=0.1)
    with pytest.raises(ValueError, match="several dtypes"):
        optim.SGD([*parameters(rng, shapes=[(2,)]), *parameters(rng, np.float32, [(2,)])], lr=0.1)
    with pytest.raises(ValueError, match="no parameters"):
        optim.SGD([], lr=0.1)
    with pytest.raises(ValueError, match="is not a leaf"):
        optim.SGD([Tensor([1.0])], lr=0.1)
    with pytest.raises(ValueError, match="lr must be >= 0"):
        optim.SGD(parameters(rng), lr=-1.0)
    with pytest.raises(ValueError, match="clip_norm must be >= 0"):
        optim.SGD(parameters(rng), lr=1.0, clip_norm=-1.0)
    with pytest.raises(ValueError, match="betas"):
        optim.Adam(parameters(rng), betas=(1.0, 0.9))
    with pytest.raises(ValueError, match="nesterov needs a momentum"):
        optim.SGD(parameters(rng), lr=1.0, nesterov=True)
    with pytest.raises(ValueError, match="decay must be in"):
        optim.EMA(at_rest(parameters(rng)), 1.0)
    with pytest.raises(TypeError, match="EMA: expected an optimiser, whose steps it follows, got list"):
        optim.EMA(parameters(rng), 0.9)


def test_two_optimisers_may_share_one_arena_and_a_dead_one_frees_it(rng):
    ps = parameters(rng, shapes=[(2,), (3,)])
    first = optim.Adam(ps)
    assert optim.SGD(ps, lr=0.1).arena is first.arena
    del first
    optim.SGD(ps[:1], lr=0.1)  # the arena died with its optimiser


def test_zero_grad_forgets(rng):
    ps = parameters(rng, shapes=[(2,)])
    optimiser = optim.SGD(ps, lr=0.1)
    (ps[0] * 3.0).sum().backward()
    (ps[0] * 3.0).sum().backward()
    np.testing.assert_array_equal(ps[0].grad.numpy(), [6.0, 6.0])
    optimiser.zero_grad()
    assert ps[0].grad is None
