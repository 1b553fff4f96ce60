import errno
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import numpy as safetensors

from micrognm import storage

GRID = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
LAYOUTS = {
    "transposed": GRID.T,
    "fortran": np.asfortranarray(GRID),
    "strided": GRID[:, ::2, 1::2],
    "reversed": GRID[::-1, :, ::-1],
    "broadcast": np.broadcast_to(np.float32(3), (4, 2)),
    "zero_d": np.array(2.5),
    "empty": np.zeros((3, 0, 2), np.int64),
    "bool": np.array([[True, False], [False, True]]).T,
    "int64": np.array([-(2**63), 2**63 - 1]),
    "uint8": np.arange(256, dtype=np.uint8)[::-3],
    "float64": np.array([np.pi, -0.0, np.inf, -np.inf, 5e-324]),
    "float16": np.array([1, 65504], np.float16),
    "nan": np.array([np.nan, -np.nan], np.float32),
    "big_endian": np.arange(5, dtype=">f8"),
}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        assert found[name].dtype == x.dtype.newbyteorder("=") and found[name].shape == x.shape, name
        assert found[name].tobytes() == x.astype(x.dtype.newbyteorder("=")).tobytes(), name  # every bit, NaN and -0 too


def listing(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_layout_survives(tmp_path):
    before = {name: x.copy() for name, x in LAYOUTS.items()}
    storage.save(tmp_path / "a", LAYOUTS, {})
    arrays, meta = storage.load(tmp_path / "a")
    assert_same(arrays, LAYOUTS)
    assert meta == {}
    for name, x in before.items():
        np.testing.assert_array_equal(LAYOUTS[name], x)
        arrays[name][...] = 0  # they are the caller's own
    assert_same(storage.load(tmp_path / "a")[0], LAYOUTS)


@given(
    x=hnp.arrays(
        st.sampled_from([t for t in storage.TYPES if t != "float16"]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0),
    ),
    data=st.data(),
)
def test_any_view_survives(x, data, tmp_path_factory):
    x = x.transpose(data.draw(st.permutations(range(x.ndim))))
    x = x[tuple(slice(None, None, data.draw(st.sampled_from([1, 2, -1, -2]))) for _ in range(x.ndim))]
    path = tmp_path_factory.getbasetemp() / "view"
    storage.save(path, {"x": np.asarray(x)}, {})
    assert_same(storage.load(path)[0], {"x": np.asarray(x)})


def test_meta_survives(tmp_path):
    meta = {
        "big": 2**128 - 1,
        "float": 0.1,
        "text": 'é "\n\udc80',
        "none": None,
        "list": [1, [2.5, {"a": True}]],
        "": {},
    }
    storage.save(tmp_path / "a", {}, meta)
    arrays, found = storage.load(tmp_path / "a")
    assert arrays == {} and found == meta and type(found["list"][1][1]["a"]) is bool


def test_a_generator_goes_on(tmp_path):
    rng = np.random.default_rng(5)
    rng.random(7, dtype=np.float32)  # an odd number: half a draw is left over in the state
    storage.save(tmp_path / "a", {}, {"rng": rng.bit_generator.state})
    other = np.random.default_rng()
    other.bit_generator.state = storage.load(tmp_path / "a")[1]["rng"]
    np.testing.assert_array_equal(other.random(9, dtype=np.float32), rng.random(9, dtype=np.float32))


@pytest.mark.parametrize(
    "arrays, meta, named",
    [
        ({"x": np.array([object()])}, {}, r"arrays\['x'\] is an array of object"),
        ({"x": np.array(["a"])}, {}, r"arrays\['x'\] is an array of <U1"),
        ({"x": np.zeros(2, complex)}, {}, r"arrays\['x'\] is an array of complex128"),
        ({"x": np.zeros(2, "f4,i4")}, {}, r"arrays\['x'\] is an array of \[\('f0'"),
        ({"x": [1.0]}, {}, r"arrays\['x'\] is list"),
        ({"x": 1.0}, {}, r"arrays\['x'\] is float"),
        ({1: np.zeros(2)}, {}, "array name 1"),
        ({"__metadata__": np.zeros(2)}, {}, "array name '__metadata__'"),
        ({}, {"t": (1, 2)}, r"meta\['t'\] = \(1, 2\) does not survive JSON"),
        ({}, {"t": {1: 2}}, r"meta\['t'\] = \{1: 2\}"),
        ({}, {"t": float("nan")}, r"meta\['t'\] = nan"),
        ({}, {"t": [float("inf")]}, r"meta\['t'\] = \[inf\]"),
        ({}, {"t": np.float32(1)}, r"meta\['t'\]"),
        ({}, {"t": np.zeros(2)}, r"meta\['t'\]"),
        ({}, {"t": b"x"}, r"meta\['t'\]"),
        ({}, {1: 2}, r"meta\[1\]"),
    ],
)
def test_what_a_checkpoint_cannot_hold_is_refused(arrays, meta, named, tmp_path):
    with pytest.raises(TypeError, match=named):
        storage.save(tmp_path / "a", arrays, meta)
    assert listing(tmp_path) == {}


def small(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray], dict[str, Any], bytes]:
    arrays = {"weight": GRID[0].T, "steps": np.array(7), "mask": np.array([True, False])}
    meta = {"step": 120, "rng": {"state": 2**127 + 3}}
    path = tmp_path / "checkpoint"
    storage.save(path, arrays, meta)
    return path, arrays, meta, path.read_bytes()


