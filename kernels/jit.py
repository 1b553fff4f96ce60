"""How every Numba kernel is compiled, and what the machine's vectors hold."""

from __future__ import annotations

import gc
import threading
from typing import Any

from llvmlite import binding
from numba.core import event

binding.initialize_native_target()
_features = binding.get_host_cpu_features()

# Of fastmath only the fused multiply-add: NaN stays NaN, infinity infinity. Compiled code is kept beside the source.
SERIAL: dict[str, Any] = {
    "cache": True, "error_model": "numpy", "fastmath": {"contract"}, "nogil": True, "no_cfunc_wrapper": True,
}  # fmt: skip
PARALLEL: dict[str, Any] = {**SERIAL, "parallel": True}

# For functions that compiled code alone calls, or `workers.run`: an entry from Python takes time to compile. Called
# from Python they crash.
INNER: dict[str, Any] = {**SERIAL, "no_cpython_wrapper": True}
INLINED: dict[str, Any] = {**INNER, "forceinline": True}

# For loops that sum: partial sums in vector lanes. NaN and infinity still pass through.
FAST = {"reassoc", "contract", "nsz", "arcp", "afn"}

# float32 numbers in a vector register, and how many such registers there are.
WIDTH = 16 if _features.get("avx512f") else 8 if _features.get("avx2") else 4
REGISTERS = 32 if _features.get("avx512f") or not _features.get("sse2") else 16


class _NoCollection(event.Listener):
    """Python's garbage collector rests while Numba compiles or loads.

    What Numba makes stays, and the collector would look through all of it again and again.
    """

    def __init__(self) -> None:
        self.lock, self.inside, self.enabled = threading.Lock(), 0, False

    def on_start(self, event: Any) -> None:
        with self.lock:
            if self.inside == 0:
                self.enabled = gc.isenabled()
                gc.disable()
            self.inside += 1

    def on_end(self, event: Any) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0 and self.enabled:
                gc.enable()


event.register("numba:compiler_lock", _NoCollection())
