"""Training by fit; test_resume.py kills it.

More on this.
"""

import io
import json
import os
import re
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import micrognm as mg
from micrognm import loop, picture, storage
from micrognm.data import Batches
from micrognm.nn import Dropout, Linear, Module, Sequential
from micrognm.optim import EMA, SGD, Adam, cosine

N, FEATURES = 20, 3


@dataclass(kw_only=True)
class Tiny(loop.Settings):
    """Fit a small regression."""

    data: str = "noise"
    epochs: int = 4
    out: Path = Path("runs/tiny")
    batch_size: int = 8
    """examples a batch"""
    hidden: tuple[int, ...] = (5,)
    """units of each hidden layer"""


class Case:
    """A run with dropout, noise and averages, of which a test changes what it is about."""

    def __init__(self, out: Path, ema: bool = True, lr: Any = None, **settings: Any) -> None:
        self.settings = Tiny(out=out, **settings)
        self.rng = np.random.default_rng(self.settings.seed)
        self.x = self.rng.standard_normal((N, FEATURES), np.float32)
        self.y = self.x.sum(axis=1, keepdims=True)
        self.model = Sequential(
            Linear(FEATURES, 5, self.rng), mg.tanh, Dropout(0.2, np.random.default_rng(7)), Linear(5, 1, self.rng)
        )
        self.optimiser = Adam(self.model, lr=cosine(1e-2, steps=1000) if lr is None else lr)
        self.ema = EMA(self.optimiser, 0.9) if ema else None
        self.batches = Batches(N, self.settings.batch_size, self.settings.seed)
        self.evaluate: Callable[[np.random.Generator], dict[str, float]] = lambda rng: {"error": self.error().item()}
        self.sample: Callable[[np.random.Generator], Any] | None = None
        self.steps = 0

    def error(self, x: Any = None, y: Any = None) -> mg.Tensor:
        difference = self.model(mg.Tensor(self.x if x is None else x)) - (self.y if y is None else y)
        return (difference * difference).mean()

    def loss(self, indices: np.ndarray, rng: np.random.Generator) -> mg.Tensor:
        self.steps += 1
        return self.error(
            self.x[indices] + 0.1 * rng.standard_normal((len(indices), FEATURES), np.float32), self.y[indices]
        )

    def fit(self, **changes: Any) -> loop.Fitted:
        given: dict[str, Any] = {"settings": self.settings, "rng": self.rng, "evaluate": self.evaluate}
        given |= {"select": "error", "loss_name": "error", "sample": self.sample, "ema": self.ema, **changes}
        return loop.fit(self.model, self.optimiser, self.batches, self.loss, **given)


@pytest.fixture(autouse=True)
def no_axes(monkeypatch):
    """To draw axes takes longer than all the rest; test_picture.py looks at them."""
    monkeypatch.setattr(picture, "curves", lambda log, path: storage.write(path, Path(log).read_bytes()))


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(a[k].tobytes() == b[k].tobytes() for k in a)


# ---- training


