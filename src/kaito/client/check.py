"""Files -> documents, checked with what the catalog knows: what `run`, `apply`, `plan` and `validate` begin with."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kaito.api.document_set import CheckedDocument, check_set
from kaito.api.documents import load_documents
from kaito.api.findings import Nodes, ValidationContext
from kaito.catalog import find_model, find_sku, mig_slice_bytes, nearest_models
from kaito.client.documents import DocumentSet, gather

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
    problems += [f"{document.file}:{error.line}: {error.field}: {error.message}" for document, error in secret_problems]
    warnings = [
        f"{item.document.file}:{warning.line}: {warning.field}: warning: {warning.message}"
        for item in checked
        for warning in item.warnings
    ]
    return Loaded(gathered, tuple(problems), tuple(warnings))


def _lines(checked: Sequence[CheckedDocument]) -> Iterator[str]:
    for item in checked:
        for error in item.errors:
            yield f"{item.document.file}:{error.line}: {error.field}: {error.message}"


def build_context(nodes: Nodes, allow_hosts: Sequence[str], *, configs_complete: bool) -> ValidationContext:
    """What is known without asking anybody: the catalog, and the hosts that the caller and the environment allow."""
    allowed = [glob.strip() for glob in os.environ.get(ALLOW_HOSTS_VARIABLE, "").split(",")]
    return ValidationContext(
        nodes=nodes,
        find_preset=find_model,
        nearest_presets=nearest_models,
        find_sku=find_sku,
        mig_slice_bytes=mig_slice_bytes,
        configs_complete=configs_complete,
        allow_hosts=[*allow_hosts, *(glob for glob in allowed if glob)],
    )
