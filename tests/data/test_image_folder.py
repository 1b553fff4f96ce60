import io
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image

from micrognm.data import folder


def png(number, mode="RGB", size=(4, 3), form="PNG"):
    """An image whose first pixel tells its number."""
    if mode == "L":
        return encoded(Image.new("L", size, number), form)
    if mode == "P":
        picture = Image.new("P", size, 1)
        picture.putpalette([0, 0, 0, number, 0, 7])
        return encoded(picture, form)
    return encoded(Image.new("RGB", size, (number % 256, number // 256, 7)).convert(mode), form)


def encoded(picture, form, **options):
    out = io.BytesIO()
    picture.save(out, form, **options)
    return out.getvalue()


def layout(*parts, count=5, **kwargs):
    """{path: PNG} with `count` images in each of the given class folders, numbered 0, 1, ... in sorted order."""
    paths = [f"{part}/{i:03}.png" for part in parts for i in range(count)]
    return {path: png(i, **kwargs) for i, path in enumerate(paths)}


def on_disk(root, files):
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


def zipped(path, files, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def numbers(split):
    return (split.images[:, 0, 0, 0] + 256 * split.images[:, 0, 0, 1].astype(int)).tolist()


def all_numbers(dataset):
    return sorted(numbers(dataset.train) + numbers(dataset.valid) + numbers(dataset.test))


def same(a, b):
    assert a.classes == b.classes and a.levels == b.levels == 256
    for part in ("train", "valid", "test"):
        x, y = getattr(a, part), getattr(b, part)
        np.testing.assert_array_equal(x.images, y.images)
        np.testing.assert_array_equal(x.labels, y.labels)


def test_class_folders_are_split_by_a_fixed_seed(tmp_path):
    found = folder(on_disk(tmp_path / "pets", layout("cat", "dog", count=150)))
    assert found.name == "pets" and found.classes == ("cat", "dog") and found.levels == 256
    splits = (found.train, found.valid, found.test)
    assert [s.images.shape for s in splits] == [(240, 3, 4, 3), (30, 3, 4, 3), (30, 3, 4, 3)]
    assert all_numbers(found) == list(range(300))
    for split in splits:
        assert numbers(split) == sorted(numbers(split))
        assert [int(n >= 150) for n in numbers(split)] == split.labels.tolist()
        assert (split.images[..., 2] == 7).all()
    assert numbers(found.test) != list(range(270, 300)) and set(found.test.labels) == {0, 1}  # shuffled, not cut off
    same(found, folder(tmp_path / "pets"))


def test_split_folders(tmp_path):
    parts = ("test/a", "test/b", "train/a", "train/b", "valid/a", "valid/b")
    found = folder(on_disk(tmp_path, layout(*parts)))
    assert numbers(found.test) == list(range(10))
    assert numbers(found.train) == list(range(10, 20))
    assert numbers(found.valid) == list(range(20, 30))
    assert found.train.labels.tolist() == found.test.labels.tolist() == [0] * 5 + [1] * 5


def test_train_and_test_only_takes_valid_from_train(tmp_path):
    found = folder(on_disk(tmp_path, layout("train/a", "train/b", "test/a", "test/b", count=20)))
    assert (len(found.train), len(found.valid), len(found.test)) == (36, 4, 40)
    assert sorted(numbers(found.train) + numbers(found.valid)) == list(range(40))
    assert numbers(found.test) == list(range(40, 80))


def test_zips_equal_folders(tmp_path):
    files = layout("train/a", "train/b", "test/a", "test/b", count=20)
    expected = folder(on_disk(tmp_path / "plain", files))
    same(expected, folder(zipped(tmp_path / "all.zip", files)))
    same(expected, folder(zipped(tmp_path / "stored.zip", files, zipfile.ZIP_STORED)))
    same(expected, folder(zipped(tmp_path / "wrapped.zip", {f"pets/{name}": c for name, c in files.items()})))
    same(expected, folder(zipped(tmp_path / "dotted.zip", {f"./{name}": c for name, c in files.items()})))
    for cut in (0, 1):  # members named train/a/000.png, as zip -r makes them, or a/000.png
        root = tmp_path / f"zips{cut}"
        root.mkdir()
        for part in ("train", "test"):
            inside = {name.split("/", cut)[-1]: c for name, c in files.items() if name.startswith(part)}
            zipped(root / f"{part}.zip", inside)
        same(expected, folder(root))
    assert folder(tmp_path / "all.zip").name == "all"
    assert not (tmp_path / "zips0" / "train").exists()  # nothing was extracted


def test_zip_of_class_folders_equals_them(tmp_path):
    files = layout("a", "b", count=20)
    same(folder(on_disk(tmp_path / "plain", files)), folder(zipped(tmp_path / "all.zip", files)))


def test_reversed_member_order_changes_nothing(tmp_path):
    files = layout("a", "b", count=20)
    same(
        folder(zipped(tmp_path / "a.zip", files)),
        folder(zipped(tmp_path / "b.zip", dict(reversed(files.items())))),
    )


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("1", 1), ("P", 3), ("RGB", 3)])
def test_modes(mode, channels, tmp_path):
    found = folder(on_disk(tmp_path, layout("a", count=10, mode=mode)))
    assert found.train.images.shape == (8, 3, 4, channels)
    if mode in ("L", "P"):
        everything = np.concatenate([found.train.images, found.valid.images, found.test.images])
        assert sorted(everything[:, 0, 0, 0]) == list(range(10))
    if mode == "1":
        assert set(np.unique(found.train.images)) <= {0, 255}


@pytest.mark.parametrize("form", ["JPEG", "BMP", "PPM", "TIFF", "WEBP"])
def test_other_formats(form, tmp_path):
    suffix = {"JPEG": "JPG"}.get(form, form.lower())
    for i in range(10):
        on_disk(tmp_path, {f"a/{i}.{suffix}": png(200, form=form)})
    assert np.abs(folder(tmp_path).train.images.astype(int) - (200, 0, 7)).max() < 8


@pytest.mark.parametrize("mode", ["RGBA", "LA", "CMYK", "I;16"])
def test_other_modes_are_refused_by_name(mode, tmp_path):
    suffix, form = ("tif", "TIFF") if mode == "CMYK" else ("png", "PNG")
    odd = encoded(Image.new("L", (4, 3)).convert(mode), form)
    on_disk(tmp_path, {**layout("a", count=10), f"a/odd.{suffix}": odd})
    with pytest.raises(ValueError, match=rf"odd\.{suffix}: expected an 8-bit grey or RGB image, found mode {mode}"):
        folder(tmp_path)


def test_transparency_and_several_frames_are_refused(tmp_path):
    black, grey = Image.new("RGB", (4, 3)), Image.new("RGB", (4, 3), (9, 9, 9))
    odd = encoded(black, "PNG", transparency=(0, 0, 0))
    on_disk(tmp_path, {**layout("a", count=10), "a/odd.png": odd})
    with pytest.raises(ValueError, match=r"odd\.png.*RGB with transparency"):
        folder(tmp_path)
    (tmp_path / "a" / "odd.png").write_bytes(encoded(black, "TIFF", save_all=True, append_images=[grey]))
    with pytest.raises(ValueError, match=r"odd\.png: expected one picture in the file, found 2"):
        folder(tmp_path)


def test_another_size_or_channel_count_is_refused(tmp_path):
    for odd, found in ((png(0, size=(5, 3)), r"\(3, 5, 3\)"), (png(0, "L"), r"\(3, 4, 1\)")):
        on_disk(tmp_path, {**layout("a", count=10), "a/odd.png": odd})
        with pytest.raises(ValueError, match=rf"odd\.png: expected .*\(3, 4, 3\) as in .*png, found {found}"):
            folder(tmp_path)


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_every_truncation_of_an_image_raises_or_loses_nothing(form, tmp_path):
    """A decoder may do without the last bytes, which carry no pixels; it must never return other pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(pixels), form)
    root = on_disk(tmp_path, {f"a/{i}.png": whole for i in range(10)})
    expected = folder(root).train.images[0]
    refused = 0
    for size in range(len(whole)):
        (root / "a" / "0.png").write_bytes(whole[:size])
        try:
            found = folder(root)
        except ValueError as error:
            assert "0.png: expected a whole image" in str(error) and f"found {size} bytes" in str(error)
            refused += 1
        else:
            for split in (found.train, found.valid, found.test):
                assert (split.images == expected).all()
    assert refused >= len(whole) - 4


def test_every_flipped_byte_of_a_png_raises(tmp_path):
    """Two-level noise: without the checksums several of these decode to other pixels."""
    pixels = np.random.default_rng(0).integers(0, 2, (20, 20, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(pixels), "PNG")
    root = on_disk(tmp_path, {f"a/{i}.png": whole for i in range(10)})
    for at in range(len(whole) - 12):  # the end chunk says nothing but that it is the end
        (root / "a" / "0.png").write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(ValueError, match=r"0\.png: expected a whole image"):
            folder(root)


def test_every_flipped_byte_of_a_stored_member_raises(tmp_path):
    files = layout("a", count=10)
    path = zipped(tmp_path / "all.zip", files, zipfile.ZIP_STORED)
    whole = path.read_bytes()
    start = whole.index(files["a/004.png"])
    for at in range(start, start + len(files["a/004.png"])):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(ValueError, match=r"all\.zip: member a/004\.png: expected \d+ bytes .*found: Bad CRC-32"):
            folder(path)


def test_every_truncation_of_a_zip_raises(tmp_path):
    path = zipped(tmp_path / "all.zip", layout("a", count=10))
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=rf"all\.zip: expected a zip file, found {size} bytes"):
            folder(path)


def test_corrupt_zip_directory_never_raises_another_type(tmp_path):
    """Any byte of the zip's own records changed: either an error that names the file, or the same images."""
    files = layout("a", count=10)
    path = zipped(tmp_path / "all.zip", files)
    whole = path.read_bytes()
    directory = struct.unpack("<I", whole[-6:-2])[0]
    for at in [*range(0, 60), *range(directory, directory + 120), *range(len(whole) - 22, len(whole))]:
        for mask in (0x01, 0x80):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ mask]) + whole[at + 1 :])
            try:
                found = folder(path)
            except ValueError as error:
                assert "all.zip" in str(error)
            else:
                assert all_numbers(found) == list(range(10))