@pytest.mark.parametrize("averaged", [True, False])
def test_fit_is_the_loop_one_would_write(averaged, tmp_path):
    hand, run = Case(tmp_path / "hand", ema=averaged), Case(tmp_path / "run", ema=averaged)
    fitted = run.fit()
    rows, best, best_weights = [], np.inf, {}
    losses: list[float] = []
    for step in range(1, 13):  # 3 batches an epoch
        indices = next(hand.batches)
        hand.optimiser.zero_grad()
        value = hand.loss(indices, hand.rng)
        value.backward()
        hand.optimiser.step()
        losses.append(value.item())
        if step % 3 == 0:
            kept = hand.model.state()
            hand.model.eval()
            if hand.ema:
                for p, average in zip(hand.model.parameters(), np.split(hand.ema.average, [15, 20, 25]), strict=True):
                    p.data[...] = average.reshape(p.shape)
            with mg.no_grad():
                error = hand.error().item()
            rows.append((step, step // 3, hand.optimiser.lr, sum(losses) / 3, error))
            losses = []
            if error < best:
                best, best_weights = error, hand.model.state()
            hand.model.load(kept)
            hand.model.train()
    log = lines(run.settings.out)
    assert [tuple(row[k] for k in ("step", "epoch", "lr", "train_error", "valid_error")) for row in log] == rows
    assert all(list(row) == ["step", "epoch", "seconds", "lr", "train_error", "valid_error"] for row in log)
    assert [row["seconds"] for row in log] == sorted(row["seconds"] for row in log)
    arrays, meta = storage.load(run.settings.out / "checkpoint.safetensors")
    assert same({k.removeprefix("model."): x for k, x in arrays.items() if k.startswith("model.")}, hand.model.state())
    assert same(run.model.state(), best_weights) and run.model.training is False
    assert fitted.step == meta["step"] == 12 and fitted.best == log[np.argmin([row["valid_error"] for row in log])]
    assert log[-1]["seconds"] - 0.001 <= fitted.seconds == meta["seconds"] < 60
    assert run.steps == 12


def test_the_best_epoch_is_chosen_not_the_last(tmp_path):
    case = Case(tmp_path / "run")
    states, drawn = [], []
    values = iter([3.0, 1.0, 2.0, 1.0])

    def evaluate(rng):
        states.append(case.model.state())
        return {"other": 0.0, "error": next(values)}

    def sample(rng):
        drawn.append(case.model.state())
        return np.zeros((1, 2, 2, 1))

    fitted = case.fit(evaluate=evaluate, sample=sample)
    assert same(drawn[-1], states[1])
    assert fitted.best["epoch"] == 2 and fitted.best["valid_error"] == 1.0  # the first of two equals
    assert same(case.model.state(), states[1]) and not same(states[1], states[3])
    arrays, meta = storage.load(case.settings.out / "best.safetensors")
    assert same(arrays, states[1]) and meta["epoch"] == 2 and meta["settings"]["hidden"] == [5]
    case.model.load(arrays)  # as anyone would use the file


def test_what_evaluate_and_sample_see(tmp_path):
    case = Case(tmp_path / "run")
    seen = []

    def look(rng):
        assert case.ema is not None
        assert not any(module.training for module in case.model.modules())
        assert case.error().requires_grad is False
        seen.append(rng.random())
        if not finished:
            averages = np.concatenate([p.data.ravel() for p in case.model.parameters()])
            assert averages.tobytes() == case.ema.average.tobytes()

    finished = False

    def evaluate(rng):
        look(rng)
        nonlocal finished
        finished = len(seen) >= 5
        return {"error": 1.0}

    def sample(rng):
        look(rng)
        return rng.random((4, 2, 2, 1))

    def loss(indices, rng):
        assert case.ema is not None
        assert all(module.training for module in case.model.modules())
        assert (
            not np.array_equal(case.model.state()["layers.0.weight"].ravel(), case.ema.average[:15])
            or case.ema.steps == 0
        )
        return case.error(case.x[indices], case.y[indices])

    case.loss = loss  # type: ignore[method-assign]
    case.fit(evaluate=evaluate, sample=sample)
    assert len(seen) == 6 and len(set(seen)) == 1  # 4 evaluations, pictures after the first and at the end
    assert seen[0] != np.random.default_rng(case.settings.seed).random()


def test_what_a_run_leaves(tmp_path):
    out = tmp_path / "deep" / "run"
    case = Case(out, hidden=(5, 6))
    case.fit(sample=lambda rng: rng.random((4, 2, 2, 1)))
    assert sorted(p.name for p in out.iterdir()) == sorted({*loop.FILES, "checkpoint.safetensors"} - {"result.json"})
    settings = json.loads((out / "settings.json").read_text())
    assert settings == {
        **dict(data="noise", root=None, device="cpu", seed=0, epochs=4, quick=False, out=str(out), resume=False),
        **dict(tensorboard=False, batch_size=8, hidden=[5, 6]),
    }
    assert (out / "curves.png").read_bytes() == (out / "log.jsonl").read_bytes()  # drawn after the last line


def test_wrong_loss_and_metrics_are_named(tmp_path):
    case = Case(tmp_path / "a")
    with pytest.raises(
        ValueError, match=r"loss\(indices, rng\) must return one number, got Tensor.*\[2\].*take its mean"
    ):
        loop.fit(
            case.model, case.optimiser, case.batches, lambda indices, rng: mg.Tensor([1.0, 2.0]),
            settings=case.settings, rng=case.rng, evaluate=case.evaluate, select="error",
        )  # fmt: skip
    with pytest.raises(ValueError, match="select='nats' is not among what evaluate returned: error"):
        Case(tmp_path / "b").fit(select="nats")


# ---- resumption (test_resume.py kills)


def stopped_at(case: Case, step: int) -> None:
    """Run a case with an error before the step; what a later kill would leave, but for the time of the checkpoint."""
    loss = case.loss

    def failing(indices: np.ndarray, rng: np.random.Generator) -> mg.Tensor:
        if case.steps == step:
            raise KeyError("stop")
        return loss(indices, rng)

    case.loss = failing  # type: ignore[method-assign]
    with pytest.raises(KeyError, match="stop"):
        case.fit()


@pytest.fixture
def every_step(monkeypatch):
    """A checkpoint at each step."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(loop, "SHARE", np.inf)


def test_a_folder_with_a_run_is_refused(tmp_path, every_step):
    stopped_at(Case(tmp_path), 7)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    case = Case(tmp_path)
    with pytest.raises(
        FileExistsError, match=f"{tmp_path} holds a run that stands at step 7. Continue with --resume, or give "
    ):
        case.fit()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before and case.steps == 0


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("name", loop.FILES)
def test_a_folder_with_files_of_others_is_refused(name, resume, tmp_path):
    (tmp_path / name).write_text("precious")
    with pytest.raises(FileExistsError, match=f"{tmp_path} holds {name}, and no checkpoint"):
        Case(tmp_path, resume=resume).fit()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "precious")]


def test_resume_where_there_is_nothing_starts_and_says_so(tmp_path, capsys):
    a, b = Case(tmp_path / "a", resume=True), Case(tmp_path / "b")
    assert a.fit().best["valid_error"] == b.fit().best["valid_error"]
    assert capsys.readouterr().err.startswith(f"{tmp_path / 'a'}: nothing to go on from, so this is a new run\n")
    Case(tmp_path / "a", resume=True).fit()
    assert capsys.readouterr().err.startswith(f"{tmp_path / 'a'}: going on from step 12\n")


@pytest.mark.parametrize("step", range(12))
def test_a_run_goes_on_from_any_step(step, tmp_path, every_step):
    stopped_at(Case(tmp_path / "a"), step)
    a, b = Case(tmp_path / "a", resume=True), Case(tmp_path / "b")
    fitted, whole = a.fit(), b.fit()
    assert a.steps == 12 - step and {**fitted.best, "seconds": 0} == {**whole.best, "seconds": 0}
    assert same(a.model.state(), b.model.state())


def test_a_finished_run_does_no_steps(tmp_path):
    first = Case(tmp_path)
    fitted = first.fit()
    log, checkpoint = ((tmp_path / name).read_bytes() for name in ("log.jsonl", "checkpoint.safetensors"))
    again = Case(tmp_path, resume=True)
    assert again.fit() == fitted and again.steps == 0
    assert same(again.model.state(), first.model.state()) and again.model.training is False
    assert (tmp_path / "log.jsonl").read_bytes() == log
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == checkpoint
    shorter = Case(tmp_path, resume=True, epochs=2)
    assert shorter.fit() == fitted and shorter.steps == 0


def test_more_epochs_go_on(tmp_path):
    Case(tmp_path / "a").fit()
    Case(tmp_path / "a", resume=True, epochs=7).fit()
    Case(tmp_path / "b", epochs=7).fit()
    a, b = (storage.load(tmp_path / name / "checkpoint.safetensors")[0] for name in "ab")
    assert same(a, b)


def test_other_settings_are_refused_by_name(tmp_path):
    Case(tmp_path).fit()
    with pytest.raises(
        ValueError, match=r"--seed was 0, is 3; --batch-size was 8, is 5; --hidden was \[5\], is \[5, 5\]"
    ):
        Case(tmp_path, resume=True, seed=3, batch_size=5, hidden=(5, 5)).fit()
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    Case(moved, resume=True, root=Path("elsewhere"), epochs=5, quick=False).fit()
    assert json.loads((moved / "settings.json").read_text())["epochs"] == 5


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    Case(tmp_path / "a").fit()
    with pytest.raises(
        ValueError, match=r"expected the state of model, optimiser, rng, .* found model, optimiser, ema, rng"
    ):
        Case(tmp_path / "a", ema=False, resume=True).fit()
    case = Case(tmp_path / "a", resume=True)
    case.model.layers[2] = mg.tanh
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors: expected the state of .*layers\.2\.rng"):
        case.fit()
    case = Case(tmp_path / "a", resume=True)
    case.optimiser = SGD(case.model, lr=0.1)  # type: ignore[assignment]
    case.ema = EMA(case.optimiser, 0.9)
    with pytest.raises(ValueError, match="SGD: the state does not fit"):
        case.fit()
    path = tmp_path / "a" / "checkpoint.safetensors"
    path.write_bytes((tmp_path / "a" / "best.safetensors").read_bytes())
    with pytest.raises(ValueError, match=f"{path}: expected a checkpoint of fit"):
        Case(tmp_path / "a", resume=True).fit()
    path.write_bytes(path.read_bytes()[:-1])
    for resume in (True, False):
        with pytest.raises(ValueError, match=f"{path}: expected a complete safetensors file"):
            Case(tmp_path / "a", resume=resume).fit()


@pytest.mark.parametrize("tail", ['{"step": 9, "epoch": 3}\n', '{"step": 9, "ep', '{"step": 9, "epoch": 3}\n{"st'])
def test_the_log_is_cut_to_the_checkpoint(tail, tmp_path, every_step):
    stopped_at(Case(tmp_path / "a"), 7)
    log = tmp_path / "a" / "log.jsonl"
    rows = log.read_text()
    assert rows.count("\n") == 2
    log.write_text(rows + tail)  # what came after it, and half a line
    Case(tmp_path / "a", resume=True).fit()
    Case(tmp_path / "b").fit()
    for name in "ab":
        assert [row["step"] for row in lines(tmp_path / name)] == [3, 6, 9, 12]
    assert [row["valid_error"] for row in lines(tmp_path / "a")] == [
        row["valid_error"] for row in lines(tmp_path / "b")
    ]


@pytest.mark.parametrize("bad", ["nonsense\n", '{"epoch": 1}\n', "[1]\n"])
def test_a_damaged_log_is_named(bad, tmp_path):
    Case(tmp_path).fit()
    log = tmp_path / "log.jsonl"
    log.write_text(log.read_text() + bad)
    with pytest.raises(ValueError, match=f"{log}, line 5: expected a JSON object with a step, found"):
        Case(tmp_path, resume=True).fit()


# ---- when things are written


def counted(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[str]:
    calls: list[str] = []
    real = getattr(module, name)

    def call(*args: Any) -> Any:
        calls.append([a.name for a in args if isinstance(a, Path)][-1])  # what is written
        return real(*args)

    monkeypatch.setattr(module, name, call)
    return calls


def test_checkpoints_and_pictures_are_rare(tmp_path, monkeypatch):
    saves, draws = counted(monkeypatch, storage, "save"), counted(monkeypatch, picture, "curves")
    Case(tmp_path, epochs=20).fit()
    assert saves == ["checkpoint.safetensors"] * 2 + ["best.safetensors"]  # at the start and at the end
    assert draws == ["curves.png"] * 2


class Clock:
    """A clock by which each step takes a second, and each checkpoint `save`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, save: float) -> None:
        self.now, real = 100.0, storage.save

        def saving(path: Path, *args: Any) -> None:
            self.now += save if path.name == "checkpoint.safetensors" else 0
            saves.append(self.now)
            real(path, *args)

        saves: list[float] = []
        self.saves = saves
        monkeypatch.setattr(storage, "save", saving)
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)


