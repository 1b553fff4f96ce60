"""Layers: modules with parameters. Initialisers are in `nn.init`."""

from micrognm.nn import init
from micrognm.nn.dropout import Dropout
from micrognm.nn.embedding import Embedding
from micrognm.nn.linear import Linear, MaskedLinear
from micrognm.nn.module import Module, Parameter
from micrognm.nn.sequential import Sequential
from micrognm.nn.weightnorm import WeightNorm

__all__ = ["Dropout", "Embedding", "Linear", "MaskedLinear", "Module", "Parameter", "Sequential", "WeightNorm", "init"]
