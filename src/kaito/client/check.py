"""Files -> documents, checked with what the catalog knows: what `run`, `apply`, `plan` and `validate` begin with."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kaito.api.document_set import CheckedDocument, check_set
from kaito.api.documents import Document, FieldError, load_documents
from kaito.api.findings import Nodes, ValidationContext
from kaito.api.references import placeholders
from kaito.catalog import find_model, find_sku, mig_slice_bytes, nearest_models, nearest_skus
from kaito.client.documents import DocumentSet, gather, with_absolute_paths

ALLOW_HOSTS_VARIABLE = "KAITO_ALLOW_HOSTS"


@dataclass(frozen=True, slots=True)
class Loaded:
    """One set of documents. Problems and warnings are lines for people: `file:line: field: message`."""

    documents: DocumentSet
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def load(sources: Sequence[str], *, allow_hosts: Sequence[str] = (), nodes: Nodes = "auto") -> Loaded:
    """Read all sources as one set and check every document of it."""
    documents = load_documents(sources)
    checked = check_set(documents, build_context(nodes, allow_hosts, configs_complete=True))
    gathered, secret_problems = gather(documents)
    problems = [*_lines(checked)]
    problems += [
        f"{error.place_in(document.file)}: {error.field}: {error.message}" for document, error in secret_problems
    ]
    warnings = [_warning_line(item.document, warning) for item in checked for warning in item.warnings]
    return Loaded(gathered, tuple(problems), tuple(warnings))


def _lines(checked: Sequence[CheckedDocument]) -> Iterator[str]:
    for item in checked:
        for error in item.errors:
            yield f"{error.place_in(item.document.file)}: {error.field}: {error.message}"


def _warning_line(document: Document, warning: FieldError) -> str:
    return f"{warning.place_in(document.file)}: {warning.field}: warning: {warning.message}"


def build_context(nodes: Nodes, allow_hosts: Sequence[str], *, configs_complete: bool) -> ValidationContext:
    """What is known without asking anybody: the catalog, and the hosts that the caller and the environment allow."""
    allowed = [glob.strip() for glob in os.environ.get(ALLOW_HOSTS_VARIABLE, "").split(",")]
    return ValidationContext(
        nodes=nodes,
        find_preset=find_model,
        nearest_presets=nearest_models,
        find_sku=find_sku,
        nearest_skus=nearest_skus,
        mig_slice_bytes=mig_slice_bytes,
        configs_complete=configs_complete,
        allow_hosts=[*allow_hosts, *(glob for glob in allowed if glob)],
    )


def missing_folder_lines(documents: DocumentSet) -> list[str]:
    """`missing_folders` of every Workspace, as lines for people."""
    return [_warning_line(item, warning) for item in documents.workspaces for warning in missing_folders(item)]


def missing_folders(document: Document) -> list[FieldError]:
    """Warnings of data folders that a Workspace names and this machine does not have."""
    if document.kind != "Workspace" or not isinstance(document.value, dict):
        return []
    path = ("tuning", "input", "volumeSource", "hostPath", "path")
    named: Any = with_absolute_paths(document)
    for key in path:
        named = named.get(key) if isinstance(named, dict) else None
    if not isinstance(named, str) or not named or placeholders(named) or Path(named).exists():
        return []
    message = f"{named} does not exist on this machine; create it, or correct the path (relative to this file)"
    return [FieldError(".".join(path), message, document.line_of(path))]
