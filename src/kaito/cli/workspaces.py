"""`kaito get`, `describe`, `logs`, `wait`, `stop`, `delete`: look at Workspaces that were applied, and end them."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kaito.cli.errors import fail, failing, parse_key

if TYPE_CHECKING:
    from rich.console import Console

    from kaito.client import Key, View

Name = Annotated[str, typer.Argument(metavar="NAME", help="NAME or NAMESPACE/NAME.")]
Namespace = Annotated[str, typer.Option("-n", "--namespace", help="The namespace of a bare NAME.")]


def get(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One Workspace; all without it.")] = None,
    namespace: Annotated[str | None, typer.Option("-n", "--namespace", help="Only this namespace.")] = None,
    output: Annotated[Literal["text", "json", "yaml"], typer.Option("-o", "--output")] = "text",
) -> None:
    """List Workspaces with their progress and loss, or print one.

    Example: kaito get -o json
    """
    from kaito.client import connect, document_json, document_yaml, list_json

    client = connect()
    if name is not None:
        seen = _get(parse_key(name, namespace or "default"))
        if output == "json":
            print(document_json(seen))
        elif output == "yaml":
            print(document_yaml(seen), end="")
        else:
            _print_table([seen])
        return
    with failing():
        found, unreadable = client.get_all(namespace)
    if output == "json":
        print(list_json(found))
    elif output == "yaml":
        print("---\n".join(document_yaml(seen) for seen in found), end="")
    elif found:
        _print_table(found)
    elif not unreadable:
        where = f"in namespace {namespace} on {client.where}" if namespace else f"on {client.where}"
        print(f"No Workspaces {where}.", file=sys.stderr)
    for error in unreadable:
        print(f"error: {error}; kaito delete {error.key.name} removes it", file=sys.stderr)
    raise typer.Exit(1 if unreadable else 0)


def _print_table(found: list[View]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from kaito.cli.text import show_age

    namespaces = len({seen.key.namespace for seen in found}) > 1
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in (
        *(("NAMESPACE",) if namespaces else ()),
        "NAME", "INSTANCE", "RESOURCEREADY", "JOBSTARTED", "WORKSPACEREADY", "STATE", "PROGRESS", "LOSS", "AGE",
    ):  # fmt: skip
        table.add_column(column, no_wrap=True)
    for seen in found:
        progress = seen.status.tuning.progress if seen.status.tuning is not None else None
        loss = "" if progress is None or progress.loss is None else f"{float(progress.loss):.3f}"
        table.add_row(
            *((seen.key.namespace,) if namespaces else ()),
            seen.key.name,
            seen.workspace.resource.instance_type or "this machine",
            _condition(seen, "ResourceReady"),
            _condition(seen, "JobStarted"),
            _condition(seen, "WorkspaceSucceeded"),
            "Stopped" if seen.phase == "Stopped" else seen.status.state or "",  # which the CRD has no word for
            (progress.text if progress is not None else None) or seen.phase,
            loss,
            show_age(seen.age_seconds()),
        )
    _wide_console().print(table)


def _wide_console() -> Console:
    """A table is cut to the terminal's width there, and never where another program reads it."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=240)


def _condition(seen: View, kind: str) -> str:
    return next((c.status for c in seen.status.conditions or [] if c.type == kind), "")


def describe(name: Name, namespace: Namespace = "default") -> None:
    """Everything known of one Workspace: steps, results, what failed and what to do about it.

    Example: kaito describe workspace-tuning-phi-3
    """
    from rich.console import Console

    from kaito.cli.live import describe_progress
    from kaito.client import read_events

    seen = _get(parse_key(name, namespace))
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"Name:       {seen.key.name}")
    console.print(f"Namespace:  {seen.key.namespace}")
    console.print(f"Phase:      {seen.phase}")
    console.print(f"Folder:     {seen.folder}")
    run = seen.status.tuning.run if seen.status.tuning is not None else None
    if run is not None:
        console.print(f"Run:        {run.number}")
        if run.model is not None:
            console.print(f"Base model: {run.model.repo} at {run.model.commit or '(not resolved)'}")
        if run.data is not None:
            console.print(f"Data:       {run.data.rows} rows, {run.data.digest}")
        if run.output is not None and run.output.image:
            console.print(f"Adapter:    {run.output.image} {run.output.digest or ''}")
    progress = seen.observed.progress
    if progress is not None and progress.total and progress.state == "running":
        console.print(f"Progress:   {describe_progress(progress, seen.memory_bytes)}")
    _print_losses(console, seen)
    console.print("Steps:")
    failure = seen.failure()
    for _, step, ran in seen.steps():
        is_said_below = failure.message == f"{step}: {ran.message}"
        message, hint = ("", "") if is_said_below else (ran.message, ran.hint)
        _print_step(console, step, ran.state, ran.reason, message, hint)
    if failure.reason:
        console.print(f"Reason:     {failure.reason}\nMessage:    {failure.message}")
        if failure.hint:
            console.print(f"Hint:       {failure.hint}")
    for warning in seen.plan.warnings:
        console.print(f"Warning:    {warning}")
    events = read_events(seen.key)[-10:]
    if events:
        console.print("Events:")
    for event in events:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.time))
        message = "" if failure.message == f"{event.step}: {event.message}" else event.message
        console.print(f"  {when}  {event.step:<10} {event.reason:<18} {message}".rstrip())


