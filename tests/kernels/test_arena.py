"""The arena kernel beyond the generic tests; tests/test_optim.py holds the reference against the papers' formulas."""

from __future__ import annotations

import os
import subprocess
import sys

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from micrognm.kernels.arena import cpu, gpu, inputs, reference

from micrognm import Tensor, backend, optim

MODULES = [reference, cpu, gpu]
COMMON = (1.0, np.inf, 0.0, 0.25)  # scale, limit, decay, rest: the gradient as it is, averaged by a quarter
# A step of each by hand, from p = 2, moments = 1, g = 3: its numbers, and where p and the moments go.
BY_HAND = {
    "sgd": ((), (0.1,), (1.7,)),
    "momentum": ((1.0,), (0.1, 0.5, False), (1.65, 3.5)),
    "adam": ((1.0, 1.0), (0.5, 0.75, 0.1, 1.0, 0.5), (1 - 0.35 / (9.75**0.5 + 1), 3.5, 9.75)),
    "adamax": ((1.0, 1.0), (0.5, 0.75, 0.1, 0.5), (1.9, 3.5, 3.5)),
    "rmsprop": ((1.0, 1.0), (0.1, 0.5, 1.0, 0.5), (2 - 0.05 - 0.3 / (5**0.5 + 1), 5.0, 0.5 + 3 / (5**0.5 + 1))),
    "adagrad": ((1.0,), (0.1, 1.0), (2 - 0.3 / (10**0.5 + 1), 10.0)),
}


def arrays(n, *values):
    return [np.full(n, value, np.float32) for value in values]


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("averaged", [True, False])
def test_a_step_by_hand(module, name, averaged):
    moments, numbers, after = BY_HAND[name]
    changed = arrays(5, 2.0, *moments)
    (average,) = arrays(5, 6.0) if averaged else (None,)
    getattr(module, name)(*changed, average, *COMMON, *numbers, *arrays(2, 3.0), *arrays(0, 3.0), *arrays(3, 3.0))
    for x, value in zip(changed, after, strict=True):
        np.testing.assert_allclose(x, value, rtol=1e-6)
    if averaged:
        np.testing.assert_allclose(average, 6 + (after[0] - 6) / 4, rtol=1e-6)


@pytest.mark.parametrize("module", MODULES)
def test_nesterov_looks_ahead(module):
    p, b = arrays(3, 2.0, 1.0)
    module.momentum(p, b, None, *COMMON, 0.1, 0.5, True, *arrays(3, 3.0))
    np.testing.assert_allclose(p, 2 - 0.1 * (3 + 0.5 * 3.5), rtol=1e-6)


@pytest.mark.parametrize("module", MODULES)
def test_a_gradient_is_scaled_then_clipped_then_joined_by_decay(module):
    p, g = np.array([1.0, 2.0, 4.0], np.float32), np.array([0.5, -9.0, 9.0], np.float32)
    module.sgd(p, None, 0.5, 1.0, 0.1, 0.0, 1.0, g)
    np.testing.assert_allclose(p, [1 - (0.25 + 0.1), 2 - (-1 + 0.2), 4 - (1 + 0.4)], rtol=1e-6)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("name", BY_HAND)
def test_nan_in_a_gradient_reaches_the_parameter(module, name):
    moments, numbers, _ = BY_HAND[name]
    p, average, *moments = arrays(5, 2.0, 6.0, *moments)
    g = np.array([1, 2, np.nan, 4, 5], np.float32)
    getattr(module, name)(p, *moments, average, 1.0, 0.5, 0.0, 0.25, *numbers, g)
    for x in (p, average):
        assert np.isnan(x).tolist() == [False, False, True, False, False]


@pytest.mark.parametrize("module", MODULES)
@given(sizes=st.lists(st.sampled_from([0, 1, 3, 255, 16_383, 16_385, 300_000]), max_size=3), seed=st.integers(0, 99))
@settings(max_examples=10)
def test_the_norm_of_all_gradients_together(module, sizes, seed):
    rng = np.random.default_rng(seed)
    gradients = [rng.standard_normal(size).astype(np.float32) for size in (2, *sizes)]
    want = np.linalg.norm(np.concatenate(gradients).astype(np.float64))
    np.testing.assert_allclose(module.norm(*gradients), want, rtol=1e-12 if module is not gpu else 1e-6)


