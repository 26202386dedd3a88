"""The command line: kubectl's verbs. One file per command group; each imports what it needs when it runs."""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer

from kaito.cli import adapter, catalog, crds, gc, plan, run, validate, workspaces

USAGE = 64
_TYPER_USAGE = 2  # what typer ends with for a wrong option

EPILOG = """
Examples:

  kaito validate -f workspace.yaml           every check that needs no GPU

  kaito plan -f workspace.yaml               the steps, the memory, every effective setting

  kaito run -f workspace.yaml                fine-tune on this machine and push the adapter

  kaito logs NAME -f                         what the running step says

  kaito retry NAME                           go on after a failure: what is finished is not repeated
"""

app = typer.Typer(
    name="kaito",
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EPILOG,
    help="Fine-tune a language model and serve it, from one YAML file.",
)

app.command("validate")(validate.validate)
app.command("plan")(plan.plan)
app.command("run")(run.run)
app.command("apply")(run.apply)
app.command("get")(workspaces.get)
app.command("describe")(workspaces.describe)
app.command("logs")(workspaces.logs)
app.command("wait")(workspaces.wait)
app.command("stop")(workspaces.stop)
app.command("retry")(run.retry)
app.command("delete")(workspaces.delete)
app.add_typer(adapter.app, name="adapter")
app.add_typer(catalog.models, name="models")
app.command("skus")(catalog.skus)
app.command("crds")(crds.crds)
app.command("gc")(gc.gc)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"kaito {version('kaito')}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Fine-tune a language model and serve it, from one YAML file."""


def main() -> NoReturn:
    """Entry of `kaito` and `kubectl-kaito`. 0 done, 1 problems or failure, 64 usage, 130 interrupted."""
    try:
        app()
    except BrokenPipeError:  # the reader (`| head`) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except SystemExit as end:
        sys.exit(USAGE if end.code == _TYPER_USAGE else end.code)
    sys.exit(0)
