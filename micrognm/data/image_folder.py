"""Images in class folders, on disk or in zip files that are read where they are.

Accepted layouts, where `root` is a folder or a .zip file:

    root/class/image                     a seeded split: 80 % train, 10 % valid, 10 % test
    root/train/class/image, root/test/.. valid is a seeded 10 % of train unless root/valid/.. is there too
    root/train.zip, root/test.zip, ..    a zip in place of a split's folder: class/image or train/class/image inside

A folder around all of it, as in the zip of a folder, is looked through. Names that begin with a dot, Thumbs.db,
desktop.ini and all below __MACOSX are what operating systems leave behind, and are skipped. Any other file that is not
an image raises.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from micrognm.data.dataset import Dataset, Split

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".pgm", ".ppm", ".tif", ".tiff")
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM", "TIFF")
_MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}  # how Pillow stores an image -> how we read it
_LEFT_BEHIND = ("Thumbs.db", "desktop.ini", "__MACOSX")
_SPLITS = ("train", "valid", "test")


class _Image(NamedTuple):
    folders: tuple[str, ...]  # the folders it lies in, from the root
    name: str
    where: str  # for messages: the path, or the zip file and the member
    read: Callable[[], bytes]


def folder(root: str | os.PathLike[str]) -> Dataset:
    """Images of one size in class folders (or zip files, see the module), sorted by path; grey, or else RGB.

    Raises ValueError naming the file where a file is no image or corrupt, or has another size or mode than the first.
    """
    path = Path(root).expanduser().resolve()
    with ExitStack() as stack:
        if path.is_dir():
            images = _on_disk(path, (), stack)
        elif path.is_file() and path.suffix.lower() == ".zip":
            images = _in_zip(path, stack)
        elif path.exists():
            raise ValueError(f"folder: root must be a folder or a .zip file, not {path}")
        else:
            raise FileNotFoundError(f"folder: root {path} does not exist")
        images.sort(key=lambda image: (image.folders, image.name))
        splits = _split(_unwrap(images), path)
        classes = tuple(sorted({image.folders[-1] for image in splits["train"]}))
        like = splits["train"][0]
        shape = _decode(like).shape
        decoded = {part: _decode_all(splits[part], classes, like.where, shape) for part in _SPLITS}
    return Dataset(path.stem if path.is_file() else path.name, levels=256, classes=classes, **decoded)


def _on_disk(at: Path, folders: tuple[str, ...], stack: ExitStack) -> list[_Image]:
    images: list[_Image] = []
    for path in at.iterdir():
        if _left_behind(path.name):
            continue
        if path.is_dir():
            images += _on_disk(path, (*folders, path.name), stack)
        elif not folders and path.suffix.lower() == ".zip" and path.stem in _SPLITS:
            inside = _unwrap(_in_zip(path, stack), path.stem)
            images += [image._replace(folders=(path.stem, *image.folders)) for image in inside]
        else:
            images.append(_image(folders, path.name, str(path), path.read_bytes))
    if not images:
        raise ValueError(f"{at}: expected images in it, found none")
    return images


def _in_zip(path: Path, stack: ExitStack) -> list[_Image]:
    file = stack.enter_context(open(path, "rb"))
    try:
        archive = stack.enter_context(zipfile.ZipFile(file))
    except Exception as cause:  # damaged bytes surface from zipfile as many types
        raise ValueError(
            f"{path}: expected a zip file, found {path.stat().st_size} bytes that are not a whole one ({cause})"
        ) from cause
    images: list[_Image] = []
    empty: set[tuple[str, ...]] = set()
    for member, info in archive.NameToInfo.items():
        parts = tuple(part for part in member.split("/") if part not in ("", "."))
        if any(map(_left_behind, parts)):
            continue
        if info.is_dir():
            empty.add(parts)
        else:
            where = f"{path}: member {member}"
            images.append(_image(parts[:-1], parts[-1], where, partial(_read_member, archive, info, where)))
    empty -= {image.folders[:depth] for image in images for depth in range(len(image.folders) + 1)}
    if empty or not images:
        raise ValueError(f"{path}: expected images in it, found none in {'/'.join(min(empty, default=())) or 'it'}")
    return images


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> bytes:
    try:
        return archive.read(info)
    except Exception as cause:  # a bad CRC, header, deflate stream, encryption: each surfaces as another type
        raise ValueError(f"{where}: expected {info.file_size} bytes that unpack whole, found: {cause}") from cause


def _left_behind(name: str) -> bool:
    return name.startswith(".") or name in _LEFT_BEHIND


def _image(folders: tuple[str, ...], name: str, where: str, read: Callable[[], bytes]) -> _Image:
    if not name.lower().endswith(_SUFFIXES):
        raise ValueError(f"{where}: expected an image ({', '.join(_SUFFIXES)}), not this file; move it away")
    return _Image(folders, name, where, read)


def _unwrap(images: list[_Image], split: str | None = None) -> list[_Image]:
    """Drop the folders that lie around all images, down to the class folders or to splits' other than `split`."""
    while len({image.folders[:1] for image in images}) == 1 and all(len(image.folders) > 1 for image in images):
        if images[0].folders[0] in _SPLITS and images[0].folders[0] != split:
            break
        images = [image._replace(folders=image.folders[1:]) for image in images]
    return images


