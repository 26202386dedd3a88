"""`kaito adapter push|pull|inspect`: the registry side by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from kaito.cli.errors import fail

app = typer.Typer(no_args_is_help=True, help="Push, pull and inspect adapters in a registry.")

Image = Annotated[str, typer.Argument(metavar="IMAGE", help="registry/repository:tag or @digest.")]
Credentials = Annotated[
    list[Path] | None,
    typer.Option("--credentials", metavar="DIR", help="A folder with a docker config; else the user's own."),
]
Output = Annotated[Literal["text", "json"], typer.Option("-o", "--output")]


@app.command()
def push(
    results: Annotated[Path, typer.Argument(metavar="FOLDER", help="A results folder: the adapter and its card.")],
    image: Image,
    credentials: Credentials = None,
    output: Output = "text",
) -> None:
    """Push a results folder as an adapter image. The same adapter gives the same digest.

    Example: kaito adapter push results localhost:5000/adapters/mine:1
    """
    from kaito.client.adapters import push_results
    from kaito.failure import Failure

    try:
        pushed = push_results(results, image, credentials or [])
    except Failure as failure:
        _fail(failure)
    _print(pushed, output, "{image} {digest}")


@app.command()
def pull(
    image: Image,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder that gets the adapter's files.")],
    credentials: Credentials = None,
    output: Output = "text",
) -> None:
    """Pull an adapter's files into a folder, every digest verified.

    Example: kaito adapter pull localhost:5000/adapters/mine:1 --out mine
    """
    from kaito.client.adapters import pull_files
    from kaito.failure import Failure

    try:
        pulled = pull_files(image, out, credentials or [])
    except Failure as failure:
        _fail(failure)
    _print(pulled, output, "{image} {digest}")


@app.command()
def inspect(image: Image, credentials: Credentials = None) -> None:
    """Print an adapter image's manifest, configuration and lineage as JSON.

    Example: kaito adapter inspect localhost:5000/adapters/mine:1
    """
    import json

    from kaito.client.adapters import inspect_image
    from kaito.failure import Failure

    try:
        print(json.dumps(inspect_image(image, credentials or []), indent=2, ensure_ascii=False))
    except Failure as failure:
        _fail(failure)


def _print(value: dict[str, object], output: str, text: str) -> None:
    import json

    print(json.dumps(value, ensure_ascii=False) if output == "json" else text.format(**value))


def _fail(failure: object) -> None:
    from kaito.failure import Failure

    assert isinstance(failure, Failure)
    fail(failure.message + (f" ({failure.hint})" if failure.hint else ""))
