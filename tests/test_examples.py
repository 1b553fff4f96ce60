"""Every example runs all its stages with --quick; the slow ones hold the full runs to the values they are known for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MADE, PIXELCNN, PIXEL_RNN, GATED, SNAIL, MULTI_SCALE, AUTOENCODER = (
    f"examples/autoregressive/{name}.py"
    for name in (
        "made", "pixelcnn", "pixel_rnn", "gated_pixelcnn", "pixelsnail", "multi_scale", "pixelcnn_autoencoder",
    )
)  # fmt: skip
REAL_NVP, GLOW = (f"examples/flow/{name}.py" for name in ("real_nvp", "glow"))
VAE, IWAE, VQ_VAE, VQ_VAE_2 = (f"examples/latent/{name}.py" for name in ("vae", "iwae", "vq_vae", "vq_vae_2"))
EXAMPLES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "examples").glob("*/*.py"))

PICTURES = {  # beside samples.png and curves.png
    AUTOENCODER: {"reconstructions.png"},
    REAL_NVP: {"interpolations.png", "temperatures.png", "manifold.png"},
    GLOW: {"interpolations.png", "temperatures.png", "attributes.png"},
    **{example: {"reconstructions.png"} for example in (VAE, IWAE, VQ_VAE)},
    VQ_VAE_2: {"reconstructions.png", "kept.png"},
}


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
    [
        *((example, ()) for example in EXAMPLES),
        (MADE, ("--levels", "all", "--hidden", "50", "30", "--direct")),
        (PIXEL_RNN, ("--kind", "row", "--skip", "--levels", "binary")),
        (GATED, ("--conditional",)),
        (SNAIL, ("--conditional", "--no-attend", "--mixtures", "3")),
        (REAL_NVP, ("--conditional", "--reversible")),
        (GLOW, ("--conditional",)),
        (GLOW, ("--mixing", "plu", "--reversible")),
        (VAE, ("--levels", "all")),
        (VAE, ("--n-z", "2", "--objective", "sgvb_a")),
        (IWAE, ("--layers", "2", "--objective", "dreg", "--k", "5")),
        (VQ_VAE, ("--mixtures", "1")),
        (VQ_VAE, ("--decay", "0")),
    ],
)
def test_quick_runs_every_stage(example, flags, tmp_path):
    result = run(example, tmp_path, "--quick", *flags)
    pictures = {"samples.png", "curves.png"} | PICTURES.get(example, {"completions.png"})
    for name in {"settings.json", "log.jsonl", "checkpoint.safetensors", "best.safetensors", "result.json"} | pictures:
        assert (tmp_path / "run" / name).stat().st_size > 0
    for name in pictures:
        assert (tmp_path / "run" / name).read_bytes().startswith(b"\x89PNG")
    again = run(example, tmp_path, "--quick", *flags, "--resume")  # a finished run is evaluated again, and not trained
    assert again == {**result, "seconds": again["seconds"]}


def test_the_ablation_of_glow_is_six_runs_and_a_picture(tmp_path):
    result = run(GLOW, tmp_path, "--quick", "--ablation")
    kinds = {f"{coupling}_{mixing}" for coupling in ("additive", "affine") for mixing in ("reverse", "shuffle", "1x1")}
    assert kinds <= set(result) and result["value"] == result["affine_1x1"]
    assert {path.parent.name.replace("-", "_") for path in tmp_path.glob("run/*/result.json")} == kinds
    assert (tmp_path / "run" / "ablation.png").read_bytes().startswith(b"\x89PNG")


def test_the_sweep_of_vae_is_two_runs_a_size_and_a_picture(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / VAE, "--quick", "--sweep", "2", "3"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    runs = {path.parent.name for path in tmp_path.glob("runs/vae/*/result.json")}
    assert runs == {"sgvb_b-2", "sgvb_b-3", "wake_sleep-2", "wake_sleep-3"}
    assert (tmp_path / "runs" / "vae" / "sweep.png").read_bytes().startswith(b"\x89PNG")


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


DIGITS = {  # with all 17 levels: the range that the test value must be in, in bits/dim
    MADE: (1.9, 2.10, "--levels all --dropout 0.5 --lr 2e-3 --epochs 60"),
}


@pytest.mark.slow
@pytest.mark.parametrize("example", DIGITS)
def test_all_17_levels_of_the_digits(example, tmp_path):
    least, most, flags = DIGITS[example]
    assert least < run(example, tmp_path, *flags.split())["value"] <= most  # linear regression: 2.18


MNIST = {
    MADE: (90, 93, "--data mnist --levels binary --hidden 500 --masks 1 --dropout 0 --batch 100 --lr 2e-3 --epochs 40"),
}


@pytest.mark.slow
@pytest.mark.skipif("MICROGNM_DATA" not in os.environ, reason="MICROGNM_DATA does not name a folder that holds MNIST")
@pytest.mark.parametrize("example", MNIST)
def test_mnist_binarised_anew_at_each_presentation(example, tmp_path):
    least, most, flags = MNIST[example]
    assert least < run(example, tmp_path, *flags.split())["value"] <= most
