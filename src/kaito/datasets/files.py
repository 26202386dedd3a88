"""The data files of a folder: which they are, told by their content, and the digest of them all. Rows are `read`'s."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, cast

from kaito.contract import digest_of
from kaito.datasets.recognise import RECOGNISED, Format, Kind, recognise
from kaito.failure import DataFailure

__all__ = [
    "RECOGNISED",
    "DataFile",
    "Format",
    "Kind",
    "Listing",
    "Refused",
    "digest_of_files",
    "files_digest",
    "hash_file",
    "how_to_give_data",
    "recognise",
    "scan_folder",
]

_CHUNK_BYTES = 1 << 20
_DOCUMENT_SUFFIXES = frozenset({".md", ".rst", ".html", ".yaml", ".yml", ".pdf", ".ipynb"})
_DOCUMENT_STEMS = ("readme", "license", "licence", "notice", "changelog", "citation", "sha256sum", "md5sum", "checksum")
# What libraries leave beside data files.
_DESCRIPTIONS = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})
_PLAIN = ("jsonl", "json", "csv", "tsv", "arrow")
_UNPACKED = 4
_SHOWN_NAMES = 5
_UNSHOWN = frozenset(("Cc", "Cs", "Zl", "Zp"))  # control characters, halves of pairs, what ends a line
_TEXT_SUFFIXES = (".txt", ".text")


@dataclass(frozen=True, slots=True)
class DataFile:
    """`name` is the path in the data folder, with slashes."""

    path: Path
    name: str
    format: Format
    bytes: int

    @property
    def kind(self) -> Kind:
        """The format of what is inside, compressed or not."""
        return cast(Kind, self.format.removesuffix(".gz"))

    @property
    def unpacked_bytes(self) -> int:
        """About, of what is inside: compressed files, as parquet is by itself, hold four for each of their bytes."""
        return self.bytes * (1 if self.format in _PLAIN else _UNPACKED)


@dataclass(frozen=True, slots=True)
class Refused:
    """A file that claims to be data and is not, or not in a format that is read."""

    path: Path
    name: str
    bytes: int
    failure: DataFailure


@dataclass(frozen=True, slots=True)
class Listing:
    """`skipped`: (name, why) of files that are not data. `refused`: empty, unless such files were to be kept."""

    files: tuple[DataFile, ...]
    skipped: tuple[tuple[str, str], ...]
    refused: tuple[Refused, ...] = ()

    @property
    def claimed(self) -> tuple[DataFile | Refused, ...]:
        """All that claims to be data."""
        return (*self.files, *self.refused)


def scan_folder(folder: Path, below: str = "", *, keep_refused: bool = False) -> Listing:
    """All files below `folder`: the data files, and those passed over with the reason. Links are followed, and each
    folder is read once. `below`: a file or folder in it beside which nothing is looked at.

    A file is recognised by what is in it. One that claims to be data and is not (a sign-in page saved as parquet, an
    LFS pointer, a cut download) or that holds data in a format that is not read is a DataFailure, never passed over;
    with `keep_refused` it is in the listing, for those who bring files and do not choose among them. A folder without
    a file that is data is a DataFailure too, unless it is empty.
    """
    if not folder.is_dir():
        raise DataFailure(f"data folder {folder} does not exist", "name the folder that holds the training data")
    files: list[DataFile] = []
    refused: list[Refused] = []
    names, skipped = find_names(folder, below)
    for name in names:
        path = folder / name
        why = _not_data(name) or _not_readable(path, name)
        try:
            found = None if why else recognise(path, name)
        except DataFailure as failure:
            if not keep_refused or isinstance(failure.__cause__, OSError):  # what cannot be opened cannot be brought
                raise
            refused.append(Refused(path, name, path.stat().st_size, failure))
            continue
        if found is None:
            skipped.append((name, why or "not data, by its content and its name"))
        else:
            files.append(DataFile(path, name, found, path.stat().st_size))
    passed_over = [f"{name} ({why})" for name, why in skipped if why != "hidden"]
    if refused and not files:
        raise refused[0].failure
    if passed_over and not files:
        more = f" and {len(passed_over) - _SHOWN_NAMES} more" if len(passed_over) > _SHOWN_NAMES else ""
        found_names = ", ".join(passed_over[:_SHOWN_NAMES]) + more
        message = f"no data file in {folder}: found {found_names}"
        raise DataFailure(message, how_to_give_data(name for name, _ in skipped), reason="NoData")
    return Listing(tuple(files), tuple(skipped), tuple(refused))


def how_to_give_data(names: Iterable[str]) -> str:
    """The hint where none of these files holds rows: of a plain text, how it comes to hold some."""
    is_text = any(name.lower().endswith(_TEXT_SUFFIXES) for name in names)
    text = 'plain text: write one {"text": "…"} a line in a .jsonl file; ' if is_text else ""
    return f"{text}what is read: {RECOGNISED}"


def files_digest(folder: Path) -> str:
    """`sha256:…` over the sorted names and contents of the data files below `folder`, those that are refused too."""
    listing = scan_folder(folder, keep_refused=True)
    return digest_of_files({file.name: hash_file(file.path) for file in listing.claimed})


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


def find_names(folder: Path, below: str = "") -> tuple[list[str], list[tuple[str, str]]]:
    """The names of all files in order, none of which was opened; and the linked folders that are not read again.

    A folder's own files come before those that a link leads to, so that names do not depend on the order of links.
    """
    top = folder / below
    if ".." in Path(below).parts or not top.exists():
        return [], []
    if not top.is_dir():
        return [top.relative_to(folder).as_posix()], []
    found: list[str] = []
    again: list[tuple[str, str]] = []
    read: set[tuple[int, int]] = set()
    waiting = [top]
    while waiting:
        start = waiting.pop(0)
        if _is_read(start, read):
            again.append((start.relative_to(folder).as_posix(), "a link to a folder that is read already"))
            continue
        for root, folders, names in os.walk(start, onerror=_raise_unreadable):
            inner = [Path(root) / name for name in sorted(folders) if not name.startswith(".")]
            waiting += [path for path in inner if path.is_symlink()]
            folders[:] = [path.name for path in inner if not path.is_symlink() and not _is_read(path, read)]
            found += [(Path(root) / name).relative_to(folder).as_posix() for name in names]
    return sorted(found), again


def _is_read(folder: Path, read: set[tuple[int, int]]) -> bool:
    """Whether the folder is among those that were read; from now on it is."""
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in read:
        return True
    read.add(identity)
    return False


def _raise_unreadable(error: OSError) -> NoReturn:
    raise DataFailure(f"{error.filename}: cannot be read: {error.strerror}", "check the permissions") from error


def _not_readable(path: Path, name: str) -> str:
    """Why a file is passed over unopened. Raises DataFailure for one that should have been data."""
    if path.is_symlink() and not path.exists():
        raise DataFailure(f"{name}: a link to a file that does not exist", "bring the file, or remove the link")
    return "" if path.is_file() else "not a regular file"


def _not_data(name: str) -> str:
    """Why a file is passed over by its name. Raises DataFailure for one that no log could show."""
    last = Path(name).name.lower()
    if last.startswith("."):
        return "hidden"
    if any(unicodedata.category(character) in _UNSHOWN for character in name):
        raise DataFailure(f"{name!a}: a file whose name is not UTF-8, or has control characters", "rename it")
    if last.endswith((".part", ".part.json")):
        return "an unfinished download"
    if last in _DESCRIPTIONS:
        return "describes the data"
    if last.startswith("_") and not Path(last).suffix:  # _SUCCESS, _metadata, _committed_…
        return "a mark of the program that wrote the data"
    if last.startswith(_DOCUMENT_STEMS) and Path(last).suffix in ("", *_DOCUMENT_SUFFIXES):
        return "documentation"
    if Path(last).suffix in _DOCUMENT_SUFFIXES:
        return "not a data file by its name"
    return ""
