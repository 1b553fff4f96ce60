"""Every example runs all its stages with --quick; the slow ones hold the full runs to the values they are known for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MADE = "examples/autoregressive/made.py"
EXAMPLES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "examples").glob("*/*.py"))


def run(example: str, out: Path, *flags: str) -> dict:
    """The result of an example, run from another folder."""
    done = subprocess.run(
        [sys.executable, ROOT / example, "--out", "run", *flags], cwd=out, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((out / "run" / "result.json").read_text())
    last = done.stdout.strip().splitlines()[-1].split()
    assert last[0] == "result"
    assert [field.split("=")[0] for field in last[1:]] == list(result)
    return result


@pytest.mark.parametrize(
    ("example", "flags"),
    [*((example, ()) for example in EXAMPLES), (MADE, ("--grey", "--hidden", "50", "30", "--direct"))],
)
def test_quick_runs_every_stage(example, flags, tmp_path):
    result = run(example, tmp_path, "--quick", *flags)
    pictures = {"samples.png", "curves.png"} | ({"completions.png"} if example == MADE else set())
    for name in {"settings.json", "log.jsonl", "checkpoint.safetensors", "best.safetensors", "result.json"} | pictures:
        assert (tmp_path / "run" / name).stat().st_size > 0
    for name in pictures:
        assert (tmp_path / "run" / name).read_bytes().startswith(b"\x89PNG")
    again = run(example, tmp_path, "--quick", *flags, "--resume")  # a finished run is evaluated again, and not trained
    assert again == {**result, "seconds": again["seconds"]}


def test_an_example_names_the_known_data(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / MADE, "--data", "cifar"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "unknown data 'cifar'; known are" in done.stderr and "digits" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_made_on_binary_digits(tmp_path):
    assert 15.5 < run(MADE, tmp_path)["value"] <= 16.8  # 64 logistic regressions: 18.10


@pytest.mark.slow
def test_made_on_all_17_levels(tmp_path):
    assert 1.9 < run(MADE, tmp_path, "--grey", "--dropout", "0.5", "--lr", "2e-3", "--epochs", "60")["value"] <= 2.10


@pytest.mark.slow
@pytest.mark.skipif("MICROGNM_DATA" not in os.environ, reason="MICROGNM_DATA does not name a folder that holds MNIST")
def test_made_on_mnist(tmp_path):
    flags = "--data mnist --hidden 500 --masks 1 --dropout 0 --batch 100 --lr 2e-3 --epochs 40".split()
    assert 90 < run(MADE, tmp_path, *flags)["value"] <= 93
