"""The IDX format of MNIST: two zero bytes, a type byte, the number of dimensions, their sizes, the values.

Sizes are unsigned 32-bit integers; everything is big-endian. Source: Y. LeCun's MNIST page, "The IDX file format".
"""

from __future__ import annotations

import gzip
import io
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_NUMPY_MAX_DIMENSIONS = 64
_CHUNK = 1 << 20


@contextmanager
def open_unpacked(path: str | os.PathLike[str]) -> Iterator[io.BufferedIOBase]:
    """Open a file for reading, through gzip if its first bytes say so. A broken gzip stream raises ValueError."""
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        try:
            yield gzip.GzipFile(fileobj=file) if packed else file
        except (EOFError, gzip.BadGzipFile, zlib.error) as cause:
            raise ValueError(
                f"{os.fspath(path)}: expected a complete gzip stream, found one that is truncated or corrupt in "
                f"{os.path.getsize(path)} bytes ({cause}); replace the file"
            ) from cause


def read_chunks(file: io.BufferedIOBase, limit: float = math.inf) -> Iterator[bytes]:
    """The next bytes of a file, at most `limit` in all, a piece at a time."""
    while limit > 0 and (chunk := file.read(int(min(_CHUNK, limit)))):
        limit -= len(chunk)
        yield chunk


def read_idx(path: str | os.PathLike[str]) -> NDArray[np.generic]:
    """Read an IDX file, plain or gzipped, of any type and shape, into an array in native byte order.

    Raises ValueError naming the file, what was expected and what was found if it is corrupt or truncated.
    """
    name = os.fspath(path)
    with open_unpacked(path) as file:
        magic = file.read(4)
        if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _TYPES:
            known = " ".join(f"{code:02x}" for code in _TYPES)
            raise ValueError(
                f"{name}: expected the magic number of an IDX file (00 00, a type out of {known}, the number of "
                f"dimensions), found {magic.hex(' ') or 'an empty file'}"
            )
        dtype, dimensions = np.dtype(_TYPES[magic[2]]), magic[3]
        if dimensions > _NUMPY_MAX_DIMENSIONS:
            raise ValueError(
                f"{name}: expected an IDX array of at most {_NUMPY_MAX_DIMENSIONS} dimensions (the most NumPy holds), "
                f"found magic {magic.hex(' ')} with {dimensions}"
            )
        sizes = file.read(4 * dimensions)
        if len(sizes) < 4 * dimensions:
            raise ValueError(
                f"{name}: expected {4 * dimensions} bytes of sizes after magic {magic.hex(' ')}, found {len(sizes)}"
            )
        shape = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
        expected = dtype.itemsize * math.prod(shape)
        # In pieces: the header may promise far more than the file holds, and must not make us allocate it. One byte
        # too many is asked for, to see that the file ends; a gzip stream checks its CRC only there.
        content = bytearray().join(read_chunks(file, limit=expected + 1))
    if len(content) != expected:
        found = "more" if len(content) > expected else f"{len(content)}"
        raise ValueError(f"{name}: expected {expected} bytes for shape {shape} of {dtype.name}, found {found}")
    try:
        return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)
    except ValueError as cause:  # a shape such as (0, 2**32 - 1, 2**32 - 1) is empty, and still too large for NumPy
        raise ValueError(f"{name}: expected a shape that NumPy can hold, found {shape} ({cause})") from cause
