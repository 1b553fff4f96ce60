"""What compiling costs a script that runs with --quick: with empty caches, and with full ones.

    python benchmarks/first_call.py                                 a few scripts
    python benchmarks/first_call.py --scripts latent/vae.py         others

Each script runs in a process whose caches (NUMBA_CACHE_DIR, MICROGNM_FORMULAS) are empty, then in others that find what
it left there. What counts is the time from the outside of three doors: importing a kernel, writing and importing a
formula's module, and Numba's compiler, which loads what is in its cache. Before comes a run with the reference kernels,
which compiles nothing, so that other imports do not count.
"""

from __future__ import annotations

import functools
import importlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
TIMED = "--timed-in-this-process"


@dataclass
class Settings:
    scripts: tuple[str, ...] = (
        "autoregressive/gated_pixelcnn.py", "autoregressive/pixelsnail.py", "flow/glow.py", "latent/vae.py",
        "latent/vq_vae.py",
    )  # fmt: skip
    """paths under examples"""
    repeats: int = 3
    """processes that find the caches full"""


def main(settings: Settings) -> None:
    for script in settings.scripts:
        with tempfile.TemporaryDirectory() as folder:
            cold, *warm = (seconds(script, folder) for _ in range(1 + settings.repeats))
        print(
            f"{script} --quick: compiling takes {cold[0]:.1f} s with empty caches, "
            f"{statistics.median(first for first, _ in warm):.2f} s with full ones "
            f"(the whole run then takes {statistics.median(whole for _, whole in warm):.1f} s)",
            flush=True,
        )


def seconds(script: str, folder: str) -> list[float]:
    """What compiling takes in a process with its caches in the folder, and what the whole run takes."""
    caches = {name: str(Path(folder, name)) for name in ("NUMBA_CACHE_DIR", "MICROGNM_FORMULAS")}
    command = [sys.executable, __file__, TIMED, script, folder]
    done = subprocess.run(command, env={**os.environ, **caches}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{script} ended with {done.returncode}:\n{done.stderr}")
    return [float(number) for number in done.stdout.splitlines()[-1].split()]


class Doors:
    """Seconds spent behind functions, of which one may call another."""

    def __init__(self) -> None:
        self.seconds, self.inside = 0.0, False

    def watch(self, owner: Any, name: str) -> None:
        """Replace the function of this name by one that is timed."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def watched(*args: Any, **options: Any) -> Any:
            if self.inside:
                return function(*args, **options)
            self.inside, start = True, time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                self.inside = False
                self.seconds += time.perf_counter() - start

        setattr(owner, name, watched)


def timed(script: str, out: str) -> None:
    """Run the script's main with the reference kernels and then with those for this machine; print `seconds`."""
    import numba.typed  # noqa: F401  # what Numba itself would import later, at its first call
    from micrognm.kernels.formula import cpu
    from numba.core.dispatcher import Dispatcher

    from micrognm import backend, loop

    sys.path.insert(0, str((EXAMPLES / script).parent))
    module = importlib.import_module(Path(script).stem)

    def run(kernels: str) -> None:
        backend.use_kernels(kernels)
        module.main(loop.parse(module.Settings, ["--quick", "--out", tempfile.mkdtemp(dir=out)]))

    run("reference")
    doors = Doors()
    for owner, name in (importlib, "import_module"), (cpu, "_module"), (Dispatcher, "compile"):
        doors.watch(owner, name)
    start = time.perf_counter()
    run("auto")
    print(doors.seconds, time.perf_counter() - start)


if __name__ == "__main__":
    if TIMED in sys.argv:
        timed(*sys.argv[2:])
    else:
        main(tyro.cli(Settings, description=__doc__))
