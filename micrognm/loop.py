"""Training: `fit` runs the epochs of any model, and a run that is interrupted goes on as if it never was.

A run leaves in its folder `out`: settings.json; log.jsonl, a line an evaluation; checkpoint.safetensors, from which
`--resume` goes on; best.safetensors, the weights that validation chose; curves.png and samples.png; result.json.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from micrognm import picture, storage
from micrognm.engine import Tensor, debug, no_grad

if TYPE_CHECKING:
    from micrognm.data import Batches
    from micrognm.nn import Module
    from micrognm.optim import EMA, Optimiser

CHECKPOINT_SECONDS = 5.0  # at least, from one checkpoint to the next,
PICTURE_SECONDS = 20.0  # from one set of pictures to the next,
LINE_SECONDS = 5.0  # and from one line to the next where stderr is no terminal
SHARE = 0.05  # of the time, at most, goes into checkpoints, and the same into pictures

# What a resumed run may change: where it runs and how long, not what it trains. See also Settings.measures.
FREE = {"root", "device", "epochs", "out", "resume", "tensorboard"}
FILES = ("settings.json", "log.jsonl", "best.safetensors", "curves.png", "samples.png", "result.json")


@dataclass(kw_only=True)
class Settings:
    """The flags of every training script; each script adds its own and gives `data`, `epochs` and `out` a default."""

    measures: ClassVar[frozenset[str]] = (
        frozenset()
    )  # flags of the measurement at the end: a resumed run may change them

    data: str
    """what to train on; an unknown name is answered with the list"""
    root: Path | None = None
    """where the data is; without it, MICROGNM_DATA or a download"""
    device: str = "cpu"
    """cpu or cuda"""
    seed: int = 0
    """of everything random"""
    epochs: int
    """how often to go through the training data"""
    quick: bool = False
    """run every stage, and end within 20 seconds"""
    out: Path
    """folder for log, checkpoint, pictures and result"""
    resume: bool = False
    """go on with the run in --out, or start one where there is none"""
    tensorboard: bool = False
    """also write events for TensorBoard, into --out/tensorboard"""

    def __post_init__(self) -> None:
        for name, value, least in (("seed", self.seed, 0), ("epochs", self.epochs, 1)):
            if value < least:
                raise ValueError(f"--{name} must be {least} or more, not {value}")


S = TypeVar("S", bound=Settings)


def parse(kind: type[S], arguments: list[str] | None = None) -> S:
    """Settings of this kind from the command line, or from `arguments`; --help and a wrong flag end the program.

    --help begins with the first paragraph of the script, or of whichever module `kind` is written in.
    """
    import tyro

    about = (sys.modules[kind.__module__].__doc__ or "").split("\n\n")[0]
    return tyro.cli(kind, description=about, args=arguments, config=(tyro.conf.FlagCreatePairsOff,))


@dataclass(frozen=True)
class Fitted:
    """What `fit` returns: the steps and seconds of the run, over all resumptions, and the best line of its log."""

    step: int
    seconds: float
    best: dict[str, Any]


def fit(
    model: Module,
    optimiser: Optimiser,
    batches: Batches,
    loss: Callable[[np.ndarray, np.random.Generator], Tensor],
    *,
    settings: Settings,
    rng: np.random.Generator,
    evaluate: Callable[[np.random.Generator], Mapping[str, float]],
    select: str,
    loss_name: str = "loss",
    sample: Callable[[np.random.Generator], Any] | None = None,
    ema: EMA | None = None,
) -> Fitted:
    """Train for settings.epochs; leave the model in eval mode, with the weights of the best epoch.

    loss(indices, rng) is one number for a batch of `batches`. All that is random in it comes from rng or generators of
    the model, all else that changes from step to step is a parameter or a buffer: no more is in a checkpoint.
    evaluate(rng) gives validation metrics after each epoch; `select` names the one that chooses the best (lower is
    better). sample(rng) gives images for `picture.grid`. Both see the model in eval mode, unrecorded, with the averaged
    weights where there is an `ema`, and an rng that is the same at every call. loss_name: what the loss counts; a
    metric of that name shares its panel in the learning curves.

    SIGINT and SIGTERM save and exit with status 130 and 143, where fit runs in the main thread. Raises FileExistsError
    where settings.out holds a run and settings.resume is not set, ValueError where the run to resume had other settings
    or its files are damaged, FloatingPointError naming the operation at a value that is not finite.
    """
    if ema is not None and ema not in optimiser.averages:
        raise ValueError("fit: ema follows another optimiser than the one that is given")
    writer = _summary_writer() if settings.tensorboard else None
    run = _Run(model, optimiser, batches, loss, settings, rng, evaluate, select, loss_name, sample, ema)
    run.begin()
    board = None
    if writer:  # a file of its own, which hides later steps in those of an interrupted run
        board = writer(str(run.out / "tensorboard"), purge_step=run.step + 1, filename_suffix=f".step{run.step}")
    total = settings.epochs * len(batches)
    now = time.perf_counter()
    save_due = now + CHECKPOINT_SECONDS
    draw_due = now + PICTURE_SECONDS if run.step else now  # a new run draws early, which shows a bug in `sample`
    with _signals() as caught, _Progress(run, total) as progress:
        try:
            while not caught:
                if run.pending:
                    row = run.validate()
                    progress.evaluated(row)
                    if board:
                        for name in row.keys() - {"step", "epoch"}:
                            board.add_scalar(name, row[name], run.step)
                        board.flush()
                    if time.perf_counter() >= draw_due and run.step < total:
                        draw_due = run.draw()
                now = time.perf_counter()
                if now >= save_due:
                    save_due = run.save()
                if now >= progress.due:
                    progress.show()
                if run.step >= total:
                    break
                run.train()
            run.save()
        except FloatingPointError as error:
            raise run.explained(error) from error
        if not caught:
            run.choose_best()
            run.draw()
    if board:
        board.close()
    if caught:
        again = [sys.executable, *sys.orig_argv[1:]]
        again += [] if "--resume" in again else ["--resume"]
        print(
            f"Stopped by {signal.Signals(caught[0]).name} and saved at step {run.step} of {total}. Go on with:\n"
            f"  {shlex.join(again)}",
            file=sys.stderr,
        )
        raise SystemExit(128 + caught[0])
    return Fitted(run.step, run.earlier, run.best)


@dataclass
class _Run:
    """A run: what it does, and what stays of it."""

    model: Module
    optimiser: Optimiser
    batches: Batches
    loss: Callable[[np.ndarray, np.random.Generator], Tensor]
    settings: Settings
    rng: np.random.Generator
    evaluate: Callable[[np.random.Generator], Mapping[str, float]]
    select: str
    loss_name: str
    sample: Callable[[np.random.Generator], Any] | None
    ema: EMA | None

    def __post_init__(self) -> None:
        self.out = Path(self.settings.out)
        self.checkpoint, self.log = self.out / "checkpoint.safetensors", self.out / "log.jsonl"
        self.flags: dict[str, Any] = json.loads(json.dumps(asdict(self.settings), default=os.fspath))
        self.parts: dict[str, Any] = {"model": self.model, "optimiser": self.optimiser}
        if self.ema is not None:
            self.parts["ema"] = self.ema
        self.generators = {"rng": self.rng, **{f"model.{name}": g for name, g in self.model.generators().items()}}
        self.epoch_length = len(self.batches)
        self.step, self.sum, self.count = 0, 0.0, 0  # sum and count of the losses since the last line of the log
        self.earlier, self.started = 0.0, time.perf_counter()  # seconds until the checkpoint, and when it was
        self.best: dict[str, Any] = {}
        self.best_weights: dict[str, np.ndarray] = {}
        self.saved: Any = None  # (step, count) of the checkpoint
        self.best_saved = self.best

    @property
    def pending(self) -> bool:
        """Whether an epoch is complete and not yet evaluated."""
        return self.count > 0 and self.step % self.epoch_length == 0

    @property
    def seconds(self) -> float:
        """Spent so far, over all resumptions."""
        return self.earlier + time.perf_counter() - self.started

    # ---- what it does

    def train(self) -> None:
        """One step."""
        indices = next(self.batches)
        self.optimiser.zero_grad()
        value = self.loss(indices, self.rng)
        if value.size != 1:
            raise ValueError(f"fit: loss(indices, rng) must return one number, got {value!r}; take its mean")
        number = value.item()
        if not math.isfinite(number):
            raise FloatingPointError(f"the loss is {number}")
        value.backward()
        self.optimiser.step()
        self.step += 1
        self.sum += number
        self.count += 1

    @contextmanager
    def evaluating(self) -> Iterator[np.random.Generator]:
        """The model as it is evaluated, and a generator that is the same at every call."""
        training = self.model.training
        self.model.eval()
        try:
            with no_grad(), self.ema.swapped() if self.ema else nullcontext():
                yield np.random.default_rng(self.settings.seed).spawn(1)[0]
        finally:
            if training:
                self.model.train()

    def metrics(self) -> dict[str, float]:
        """What evaluate returns, checked."""
        with self.evaluating() as rng:
            metrics = {name: float(value) for name, value in self.evaluate(rng).items()}
        if self.select not in metrics:
            raise ValueError(f"fit: select={self.select!r} is not among what evaluate returned: {', '.join(metrics)}")
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise FloatingPointError(f"the validation metric {name} is {value}")
        return metrics

    def validate(self) -> dict[str, Any]:
        """Evaluate, write the line of the log, keep the weights if they are the best yet."""
        metrics = self.metrics()
        row = {
            "step": self.step,
            "epoch": self.batches.epoch,
            "seconds": round(self.seconds, 3),
            "lr": float(self.optimiser.lr),
            f"train_{self.loss_name}": self.sum / self.count,
            **{f"valid_{name}": value for name, value in metrics.items()},
        }
        with open(self.log, "a") as log:
            log.write(json.dumps(row) + "\n")
        self.sum, self.count = 0.0, 0
        chosen = f"valid_{self.select}"
        if not self.best or row[chosen] < self.best[chosen]:
            self.best = row
            with self.evaluating():
                self.best_weights = self.model.state()
        return row

    def choose_best(self) -> None:
        """End with the best weights, which are averages already where there is an EMA."""
        self.save_best()
        self.model.load(self.best_weights)
        self.model.eval()
        self.ema = None

    def draw(self) -> float:
        """Draw the pictures; returns when they are due again."""
        began = time.perf_counter()
        picture.curves(self.log, self.out / "curves.png")
        if self.sample is not None:
            with self.evaluating() as rng:
                picture.grid(self.sample(rng), self.out / "samples.png")
        return _due(began, PICTURE_SECONDS)

    def explained(self, error: FloatingPointError) -> FloatingPointError:
        """The error with its cause: the last steps are run again, from the checkpoint, under debug."""
        print(f"{error}: running the last steps again, to find the operation", file=sys.stderr)
        failed, doing = self.step, self.metrics if self.pending else self.train
        self.restore()
        good = self.step
        found = "nothing; the same steps from the checkpoint did not give it, so loss() depends on what is not in there"
        try:
            while self.step < failed - 1:
                self.train()
            with debug():  # the step before as well: its gradient may be what went wrong
                while self.step < failed:
                    self.train()
                doing()
        except FloatingPointError as again:
            found = str(again)
            if found == str(error):
                found += ", and no operation makes it from finite values: the step before spoiled the weights"
        return FloatingPointError(
            f"{error}, after step {failed} (epoch {failed // self.epoch_length + 1}). Found under debug: {found}.\n"
            f"{self.checkpoint} of step {good} is good, and is left as it is. Look at what the operation was given; "
            "try a lower learning rate, a warm-up or clip_norm, in another --out"
        )

    # ---- what stays of it

    def begin(self) -> None:
        """Go on with the run in `out`, or start one there."""
        if self.checkpoint.exists():
            if not self.settings.resume:
                step = storage.load(self.checkpoint)[1].get("step")
                raise FileExistsError(
                    f"{self.out} holds a run that stands at step {step}. Continue with --resume, or give another --out"
                )
            self.restore()
            self.cut_log()
            print(f"{self.out}: going on from step {self.step}", file=sys.stderr)
        else:
            others = [name for name in FILES if (self.out / name).exists()]
            if others:
                raise FileExistsError(
                    f"{self.out} holds {', '.join(others)}, and no checkpoint to go on from. "
                    "Move them away, or give another --out"
                )
            if self.settings.resume:
                print(f"{self.out}: nothing to go on from, so this is a new run", file=sys.stderr)
            self.out.mkdir(parents=True, exist_ok=True)
            self.save()
            storage.write(self.log, b"")
        storage.write(self.out / "settings.json", json.dumps(self.flags, indent=2).encode())
        self.model.train()

    def save(self) -> float:
        """Write a checkpoint if there is news; returns when it is due again. FloatingPointError for NaN or infinity."""
        began = time.perf_counter()
        if self.saved != (self.step, self.count):
            arrays = {f"{part}.{name}": x for part, owner in self.parts.items() for name, x in owner.state().items()}
            arrays |= {f"best.{name}": x for name, x in self.best_weights.items()}
            self.check_finite(arrays)
            if self.log.exists():  # so that a power cut takes no line that is older than the checkpoint
                with open(self.log, "a") as log:
                    os.fsync(log.fileno())
            meta = {
                "settings": self.flags,
                "step": self.step,
                "seconds": self.earlier + began - self.started,
                "sum": self.sum,
                "count": self.count,
                "best": self.best,
                "batches": self.batches.state(),
                # Some kinds of generator hold arrays in their state, and take lists for them.
                "generators": json.loads(
                    json.dumps(
                        {name: g.bit_generator.state for name, g in self.generators.items()}, default=np.ndarray.tolist
                    )
                ),
            }
            self.earlier, self.started = meta["seconds"], began
            storage.save(self.checkpoint, arrays, meta)
            self.saved = (self.step, self.count)
            self.save_best()
        return _due(began, CHECKPOINT_SECONDS)

    def save_best(self) -> None:
        """Write best.safetensors where it is not what the run holds."""
        if self.best is not self.best_saved:
            storage.save(self.out / "best.safetensors", self.best_weights, {"settings": self.flags, **self.best})
            self.best_saved = self.best

    def check_finite(self, arrays: Mapping[str, np.ndarray]) -> None:
        buffers = {f"{part}.{name}" for part in ("model", "best") for name in self.model.named_buffers()}
        wrong = []
        for name, x in arrays.items():
            bad = np.isnan if name in buffers else lambda x: ~np.isfinite(x)  # a mask may well hold -inf
            if x.dtype.kind == "f" and bad(x).any():
                wrong.append(name)
        if wrong:
            raise FloatingPointError(f"NaN or infinity is in {', '.join(wrong)}")

    def restore(self) -> None:
        """Be as the checkpoint was. ValueError where it is another run's."""
        arrays, meta = storage.load(self.checkpoint)
        if "settings" not in meta or "generators" not in meta:
            raise ValueError(f"{self.checkpoint}: expected a checkpoint of fit, found a file with {sorted(meta)}")
        there, here = meta["settings"], self.flags
        differ = [
            f"--{name.replace('_', '-')} was {there.get(name)!r}, is {here.get(name)!r}"
            for name in dict.fromkeys([*there, *here])
            if name not in FREE | self.settings.measures
            and (name not in there or name not in here or there[name] != here[name])
        ]
        if differ:
            raise ValueError(
                f"{self.out} holds a run with other settings: {'; '.join(differ)}. Give another --out, or those"
            )
        parts: dict[str, dict[str, np.ndarray]] = {part: {} for part in [*self.parts, "best"]}
        for name, x in arrays.items():
            part, _, entry = name.partition(".")
            parts.setdefault(part, {})[entry] = x
        self.best_weights = parts.pop("best")
        if parts.keys() != self.parts.keys() or meta["generators"].keys() != self.generators.keys():
            raise ValueError(
                f"{self.checkpoint}: expected the state of {', '.join([*self.parts, *self.generators])}, "
                f"found {', '.join([*parts, *meta['generators']])}"
            )
        for part, owner in self.parts.items():
            owner.load(parts[part])
        for name, generator in self.generators.items():
            generator.bit_generator.state = meta["generators"][name]
        self.batches.load(meta["batches"])
        self.step, self.sum, self.count, self.best = meta["step"], meta["sum"], meta["count"], meta["best"]
        self.earlier, self.started = meta["seconds"], time.perf_counter()
        self.saved = (self.step, self.count)

    def cut_log(self) -> None:
        """Leave out what the log says of steps after the checkpoint, for they will be run again."""
        last = self.step - 1 if self.pending else self.step
        kept = []
        for number, line in enumerate(self.log.read_text().splitlines(keepends=True) if last > 0 else [], 1):
            if not line.endswith("\n"):  # cut short by a kill
                break
            try:
                step = json.loads(line)["step"]
            except (ValueError, KeyError, TypeError) as cause:
                raise ValueError(
                    f"{self.log}, line {number}: expected a JSON object with a step, found {line[:80]!r}. "
                    "Put the line right, or delete it"
                ) from cause
            if step > last:
                break
            kept.append(line)
        storage.write(self.log, "".join(kept).encode())


