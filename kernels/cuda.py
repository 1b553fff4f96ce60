"""How a kernel's gpu.py runs its gpu.cu: on CuPy arrays by CuPy, on NumPy arrays compiled by g++ through cuda_on_cpu.h.

    module = cuda.module(__file__)  # the gpu.cu beside this file

    def scale(x, factor):
        (x,) = module.float32(x)
        y = np.empty_like(x)
        module.launch("scale", cuda.ceil_div(x.size, 256), 256, x, y, x.size, factor)
        return y

Kernels are `extern "C" __global__ void name(...)` of pointers, ints and floats; CUDA.md says how to write one.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from micrognm import backend

Array = Any
Size = int | Sequence[int]

FOLDER = Path(__file__).resolve().parent
# What a pointer of each type may point to, and how a number of each type is passed.
TYPES = {
    "float": np.float32,
    "double": np.float64,
    "int": np.int32,
    "unsigned": np.uint32,
    "unsigned int": np.uint32,
    "long long": np.int64,
    "unsigned long long": np.uint64,
    "signed char": np.int8,
    "unsigned char": np.uint8,
    "bool": np.bool_,
}
KERNEL = r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(([^)]*)\)'
OPTIONS = (
    "-std=c++17", "-O2", "-fPIC", "-shared", "-pthread", "-fno-strict-aliasing", "-DCUDA_ON_CPU",
    "-Werror=frame-larger-than=131072",  # half of a thread's stack
)  # fmt: skip
# The least that a card of compute capability 8.0 or later has.
MOST_SHARED = 163 << 10
MOST_BLOCKS = (2**31 - 1, 65_535, 65_535)
MOST_THREADS = (1024, 1024, 64)


class Parameter(NamedTuple):
    """One parameter of a kernel in CUDA C."""

    name: str
    dtype: type[np.generic]
    pointer: bool
    const: bool


class Module:
    """The kernels of one text in CUDA C. where: what errors call it, the name of a file as a rule."""

    def __init__(self, text: str, where: str) -> None:
        self.text = re.sub(r'^#include "cuda\.cuh"$', lambda _: _header(where), text, count=1, flags=re.MULTILINE)
        self.where = where
        self.kernels = _kernels(text, where)

    def float32(self, *arrays: Array) -> list[Array]:
        """The arrays (or None) in C order. TypeError for any that is not float32."""
        for x in arrays:
            if x is not None and x.dtype != np.float32:
                raise TypeError(
                    f"{self.where}: CUDA kernels compute in float32, got {x.dtype}{list(x.shape)}. "
                    "MICROGNM_KERNELS=reference computes in any floating dtype"
                )
        return [x if x is None else backend.contiguous(x) for x in arrays]

    def launch(self, name: str, grid: Size, block: Size, *arguments: Any, shared: int = 0) -> None:
        """Run kernel `name` on grid blocks (an int or up to three) of block threads, with shared bytes each.

        arguments: for a pointer a C-contiguous array of its dtype, or None for a null pointer; else a number.
        A grid of no blocks does nothing. Writes into the arrays that are not const in the kernel.
        """
        if name not in self.kernels:
            raise ValueError(f"{self.where} has no kernel {name!r}; it has {', '.join(self.kernels)}")
        blocks, threads = _size("grid", grid), _size("block", block)
        title = f"{self.where}: {name}"
        if any(n > most for n, most in zip(blocks, MOST_BLOCKS, strict=True)):
            raise ValueError(f"{title}: a grid has at most {MOST_BLOCKS} blocks, got {blocks}")
        if any(not 1 <= n <= most for n, most in zip(threads, MOST_THREADS, strict=True)) or np.prod(threads) > 1024:
            raise ValueError(f"{title}: a block has 1 to 1024 threads, at most {MOST_THREADS}, got {threads}")
        if not 0 <= shared <= MOST_SHARED:
            raise ValueError(f"{title}: shared memory goes from 0 to {MOST_SHARED} bytes, got {shared}")
        parameters = self.kernels[name]
        if len(arguments) != len(parameters):
            names = ", ".join(parameter.name for parameter in parameters)
            raise TypeError(f"{title} takes {len(parameters)} arguments ({names}), got {len(arguments)}")
        passed = [_passed(title, p, x) for p, x in zip(parameters, arguments, strict=True)]
        if 0 in blocks:
            return
        devices = {backend.device_of(x) for x in arguments if backend.is_array(x)}
        if len(devices) > 1:
            raise TypeError(f"{title}: its arrays lie on the CPU and on the GPU")
        if devices == {"cuda"}:
            backend.launch_cuda(self.text, name, blocks, threads, passed, shared)
        else:
            self._launch_on_cpu(name, blocks, threads, passed, shared)

    def _launch_on_cpu(
        self, name: str, blocks: tuple[int, ...], threads: tuple[int, ...], passed: list[Any], shared: int
    ) -> None:
        values = [x.ctypes.data_as(ctypes.c_void_p) if isinstance(x, np.ndarray) else x for x in passed]
        held = [np.array(x.value or 0, np.uintp) if isinstance(x, ctypes.c_void_p) else np.array(x) for x in values]
        places = (ctypes.c_void_p * max(1, len(held)))(*(x.ctypes.data for x in held))
        geometry = (ctypes.c_uint * 7)(*blocks, *threads, _cores())
        error = ctypes.create_string_buffer(1000)
        if self._function(name)(geometry, ctypes.c_size_t(shared), places, error, ctypes.c_size_t(len(error))):
            raise RuntimeError(f"{self.where}: {name}, run on the CPU, {error.value.decode(errors='replace')}")

    @functools.cache  # noqa: B019  # a module lives as long as the program
    def _function(self, name: str) -> Callable[..., int]:
        launchers = "\n".join(f"CUDA_ON_CPU_KERNEL({kernel})" for kernel in self.kernels)
        return getattr(_library(f"{self.text}\n{launchers}\n", self.where), f"launch_{name}")


def module(file: str) -> Module:
    """The gpu.cu beside a gpu.py, whose __file__ is given."""
    path = Path(file).resolve().with_suffix(".cu")
    return Module(path.read_text(encoding="utf-8"), f"{path.parent.name}/{path.name}")


def in_precision(name: str) -> str:
    """The kernel for the precision in force: `name`, or under backend.use_precision("tf32") `name_tf32`."""
    return f"{name}_tf32" if backend.precision() == "tf32" else name


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up: how many blocks of b threads a things need."""
    return -(-a // b)


def _header(where: str) -> str:
    """What stands for the #include of cuda.cuh: its text, since CuPy's cache sees no change in an included file."""
    text = (FOLDER / "cuda.cuh").read_text(encoding="utf-8")
    return f'#line 1 "cuda.cuh"\n{text}\n#line 2 "{where}"'


def _kernels(text: str, where: str) -> dict[str, list[Parameter]]:
    """The kernels that a text defines, with their parameters."""
    bare = re.sub(r"//[^\n]*|/\*.*?\*/", " ", text, flags=re.DOTALL)
    found = re.findall(KERNEL, bare)
    if not found or len(found) != len(re.findall(r"\b__global__\b", bare)):
        raise ValueError(f'{where}: every kernel must read extern "C" __global__ void name(...), and there must be one')
    return {name: [_parameter(part, where, name) for part in _parts(inner)] for name, inner in found}


def _parts(inner: str) -> list[str]:
    return [part for part in inner.split(",") if part.strip()]


def _parameter(text: str, where: str, kernel: str) -> Parameter:
    words = re.findall(r"\w+|\*", text)
    const = "const" in words
    *kind, name = [word for word in words if word not in ("const", "__restrict__")]
    pointer = "*" in kind
    base = " ".join(word for word in kind if word != "*")
    if base not in TYPES or kind.count("*") > 1:
        raise ValueError(f"{where}: {kernel} has a parameter {text.strip()!r}; its type must be of {', '.join(TYPES)}")
    return Parameter(name, TYPES[base], pointer, const)


def _size(name: str, size: Size) -> tuple[int, ...]:
    sizes = (size,) if isinstance(size, int | np.integer) else tuple(size)
    if not 1 <= len(sizes) <= 3 or any(n < 0 for n in sizes):
        raise ValueError(f"{name} must be one to three numbers >= 0, got {size}")
    return (*map(int, sizes), 1, 1)[:3]


def _passed(title: str, parameter: Parameter, x: Any) -> Any:
    """An argument as the launch needs it: an array, or a NumPy number of exactly the parameter's type."""
    name, dtype = parameter.name, np.dtype(parameter.dtype)
    if parameter.pointer:
        if x is None:
            return np.uintp(0)
        if not backend.is_array(x):
            raise TypeError(f"{title}: {name} must be an array or None, got {type(x).__name__}")
        if x.dtype != dtype:
            raise TypeError(f"{title}: {name} must be {dtype}, got {x.dtype}{list(x.shape)}")
        if not x.flags.c_contiguous:
            raise ValueError(f"{title}: {name} must be C-contiguous, got strides {x.strides} for shape {x.shape}")
        if not parameter.const and isinstance(x, np.ndarray) and not x.flags.writeable:
            raise ValueError(f"{title}: {name} is read-only, and not const in the kernel")
        return x
    if isinstance(x, bool | np.bool_):
        x = int(x)
    if not isinstance(x, int | float | np.number) or (dtype.kind != "f" and not isinstance(x, int | np.integer)):
        raise TypeError(f"{title}: {name} must be a number of type {dtype}, got {x!r}")
    if dtype.kind in "iu" and not np.iinfo(dtype).min <= x <= np.iinfo(dtype).max:
        raise ValueError(f"{title}: {name} must fit into {dtype}, got {x}")
    return dtype.type(x)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _library(text: str, where: str) -> ctypes.CDLL:
    """The text compiled for the CPU, from the cache where it is there. RuntimeError with what mends it or the log."""
    import pooch

    header = (FOLDER / "cuda_on_cpu.h").read_bytes()
    said = "\0".join((*OPTIONS, platform.system(), platform.machine(), text)).encode()
    folder = Path(pooch.os_cache("micrognm")) / "cuda_on_cpu"
    target = folder / f"{re.sub(r'[^A-Za-z0-9]+', '_', where)}-{hashlib.sha256(said + header).hexdigest()[:24]}.so"
    if not target.exists():
        compiler = shutil.which("g++")
        if compiler is None:
            raise RuntimeError(
                f"{where}: to run CUDA kernels on the CPU takes g++, which is not installed (Debian, Ubuntu: apt-get "
                "install g++). MICROGNM_KERNELS=cpu or reference runs without it"
            )
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as beside:
            built = Path(beside) / target.name
            done = subprocess.run(
                [compiler, *OPTIONS, f"-I{FOLDER}", "-x", "c++", "-", "-o", str(built)],
                input=text, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                raise RuntimeError(
                    f"{where}: g++ cannot compile it (MICROGNM_KERNELS=reference runs without):\n{done.stderr}"
                )
            os.replace(built, target)
    return ctypes.CDLL(str(target))
