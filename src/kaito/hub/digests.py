"""Digests of files on the disk: SHA-256, and Git's blob SHA-1, by which the hub names small files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from kaito.hub.files import RepoFile

_CHUNK_BYTES = 4 << 20


def hash_files(paths: Mapping[str, Path], progress: Callable[[int, int], None]) -> dict[str, str]:
    """Name -> hex SHA-256. `progress(done, total)` in bytes."""
    total = sum(path.stat().st_size for path in paths.values())
    done = 0
    hashes = {}
    for name, path in paths.items():
        state = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                state.update(chunk)
                done += len(chunk)
                progress(done, total)
        hashes[name] = state.hexdigest()
    return hashes


def has_content(path: Path, expected: RepoFile, progress: Callable[[int, int], None]) -> bool:
    """Whether the file has the content that its repository tells."""
    if expected.sha256:
        return hash_files({"": path}, progress)[""] == expected.sha256
    return blob_sha1(path) == expected.blob


def with_sha256(file: RepoFile, path: Path) -> RepoFile:
    """The file with the SHA-256 of its content, which lies at `path`: the same wherever the model comes from."""
    return file if file.sha256 else replace(file, sha256=hash_files({"": path}, lambda _done, _total: None)[""])


def blob_sha1(path: Path) -> str:
    """What Git calls a file with this content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
