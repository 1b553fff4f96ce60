"""What of a pixel a density model predicts, and in which units its likelihood is reported: its protocol."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from micrognm.data.binarise import dynamic, threshold
from micrognm.data.dataset import Dataset
from micrognm.metrics import bits_per_dimension


@dataclass(frozen=True)
class Protocol:
    """Likelihoods under different protocols cannot be compared, so each has a name.

    levels: of a pixel, as the model sees it. read(images, rng): images as the model takes them, floats 0 and 1 for two
    levels, else integers. metric: "nats" an image for two levels, else "bits_per_dim". dimensions: of an image.
    """

    name: str
    levels: int
    metric: str
    read: Callable[[np.ndarray, np.random.Generator], np.ndarray]
    dimensions: int

    def report(self, nats: float) -> float:
        """A mean negative log-likelihood in nats, in the units of `metric`."""
        return nats if self.metric == "nats" else bits_per_dimension(nats, self.dimensions)


def protocol(source: Dataset, levels: Literal["all", "binary"]) -> Protocol:
    """The protocol of a source with all its levels, or binary.

    Few levels are cut at the middle, 256 are binarised at random, anew at each presentation: "binary" and "dynamic".
    """
    dimensions, many = source.train.images[0].size, source.levels
    if levels == "all":
        return Protocol(f"{source.name}-{many}", many, "bits_per_dim", lambda x, rng: x.astype(np.int64), dimensions)
    if many < 256:
        return Protocol(f"{source.name}-binary", 2, "nats", lambda x, rng: threshold(x, at=many // 2), dimensions)
    return Protocol(f"{source.name}-dynamic", 2, "nats", lambda x, rng: dynamic(x, many, rng), dimensions)