def test_what_systems_leave_behind_is_skipped(tmp_path):
    files = layout("a", "b", count=20)
    junk = {
        ".DS_Store": b"",
        "a/.DS_Store": b"",
        "a/Thumbs.db": b"",
        "b/desktop.ini": b"",
        "__MACOSX/a/._000.png": b"",
        ".git/config": b"",
        "a/._001.png": b"",
    }
    expected = folder(on_disk(tmp_path / "clean", files))
    same(expected, folder(on_disk(tmp_path / "disk", {**files, **junk})))
    same(expected, folder(zipped(tmp_path / "all.zip", {**files, **junk})))


@pytest.mark.parametrize("stray", ["a/notes.txt", "readme.md", "a/other.zip", "a/noending"])
def test_any_other_file_raises(stray, tmp_path):
    files = {**layout("a", "b", count=20), stray: b"words"}
    for root in (on_disk(tmp_path / "disk", files), zipped(tmp_path / "all.zip", files)):
        with pytest.raises(ValueError, match=f"{stray}: expected an image"):
            folder(root)


def test_layouts_that_are_neither_raise(tmp_path):
    for i, (files, message) in enumerate(
        (
            (layout("a", "b/c"), r"c/000\.png: expected class / image.*found folders b / c"),
            ({**layout("a", count=10), "top.png": png(0)}, r"top\.png: expected class / image.*found folders none"),
            (layout("train/a", "test/a", "other/a"), r"000\.png: expected train, valid or test / class / image"),
            (layout("train/a", "test/a", "b"), r"b/000\.png: expected train, valid or test / class"),
            (layout("train/a", "valid/a"), "expected train and test, with or without valid, found only train, valid"),
            (layout("train/a", "test/b", count=20), r"test/b/000\.png: class b is not in train; expected \['a'\]"),
            (layout("a", count=9), "expected at least 10 images, to split a tenth off, found 9"),
            (layout("train/a", "test/a", count=9), "expected at least 10 images, to split a tenth off, found 9"),
        )
    ):
        with pytest.raises(ValueError, match=message):
            folder(on_disk(tmp_path / f"disk{i}", files))
        with pytest.raises(ValueError, match=message):
            folder(zipped(tmp_path / f"{i}.zip", files))


def test_empty_folders_raise(tmp_path):
    root = on_disk(tmp_path / "root", layout("a", count=10))
    (root / "b").mkdir()
    with pytest.raises(ValueError, match=r"root/b: expected images in it, found none"):
        folder(root)
    path = zipped(tmp_path / "all.zip", {**layout("a", count=10), "a/": b"", "b/": b""})
    with pytest.raises(ValueError, match=r"all\.zip: expected images in it, found none in b"):
        folder(path)
    with pytest.raises(ValueError, match=r"empty\.zip: expected images in it, found none"):
        folder(zipped(tmp_path / "empty.zip", {}))


def test_wrong_roots_raise(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent does not exist"):
        folder(tmp_path / "absent")
    (tmp_path / "file.tar").write_bytes(b"")
    with pytest.raises(ValueError, match=r"root must be a folder or a \.zip file, not .*file\.tar"):
        folder(tmp_path / "file.tar")