@pytest.mark.parametrize("save, between", [(0.01, 5), (1.0, 21)])
def test_the_time_between_checkpoints(save, between, tmp_path, monkeypatch):
    clock = Clock(monkeypatch, save)
    case = Case(tmp_path, epochs=40)
    loss = case.loss

    def slow(indices, rng):
        clock.now += 1
        return loss(indices, rng)

    case.loss = slow  # type: ignore[method-assign]
    case.fit(evaluate=lambda rng: {"error": 1.0})
    gaps = np.diff(sorted(set(clock.saves))).round()
    assert len(gaps) > 4 and (gaps[1:-1] == between).all()  # every five seconds, or a twentieth of the time
    assert gaps[-1] <= between


def test_bookkeeping_costs_next_to_nothing(tmp_path):
    class Nothing:
        """A model, an optimiser, a loss and batches that do nothing."""

        size, lr, training, epoch = 1, 0.1, True, 0

        def nothing(self, *_: Any) -> dict[str, Any]:
            return {}

        step = zero_grad = backward = train = eval = load = state = generators = named_buffers = nothing

        def item(self) -> float:
            return 1.0

        def __len__(self) -> int:
            return 5000

        def __next__(self) -> None:
            pass

    nothing: Any = Nothing()
    moments = []

    def evaluate(rng):
        moments.append(time.perf_counter())
        return {"error": 1.0}

    settings = Tiny(out=tmp_path, epochs=6)
    rng = np.random.default_rng(0)
    loop.fit(
        nothing, nothing, nothing, lambda i, r: nothing, settings=settings, rng=rng, evaluate=evaluate, select="error"
    )
    assert min(np.diff(moments)) / 5000 < 20e-6  # seconds a step, evaluation included


