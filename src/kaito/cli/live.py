"""What `kaito run` shows while it runs: on a terminal the steps and a bar that move, elsewhere plain lines."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kaito.cli.text import show_bytes, show_seconds
from kaito.contract import Progress, StepRun

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from kaito.client import Key, View

PLAIN_SECONDS = 10.0
FEW_ROWS = 20  # held out; their mean loss says little of other rows
_MARKS = {"done": "✓", "failed": "✗", "running": "▸", "waiting": "…", "pending": "·"}
_STYLES = {"done": "green", "failed": "red", "running": "bold cyan", "waiting": "yellow", "pending": "dim"}


def build_console(*, stderr: bool) -> Console:
    """A console whose reader may go away (`| head`): that is an OSError, not the end of the program."""
    from rich.console import Console

    class LastingConsole(Console):
        def on_broken_pipe(self) -> None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())
            raise BrokenPipeError

    return LastingConsole(stderr=stderr, highlight=False)


@contextmanager
def live(console: Console, name: str) -> Iterator[Callable[[View], None]]:
    """Show each View that is passed to what this yields."""
    if not console.is_terminal:
        yield PlainLines(console, name)
        return
    from rich.live import Live

    with Live(console=console, refresh_per_second=8, transient=False) as display:
        yield lambda seen: display.update(_render(name, seen))


def with_restarts(show: Callable[[View], None], console: Console, key: Key) -> Callable[[View], None]:
    """`show`, and a line once the training has set aside what was trained before: nobody shall lose it unawares."""
    from kaito.client import read_events

    since = time.time()
    told = False

    def tick(seen: View) -> None:
        nonlocal told
        show(seen)
        if told or not any(step == "tune" and (ran.started or 0.0) >= since for _, step, ran in seen.steps()):
            return
        told = True
        for event in read_events(key):
            if event.time >= since and (event.step, event.reason) == ("tune", "MovedAside"):
                console.print(f"{key.name}: {event.message}", soft_wrap=True, markup=False)

    return tick


class PlainLines:
    """A line when a step begins or ends, and one each ten seconds of a step that counts."""

    def __init__(self, console: Console, name: str) -> None:
        self._console = console
        self._name = name
        self._states: dict[str, str] = {}
        self._said = 0.0

    def __call__(self, seen: View) -> None:
        first = not self._states
        for job, step, ran in seen.steps():
            if ran.state == self._states.get(f"{job}/{step}", "pending"):
                self._states.setdefault(f"{job}/{step}", ran.state)
                continue
            self._states[f"{job}/{step}"] = ran.state
            if not first:
                self._line(step, describe_step(ran))
            elif ran.state == "done":
                self._line(step, "done before")
                self._said = time.monotonic()
        progress = seen.observed.progress
        if progress is None or progress.state != "running" or time.monotonic() - self._said < PLAIN_SECONDS:
            return
        if progress.total:
            self._said = time.monotonic()
            self._line(progress.step, describe_progress(progress, seen.memory_bytes))

    def _line(self, step: str, text: str) -> None:
        self._console.print(f"{self._name}  {step:<10} {text}", soft_wrap=True)


def describe_step(ran: StepRun) -> str:
    """A step's state in words: `done in 4 s`, `failed: DataInvalid: …`."""
    if ran.state == "done":
        took = "" if ran.started is None or ran.ended is None else f" in {show_seconds(ran.ended - ran.started)}"
        return f"done{took}{_result(ran)}"
    if ran.state == "failed":
        return f"failed: {ran.reason}: {ran.message}"
    if ran.state == "waiting":
        return f"waiting to try again: {ran.reason}: {ran.message}"
    again = f" (try {ran.attempt})" if ran.attempt > 1 else ""
    return f"{ran.state}{again}"


def _result(ran: StepRun) -> str:
    result = ran.result or {}
    parts = []
    if "rows" in result:
        parts.append(f"{result['rows']:,} rows")
    if "files" in result and "bytes" in result:
        files = result["files"]
        parts.append(f"{files} file{'' if files == 1 else 's'}, {show_bytes(result['bytes'])}")
    if result.get("base_eval_loss") is not None and result.get("eval_loss") is not None:
        losses = f"{result['base_eval_loss']:.3f} before, {result['eval_loss']:.3f} after"
        parts.append(f"held-out loss {losses}{describe_kept(result)}")
    if "note" in result:
        parts.append(str(result["note"]))
    if "image" in result:
        parts.append(f"{result['image']} {result.get('digest', '')}")
    return f" ({'; '.join(parts)})" if parts else ""


def describe_kept(result: Mapping[str, Any]) -> str:
    """Of the training's result: which step was kept, if not the last, and how far its held-out loss can be trusted."""
    steps, best, rows = result.get("steps"), result.get("best_step"), result.get("eval_rows")
    kept = f", kept step {best:,} of {steps:,}" if best and steps and best != steps else ""
    few = f" (on {rows} held-out rows: a noisy number)" if rows and rows < FEW_ROWS else ""
    return kept + few


def describe_progress(progress: Progress, memory_bytes: int) -> str:
    """`120/330  loss 0.842  3,120 tokens/s  12 s left  412.0 MiB`."""
    parts = [_count(progress)]
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.3f}")
    if progress.eval_loss is not None:
        parts.append(f"held-out {progress.eval_loss:.3f}")
    if progress.tokens_per_second:
        parts.append(f"{progress.tokens_per_second:,.0f} tokens/s")
    if progress.seconds_left is not None:
        parts.append(f"{show_seconds(progress.seconds_left)} left")
    if memory_bytes:
        parts.append(show_bytes(memory_bytes))
    return "  ".join(parts)


def _count(progress: Progress) -> str:
    if progress.unit == "bytes":
        return f"{show_bytes(progress.done)}/{show_bytes(progress.total)}"
    return f"{progress.done:,}/{progress.total:,}" + (f" {progress.unit}" if progress.unit != "steps" else "")


def _render(name: str, seen: View) -> RenderableType:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1))
    progress = seen.observed.progress
    for _, step, ran in seen.steps():
        style = _STYLES[ran.state]
        detail = describe_step(ran) if ran.state != "pending" else ""
        table.add_row(Text(_MARKS[ran.state], style=style), Text(step, style=style), Text(detail, style="dim"))
    lines: list[RenderableType] = [Text(f"{name}  {seen.phase}", style="bold"), table]
    if progress is not None and progress.state == "running" and progress.total:
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=progress.total, completed=progress.done, width=30),
            Text(describe_progress(progress, seen.memory_bytes)),
        )
        lines.append(bar)
    return Group(*lines)
