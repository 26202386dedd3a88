"""A little room kept on the run folder's disk, given up when the disk is full: so that a run can say how it ended.

Without it the record of the very failure could not be written. It is taken again before the next step is started.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from kaito.failure import NoSpaceFailure, is_disk_full

RESERVE_FILE = "reserve"
RESERVE_BYTES = 256 * 1024  # `run.json`, the events, the termination message and a program's last words, twice over

T = TypeVar("T")


def take_reserve(folder: Path) -> None:
    """Make sure that the reserve is there. Raises OSError, and then leaves nothing."""
    path = folder / RESERVE_FILE
    try:
        if path.stat().st_size == RESERVE_BYTES:
            return
    except FileNotFoundError:
        pass
    try:
        with path.open("wb") as file:
            file.write(bytes(RESERVE_BYTES))  # written, not only sized: a sparse file keeps no room
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def give_up_reserve(folder: Path) -> bool:
    """Free the reserve. False where there is none."""
    with suppress(OSError):
        (folder / RESERVE_FILE).unlink()
        return True
    return False


def with_reserve(folder: Path, write: Callable[[], T]) -> T:
    """Do a write of the run's record; on a full disk once more, with the reserve given up. Raises OSError."""
    try:
        return write()
    except OSError as error:
        if not is_disk_full(error) or not give_up_reserve(folder):
            raise
        return write()


def disk_full(error: OSError, folder: Path) -> NoSpaceFailure:
    """What a full disk means for a run: what could not be written, how little is free, what to do."""
    free = shutil.disk_usage(folder).free
    return NoSpaceFailure(
        f"the disk is full, {free / 1e6:.1f} MB are free: {error.filename or folder} cannot be written",
        f"make room on the disk of {folder}, 1 MB and what the step needs; what is finished is kept, "
        "and the next start goes on from there",
    )
