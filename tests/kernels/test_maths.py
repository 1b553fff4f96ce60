"""The vector maths against NumPy in extended precision, over the whole line, its ends and in any caller."""

import platform

import numba
import numpy as np
import pytest
from llvmlite import binding
from micrognm.kernels import maths
from scipy import special

from benchmarks.maths_errors import TRUTH, loop, points, ulps

DTYPES = (np.float32, np.float64)
# Units in the last place; one more where NumPy has no precision beyond float64 to compare with.
BOUND = {"exp": 1.2, "expm1": 2.3, "log": 1.0, "log1p": 1.0, "tanh": 3.0, "sigmoid": 2.6, "softplus": 3.0,
         "log_sigmoid": 3.0, "erf": 2.6}  # fmt: skip
NO_WIDER = np.finfo(np.longdouble).nmant == np.finfo(np.float64).nmant
INF, NAN = np.inf, np.nan
ENDS = {  # at -inf, -0, 0, inf
    "exp": [0, 1, 1, INF],
    "expm1": [-1, -0.0, 0, INF],
    "log": [NAN, -INF, -INF, INF],
    "log1p": [NAN, -0.0, 0, INF],
    "tanh": [-1, -0.0, 0, 1],
    "sigmoid": [0, 0.5, 0.5, 1],
    "softplus": [0, np.log(2), np.log(2), INF],
    "log_sigmoid": [-INF, -np.log(2), -np.log(2), -0.0],
    "erf": [-1, -0.0, 0, 1],
}
EVERY_LICENCE = frozenset({"reassoc", "contract", "nsz", "arcp", "afn"})


def values(run, x):
    out = np.full_like(x, 7)
    run(x, out)
    return out


def test_every_function_is_tested():
    public = {name for name, f in vars(maths).items() if getattr(f, "__module__", "") == maths.__name__}
    assert {name for name in public if not name.startswith("_")} == set(TRUTH) == set(BOUND) == set(ENDS)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", TRUTH)
def test_over_the_whole_line_whatever_the_caller_allows(name, dtype):
    x = points(dtype, 40_000)
    strict = values(loop(name), x)
    error = ulps(name, x, strict)
    worst = int(np.argmax(error))
    assert error[worst] <= BOUND[name] + (NO_WIDER and dtype == np.float64), f"at {x[worst]}: {strict[worst]}"
    # what LLVM may reassociate in the caller it may not here
    np.testing.assert_array_equal(values(loop(name, EVERY_LICENCE), x), strict)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", TRUTH)
def test_ends(name, dtype):
    x = np.array([-INF, -0.0, 0.0, INF, NAN, -NAN], dtype)
    got = values(loop(name), x)
    want = np.array([*ENDS[name], NAN, NAN], dtype)
    np.testing.assert_allclose(got, want, rtol=2 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(np.signbit(got[:4]), np.signbit(want[:4]) | np.isnan(want[:4]) & np.signbit(got[:4]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_overflow_and_subnormal_results(dtype):
    last = np.log(np.finfo(dtype).max.astype(np.longdouble)).astype(dtype)  # may be rounded up by half a unit
    below, above = np.nextafter(last, dtype(0)), dtype(last * dtype(1.0001))
    for name in ("exp", "expm1"):
        got = values(loop(name), np.array([below, above], dtype))
        assert np.isfinite(got[0]) and got[0] > 0.99 * np.finfo(dtype).max and got[1] == INF
    smallest = np.finfo(dtype).smallest_subnormal
    x = np.array([np.log(float(np.finfo(dtype).tiny)) - 3], dtype)
    got = values(loop("exp"), x)[0]
    assert 0 < got < np.finfo(dtype).tiny and abs(got - np.exp(x[0].astype(np.float64))) <= 2 * smallest
    for name in ("expm1", "log1p"):
        assert values(loop(name), np.array([smallest, -smallest])).tolist() == [smallest, -smallest]


@pytest.mark.parametrize("dtype", DTYPES)
def test_monotone_where_pieces_meet(dtype):
    """e^-q in erf goes over to another power of two where q is an odd multiple of log(2) / 2, and erf ends at 1.

    No step back is larger than a rounding error.
    """
    eps, q, end = np.finfo(dtype).eps, np.log(2) * (np.arange(20) + 0.5), maths.ONE[dtype]
    for centre in (*special.erfinv(-np.expm1(-q)), end):
        x = (centre * (1 + eps * np.arange(-2000, 2000))).astype(dtype)
        steps = np.diff(values(loop("erf"), x))
        assert steps.min() >= -2 * eps
    assert values(loop("erf"), np.array([-end, end, 2 * end], dtype)).tolist() == [-1, 1, 1]


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or not binding.get_host_cpu_features().get("fma"),
    reason="reads x86 assembly with fused multiply-add",
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", TRUTH)
def test_loops_that_call_them_are_vectorised(name, dtype):
    run = loop(name)
    run(np.zeros(1, dtype), np.zeros(1, dtype))
    assembly = "".join(run.inspect_asm().values())
    packed = "ps" if dtype == np.float32 else "pd"
    lines = [line.split() for line in assembly.splitlines() if "ymm" in line or "zmm" in line]
    assert sum(line[0].startswith("vfm") and line[0].endswith(packed) for line in lines) >= 3, assembly


def test_errors():
    with pytest.raises(TypeError, match=r"exp of micrognm\.kernels\.maths is for Numba code; elsewhere use NumPy"):
        maths.exp(1.0)
    with pytest.raises(numba.TypingError):
        loop("exp")(np.zeros(1, np.int64), np.zeros(1))
