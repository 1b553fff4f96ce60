"""The labels that a class-conditional model is told."""

from __future__ import annotations

from typing import Any

import numpy as np

from micrognm import backend
from micrognm.engine import Tensor


def checked(model: str, labels: Any, n: int, classes: int) -> Any:
    """Labels [n] as an array on the device in use. ValueError for what is no label of this many classes."""
    labels = backend.asarray(labels.data if isinstance(labels, Tensor) else labels)
    if labels.shape != (n,) or labels.dtype.kind not in "iu":
        got = "none" if labels.dtype == np.dtype(object) else f"{labels.dtype}{list(labels.shape)}"
        raise ValueError(f"{model}: expected {n} labels, integers from 0 to {classes - 1}, got {got}")
    if n and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(
            f"{model}: labels run from {labels.min()} to {labels.max()}, the classes from 0 to {classes - 1}"
        )
    return labels
