"""Where a base model lies, as one port: its pinned commit, its files, their bytes.

A folder, the Hugging Face hub (`huggingface`), an image in a registry (`images`), or the machine's cache.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Protocol

from kaito.failure import ModelFailure
from kaito.hub.cache import CachedModel, ModelCache
from kaito.hub.files import INDEX, RepoFile, digest_of_repo_files, metadata_names, parse_index, weight_names

Progress = Callable[[int, int], None]

BUILTIN = "builtin:"
IMAGE = "oci://"
OFFLINE_VARIABLE = "HF_HUB_OFFLINE"

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}|sha256:[0-9a-f]{64}")
_LARGEST_SMALL_FILE_BYTES = 64 << 20


class Repository(Protocol):
    """A model at one commit. All reads are of that commit.

    `commit`: the hub's, an image's digest, or for a folder the digest of its files. `files`: path -> file, of the
    whole repository. Methods raise ModelFailure, RegistryFailure or TemporaryFailure.
    """

    @property
    def commit(self) -> str: ...
    @property
    def files(self) -> Mapping[str, RepoFile]: ...
    @property
    def gated(self) -> bool: ...
    @property
    def parameters(self) -> int:
        """The number of parameters where the source tells it, else 0."""

    def read(self, name: str, start: int, length: int) -> bytes:
        """`length` bytes from `start` on, fewer at the file's end."""


class RemoteRepository(Repository, Protocol):
    """A model whose files have to be fetched. What is fetched has been verified."""

    def fetch(self, name: str, target: Path, progress: Progress) -> None:
        """Put a file of any size at `target`; what broke off goes on. `progress(done, total)` in bytes."""


@dataclass(frozen=True, slots=True)
class Source:
    """Which model, and with what rights.

    `repo`: `builtin:NAME`, a folder (`/abs`, `./rel`, `../rel`, `~/rel`), `oci://REGISTRY/REPOSITORY:TAG`, or a Hugging
    Face id (`org/name`). `revision`: a branch, a tag or a commit of the hub, an image's digest; "" for the newest.
    `credentials`: folders with docker configurations.
    """

    repo: str
    revision: str = ""
    token: str = field(default="", repr=False)
    credentials: Sequence[Path] = ()

    @property
    def is_folder(self) -> bool:
        return self.repo.startswith((BUILTIN, "/", "./", "../", "~")) or self.repo in (".", "..")

    @property
    def is_pinned(self) -> bool:
        return _COMMIT.fullmatch(self.revision) is not None


class FolderRepository:
    """A model in a folder of this machine. Nothing is written there."""

    gated = False
    parameters = 0

    def __init__(self, folder: Path, name: str, progress: Progress) -> None:
        from kaito.hub.digests import hash_files

        if not folder.is_dir():
            hint = "name the folder that holds config.json and the weights"
            raise ModelFailure(f"model folder {name} does not exist", hint, reason="ModelNotFound")
        self._folder = folder
        found = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}
        self.files: Mapping[str, RepoFile] = {path: RepoFile(path, size) for path, size in found.items()}
        wanted = model_files(self)
        hashes = hash_files({path: folder / path for path in wanted}, progress)
        self.files = {path: RepoFile(path, size, hashes.get(path, "")) for path, size in found.items()}
        self.commit = digest_of_repo_files([self.files[path] for path in wanted])

    def path(self, name: str) -> Path:
        return (self._folder / name).absolute()

    def read(self, name: str, start: int, length: int) -> bytes:
        return _read(self.path(name), start, length)


class CachedRepository:
    """A model that is whole in the machine's cache. The network is not asked."""

    def __init__(self, cache: ModelCache, model: CachedModel) -> None:
        self._cache = cache
        self.commit = model.commit
        self.gated = model.gated
        self.parameters = model.parameters
        self.files: Mapping[str, RepoFile] = {file.path: file for file in model.files}

    def path(self, name: str) -> Path:
        return self._cache.path(self.files[name])

    def read(self, name: str, start: int, length: int) -> bytes:
        return _read(self.path(name), start, length)


Opened = RemoteRepository | FolderRepository | CachedRepository


def _silent(_line: str) -> None:
    pass


def open_repository(
    source: Source, cache: ModelCache, progress: Progress, say: Callable[[str], None] = _silent
) -> Opened:
    """The repository that `source` names. A pinned commit that is whole in the cache is opened there."""
    if source.is_pinned and not source.is_folder:
        model = cache.find_whole(source.repo, source.revision)
        if model is not None:
            say(f"{source.repo} at {source.revision} is in the cache {cache.folder}; it is not asked for")
            return CachedRepository(cache, model)
    if _is_of_hub(source) and is_offline():
        raise _not_cached(source, cache)
    return open_source(source, cache, progress, say)


def open_source(source: Source, cache: ModelCache, progress: Progress, say: Callable[[str], None] = _silent) -> Opened:
    """The repository that `source` names, asked itself: also for what the cache never has, as the model card."""
    if source.repo.startswith(BUILTIN):
        return FolderRepository(_builtin_folder(source.repo), source.repo, progress)
    if source.is_folder:
        return FolderRepository(Path(source.repo).expanduser(), source.repo, progress)
    if source.repo.startswith(IMAGE):
        from kaito.hub.images import open_image

        return open_image(source, cache, progress, say)
    from kaito.hub.huggingface import HuggingFaceRepository

    if is_offline():
        message = (
            f"{OFFLINE_VARIABLE} is set, and the hub has to be asked for the model card and licence of {source.repo}"
        )
        raise ModelFailure(message, f"unset {OFFLINE_VARIABLE}", reason="ModelNotCached")
    return HuggingFaceRepository.open(source.repo, source.revision, source.token)


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids to ask the hub."""
    return os.environ.get(OFFLINE_VARIABLE, "").strip().upper() in ("1", "ON", "YES", "TRUE")


def _is_of_hub(source: Source) -> bool:
    return not source.is_folder and not source.repo.startswith(IMAGE)


def model_files(repository: Repository) -> list[str]:
    """Names of all files that a model needs: metadata, then weights."""
    names = list(repository.files)
    index = None
    if INDEX in names:
        size = min(repository.files[INDEX].bytes, _LARGEST_SMALL_FILE_BYTES)
        index = parse_index(repository.read(INDEX, 0, size))
    return metadata_names(names) + weight_names(names, index)


def _read(path: Path, start: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(length)


def _not_cached(source: Source, cache: ModelCache) -> ModelFailure:
    at = f" at {source.revision}" if source.revision else ""
    commits = cache.commits(source.repo)
    hint = (
        f"pin one that is: ModelConfig.revision: {commits[0]}"
        if commits
        else f"fetch it once with the network, or unset {OFFLINE_VARIABLE}"
    )
    message = f"{OFFLINE_VARIABLE} is set, and model {source.repo}{at} is not in the cache {cache.folder}"
    return ModelFailure(message, hint, reason="ModelNotCached")


def _builtin_folder(repo: str) -> Path:
    name = repo.removeprefix(BUILTIN)
    folder = resources.files("kaito.hub") / "builtin" / name
    if not name.isidentifier() or not isinstance(folder, Path) or not folder.is_dir():
        raise ModelFailure(
            f"{repo}: there is no such built-in model", "`kaito models` lists them", reason="ModelNotFound"
        )
    return folder
