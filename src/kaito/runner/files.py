"""Files of a run folder: writes that are whole or not at all, bounded reads, and paths that stay inside it.

What the files mean is the business of the modules that own them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from kaito.failure import ConfigFailure

PORT_FILE = "runner.port"  # where the running runner serves its progress

# The runner's own entries: no step and no job may write or move them.
RESERVED = frozenset(
    {
        "run.json",
        "job.json",
        "runner.lock",
        PORT_FILE,
        "reserve",
        "events.jsonl",
        "termination.json",
        "logs",
        "progress",
        "previous",
    }
)


def replace_text(path: Path, text: str) -> None:
    """Replace a file durably: after a crash or a full disk it holds the old text or the new one.

    Raises OSError with the file's name.
    """
    # Two commands may write one `workspace.json` at the same time.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_tail(path: Path, limit_bytes: int, *, start: int = 0) -> bytes:
    """The last bytes of a file, none before `start`; empty where there is no file."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start if start <= size else 0, size - limit_bytes))
            return file.read(limit_bytes)
    except FileNotFoundError:
        return b""


def read_json_lines(path: Path, limit_bytes: int) -> list[dict[str, Any]]:
    """The objects in the last bytes of a JSON-lines file. Lines cut by a crash or by the limit are passed over."""
    values: list[dict[str, Any]] = []
    for line in read_tail(path, limit_bytes).splitlines():
        try:
            value = json.loads(line, parse_constant=lambda _: None)
        except ValueError:
            continue
        if isinstance(value, dict):
            values.append(value)
    return values


def path_inside(folder: Path, relative: str) -> Path:
    """The path of an entry of the run folder. Raises ConfigFailure for one outside it, or one of the runner's own."""
    path = PurePosixPath(relative)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in relative:
        raise ConfigFailure(
            f"{relative!r} is not a path inside the run folder",
            "Use a relative path without '..'.",
            reason="JobInvalid",
        )
    if path.parts[0] in RESERVED:
        raise ConfigFailure(f"{relative!r} is a file of the runner's own", "Use another name.", reason="JobInvalid")
    target = folder / path
    if not target.parent.resolve().is_relative_to(folder.resolve()):
        raise ConfigFailure(f"{relative!r} leaves the run folder through a link", reason="JobInvalid")
    return target


def write_job_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write the files that come with a Job. Raises ConfigFailure before the first is written if any path is refused."""
    targets = {path_inside(folder, name): text for name, text in files.items()}
    for target, text in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_text(target, text)
