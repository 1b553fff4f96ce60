"""What every source of data returns: three splits of whole-number images with their labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Split:
    """Images [N, H, W, C] uint8 and their labels [N] int64. Raises ValueError where they do not fit."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != np.uint8:
            raise ValueError(f"Split: images must be [N, H, W, C] uint8, not {self.images.shape} {self.images.dtype}")
        if self.labels.ndim != 1 or self.labels.dtype != np.int64:
            raise ValueError(f"Split: labels must be [N] int64, not {self.labels.shape} {self.labels.dtype}")
        if len(self.images) != len(self.labels):
            raise ValueError(
                f"Split: expected one label an image, not {len(self.labels)} for {len(self.images)} images"
            )

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three splits whose pixels are 0 .. levels - 1 and whose labels index `classes`. Raises ValueError otherwise."""

    name: str
    levels: int
    classes: tuple[str, ...]
    train: Split
    valid: Split
    test: Split

    def __post_init__(self) -> None:
        shape = self.train.images.shape[1:]
        for part, split in (("train", self.train), ("valid", self.valid), ("test", self.test)):
            if split.images.shape[1:] != shape:
                raise ValueError(
                    f"Dataset {self.name}: {part} images are {split.images.shape[1:]}, train images are {shape}"
                )
            if split.images.size and split.images.max() >= self.levels:
                raise ValueError(
                    f"Dataset {self.name}: {part} has pixel value {split.images.max()}, levels={self.levels} allows "
                    f"0 to {self.levels - 1}"
                )
            if len(split) and not 0 <= split.labels.min() <= split.labels.max() < len(self.classes):
                raise ValueError(
                    f"Dataset {self.name}: {part} labels go from {split.labels.min()} to {split.labels.max()}, "
                    f"{len(self.classes)} classes allow 0 to {len(self.classes) - 1}"
                )
