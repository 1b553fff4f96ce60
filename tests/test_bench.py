"""The commands that time and compile the kernels."""

from __future__ import annotations

import os
import time

import pytest

from micrognm import bench, warmup
from micrognm.__main__ import main


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
