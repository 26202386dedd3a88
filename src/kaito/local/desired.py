"""What the user asked for, as kept in a run folder: the Workspace, its ConfigMaps, its Secrets, and what to allow."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from kaito.contract import Asked, from_json, to_json
from kaito.local.home import DESIRED, Key, run_folder
from kaito.runner.files import replace_text

SECRETS = "secrets"
_MAX_ENTRIES = 100_000


class Unreadable(Exception):
    """A run folder that does not hold what this program wrote, or that it may not read."""

    def __init__(self, key: Key, cause: str) -> None:
        super().__init__(f"{key}: {run_folder(key)} cannot be used: {cause}")
        self.key = key


@dataclass(frozen=True, slots=True)
class Desired:
    """`workspace.json`. `workspace` is the document as typed, its folders absolute; `configs` are the ConfigMaps that
    it names, by name. `applied`: when the file was read (seconds since 1970), 0 where that is not known."""

    workspace: Mapping[str, Any]
    configs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    allow_hosts: tuple[str, ...] = ()
    asked: Asked = field(default_factory=Asked)
    applied: float = 0.0


def save_desired(key: Key, desired: Desired) -> None:
    """Raises OSError."""
    folder = run_folder(key)
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(folder / DESIRED, json.dumps(to_json(desired), indent=1, ensure_ascii=False))


def load_desired(key: Key) -> Desired | None:
    """None where this machine has no such Workspace. Raises Unreadable."""
    try:
        text = (run_folder(key) / DESIRED).read_text(encoding="utf-8")
        return from_json(Desired, json.loads(text))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unreadable(key, error.strerror or str(error)) from error
    except ValueError as error:
        raise Unreadable(key, f"{DESIRED} is damaged ({str(error).splitlines()[0]})") from error


def save_secret(folder: Path, name: str, values: Mapping[str, bytes]) -> None:
    """One file a key, readable by the owner alone. An unchanged one is left alone: its age says when it changed."""
    target = folder / SECRETS / name
    target.mkdir(parents=True, exist_ok=True, mode=0o700)
    for private in (folder / SECRETS, target):
        private.chmod(0o700)
    for key, value in values.items():
        path = target / key
        if path.is_file() and path.read_bytes() == value:
            continue
        temporary = target / f".{key}.part"
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(value)
        temporary.replace(path)


def secret_changes(folder: Path) -> dict[str, float]:
    """The Secrets at hand, each with when it last changed (seconds since 1970)."""
    try:
        found = [entry for entry in (folder / SECRETS).iterdir() if entry.is_dir()]
    except FileNotFoundError:
        return {}
    return {entry.name: max((file.stat().st_mtime for file in entry.iterdir()), default=0.0) for entry in found}


def folder_signature(folder: Path) -> str:
    """Names, sizes and times of what is in a folder: changes when a file does. Nothing is read. "" for none."""
    if not folder.is_dir():
        return ""
    digest = hashlib.sha256()
    for path in islice(sorted(folder.rglob("*")), _MAX_ENTRIES):
        stat = path.stat() if path.exists() else path.lstat()
        digest.update(f"{path.relative_to(folder)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return "sha256:" + digest.hexdigest()
