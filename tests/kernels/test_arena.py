"""The arena kernel: Numba against the NumPy reference, which tests/test_optim.py holds against the papers' formulas."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from micrognm.kernels.arena import cpu, reference

from micrognm import Tensor, backend, optim

NAMES = ["sgd", "momentum", "adam", "adamax", "rmsprop", "adagrad", "ema"]
ARRAYS = {"p", "g", "b", "m", "v", "u", "h", "average"}


def inputs(name, rng, size, dtype):
    """Arrays (moments are never negative) and numbers for a kernel, by the names of its parameters."""
    given = {}
    for argument in inspect.signature(getattr(reference, name)).parameters:
        if argument in ARRAYS:
            x = rng.standard_normal(size).astype(dtype)
            given[argument] = np.abs(x) if argument in ("v", "u", "h") else x
        elif argument == "nesterov":
            given[argument] = bool(rng.integers(2))
        else:
            given[argument] = dtype(rng.uniform(0.1, 0.9))
    return given


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-13), (np.float32, 3e-6)])
@given(size=st.sampled_from([0, 1, 2, 7, 8, 31, 1000]), seed=st.integers(0, 999))
@settings(max_examples=15)
def test_numba_computes_what_the_reference_does(name, dtype, tolerance, size, seed):
    rng = np.random.default_rng(seed)
    ours = inputs(name, rng, size, dtype)
    exact = {
        k: x.astype(np.float64) if isinstance(x, np.ndarray) else x if k == "nesterov" else float(x)
        for k, x in ours.items()
    }
    before = {k: x.copy() for k, x in ours.items() if isinstance(x, np.ndarray)}
    getattr(cpu, name)(*ours.values())
    getattr(reference, name)(*exact.values())
    for argument, x in before.items():
        assert ours[argument].dtype == dtype
        np.testing.assert_allclose(ours[argument], exact[argument], rtol=tolerance, atol=tolerance)
        if argument == "g" or (name == "ema" and argument == "p"):
            np.testing.assert_array_equal(ours[argument], x)  # read only
        elif size > 10:
            assert (ours[argument] != x).mean() > 0.9  # every element is written


@pytest.mark.parametrize("name", [name for name in NAMES if name != "ema"])
@pytest.mark.parametrize("module", [cpu, reference])
def test_nan_in_a_gradient_reaches_the_parameter(name, module, rng):
    given = inputs(name, rng, 5, np.float32)
    given["g"][2] = np.nan
    getattr(module, name)(*given.values())
    assert np.isnan(given["p"]).tolist() == [False, False, True, False, False]


@pytest.mark.parametrize("module", [cpu, reference])
def test_a_gradient_is_scaled_then_clipped_then_joined_by_decay(module):
    p, g = np.array([1.0, 2.0]), np.array([0.5, -9.0])
    module.sgd(p, g, 0.5, 1.0, 0.1, 1.0)
    np.testing.assert_allclose(p, [1 - (0.25 + 0.1), 2 - (-1 + 0.2)], rtol=1e-15)


def test_the_implementation_can_be_chosen(monkeypatch):
    x = np.zeros(1)
    assert backend.kernel("arena", x) is cpu
    monkeypatch.setattr(backend, "_kernels", "auto")  # put back at the end
    backend.use_kernels("reference")
    assert backend.kernel("arena", x) is reference
    with pytest.raises(ValueError, match=r"kernels 'fast' are unknown; known ones .*: auto, reference, cpu"):
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


def test_both_implementations_train_alike(monkeypatch, rng):
    monkeypatch.setattr(backend, "_kernels", "auto")
    start, gradients = rng.standard_normal(9), rng.standard_normal((20, 9))
    ends = []
    for name in ("cpu", "reference"):
        backend.use_kernels(name)
        p = Tensor(start.copy(), requires_grad=True)
        optimiser = optim.AdamW([p], 0.1, weight_decay=0.1, clip_norm=1.0)
        ema = optim.EMA(optimiser, 0.9)
        for g in gradients:
            p.grad = Tensor(g)
            optimiser.step()
            ema.update()
        ends.append([p.numpy(), ema.average])
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-12)
