"""`kaito validate`: every check that needs no GPU, of files, folders and standard input. Offline, unless `--data`."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kaito.cli.errors import failing
from kaito.cli.run import INTERRUPTED, Secrets, secret_files

if TYPE_CHECKING:
    from kaito.api.document_set import CheckedDocument
    from kaito.api.documents import Document
    from kaito.api.findings import ValidationContext
    from kaito.api.workspace import Workspace
    from kaito.client.data import DataCheck


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
    data: Annotated[
        bool,
        typer.Option("--data", help="Get the training data and check every row; shows one row as it is trained."),
    ] = False,
    secret: Secrets = None,
    output: Annotated[Literal["text", "json"], typer.Option("-o", "--output")] = "text",
) -> None:
    """Check Workspaces and ConfigMaps: every problem with its file, line and field.

    Documents of one file see each other, files do not. Ends with 1 if anything is wrong.

    Example: kaito validate -f workspace.yaml --data
    """
    from kaito.client.check import build_context

    context = build_context(nodes, allow_host or [], configs_complete=False)
    before, trouble = _old_workspaces(old) if old is not None else (None, [])
    checked = trouble or check_files(filename, context, before)
    if data:
        checks = _check_data(checked, allow_host or [], secret_files(secret))
    else:
        checks = {}
        checked = [_with_folder_warnings(item) for item in checked]
    checked = [_with_data_findings(item, checks.get(number)) for number, item in enumerate(checked)]
    _print_warnings(checked)
    if output == "json":
        entries = [_as_json(item, checks.get(number)) for number, item in enumerate(checked)]
        typer.echo(json.dumps(entries, indent=2, ensure_ascii=False))
    else:
        _print_text(checked, checks)
    if any(item.errors for item in checked) or any(check.is_bad for check in checks.values()):
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


def _check_data(
    checked: Sequence[CheckedDocument], allow_hosts: Sequence[str], secrets: Mapping[str, Path]
) -> dict[int, DataCheck]:
    """The data of each tuning Workspace without a problem of its own, by its position. Ctrl-C ends with 130."""
    from kaito.cli.data import progress_bar
    from kaito.client.data import data_checker
    from kaito.client.documents import gather

    checks: dict[int, DataCheck] = {}
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # a kill is a Ctrl-C: what was fetched goes
    try:
        with (
            failing(),
            progress_bar() as show,
            data_checker(allow_hosts=allow_hosts, secrets=secrets, on_progress=show) as checker,
        ):
            for number, item in enumerate(checked):
                if not item.errors and _is_tuning(item.document):
                    beside = [other.document for other in checked if other.document.file == item.document.file]
                    documents, _ = gather(beside)
                    checks[number] = checker.check(item.document, documents)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGTERM, before)
    return checks


def _is_tuning(document: Document) -> bool:
    return document.kind == "Workspace" and bool(document.value.get("tuning"))


def _with_data_findings(item: CheckedDocument, check: DataCheck | None) -> CheckedDocument:
    if check is None:
        return item
    return replace(item, errors=(*item.errors, *check.errors), warnings=(*item.warnings, *check.warnings))


def _with_folder_warnings(item: CheckedDocument) -> CheckedDocument:
    from kaito.client.check import missing_folders

    return replace(item, warnings=(*item.warnings, *missing_folders(item.document)))


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


def _print_text(checked: Sequence[CheckedDocument], checks: Mapping[int, DataCheck]) -> None:
    from kaito.cli.data import print_check, problem_lines

    for number, item in enumerate(checked):
        for error in item.errors:
            typer.echo(f"{error.place_in(item.document.file)}: {error.field}: {error.message}")
        if number in checks:
            for line in problem_lines(checks[number]):
                typer.echo(line)
    for number, check in checks.items():
        print_check(checked[number].document.name, check)
    if not any(item.errors for item in checked) and not any(check.is_bad for check in checks.values()):
        names = ", ".join(f"{item.document.kind} {item.document.name}" for item in checked)
        typer.echo(f"{names}: no problem found")


def _print_warnings(checked: Sequence[CheckedDocument]) -> None:
    for item in checked:
        for warning in item.warnings:
            text = f"{warning.place_in(item.document.file)}: {warning.field}: warning: {warning.message}"
            typer.echo(text, err=True)


def _as_json(item: CheckedDocument, check: DataCheck | None) -> dict[str, Any]:
    from kaito.cli.data import as_json

    entry = {
        "file": item.document.file,
        "kind": item.document.kind,
        "name": item.document.name,
        "problems": [
            {"line": max(error.line, 1), "field": error.field, "message": error.message} for error in item.errors
        ],
    }
    return entry if check is None else entry | {"data": as_json(check)}
