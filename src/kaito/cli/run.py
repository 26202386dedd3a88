"""`kaito run`, `apply` and `retry`: start Workspaces of a set of files, in the foreground or the background."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kaito.cli.errors import fail, failing, parse_key

if TYPE_CHECKING:
    from kaito.client import Applied, Key, View

INTERRUPTED = 130

Files = Annotated[
    list[str],
    typer.Option(
        "-f", "--filename", metavar="FILE", help="A file, a folder, or - for standard input. May be repeated."
    ),
]
Namespace = Annotated[str, typer.Option("-n", "--namespace", help="Where a document names none.")]
Secrets = Annotated[
    list[str] | None,
    typer.Option("--secret", metavar="NAME=PATH", help="A Secret's content: a docker config.json, or a token's file."),
]
AllowHosts = Annotated[
    list[str] | None,
    typer.Option("--allow-host", metavar="GLOB", help="Data may also come from this private or loopback host."),
]
Output = Annotated[Literal["text", "json"], typer.Option("-o", "--output", help="What to print at the end.")]


def run(
    filename: Files,
    namespace: Namespace = "default",
    detach: Annotated[bool, typer.Option("--detach", help="Run in the background; see kaito get, kaito logs.")] = False,
    secret: Secrets = None,
    allow_host: AllowHosts = None,
    output: Output = "text",
) -> None:
    """Fine-tune on this machine, to the end: check, train, push. Ctrl-C saves and stops; the same command goes on.

    Example: kaito run -f workspace.yaml
    """
    applied = _apply(filename, namespace, secret, allow_host)
    if detach:
        _start(applied, output)
        return
    raise typer.Exit(_run_all([item.key for item in applied], output))


def apply(
    filename: Files,
    namespace: Namespace = "default",
    secret: Secrets = None,
    allow_host: AllowHosts = None,
    output: Output = "text",
) -> None:
    """Run in the background: the same as kaito run --detach.

    Example: kaito apply -f workspace.yaml
    """
    _start(_apply(filename, namespace, secret, allow_host), output)


def retry(
    name: Annotated[str, typer.Argument(metavar="NAME", help="NAME or NAMESPACE/NAME.")],
    namespace: Namespace = "default",
    detach: Annotated[bool, typer.Option("--detach", help="Go on in the background.")] = False,
    secret: Secrets = None,
    output: Output = "text",
) -> None:
    """Go on after a failure. What is finished is not repeated: after a refused push this only pushes.

    Example: kaito retry workspace-tuning-phi-3
    """
    from kaito.cli.ending import AFTER_EDITING, is_mended_by_editing
    from kaito.client import connect

    key = parse_key(name, namespace)
    client = connect()
    secrets = secret_files(secret)
    with failing():
        before = client.get(key)
        client.ask_retry(key, secrets)
        holder = client.engine_pid(key)
    if holder is not None:
        print(f"workspace/{key.name}: process {holder}, which runs it, was asked to try again")
        return
    if is_mended_by_editing(before) and before.desired.applied:
        applied = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(before.desired.applied))
        print(f"{key.name}: using the Workspace as applied at {applied}; {AFTER_EDITING}", file=sys.stderr)
    if detach:
        _start_one(key, output)
        return
    raise typer.Exit(_run_all([key], output))


def _apply(
    filenames: list[str], namespace: str, secret: list[str] | None, allow_host: list[str] | None
) -> list[Applied]:
    from kaito.client import connect, load, missing_folder_lines

    files = secret_files(secret)
    loaded = load(filenames, allow_hosts=tuple(allow_host or ()), nodes="local")
    for line in [*loaded.warnings, *missing_folder_lines(loaded.documents), *loaded.problems]:
        print(line, file=sys.stderr)
    if loaded.problems:
        raise typer.Exit(1)
    if not loaded.documents.workspaces:
        fail("no Workspace in " + ", ".join(filenames))
    with failing():
        applied = connect().apply(
            loaded.documents, namespace=namespace, allow_hosts=tuple(allow_host or ()), secrets=files
        )
    for item in applied:
        for notice in item.notices:
            print(f"{item.key.name}: {notice}", file=sys.stderr)
    return applied


def secret_files(pairs: list[str] | None) -> dict[str, Path]:
    """`NAME=PATH` options as a mapping. Raises typer's error for one that is none or has no file."""
    files: dict[str, Path] = {}
    for pair in pairs or []:
        name, equals, path = pair.partition("=")
        if not equals or not name or not path:
            raise typer.BadParameter(f"{pair!r}: expected NAME=PATH")
        files[name] = Path(path).expanduser()
        if not files[name].is_file():
            raise typer.BadParameter(f"{pair!r}: no such file")
    return files


def _start(applied: list[Applied], output: str) -> None:
    for item in applied:
        _start_one(item.key, output)


def _start_one(key: Key, output: str) -> None:
    from kaito.client import connect, document_json

    client = connect()
    with failing():
        client.start(key)
        if output == "json":
            print(document_json(client.get(key)))
        else:
            print(f"workspace/{key.name} started; kaito get {key.name} shows it, kaito logs {key.name} -f follows it")


def _run_all(keys: list[Key], output: str) -> int:
    """One after the other; Ctrl-C ends them all. The worst of their codes."""
    from kaito.client import document_json, list_json

    worst = 0
    ended: list[View] = []
    for key in keys:
        code, seen = _run_foreground(key, output)
        ended.append(seen)
        worst = max(worst, code)
        if code == INTERRUPTED:
            break
    if output == "json":
        with suppress(OSError):
            print(document_json(ended[0]) if len(keys) == 1 else list_json(ended))
    return worst


def _run_foreground(key: Key, output: str) -> tuple[int, View]:
    """0 succeeded, 1 failed, refused or waiting, 130 stopped by Ctrl-C; and what it came to."""
    from kaito.cli.ending import print_end
    from kaito.cli.live import build_console, live, with_restarts
    from kaito.client import connect, stop_signals

    console = build_console(stderr=output == "json")
    client = connect()
    with failing():
        seen = client.get(key)
        note = ""
        killed = False
        if seen.phase == "Succeeded":
            note = "finished before; nothing to do (annotation kaito.sh/rerun asks for a new run)"
        else:
            if seen.run is not None:
                console.print(f"{key.name}: goes on with run {seen.run.run}")
            for warning in seen.plan.warnings:
                print(f"{key.name}: warning: {warning}", file=sys.stderr)
            with live(console, key.name) as show:
                engine = client.engine(key, on_tick=with_restarts(show, console, key))
                stop_signals(engine)
                seen = engine.run()
            killed = engine.was_killed
    with suppress(OSError):  # a closed terminal: the run has ended as it should, nobody reads how
        print_end(seen, output, note, killed=killed)
    return {"Succeeded": 0, "Stopped": INTERRUPTED}.get(seen.phase, 1), seen
