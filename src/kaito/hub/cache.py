"""The machine's one cache of base models: files by their digest, and which of them a model is made of at a commit.

blobs/sha256-HEX, blobs/git-HEX   a file's content: verified once, read-only, never written again
blobs/….json                      its size and time as they were when it was verified
models/REPO/COMMIT.json           a model's files and facts; its time is when it was last used
lock                              shared by whoever uses blobs, taken alone by whoever removes some
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from kaito.failure import ConfigFailure
from kaito.hub.digests import has_content
from kaito.hub.files import RepoFile

CACHE_VARIABLE = "KAITO_MODEL_CACHE"
HOME_VARIABLE = "KAITO_HOME"

Progress = Callable[[int, int], None]

_LOCK = "lock"
_LONGEST_NAME = 200  # file systems take 255 bytes
_SHOWN_NAME = 100  # of a longer one, before its hash
_WAIT_SECONDS = 0.2  # between two looks at a file that another process fetches


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A model at one commit, as its source described it. `files` are those that it needs."""

    repo: str
    commit: str
    gated: bool
    parameters: int
    files: tuple[RepoFile, ...]


def default_cache() -> Path:
    """`$KAITO_MODEL_CACHE`, else `cache/models` in `$KAITO_HOME` (`~/.kaito`)."""
    named = os.environ.get(CACHE_VARIABLE)
    home = os.environ.get(HOME_VARIABLE) or Path.home() / ".kaito"
    return Path(named).expanduser().absolute() if named else Path(home, "cache", "models").absolute()


class ModelCache:
    """Safe for any number of processes: a file is fetched by one of them, under its lock, and appears by rename."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder.absolute() if folder is not None else default_cache()
        self.blobs = self.folder / "blobs"
        self.models = self.folder / "models"

    # --- files ---

    def path(self, file: RepoFile) -> Path:
        """Where the file's content is, or would be."""
        return self.blobs / file.address

    def bytes_missing(self, file: RepoFile) -> int:
        """Bytes that are still to come."""
        path = self.path(file)
        part = path.with_name(path.name + ".part")
        here = next((found.stat().st_size for found in (path, part) if found.is_file()), 0)
        return max(0, file.bytes - here)

    def has(self, file: RepoFile, progress: Progress = lambda _done, _total: None) -> bool:
        """Whether the content is there, whole and as it was verified.

        Size and time are compared with those noted then; where they differ the content is read and verified again.
        """
        path = self.path(file)
        try:
            seen = path.stat()
        except OSError:
            return False
        if seen.st_size != file.bytes:
            return False
        if _read_note(path) == (seen.st_size, seen.st_mtime_ns):
            return True
        if not has_content(path, file, progress):
            return False
        _note(path)
        return True

    def fetch(self, file: RepoFile, load: Callable[[Path, Progress], None], progress: Progress) -> Path:
        """The file's content, loaded if it is not there. `load(target, progress)` puts it at `target`, verified.

        Call it inside `in_use`. While another process loads it, this one waits and reports that one's progress.
        """
        path = self.path(file)
        if self.has(file, progress):
            return path
        with self.exclusive(path, lambda: progress(file.bytes - self.bytes_missing(file), file.bytes)):
            if not self.has(file, progress):  # not meanwhile either
                path.unlink(missing_ok=True)  # what is there is damaged
                load(path, progress)
                path.chmod(0o444)
                _note(path)
        return path

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Nothing is removed from the cache meanwhile. Raises ConfigFailure where it cannot be written."""
        try:
            self.blobs.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            hint = f"{CACHE_VARIABLE} (or --cache) names another folder"
            message = f"the model cache {self.folder} cannot be used: {error.strerror}"
            raise ConfigFailure(message, hint, reason="CacheUnwritable") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether nobody uses the cache; it stays so meanwhile."""
        try:
            descriptor = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            yield True  # there is no cache yet
            return
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)

    @contextmanager
    def exclusive(self, path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Be the one process that makes `path`. `waiting` is called now and then while another one is at it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    waiting()
                    time.sleep(_WAIT_SECONDS)
            yield
        finally:
            os.close(descriptor)

    # --- models ---

    def save(self, model: CachedModel) -> None:
        """Remember what a model is made of, and that it was used now."""
        path = self._record(model.repo, model.commit)
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, json.dumps(asdict(model), indent=1))

    def find(self, repo: str, commit: str) -> CachedModel | None:
        """The model at a commit, if the cache knows it; its files may still be missing."""
        return _load_model(self._record(repo, commit))

    def find_whole(self, repo: str, commit: str) -> CachedModel | None:
        """The model at a commit with every file there."""
        model = self.find(repo, commit)
        return model if model is not None and all(self.has(file) for file in model.files) else None

    def commits(self, repo: str) -> list[str]:
        """The commits of a repository that are whole in the cache, the last used one first."""
        folder = self._record(repo, "").parent
        records = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
        models = [_load_model(path) for path in records]
        return [model.commit for model in models if model is not None and self.find_whole(repo, model.commit)]

    def records(self) -> list[tuple[Path, CachedModel]]:
        """Every model that the cache knows."""
        loaded = [(path, _load_model(path)) for path in sorted(self.models.glob("*/*.json"))]
        return [(path, model) for path, model in loaded if model is not None]

    def _record(self, repo: str, commit: str) -> Path:
        name = quote(repo, safe="")
        if len(name) > _LONGEST_NAME:
            name = f"{name[:_SHOWN_NAME]}-{hashlib.sha256(repo.encode()).hexdigest()}"
        return self.models / name / f"{commit.replace(':', '-')}.json"


def _load_model(path: Path) -> CachedModel | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        files = tuple(RepoFile(**file) for file in value.pop("files"))
        return CachedModel(**value, files=files)
    except (OSError, ValueError, TypeError, KeyError):
        return None  # not there, or of another version: it is asked for anew


def _note(path: Path) -> None:
    seen = path.stat()
    _replace(path.with_name(path.name + ".json"), json.dumps({"bytes": seen.st_size, "mtime_ns": seen.st_mtime_ns}))


def _read_note(path: Path) -> tuple[int, int] | None:
    try:
        value = json.loads(path.with_name(path.name + ".json").read_text(encoding="utf-8"))
        return int(value["bytes"]), int(value["mtime_ns"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
