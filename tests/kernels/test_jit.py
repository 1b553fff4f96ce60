"""The garbage collector rests while Numba compiles, and only then."""

from __future__ import annotations

import gc

import numba
import numpy as np
import pytest
from micrognm.kernels import jit  # noqa: F401  # which sees to it
from numba import extending


def compiled(fails=False):
    """Whether the collector ran while a new function was compiled, which may fail."""
    seen = []

    def looked(x):
        raise AssertionError("for Numba code")

    @extending.overload(looked)
    def _(x):
        seen.append(gc.isenabled())
        return None if fails else lambda x: x

    @numba.njit
    def function(x):
        return looked(x)

    if fails:
        with pytest.raises(numba.TypingError):
            function(np.float32(1))
    else:
        assert function(np.float32(1)) == 1
    return any(seen), len(seen)


@pytest.mark.parametrize("fails", [False, True])
def test_the_collector_rests_while_numba_compiles(fails):
    assert gc.isenabled()
    ran, times = compiled(fails)
    assert times and not ran
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off():
    gc.disable()
    try:
        compiled()
        assert not gc.isenabled()
    finally:
        gc.enable()
