"""Arrays and where they live: the only file that knows which device holds an array, and the only one that imports cupy.

Forwards of operations are plain NumPy: NumPy's own functions, called on CuPy arrays, dispatch to CuPy (NEP 13 and 18).
What NumPy cannot dispatch, because no argument is an array yet or because the function is SciPy's, goes through here.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

Array = Any  # np.ndarray or cupy.ndarray
DEVICES = ("cpu", "cuda")
DTYPES = ("float32", "float64")  # of parameters and activations; integers and booleans hold labels and masks

KERNELS = ("auto", "reference", "cpu", "gpu")
_IMPLEMENTATION = {"cpu": "cpu", "cuda": "gpu"}  # which one of a kernel "auto" runs on a device
PRECISIONS = ("float32", "tf32")

# Numba's threads (GNU OpenMP) turn in a loop after each kernel, in wait of the next: to wake them from sleep is dear.
# They do so for about 1 ms instead of 9, so as not to take the cores from other processes for long:
# benchmarks/two_pools.py prints both. OpenMP reads this when it is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "30000")


def _keep_memory() -> None:
    """Let glibc keep what large arrays give back, for the next ones, where the user has not set it otherwise.

    It returns blocks above 128 KiB to the system at once, and the next array pays a page fault every 4 KiB.
    """
    if sys.platform == "linux" and not any(name.startswith("MALLOC_") for name in os.environ):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(-3, 1 << 30) or mallopt(-3, 1 << 25)  # M_MMAP_THRESHOLD, and the most that older versions take
            mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def one_thread_for_blas() -> None:
    """Let each BLAS loaded by now run in one thread, where the user has not set it otherwise: kernels/matmul.py says
    why."""
    if not any(name in os.environ for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")):
        threadpool_limits(1, user_api="blas")


_keep_memory()
one_thread_for_blas()
_device = "cpu"
_kernels = "auto"
_precision = "float32"


def _cupy() -> ModuleType:
    """The cupy module, or an ImportError that says what to install."""
    try:
        return importlib.import_module("cupy")
    except ImportError as error:
        raise ImportError(
            'no GPU: cupy is not installed. Install it with: python -m pip install "micrognm[gpu]"'
        ) from error


def gpu_status() -> str:
    """One line: the GPU at hand, or why there is none and what mends it. Never raises."""
    try:
        cupy = _cupy()
    except ImportError as error:
        return str(error)
    version = getattr(cupy, "__version__", "of unknown version")
    try:
        if not cupy.cuda.is_available():
            return f"no GPU: cupy {version} is installed, but finds no CUDA driver. Install NVIDIA's driver."
        properties = cupy.cuda.runtime.getDeviceProperties(0)
        return f"{properties['name'].decode()}, {properties['totalGlobalMem'] / 2**30:.0f} GiB, cupy {version}"
    except Exception as error:  # a broken driver, or a package that only is called cupy, raises errors of many kinds
        return f"no GPU: cupy {version} is installed, and the CUDA driver answers: {error}"


def device() -> str:
    """The device on which new arrays are made: "cpu" or "cuda"."""
    return _device


def use(name: str) -> None:
    """Make new arrays on this device from now on. Raises where the device is unknown or not at hand."""
    global _device
    if name not in DEVICES:
        raise ValueError(f"device {name!r} is unknown; known ones: {', '.join(DEVICES)}")
    if name == "cuda":
        status = gpu_status()
        if status.startswith("no GPU"):
            raise RuntimeError(f"device 'cuda' was asked for, but there is {status}")
    _device = name


@contextmanager
def on(name: str) -> Iterator[None]:
    """Make new arrays on this device inside the block."""
    before = _device
    use(name)
    try:
        yield
    finally:
        use(before)


def use_kernels(name: str) -> None:
    """Run this implementation of every kernel from now on; the environment variable MICROGNM_KERNELS sets it at first.

    "auto": what the array calls for, "cpu" for NumPy's and "gpu" for CuPy's. "reference": NumPy's functions, on arrays
    of both. "cpu": Numba, on NumPy arrays alone. "gpu": CUDA C in float32; on NumPy arrays it runs on the CPU, slowly,
    compiled by g++ through kernels/cuda_on_cpu.h, so that a kernel can be tried and tested without a GPU.
    """
    global _kernels
    if name not in KERNELS:
        raise ValueError(f"kernels {name!r} are unknown; known ones (also for MICROGNM_KERNELS): {', '.join(KERNELS)}")
    _kernels = name


use_kernels(os.environ.get("MICROGNM_KERNELS", "auto"))


def precision() -> str:
    """In what CUDA kernels multiply matrices: "float32" or "tf32"."""
    return _precision


def use_precision(name: str) -> None:
    """Multiply matrices in this precision from now on; the environment variable MICROGNM_PRECISION sets it at first.

    "float32": all of it, unless asked otherwise. "tf32": the CUDA kernels of convolution and attention round the
    factors of their products to 10 bits of mantissa (a relative error of 2^-11 each) and multiply on tensor cores; sums
    and all else stay in float32. No other kernel and no NumPy or CuPy function heeds it: on a CPU it changes nothing,
    so that one script runs on both (but under use_kernels("gpu"), which imitates tensor cores as well).
    """
    global _precision
    if name not in PRECISIONS:
        raise ValueError(
            f"precision {name!r} is unknown; known ones (also for MICROGNM_PRECISION): {', '.join(PRECISIONS)}"
        )
    _precision = name


use_precision(os.environ.get("MICROGNM_PRECISION", "float32"))


def kernel(name: str, x: Array) -> ModuleType:
    """The module kernels/<name>/<implementation>.py that works on arrays like x, imported when first asked for."""
    implementation = _IMPLEMENTATION[device_of(x)] if _kernels == "auto" else _kernels
    if implementation == "cpu" and device_of(x) != "cpu":
        raise TypeError(
            f"kernel {name}: 'cpu' is asked for, which takes NumPy arrays, and the array lies on the GPU. "
            "MICROGNM_KERNELS=auto, gpu or reference runs there"
        )
    return _module(name, implementation)


@functools.cache
def _module(name: str, implementation: str) -> ModuleType:
    return importlib.import_module(f"micrognm.kernels.{name}.{implementation}")


@functools.cache
def _cuda_function(text: str, name: str) -> Any:
    """A kernel of this text in CUDA C, compiled for the GPU at hand."""
    try:
        return _cupy().RawModule(code=text, options=("--std=c++17",)).get_function(name)
    except Exception as error:  # NVRTC's log, or the driver's word on what NVRTC made
        raise RuntimeError(
            f"CUDA kernel {name} cannot be built (MICROGNM_KERNELS=reference runs without):\n{error}"
        ) from error


def launch_cuda(
    text: str, name: str, grid: tuple[int, ...], block: tuple[int, ...], arguments: list[Any], shared: int
) -> None:
    """Run kernel `name` of a text in CUDA C on CuPy arrays and NumPy numbers; kernels/cuda.py checks them."""
    function = _cuda_function(text, name)
    if shared > 48 << 10:  # more than every card gives unasked
        function.max_dynamic_shared_size_bytes = shared
    function(grid, block, tuple(arguments), shared_mem=shared)


def array_module(x: Array) -> ModuleType:
    """numpy for a NumPy array, cupy for a CuPy array."""
    return np if isinstance(x, np.ndarray) else _cupy()


def is_array(x: object) -> bool:
    """Whether x is a NumPy or a CuPy array."""
    cupy = sys.modules.get("cupy")
    return isinstance(x, np.ndarray) or (cupy is not None and isinstance(x, cupy.ndarray))


def device_of(x: Array) -> str:
    """ "cpu" or "cuda"."""
    return "cpu" if isinstance(x, np.ndarray) else "cuda"


def contiguous(x: Array) -> Array:
    """x in C order, where it lives; no copy if it is so already."""
    return array_module(x).ascontiguousarray(x)


def asarray(x: Any, dtype: Any = None) -> Array:
    """x (an array of any device, a number, a nested list) as an array on the device in use; no copy if it is one."""
    if _device == "cpu":
        return np.asarray(to_numpy(x) if is_array(x) else x, dtype)
    return _cupy().asarray(x, dtype)


def zeros(shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    """Zeros on the device in use."""
    return np.zeros(shape, dtype) if _device == "cpu" else _cupy().zeros(shape, dtype)


def to_numpy(x: Array) -> np.ndarray:
    """x as a NumPy array, copied from the GPU where it lives there."""
    return x if isinstance(x, np.ndarray) else _cupy().asnumpy(x)


def special(x: Array) -> ModuleType:
    """scipy.special, or its CuPy twin, for arrays like x."""
    return importlib.import_module("scipy.special" if isinstance(x, np.ndarray) else "cupyx.scipy.special")


def linalg(x: Array) -> ModuleType:
    """scipy.linalg, or its CuPy twin, for arrays like x."""
    return importlib.import_module("scipy.linalg" if isinstance(x, np.ndarray) else "cupyx.scipy.linalg")


def add_at(x: Array, index: Any, values: Array) -> None:
    """x[index] += values in place, repeated indices summed."""
    array_module(x).add.at(x, index, values)


def key(rng: np.random.Generator) -> int:
    """A key for `kernels/rng`, which makes as many numbers of it as are asked for: all that is drawn from rng."""
    return int(rng.integers(2**64, dtype=np.uint64))


def normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    """Standard normal numbers. A seed means the same numbers on every device, in float32 but for their last bits."""
    if np.dtype(dtype) != np.float32:
        return asarray(rng.standard_normal(shape, np.dtype(dtype)))
    return _from_key("normal", rng, shape)


def uniform(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    """Uniform numbers of [0, 1), in float32 multiples of 2^-24. A seed means the same numbers on every device."""
    if np.dtype(dtype) != np.float32:
        return asarray(rng.random(shape, np.dtype(dtype)))
    return _from_key("uniform", rng, shape)


def _from_key(name: str, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    like = zeros((1,))
    return getattr(kernel("rng", like), name)(like, math.prod(shape), key(rng)).reshape(shape)
