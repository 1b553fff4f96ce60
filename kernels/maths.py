"""Elementary functions for Numba code, written so that LLVM can vectorise the loops that call them.

    from micrognm.kernels.maths import exp, tanh

    @njit(**SERIAL)
    def f(x, out):
        for i in range(x.size):
            out[i] = tanh(x[i])

The C library works on one number at a time, and Numba knows no other: its np.exp is 20 times slower than memory. Here a
function is polynomials and choices between two numbers: no branch, no table, no call. It takes float32 or float64
and computes in it. Errors are measured by `python benchmarks/maths_errors.py`; formula/README.md has the table.

Each function below is written once, as `f(T)`, for T = np.float32 or np.float64: it returns the function of x, with its
constants in T. Numba compiles that by itself, with no other licence than fused multiply-add, and LLVM inlines it: a
caller's fastmath cannot reassociate what must be rounded in order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending, types

Number = Any
intrinsic: Any = extending.intrinsic  # Numba's type hints count its first parameter among the caller's
INLINED: Any = {"forceinline": True, "error_model": "numpy", "fastmath": {"contract"}, "nogil": True}


def _function(build: Callable[[Any], Callable[[Number], Number]]) -> Callable[[Number], Number]:
    """What build(T) returns, as one function for Numba code that takes both dtypes."""

    def function(x: Number) -> Number:
        raise TypeError(f"{build.__name__} of micrognm.kernels.maths is for Numba code; elsewhere use NumPy or SciPy")

    function.__name__ = function.__qualname__ = build.__name__
    function.__doc__ = build.__doc__

    @extending.overload(function, jit_options=INLINED)
    def chosen(x: Number) -> Any:
        return build({32: np.float32, 64: np.float64}[x.bitwidth]) if isinstance(x, types.Float) else None

    return function


# ---- what Numba does not offer ---------------------------------------------------------------------------------------

MANTISSA = {32: 23, 64: 52}  # bits


def _layout(x: Any) -> tuple[int, int, Any]:
    """Bits of the mantissa, bits of 1.0, and LLVM's integer type, for Numba's type x."""
    mantissa = MANTISSA[x.bitwidth]
    return mantissa, ((1 << (x.bitwidth - mantissa - 2)) - 1) << mantissa, ir.IntType(x.bitwidth)


def _llvm(builder: Any, name: str, kind: Any, inputs: int) -> Any:
    """LLVM's own function of so many numbers."""
    return builder.module.declare_intrinsic(f"llvm.{name}", [kind], ir.FunctionType(kind, [kind] * inputs))


@intrinsic
def _power_of_two(typing: Any, t: Any) -> Any:
    """2^k for t = k + 1.5 * 2^mantissa, whose lowest bits are k's; k may be as low as 1 - the exponent's bias."""
    mantissa, one, integer = _layout(t)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = builder.shl(builder.bitcast(args[0], integer), ir.Constant(integer, mantissa))
        return builder.bitcast(builder.add(bits, ir.Constant(integer, one)), args[0].type)

    return t(t), generate


@intrinsic
def _split(typing: Any, x: Any) -> Any:
    """(m, k) with x = m 2^k and sqrt(1/2) <= m < sqrt(2), for x > 0 that is not subnormal."""
    mantissa, one, integer = _layout(x)
    T = np.dtype(f"f{x.bitwidth // 8}").type
    half = int(np.array(T(math.sqrt(0.5))).view(f"i{x.bitwidth // 8}"))
    above = 1 << mantissa  # as a number of T: added to a small integer, it leaves its bits as they are

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def constant(value: int) -> Any:
            return ir.Constant(integer, value)

        shifted = builder.add(builder.bitcast(args[0], integer), constant(one - half))
        m = builder.add(builder.and_(shifted, constant(above - 1)), constant(half))
        k = builder.or_(
            builder.lshr(shifted, constant(mantissa)), constant(int(np.array(T(above)).view(f"i{x.bitwidth // 8}")))
        )
        k = builder.fsub(builder.bitcast(k, args[0].type), ir.Constant(args[0].type, above + (one >> mantissa)))
        return context.make_tuple(builder, signature.return_type, (builder.bitcast(m, args[0].type), k))

    return types.UniTuple(x, 2)(x), generate


