"""What compiling costs, cold and from the caches: the first --quick run of a script in a process, less the second.

    python benchmarks/first_call.py                                 a few scripts
    python benchmarks/first_call.py --scripts latent/vae.py         others

Each script runs in a process whose caches (NUMBA_CACHE_DIR, MICROGNM_FORMULAS) are empty, then in others that find what
it left there. Before the first run comes one with the reference kernels, which compiles nothing, so that imports do not
count.
"""

from __future__ import annotations

import importlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

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
            f"{script} --quick: compiling takes {cold[0] - cold[1]:.1f} s with empty caches, "
            f"{statistics.median(first - second for first, second in warm):.2f} s with full ones "
            f"(a run then takes {statistics.median(second for _, second in warm):.1f} s)",
            flush=True,
        )


def seconds(script: str, folder: str) -> list[float]:
    """What the first run takes, and the second, in a process with its caches in the folder."""
    caches = {name: str(Path(folder, name)) for name in ("NUMBA_CACHE_DIR", "MICROGNM_FORMULAS")}
    command = [sys.executable, __file__, TIMED, script, folder]
    done = subprocess.run(command, env={**os.environ, **caches}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{script} ended with {done.returncode}:\n{done.stderr}")
    return [float(number) for number in done.stdout.splitlines()[-1].split()]


def timed(script: str, out: str) -> None:
    """Run the script's main three times, first with the reference kernels; print the seconds of the other two."""
    import numba.typed  # noqa: F401  # what Numba itself would import later, at its first call

    from micrognm import backend, loop

    sys.path.insert(0, str((EXAMPLES / script).parent))
    module = importlib.import_module(Path(script).stem)
    taken = []
    for kernels in ("reference", "auto", "auto"):
        backend.use_kernels(kernels)
        start = time.perf_counter()
        module.main(loop.parse(module.Settings, ["--quick", "--out", tempfile.mkdtemp(dir=out)]))
        taken.append(time.perf_counter() - start)
    print(*taken[1:])


if __name__ == "__main__":
    if TIMED in sys.argv:
        timed(*sys.argv[2:])
    else:
        main(tyro.cli(Settings, description=__doc__))
