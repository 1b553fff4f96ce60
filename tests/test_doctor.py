"""The doctor in environments made for it: their metadata asks for what is here, what is not, and what is broken."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from micrognm import backend, doctor

ROOT = Path(__file__).parents[1]
IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@pytest.fixture
def site(tmp_path):
    """A folder that claims to hold an installed micrognm with these requirements; returns how to fill it."""
    folder = tmp_path / "site"

    def install(name, version, *requires, extras=()):
        info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {line}" for line in requires] + [f"Provides-Extra: {extra}" for extra in extras]
        (info / "METADATA").write_text("\n".join(lines) + "\n")
        return folder

    return install


def run(folder, **environment):
    """`python -m micrognm doctor` from another folder, with what `folder` claims to be installed."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MICROGNM_", "GOMP_"))}
    environment = inherited | environment
    environment["PYTHONPATH"] = os.pathsep.join((str(folder), str(ROOT)))
    command = [sys.executable, "-m", "micrognm", "doctor"]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder.parent)


def rows(result):
    """The report as name -> text; a name's later rows are joined to its first."""
    report: dict[str, str] = {}
    for line in result.stdout.splitlines():
        name, text = line[:16].strip(), line[16:]
        report[name] = f"{report[name]}\n{text}" if name in report else text
    return report


def test_where_nothing_is_missing_the_status_is_0(site):
    result = run(
        site("micrognm", "9.8.7", "numpy>=2.0", "numba>=0.60", 'pytest>=8.3; extra == "test"', extras=["test"])
    )
    report = rows(result)
    assert (result.returncode, result.stderr) == (0, "")
    assert report["micrognm"].startswith("9.8.7")
    assert report["numpy"] == np.__version__
    assert report["pytest"] == pytest.__version__
    assert report["GPU"] == backend.gpu_status()
    assert report["precision"] == "float32 in CUDA kernels of conv and attention (MICROGNM_PRECISION not set)"
    assert "threads" in report["BLAS"] and "threads" in report["Numba"]
    assert "pip install" not in result.stdout.replace(report["GPU"], "")
    assert result.stdout.endswith("Nothing that is required is missing.\n")


def test_a_missing_an_old_and_a_broken_library_are_named_with_the_command_that_mends_each(site):
    requires = ("numpy>=999", "absent>=1.2", "broken>=1", 'tqdm>=999; python_version < "3"')
    folder = site("micrognm", "0.1.0", *requires)
    site("broken", "1.5")
    (folder / "broken.py").write_text("raise OSError('libbroken.so is not there')\n")
    result = run(folder)
    report = rows(result)
    assert result.returncode == 1
    assert report["numpy"] == f"{np.__version__}, but >=999 is needed"
    assert "absent" in result.stdout and "tqdm" not in result.stdout
    assert report["broken"] == "1.5, but its import fails: OSError: libbroken.so is not there"
    assert result.stdout.endswith(
        "Missing or broken; this mends it:\n"
        f'  {doctor.PIP} "numpy>=999" "absent>=1.2"\n'
        f'  {doctor.PIP} --force-reinstall "broken>=1"\n'
    )


def test_a_missing_extra_is_no_fault(site):
    requires = ('plotter-of-none>=3; extra == "plots"', 'numpy>=2.0; extra == "plots"')
    result = run(site("micrognm", "0.1.0", *requires, extras=["plots"]))
    assert result.returncode == 0
    assert rows(result)["plots"] == f'{doctor.PIP} "plotter-of-none>=3"'


def test_cupy_for_another_cuda_meets_the_extra(site):
    folder = site("micrognm", "0.1.0", 'cupy-cuda12x>=14.2; extra == "gpu"', extras=["gpu"])
    site("cupy-cuda13x", "14.3.0")
    report = rows(run(folder))
    assert report["cupy-cuda12x"] == "14.3.0 (as cupy-cuda13x)"
    assert "gpu" not in report


def test_what_is_not_installed_itself_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setattr(doctor.metadata, "distribution", raiser(doctor.metadata.PackageNotFoundError))
    assert doctor.main() == 1
    assert capsys.readouterr().out.endswith(f'\n  {doctor.PIP} -e "{ROOT}"\n')


def raiser(error):
    def fail(*_):
        raise error

    return fail


def test_a_python_in_a_folder_with_spaces_is_quoted():
    code = "import sys; sys.executable = '/my python/bin/python'; from micrognm import doctor; print(doctor.PIP)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout == '"/my python/bin/python" -m pip install\n'


def test_mnist_is_found_where_MICROGNM_DATA_says(site, tmp_path):
    folder = site("micrognm", "0.1.0", "pooch>=1.8")
    data = tmp_path / "data" / "mnist"
    data.mkdir(parents=True)
    cache = str(tmp_path / "cache")
    report = rows(run(folder, MICROGNM_DATA=str(data.parent), XDG_CACHE_HOME=cache))
    assert report["MICROGNM_DATA"] == f"{data.parent}, where MNIST is not"
    assert report["MNIST"].startswith("not found")
    downloads = tmp_path / "cache" / "micrognm" / "mnist"
    downloads.mkdir(parents=True)
    for name in IDX:
        (downloads / name).touch()
    report = rows(run(folder, XDG_CACHE_HOME=cache))
    assert report["MICROGNM_DATA"] == "not set"
    assert report["MNIST"] == f"found in {downloads}"
    for name in IDX:
        (data / f"{name}.gz").touch()
    report = rows(run(folder, MICROGNM_DATA=str(data.parent), XDG_CACHE_HOME=cache))
    assert report["MICROGNM_DATA"] == str(data.parent)
    assert report["MNIST"] == f"found in {data}"


def test_threads_are_those_in_force(site):
    folder = site("micrognm", "0.1.0", "numba>=0.60")
    report = rows(run(folder, NUMBA_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1"))
    assert report["Numba"].startswith("1 threads")
    # The last one is set by backend.py.
    wanted = "OMP_NUM_THREADS=1, OPENBLAS_NUM_THREADS=1, NUMBA_NUM_THREADS=1, GOMP_SPINCOUNT=30000"
    assert report["variables"] == wanted
    if "openblas" in report["BLAS"]:
        assert all(" 1 threads " in line for line in report["BLAS"].splitlines())


def test_the_precision_asked_for_is_shown(site):
    report = rows(run(site("micrognm", "0.1.0"), MICROGNM_PRECISION="tf32"))
    assert report["precision"] == "tf32 in CUDA kernels of conv and attention (MICROGNM_PRECISION=tf32)"


def test_the_doctor_compiles_nothing_and_starts_no_thread_pool(site):
    """Numba's layer is chosen when its pool starts, and asking for the layer before that raises."""
    folder = site("micrognm", "0.1.0", "numba>=0.60")
    code = "from micrognm.__main__ import main; main(['doctor']); import numba; numba.threading_layer()"
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join((str(folder), str(ROOT))))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=folder)
    assert "Threading layer is not initialized" in result.stderr
