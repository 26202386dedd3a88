"""`kaito validate`: every check that needs no GPU, of files, folders and standard input. Offline."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from kaito.api.document_set import CheckedDocument
    from kaito.api.findings import ValidationContext
    from kaito.api.workspace import Workspace


def validate(
    filename: Annotated[
        list[str], typer.Option("-f", "--filename", metavar="FILE", help="A file, a folder, or -; repeatable.")
    ],
    old: Annotated[
        Path | None, typer.Option("--old", metavar="FILE", help="Check as an update of the Workspaces in this file.")
    ] = None,
    nodes: Annotated[
        Literal["auto", "existing", "nodeclaim", "nodepool", "local"],
        typer.Option("--nodes", help="Who provides the nodes. auto: nodeclaim, or local where `resource` is empty."),
    ] = "auto",
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", metavar="GLOB", help="A private host that data may come from; repeatable."),
    ] = None,
    output: Annotated[Literal["text", "json"], typer.Option("-o", "--output")] = "text",
) -> None:
    """Check Workspaces and ConfigMaps: every problem with its file, line and field.

    Documents of one file see each other, files do not. Ends with 1 if anything is wrong.

    Example: kaito validate -f workspace.yaml
    """
    from kaito.client.check import build_context

    context = build_context(nodes, allow_host or [], configs_complete=False)
    before, trouble = _old_workspaces(old) if old is not None else (None, [])
    checked = trouble or check_files(filename, context, before)
    _print_warnings(checked)
    if output == "json":
        typer.echo(json.dumps([_as_json(item) for item in checked], indent=2, ensure_ascii=False))
    else:
        _print_text(checked)
    if any(item.errors for item in checked):
        raise typer.Exit(1)


def check_files(
    sources: Sequence[str | Path],
    context: ValidationContext,
    old: dict[tuple[str, str], Workspace] | None = None,
) -> list[CheckedDocument]:
    """Every document of every file, each file a set of its own."""
    from kaito.api.document_set import check_set
    from kaito.api.documents import load_documents

    documents = load_documents(sources)
    return [
        checked
        for _, of_file in groupby(documents, key=lambda document: document.file)
        for checked in check_set(list(of_file), context, old)
    ]


def _old_workspaces(path: Path) -> tuple[dict[tuple[str, str], Workspace], list[CheckedDocument]]:
    """The Workspaces of the old file by namespace and name, or what keeps them from being read."""
    from kaito.api.document_set import CheckedDocument, namespace_of
    from kaito.api.documents import load_documents
    from kaito.api.workspace import parse_workspace

    workspaces: dict[tuple[str, str], Workspace] = {}
    trouble: list[CheckedDocument] = []
    for document in load_documents([path]):
        if document.value is None:
            trouble.append(CheckedDocument(document, document.errors))
        elif document.kind == "Workspace":
            parsed = parse_workspace(document)
            if parsed.workspace is None:
                trouble.append(CheckedDocument(document, parsed.errors))
            else:
                workspaces[namespace_of(document), document.name] = parsed.workspace
    return workspaces, trouble


def _print_text(checked: Sequence[CheckedDocument]) -> None:
    for item in checked:
        for error in item.errors:
            typer.echo(f"{item.document.file}:{error.line}: {error.field}: {error.message}")
    if not any(item.errors for item in checked):
        names = ", ".join(f"{item.document.kind} {item.document.name}" for item in checked)
        typer.echo(f"{names}: no problem found")


def _print_warnings(checked: Sequence[CheckedDocument]) -> None:
    for item in checked:
        for warning in item.warnings:
            text = f"{item.document.file}:{warning.line}: {warning.field}: warning: {warning.message}"
            typer.echo(text, err=True)


def _as_json(item: CheckedDocument) -> dict[str, Any]:
    return {
        "file": item.document.file,
        "kind": item.document.kind,
        "name": item.document.name,
        "problems": [{"line": error.line, "field": error.field, "message": error.message} for error in item.errors],
    }
