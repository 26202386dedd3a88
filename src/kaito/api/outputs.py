"""Where the Workspaces of one set put their adapters: not two in one folder; two of one image is worth a word."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kaito.api.documents import Document
from kaito.api.findings import Findings
from kaito.api.paths import Path
from kaito.api.references import placeholders

_AT: Path = ("tuning", "output")
_HOST_FOLDER: Path = (*_AT, "volumeSource", "hostPath", "path")
_CLAIM: Path = (*_AT, "volumeSource", "persistentVolumeClaim", "claimName")
_IMAGE: Path = (*_AT, "image")


@dataclass(slots=True)
class Outputs:
    """What the Workspaces so far have named -> which, and with which field."""

    taken: dict[tuple[str, str, str], tuple[Document, Path]] = field(default_factory=dict)

    def check(self, document: Document, findings: Findings) -> None:
        """A folder with an earlier adapter is refused when it runs: an error. An image's tag is moved: a warning."""
        for path in (_HOST_FOLDER, _CLAIM, _IMAGE):
            named = _text_at(document.value, path)
            if document.kind != "Workspace" or not named or placeholders(named):
                continue
            other, _ = self.taken.setdefault(_place(document, path, named), (document, path))
            if other is document:
                continue
            line = other.line_of(path)
            where = f"line {line}" if other.file == document.file else f"{other.file}:{line}"
            message = f"the Workspace {other.name} ({where}) has the same"
            if path == _IMAGE:
                findings.warn(path, f"{message}: whichever is pushed last has the name; give each its own")
            else:
                findings.error(path, f"{message}; give each adapter a place of its own")


def _place(document: Document, path: Path, named: str) -> tuple[str, str, str]:
    """One key for one place: a folder counts from its file, a claim is of a namespace, an image has a tag."""
    if path == _HOST_FOLDER:
        return "folder", "", posixpath.normpath(posixpath.join(posixpath.dirname(document.file), named))
    if path == _CLAIM:
        return "claim", document.namespace or "default", named
    tagged = ":" in named.rpartition("/")[2] or "@" in named
    return "image", "", named if tagged else f"{named}:latest"


def _text_at(value: Any, path: Path) -> str:
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, str) else ""
