"""`kaito gc`: give disk space back. What goes is shown first."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kaito.cli.errors import fail, failing
from kaito.cli.text import show_bytes

if TYPE_CHECKING:
    from kaito.client.gc import Found

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="AGE", help="Of what ended, or was used last, before: 12h, 30d, 8w.")
    ] = "30d",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask. Without a terminal it never asks.")] = False,
    output: Annotated[Literal["text", "json"], typer.Option("-o", "--output")] = "text",
) -> None:
    """Remove what can be made again: data, model links and checkpoints of finished runs, cached models that none uses.

    Never touched: a run that is at work, waits, failed or was stopped; an adapter; logs, settings and metrics.

    Example: kaito gc --dry-run --older-than 7d
    """
    from kaito.client.gc import find_garbage, remove_garbage

    seconds = _parse_age(older_than)
    with failing():
        found = find_garbage(seconds, time.time())
        if output == "text":
            _print(found, dry_run=dry_run)
        if not dry_run and found.garbage:
            if output == "text" and not yes and sys.stdin.isatty():
                typer.confirm(f"Remove {show_bytes(found.bytes)}?", abort=True)
            told = found.kept
            found = remove_garbage(found)
            if output == "text":
                _print_kept({name: why for name, why in found.kept.items() if told.get(name) != why})
                print(f"removed {show_bytes(found.bytes)}")
    if output == "json":
        print(json.dumps(_value(found, dry_run), indent=2, ensure_ascii=False))


def _parse_age(text: str) -> float:
    match = re.fullmatch(r"(\d+)([smhdw]?)", text.strip())
    if match is None or (not match[2] and match[1].strip("0")):
        fail(f"--older-than {text!r} is no age: write 12h, 30d or 8w; 0 for everything")
    return float(match[1]) * _UNITS[match[2] or "s"]


def _print(found: Found, *, dry_run: bool) -> None:
    for item in found.garbage:
        print(f"{item.kind:13} {show_bytes(item.bytes):>10}  {item.name}  {item.path}")
    _print_kept(found.kept)
    if not found.garbage:
        print("nothing to remove")
    elif dry_run:
        print(f"{show_bytes(found.bytes)} would be removed")


def _print_kept(kept: Mapping[str, str]) -> None:
    for name, why in kept.items():
        print(f"kept: {name}: {why}")


def _value(found: Found, dry_run: bool) -> dict[str, object]:
    items = [
        {"kind": item.kind, "name": item.name, "path": str(item.path), "bytes": item.bytes} for item in found.garbage
    ]
    return {"dryRun": dry_run, "bytes": found.bytes, "items": items, "kept": dict(found.kept)}