# ---- what is said


def test_lines_where_there_is_no_terminal(tmp_path, capsys):
    Case(tmp_path, epochs=20).fit()
    said = capsys.readouterr()
    first, last = said.err.splitlines()  # the others came within seconds
    row = lines(tmp_path)[0]
    start = f"step 3 of 60, epoch 1: train error {row['train_error']:.4g}, valid error {row['valid_error']:.4g}; 0 s, "
    assert first.startswith(start) and first.endswith(" s left")
    assert last.startswith("step 60 of 60, epoch 20: ") and last.endswith(" 0 s left")
    assert said.out == ""


def test_a_bar_on_a_terminal(tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "150")
    case = Case(tmp_path, batch_size=2)
    loss = case.loss

    def slow(indices, rng):
        time.sleep(0.03)
        return loss(indices, rng)

    case.loss = slow  # type: ignore[method-assign]
    case.fit()
    said = terminal.getvalue()
    assert "| 40/40 [" in said
    assert re.search(
        r" \d+/40 \[\d\d:\d\d<\d\d:\d\d, .* step/s, train error \d\S+, valid error \d\S+\]", said
    )  # the time left
    assert f"valid error {lines(tmp_path)[-1]['valid_error']:.4g}" in said
    assert "step 10 of 40" not in said


