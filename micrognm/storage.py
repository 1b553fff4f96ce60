"""Files that are whole or not there: checkpoints, and the safe way to write any file.

A checkpoint is a safetensors file: arrays by name, and JSON. It is data only; loading one runs no code.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

TYPES = ("bool", "float16", "float32", "float64", *(f"{sign}int{n}" for sign in ("", "u") for n in (8, 16, 32, 64)))
_KEY = "micrognm"  # of the JSON in the file's metadata; one entry, for safetensors writes several in any order


def write(path: str | os.PathLike[str], content: bytes) -> None:
    """Make a file with this content the one at `path`. Whatever interrupts this, the file is the old or the new one.

    The content goes into `path`.part, is brought to the disk, and renamed. Only a kill can leave that file behind; the
    next write to `path` takes it over. Raises OSError where it cannot be written.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a full disk, say: of which file?
            error.filename = os.fspath(path)
        raise
    if os.name != "nt":  # so that the new name survives a power cut; Windows has no such call
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def save(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Write arrays, of any strides, and meta, which must survive JSON unchanged (integers of any size do).

    Raises TypeError naming what such a file cannot hold; OSError where it cannot be written, and the file is as it was.
    """
    from safetensors import numpy as safetensors

    dense = {}
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.name not in TYPES:
            what = f"an array of {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
            raise TypeError(f"save: arrays[{name!r}] is {what}; expected a NumPy array of {', '.join(TYPES)}")
        if not isinstance(name, str) or name == "__metadata__":
            raise TypeError(f"save: the array name {name!r} is not a string, or is the one that safetensors keeps")
        # safetensors writes memory as it lies, without a word about strides.
        dense[name] = np.asarray(array, array.dtype.newbyteorder("="), order="C")
    for key, value in meta.items():
        if not isinstance(key, str) or not _survives_json(value):
            raise TypeError(
                f"save: meta[{key!r}] = {value!r} does not survive JSON, which holds None, booleans, finite numbers, "
                "strings, lists, and dictionaries with strings as keys"
            )
    header = json.dumps({"crc32": _checksum(dense, meta), "meta": dict(meta)})
    write(path, safetensors.save(dense, {_KEY: header}))


def load(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The (arrays, meta) that `save` wrote. ValueError where a single bit of them is not what was written."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    with open(path, "rb"):  # a file that is missing or may not be read raises its own OSError
        pass
    try:
        with safe_open(path, framework="numpy") as file:
            entries = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, AttributeError, KeyError, TypeError, ValueError) as cause:  # by version and damage
        raise _damaged(path, "a complete safetensors file", f"{path.stat().st_size} bytes, and: {cause}") from cause
    try:
        header = json.loads(entries[_KEY])
        checksum, meta = header["crc32"], header["meta"]
    except (KeyError, TypeError, ValueError) as cause:
        raise _damaged(path, f"an entry {_KEY!r} in its metadata", f"{entries}") from cause
    found = _checksum(arrays, meta)
    if checksum != found:
        raise _damaged(path, f"contents with the CRC-32 {checksum}", found)
    return arrays, meta


def _damaged(path: Path, expected: str, found: str) -> ValueError:
    return ValueError(
        f"{path}: expected {expected}, found {found}. The file is damaged or was not written by micrognm: "
        "put back a copy of it, or delete it and start again"
    )


def _survives_json(value: Any) -> bool:
    try:
        return bool(json.loads(json.dumps(value, allow_nan=False)) == value)
    except (TypeError, ValueError, RecursionError):
        return False


def _checksum(arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> str:
    """CRC-32 of meta, and of the names, types, shapes and values of dense arrays."""
    crc = zlib.crc32(json.dumps(meta).encode())
    for name in sorted(arrays):
        x = arrays[name]
        crc = zlib.crc32(f"{name} {x.dtype.name} {list(x.shape)}".encode(), crc)
        crc = zlib.crc32(x.reshape(-1).view(np.uint8).data, crc)
    return f"{crc:08x}"
