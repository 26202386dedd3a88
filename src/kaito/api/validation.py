"""All rules of a Workspace, at creation and at update, all problems at once. Pure: the world comes in as a value.

The rules lie by aspect in `rules_metadata`, `rules_resource`, `rules_sources`, `rules_tuning`, `rules_inference` and
`rules_update`. Their letters and numbers (C1, T9…) are those of the tests.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from kaito.api.documents import Document, FieldError, Node
from kaito.api.findings import Findings, ValidationContext
from kaito.api.paths import Path, parse_path
from kaito.api.references import placeholders
from kaito.api.rules_inference import check_inference
from kaito.api.rules_metadata import check_annotations, check_name, check_top
from kaito.api.rules_resource import check_inference_resource, check_tuning_resource
from kaito.api.rules_tuning import check_tuning
from kaito.api.rules_update import check_update
from kaito.api.workspace import Workspace, parse_workspace

__all__ = ["Findings", "ValidationContext", "validate_create", "validate_document", "validate_update"]

LineOf = Callable[[Path], int]


def validate_create(
    workspace: Workspace, context: ValidationContext, line_of: LineOf | None = None
) -> list[FieldError]:
    """Everything that is wrong with a new Workspace. `line_of` is a Document's; without it every line is 1."""
    return _created(workspace, context, line_of).errors


def validate_update(
    old: Workspace, new: Workspace, context: ValidationContext, line_of: LineOf | None = None
) -> list[FieldError]:
    """Everything that is wrong with a change. What the change leaves alone is not checked again."""
    return _updated(old, new, context, line_of).errors


def validate_document(document: Document, context: ValidationContext, old: Workspace | None = None) -> Findings:
    """A document as a Workspace: text, keys, types, placeholders and rules; `old`: as an update of that one.

    Fields of a wrong key or type do not hide what the rules have to say about the others.
    """
    parsed = parse_workspace(document)
    wrong = [parse_path(error.field) for error in parsed.errors]
    workspace = parsed.workspace or _readable_part(document, wrong)
    if workspace is None:
        findings = Findings(document.line_of)
        _check_placeholders(document.value, findings)
    elif old is None:
        findings = _created(workspace, context, document.line_of, document.value)
    else:
        findings = _updated(old, workspace, context, document.line_of, document.value)
    ours = [(path, error) for path, error in findings.found if not any(_is_within(path, bad) for bad in wrong)]
    placeholder_fields = {error.field for _, error in findings.found if "placeholder" in error.message}
    typed = [error for error in parsed.errors if error.field not in placeholder_fields]
    findings.found = [((), error) for error in (*document.errors, *typed)] + ours
    findings.warnings = [*parsed.warnings, *findings.warnings]
    return findings


def _readable_part(document: Document, wrong: Sequence[Path]) -> Workspace | None:
    """The Workspace without the fields at `wrong` (whole lists, and the parents of what is missing), if that is one."""
    value = copy.deepcopy(document.value)
    for path in wrong:
        position = next((index for index, key in enumerate(path) if isinstance(key, int)), len(path))
        _remove(value, path[:position])
    return parse_workspace(replace(document, root=Node(value, 1))).workspace


def _remove(value: Any, path: Path) -> None:
    """Remove a field; where it is missing (that is what is wrong with it), the mapping that lacks it."""
    parents = [value]
    for key in path[:-1]:
        parents.append(parents[-1].get(key) if isinstance(parents[-1], dict) else None)
    for parent, key in zip(reversed(parents), reversed(path), strict=True):
        if isinstance(parent, dict) and key in parent:
            del parent[key]
            return


def _is_within(path: Path, other: Path) -> bool:
    """Whether one of the two is at, below or above the other: then one error is enough."""
    shorter = min(len(path), len(other))
    return path[:shorter] == other[:shorter]


def _created(workspace: Workspace, context: ValidationContext, line_of: LineOf | None, value: Any = None) -> Findings:
    findings = Findings(line_of) if line_of is not None else Findings()
    _check_placeholders(value if value is not None else _dump(workspace), findings)
    check_name(workspace, findings)
    check_top(workspace, findings, context)
    check_annotations(workspace, findings, context)
    if workspace.inference is not None:
        check_inference_resource(workspace, findings, context)
        check_inference(workspace, workspace.inference, findings, context)
    if workspace.tuning is not None:
        check_tuning_resource(workspace, findings, context)
        check_tuning(workspace, workspace.tuning, findings, context)
    return findings


def _dump(workspace: Workspace) -> Any:
    return workspace.model_dump(mode="json", by_alias=True, exclude_none=True)


def _updated(
    old: Workspace, new: Workspace, context: ValidationContext, line_of: LineOf | None, value: Any = None
) -> Findings:
    """The rules of an update, and those of a creation for what has changed: an old object must stay deletable."""
    findings = Findings(line_of) if line_of is not None else Findings()
    if new.metadata.deletion_timestamp is not None:
        return findings
    check_update(old, new, findings, context)
    reported = {path for path, _ in findings.found}
    before, after = _dump(old), _dump(new)
    created = _created(new, context, line_of, value)
    findings.found += [
        (path, error)
        for path, error in created.found
        if path not in reported and _part(before, path) != _part(after, path)
    ]
    findings.warnings += created.warnings
    return findings


def _part(value: Any, path: Path) -> Any:
    """What a rule about `path` may depend on: the block of the top level that it is in, or the annotation."""
    depth = 3 if path[:2] == ("metadata", "annotations") else 2
    for key in path[:depth]:
        value = value.get(key) if isinstance(value, dict) else None
    return value


# --- placeholders ---------------------------------------------------------------------------------------------------

# Texts of other people's languages, in which angle brackets and capitals mean something.
_FREE_TEXT: frozenset[Path] = frozenset(
    (
        ("tuning", "parameters"),
        ("inference", "template"),
        ("metadata", "annotations"),
        ("metadata", "managedFields"),
        ("status",),
    )
)


def _check_placeholders(value: Any, findings: Findings) -> None:
    for path, text in _texts(value, ()):
        found = placeholders(text)
        if found:
            findings.error(path, f"still holds the placeholder {' and '.join(found)}; write your own value")


def _texts(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    if path in _FREE_TEXT:
        return
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(item, (*path, key))
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from _texts(item, (*path, position))