# ---- values that are not finite


def fails(case: Case, *parts: str, step: int, good: int, **changes: Any) -> str:
    checkpoint = case.settings.out / "checkpoint.safetensors"
    saved = []
    loss = case.loss

    def watched(indices: np.ndarray, rng: np.random.Generator) -> mg.Tensor:
        saved.append(checkpoint.read_bytes())
        return loss(indices, rng)

    case.loss = watched  # type: ignore[method-assign]
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError) as caught:
        case.fit(**changes)
    message = str(caught.value)
    for part in (*parts, f"after step {step} (epoch {step // 3 + 1})", f"{checkpoint} of step {good} is good"):
        assert part in message, message
    assert checkpoint.read_bytes() == saved[-1]  # as it was
    arrays, meta = storage.load(checkpoint)
    assert meta["step"] == good and all(np.isfinite(x).all() for x in arrays.values())
    return message


def after(steps: int, case: Case, change: Callable[[mg.Tensor], mg.Tensor]) -> Case:
    """Change the loss of all steps after so many optimiser steps; a replay sees the same."""
    loss = case.loss

    def changed(indices: np.ndarray, rng: np.random.Generator) -> mg.Tensor:
        value = loss(indices, rng)
        return change(value) if case.optimiser.steps >= steps else value

    case.loss = changed  # type: ignore[method-assign]
    return case


