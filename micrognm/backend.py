"""Arrays and where they live: the only file that knows which device holds an array, and the only one that imports cupy.

Forwards of operations are plain NumPy: NumPy's own functions, called on CuPy arrays, dispatch to CuPy (NEP 13 and 18).
What NumPy cannot dispatch, because no argument is an array yet or because the function is SciPy's, goes through here.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

Array = Any  # np.ndarray or cupy.ndarray
DEVICES = ("cpu", "cuda")
DTYPES = ("float32", "float64")  # of parameters and activations; integers and booleans hold labels and masks

KERNELS = ("auto", "reference", "cpu")
# Which implementation of a kernel runs where. CuPy runs the NumPy reference by NumPy's own protocols.
_IMPLEMENTATION = {"cpu": "cpu", "cuda": "reference"}

_device = "cpu"
_kernels = "auto"


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
    """Run this implementation of every kernel from now on: "reference", "cpu", or "auto", what the array calls for.

    The environment variable MICROGNM_KERNELS sets it at the start.
    """
    global _kernels
    if name not in KERNELS:
        raise ValueError(f"kernels {name!r} are unknown; known ones (also for MICROGNM_KERNELS): {', '.join(KERNELS)}")
    _kernels = name


use_kernels(os.environ.get("MICROGNM_KERNELS", "auto"))


def kernel(name: str, x: Array) -> ModuleType:
    """The module kernels/<name>/<implementation>.py that works on arrays like x, imported when first asked for."""
    implementation = _IMPLEMENTATION[device_of(x)] if _kernels == "auto" else _kernels
    return importlib.import_module(f"micrognm.kernels.{name}.{implementation}")


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


def normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    """Standard normal numbers. Drawn on the host, so that a seed means the same numbers on every device."""
    return asarray(rng.standard_normal(shape, np.dtype(dtype)))


def uniform(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    """Uniform numbers of [0, 1). Drawn on the host, so that a seed means the same numbers on every device."""
    return asarray(rng.random(shape, np.dtype(dtype)))
