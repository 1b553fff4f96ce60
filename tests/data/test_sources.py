import gzip
import hashlib
import http.server
import struct
import threading

import numpy as np
import pytest
from sklearn.datasets import load_digits

from micrognm import data
from micrognm.data import sources
from micrognm.data.download import fetch


def bernoulli_nats(frequency, binary):
    with np.errstate(divide="ignore"):
        return -np.where(binary, np.log(frequency), np.log1p(-frequency)).sum(1).mean()


def test_digits_split_is_the_published_one():
    """The independent-Bernoulli anchor, 25.06 nats, with the counts smoothed by Laplace's rule and without."""
    d = data.digits()
    train, valid, test = (s.images.reshape(len(s), 64) >= 8 for s in (d.train, d.valid, d.test))
    both = np.concatenate([train, valid])
    assert round(bernoulli_nats((both.sum(0) + 1) / (len(both) + 2), test), 4) == 25.0641
    assert round(bernoulli_nats(train.mean(0), test), 4) == 25.0613


def test_digits_splits_are_disjoint_and_cover_everything():
    d = data.digits()
    assert d.levels == 17 and d.classes == tuple("0123456789")
    assert [s.images.shape for s in (d.train, d.valid, d.test)] == [(1257, 8, 8, 1), (180, 8, 8, 1), (360, 8, 8, 1)]
    bunch = load_digits()  # no two of its images are equal, so images stand for their indices
    label = {image.astype(np.uint8).tobytes(): target for image, target in zip(bunch.images, bunch.target, strict=True)}
    assert len(label) == 1797
    seen = [(i.tobytes(), t) for s in (d.train, d.valid, d.test) for i, t in zip(s.images, s.labels, strict=True)]
    assert len(seen) == 1797 and dict(seen) == label


def idx(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture(scope="module")
def mnist_files():
    """Files of MNIST's shapes, gzipped, whose pixels tell the index of their image."""
    files = {}
    for part, count, start in (("train", 60_000, 0), ("t10k", 10_000, 100_000)):
        images = np.zeros((count, 28, 28), np.uint8)
        images[:, 0, :4] = np.arange(start, start + count, dtype=">u4").view(np.uint8).reshape(count, 4)
        labels = (np.arange(count) % 10).astype(np.uint8)
        files[f"{part}-images-idx3-ubyte"] = gzip.compress(idx(images), 1)
        files[f"{part}-labels-idx1-ubyte"] = gzip.compress(idx(labels), 1)
    return files


def write(folder, files, packed=True):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / (f"{name}.gz" if packed else name)).write_bytes(content if packed else gzip.decompress(content))


def indices(split):
    return np.ascontiguousarray(split.images[:, 0, :4, 0]).view(">u4")[:, 0]


def check_mnist(d):
    assert d.name == "mnist" and d.levels == 256 and d.classes == tuple("0123456789")
    for split, start, stop in ((d.train, 0, 50_000), (d.valid, 50_000, 60_000), (d.test, 100_000, 110_000)):
        np.testing.assert_array_equal(indices(split), np.arange(start, stop))
        np.testing.assert_array_equal(split.labels, np.arange(start, stop) % 10)
        assert split.images.shape == (stop - start, 28, 28, 1)


@pytest.mark.parametrize("below", ["", "mnist", "MNIST/raw"])
def test_mnist_from_root(below, mnist_files, tmp_path):
    write(tmp_path / below, mnist_files, packed=below != "MNIST/raw")
    check_mnist(data.load("mnist", tmp_path))


def test_mnist_from_environment_and_root_goes_first(mnist_files, tmp_path, monkeypatch):
    write(tmp_path / "named", mnist_files)
    monkeypatch.setenv("MICROGNM_DATA", str(tmp_path / "named"))
    check_mnist(data.mnist())
    with pytest.raises(FileNotFoundError):
        data.mnist(tmp_path)


