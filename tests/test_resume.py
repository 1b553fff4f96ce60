"""Runs that are killed, and go on. This file is also the script that is killed: see `Tiny` and the end."""

import builtins
import contextlib
import faulthandler
import importlib
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import micrognm as mg
from micrognm import backend, loop, picture, storage
from micrognm.data import Batches
from micrognm.nn import Dropout, Linear, Sequential, WeightNorm
from micrognm.optim import EMA, Adam, cosine

N, FEATURES = 50, 6


@dataclass(kw_only=True)
class Tiny(loop.Settings):
    """Fit a small regression with everything that has a state: dropout, noise, moments, averages, an initialisation."""

    data: str = "noise"
    epochs: int = 12
    out: Path = Path("runs/tiny")
    batch: int = 8
    """examples a batch; the last of an epoch is shorter"""
    pause: float = 0.0
    """seconds of sleep in each step"""


def train(settings: Tiny) -> loop.Fitted:
    rng = np.random.default_rng(settings.seed)
    x = rng.standard_normal((N, FEATURES), np.float32)
    y = np.sin(x.sum(axis=1, keepdims=True))
    model = Sequential(
        WeightNorm(Linear(FEATURES, 9, rng)), mg.relu, Dropout(0.3, np.random.default_rng(7)), Linear(9, 1, rng)
    )
    optimiser = Adam(model, lr=cosine(3e-2, steps=10_000), weight_decay=1e-3)

    def error(x: np.ndarray, y: np.ndarray) -> mg.Tensor:
        difference = model(mg.Tensor(x)) - y
        return (difference * difference).mean()

    def loss(indices: np.ndarray, rng: np.random.Generator) -> mg.Tensor:
        time.sleep(settings.pause)
        noise = 0.1 * rng.standard_normal((len(indices), FEATURES), np.float32)
        return error(x[indices] + noise, y[indices])

    def evaluate(rng: np.random.Generator) -> dict[str, float]:
        noise = 0.1 * rng.standard_normal(x.shape, np.float32)
        return {"error": error(x + noise, y).item(), "rough": round(error(x, y).item(), 1)}

    return loop.fit(
        model,
        optimiser,
        Batches(N, settings.batch, settings.seed),
        loss,
        settings=settings,
        rng=rng,
        evaluate=evaluate,
        select="error",
        loss_name="error",
        sample=lambda rng: mg.sigmoid(model(mg.Tensor(rng.random((4, FEATURES), np.float32)))).reshape(
            shape=(4, 1, 1, 1)
        ),
        ema=EMA(optimiser, 0.9),
    )


def left(out: Path) -> dict[str, Any]:
    """All that a run left, but for the time it took and where it lies."""
    found: dict[str, Any] = {path.name: path.read_bytes() for path in out.iterdir()}
    for name in ("checkpoint.safetensors", "best.safetensors"):
        arrays, meta = storage.load(out / name)
        meta["settings"].pop("out"), meta["settings"].pop("resume")
        meta.pop("seconds")
        if name == "checkpoint.safetensors":
            meta["best"].pop("seconds")
        found[name] = {key: (x.dtype, x.shape, x.tobytes()) for key, x in arrays.items()}, meta
    rows = [json.loads(line) for line in found["log.jsonl"].splitlines()]
    found["log.jsonl"] = [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
    found.pop("settings.json")
    return found


# ---- the script: it imports once and forks a child for each run, which makes a kill cheap


def forked(work: Callable[[], Any]) -> int:
    """Start work in a child, which exits with status 0 when it is done and 1 when it raises."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        sys.stderr = open(os.devnull, "w")
        work()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except KeyboardInterrupt:
        pass
    except BaseException:
        import traceback

        traceback.print_exc(file=sys.__stderr__)
    os._exit(status)


def ended(child: int) -> int:
    """The status of a child, negative for the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def prepare(folder: Path) -> None:
    def warm() -> None:
        train(Tiny(epochs=1, out=folder / "whole"))
        (folder / "modules").write_text("\n".join(sys.modules))

    # What a run imports is imported here once, and not in each child. No kernel is loaded here: that starts threads,
    # which a fork does not survive.
    assert ended(forked(warm)) == 0
    shutil.rmtree(folder / "whole")
    for module in (folder / "modules").read_text().splitlines():
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    loop.CHECKPOINT_SECONDS, loop.SHARE = 0.0, np.inf  # a checkpoint at each step: most kills fall into one
    # To draw axes takes longer than all the rest; what matters here is that a file is written, and of the same log.
    picture.curves = lambda log, path: storage.write(path, str(Path(str(log)).read_text().count("\n")).encode())


def kill_at_random_moments(folder: Path, kills: int) -> None:
    """Chains of runs that are killed and resumed until they end, with `kills` SIGKILLs in all or more."""
    prepare(folder)
    began = time.perf_counter()
    assert ended(forked(lambda: train(Tiny(out=folder / "whole")))) == 0
    whole = time.perf_counter() - began
    moments = random.Random(0)
    done, chain = {"SIGKILL": 0, "SIGTERM": 0, "SIGINT": 0, "unharmed": 0}, 0
    while done["SIGKILL"] < kills:
        out, status = folder / f"chain{chain}", 1
        while status != 0:
            child = forked(lambda: train(Tiny(out=out, resume=True)))  # noqa: B023  # called at once
            time.sleep(whole * moments.random() ** 5)  # short as a rule, now and then enough to come to the end
            sent = moments.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
            os.kill(child, sent)
            status = ended(child)
            # A SIGTERM or SIGINT that comes before `fit` has its handlers ends the child as any other program.
            assert status in (0, -sent, 128 + sent, 1 if sent == signal.SIGINT else 0), (sent, status)
            done["unharmed" if status == 0 else sent.name] += 1
        chain += 1
    print(json.dumps(done))


class Dying:
    """Counts what is done to files, and dies at the given count: between two calls, or with half of a write done."""

    def __init__(self, at: int) -> None:
        self.at, self.calls = at, 0
        for name in ("fsync", "replace"):
            setattr(os, name, self.counted(getattr(os, name)))
        self.open = builtins.open
        builtins.open = self.opened  # type: ignore[assignment]

    def count(self) -> bool:
        self.calls += 1
        return self.calls == self.at

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any) -> Any:
            if self.count():
                self.die()
            return call(*args)

        return counted

    def opened(self, path: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        file = self.open(path, mode, *args, **options)
        if mode not in ("wb", "a"):
            return file
        if self.count():
            self.die()
        return HalfWritten(file, self)


class HalfWritten:
    """A file that is open for writing."""

    def __init__(self, file: Any, dying: Dying) -> None:
        self.file, self.dying = file, dying

    def __enter__(self) -> "HalfWritten":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, content: Any) -> None:
        if self.dying.count():
            self.file.write(content[: len(content) // 2])
            self.file.flush()
            self.dying.die()
        self.file.write(content)


def kill_at_every_point(folder: Path) -> None:
    """A run that is killed at its first dealing with a file and resumed, one killed at its second, and so on."""
    backend.use_kernels("reference")  # hundreds of children would spend most of the time loading compiled ones
    prepare(folder)
    counted = folder / "points"

    def whole() -> None:
        dying = Dying(at=-1)
        train(Tiny(epochs=2, batch=30, out=folder / "whole"))
        counted.write_text(str(dying.calls))

    assert ended(forked(whole)) == 0
    points = int(counted.read_text())

    def killed(at: int) -> None:
        Dying(at)
        train(Tiny(epochs=2, batch=30, out=folder / f"killed{at}", resume=True))

    for at in range(1, points + 1):
        status = ended(forked(lambda: killed(at)))  # noqa: B023  # called at once
        assert status == -signal.SIGKILL, (at, status)
        checkpoint = folder / f"killed{at}" / "checkpoint.safetensors"
        if checkpoint.exists():
            storage.load(checkpoint)  # whole, or it raises
        assert ended(forked(lambda: train(Tiny(epochs=2, batch=30, out=folder / f"killed{at}", resume=True)))) == 0  # noqa: B023
    print(json.dumps({"points": points}))


# ---- the tests

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(mg.__file__).parents[1])}


