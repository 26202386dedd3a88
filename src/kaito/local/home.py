"""Where the runs of this machine lie: `$KAITO_HOME/runs/NAMESPACE/NAME`. The folder is the record, the only one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DESIRED = "workspace.json"


_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Key:
    """A Workspace's name on this machine. Raises ValueError for what is no RFC 1123 label: it becomes a path."""

    namespace: str
    name: str

    def __post_init__(self) -> None:
        for what, text in (("namespace", self.namespace), ("name", self.name)):
            if not _LABEL.fullmatch(text):
                raise ValueError(f"{text!r} is no {what}: lower-case letters, digits and hyphens, at most 63")

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    @classmethod
    def parse(cls, text: str, namespace: str = "default") -> Key:
        """From `NAME` or `NAMESPACE/NAME`."""
        head, slash, tail = text.partition("/")
        return cls(head, tail) if slash else cls(namespace, head)


def kaito_home() -> Path:
    return Path(os.environ.get("KAITO_HOME") or Path.home() / ".kaito").absolute()


def run_folder(key: Key) -> Path:
    return kaito_home() / "runs" / key.namespace / key.name


def list_keys() -> Iterator[Key]:
    """Every Workspace of this machine, by namespace and name."""
    runs = kaito_home() / "runs"
    for desired in sorted(runs.glob(f"*/*/{DESIRED}")):
        if _LABEL.fullmatch(desired.parent.parent.name) and _LABEL.fullmatch(desired.parent.name):
            yield Key(desired.parent.parent.name, desired.parent.name)