@pytest.mark.parametrize("module", MODULES)
def test_gradients_may_be_strided(module, rng):
    """As a vector's gradient is that was cut out of a larger array: to make it flat copies nothing."""
    gradients = rng.standard_normal((2, 50)).astype(np.float32)
    strided = [np.repeat(g, 3)[::3] for g in gradients]
    ends = []
    for parts in (gradients, strided):
        p, m, v = (np.full(100, value, np.float32) for value in (2.0, 1.0, 1.0))
        module.adam(p, m, v, None, *COMMON, 0.5, 0.75, 0.1, 1.0, 0.5, *parts)
        ends.append([p, m, v, module.norm(*parts)])
    for x, y in zip(*ends, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("module", [reference, cpu])
@pytest.mark.parametrize("name", BY_HAND)
def test_gradients_of_another_dtype_are_cast(module, name):
    moments, numbers, after = BY_HAND[name]
    changed = arrays(5, 2.0, *moments)
    getattr(module, name)(*changed, None, *COMMON, *numbers, np.full(5, 3.0))  # float64
    for x, value in zip(changed, after, strict=True):
        np.testing.assert_allclose(x, value, rtol=1e-6)


@pytest.mark.parametrize("module", [reference, cpu])
def test_the_norm_of_gradients_of_two_dtypes(module):
    parts = np.full(3, 2, np.float32), np.full(4, 2, np.float64)
    assert module.norm(*parts) == module.norm(*parts[::-1]) == pytest.approx(28**0.5, rel=1e-12)


@pytest.mark.parametrize("module", [reference, cpu])
def test_the_norm_of_what_float32_cannot_square(module):
    np.testing.assert_allclose(module.norm(*arrays(4, 1e30)), 2e30, rtol=1e-6)
    assert np.isnan(module.norm(np.array([1, np.nan], np.float32)))
    assert module.norm(np.array([1, -np.inf], np.float32)) == np.inf


@pytest.mark.parametrize("name", inputs.STRATEGIES)
@given(data=st.data())
@settings(max_examples=5)
def test_results_do_not_depend_on_the_number_of_threads(name, data):
    args = data.draw(inputs.STRATEGIES[name]).args
    ends = []
    for threads in (1, numba.config.NUMBA_NUM_THREADS):
        copies = [x.astype(np.float32) if isinstance(x, np.ndarray) else x for x in args]
        numba.set_num_threads(threads)
        getattr(cpu, name)(*copies)
        norm = cpu.norm(copies[0], copies[0][:100])
        ends.append([norm, *(x for x in copies if isinstance(x, np.ndarray))])
    for one, many in zip(*ends, strict=True):
        np.testing.assert_array_equal(one, many)


def test_cuda_computes_in_float32_alone():
    x, g = np.zeros((2, 3))
    with pytest.raises(TypeError, match=r"arena/gpu\.cu: .*float64\[3\]. MICROGNM_KERNELS=reference"):
        gpu.sgd(x, None, *COMMON, 0.1, g)


def test_the_implementation_can_be_chosen(monkeypatch):
    x = np.zeros(1)
    assert backend.kernel("arena", x) is cpu
    monkeypatch.setattr(backend, "_kernels", "auto")  # put back at the end
    for name, module in (("reference", reference), ("gpu", gpu), ("cpu", cpu)):
        backend.use_kernels(name)
        assert backend.kernel("arena", x) is module
    with pytest.raises(ValueError, match=r"kernels 'fast' are unknown; known ones .*: auto, reference, cpu, gpu"):
        backend.use_kernels("fast")
    done = subprocess.run(
        [sys.executable, "-c", "import micrognm"],
        env={**os.environ, "MICROGNM_KERNELS": "fast"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode and "known ones (also for MICROGNM_KERNELS): auto, reference, cpu" in done.stderr


def test_importing_micrognm_imports_no_numba():
    code = "import sys, micrognm, micrognm.optim; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_all_implementations_train_alike(monkeypatch, rng):
    monkeypatch.setattr(backend, "_kernels", "auto")
    start, gradients = rng.standard_normal(9).astype(np.float32), rng.standard_normal((20, 9)).astype(np.float32)
    ends = []
    for name in ("reference", "cpu", "gpu"):
        backend.use_kernels(name)
        p = Tensor(start.copy(), requires_grad=True)
        optimiser = optim.AdamW([p], 0.1, weight_decay=0.1, clip_norm=1.0)
        averages = [optim.EMA(optimiser, decay) for decay in (0.9, 0.5)]
        for g in gradients:
            p.grad = Tensor(g)
            optimiser.step()
        ends.append([p.numpy(), *(ema.average for ema in averages)])
    for end in ends[1:]:
        np.testing.assert_allclose(end, ends[0], rtol=1e-4, atol=1e-5)
