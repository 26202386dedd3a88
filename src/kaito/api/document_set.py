"""The documents of one set (a file, or all that one command is given), each checked with the others at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kaito.api.documents import Document, FieldError
from kaito.api.findings import Findings, ValidationContext
from kaito.api.outputs import Outputs
from kaito.api.paths import format_path
from kaito.api.references import subdomain_problem
from kaito.api.rules_inference import INFERENCE_CONFIG_KEY, parse_inference_config
from kaito.api.schema import nearest, show, unknown_key
from kaito.api.training import TRAINING_CONFIG_KEY, parse_training_config
from kaito.api.validation import validate_document
from kaito.api.workspace import GROUP, Workspace

KINDS = ("Workspace", "ConfigMap", "Secret")
NOT_SUPPORTED = ("InferenceSet", "RAGEngine", "ModelMirror", "MultiRoleInference")
"""KAITO's other kinds: named, never passed over."""

_CONFIG_MAP_KEYS = ("apiVersion", "kind", "metadata", "data", "binaryData", "immutable")


@dataclass(frozen=True, slots=True)
class CheckedDocument:
    """One object with what is wrong with it, in the order of its lines."""

    document: Document
    errors: tuple[FieldError, ...] = ()
    warnings: tuple[FieldError, ...] = ()


def check_set(
    documents: Sequence[Document],
    context: ValidationContext,
    old: Mapping[tuple[str, str], Workspace] | None = None,
) -> list[CheckedDocument]:
    """Every document of the set. `old`: (namespace, name) -> the Workspace that the new one updates."""
    seen: dict[tuple[str, str, str], Document] = {}
    outputs = Outputs()
    checked: list[CheckedDocument] = []
    for document in documents:
        findings = _check(document, documents, context, old)
        key = (document.kind, namespace_of(document), document.name)
        if document.name and key in seen:
            message = f"the set has two objects of this kind and name (the other: line {seen[key].line_of(())})"
            findings.error(("metadata", "name"), message)
        else:
            outputs.check(document, findings)
        seen.setdefault(key, document)
        checked.append(CheckedDocument(document, _ordered(findings.errors), _ordered(findings.warnings)))
    return checked


def namespace_of(document: Document) -> str:
    return document.namespace or "default"


def _ordered(errors: Sequence[FieldError]) -> tuple[FieldError, ...]:
    return tuple(sorted(dict.fromkeys(errors), key=lambda error: error.line))


def _check(
    document: Document,
    documents: Sequence[Document],
    context: ValidationContext,
    old: Mapping[tuple[str, str], Workspace] | None,
) -> Findings:
    findings = Findings(document.line_of)
    findings.found = [((), error) for error in document.errors]
    if document.value is None:
        return findings
    if not isinstance(document.value, dict):
        findings.error((), f"expected an object with apiVersion and kind, got {show(document.value)}")
        return findings
    if document.kind == "Workspace":
        return _check_workspace(document, documents, context, old)
    if document.kind in ("ConfigMap", "Secret"):
        _check_name(document, findings)
        if document.kind == "ConfigMap":
            _check_config_map(document, findings)
        return findings
    _check_foreign(document, findings)
    return findings


def _check_workspace(
    document: Document,
    documents: Sequence[Document],
    context: ValidationContext,
    old: Mapping[tuple[str, str], Workspace] | None,
) -> Findings:
    beside = configs_of(documents, namespace_of(document))
    context = replace(
        context,
        configs={**context.configs, **beside},
        configs_checked_apart=context.configs_checked_apart | frozenset(beside),
    )
    if old is None:
        return validate_document(document, context)
    before = old.get((namespace_of(document), document.name))
    findings = validate_document(document, context, before)
    if before is None:
        findings.error(("metadata", "name"), f"the old documents have no Workspace {show(document.name)} to update")
    return findings


def configs_of(documents: Sequence[Document], namespace: str) -> dict[str, dict[str, str]]:
    """The ConfigMaps of a set, name -> key -> text. What is no text is left out."""
    configs: dict[str, dict[str, str]] = {}
    for document in documents:
        if document.kind != "ConfigMap" or namespace_of(document) != namespace or not isinstance(document.value, dict):
            continue
        data = document.value.get("data")
        texts = data.items() if isinstance(data, dict) else ()
        configs.setdefault(document.name, {key: text for key, text in texts if isinstance(text, str)})
    return configs


def _check_name(document: Document, findings: Findings) -> None:
    metadata = document.value.get("metadata")
    name: Any = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(name, str) or not name:
        findings.error(("metadata", "name"), f"missing; a {document.kind} needs a name")
    else:
        findings.check(("metadata", "name"), name, subdomain_problem(name))
    if document.value.get("apiVersion") != "v1":
        findings.error(("apiVersion",), f"expected v1, got {show(document.value.get('apiVersion'))}")


def _check_config_map(document: Document, findings: Findings) -> None:
    """The texts of a ConfigMap that we read, with lines in its file (K2 to K6, K10, K11, F3, F4)."""
    for key in document.value:
        if key not in _CONFIG_MAP_KEYS:
            findings.error((key,), unknown_key(key, _CONFIG_MAP_KEYS))
    data = document.value.get("data")
    if data is None:
        return
    if not isinstance(data, dict):
        findings.error(("data",), f"expected a mapping, got {show(data)}")
        return
    for key, text in data.items():
        if not isinstance(text, str):
            findings.error(("data", key), f"expected a string, got {show(text)}; write `KEY: |` and the text below it")
        elif key == TRAINING_CONFIG_KEY:
            parsed = parse_training_config(text)
            findings.found += [((), _in_file(document, key, error)) for error in parsed.errors]
            findings.warnings += [_in_file(document, key, warning) for warning in parsed.warnings]
        elif key == INFERENCE_CONFIG_KEY:
            findings.found += [((), _in_file(document, key, error)) for error in parse_inference_config(text)[1]]


def _in_file(document: Document, key: str, error: FieldError) -> FieldError:
    path = ("data", key)
    field = format_path(path) if error.field == "document" else error.field
    return FieldError(field, error.message, document.line_in_text(path, error.line))


def _check_foreign(document: Document, findings: Findings) -> None:
    """Kinds that are not ours. What looks like ours and is none is an error; the rest is left to Kubernetes."""
    kind, version = document.kind, document.api_version
    if not kind:
        findings.error(("kind",), "missing; expected `kind: Workspace`")
        return
    if kind in NOT_SUPPORTED:
        findings.error(("kind",), f"{kind} is not supported; only Workspace is")
        return
    near = nearest(kind, KINDS)
    if version.startswith(f"{GROUP}/") or near is not None:
        hint = f'did you mean "{near}"?' if near is not None else "only Workspace is"
        findings.error(("kind",), f"{show(kind)} is not supported; {hint}")
    else:
        findings.warn(("kind",), f"{kind} is not checked here")