@pytest.mark.parametrize("step", [0, 1, 6, 7])  # the first steps, at the beginning of an epoch, within one
def test_an_infinite_loss_names_the_operation_and_the_line(step, tmp_path):
    case = after(step, Case(tmp_path), lambda value: value + mg.log(value * 0.0))
    line = f"{__file__}:{sys._getframe().f_lineno - 1}"
    fails(case, "the loss is -inf", "log(x: float32[]) gives infinity from finite inputs", line, step=step, good=0)


def test_from_the_last_checkpoint(tmp_path, every_step):
    case = after(7, Case(tmp_path), lambda value: value + mg.log(value * 0.0))
    fails(case, "the loss is -inf", "log(x: float32[]) gives infinity from finite inputs", step=7, good=7)
    resumed = after(7, Case(tmp_path, resume=True), lambda value: value * float("nan"))
    fails(resumed, "the loss is nan", "mul", step=7, good=7)


def test_a_gradient_that_is_not_finite_is_named(tmp_path, every_step):
    # sqrt(0) is 0, and its slope infinite: the loss is finite, the weights after this step are not
    case = after(7, Case(tmp_path), lambda value: value + mg.sqrt(case.model.parameters()[0] * 0.0).sum())
    fails(case, "NaN or infinity is in model.layers.0.weight", "sqrt", "gradient that is not finite", step=8, good=7)


def test_a_gradient_that_is_not_finite_is_named_a_step_later(tmp_path):
    case = after(7, Case(tmp_path), lambda value: value + mg.sqrt(case.model.parameters()[0] * 0.0).sum())
    fails(case, "the loss is nan", "sqrt", "gradient that is not finite", step=8, good=0)


def test_a_step_too_large_is_named(tmp_path):
    case = Case(tmp_path, ema=False, lr=lambda step: 1e38 if step >= 4 else 0.01)
    case.optimiser = SGD(case.model, lr=lambda step: float("inf") if step >= 4 else 0.01)  # type: ignore[assignment]
    fails(case, "the loss is nan", "no operation makes it from finite values", "learning rate", step=5, good=0)


def test_a_metric_that_is_not_finite_is_named(tmp_path):
    case = Case(tmp_path)

    def evaluate(rng):
        error = case.error()
        return {"error": 1.0, "bits": (mg.log(error * 0.0) if case.optimiser.steps == 6 else error).item()}

    fails(case, "the validation metric bits is -inf", "log", "gives infinity", step=6, good=0, evaluate=evaluate)
    assert [row["step"] for row in lines(tmp_path)] == [3]


def test_what_no_checkpoint_can_hold_is_said(tmp_path):
    case = Case(tmp_path)
    loss = case.loss
    calls = 0

    def forgetful(indices, rng):
        nonlocal calls
        calls += 1
        return loss(indices, rng) * (float("nan") if calls == 5 else 1.0)

    case.loss = forgetful  # type: ignore[method-assign]
    fails(case, "the loss is nan", "the same steps from the checkpoint did not give it", step=4, good=0)


def test_a_mask_may_be_infinite_but_not_nan(tmp_path):
    class Masked(Module):
        def __init__(self, value: float) -> None:
            self.inner, self.mask = (
                Linear(FEATURES, 1, np.random.default_rng(0)),
                mg.Tensor(np.full(2, value, np.float32)),
            )

        def forward(self, x: mg.Tensor) -> mg.Tensor:
            return self.inner(x)

    for value in (-np.inf, np.nan):
        case = Case(tmp_path / str(value), ema=False)
        case.model = Masked(value)  # type: ignore[assignment]
        case.optimiser = Adam(case.model)
        if np.isnan(value):
            with pytest.raises(FloatingPointError, match=r"NaN or infinity is in model\.mask"):
                case.fit()
            assert list((tmp_path / "nan").iterdir()) == []
        else:
            case.fit()


# ---- signals


@pytest.fixture
def handlers():
    """Whatever a test does, the handlers are afterwards what they were, and the test can see that they are."""
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    yield lambda: {s: signal.getsignal(s) for s in before} == before
    for s, handler in before.items():
        signal.signal(s, handler)


