"""Layers: modules with parameters. Initialisers are in `nn.init`."""

from micrognm.nn import init
from micrognm.nn.conv import Conv, ConvTranspose, MaskedConv
from micrognm.nn.dropout import Dropout
from micrognm.nn.embedding import Embedding
from micrognm.nn.linear import Linear, MaskedLinear
from micrognm.nn.module import Module, Parameter
from micrognm.nn.normalise import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, MeanOnlyBatchNorm
from micrognm.nn.quantiser import Quantiser
from micrognm.nn.sequential import Sequential
from micrognm.nn.weightnorm import WeightNorm

__all__ = [
    "BatchNorm", "Conv", "ConvTranspose", "Dropout", "Embedding", "GroupNorm", "InstanceNorm", "LayerNorm",
    "Linear", "MaskedConv", "MaskedLinear", "MeanOnlyBatchNorm", "Module", "Parameter", "Quantiser", "Sequential",
    "WeightNorm", "init",
]  # fmt: skip
