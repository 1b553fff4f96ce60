"""Data as NumPy arrays: where it comes from, how it is binarised, in what order it is visited.

`load("digits")` returns a Dataset with the splits train, valid and test; images are [N, H, W, C] uint8.
"""

from __future__ import annotations

import os

from micrognm.data.batches import Batches
from micrognm.data.binarise import dynamic, threshold
from micrognm.data.dataset import Dataset, Split
from micrognm.data.dequantise import dequantise
from micrognm.data.idx import read_idx
from micrognm.data.image_folder import folder
from micrognm.data.protocol import Protocol, protocol
from micrognm.data.sources import digits, mnist

__all__ = [
    "SOURCES",
    "Batches",
    "Dataset",
    "Protocol",
    "Split",
    "dequantise",
    "digits",
    "dynamic",
    "folder",
    "load",
    "mnist",
    "protocol",
    "read_idx",
    "threshold",
]

SOURCES = {
    "digits": "scikit-learn's 1,797 handwritten digits, 8x8, 17 levels; takes no root",
    "mnist": "MNIST, 28x28, 256 levels; from root, MICROGNM_DATA or a download",
    "folder": "your images, all of one size, in class folders or zip files at root",
}


def load(name: str, root: str | os.PathLike[str] | None = None) -> Dataset:
    """The source of this name (see SOURCES), read from `root` where it takes one.

    Raises ValueError for an unknown name, for a root given to digits and for folder without one.
    """
    if name == "digits":
        if root is not None:
            raise ValueError(f"load: digits comes with scikit-learn and takes no root; leave out {os.fspath(root)}")
        return digits()
    if name == "mnist":
        return mnist(root)
    if name == "folder":
        if root is None:
            raise ValueError("load: folder needs root, the folder or zip file that holds the images (--root)")
        return folder(root)
    known = "".join(f"\n  {source}: {text}" for source, text in SOURCES.items())
    raise ValueError(f"load: unknown data {name!r}; known are{known}")
