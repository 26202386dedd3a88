"""`kaito plan`: what would run, where, with which memory and settings, before anything does."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kaito.cli.errors import fail, failing, parse_key

if TYPE_CHECKING:
    from rich.console import Console

    from kaito.contract import Estimate, Plan


def plan(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="An applied Workspace of this machine.")] = None,
    filename: Annotated[
        list[str] | None, typer.Option("-f", "--filename", metavar="FILE", help="A file, a folder, or -; repeatable.")
    ] = None,
    namespace: Annotated[str, typer.Option("-n", "--namespace")] = "default",
    local: Annotated[
        bool, typer.Option("--local", help="For this machine, also where an instanceType is named.")
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no hub: the catalog's facts alone.")] = False,
    allow_host: Annotated[list[str] | None, typer.Option("--allow-host", metavar="GLOB")] = None,
    output: Annotated[Literal["text", "yaml", "json"], typer.Option("-o", "--output")] = "text",
) -> None:
    """Show the jobs and their steps, the memory, the nodes and every effective setting, without running anything.

    Example: kaito plan -f workspace.yaml
    """
    if (name is None) == (not filename):
        raise typer.BadParameter("give either NAME or -f FILE")
    plans = _of_name(name, namespace) if name is not None else _of_files(filename or [], local, offline, allow_host)
    if output != "text":
        _print_data(plans, output)
    else:
        from rich.console import Console

        console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=160)
        for planned, notes in plans:
            _print_plan(console, planned, notes)
    raise typer.Exit(1 if any(planned.refusal is not None for planned, _ in plans) else 0)


def _of_name(name: str, namespace: str) -> list[tuple[Plan, tuple[str, ...]]]:
    from kaito.client import connect

    key = parse_key(name, namespace)
    with failing():
        return [(connect().get(key).plan, ())]
    raise AssertionError("unreachable: `failing` ends the command")


def _of_files(
    filenames: list[str], local: bool, offline: bool, allow_host: list[str] | None
) -> list[tuple[Plan, tuple[str, ...]]]:
    from kaito.client import load, missing_folder_lines, plan_documents

    loaded = load(filenames, allow_hosts=tuple(allow_host or ()), nodes="local" if local else "auto")
    for line in [*loaded.warnings, *missing_folder_lines(loaded.documents), *loaded.problems]:
        print(line, file=sys.stderr)
    if loaded.problems:
        raise typer.Exit(1)
    if not loaded.documents.workspaces:
        fail("no Workspace in " + ", ".join(filenames))
    if not offline and sys.stderr.isatty():
        print("asking the hub for the base model's facts (--offline: the catalog's alone)…", file=sys.stderr)
    return plan_documents(loaded.documents, local=local, offline=offline, allow_hosts=tuple(allow_host or ()))


def _print_data(plans: list[tuple[Plan, tuple[str, ...]]], output: str) -> None:
    from kaito.client import plan_json, plan_yaml

    values = [planned for planned, _ in plans]
    print(plan_json(values) if output == "json" else plan_yaml(values), end="")


def _print_plan(console: Console, planned: Plan, notes: tuple[str, ...]) -> None:
    from rich.markup import escape

    console.rule(f"{planned.namespace}/{planned.workspace}", align="left")
    for note in notes:
        console.print(f"[dim]{escape(note)}[/dim]")
    if planned.nodes is not None:
        nodes = planned.nodes
        labels = ", ".join(f"{key}={value}" for key, value in nodes.labels.items())
        kind = nodes.instance_type or "of yours"
        console.print(f"Nodes: {nodes.count} × {kind} ({nodes.strategy}{'; ' + labels if labels else ''})")
    for job in planned.jobs:
        where = f"{job.gpus} GPU{'' if job.gpus == 1 else 's'}" if job.gpus else "CPU"
        console.print(f"\n[bold]Job {job.name}[/bold] [dim]({job.image} image, {where})[/dim]")
        for step in job.steps:
            console.print(f"  {step.name:<10} [dim]{' '.join(step.argv)}[/dim]", markup=True, soft_wrap=True)
    if planned.service is not None:
        console.print(f"\n[bold]Service[/bold] [dim]({planned.service.image} image, port {planned.service.port})[/dim]")
        console.print(f"  [dim]{' '.join(planned.service.argv)}[/dim]", soft_wrap=True)
        for adapter in planned.service.adapters:
            console.print(f"  adapter    {adapter.get('name')} strength {adapter.get('strength')}")
    if planned.estimate is not None:
        _print_estimate(console, planned.estimate)
    if planned.settings:
        _print_settings(console, planned)
    for warning in planned.warnings:
        console.print(f"[yellow]warning:[/yellow] {escape(warning)}")
    _print_verdict(console, planned)


def _print_verdict(console: Console, planned: Plan) -> None:
    """The last words: whether it can run, and if not, what would help."""
    from rich.markup import escape

    from kaito.cli.text import show_bytes

    refusal, estimate = planned.refusal, planned.estimate
    if refusal is not None:
        console.print(f"[red]refused:[/red] {refusal.reason}: {escape(refusal.message)}")
        if refusal.hint:
            console.print(f"hint: {escape(refusal.hint)}")
        return
    if estimate is None:
        return
    needs = f"needs {show_bytes(estimate.total_bytes)}, has {show_bytes(estimate.available_bytes)}"
    if estimate.total_bytes == 0:
        console.print("[yellow]verdict:[/yellow] not known whether it fits: the base model's size is not known here")
    elif estimate.micro_batch > 0:
        console.print(f"[green]verdict:[/green] fits{' by a rough estimate' if estimate.rough else ''}: {needs}")
    elif estimate.rough:
        console.print(f"[yellow]verdict:[/yellow] probably does not fit (a rough estimate): {needs}")
    else:
        length = planned.settings["TrainingArguments.max_length"].value
        console.print(
            f"[yellow]verdict:[/yellow] does not fit with rows of {length} tokens: {needs}; it does with shorter rows, "
            "which the check job counts"
        )


def _print_estimate(console: Console, estimate: Estimate) -> None:
    from kaito.cli.text import show_bytes

    if estimate.total_bytes == 0:
        console.print("\n[bold]Memory[/bold] not known: the base model's size is not")
        return
    rough = " [yellow](rough: the model's shapes are not known yet)[/yellow]" if estimate.rough else ""
    rows = f", at a micro-batch of {estimate.micro_batch}" if estimate.micro_batch else " for one row"
    console.print(
        f"\n[bold]Memory[/bold] {show_bytes(estimate.total_bytes)} of {show_bytes(estimate.available_bytes)}"
        f"{rows}{rough}"
    )
    for part, size in estimate.parts.items():
        console.print(f"  {part:<28} {show_bytes(size):>12}")


def _print_settings(console: Console, planned: Plan) -> None:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2), show_edge=False)
    table.add_column("setting")
    table.add_column("value")
    table.add_column("from", style="dim")
    for key, setting in sorted(planned.settings.items()):
        table.add_row(key, str(setting.value), setting.source)
    console.print("\n[bold]Settings[/bold]")
    console.print(table)
