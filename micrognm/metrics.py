"""How good a model is, in the units of the field."""

from __future__ import annotations

import math


def bits_per_dimension(nats: float, dimensions: int) -> float:
    """A discrete image's negative log-likelihood in nats, as bits for each dimension (pixels times channels)."""
    return nats / (dimensions * math.log(2))