class _Progress:
    """A bar with running metrics and the time left; where stderr is no terminal, a line now and then."""

    def __init__(self, run: _Run, total: int) -> None:
        from tqdm import tqdm

        self.run, self.total, self.start, self.began = run, total, run.step, time.perf_counter()
        self.train = self.valid = ""
        terminal = sys.stderr.isatty()
        self.bar = tqdm(total=total, initial=run.step, unit=" step", dynamic_ncols=True, disable=not terminal)
        self.due, self.line_due = (0.0, math.inf) if terminal else (math.inf, 0.0)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.show()
        self.bar.close()

    def show(self) -> None:
        run = self.run
        if run.count:
            self.train = _described({f"train_{run.loss_name}": run.sum / run.count})
        self.bar.set_postfix_str(", ".join(filter(None, (self.train, self.valid))), refresh=False)
        self.bar.update(run.step - self.bar.n)
        self.due = time.perf_counter() + 0.1

    def evaluated(self, row: Mapping[str, Any]) -> None:
        run, now = self.run, time.perf_counter()
        self.train, self.valid = (
            _described({name: x for name, x in row.items() if name.startswith(split)}) for split in ("train_", "valid_")
        )
        if now >= self.line_due or (run.step >= self.total and self.line_due < math.inf):
            left = (now - self.began) / max(1, run.step - self.start) * (self.total - run.step)
            text = f"step {run.step} of {self.total}, epoch {row['epoch']}: {self.train}, {self.valid}"
            print(f"{text}; {run.seconds:.0f} s, {left:.0f} s left", file=sys.stderr, flush=True)
            self.line_due = now + LINE_SECONDS


