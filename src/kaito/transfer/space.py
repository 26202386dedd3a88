"""Free space on the disk, asked before it is needed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kaito.transfer.errors import NoSpace

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def require_free_space(folder: Path, needed_bytes: int) -> None:
    """Raise NoSpace if the file system of `folder` (or of its nearest parent that exists) has less than that left."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    status = os.statvfs(place)
    free = status.f_bavail * status.f_frsize
    if free < needed_bytes:
        raise NoSpace(f"{folder} has {_megabytes(free)} free, {_megabytes(needed_bytes)} are needed")


@contextmanager
def full_disk_named(folder: Path) -> Iterator[None]:
    """Turn the kernel's "no space left" into NoSpace with the folder's name."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise NoSpace(f"the disk of {folder} is full: {error.strerror}") from error
        raise


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
