"""A model's files into a run's folder: small ones copied, weights linked. What a run does there changes no original."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from kaito.hub.cache import ModelCache
from kaito.hub.repository import CachedRepository, FolderRepository, Opened, Progress


def copy_file(repository: Opened, name: str, target: Path, cache: ModelCache) -> None:
    """Put a small file at `target`, through the cache where it comes from afar."""
    source = local_path(repository, name, cache, lambda _done, _total: None)
    part = _part(target)
    shutil.copyfile(source, part)
    part.replace(target)


def link_file(repository: Opened, name: str, target: Path, cache: ModelCache, progress: Progress) -> None:
    """Put a file of any size at `target`: a hard link into the cache, or a symbolic link where that cannot be.

    Of a model in a folder always a symbolic one: the folder stays its owner's.
    """
    source = local_path(repository, name, cache, progress)
    part = _part(target)
    if isinstance(repository, FolderRepository):
        part.symlink_to(source)
    else:
        try:
            os.link(source, part)
        except OSError:  # another file system, or another user's cache
            part.symlink_to(source)
    part.replace(target)
    part.unlink(missing_ok=True)  # renaming a link over another one of the same file does nothing
    size = repository.files[name].bytes
    progress(size, size)


def local_path(repository: Opened, name: str, cache: ModelCache, progress: Progress) -> Path:
    """Where a file of the model lies on this machine, fetched into the cache if need be."""
    if isinstance(repository, FolderRepository | CachedRepository):
        return repository.path(name)
    return cache.fetch(repository.files[name], lambda target, told: repository.fetch(name, target, told), progress)


def _part(target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    part.unlink(missing_ok=True)
    return part
