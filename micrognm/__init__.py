"""micrognm: a small autograd engine on NumPy and CuPy arrays, hand-written kernels, the models of 31 papers."""

import os as _os

# In a checkout kernels/ stands beside this package; installed it is micrognm/kernels already. Operations import it.
if not _os.path.isdir(_os.path.join(__path__[0], "kernels")):
    __path__.append(_os.path.dirname(__path__[0]))

from micrognm.engine import Tensor, checkpoint, debug, grad, no_grad, stop_gradient
from micrognm.gradcheck import check
from micrognm.operation import op
from micrognm.ops import *  # noqa: F403  # every operation, by its name in ops.__all__
from micrognm.ops import __all__ as _operations

__version__ = "0.1.0"
__all__ = ["Tensor", "check", "checkpoint", "debug", "grad", "no_grad", "op", "stop_gradient", *_operations]