def _print_losses(console: Console, seen: View) -> None:
    """What the training reached, and where its adapter is if that is a folder."""
    from kaito.cli.live import describe_kept

    result = next((ran.result for _, step, ran in seen.steps() if step == "tune" and ran.state == "done"), None)
    if not result:
        return
    if result.get("base_eval_loss") is not None and result.get("eval_loss") is not None:
        losses = f"{result['base_eval_loss']:.4f} before, {result['eval_loss']:.4f} after"
        console.print(f"Held-out:   loss {losses}, {result['steps']} steps{describe_kept(result)}")
    tuning = seen.workspace.tuning
    output = tuning.output if tuning is not None else None
    folder = ((output.volume_source or {}).get("hostPath") or {}).get("path") if output is not None else None
    if folder:
        console.print(f"Adapter:    {folder}")


def _print_step(console: Console, step: str, state: str, reason: str, message: str, hint: str) -> None:
    console.print(f"  {step:<10} {state:<8} {reason}{': ' if reason and message else ''}{message}")
    if hint and state in {"failed", "waiting"}:
        console.print(f"  {'':<10} {'':<8} hint: {hint}")


def logs(
    name: Name,
    namespace: Namespace = "default",
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Until the run ends.")] = False,
    step: Annotated[str | None, typer.Option("--step", help="A step of kaito describe; the newest without it.")] = None,
    tail: Annotated[int | None, typer.Option("--tail", min=0, help="Only the last lines.")] = None,
) -> None:
    """Print what a step said: the newest one's log, or that of --step.

    Example: kaito logs workspace-tuning-phi-3 --step tune -f
    """
    from kaito.client import follow_log, log_steps, read_log

    key = _get(parse_key(name, namespace)).key
    known = log_steps(key)
    if step is not None and step not in known and not follow:
        fail(f"no log of step {step!r}; there are: {', '.join(known) or 'none yet'}")
    if not known and not follow:
        print(f"{key.name}: no step has run yet", file=sys.stderr)
        return
    lines = follow_log(key, step, tail) if follow else read_log(key, step or known[-1], tail)
    for line in lines:
        sys.stdout.write(line)
        sys.stdout.flush()


def wait(
    name: Name,
    namespace: Namespace = "default",
    condition: Annotated[str, typer.Option("--for", help="A phase: Succeeded, Failed, Training…")] = "Succeeded",
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds; 0 waits for ever.")] = 0.0,
) -> None:
    """Wait until a Workspace is in a phase. Ends with 1 when it ends in another, or at the time-out.

    Example: kaito wait workspace-tuning-phi-3 --for Succeeded --timeout 3600
    """
    from kaito.client import connect

    key = parse_key(name, namespace)
    wanted = _phase(condition)
    deadline = time.monotonic() + timeout if timeout else None
    while True:
        seen = _get(key)
        if seen.phase == wanted:
            print(f"workspace/{key.name} {seen.phase}")
            return
        if seen.phase in {"Succeeded", "Failed", "Refused"} or connect().engine_pid(key) is None:
            failure = seen.failure()
            said = f": {failure.message}" if failure.message else ""
            fail(f"{key.name} is {seen.phase} and nothing runs it{said}")
        if deadline is not None and time.monotonic() > deadline:
            fail(f"{key.name} is {seen.phase} after {timeout:.0f} s")
        time.sleep(0.5)


def _phase(condition: str) -> str:
    """`Training`, `phase=Training`, `condition=WorkspaceSucceeded`, in any case. Raises typer's error for no phase."""
    from difflib import get_close_matches

    from kaito.client import PHASES

    phases = {phase.lower(): phase for phase in PHASES} | {"workspacesucceeded": "Succeeded"}
    asked = condition.removeprefix("phase=").removeprefix("condition=")
    if asked.lower() in phases:
        return phases[asked.lower()]
    near = get_close_matches(asked.lower(), phases, n=1, cutoff=0.5)
    hint = f"did you mean {phases[near[0]]}? " if near else ""
    raise typer.BadParameter(f"{asked!r} is no phase; {hint}there are {', '.join(PHASES)}", param_hint="--for")


def stop(name: Name, namespace: Namespace = "default") -> None:
    """Save and stop. kaito run or kaito retry goes on from there.

    Example: kaito stop workspace-tuning-phi-3
    """
    from kaito.client import connect

    key = parse_key(name, namespace)
    with failing():
        stopped = connect().stop(key)
    print(f"workspace/{key.name} {'stopped' if stopped else 'was not running'}")


def delete(name: Name, namespace: Namespace = "default") -> None:
    """Stop it and remove its run folder, checkpoints included. A pushed adapter stays in its registry.

    Example: kaito delete workspace-tuning-phi-3
    """
    from kaito.client import connect

    key = parse_key(name, namespace)
    with failing():
        connect().delete(key)
    print(f"workspace/{key.name} deleted")


def _get(key: Key) -> View:
    from kaito.client import connect

    with failing():
        return connect().get(key)
    raise AssertionError("unreachable: `failing` ends the command")
