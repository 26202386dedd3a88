"""Where a base model lies, as one port: its pinned commit, its files, their bytes. A folder, or the hub."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Protocol

from kaito.failure import ModelFailure
from kaito.hub.files import INDEX, RepoFile, digest_of_repo_files, metadata_names, parse_index, weight_names

Progress = Callable[[int, int], None]

BUILTIN = "builtin:"

_LARGEST_SMALL_FILE_BYTES = 64 << 20


class Repository(Protocol):
    """A model at one commit. All reads are of that commit; every file that is placed has been verified.

    `commit`: the hub's, or for a folder the digest of its files. `files`: path -> file, of the whole repository.
    Methods raise ModelFailure or TemporaryFailure.
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

    def copy(self, name: str, target: Path) -> None:
        """Put a small file at `target`."""

    def place(self, name: str, target: Path, progress: Progress) -> None:
        """Put a file of any size at `target`; a local one may be linked. `progress(done, total)` in bytes."""


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

    def read(self, name: str, start: int, length: int) -> bytes:
        with (self._folder / name).open("rb") as file:
            file.seek(start)
            return file.read(length)

    def copy(self, name: str, target: Path) -> None:
        part = target.with_name(target.name + ".part")
        shutil.copyfile(self._folder / name, part)
        part.replace(target)

    def place(self, name: str, target: Path, progress: Progress) -> None:
        part = target.with_name(target.name + ".part")
        part.unlink(missing_ok=True)
        part.symlink_to((self._folder / name).absolute())
        part.replace(target)
        size = self.files[name].bytes
        progress(size, size)


def open_repository(repo: str, revision: str, token: str, progress: Progress) -> Repository:
    """The repository that `repo` names, at `revision` (a hub's branch, tag or commit; "" for its main branch).

    `builtin:NAME`, a folder (`/abs`, `./rel`, `../rel`, `~/rel`), or a Hugging Face id (`org/name`).
    """
    if repo.startswith(BUILTIN):
        return FolderRepository(_builtin_folder(repo), repo, progress)
    if repo.startswith(("/", "./", "../", "~")) or repo in (".", ".."):
        return FolderRepository(Path(repo).expanduser(), repo, progress)
    from kaito.hub.huggingface import HuggingFaceRepository

    return HuggingFaceRepository.open(repo, revision, token)


def model_files(repository: Repository | FolderRepository) -> list[str]:
    """Names of all files that a model needs: metadata, then weights."""
    names = list(repository.files)
    index = None
    if INDEX in names:
        size = min(repository.files[INDEX].bytes, _LARGEST_SMALL_FILE_BYTES)
        index = parse_index(repository.read(INDEX, 0, size))
    return metadata_names(names) + weight_names(names, index)


def _builtin_folder(repo: str) -> Path:
    name = repo.removeprefix(BUILTIN)
    folder = resources.files("kaito.hub") / "builtin" / name
    if not name.isidentifier() or not isinstance(folder, Path) or not folder.is_dir():
        raise ModelFailure(
            f"{repo}: there is no such built-in model", "`kaito models` lists them", reason="ModelNotFound"
        )
    return folder
