"""Differentiable operations. Each is declared once, in the file named for its kind; those below are also methods."""

from micrognm.engine import Tensor
from micrognm.ops.activation import (
    concat_elu,
    elu,
    gelu,
    leaky_relu,
    relu,
    sigmoid,
    softplus,
    swish,
    tanh,
)
from micrognm.ops.arithmetic import (
    abs,
    add,
    cast,
    clip,
    div,
    equal,
    erf,
    exp,
    expm1,
    floor,
    greater,
    greater_equal,
    less,
    less_equal,
    log,
    log1p,
    maximum,
    minimum,
    mul,
    neg,
    not_equal,
    power,
    round,
    rsqrt,
    sign,
    sqrt,
    sub,
    where,
)
from micrognm.ops.attention import attention
from micrognm.ops.categorical import categorical_log_prob
from micrognm.ops.conv import conv, conv_transpose, conv_weight
from micrognm.ops.dropout import dropout
from micrognm.ops.index import getitem, one_hot, scatter_add, sort, take_along_axis, top_k
from micrognm.ops.invertible import coupling, coupling_inverse, invertible, invertible_inverse, plu
from micrognm.ops.linalg import (
    affine,
    einsum,
    inverse,
    logabsdet,
    matmul,
    qr,
    slogdet,
    solve_triangular,
    swap,
    triangle,
)
from micrognm.ops.logistic_mixture import logistic_mixture_log_prob
from micrognm.ops.losses import bernoulli_log_prob
from micrognm.ops.nearest import nearest
from micrognm.ops.normalise import normalise, pixel_norm, scale_shift
from micrognm.ops.recurrent import diagonal_bilstm, lstm_cell, row_lstm
from micrognm.ops.reduce import (
    argmax,
    argmin,
    cumsum,
    log_softmax,
    logsumexp,
    max,
    mean,
    min,
    norm,
    softmax,
    sum,
    var,
)
from micrognm.ops.shape import broadcast_to, concat, flip, pad, reshape, roll, split, stack, transpose

_METHODS = {
    "__add__": add, "__radd__": lambda b, a: add(a, b), "__sub__": sub, "__rsub__": lambda b, a: sub(a, b),
    "__mul__": mul, "__rmul__": lambda b, a: mul(a, b), "__truediv__": div, "__rtruediv__": lambda b, a: div(a, b),
    "__pow__": power, "__rpow__": lambda b, a: power(a, b), "__matmul__": matmul,
    "__rmatmul__": lambda b, a: matmul(a, b),
    "__neg__": neg, "__abs__": abs, "__eq__": equal, "__ne__": not_equal, "__lt__": less, "__le__": less_equal,
    "__gt__": greater, "__ge__": greater_equal, "__getitem__": getitem,
    "sum": sum, "mean": mean, "var": var, "max": max, "min": min, "argmax": argmax, "reshape": reshape,
    "transpose": transpose, "cast": cast,
}  # fmt: skip
for _name, _method in _METHODS.items():
    setattr(Tensor, _name, _method)

__all__ = [
    "abs", "add", "affine", "argmax", "argmin", "attention", "bernoulli_log_prob", "broadcast_to", "cast",
    "categorical_log_prob", "clip", "concat", "concat_elu", "conv", "conv_transpose", "conv_weight", "coupling",
    "coupling_inverse", "cumsum", "diagonal_bilstm", "div", "dropout", "einsum", "elu", "equal", "erf", "exp",
    "expm1", "flip", "floor", "gelu", "getitem", "greater", "greater_equal", "inverse", "invertible",
    "invertible_inverse", "leaky_relu", "less", "less_equal", "log", "log1p", "log_softmax", "logabsdet",
    "logistic_mixture_log_prob", "logsumexp", "lstm_cell", "matmul", "max", "maximum", "mean", "min", "minimum",
    "mul", "nearest", "neg", "norm", "normalise", "not_equal", "one_hot", "pad", "pixel_norm", "plu", "power",
    "qr", "relu", "reshape", "roll", "round", "row_lstm", "rsqrt", "scale_shift", "scatter_add", "sigmoid", "sign",
    "slogdet", "softmax", "softplus", "solve_triangular", "sort", "split", "sqrt", "stack", "sub", "sum", "swap",
    "swish", "take_along_axis", "tanh", "top_k", "transpose", "triangle", "var", "where",
]  # fmt: skip