@pytest.mark.parametrize("sent, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("step", [1, 3, 5, 12])  # within an epoch, at its end before it is evaluated, at the very end
def test_a_signal_ends_the_step_and_saves(sent, status, step, tmp_path, monkeypatch, capsys, handlers):
    case = Case(tmp_path / "a")
    loss, save = case.loss, storage.save

    def signalled(indices, rng):
        value = loss(indices, rng)
        if case.steps == step:
            signal.raise_signal(sent)
        return value

    def impatient(*args):
        if case.steps == step:
            case.steps += 100
            signal.raise_signal(signal.SIGINT)
        save(*args)

    case.loss = signalled  # type: ignore[method-assign]
    monkeypatch.setattr(storage, "save", impatient)
    with pytest.raises(SystemExit) as end:
        case.fit()
    assert end.value.code == status and handlers() and case.steps == step + 100
    said = capsys.readouterr().err
    assert f"Stopped by {sent.name} and saved at step {step} of 12. Go on with:\n  {sys.executable} " in said
    assert said.endswith(" --resume\n")
    assert storage.load(tmp_path / "a" / "checkpoint.safetensors")[1]["step"] == step
    again, whole = Case(tmp_path / "a", resume=True), Case(tmp_path / "b")
    again.fit(), whole.fit()
    assert again.steps == 12 - step and same(again.model.state(), whole.model.state())
    meta = storage.load(tmp_path / "a" / "checkpoint.safetensors")[1]
    assert (meta["step"], meta["count"]) == (12, 0)  # evaluated
    a, b = ([{**row, "seconds": 0} for row in lines(tmp_path / name)] for name in "ab")
    assert a == b


def test_an_evaluation_is_logged_once_however_often_it_is_run(tmp_path, handlers):
    case = Case(tmp_path / "a")
    loss = case.loss

    def signalled(indices, rng):
        if case.steps == 2:
            signal.raise_signal(signal.SIGINT)
        return loss(indices, rng)

    case.loss = signalled  # type: ignore[method-assign]
    with pytest.raises(SystemExit):
        case.fit()
    assert lines(tmp_path / "a") == []  # stopped at the end of an epoch, before its evaluation
    for _ in range(2):
        stopped_at(Case(tmp_path / "a", resume=True), 0)  # evaluates, and fails before the next checkpoint
        assert [row["step"] for row in lines(tmp_path / "a")] == [3]
    Case(tmp_path / "a", resume=True).fit()
    assert [row["step"] for row in lines(tmp_path / "a")] == [3, 6, 9, 12]


def test_a_signal_during_the_last_pictures(tmp_path, handlers):
    case = Case(tmp_path)
    pictures = []

    def sample(rng):
        pictures.append(1)
        if len(pictures) == 2:
            signal.raise_signal(signal.SIGTERM)
        return rng.random((1, 2, 2, 1))

    with pytest.raises(SystemExit) as end:
        case.fit(sample=sample)
    assert end.value.code == 143 and storage.load(tmp_path / "checkpoint.safetensors")[1]["step"] == 12


def test_handlers_are_put_back(tmp_path, handlers):
    Case(tmp_path / "a").fit()
    assert handlers()
    stopped_at(Case(tmp_path / "b"), 4)
    assert handlers()


def test_fit_runs_in_a_thread(tmp_path):
    ends: list[Any] = []
    thread = threading.Thread(target=lambda: ends.append(Case(tmp_path).fit().step))
    thread.start()
    thread.join()
    assert ends == [12]


# ---- TensorBoard


def events(folder: Path) -> list[tuple[int, str, float]]:
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.iterdir()):
        content, place = path.read_bytes(), 0
        while place < len(content):  # length, its checksum, that many bytes, their checksum
            (length,) = struct.unpack_from("<Q", content, place)
            event = Event.FromString(content[place + 12 : place + 12 + length])
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            place += 16 + length
    return found


def test_events_for_tensorboard_are_the_log(tmp_path):
    Case(tmp_path, epochs=2, tensorboard=True).fit()
    Case(tmp_path, tensorboard=True, resume=True).fit()
    expected = [
        (row["step"], k, float(np.float32(row[k])))
        for row in lines(tmp_path)
        for k in row
        if k not in ("step", "epoch")
    ]
    assert sorted(events(tmp_path / "tensorboard")) == sorted(expected) and len(expected) == 16


