"""Every kernel, as its inputs.py declares it: each implementation against the NumPy reference in float64.

`gpu` runs on a card where there is one, else on the CPU through kernels/cuda.cuh and g++.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from micrognm.kernels.drawn import Drawn

FOLDERS = sorted(path.parent for path in Path(__file__).parents[2].glob("kernels/*/inputs.py"))
FUNCTIONS = [
    pytest.param(folder.name, name, id=f"{folder.name}.{name}")
    for folder in FOLDERS
    for name in importlib.import_module(f"micrognm.kernels.{folder.name}.inputs").STRATEGIES
]
IMPLEMENTATIONS = [
    "cpu",
    pytest.param(
        "gpu",
        marks=pytest.mark.skipif(shutil.which("g++") is None, reason="CUDA C runs here only through g++; install it"),
    ),
]


def part(kernel: str, implementation: str) -> ModuleType:
    return importlib.import_module(f"micrognm.kernels.{kernel}.{implementation}")


def arrays(results: Any) -> list[np.ndarray]:
    return [np.asarray(x) for x in (results if isinstance(results, tuple | list) else (results,)) if x is not None]


def cast(args: tuple, dtype: Any) -> tuple:
    """The arguments with floats of this dtype."""
    return tuple(x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x for x in args)


def run(function: Callable, args: tuple, in_place: bool) -> list[np.ndarray]:
    """What a call computes: its results, or the arrays that it was made to change."""
    result = function(*args)
    return [x for x in args if isinstance(x, np.ndarray)] if in_place else arrays(result)


@contextmanager
def dirty() -> Iterator[None]:
    """Memory that is not cleared holds NaN: an element that a kernel does not write shows."""
    empty, empty_like = np.empty, np.empty_like

    def fill(x: np.ndarray) -> np.ndarray:
        x.fill(np.nan if x.dtype.kind == "f" else np.iinfo(x.dtype).max if x.dtype.kind in "iu" else 1)
        return x

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "empty", lambda *args, **options: fill(empty(*args, **options)))
        patch.setattr(np, "empty_like", lambda *args, **options: fill(empty_like(*args, **options)))
        yield


def verify(kernel: str, name: str, function: Callable, drawn: Drawn, dtypes: tuple[type, ...]) -> None:
    """Hold a function against the kernel's reference, on the arguments that were drawn and on strided ones."""
    in_place = getattr(part(kernel, "inputs"), "IN_PLACE", False)
    for dtype in dtypes:
        given = cast(drawn.args, dtype)
        wanted = run(getattr(part(kernel, "reference"), name), cast(cast(drawn.args, dtype), np.float64), in_place)
        strided = tuple(spread(x) if isinstance(x, np.ndarray) and not in_place else x for x in given)
        before = [x.copy() for x in given if isinstance(x, np.ndarray)]
        for args in (given, strided) if not in_place else (cast(given, dtype),):
            run(function, cast(args, dtype) if in_place else args, in_place)  # Numba compiles against the true np.empty
            with dirty():
                found = run(function, args, in_place)
            assert len(found) == len(wanted)
            for x, exact in zip(found, wanted, strict=True):
                assert x.shape == exact.shape
                if exact.dtype.kind != "f":
                    np.testing.assert_array_equal(x, exact)
                    continue
                assert x.dtype == dtype
                size = np.abs(exact[np.isfinite(exact)]).max(initial=1.0)
                bound = np.finfo(dtype).eps * (16 + 4 * drawn.terms) * size
                np.testing.assert_allclose(x, exact, rtol=0, atol=bound)
        for x, was in zip([x for x in given if isinstance(x, np.ndarray)], before, strict=True):
            np.testing.assert_array_equal(x, was)  # inputs are only read


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("kernel", "name"), FUNCTIONS)
@given(data=st.data())
@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
def test_every_implementation_computes_what_the_reference_does(kernel, name, implementation, data):
    drawn = data.draw(part(kernel, "inputs").STRATEGIES[name])
    dtypes = (np.float32, np.float64) if implementation == "cpu" else (np.float32,)
    verify(kernel, name, getattr(part(kernel, implementation), name), drawn, dtypes)


@pytest.mark.parametrize(
    ("kernel", "name", "right", "wrong"),
    [
        ("scatter_add", "scatter_add", "range(whole, columns)", "range(whole, columns - 1)"),
        ("nearest", "nearest", "codebook.dtype.type(-0.5)", "codebook.dtype.type(-0.4)"),
        ("rng", "uniform", "for _ in range(10):", "for _ in range(9):"),
    ],
)
def test_a_planted_error_is_caught(kernel, name, right, wrong, tmp_path):
    source = Path(part(kernel, "cpu").__file__).read_text(encoding="utf-8")
    assert source.count(right) == 1
    path = tmp_path / "cpu.py"
    path.write_text(source.replace(right, wrong), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(f"planted_{kernel}", path)
    planted = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(planted)

    @given(drawn=part(kernel, "inputs").STRATEGIES[name])
    @settings(max_examples=50, database=None, report_multiple_bugs=False, suppress_health_check=list(HealthCheck))
    def agrees(drawn):
        verify(kernel, name, getattr(planted, name), drawn, (np.float32,))

    with pytest.raises(AssertionError):
        agrees()


def spread(x: np.ndarray) -> np.ndarray:
    """The same values, every second element of a larger array."""
    if x.ndim == 0:
        return x
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


THREADED = [p for p in FUNCTIONS if getattr(part(p.values[0], "inputs"), "THREADS_AGREE", False)]


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads, NUMBA_NUM_THREADS=2")
@pytest.mark.parametrize(("kernel", "name"), THREADED)
@given(data=st.data())
@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow])
def test_results_do_not_depend_on_the_number_of_threads(kernel, name, data):
    args = cast(data.draw(part(kernel, "inputs").STRATEGIES[name]).args, np.float32)
    found = []
    for threads in (1, 2):
        numba.set_num_threads(threads)
        try:
            found.append(arrays(getattr(part(kernel, "cpu"), name)(*args)))
        finally:
            numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one, two)
