"""What is installed and in force on this machine, what is missing, and the command that mends it."""

from __future__ import annotations

import importlib
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from micrognm import backend

if TYPE_CHECKING:
    from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PIP = f'"{sys.executable}" -m pip install' if " " in sys.executable else f"{sys.executable} -m pip install"
MODULES = {"scikit-learn": "sklearn", "Pillow": "PIL"}  # distributions that do not bear their module's name
TWINS = {"cupy-cuda12x": ("cupy-cuda13x", "cupy")}  # what else serves: CuPy has one distribution for each CUDA
# What sets the number of threads, or how they wait for work.
VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMBA_THREADING_LAYER",
    "GOMP_SPINCOUNT",
    "OMP_WAIT_POLICY",
)


def main() -> int:
    """Print the report. Returns 0 where every required part is there, else 1."""
    _row("micrognm", f"{_version('micrognm') or 'not installed'}, runs from {ROOT}")
    _row("python", f"{platform.python_version()} ({sys.executable}), {platform.platform()}")
    required, extras, mend = _declared()

    lacking, damaged = [], []
    for requirement in required:
        text, met = _state(requirement)
        error = _import_error(requirement) if met else None
        if error:
            damaged.append(requirement)
        elif not met:
            lacking.append(requirement)
        _row(requirement.name, f"{text}, but its import fails: {error}" if error else text)
    if lacking:
        mend.append(f"{PIP} {_quoted(lacking)}")
    if damaged:
        mend.append(f"{PIP} --force-reinstall {_quoted(damaged)}")

    optional = {}
    for extra, requirements in extras.items():
        print(f"\nextra {extra}")
        states = [(requirement, *_state(requirement)) for requirement in requirements]
        for requirement, text, _ in states:
            _row(requirement.name, text)
        if unmet := [requirement for requirement, _, met in states if not met]:
            optional[extra] = f"{PIP} {_quoted(unmet)}"

    print()
    _row("CPU", f"{cpu_model()}, {cpu_count()} cores for this process")
    for line in blas_lines():
        _row("BLAS", line)
    _row("Numba", numba_line())
    _row("variables", ", ".join(f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ) or "none set")
    _row("GPU", backend.gpu_status())
    _row("precision", precision_line())
    for name, line in folder_lines():
        _row(name, line)

    if optional:
        print("\nNot installed, and needed for nothing but what the extra is named after:")
        for extra, command in optional.items():
            _row(extra, command)
    print("\nMissing or broken; this mends it:" if mend else "\nNothing that is required is missing.")
    for command in mend:
        print(f"  {command}")
    return 1 if mend else 0


def _row(name: str, text: str) -> None:
    print(f"{name:<15} {text}")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _declared() -> tuple[list[Requirement], dict[str, list[Requirement]], list[str]]:
    """What the installed metadata requires, what each extra does, and the commands that mend a lack of metadata."""
    try:
        distribution = metadata.distribution("micrognm")
    except metadata.PackageNotFoundError:
        return [], {}, [f'{PIP} -e "{ROOT}"']
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return [], {}, [f"{PIP} packaging"]
    parsed = [Requirement(line) for line in distribution.requires or ()]
    required = [r for r in parsed if r.marker is None or r.marker.evaluate({"extra": ""})]
    extras = {
        extra: [r for r in parsed if r.marker and r not in required and r.marker.evaluate({"extra": extra})]
        for extra in distribution.metadata.get_all("Provides-Extra") or ()
    }
    return required, extras, []


def _state(requirement: Requirement) -> tuple[str, bool]:
    """What is installed of one requirement, in words, and whether that meets it."""
    name = next((n for n in (requirement.name, *TWINS.get(requirement.name, ())) if _version(n)), requirement.name)
    version = _version(name)
    if version is None:
        return "not installed", False
    text = version if name == requirement.name else f"{version} (as {name})"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{text}, but {requirement.specifier} is needed", False
    return text, True


def _import_error(requirement: Requirement) -> str | None:
    """What its import raises, or None."""
    try:
        importlib.import_module(MODULES.get(requirement.name, requirement.name))
    except Exception as error:  # a damaged library raises errors of any kind: report it, whatever it is
        return f"{type(error).__name__}: {error}"
    return None


def _quoted(requirements: list[Requirement]) -> str:
    return " ".join(f'"{r.name}{r.specifier}"' for r in requirements)


def cpu_model() -> str:
    """The processor's name as its maker gives it, or failing that its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return platform.processor() or platform.machine()


def cpu_count() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def blas_lines() -> list[str]:
    """The BLAS libraries loaded by now, each with its threads in force."""
    import numpy as np

    built = np.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"]
    try:
        import threadpoolctl
    except ImportError:
        return [f"{built} (NumPy's), threads unknown: threadpoolctl is not installed"]
    pools = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    if not pools:
        return [f"{built} (NumPy's), threads unknown: threadpoolctl does not know this library"]
    return [
        f"{pool['internal_api']} {pool['version']} {pool.get('architecture', '')}, {pool['num_threads']} threads "
        f"({pool['filepath']})"
        for pool in pools
    ]


def numba_line() -> str:
    """Numba's threads and threading layer, read from its settings, so that no thread starts and nothing compiles."""
    numba = sys.modules.get("numba")
    if numba is None:
        return "not at hand"
    return f"{numba.config.NUMBA_NUM_THREADS} threads, threading layer {numba.config.THREADING_LAYER}"


def precision_line() -> str:
    """In what CUDA kernels multiply matrices, and what sets it."""
    named = os.environ.get("MICROGNM_PRECISION")
    origin = f"MICROGNM_PRECISION={named}" if named else "MICROGNM_PRECISION not set"
    return f"{backend.precision()} in CUDA kernels of conv and attention ({origin})"


def folder_lines() -> list[tuple[str, str]]:
    """Where compiled kernels, downloads and data lie."""
    from micrognm.data.sources import find_mnist

    lines = []
    if numba := sys.modules.get("numba"):
        beside = "__pycache__ beside each file that compiles (NUMBA_CACHE_DIR moves it)"
        lines.append(("Numba cache", numba.config.CACHE_DIR or beside))
    named = os.environ.get("MICROGNM_DATA")
    mnist = find_mnist(Path(named)) if named else None
    lines.append(("MICROGNM_DATA", f"{named}{'' if mnist else ', where MNIST is not'}" if named else "not set"))
    if pooch := sys.modules.get("pooch"):
        downloads = Path(pooch.os_cache("micrognm"))
        lines.append(("downloads", str(downloads)))
        mnist = mnist or find_mnist(downloads / "mnist")
    found = f"found in {next(iter(mnist.values())).parent}" if mnist else None
    lines.append(("MNIST", found or "not found: downloaded on first use, or put its folder's name into MICROGNM_DATA"))
    return lines
