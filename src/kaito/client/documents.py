"""A set of documents (files, folders, standard input) -> the Workspaces in it with all that they refer to by name."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kaito.api.documents import Document, FieldError

SUPPORTED = ("Workspace", "ConfigMap", "Secret")


@dataclass(frozen=True, slots=True)
class DocumentSet:
    """`configs` and `secrets` by name; a Secret's values decoded."""

    workspaces: tuple[Document, ...]
    configs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    secrets: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)


def gather(documents: Iterable[Document]) -> tuple[DocumentSet, list[tuple[Document, FieldError]]]:
    """Sort documents by kind. The problems are of Secrets and ConfigMaps; Workspaces are validated elsewhere."""
    workspaces: list[Document] = []
    configs: dict[str, Mapping[str, str]] = {}
    secrets: dict[str, Mapping[str, bytes]] = {}
    problems: list[tuple[Document, FieldError]] = []
    for document in documents:
        value = document.value if isinstance(document.value, dict) else {}
        if document.kind == "ConfigMap":
            configs[document.name] = _texts(value.get("data"))
        elif document.kind == "Secret":
            secrets[document.name], wrong = _secret_values(document, value)
            problems += [(document, error) for error in wrong]
        else:
            workspaces.append(document)
    return DocumentSet(tuple(workspaces), configs, secrets), problems


def with_absolute_paths(document: Document) -> dict[str, Any]:
    """The Workspace with its folders made absolute: a relative path is relative to the file that says it.

    Folders are `hostPath` volumes, and a `preset.name` that begins with `./` or `../`.
    """
    value: dict[str, Any] = dict(document.value)
    folder = Path.cwd() if document.file in {"", "-"} else Path(document.file).absolute().parent
    for kind in ("tuning", "inference"):
        if isinstance(value.get(kind), dict):
            value[kind] = {key: _absolute_part(key, part, folder) for key, part in value[kind].items()}
    return value


def _absolute_part(key: str, part: Any, folder: Path) -> Any:
    if key in {"input", "output"}:
        return _absolute(part, folder)
    name = _mapping(part).get("name") if key == "preset" else None
    if isinstance(name, str) and name.startswith(("./", "../")):
        return {**part, "name": str((folder / name).resolve())}
    return part


def _absolute(part: Any, folder: Path) -> Any:
    source = _mapping(_mapping(part).get("volumeSource"))
    host_path = _mapping(source.get("hostPath"))
    path = host_path.get("path")
    if not isinstance(path, str):
        return part
    absolute = str((folder / Path(path).expanduser()).resolve())
    return {**part, "volumeSource": {**source, "hostPath": {**host_path, "path": absolute}}}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _texts(data: Any) -> dict[str, str]:
    return {key: text for key, text in data.items() if isinstance(text, str)} if isinstance(data, dict) else {}


def _secret_values(document: Document, value: Mapping[str, Any]) -> tuple[dict[str, bytes], list[FieldError]]:
    values = {key: text.encode() for key, text in _texts(value.get("stringData")).items()}
    problems: list[FieldError] = []
    for key, text in _texts(value.get("data")).items():
        try:
            values.setdefault(key, base64.b64decode(text, validate=True))
        except binascii.Error:
            line = document.line_of(("data", key))
            problems.append(FieldError(f"data.{key}", "is not base64; write plain text under stringData", line))
    return values, problems