def test_tensorboard_is_an_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r'python -m pip install "micrognm\[tensorboard\]"'):
        Case(tmp_path / "run", tensorboard=True).fit()
    assert list(tmp_path.iterdir()) == []


# ---- settings and result


def test_flags(tmp_path):
    assert loop.parse(Tiny, []) == Tiny()
    flags = ["--data", "digits", "--epochs", "10", "--quick", "--resume", "--hidden", "3", "4", "--out", str(tmp_path)]
    flags += ["--root", "/data", "--seed", "5", "--device", "cuda", "--tensorboard", "--batch-size", "7"]
    assert loop.parse(Tiny, flags) == Tiny(
        data="digits", epochs=10, quick=True, resume=True, hidden=(3, 4), out=tmp_path, root=Path("/data"), seed=5,
        device="cuda", tensorboard=True, batch_size=7,
    )  # fmt: skip


def test_help_explains_every_flag(capsys):
    with pytest.raises(SystemExit) as end:
        loop.parse(Tiny, ["--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert end.value.code == 0 and "--no-" not in text
    assert "] [OPTIONS] Training by fit; test_resume.py kills it. " in text and "More on this" not in text
    for flag, explained in (
        ("--data STR", "what to train on"),
        ("--resume", "go on with the run in --out, or start one where there is none"),
        ("--quick", "run every stage, and end within 20 seconds"),
        ("--batch-size INT", "examples a batch (default: 8)"),
    ):
        assert f"{flag} {explained}" in text


@pytest.mark.parametrize("flags", [["--epoch-count", "3"], ["--seed", "x"], ["--no-quick"], ["stray"]])
def test_wrong_flags_end_the_program(flags, capsys):
    with pytest.raises(SystemExit) as end:
        loop.parse(Tiny, flags)
    assert end.value.code == 2 and flags[0] in capsys.readouterr().err


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="--seed must be 0 or more, not -1"):
        Tiny(seed=-1)
    with pytest.raises(ValueError, match="--epochs must be 1 or more, not 0"):
        Tiny(epochs=0)


def test_the_result_line(tmp_path, capsys):
    settings = Tiny(data="digits", out=tmp_path)
    given: dict[str, Any] = dict(split="test", metric="nats", value=17.3149, baseline=18.09, seconds=14.2)
    loop.result(settings, paper="made", data="digits-binary", **given)
    line = "result paper=made data=digits-binary split=test metric=nats value=17.31 baseline=18.09 seconds=14\n"
    assert capsys.readouterr().out == line
    written = json.loads((tmp_path / "result.json").read_text())
    assert written == {"paper": "made", "data": "digits-binary", **given}  # not rounded
    given |= dict(value=np.float32(2.0934), baseline=2, seconds=4.26)
    loop.result(settings, paper="made", **given, masks=32, gap=1.23456e-4, order="natural")
    line = "result paper=made data=digits split=test metric=nats value=2.093 baseline=2.000 seconds=4.3"
    assert capsys.readouterr().out == line + " masks=32 gap=0.000123 order=natural\n"


@pytest.mark.parametrize(
    "change, named",
    [
        ({"value": float("nan")}, "value must be a finite number, not nan"),
        ({"baseline": float("inf")}, "baseline must be a finite number"),
        ({"split": "the test"}, "split must be a word without spaces and '=', not 'the test'"),
        ({"metric": "a=b"}, "metric must be a word"),
        ({"paper": ""}, "paper must be a word"),
        ({"order": "a\nb"}, "order must be a word"),
    ],
)
def test_what_would_break_the_result_line_is_refused(change, named, tmp_path, capsys):
    given: dict[str, Any] = dict(paper="made", split="test", metric="nats", value=1.0, baseline=2.0, seconds=3.0)
    with pytest.raises(ValueError, match=f"result: {named}"):
        loop.result(Tiny(out=tmp_path), **{**given, **change})
    assert capsys.readouterr().out == "" and os.listdir(tmp_path) == []
