"""Every example runs all its stages with --quick; the slow ones hold the full runs to the values they are known for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from micrognm import storage

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


# Workers side by side: two threads of each would wait for one another.
ALONE = {**os.environ, "NUMBA_NUM_THREADS": "1"} if "PYTEST_XDIST_WORKER" in os.environ else None


def run(example: str, out: Path, *flags: str) -> dict:
    """The result of an example, run from another folder."""
    command = [sys.executable, ROOT / example, "--out", "run", *flags]
    done = subprocess.run(command, cwd=out, env=ALONE, capture_output=True, text=True, check=False)
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
        (VAE, ("--n-z", "2", "--objective", "mcem")),
        (VAE, ("--objective", "full_vb")),
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


def test_a_finished_run_is_measured_more_closely_without_training_again(tmp_path):
    first = run(VAE, tmp_path, "--quick", "--samples", "10")
    def kept() -> tuple[bytes, dict]:
        arrays, _ = storage.load(tmp_path / "run" / "best.safetensors")
        return (tmp_path / "run" / "log.jsonl").read_bytes(), {name: x.tobytes() for name, x in arrays.items()}

    before = kept()
    again = run(VAE, tmp_path, "--quick", "--samples", "100", "--resume")
    assert kept() == before
    assert (first["samples"], again["samples"]) == (10, 100)
    assert again["elbo"] == pytest.approx(first["elbo"], rel=0.02) and again["value"] < first["value"]


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


# Full runs: the flags, and the range that the test value must be in. Below it something tells the model the answer.
DIGITS_BINARY = [  # nats; 64 logistic regressions: 18.10
    (MADE, "", 15.5, 16.8),
    (VAE, "", 16.0, 18.1),
]
DIGITS = [  # with all 17 levels, bits/dim; linear regression: 2.18, and 2.44 for dequantised images
    (MADE, "--levels all --dropout 0.5 --lr 2e-3 --epochs 60", 1.9, 2.10),
    (PIXELCNN, "", 1.6, 2.05),
    (PIXEL_RNN, "--kind row", 1.6, 2.05),
    (PIXEL_RNN, "--kind diagonal", 1.6, 2.05),
    (GATED, "", 1.6, 2.05),
    (SNAIL, "", 1.6, 2.03),
    (MULTI_SCALE, "", 1.6, 2.05),
    (REAL_NVP, "", 1.8, 2.44),
    (GLOW, "", 1.8, 2.35),
]


@pytest.mark.slow
@pytest.mark.parametrize(("example", "flags", "least", "most"), [*DIGITS_BINARY, *DIGITS])
def test_digits(example, flags, least, most, tmp_path):
    assert least < run(example, tmp_path, *flags.split())["value"] <= most


@pytest.mark.slow
def test_gated_pixelcnn_draws_the_class_it_is_asked_for(tmp_path):
    result = run(GATED, tmp_path, "--conditional")
    assert 1.5 < result["value"] <= 1.85
    assert result["recognised"] >= 0.85


@pytest.mark.slow
def test_more_draws_bring_iwae_nearer_to_the_data(tmp_path):
    flags = ("--objective", "vae", "--k", "1"), ("--k", "5"), ("--k", "50")
    for i in range(len(flags)):
        (tmp_path / str(i)).mkdir()
    vae, five, fifty = (run(IWAE, tmp_path / str(i), *each) for i, each in enumerate(flags))
    assert 15.5 < fifty["value"] <= five["value"] <= vae["value"] <= 18.1
    assert int(fifty["active"]) >= int(vae["active"])


@pytest.mark.slow
def test_the_codes_of_vq_vae_are_used_and_its_prior_knows_them(tmp_path):
    result = run(VQ_VAE, tmp_path)
    assert result["value"] < 0.02 and result["perplexity"] >= 10
    assert result["prior"] < result["histogram"]


@pytest.mark.slow
def test_both_levels_of_vq_vae_2_reconstruct_better_than_the_top_and_samples_teach_the_classes(tmp_path):
    result = run(VQ_VAE_2, tmp_path)
    assert result["value"] >= 0.8 and result["mse"] < result["mse_top"]
    assert result["nats_0"] < result["histogram_0"] and result["nats_1"] < result["histogram_1"]


needs_mnist = pytest.mark.skipif(
    "MICROGNM_DATA" not in os.environ, reason="MICROGNM_DATA does not name a folder that holds MNIST"
)
MNIST = [  # nats
    (MADE, "--hidden 500 --masks 1 --dropout 0 --batch 100 --lr 2e-3 --epochs 40", 90, 93),
    (GATED, "--layers 12 --dilations 1 2 4 8 --batch 8 --lr 8e-3 --average 0.999 --epochs 1", 78, 84),
    (IWAE, "--k 5 --hidden 400 --units 50 --batch 100 --lr 2e-3 --epochs 52 --samples 1000", 85, 91.5),
]


@pytest.mark.slow
@needs_mnist
@pytest.mark.parametrize(("example", "flags", "least", "most"), MNIST)
def test_mnist_binarised_anew_at_each_presentation(example, flags, least, most, tmp_path):
    assert least < run(example, tmp_path, "--data", "mnist", "--levels", "binary", *flags.split())["value"] <= most


@pytest.mark.slow
@needs_mnist
def test_the_bound_of_vae_on_mnist(tmp_path):
    flags = "--data mnist --n-z 20 --hidden 500 500 --lr 2e-3 --epochs 50 --samples 500"
    result = run(VAE, tmp_path, *flags.split())
    assert 86 < result["value"] <= 95
    assert result["value"] < result["elbo"] <= 100


@pytest.mark.slow
@needs_mnist
def test_the_codes_of_mnist(tmp_path):
    flags = "--data mnist --halvings 2 --K 128 --D 32 --epochs 5 --prior-epochs 5"
    result = run(VQ_VAE, tmp_path, *flags.split())
    assert result["value"] <= 0.008 and result["perplexity"] >= 30
    assert result["prior"] < result["histogram"]
