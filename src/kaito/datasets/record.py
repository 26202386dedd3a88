"""The record of a fetch, `.fetched.json` in the data folder: what is finished, so that a second start goes on."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from kaito.datasets.files import hash_file
from kaito.failure import ConfigFailure

FILE_NAME = ".fetched.json"
_PART = FILE_NAME + ".part"
UNPACKED = ".image"  # where an image's files lie, whole, before they are put in their places


@dataclass(frozen=True, slots=True)
class Finished:
    bytes: int
    sha256: str


class Record:
    """The finished files of one source by name."""

    def __init__(self, folder: Path, source: str, files: dict[str, Finished]) -> None:
        self._folder = folder
        self._source = source
        self.files = files

    @classmethod
    def open(cls, folder: Path, source: str) -> Record:
        """The record of `folder`; `source` is a digest of where the data come from.

        Files of another source that an earlier fetch put there are removed. Raises ConfigFailure where the folder
        holds files that no fetch put there.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE_NAME
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            files = {name: Finished(**entry) for name, entry in value["files"].items()}
            recorded = str(value["source"])
        except FileNotFoundError:
            files, recorded = {}, ""
            if any(entry.name != _PART for entry in folder.iterdir()):  # that one a first start, cut off, has left
                hint = "give an empty or a new folder; nothing in this one was changed"
                raise ConfigFailure(f"{folder} is not empty, and no fetch filled it", hint) from None
        except (ValueError, KeyError, TypeError, AttributeError):
            files, recorded = {}, ""  # written by rename, so damaged by others: everything is fetched again
        record = cls(folder, source, files)
        if recorded != source:
            for name in files:
                (folder / name).unlink(missing_ok=True)
            shutil.rmtree(folder / UNPACKED, ignore_errors=True)
            record.files = {}
        record._save()
        return record

    def has(self, name: str, like: Path | None = None) -> bool:
        """Whether the file is finished and still what it was; with `like`, and that file is the same."""
        entry = self.files.get(name)
        if entry is None:
            return False
        paths = [self._folder / name, *([like] if like else [])]
        return all(
            path.is_file() and path.stat().st_size == entry.bytes and hash_file(path) == entry.sha256 for path in paths
        )

    def find(self, prefix: str) -> str:
        """The name of the finished file that begins with `prefix` and still is what it was; "" without one."""
        return next((name for name in sorted(self.files) if name.startswith(prefix) and self.has(name)), "")

    def add(self, name: str, size: int, sha256: str) -> None:
        self.files[name] = Finished(size, sha256)
        self._save()

    def keep_only(self, names: set[str]) -> None:
        """Forget and remove the files that the source no longer has."""
        for name in set(self.files) - names:
            (self._folder / name).unlink(missing_ok=True)
            del self.files[name]
        self._save()

    def announce(self, files: dict[str, Finished]) -> None:
        """Record files that are put in place next: they count from the moment they are there."""
        self.keep_only(set(files))
        self.files = files
        self._save()

    def _save(self) -> None:
        path = self._folder / FILE_NAME
        temporary = path.with_name(_PART)
        value = {"source": self._source, "files": {name: asdict(entry) for name, entry in sorted(self.files.items())}}
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(value, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