def _described(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in metrics.items())


@contextmanager
def _signals() -> Iterator[list[int]]:
    """A list that takes every SIGINT and SIGTERM inside the block, which do nothing else (in the main thread only)."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    before = {s: signal.signal(s, lambda s, _: caught.append(s)) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for s, handler in before.items():
            signal.signal(s, handler or signal.SIG_DFL)  # None: it was not set by Python


def _due(began: float, seconds: float) -> float:
    """When to do again what began then and ends now."""
    now = time.perf_counter()
    return now + max(seconds, (now - began) / SHARE)


def _summary_writer() -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ImportError(
            '--tensorboard needs tensorboardX. Install it with: python -m pip install "micrognm[tensorboard]"'
        ) from error
    return SummaryWriter


def result(
    settings: Settings,
    *,
    paper: str,
    split: str,
    metric: str,
    value: float,
    baseline: float,
    seconds: float,
    data: str | None = None,
    **more: str | float,
) -> None:
    """Print the last line of a script, `result paper=... data=...`, for machines, and write it exactly to result.json.

    data: what exactly it was, where settings.data does not say. Raises ValueError for what would break the line.
    """
    fields: dict[str, str | float] = {
        "paper": paper,
        "data": data or settings.data,
        "split": split,
        "metric": metric,
        "value": float(value),
        "baseline": float(baseline),
        "seconds": float(seconds),
        **more,
    }
    line = "result " + " ".join(f"{name}={_word(name, field)}" for name, field in fields.items())
    storage.write(Path(settings.out) / "result.json", json.dumps(fields, indent=2).encode())
    print(line, flush=True)


def _word(name: str, field: str | float) -> str:
    if isinstance(field, float):
        if not math.isfinite(field):
            raise ValueError(f"result: {name} must be a finite number, not {field}")
        if name == "seconds":
            return f"{field:.0f}" if field >= 10 else f"{field:.1f}"
        return f"{field:.2f}" if abs(field) >= 10 else f"{field:.3f}" if abs(field) >= 0.1 else f"{field:.3g}"
    word = str(field)
    if not word or set(word) & set("= \t\n"):
        raise ValueError(f"result: {name} must be a word without spaces and '=', not {word!r}")
    return word
