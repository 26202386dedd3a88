"""The data files of a folder: which they are, told by their content, and the digest of them all. Rows are `read`'s."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kaito.contract import digest_of
from kaito.failure import DataFailure

Format = Literal["jsonl", "json", "parquet"]

RECOGNISED = "JSON lines (.jsonl), a JSON array (.json) and parquet"

_HEAD_BYTES = 4096
_CHUNK_BYTES = 1 << 20
_PARQUET_MAGIC = b"PAR1"
_DATA_SUFFIXES = frozenset({"", ".jsonl", ".json", ".ndjson", ".parquet"})
_DOCUMENT_SUFFIXES = frozenset({".md", ".rst", ".html", ".yaml", ".yml"})
_DOCUMENT_STEMS = ("readme", "license", "licence", "notice", "changelog", "citation")
# What libraries leave beside data files.
_DESCRIPTIONS = frozenset(
    {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "_success", "_metadata"}
)
_FOREIGN_MAGIC = {
    b"\x1f\x8b": "gzip-compressed",
    b"PK\x03\x04": "a zip archive",
    b"\x28\xb5\x2f\xfd": "zstd-compressed",
    b"BZh": "bzip2-compressed",
    b"ARROW1": "an Arrow file",
    b"%PDF": "a PDF document",
}
_FOREIGN_SUFFIXES = {".csv": "a CSV file", ".tsv": "a TSV file", ".arrow": "an Arrow file", ".xlsx": "a spreadsheet"}


@dataclass(frozen=True, slots=True)
class DataFile:
    """`name` is the path in the data folder, with slashes."""

    path: Path
    name: str
    format: Format
    bytes: int


@dataclass(frozen=True, slots=True)
class Listing:
    """`skipped`: (name, why) of files that are not data."""

    files: tuple[DataFile, ...]
    skipped: tuple[tuple[str, str], ...]


def list_files(folder: Path) -> list[DataFile]:
    """All data files below `folder`, sorted by name. Raises DataFailure where one is not what it claims to be."""
    return list(scan_folder(folder).files)


def scan_folder(folder: Path) -> Listing:
    """All files below `folder`: the data files, and those passed over with the reason. Links to files are followed.

    A file is recognised by what is in it. One that claims to be data and is not (a sign-in page saved as parquet, an
    LFS pointer, a cut download) or that holds data in a format that is not read is a DataFailure, never passed over.
    """
    if not folder.is_dir():
        raise DataFailure(f"data folder {folder} does not exist", "name the folder that holds the training data")
    files: list[DataFile] = []
    skipped: list[tuple[str, str]] = []
    for name in _names(folder):
        path = folder / name
        why = _not_data(name) if path.is_file() else "not a regular file"
        found = None if why else recognise(path, name)
        if found is None:
            skipped.append((name, why or "neither JSON nor parquet"))
        else:
            files.append(DataFile(path, name, found, path.stat().st_size))
    return Listing(tuple(files), tuple(skipped))


def recognise(path: Path, name: str) -> Format | None:
    """The format of a file by its content; None if it neither is data nor claims to be. Raises DataFailure."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            size = path.stat().st_size
            file.seek(max(0, size - 4))
            tail = file.read(4)
    except OSError as error:
        raise DataFailure(f"{name}: cannot be read: {error.strerror}", "check the file's permissions") from error
    suffix = Path(name).suffix.lower()
    if head.startswith(_PARQUET_MAGIC):
        if tail != _PARQUET_MAGIC or size < 12:
            raise DataFailure(f"{name}: truncated parquet: its footer is missing", "fetch or copy the file again")
        return "parquet"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text[:1] == b"{" and b"\x00" not in head:
        return "jsonl"
    if text[:1] == b"[" and b"\x00" not in head:
        return "json"
    what = _foreign(head, text, suffix)
    if what is None and suffix not in _DATA_SUFFIXES:
        return None
    raise DataFailure(f"{name}: {what or 'not a data file'}", f"what is read: {RECOGNISED}")


def files_digest(folder: Path) -> str:
    """`sha256:…` over the sorted names and contents of the data files below `folder`."""
    return digest_of_files({file.name: hash_file(file.path) for file in list_files(folder)})


def digest_of_files(hashes: Mapping[str, str]) -> str:
    """`sha256:…` of name -> hex SHA-256."""
    return digest_of(sorted(hashes.items()))


def hash_file(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            state.update(chunk)
    return state.hexdigest()


def _names(folder: Path) -> Iterable[str]:
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [(Path(root) / name).relative_to(folder).as_posix() for name in names]
    return sorted(found)


def _not_data(name: str) -> str:
    last = Path(name).name.lower()
    if last.startswith("."):
        return "hidden"
    if last.endswith((".part", ".part.json")):
        return "an unfinished download"
    if last in _DESCRIPTIONS:
        return "describes the data"
    if last.startswith(_DOCUMENT_STEMS) and Path(last).suffix in ("", *_DOCUMENT_SUFFIXES):
        return "documentation"
    if Path(last).suffix in _DOCUMENT_SUFFIXES:
        return "not a data file by its name"
    return ""


def _foreign(head: bytes, text: bytes, suffix: str) -> str | None:
    if not head:
        return "empty" if suffix in _DATA_SUFFIXES else None
    if not text:
        return "blank" if suffix in _DATA_SUFFIXES else None
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return "a Git LFS pointer, not the file it points to (`git lfs pull` fetches that)"
    if text[:14].lower() == b"<!doctype html" or text[:5].lower() == b"<html":
        return "an HTML page, perhaps a sign-in page, not the data"
    if text[:5] == b"<?xml":
        return "an XML document, perhaps an error message of a storage service, not the data"
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "UTF-16 text; save it as UTF-8"
    for magic, what in _FOREIGN_MAGIC.items():
        if head.startswith(magic):
            return f"{what}; this format is not read"
    if suffix in _FOREIGN_SUFFIXES:
        return f"{_FOREIGN_SUFFIXES[suffix]}; this format is not read"
    if suffix == ".parquet":
        return "not parquet, though its name says so"
    return None
