"""`kaito models` and `kaito skus`: the catalog, as a table or as JSON; one model's facts; packing one."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from kaito.cli.text import show_bytes

if TYPE_CHECKING:
    from kaito.catalog import Model, Sku

Output = Annotated[Literal["text", "json"], typer.Option("-o", "--output")]

_UNKNOWN = "?"
_WIDTH = 1000  # columns: nothing is cut, a terminal wraps what is longer


class _NamesAModel(TyperGroup):
    """`kaito models NAME` is `kaito models show NAME`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and self.get_command(ctx, args[0]) is None:
            args = ["show", *args]
        return super().resolve_command(ctx, args)


models = typer.Typer(cls=_NamesAModel)

Revision = Annotated[
    str, typer.Option("--revision", help="A branch, tag or commit, or an image's digest; else the newest.")
]
Credentials = Annotated[
    list[Path] | None,
    typer.Option("--credentials", metavar="DIR", help="A folder with a docker config; else the user's own."),
]


@models.callback(invoke_without_command=True)
def list_models(context: typer.Context, output: Output = "text") -> None:
    """List the base models that preset.name knows by a short name; show one (NAME); pack one into a registry.

    preset.name takes any Hugging Face id, any folder and any oci://IMAGE besides.

    Example: kaito models phi-4
    """
    if context.invoked_subcommand is not None:
        return
    from kaito.catalog import models as known

    if output == "json":
        print(json.dumps([asdict(model) for model in known()], indent=2, ensure_ascii=False))
        return
    header = ("NAME", "REPO", "PARAMETERS", "WEIGHTS", "CONTEXT", "LICENCE", "GATED", "TUNABLE")
    _print_table(header, [_model_row(model) for model in known()], right=(2, 3, 4))


@models.command("show")
def show_model(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A short name, ORG/NAME, a folder or oci://IMAGE.")],
    ask: Annotated[
        bool, typer.Option("--ask", help="Ask the hub (or registry) too; it is, for unknown names.")
    ] = False,
    revision: Revision = "",
    credentials: Credentials = None,
    output: Output = "text",
) -> None:
    """Show what is known of one base model, and which of its commits this machine has. The same as kaito models NAME.

    Example: kaito models phi-4 --ask
    """
    from kaito.cli.errors import failing
    from kaito.client.models import describe_model

    with failing():
        value = describe_model(name, ask=ask, revision=revision, credentials=credentials or [])
    if output == "json":
        print(json.dumps(value, indent=2, ensure_ascii=False))
        return
    shown = {**value, **value.pop("found", {})}
    for key, item in shown.items():
        text = ", ".join(map(str, item)) if isinstance(item, list | tuple) else item
        if key != "known" and text not in ("", 0, None):
            print(f"{key:20} {show_bytes(item) if key == 'bytes' else _plain(text)}")


@models.command("pack")
def pack_model(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A short name, ORG/NAME, or a folder (./model).")],
    image: Annotated[str, typer.Option("--image", metavar="REF", help="Where it goes: registry/repository:tag.")],
    revision: Revision = "",
    credentials: Credentials = None,
    output: Output = "text",
) -> None:
    """Pack a base model into a registry: for machines that cannot reach the hub, and for private models.

    Use it as preset.name: oci://REF. The same files give the same digest; what the registry has is not sent again.

    Example: kaito models pack microsoft/phi-4 --image registry.example/models/phi-4:1
    """
    from kaito.api.references import split_registry
    from kaito.cli.errors import failing
    from kaito.cli.transfers import transfer_bar

    if not split_registry(image.partition("://")[2] or image)[0]:
        message = f"{image!r} names no registry: write HOST/REPOSITORY:TAG, of Docker Hub docker.io/ORG/NAME:TAG"
        raise typer.BadParameter(message, param_hint="--image")
    from kaito.client.models import pack

    with failing(), transfer_bar() as (progress, say):
        packed = pack(model, image, revision=revision, credentials=credentials or [], progress=progress, say=say)
    if output == "json":
        print(json.dumps(packed))
        return
    print(f"{packed['image']} {packed['digest']}")


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


def _plain(value: object) -> str:
    return _show_truth(value) if isinstance(value, bool) else str(value)


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