def test_every_truncation_is_refused(tmp_path):
    path, _, _, content = small(tmp_path)
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=f"{path}: expected .* found {length} bytes.*delete it"):
            storage.load(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(ValueError, match=f"{path}: expected .* found"):
        storage.load(path)


def test_no_flipped_bit_goes_unseen(tmp_path):
    path, arrays, meta, content = small(tmp_path)
    harmless = 0
    for place in range(len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                found = storage.load(path)
            except ValueError as error:
                assert str(error).startswith(f"{path}: expected ") and "found" in str(error)
            else:
                assert_same(found[0], arrays)
                assert found[1] == meta
                harmless += 1
    assert harmless < 64  # a blank that became another blank, or the case of a digit


@pytest.mark.parametrize("old, new", [(b"a12", b"a34"), (b"[2,3]", b"[3,2]"), (b"F32", b"I32")])
def test_a_header_that_is_valid_and_wrong_is_seen(old, new, tmp_path):
    path = tmp_path / "a"
    storage.save(path, {"a12": np.zeros((2, 3), np.float32)}, {})
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    with pytest.raises(ValueError, match="CRC-32"):
        storage.load(path)


def test_files_of_others_are_refused(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(safetensors.save({"x": np.zeros(2)}))
    with pytest.raises(ValueError, match=f"{path}: expected an entry 'micrognm' in its metadata, found {{}}"):
        storage.load(path)
    file = io.BytesIO()
    np.save(file, np.array([print], dtype=object))  # a pickle, which would run code
    path.write_bytes(file.getvalue())
    with pytest.raises(ValueError, match=f"{path}: expected a complete safetensors file"):
        storage.load(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        storage.load(tmp_path / "nowhere")


def test_loading_imports_no_pickle(tmp_path):
    path, *_ = small(tmp_path)
    program = (
        "import sys, numpy as np; sys.modules['pickle'] = None; from micrognm import storage; storage.load(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)


class HalfDisk(io.FileIO):
    """A file on a disk that is full after ten bytes."""

    def write(self, content: Any) -> int:
        super().write(bytes(content)[:10])
        raise OSError(errno.ENOSPC, "No space left on device")


def fail(*args: Any) -> None:
    raise OSError(errno.EIO, "broken")


@pytest.mark.parametrize("broken", ["write", "fsync", "replace"])
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_failed_write_leaves_the_previous_file_and_nothing_else(broken, old, tmp_path, monkeypatch):
    path = tmp_path / "a"
    if old is not None:
        path.write_bytes(old)
    before = listing(tmp_path)
    with monkeypatch.context() as patch:
        if broken == "write":
            patch.setattr("builtins.open", lambda path, mode: HalfDisk(path, mode))
        else:
            patch.setattr(os, broken, fail)
        with pytest.raises(OSError, match=str(path)):
            storage.save(path, {"x": np.zeros(100)}, {})
    assert listing(tmp_path) == before
    storage.save(path, {"x": np.zeros(100)}, {})
    assert listing(tmp_path).keys() == {"a"}


def test_the_kernel_stops_a_write_halfway(tmp_path):
    path, _, _, content = small(tmp_path)
    program = """
import resource, sys, numpy as np
from micrognm import storage
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
storage.save(sys.argv[1], {"x": np.zeros(10_000)}, {})
"""
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True)
    assert done.returncode == 1 and f"File too large: {str(path)!r}" in done.stderr
    assert listing(tmp_path) == {path.name: content}


def test_what_a_kill_left_is_taken_over(tmp_path):
    path, arrays, meta, content = small(tmp_path)
    (tmp_path / "checkpoint.part").write_bytes(content * 3)
    storage.save(path, arrays, meta)
    assert listing(tmp_path) == {path.name: content}


def test_the_content_is_on_the_disk_before_it_has_the_name(tmp_path, monkeypatch):
    calls = []

    def recorded(name):
        real = getattr(os, name)

        def call(*args):
            state = [os.fstat(args[0]).st_size, (tmp_path / "a").exists()] if name == "fsync" else []
            calls.append((name, *state))
            return real(*args)

        monkeypatch.setattr(os, name, call)

    recorded("fsync")
    recorded("replace")
    storage.write(tmp_path / "a", b"12345")
    assert calls[:2] == [("fsync", 5, False), ("replace",)]
    assert calls[2][0] == "fsync" and calls[2][2]  # the folder
