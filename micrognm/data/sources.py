"""The sources with fixed content: scikit-learn's digits and MNIST."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np

from micrognm.data.dataset import Dataset, Split
from micrognm.data.download import fetch
from micrognm.data.idx import read_idx

_TEN = tuple("0123456789")

MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
# SHA-256 of the unpacked files: gzipped copies of the same content differ from mirror to mirror.
MNIST_FILES = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def digits() -> Dataset:
    """scikit-learn's handwritten digits: 1,797 grey images, 8x8, 17 levels, split once into 1257 / 180 / 360.

    On this split, binarised at 8, the best independent-Bernoulli model has 25.06 nats an image on test.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = bunch.images.astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int64)
    order = np.random.RandomState(0).permutation(1797)  # legacy generator: the published values are of this split
    train, valid, test = (Split(images[part], labels[part]) for part in np.split(order, [1257, 1437]))
    return Dataset("digits", levels=17, classes=_TEN, train=train, valid=valid, test=test)


def mnist(root: str | os.PathLike[str] | None = None) -> Dataset:
    """MNIST: grey images, 28x28, 256 levels; 50,000 train, the last 10,000 of the training file valid, 10,000 test.

    The four IDX files, plain or gzipped, are read from `root`, else from the folder that the environment variable
    MICROGNM_DATA names (directly, or below it in mnist/ or MNIST/raw/), else downloaded once into the user's cache
    folder. Raises FileNotFoundError where `root` lacks them, ValueError where one is corrupt, OSError where no mirror
    serves them.
    """
    files = _mnist_files(root)
    images, labels = _mnist_pair(files, "train", 60_000)
    test = Split(*_mnist_pair(files, "t10k", 10_000))
    train, valid = Split(images[:50_000], labels[:50_000]), Split(images[50_000:], labels[50_000:])
    return Dataset("mnist", levels=256, classes=_TEN, train=train, valid=valid, test=test)


def _mnist_files(root: str | os.PathLike[str] | None) -> dict[str, Path]:
    """Where each of the four files lies, downloaded if need be."""
    if root is not None:
        if found := find_mnist(Path(root)):
            return found
        looked = ", ".join(str(place) for place in _places(Path(root)))
        raise FileNotFoundError(
            f"MNIST is not in {os.fspath(root)}: expected {', '.join(MNIST_FILES)} (each plain or with .gz), all four "
            f"in one of {looked}; without root they are downloaded"
        )
    named = os.environ.get("MICROGNM_DATA")
    if named and (found := find_mnist(Path(named))):
        return found

    import pooch

    cache = Path(pooch.os_cache("micrognm")) / "mnist"
    if named and not find_mnist(cache):
        warnings.warn(f"MNIST is not in MICROGNM_DATA={named}; downloading it to {cache}", stacklevel=3)
    try:
        return {name: fetch(f"{name}.gz", sha256, MNIST_MIRRORS, cache) for name, sha256 in MNIST_FILES.items()}
    except OSError as cause:
        raise OSError(
            f"{cause}\nIf you have the files {', '.join(MNIST_FILES)} (each plain or with .gz), name their folder by "
            "--root or the environment variable MICROGNM_DATA."
        ) from cause


def _places(folder: Path) -> tuple[Path, ...]:
    folder = folder.expanduser()
    return folder, folder / "mnist", folder / "MNIST" / "raw"


def find_mnist(folder: Path) -> dict[str, Path] | None:
    """The four files where one place below `folder` has them all."""
    for place in _places(folder):
        present = {
            name: path for name in MNIST_FILES for path in (place / f"{name}.gz", place / name) if path.is_file()
        }
        if len(present) == len(MNIST_FILES):
            return present
    return None


def _mnist_pair(files: dict[str, Path], part: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, 28, 28, 1] uint8 and labels [N] int64 of one part, checked against each other."""
    images_path, labels_path = files[f"{part}-images-idx3-ubyte"], files[f"{part}-labels-idx1-ubyte"]
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim and labels.ndim and len(images) != len(labels):
        raise ValueError(
            f"{images_path} holds {len(images)} images and {labels_path} {len(labels)} labels; expected {count} of each"
        )
    for path, array, shape in ((images_path, images, (count, 28, 28)), (labels_path, labels, (count,))):
        if array.shape != shape or array.dtype != np.uint8:
            raise ValueError(f"{path}: expected shape {shape} of uint8, found {array.shape} of {array.dtype}")
    if int(labels.max()) > 9:
        raise ValueError(f"{labels_path}: expected labels from 0 to 9, found {labels.max()}")
    return images[..., None], labels.astype(np.int64)