@intrinsic
def _copysign(typing: Any, x: Any, sign: Any) -> Any:
    """|x| with the sign of `sign`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.call(_llvm(builder, "copysign", args[0].type, 2), args)

    return x(x, x), generate


def _polynomial(coefficients: tuple[float, ...]) -> Any:
    """x -> c[0] + c[1] x + c[2] x^2 + ..., by Horner's rule."""

    @intrinsic
    def polynomial(typing: Any, x: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = args[0].type
            fma = _llvm(builder, "fmuladd", kind, 3)
            # LLVM writes a float constant as a double that float32 holds exactly
            exact = [float(np.float32(c)) if x.bitwidth == 32 else c for c in coefficients]
            total = ir.Constant(kind, exact[-1])
            for c in reversed(exact[:-1]):
                total = builder.call(fma, (total, args[0], ir.Constant(kind, c)))
            return total

        return x(x), generate

    return polynomial


# ---- exponentials ----------------------------------------------------------------------------------------------------

# Coefficients are minimax (Remez), of the least degree whose error is well below half a unit in the last place.

# (e^r - 1 - r) / r^2 for |r| <= log(2) / 2
EXP = {
    np.float32: (0.4999999701976776, 0.1666654348373413, 0.04166720062494278, 0.008366579189896584,
                 0.0013882536441087723),
    np.float64: (0.5000000000000006, 0.16666666666666588, 0.04166666666657615, 0.008333333333389922,
                 0.0013888888931783872, 0.0001984126971841329, 2.480150499017878e-05, 2.755740780924293e-06,
                 2.7626157498962677e-07, 2.505379198495016e-08),
}  # fmt: skip
# log(2) in two parts, the first with so few bits that k times it is exact for every exponent k
LOG2 = {
    np.float32: (0.693359375, -2.12194440054690583e-4),
    np.float64: (6.93145751953125e-1, 1.42860682030941723212e-6),
}
# e^x is 0 below the first and infinite above the second; expm1(x) is -1 below the third; the exponent of e^x is the
# least or largest below the fourth or above the fifth
ENDS = {np.float32: (-104.0, 89.0, -18.0, -88.0, 88.8), np.float64: (-746.0, 710.0, -38.0, -709.0, 709.9)}


def _reduced(T: Any) -> tuple[Any, ...]:
    """For x = k log(2) + r: 1 / log(2); 1.5 * 2^mantissa, which rounds what it is added to; the parts of log(2)."""
    return T(1 / math.log(2)), T(1.5 * 2 ** np.finfo(T).nmant), *map(T, LOG2[T])


@_function
def exp(T: Any) -> Any:
    """e^x, subnormal results too."""
    per_log2, rounder, log2_high, log2_low = _reduced(T)
    low, high = map(T, ENDS[T][:2])
    one, half = T(1), T(0.5)
    p = _polynomial(EXP[T])

    def function(x: Number) -> Number:
        x = low if x < low else x  # written so that NaN stays
        x = high if x > high else x
        k = (x * per_log2 + rounder) - rounder
        r = (x - k * log2_high) - k * log2_low
        y = one + (r + r * r * p(r))
        # 2^k in two halves: k may be more than the exponent holds where the result is subnormal or nearly infinite
        first = k * half + rounder
        second = (k - (first - rounder)) + rounder
        return y * _power_of_two(first) * _power_of_two(second)

    return function


@_function
def _exp_of_minus(T: Any) -> Any:
    """e^-x, but 0 where that is subnormal and infinite already from half the largest number on: a third less work.

    The minus is in the constants. Before the ends it would keep LLVM from the machine's minimum there.
    """
    per_log2, rounder, log2_high, log2_low = _reduced(T)
    low, high = T(-ENDS[T][4]), T(-ENDS[T][3])
    one = T(1)
    p = _polynomial(EXP[T])

    def function(x: Number) -> Number:
        x = low if x < low else x
        x = high if x > high else x
        rounded = rounder - x * per_log2
        k = rounded - rounder
        r = (-k * log2_high - x) - k * log2_low
        return (one + (r + r * r * p(r))) * _power_of_two(rounded)

    return function


@_function
def expm1(T: Any) -> Any:
    """e^x - 1, exact near 0."""
    per_log2, rounder, log2_high, log2_low = _reduced(T)
    low, high = T(ENDS[T][2]), T(ENDS[T][1])
    one, half, two, tiny = T(1), T(0.5), T(2), T(np.finfo(T).eps / 4)
    p = _polynomial(EXP[T])

    def function(x: Number) -> Number:
        z = low if x < low else x
        z = high if z > high else z
        rounded = z * per_log2 + rounder
        k = rounded - rounder
        r = (z - k * log2_high) - k * log2_low
        q = r + r * r * p(r)
        scale = _power_of_two(rounded - one)  # 2^k / 2: 2^k may be infinite where the result is not
        y = two * (scale * q + (scale - half))
        return x if abs(x) < tiny else y  # keeps -0 and subnormal numbers

    return function


# ---- logarithms ------------------------------------------------------------------------------------------------------

# (log(1 + f) - 2 s) / s^3 as a polynomial in s^2, for s = f / (2 + f): for 1 + f from sqrt(1/2) to sqrt(2) ...
LOG = {
    np.float32: (0.6666675209999084, 0.3997972011566162, 0.298218697309494),
    np.float64: (0.6666666666666685, 0.3999999999970095, 0.28571428684486505, 0.22222204068551013, 0.18183297067420956,
                 0.15320504607500482, 0.14734590200501346),
}  # fmt: skip
# ... and from 1 to 2
LOG1P = {
    np.float32: (0.6666643619537354, 0.4002051055431366, 0.2801584005355835, 0.27951452136039734),
    np.float64: (0.6666666666666651, 0.40000000000096914, 0.2857142855438217, 0.22222223611401018,
                 0.18181755299626745, 0.15386338478587316, 0.13303659215108674, 0.12086295574455469,
                 0.08421212517882291, 0.16876754868406585),
}  # fmt: skip


@_function
def log(T: Any) -> Any:
    """Natural logarithm: -inf at 0, NaN below."""
    log2_high, log2_low = map(T, LOG2[T])
    zero, one, two, half, inf, nan = T(0), T(1), T(2), T(0.5), T(np.inf), T(np.nan)
    tiny, up, shift = np.finfo(T).tiny, T(2.0 ** (np.finfo(T).nmant + 1)), T(np.finfo(T).nmant + 1)
    p = _polynomial(LOG[T])

    def function(x: Number) -> Number:
        m, k = _split(x * up if x < tiny else x)
        k = k - shift if x < tiny else k
        f = m - one
        s = f / (two + f)
        h = half * f * f
        y = k * log2_high + (f - (h - (s * (h + s * s * p(s * s)) + k * log2_low)))
        y = y if x < inf else x
        y = -inf if x == zero else y
        return nan if x < zero else y

    return function


@_function
def log1p(T: Any) -> Any:
    """log(1 + x), exact near 0: -inf at -1, NaN below."""
    log2_high, log2_low = map(T, LOG2[T])
    zero, one, two, half, inf, nan = T(0), T(1), T(2), T(0.5), T(np.inf), T(np.nan)
    tiny = T(np.finfo(T).eps / 4)
    p = _polynomial(LOG[T])

    def function(x: Number) -> Number:
        u = one + x
        lost = one - (u - x) if x > one else x - (u - one)  # what rounding took from u
        m, k = _split(u)
        f = m - one
        s = f / (two + f)
        h = half * f * f
        y = k * log2_high + (f - (h - (s * (h + s * s * p(s * s)) + (k * log2_low + lost / u))))
        y = y if x < inf else x
        y = -inf if u == zero else y
        y = nan if u < zero else y
        return x if abs(x) < tiny else y

    return function


@_function
def softplus(T: Any) -> Any:
    """log(1 + e^x), without overflow and exact where it is small; 0 where that is subnormal."""
    zero, two = T(0), T(2)
    p = _polynomial(LOG1P[T])

    def function(x: Number) -> Number:
        e = _exp_of_minus(abs(x))
        s = e / (two + e)
        z = s * s
        return (zero if x < zero else x) + (two * s + s * z * p(z))

    return function


@_function
def log_sigmoid(T: Any) -> Any:
    """log(sigmoid(x)) = -softplus(-x)."""

    def function(x: Number) -> Number:
        return -softplus(-x)

    return function


# ---- sigmoids --------------------------------------------------------------------------------------------------------


@_function
def tanh(T: Any) -> Any:
    """Hyperbolic tangent: -t / (t + 2) of |x| for t = e^(-2|x|) - 1, which loses no digits anywhere."""
    per_log2, rounder, log2_high, log2_low = _reduced(T)
    low, one, two = T(ENDS[T][2]), T(1), T(2)
    p = _polynomial(EXP[T])

    def function(x: Number) -> Number:
        z = -two * abs(x)
        z = low if z < low else z
        rounded = z * per_log2 + rounder
        k = rounded - rounder
        r = (z - k * log2_high) - k * log2_low
        scale = _power_of_two(rounded)
        t = scale * (r + r * r * p(r)) + (scale - one)
        return _copysign(t / (t + two), x)

    return function


@_function
def sigmoid(T: Any) -> Any:
    """1 / (1 + e^-x), without overflow; 0 where that is subnormal."""
    one = T(1)

    def function(x: Number) -> Number:
        return one / (one + _exp_of_minus(x))

    return function


# -log(1 - erf(x)) / x - 1 as a polynomial in x, from 0 to where erf rounds to 1; minimax for erf's relative error
ERF = {
    np.float32: (0.12837916612625122, 0.6366193890571594, 0.10277783125638962, -0.019153064116835594,
                 -0.00016039589536376297, 0.0016670272452756763, -0.0006328367162495852, 0.00011764121882151812,
                 -9.256258636014536e-06),
    np.float64: (0.12837916709551256, 0.6366197723675909, 0.10277260330131556, -0.019128446993097317,
                 -0.00020919485389166403, 0.0016962076696268175, -0.0005901324288912344, 2.5904495004117683e-05,
                 6.44204852051519e-05, -2.9575694759170276e-05, 3.169713722704059e-06, 3.132912824608682e-06,
                 -2.0371434144372707e-06, 5.706000797122543e-07, -1.1689699966276618e-08, -6.574198328204674e-08,
                 3.458790466799427e-08, -1.0774219797322873e-08, 2.3607064023066505e-09, -3.76103116043626e-10,
                 4.302175389935913e-11, -3.3646763805164325e-12, 1.6150392262133114e-13, -3.592596090392377e-15),
}  # fmt: skip
ONE = {np.float32: 4.0, np.float64: 6.0}


@_function
def erf(T: Any) -> Any:
    """The error function, 2/sqrt(pi) times the integral of e^(-t^2) from 0 to x: 1 - e^-q, q = |x| (1 + p(|x|)).

    One polynomial for all x, since q is as smooth at 0 as where erf is nearly 1; e^-q - 1 loses no digits anywhere.
    """
    per_log2, rounder, log2_high, log2_low = _reduced(T)
    one, end = T(1), T(ONE[T])
    p, e = _polynomial(ERF[T]), _polynomial(EXP[T])

    def function(x: Number) -> Number:
        a = abs(x)
        a = end if a > end else a
        q = a + a * p(a)
        rounded = rounder - q * per_log2
        k = rounded - rounder
        r = (-k * log2_high - q) - k * log2_low
        scale = _power_of_two(rounded)
        return _copysign((one - scale) - scale * (r + r * r * e(r)), x)

    return function
