"""The commands that time and compile the kernels."""

from __future__ import annotations

import importlib.util
import os
import time
from pathlib import Path

import pytest

from micrognm import bench, warmup
from micrognm.__main__ import main

ROOT = Path(__file__).resolve().parent.parent


def test_every_kernel_can_be_timed_and_warmed():
    assert list(warmup.KERNELS) == bench.kernels()


@pytest.mark.parametrize("command", ["bench", "warmup"])
def test_an_unknown_kernel_is_answered_with_those_there_are(command, capsys):
    assert main([command, "convolution"]) == 2
    error = capsys.readouterr().err
    assert "convolution" in error and "conv, formula" in error


def test_times_are_of_the_one_and_of_the_other():
    ours, theirs = bench.compare(lambda: time.sleep(0.02), lambda: None, repeats=2, turn=2)
    assert ours >= 0.02 > theirs


def test_the_peer_is_imported_without_our_setting_of_its_threads(monkeypatch):
    seen = []

    def imported(name: str) -> None:
        seen.append((name, os.environ.get("GOMP_SPINCOUNT")))

    monkeypatch.setenv("GOMP_SPINCOUNT", "1000")
    monkeypatch.setattr(bench.importlib, "import_module", imported)
    bench.torch()
    assert seen == [("torch", None)] and os.environ["GOMP_SPINCOUNT"] == "1000"


def test_the_pages_show_what_the_kept_run_measured(tmp_path, monkeypatch):
    """benchmarks/tables.py would write into the pages what they hold."""
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    found = [ROOT / "README.md", *ROOT.glob("kernels/*/README.md")]
    pages = {page.relative_to(ROOT): page.read_text() for page in found}
    for page, text in pages.items():
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / page).write_text(text)
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    (report,) = (ROOT / "benchmarks" / "results").glob("cpu-*.json")
    tables.main(report)
    assert {page: (tmp_path / page).read_text() for page in pages} == pages
