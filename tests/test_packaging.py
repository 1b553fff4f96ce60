"""What a wheel, an sdist and an editable install hold, built without network; and the CI script's own steps."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
LEFTOVERS = shutil.ignore_patterns(".*", "*.egg-info", "build", "dist", "runs", "venv")
# A kernel with every kind of file there may be, beside whatever kernels the tree holds.
KERNEL = ("reference.py", "cpu.py", "gpu.py", "gpu.cu", "tile.cuh", "tile.h", "README.md")
# Another project's package of the name `kernels`, which must neither be hit nor be mistaken for ours.
STRANGER = {"kernels/__init__.py": "OWNER = 'another project'\n", "kernels/README.md": "Another project's.\n"}


def pip(*arguments: str | Path, **environment: str) -> None:
    """pip without network: builds use the setuptools at hand."""
    command = [sys.executable, "-m", "pip", "--quiet", *map(str, arguments)]
    subprocess.run(
        command, check=True, env=dict(os.environ, PIP_NO_INDEX="1", PIP_NO_BUILD_ISOLATION="0", **environment)
    )


def python(code: str, folder: Path, *path: Path, executable: Path | str = sys.executable) -> str:
    """What `code` prints when run in `folder` with only `path` added to the path."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(map(str, path)))
    result = subprocess.run([executable, "-c", code], capture_output=True, text=True, cwd=folder, env=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with one kernel more."""
    copy = tmp_path_factory.mktemp("packaging") / "tree"
    shutil.copytree(ROOT, copy, ignore=LEFTOVERS)
    shutil.copytree(ROOT / ".ci", copy / ".ci")
    (copy / "kernels" / "planted").mkdir()
    for name in KERNEL:
        (copy / "kernels" / "planted" / name).write_text("NAME = 'planted'\n" if name.endswith(".py") else "planted\n")
    cache = copy / "kernels" / "planted" / "__pycache__"
    cache.mkdir()
    for name in ("cpu.cpython-312.pyc", "cpu.cpu-1.py312.nbi", "gpu.h"):
        (cache / name).write_text("what a run leaves behind, which nobody should be sent\n")
    return copy


@pytest.fixture(scope="module")
def wheel(tree: Path) -> Path:
    folder = tree.parent / "wheel"
    pip("wheel", "--no-deps", "--wheel-dir", folder, tree)
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def sdist(tree: Path) -> Path:
    folder = tree.parent / "sdist"
    python(f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})", tree)
    (path,) = folder.iterdir()
    return path


def files(folder: Path) -> set[str]:
    """The files below a folder of the repository, by their paths in it, caches left out."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def wheel_files(path: Path) -> set[str]:
    with zipfile.ZipFile(path) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_the_wheel_holds_both_folders_under_one_name(tree: Path, wheel: Path):
    assert wheel.name == "micrognm-0.1.0-py3-none-any.whl"
    expected = {f"micrognm/{name}" for name in files(tree / "micrognm")}
    expected |= {f"micrognm/kernels/{name}" for name in files(tree / "kernels")}
    assert {f"micrognm/kernels/planted/{name}" for name in KERNEL} < expected
    assert wheel_files(wheel) == expected


def test_the_sdist_holds_what_a_user_builds_tests_and_studies(tree: Path, sdist: Path):
    with tarfile.open(sdist) as archive:
        held = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    folders = [name for name in ("micrognm", "kernels", "tests", "examples", "benchmarks") if (tree / name).is_dir()]
    expected = {f"{folder}/{name}" for folder in folders for name in files(tree / folder)}
    expected |= {"README.md", "LICENSE", "pyproject.toml", "setup.py", "MANIFEST.in", ".ci/run"}
    assert expected <= held
    assert {name for name in held - expected if "egg-info/" not in name} == {"PKG-INFO", "setup.cfg"}


def test_the_wheel_from_the_sdist_is_the_wheel_from_the_tree(wheel: Path, sdist: Path, tmp_path: Path):
    pip("wheel", "--no-deps", "--wheel-dir", tmp_path, sdist)
    assert wheel_files(tmp_path / wheel.name) == wheel_files(wheel)


WHERE = """
import kernels, micrognm.kernels.planted.reference as ours
print(kernels.OWNER, ours.NAME, ours.__file__)
"""


def stranger(folder: Path) -> Path:
    for name, text in STRANGER.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_installed_kernels_live_beside_another_package_of_their_name(wheel: Path, tmp_path: Path):
    site = tmp_path / "site"
    pip("install", "--no-deps", "--target", site, wheel)
    assert not (site / "kernels").exists()
    stranger(site)
    assert python(WHERE, tmp_path, site).split() == [
        *("another", "project", "planted"),
        str(site / "micrognm" / "kernels" / "planted" / "reference.py"),
    ]


def test_a_checkout_finds_its_kernels(tree: Path, tmp_path: Path):
    found = python(WHERE, tmp_path, stranger(tmp_path), tree).split()
    assert found[-1] == str(tree / "kernels" / "planted" / "reference.py")


def test_an_editable_install_finds_its_kernels(tree: Path, tmp_path: Path):
    venv.create(tmp_path / "venv", with_pip=False, symlinks=os.name != "nt")
    here = Path(sysconfig.get_path("purelib"))
    scheme = sysconfig.get_preferred_scheme("prefix")
    variables = {"base": str(tmp_path / "venv"), "platbase": str(tmp_path / "venv")}
    executable = Path(sysconfig.get_path("scripts", scheme, variables)) / Path(sys.executable).name
    # The new environment borrows what is installed here: to build by PYTHONPATH, to run at the end of its own path,
    # where the finder of an editable micrognm installed here does not come before its own.
    pip("--python", executable, "install", "--no-deps", "--editable", tree, PYTHONPATH=str(here))
    stranger(Path(sysconfig.get_path("purelib", scheme, variables)))
    code = f"import sys; sys.path.append({str(here)!r}){WHERE}"
    found = python(code, tmp_path, executable=executable).split()
    assert found[-1] == str(tree / "kernels" / "planted" / "reference.py")


def test_every_requirement_is_one_the_doctor_can_repeat():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    for line in lines:
        requirement = Requirement(line)
        assert line == f"{requirement.name}{requirement.specifier}"  # no markers, urls or extras: two words say it all


def ci(folder: Path, readme: str) -> subprocess.CompletedProcess[str]:
    """.ci/run in a tree that holds nothing but this README; whatever it makes must be gone afterwards."""
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", folder / ".ci" / "run")
    (folder / "README.md").write_text(readme)
    (folder / "scratch").mkdir()
    environment = dict(os.environ, TMPDIR=str(folder / "scratch"))
    result = subprocess.run(["bash", folder / ".ci" / "run"], capture_output=True, text=True, env=environment)
    assert not list((folder / "scratch").iterdir())
    return result


@pytest.mark.parametrize(
    "readme",
    [
        "no block at all\n",
        "```\nexit 0\n```\n",
        "<!-- test command -->\nwords between\n```\nexit 0\n```\n",
        "<!-- test command -->\n```\n```\n",
        "<!-- test command -->\n```\nexit 0\nexit 0\n```\n",
    ],
)
def test_ci_refuses_a_readme_without_one_test_command(readme: str, tmp_path: Path):
    result = ci(tmp_path, readme)
    assert result.returncode == 1
    assert "<!-- test command -->" in result.stderr


def test_ci_runs_the_readmes_command_in_a_new_environment_and_stops_where_it_fails(tmp_path: Path):
    command = "python -c 'import sys; print(sys.prefix); sys.exit(3)' && touch reached"
    result = ci(tmp_path, f"Run\n\n<!-- test command -->\n\n```bash\n{command}\n```\n\n```\nexit 0\n```\n")
    assert result.returncode == 3
    assert result.stdout.startswith(str(tmp_path / "scratch"))
    assert not (tmp_path / "reached").exists()
    assert "ruff" not in result.stderr