def test_mnist_names_the_files_it_looked_for(mnist_files, tmp_path):
    write(tmp_path, dict(list(mnist_files.items())[:3]))  # one of four missing
    with pytest.raises(FileNotFoundError) as error:
        data.mnist(tmp_path)
    for expected in (*sources.MNIST_FILES, str(tmp_path / "mnist"), str(tmp_path / "MNIST" / "raw")):
        assert expected in str(error.value)


def test_mnist_refuses_what_does_not_fit(mnist_files, tmp_path):
    write(tmp_path, mnist_files)
    labels = tmp_path / "train-labels-idx1-ubyte.gz"
    for content, message in (
        (idx(np.zeros(59_999, np.uint8)), "60000 images and .*train-labels.* 59999 labels"),
        (idx(np.full(60_000, 10, np.uint8)), "train-labels.*expected labels from 0 to 9, found 10"),
        (idx(np.zeros((60_000, 1), np.uint8)), r"train-labels.*expected shape \(60000,\) of uint8, found \(60000, 1\)"),
        (idx(np.zeros(60_000, np.uint8))[:-1], "train-labels.*expected 60000 bytes.*found 59999"),
    ):
        labels.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            data.mnist(tmp_path)


@pytest.fixture
def mirrors(monkeypatch):
    """Two mirrors on this machine: dictionaries of name -> content, and their addresses. Counts the requests."""
    content: dict[str, dict[str, bytes]] = {"one": {}, "two": {}}
    requests: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            _, mirror, name = self.path.split("/")
            body = content[mirror].get(name)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_):
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    addresses = tuple(f"http://127.0.0.1:{server.server_port}/{name}/" for name in content)
    yield content, addresses, requests
    server.shutdown()
    thread.join()
    server.server_close()


RIGHT = b"the right content" * 100
SHA256 = hashlib.sha256(RIGHT).hexdigest()


def test_fetch_from_the_first_mirror_once(mirrors, tmp_path):
    content, addresses, requests = mirrors
    content["one"]["file.gz"] = gzip.compress(RIGHT)
    for _ in range(2):
        path = fetch("file.gz", SHA256, addresses, tmp_path / "cache")
        assert gzip.decompress(path.read_bytes()) == RIGHT
    assert requests == ["/one/file.gz"]


@pytest.mark.parametrize("wrong", ["other content", "gzip cut short", "plain page", "absent"])
def test_fetch_deletes_a_wrong_download_and_tries_the_next(wrong, mirrors, tmp_path):
    content, addresses, requests = mirrors
    packed = gzip.compress(RIGHT)
    bodies = {"other content": gzip.compress(b"else"), "gzip cut short": packed[:-9], "plain page": b"<html>"}
    if wrong in bodies:
        content["one"]["file.gz"] = bodies[wrong]
    content["two"]["file.gz"] = gzip.compress(RIGHT, 1)  # another packing of the same content
    with pytest.warns(UserWarning, match=r"one/file\.gz") as warned:
        path = fetch("file.gz", SHA256, addresses, tmp_path)
    if wrong in ("other content", "plain page"):
        found = hashlib.sha256(b"else" if wrong == "other content" else b"<html>").hexdigest()
        assert f"file.gz: expected content of SHA-256 {SHA256}, found {found}" in str(warned[0].message)
    assert gzip.decompress(path.read_bytes()) == RIGHT
    assert requests == ["/one/file.gz", "/two/file.gz"] and list(tmp_path.iterdir()) == [path]


@pytest.mark.filterwarnings("ignore:download deleted")
def test_fetch_names_every_mirror_when_all_fail(mirrors, tmp_path):
    content, addresses, _ = mirrors
    content["one"]["file.gz"] = b"wrong"
    closed = "http://127.0.0.1:1/"
    with pytest.raises(OSError, match="could not be downloaded") as error:
        fetch("file.gz", SHA256, (*addresses, closed), tmp_path)
    lines = str(error.value).split("\n  ")[1:]
    assert [line.startswith(at) for line, at in zip(lines, (*addresses, closed), strict=True)] == [True] * 3
    assert SHA256 in lines[0] and hashlib.sha256(b"wrong").hexdigest() in lines[0] and "404" in lines[1]
    assert list(tmp_path.iterdir()) == []