def script(*arguments: object) -> list[str]:
    return [sys.executable, __file__, *map(str, arguments)]


def run_to_the_end(*arguments: object) -> dict[str, int]:
    done = subprocess.run(script(*arguments), capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def assert_as_whole(folder: Path) -> None:
    """What other runs left is what the run in `whole` left: no file more or less, and every bit."""
    whole, others = (
        left(folder / "whole"),
        [path for path in folder.iterdir() if path.is_dir() and path.name != "whole"],
    )
    assert others and sorted(whole) == sorted(
        {*loop.FILES, "checkpoint.safetensors"} - {"settings.json", "result.json"}
    )
    for path in others:
        found = left(path)
        assert found.keys() == whole.keys(), path
        for name in whole:
            assert found[name] == whole[name], path / name


def test_killed_at_random_moments_a_run_ends_as_one_never_interrupted(tmp_path):
    done = run_to_the_end("--kill-at-random-moments", tmp_path, 25)
    assert done["SIGKILL"] >= 25
    assert_as_whole(tmp_path)
    _, meta = left(tmp_path / "whole")["checkpoint.safetensors"]
    assert meta["step"] == 84 and len(left(tmp_path / "whole")["log.jsonl"]) == 12


def test_killed_at_any_dealing_with_a_file_a_run_ends_as_one_never_interrupted(tmp_path):
    done = run_to_the_end("--kill-at-every-point", tmp_path)
    assert done["points"] > 50
    assert_as_whole(tmp_path)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(sent, tmp_path):
    out = tmp_path / "two words"
    command = script("--out", out, "--epochs", 20, "--pause", 0.002)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as child:
        assert child.stderr is not None
        said = child.stderr.readline()  # the first evaluation is over
        child.send_signal(sent)
        child.send_signal(sent)
        said += child.stderr.read()
    assert child.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[sent], said
    step = storage.load(out / "checkpoint.safetensors")[1]["step"]
    assert 0 < step < 140
    assert f"Stopped by {sent.name} and saved at step {step} of 140. Go on with:\n" in said
    assert "Traceback" not in said
    again = shlex.split(said.splitlines()[-1])
    assert again == [*command, "--resume"]
    subprocess.run(again, check=True, env=ENVIRONMENT)
    train(Tiny(out=tmp_path / "whole", epochs=20, pause=0.002))
    assert_as_whole(tmp_path)


if __name__ == "__main__":
    faulthandler.dump_traceback_later(500, exit=True)  # a run that hangs says where, and ends
    match sys.argv[1]:
        case "--kill-at-random-moments":
            kill_at_random_moments(Path(sys.argv[2]), int(sys.argv[3]))
        case "--kill-at-every-point":
            kill_at_every_point(Path(sys.argv[2]))
        case _:
            train(loop.parse(Tiny))
