"""Devices, and that the same operations run on arrays that are not NumPy's.

No GPU is needed: an array that refuses to become NumPy's, as CuPy's do, stands in for CuPy.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from micrognm.kernels import cuda
from micrognm.kernels.arena import cpu, reference
from numpy.lib.mixins import NDArrayOperatorsMixin

import micrognm as mg
from micrognm import Tensor, backend, debug, grad, ops, optim
from micrognm.taps import square
from tests.ops.cases import CASES, Case
from tests.strategies import generators

# Functions of NumPy that CuPy 14.2 has under the same name, with the arguments that the operations give. Before another
# one is added here, see in CuPy's reference that it exists, and what it refuses.
IN_CUPY = set(
    "absolute add argmax argmin argsort broadcast_to clip concatenate copyto cumsum divide einsum empty_like equal "
    "exp expm1 flip floor full_like greater greater_equal inv isfinite isnan isneginf less less_equal log log1p "
    "matmul max maximum mean min minimum moveaxis multiply negative not_equal ones_like power qr repeat reshape roll "
    "round sign slogdet solve sqrt square squeeze stack subtract sum swapaxes tanh transpose tril triu where "
    "zeros_like".split()
)


needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ (apt-get install g++)")


class DeviceArray(NDArrayOperatorsMixin):
    """An ndarray behind CuPy's rules: NumPy's functions dispatch to it, NumPy's arrays do not mix with it."""

    def __init__(self, host: Any) -> None:
        self.host = np.asarray(host)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`.")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method != "__call__" or ufunc.__name__ not in IN_CUPY:
            raise TypeError(f"CuPy may have no {ufunc.__name__}.{method}: see IN_CUPY")
        out = kwargs.pop("out", None)
        result = ufunc(*map(_bare, inputs), **({} if out is None else {"out": tuple(map(_bare, out))}), **kwargs)
        return DeviceArray(result) if out is None else out[0]

    def __array_function__(self, func: Callable, types: Any, args: Any, kwargs: Any) -> Any:
        if func.__name__ not in IN_CUPY:
            raise TypeError(f"CuPy may have no {func.__name__}: see IN_CUPY")
        if func is np.where and not isinstance(args[0], DeviceArray):
            raise AttributeError("cupy.where calls condition.astype")
        if func is np.linalg.solve and _bare(args[0]).shape[:-1] != _bare(args[1]).shape[:-1]:
            raise ValueError("cupy.linalg.solve does not broadcast")
        result = func(*map(_bare, args), **{name: _bare(x) for name, x in kwargs.items()})
        return tuple(map(DeviceArray, result)) if isinstance(result, tuple) else DeviceArray(result)

    def __getitem__(self, index: Any) -> DeviceArray:
        return DeviceArray(self.host[_index(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        self.host[_index(index)] = _bare(value)

    def __bool__(self) -> bool:
        return bool(self.host)

    def __len__(self) -> int:
        return len(self.host)

    def item(self) -> Any:
        return self.host.item()

    shape = property(lambda self: self.host.shape)
    ndim = property(lambda self: self.host.ndim)
    size = property(lambda self: self.host.size)
    dtype = property(lambda self: self.host.dtype)
    flags = property(lambda self: self.host.flags)
    strides = property(lambda self: self.host.strides)

    def _method(name: str) -> Any:  # type: ignore[misc]  # makes the methods below
        return lambda self, *args, **kwargs: DeviceArray(getattr(self.host, name)(*args, **kwargs))

    astype, reshape, copy, all, any, min, max, swapaxes = map(
        _method, ("astype", "reshape", "copy", "all", "any", "min", "max", "swapaxes")
    )


def _bare(x: Any) -> Any:
    if isinstance(x, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")  # CuPy's words
    if isinstance(x, list | tuple):
        return type(x)(map(_bare, x))
    return x.host if isinstance(x, DeviceArray) else x


def _index(index: Any) -> Any:
    """CuPy takes NumPy's arrays as indices, and copies them to the device."""
    return (
        tuple(i.host if isinstance(i, DeviceArray) else i for i in index) if isinstance(index, tuple) else _bare(index)
    )


def _on_device(module: ModuleType, *names: str) -> ModuleType:
    """A module of the same functions for device arrays."""

    def moved(f: Callable) -> Callable:
        return lambda *args, **kwargs: DeviceArray(f(*map(_bare, args), **kwargs))

    made: Any = ModuleType(f"cupyx.{module.__name__}")
    for name in names:
        setattr(made, name, moved(getattr(module, name)))
    return made


class RawModule:
    """CUDA C as CuPy takes it, the arrays by their class and numbers by NumPy's; it runs on the CPU."""

    made = 0

    def __init__(self, code: str, options: tuple[str, ...]) -> None:
        RawModule.made += 1
        assert '#include "cuda.cuh"' not in code and options == ("--std=c++17",)
        self.module = cuda.Module(code, "RawModule")

    def get_function(self, name: str) -> Callable:
        if name not in self.module.kernels:
            raise ValueError(f"no {name} in the log")

        def function(
            grid: tuple[int, int, int], block: tuple[int, int, int], args: tuple[Any, ...], *, shared_mem: int = 0
        ) -> None:
            assert all(isinstance(x, DeviceArray | np.generic) for x in args)
            assert shared_mem <= getattr(function, "max_dynamic_shared_size_bytes", 48 << 10)
            arguments = [
                None if parameter.pointer and isinstance(x, np.uintp) else _bare(x)  # the null pointer
                for parameter, x in zip(self.module.kernels[name], args, strict=True)
            ]
            self.module.launch(name, grid, block, *arguments, shared=shared_mem)

        return function


def _fake_cupy(available: bool = True, error: Exception | None = None) -> ModuleType:
    def is_available() -> bool:
        if error:
            raise error
        return available

    def asarray(x: Any, dtype: Any = None) -> DeviceArray:
        host = x.host if isinstance(x, DeviceArray) else x
        if isinstance(x, DeviceArray) and dtype in (None, x.dtype):
            return x
        return DeviceArray(np.array(host, dtype))

    cupy: Any = ModuleType("cupy")
    cupy.__version__ = "14.2.0"
    cupy.ndarray, cupy.asarray, cupy.asnumpy = DeviceArray, asarray, lambda x: x.host.copy()
    cupy.zeros = lambda shape, dtype: DeviceArray(np.zeros(shape, dtype))
    cupy.ascontiguousarray, cupy.RawModule = lambda x: DeviceArray(np.ascontiguousarray(x.host)), RawModule
    cupy.add = SimpleNamespace(at=lambda x, index, values: np.add.at(x.host, _index(index), _bare(values)))
    properties = {"name": b"Test GPU", "totalGlobalMem": 80 * 2**30}
    runtime = SimpleNamespace(getDeviceProperties=lambda i: properties)
    cupy.cuda = SimpleNamespace(is_available=is_available, runtime=runtime)
    return cupy


@contextmanager
def device(**settings: Any) -> Iterator[None]:
    """Inside, CuPy seems installed, on arrays of the class above."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", _fake_cupy(**settings))
        patch.setitem(sys.modules, "cupyx.scipy.special", _on_device(scipy.special, "erf"))
        patch.setitem(sys.modules, "cupyx.scipy.linalg", _on_device(scipy.linalg, "solve_triangular"))
        backend._cuda_function.cache_clear()
        yield
        backend._cuda_function.cache_clear()


@contextmanager
def kernels(name: str) -> Iterator[None]:
    """Inside, every kernel runs by this implementation."""
    before = backend._kernels
    backend.use_kernels(name)
    try:
        yield
    finally:
        backend.use_kernels(before)


# ---- devices ---------------------------------------------------------------------------------------------------------


def test_an_unknown_device():
    with pytest.raises(ValueError, match="device 'tpu' is unknown; known ones: cpu, cuda"):
        backend.use("tpu")
    assert backend.device() == "cpu"


def test_no_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # as if it were not installed
    assert backend.gpu_status().startswith("no GPU: cupy is not installed. Install it with: python -m pip install")
    with pytest.raises(RuntimeError, match="device 'cuda' was asked for, but there is no GPU: cupy is not installed"):
        backend.use("cuda")
    assert backend.device() == "cpu"
    with pytest.raises(RuntimeError), backend.on("cuda"):
        pass
    assert backend.device() == "cpu" and not backend.is_array("x") and backend.is_array(np.zeros(1))


def test_cupy_without_a_driver():
    with (
        device(available=False),
        pytest.raises(RuntimeError, match=r"cupy 14\.2\.0 is installed, but finds no CUDA driver"),
    ):
        backend.use("cuda")
    broken = OSError("CUDA driver version is insufficient")
    with (
        device(error=broken),
        pytest.raises(RuntimeError, match="answers: CUDA driver version is insuff"),
    ):
        backend.use("cuda")
    assert backend.device() == "cpu"


def test_on_restores_the_device():
    with device():
        assert backend.gpu_status() == "Test GPU, 80 GiB, cupy 14.2.0"
        with backend.on("cuda"):
            assert backend.device() == "cuda" and isinstance(Tensor([1.0]).data, DeviceArray)
            with backend.on("cpu"):
                assert isinstance(Tensor([1.0]).data, np.ndarray)
            assert backend.device() == "cuda"
        assert backend.device() == "cpu"
        with pytest.raises(KeyError), backend.on("cuda"):
            raise KeyError
        assert backend.device() == "cpu"


def test_arrays_move_between_devices():
    host = np.arange(3.0)
    with device():
        with backend.on("cuda"):
            x = Tensor(host, requires_grad=True)
            assert isinstance(x.data, DeviceArray) and x.dtype == np.float64
            assert backend.asarray(x.data) is x.data
            np.testing.assert_array_equal(x.numpy(), host)
            assert "float64[3]" in repr(x) and float(x[1]) == 1.0
            assert backend.device_of(x.data) == "cuda" and backend.array_module(x.data).__name__ == "cupy"
        assert isinstance(Tensor(x.data).data, np.ndarray)
        assert backend.device_of(host) == "cpu" and backend.array_module(host) is np


@needs_compiler
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_seed_means_the_same_numbers_everywhere(dtype):
    here = [f(np.random.default_rng(0), (2, 3), dtype) for f in (backend.normal, backend.uniform)]
    with device(), backend.on("cuda"):
        there = [f(np.random.default_rng(0), (2, 3), dtype) for f in (backend.normal, backend.uniform)]
    for a, b in zip(here, there, strict=True):
        assert a.dtype == b.dtype == dtype and a.shape == b.shape == (2, 3) and isinstance(b, DeviceArray)
    np.testing.assert_allclose(here[0], there[0].host, rtol=1e-5)
    np.testing.assert_array_equal(here[1], there[1].host)
    assert (here[1] >= 0).all() and (here[1] < 1).all()


def test_calls_draw_new_numbers_and_a_copy_of_the_generator_the_same():
    rng = np.random.default_rng(0)
    first = backend.uniform(rng, (100,))
    again = np.random.default_rng()
    again.bit_generator.state = rng.bit_generator.state
    second = backend.uniform(rng, (100,))
    assert not np.intersect1d(first, second).size
    np.testing.assert_array_equal(backend.uniform(again, (100,)), second)
    keys = [backend.key(rng) for _ in range(200)]
    assert len(set(keys)) == 200 and 2**63 < max(keys) < 2**64 and min(keys) >= 0


def test_mixed_devices_raise():
    with device():
        here = Tensor(np.ones(2, np.float32))
        with backend.on("cuda"):
            there = Tensor(np.ones(2, np.float32), requires_grad=True)
        for call in (
            lambda: here * there, lambda: there + here.numpy(), lambda: ops.concat(here, there, axis=0),
            lambda: ops.where(here > 0, there, there), lambda: here @ there,
        ):  # fmt: skip
            with pytest.raises(
                TypeError, match=r"\w+\(.*float32\[.*\): mixed devices \((cpu|cuda).*backend\.use\(device\) before"
            ):
                call()


# ---- every operation -------------------------------------------------------------------------------------------------


def run(case: Case, arrays: list, options: dict, cotangents: np.ndarray) -> list[Tensor]:
    """Outputs, gradients, and the gradients of a function of the gradients."""
    leaves = [Tensor(x, requires_grad=x.dtype != bool) for x in arrays]
    results = []
    floats = [x for x in leaves if x.requires_grad]
    for y in case.outputs(*leaves, **options):
        results.append(y)
        if y.requires_grad:
            cotangent = Tensor(cotangents[: y.size].reshape(y.shape))
            first = grad(y, floats, cotangent, create_graph=True)
            results += first
            for g in first:
                if g.requires_grad:
                    results += grad(ops.tanh(g).sum(), floats, allow_unused=True)
    return results


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@settings(max_examples=4)
@given(data=st.data(), rng=generators())
def test_every_operation_stays_on_its_device(case, data, rng):
    with kernels("reference"):  # in float64, and by NumPy's protocols
        stays_on_its_device(case, data, rng)


def stays_on_its_device(case, data, rng):
    wanted, options = data.draw(case.inputs)
    arrays = case.arrays(rng, wanted, edges=0.0)
    cotangents = rng.standard_normal(20_000)
    want = run(case, arrays, options, cotangents)
    with device(), backend.on("cuda"):
        got = run(case, arrays, options, cotangents)
        assert all(isinstance(y.data, DeviceArray) for y in got)
        assert len(got) == len(want)
        for y, w in zip(got, want, strict=True):
            assert y.dtype == w.dtype and y.shape == w.shape
            np.testing.assert_array_equal(y.numpy(), w.numpy())


def test_the_rest_of_the_engine_too():
    with device(), backend.on("cuda"):
        x = Tensor(np.arange(6.0).reshape(2, 3), requires_grad=True)
        (x * x).sum().backward()
        (x * 2.0).sum().backward()
        assert x.grad is not None and isinstance(x.grad.data, DeviceArray)
        np.testing.assert_array_equal(x.grad.numpy(), 2 * x.numpy() + 2)
        unused = Tensor(np.ones(2), requires_grad=True)
        assert isinstance(grad(x.sum(), unused, allow_unused=True).data, DeviceArray)
        assert isinstance(ops.exp(1.0).data, DeviceArray)
        q, r = ops.qr(Tensor(np.eye(3)))
        assert isinstance(q.data, DeviceArray) and isinstance(r.data, DeviceArray)
        plain = Tensor(np.zeros((2, 2)))
        plain[0] = Tensor(np.ones(2))
        plain[1] = 2.0
        assert plain.numpy().tolist() == [[1, 1], [2, 2]]
        with np.errstate(all="ignore"), debug(), pytest.raises(FloatingPointError, match="log"):
            ops.log(x - 1.0)
        assert bool((x >= 0).sum() == 6) and len(x) == 2 and [part.shape for part in x] == [(3,), (3,)]


# ---- kernels ---------------------------------------------------------------------------------------------------------

TEXT = """#include "cuda.cuh"
extern "C" __global__ void scaled(const float* x, const float* more, float* y, int n, float factor) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  float* here = dynamic_shared<float>();
  if (i < n) here[threadIdx.x] = x[i] * factor + (more ? more[i] : 0.0f);
  if (i < n) y[i] = here[threadIdx.x];
}
"""


def test_the_array_picks_the_implementation():
    x = np.zeros(1)
    with device(), backend.on("cuda"):
        there = backend.asarray(x)
        assert backend.kernel("arena", x) is cpu
        assert backend.kernel("arena", there).__name__ == "micrognm.kernels.arena.gpu"
        with kernels("reference"):
            assert backend.kernel("arena", x) is reference is backend.kernel("arena", there)
        with kernels("gpu"):
            assert backend.kernel("arena", x) is backend.kernel("arena", there)
        with kernels("cpu"):
            assert backend.kernel("arena", x) is cpu
            with pytest.raises(
                TypeError, match=r"kernel arena: 'cpu' is asked for, which takes NumPy arrays.*on the GPU"
            ):
                backend.kernel("arena", there)


def scaled(module: cuda.Module, x: Any, more: Any, shared: int) -> Any:
    y = np.empty_like(x)
    module.launch("scaled", cuda.ceil_div(x.size, 64), 64, x, more, y, x.size, 1.5, shared=shared)
    return y


@needs_compiler
def test_cuda_kernels_run_on_device_arrays(rng):
    module = cuda.Module(TEXT, "a test")
    x, more = rng.standard_normal((2, 100)).astype(np.float32)
    with device(), backend.on("cuda"):
        there, more_there = backend.asarray(x), backend.asarray(more)
        made = RawModule.made
        for shared in (256, 100 << 10):  # above 48 KiB it must be asked for
            np.testing.assert_array_equal(scaled(module, there, more_there, shared).host, x * np.float32(1.5) + more)
            np.testing.assert_array_equal(scaled(module, there, None, shared).host, x * np.float32(1.5))
        assert RawModule.made == made + 1  # compiled once
        assert module.float32(DeviceArray(np.asfortranarray(np.ones((2, 3), np.float32))))[0].flags.c_contiguous
        with pytest.raises(TypeError, match="MICROGNM_KERNELS=reference"):
            module.float32(DeviceArray(np.ones(2)))
        with pytest.raises(TypeError, match="a test: scaled: its arrays lie on the CPU and on the GPU"):
            scaled(module, there, more, 256)
        with pytest.raises(
            RuntimeError, match=r"CUDA kernel gone cannot be built \(MICROGNM_KERNELS=reference runs .*\n.*log"
        ):
            backend.launch_cuda(module.text, "gone", (1, 1, 1), (1, 1, 1), [], 0)


# What convolution and attention launch, forward and backward.
LAUNCHED = {
    "conv/gpu.cu": ["forward", "input_gradient", "weight_gradient"],
    "attention/gpu.cu": ["forward", "gradient_q", "gradient_kv"],
}


@needs_compiler
@pytest.mark.parametrize("precision", [None, *backend.PRECISIONS])
def test_the_precision_picks_the_kernels_that_multiply(monkeypatch, rng, precision):
    monkeypatch.setattr(backend, "_precision", "float32")  # put back at the end
    if precision is not None:
        backend.use_precision(precision)
    launched: dict[str, list[str]] = {}

    def launch(module: cuda.Module, name: str, *args: Any, **options: Any) -> None:
        launched.setdefault(module.where, []).append(name)
        original(module, name, *args, **options)

    original = cuda.Module.launch
    monkeypatch.setattr(cuda.Module, "launch", launch)
    x, w, cotangent, q = (
        rng.standard_normal(shape).astype(np.float32) for shape in ((1, 4, 4, 8), (9, 8, 8), (1, 4, 4, 8), (1, 5, 2, 8))
    )

    def run() -> list[np.ndarray]:
        image, weight, query = (Tensor(a, requires_grad=True) for a in (x, w, q))
        y = mg.conv(image, weight, taps=square(3))
        z = mg.attention(query, query, query, mask="causal")
        return [t.numpy() for t in (y, *grad(y, [image, weight], Tensor(cotangent)), z, grad(z.sum(), query))]

    suffix = "_tf32" if precision == "tf32" else ""
    wanted = {where: [f"{name}{suffix}" for name in names] for where, names in LAUNCHED.items()}
    with kernels("gpu"):
        here = run()
    assert launched == wanted
    with device(), backend.on("cuda"):
        there = run()
    assert {where: launched[where] for where in wanted} == {where: 2 * names for where, names in wanted.items()}
    with kernels("reference"):  # which no precision changes
        exact = run()
    for a, b, c in zip(here, there, exact, strict=True):
        np.testing.assert_array_equal(a, b)
        off = np.abs(a - c).max() / np.abs(c).max()
        assert 1e-5 < off < 3e-3 if suffix else off < 2e-6


def test_a_precision_changes_nothing_on_a_cpu(monkeypatch, rng):
    monkeypatch.setattr(backend, "_precision", "float32")
    q = Tensor(rng.standard_normal((1, 5, 2, 8)).astype(np.float32))
    before = mg.attention(q, q, q)
    backend.use_precision("tf32")
    np.testing.assert_array_equal(mg.attention(q, q, q).numpy(), before.numpy())


def test_an_unknown_precision():
    with pytest.raises(ValueError, match=r"precision 'half' is unknown; known ones .*_PRECISION\): float32, tf32"):
        backend.use_precision("half")


@pytest.mark.parametrize(
    ("variable", "status", "says"),
    [
        ({}, 0, "float32\n"),
        ({"MICROGNM_PRECISION": "tf32"}, 0, "tf32\n"),
        ({"MICROGNM_PRECISION": "half"}, 1, "precision 'half' is unknown; known ones (also for MICROGNM_PRECISION): "),
    ],
)
def test_the_environment_sets_the_precision_at_first(variable, status, says):
    environment = {name: value for name, value in os.environ.items() if name != "MICROGNM_PRECISION"} | variable
    command = [sys.executable, "-c", "from micrognm import backend; print(backend.precision())"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status and says in done.stdout + done.stderr


WITH_CUDA = sorted(path.parent for path in Path(cuda.__file__).parent.glob("*/gpu.py"))
CUDA_FUNCTIONS = [
    pytest.param(folder.name, name, id=f"{folder.name}.{name}")
    for folder in WITH_CUDA
    if (folder / "inputs.py").exists()
    for name in importlib.import_module(f"micrognm.kernels.{folder.name}.inputs").STRATEGIES
]


@needs_compiler
@pytest.mark.parametrize(("kernel", "name"), CUDA_FUNCTIONS)
@settings(max_examples=4)
@given(data=st.data())
def test_every_cuda_kernel_stays_on_its_device(kernel, name, data):
    drawn = data.draw(importlib.import_module(f"micrognm.kernels.{kernel}.inputs").STRATEGIES[name]).args
    function = getattr(importlib.import_module(f"micrognm.kernels.{kernel}.gpu"), name)

    def run(to_device: Callable) -> list:
        """What it returns, and what it leaves in its arguments."""
        args = [
            to_device(x.astype(np.float32) if x.dtype.kind == "f" else x.copy()) if isinstance(x, np.ndarray) else x
            for x in drawn
        ]
        results = function(*args)
        results = results if isinstance(results, tuple | list) else [results]
        # Where CuPy has an array of no axes NumPy has a number.
        return [*(np.asarray(x) if isinstance(x, np.generic) else x for x in results), *args]

    here = run(lambda x: x)
    with device(), backend.on("cuda"):
        there = run(DeviceArray)
    assert len(here) == len(there)
    for x, y in zip(here, there, strict=True):
        assert isinstance(y, DeviceArray) == isinstance(x, np.ndarray)
        np.testing.assert_array_equal(_bare(y) if isinstance(y, DeviceArray) else y, x)


@needs_compiler
def test_an_optimiser_trains_on_a_device(rng):
    """The norm, the step and two averages, on arrays of the device alone."""
    start, gradients = rng.standard_normal(9).astype(np.float32), rng.standard_normal((4, 9)).astype(np.float32)

    def train() -> list:
        p = Tensor(start.copy(), requires_grad=True)
        optimiser = optim.AdamW([p], 0.1, weight_decay=0.1, clip_norm=1.0)
        averages = [optim.EMA(optimiser, decay) for decay in (0.9, 0.5)]
        for g in gradients:
            p.grad = Tensor(g)
            optimiser.step()
        return [backend.to_numpy(x) for x in (optimiser.arena.data, *(ema.average for ema in averages))]

    for name in ("gpu", "reference"):
        with kernels(name):
            here = train()
            with device(), backend.on("cuda"):
                there = train()
        for x, y in zip(here, there, strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(("given", "want"), [(None, "30000"), ("0", "0")])
def test_openmp_waits_briefly_unless_told_otherwise(given, want):
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    environment |= {} if given is None else {"GOMP_SPINCOUNT": given}
    code = "import os, micrognm; print(os.environ['GOMP_SPINCOUNT'])"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == want