def test_fetch_replaces_a_damaged_copy(mirrors, tmp_path):
    content, addresses, _ = mirrors
    content["one"]["file"] = RIGHT
    (tmp_path / "file").write_bytes(RIGHT[:-1])
    with pytest.warns(UserWarning, match=f"file: expected content of SHA-256 {SHA256}, found .*deleted"):
        path = fetch("file", SHA256, addresses, tmp_path)
    assert path.read_bytes() == RIGHT


@pytest.fixture
def no_mnist_here(monkeypatch, mirrors, mnist_files, tmp_path):
    content, addresses, requests = mirrors
    sums = {name: hashlib.sha256(gzip.decompress(packed)).hexdigest() for name, packed in mnist_files.items()}
    monkeypatch.setattr(sources, "MNIST_FILES", sums)
    monkeypatch.setattr(sources, "MNIST_MIRRORS", addresses)
    monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / project)
    monkeypatch.delenv("MICROGNM_DATA", raising=False)
    return content, requests


def test_mnist_is_downloaded_once(no_mnist_here, mnist_files, tmp_path, monkeypatch):
    content, requests = no_mnist_here
    content["one"] |= {f"{name}.gz": packed for name, packed in mnist_files.items()}
    check_mnist(data.load("mnist"))
    assert len(requests) == 4
    monkeypatch.setenv("MICROGNM_DATA", str(tmp_path / "elsewhere"))
    check_mnist(data.load("mnist"))
    assert len(requests) == 4
    assert {path.name for path in (tmp_path / "micrognm" / "mnist").iterdir()} == {f"{name}.gz" for name in mnist_files}


@pytest.mark.filterwarnings("ignore:download deleted")
def test_mnist_without_network_says_what_to_do(no_mnist_here, tmp_path, monkeypatch):
    monkeypatch.setenv("MICROGNM_DATA", str(tmp_path))
    with (
        pytest.warns(UserWarning, match=f"MNIST is not in MICROGNM_DATA={tmp_path}"),
        pytest.raises(OSError, match=r"one/train-images.*404(?s:.*)two/train-images.*404(?s:.*)--root.*MICROGNM_DATA"),
    ):
        data.mnist()


def test_built_in_table_of_downloads():
    assert len(set(sources.MNIST_MIRRORS)) >= 2
    for mirror in sources.MNIST_MIRRORS:
        assert mirror.startswith("https://") and mirror.endswith("/")
    assert all(len(bytes.fromhex(sha256)) == 32 for sha256 in sources.MNIST_FILES.values())


def test_load_names_the_known_sources():
    with pytest.raises(ValueError, match="unknown data 'cifar'") as error:
        data.load("cifar")
    assert all(name in str(error.value) for name in ("digits", "mnist", "folder"))
    assert data.load("digits").name == "digits"
    with pytest.raises(ValueError, match=r"takes no root.*some/place"):
        data.load("digits", "some/place")
    with pytest.raises(ValueError, match="folder needs root"):
        data.load("folder")


def test_split_and_dataset_refuse_what_does_not_fit():
    images, labels = np.zeros((3, 2, 2, 1), np.uint8), np.array([0, 1, 1])
    good = data.Split(images, labels)
    for bad in ((images[..., 0], labels), (images.astype(float), labels), (images, labels[:2]), (images, labels * 1.0)):
        with pytest.raises(ValueError, match="Split: "):
            data.Split(*bad)

    def dataset(levels=2, classes=("a", "b"), valid=good):
        return data.Dataset("tiny", levels, classes, train=good, valid=valid, test=good)

    assert len(dataset().valid) == 3
    with pytest.raises(ValueError, match=r"tiny: valid images are \(2, 1, 1\), train images are \(2, 2, 1\)"):
        dataset(valid=data.Split(images[:, :, :1], labels))
    with pytest.raises(ValueError, match=r"valid has pixel value 2, levels=2 allows 0 to 1"):
        dataset(valid=data.Split(images + np.uint8(2), labels))
    with pytest.raises(ValueError, match="train labels go from 0 to 1, 1 classes allow 0 to 0"):
        dataset(classes=("a",))
