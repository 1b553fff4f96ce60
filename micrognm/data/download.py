"""Downloads from several mirrors, checked by SHA-256."""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

from micrognm.data.idx import open_unpacked, read_chunks


def content_sha256(path: Path) -> str:
    """SHA-256 of what a file holds once unpacked, so that plain, gzip and gzip at another level agree."""
    digest = hashlib.sha256()
    with open_unpacked(path) as file:
        for chunk in read_chunks(file):
            digest.update(chunk)
    return digest.hexdigest()


def _check(path: Path, sha256: str) -> None:
    found = content_sha256(path)
    if found != sha256:
        raise ValueError(f"{path.name}: expected content of SHA-256 {sha256}, found {found}")


def fetch(name: str, sha256: str, mirrors: Sequence[str], folder: Path) -> Path:
    """The file `name` in `folder`, downloaded from the first of `mirrors` (prefixes of URLs) that serves the content
    with this SHA-256, unless it is there already. A file with other content is deleted, with a warning that names it.

    Raises OSError naming every mirror and what went wrong there if none serves it.
    """
    import pooch

    target = folder / name
    if target.exists():
        try:
            _check(target, sha256)
            return target
        except ValueError as cause:
            target.unlink()
            warnings.warn(f"{cause}; deleted from {folder}, downloading it again", stacklevel=2)
    folder.mkdir(parents=True, exist_ok=True)
    failures = []
    for mirror in mirrors:
        # The download goes into a scratch folder beside its target: the target's name only ever means checked content,
        # and what was not renamed is deleted with the folder.
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            download = Path(scratch) / name
            try:
                pooch.get_logger().info("Downloading %s to %s", mirror + name, target)
                pooch.HTTPDownloader(progressbar=True)(mirror + name, str(download), None)
                _check(download, sha256)
            except (OSError, ValueError) as cause:  # every error of requests is an OSError
                failures.append(f"{mirror + name}: {cause}")
                warnings.warn(f"download deleted: {failures[-1]}", stacklevel=2)
            else:
                os.replace(download, target)
                return target
    raise OSError(f"{name} could not be downloaded:\n  " + "\n  ".join(failures))
