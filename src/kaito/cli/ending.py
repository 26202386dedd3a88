"""What `kaito run` and `retry` say when a run has ended: what it came to, what is kept, and what to do next."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from kaito.contract import StepRun
from kaito.failure import ExitCode

if TYPE_CHECKING:
    from kaito.client import View

AFTER_EDITING = "after editing the file: kaito run -f FILE"
_MENDED_BY_EDITING = frozenset({int(ExitCode.CONFIG), int(ExitCode.DATA)})


def print_end(seen: View, output: str, note: str, *, killed: bool) -> None:
    """`note`: what else is to be said of a success. `killed`: the trainer was given no time to save."""
    name = seen.key.name
    if seen.phase == "Succeeded":
        if output == "text":
            print(f"{name}: Succeeded" + (f": adapter {seen.adapter}" if seen.adapter else ""))
            if note:
                print(f"{name}: {note}")
        return
    if seen.phase == "Stopped":
        print(f"{name}: {describe_stop(seen, killed=killed)}", file=sys.stderr)
        return
    failure = seen.failure()
    print(f"{name}: {seen.phase}: {failure.reason}: {failure.message}", file=sys.stderr)
    if failure.hint:
        print(f"{name}: hint: {failure.hint}", file=sys.stderr)
    if is_mended_by_editing(seen):
        print(f"{name}: {AFTER_EDITING}", file=sys.stderr)
    if seen.phase == "Waiting":
        kept = "training is done and kept" if _tune(seen).state == "done" else "nothing has been trained yet"
        print(f"{name}: {kept}; kaito retry {name} goes on from there", file=sys.stderr)


def is_mended_by_editing(seen: View) -> bool:
    """Whether a run has failed by its configuration or data: the same Workspace would fail the same way again."""
    return seen.plan.refusal is not None or any(
        ran.state == "failed" and ran.exit_code in _MENDED_BY_EDITING for _, _, ran in seen.steps()
    )


def describe_stop(seen: View, *, killed: bool) -> str:
    """What a stopped run has kept, and how it goes on."""
    again = f"kaito run or kaito retry {seen.key.name}"
    how = "stopped at once" if killed else "stopped"
    tune, progress = _tune(seen), seen.observed.progress
    if tune.state == "done":
        return f"{how}; the training is done and kept; {again} goes on from there"
    if tune.started is None:
        return f"{how}; nothing was trained yet; {again} goes on"
    if progress is None or not progress.checkpoint:
        return f"{how}; no step of the training was saved yet; {again} trains from the first one"
    total = f" of {progress.total:,}" if progress.step == "tune" and progress.total else ""
    kept = f"step {progress.checkpoint['step']:,}{total}"
    saved = f"{how}; the newest checkpoint is {kept}" if killed else f"{how} and saved at {kept}"
    return f"{saved}; {again} goes on from there"


def _tune(seen: View) -> StepRun:
    return next((ran for _, step, ran in seen.steps() if step == "tune"), StepRun())