def _split(images: list[_Image], root: Path) -> dict[str, list[_Image]]:
    """Images by split. Every split keeps the sorted order."""
    split_first = any(len(image.folders) > 1 and image.folders[0] in _SPLITS for image in images)
    for image in images:
        if len(image.folders) != 1 + split_first or (split_first and image.folders[0] not in _SPLITS):
            raise ValueError(
                f"{image.where}: expected {'train, valid or test / ' * split_first}class / image like its neighbours, "
                f"found folders {' / '.join(image.folders) or 'none'}"
            )
    rng = np.random.default_rng(0)
    if not split_first:
        tenth = _tenth(images, root)
        return _deal(images, rng, {"valid": tenth, "test": tenth})
    splits = {part: [image for image in images if image.folders[0] == part] for part in _SPLITS}
    if not splits["train"] or not splits["test"]:
        found = ", ".join(part for part in _SPLITS if splits[part])
        raise ValueError(f"{root}: expected train and test, with or without valid, found only {found}")
    if not splits["valid"]:
        splits |= _deal(splits["train"], rng, {"valid": _tenth(splits["train"], root)})
    known = {image.folders[-1] for image in splits["train"]}
    for image in splits["valid"] + splits["test"]:
        if image.folders[-1] not in known:
            raise ValueError(f"{image.where}: class {image.folders[-1]} is not in train; expected {sorted(known)}")
    return splits


def _tenth(images: Sequence[_Image], root: Path) -> int:
    if len(images) < 10:
        raise ValueError(f"{root}: expected at least 10 images, to split a tenth off, found {len(images)}")
    return len(images) // 10


def _deal(images: list[_Image], rng: np.random.Generator, sizes: dict[str, int]) -> dict[str, list[_Image]]:
    """Take random parts of the given sizes out of `images`; the rest is train."""
    order = rng.permutation(len(images))
    parts = np.split(order, np.cumsum(list(sizes.values())))
    return {part: [images[i] for i in np.sort(chosen)] for part, chosen in zip((*sizes, "train"), parts, strict=True)}


def _decode_all(images: list[_Image], classes: tuple[str, ...], first: str, shape: tuple[int, ...]) -> Split:
    from tqdm import tqdm

    number = {name: i for i, name in enumerate(classes)}
    pixels = np.empty((len(images), *shape), np.uint8)
    for i, image in enumerate(tqdm(images, "decoding", unit=" images", delay=2, leave=False)):
        decoded = _decode(image)
        if decoded.shape != shape:
            raise ValueError(
                f"{image.where}: expected height, width, channels {shape} as in {first}, found {decoded.shape}"
            )
        pixels[i] = decoded
    return Split(pixels, np.array([number[image.folders[-1]] for image in images], np.int64))


def _decode(image: _Image) -> NDArray[np.uint8]:
    """One image as [H, W, 1] or [H, W, 3]."""
    from PIL import Image

    content = image.read()
    try:
        picture = Image.open(io.BytesIO(content), formats=_FORMATS)
        if picture.format == "PNG":  # its checksums, which decoding skips; afterwards a picture must be opened again
            picture.verify()
            picture = Image.open(io.BytesIO(content), formats=_FORMATS)
        picture.load()
    except Exception as cause:  # damaged bytes surface from Pillow's decoders as many types
        raise ValueError(
            f"{image.where}: expected a whole image, found {len(content)} bytes that Pillow cannot decode ({cause})"
        ) from cause
    if picture.mode not in _MODES or "transparency" in picture.info:
        also = " with transparency" if "transparency" in picture.info else ""
        raise ValueError(
            f"{image.where}: expected an 8-bit grey or RGB image, found mode {picture.mode}{also}; convert it first"
        )
    frames = getattr(picture, "n_frames", 1)
    if frames != 1:
        raise ValueError(f"{image.where}: expected one picture in the file, found {frames}")
    mode = _MODES[picture.mode]
    pixels = (picture if picture.mode == mode else picture.convert(mode)).tobytes()
    return np.frombuffer(pixels, np.uint8).reshape(picture.height, picture.width, -1)
