"""`kaito models` and `kaito skus`: the catalog, as a table or as JSON. Needs no engine and no network."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kaito.cli.text import show_bytes

if TYPE_CHECKING:
    from kaito.catalog import Model, Sku

Output = Annotated[Literal["text", "json"], typer.Option("-o", "--output")]

_UNKNOWN = "?"
_WIDTH = 1000  # columns: nothing is cut, a terminal wraps what is longer


def models(output: Output = "text") -> None:
    """List the base models that preset.name knows by a short name. It takes any Hugging Face id besides.

    Example: kaito models -o json
    """
    from kaito.catalog import models as known

    if output == "json":
        print(json.dumps([asdict(model) for model in known()], indent=2, ensure_ascii=False))
        return
    header = ("NAME", "REPO", "PARAMETERS", "WEIGHTS", "CONTEXT", "LICENCE", "GATED", "TUNABLE")
    _print_table(header, [_model_row(model) for model in known()], right=(2, 3, 4))


def skus(output: Output = "text") -> None:
    """List the GPU machine types that resource.instanceType can name.

    Example: kaito skus -o json
    """
    from kaito.catalog import skus as known

    if output == "json":
        print(json.dumps([asdict(sku) for sku in known()], indent=2, ensure_ascii=False))
        return
    header = ("NAME", "CLOUD", "GPUS", "GPU", "GPU MEMORY", "CAPABILITY", "NVME", "CPUS", "MEMORY")
    _print_table(header, [_sku_row(sku) for sku in known()], right=(2, 4, 5, 7, 8))


def _model_row(model: Model) -> tuple[str, ...]:
    return (
        model.name,
        model.repo,
        _show_count(model.parameters),
        show_bytes(model.bytes) if model.bytes else _UNKNOWN,
        str(model.context or _UNKNOWN),
        model.licence,
        _UNKNOWN if model.gated is None else _show_truth(model.gated),
        _show_truth(model.tunable),
    )


def _sku_row(sku: Sku) -> tuple[str, ...]:
    return (
        sku.name,
        sku.cloud,
        str(sku.gpus),
        sku.gpu_model,
        show_bytes(sku.gpu_memory_bytes),
        str(sku.compute_capability or "-"),
        _show_truth(sku.nvme),
        str(sku.cpus or _UNKNOWN),
        show_bytes(sku.memory_bytes) if sku.memory_bytes else _UNKNOWN,
    )


def _show_truth(value: bool) -> str:
    return "yes" if value else "no"


def _show_count(number: int) -> str:
    """Parameters as in a model's name: `3.8B`."""
    if not number:
        return _UNKNOWN
    for unit, size in (("T", 10**12), ("B", 10**9)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number / 10**6:.3g}M"


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int]) -> None:
    """Columns as kubectl prints them, never cut; a bold header on a terminal."""
    from rich.console import Console
    from rich.table import Table

    style = "bold" if sys.stdout.isatty() else ""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=style)
    for index, title in enumerate(header):
        table.add_column(title, justify="right" if index in right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(width=_WIDTH, highlight=False, markup=False).print(table)
