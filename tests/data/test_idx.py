import gzip
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from micrognm.data import read_idx

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx(array):
    code = CODES[array.dtype.str[1:]]
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


@given(
    array=st.sampled_from(list(CODES)).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4))
    ),
    packed=st.booleans(),
)
def test_round_trip(array, packed, tmp_path_factory):
    path = tmp_path_factory.mktemp("idx") / "file"
    path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    found = read_idx(path)
    assert found.shape == array.shape and found.dtype == array.dtype and found.dtype.isnative
    assert found.tobytes() == array.tobytes()  # NaN too
    assert found.flags.writeable


def test_known_bytes(tmp_path):
    """The layout itself, written out by hand: 2 x 2 of big-endian int16."""
    path = tmp_path / "known"
    path.write_bytes(bytes.fromhex("00000b02 00000002 00000002 0001 0100 ffff 7fff"))
    assert read_idx(path).tolist() == [[1, 256], [-1, 32767]]


@pytest.mark.parametrize("array", [np.arange(6, dtype="f8").reshape(2, 3), np.array(7, "i4")], ids=["2-d", "0-d"])
def test_every_truncation_raises(array, tmp_path):
    path = tmp_path / "short-idx"
    whole = idx(array)
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"short-idx.*expected.*found"):
            read_idx(path)
    with pytest.raises(ValueError, match=f"expected {array.nbytes} bytes .*found {array.nbytes - 1}"):
        read_idx(path)


def test_every_truncation_of_gzip_raises(tmp_path):
    path = tmp_path / "short.gz"
    whole = gzip.compress(idx(np.arange(200, dtype="i2")))
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"short\.gz.*expected.*found"):
            read_idx(path)


def test_every_flipped_byte_of_gzip_data_raises(tmp_path):
    path = tmp_path / "flipped.gz"
    whole = gzip.compress(idx(np.arange(50, dtype="i2")), mtime=0)
    for at in range(10, len(whole)):  # the ten bytes of the header hold a time and the like, which no sum covers
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        with pytest.raises(ValueError, match=r"flipped\.gz.*expected.*found"):
            read_idx(path)


def test_surplus_raises(tmp_path):
    path = tmp_path / "long"
    for whole in (idx(np.zeros(3, "u1")) + b"\0", gzip.compress(idx(np.zeros(3, "u1")) + b"\0")):
        path.write_bytes(whole)
        with pytest.raises(ValueError, match=r"long: expected 3 bytes.*found more"):
            read_idx(path)


@pytest.mark.parametrize(
    "header",
    ["01000801 00000000", "00010801 00000000", "00000701 00000000", "00000a01 00000000", "00000f01 00000000"],
)
def test_wrong_magic_raises(header, tmp_path):
    path = tmp_path / "magic"
    path.write_bytes(bytes.fromhex(header))
    with pytest.raises(ValueError, match=r"magic: expected the magic number.*found") as error:
        read_idx(path)
    assert bytes.fromhex(header)[:4].hex(" ") in str(error.value)


def test_header_that_promises_too_much_raises_at_once(tmp_path):
    path = tmp_path / "huge"
    header = struct.pack(">4B3I", 0, 0, 0x0E, 3, *[2**32 - 1] * 3)
    for whole in (header + b"few", gzip.compress(header + b"few")):
        path.write_bytes(whole)
        with pytest.raises(ValueError, match=r"huge: expected \d{29,} bytes.*found 3"):
            read_idx(path)


def test_shapes_numpy_cannot_hold_raise(tmp_path):
    path = tmp_path / "odd"
    path.write_bytes(struct.pack(">4B65I", 0, 0, 8, 65, *[1] * 65) + b"x")
    with pytest.raises(ValueError, match=r"odd: expected .* at most 64 dimensions.*found .* 65"):
        read_idx(path)
    path.write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, 0, 2**32 - 1, 2**32 - 1))
    with pytest.raises(ValueError, match=r"odd: expected a shape that NumPy can hold, found"):
        read_idx(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        read_idx(tmp_path / "absent")
