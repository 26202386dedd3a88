"""When a step need not run again: its fingerprint, and what becomes of outputs that have another one.

A step's outputs are of one fingerprint at a time. Outputs of another, or of an unknown one, are moved to
`previous/N/`: never deleted, never mixed. The order of moving and recording is in `set_aside`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from kaito.contract import Step, StepRun, digest_of, to_json
from kaito.failure import ConfigFailure
from kaito.runner.files import path_inside, replace_text, sync_folder
from kaito.runner.state import RunState, is_unfinished, was_done

PREVIOUS = "previous"


def fingerprint_of(step: Step, job: str, state: RunState) -> str:
    """Hash of the step's resolved configuration and of the results of the steps that it builds on; behind a `+` that
    of its verdict, which says nothing of the outputs.

    Raises ConfigFailure if one of those is not done.
    """
    after = {name: _result_of(name, step, job, state) for name in step.after}
    outputs = digest_of({"identity": step.identity, "after": after})
    return f"{outputs}+{digest_of(step.verdict)}" if step.verdict else outputs


def _result_of(name: str, step: Step, job: str, state: RunState) -> dict[str, Any]:
    same = state.same_steps(name)
    # This job's own record first: within a job it is the newest.
    for ran in (same.get(job, StepRun()), *same.values()):
        if ran.state == "done":
            return dict(ran.result or {})
    raise ConfigFailure(
        f"step {step.name!r} builds on step {name!r}, which is not done in this run",
        "This is a bug in the plan of the job.",
        reason="JobInvalid",
    )


def find_done(step: Step, job: str, fingerprint: str, state: RunState) -> tuple[str, StepRun] | None:
    """The job and record in which the step is done with this fingerprint, if its outputs are all still on disk."""
    if not all(os.path.lexists(path) for path in _outputs(step, state)):
        return None
    same = state.same_steps(step.name)
    if any(is_unfinished(ran) for ran in same.values()):
        return None
    for name in (job, *(name for name in same if name != job)):
        ran = same.get(name, StepRun())
        if was_done(ran) and ran.fingerprint == fingerprint:
            return name, ran
    return None


def is_claimed(step: Step, fingerprint: str, state: RunState) -> bool:
    """Whether what lies on disk of the step's outputs is known to be of this fingerprint."""
    claims = {_of_outputs(ran.fingerprint) for ran in state.same_steps(step.name).values() if ran.fingerprint}
    return claims == {_of_outputs(fingerprint)}


def _of_outputs(fingerprint: str) -> str:
    return fingerprint.partition("+")[0]


def set_aside(step: Step, state: RunState) -> Path | None:
    """Move the step's outputs to `previous/N/`. Returns that folder, or None if there were none. Raises OSError.

    The order makes a crash at any point harmless: first `run.json` stops claiming the outputs, then they move, then
    the moves are synced; only after that may the caller record the new fingerprint and start the program. A crash in
    between leaves unclaimed outputs, some here and some there, and the next start moves the rest as well.
    """
    claimed = {job: to_json(ran) for job, ran in state.same_steps(step.name).items() if ran.fingerprint}
    state.disclaim(step.name)
    present = [path for path in _outputs(step, state) if os.path.lexists(path)]
    if not present:
        return None
    target = _new_folder(state.folder / PREVIOUS)
    replace_text(target / "step.json", json.dumps({"step": step.name, "jobs": claimed}, indent=1) + "\n")
    for path in present:
        if not os.path.lexists(path):
            continue  # moved with the folder that it is in
        moved = target / path.relative_to(state.folder)
        moved.parent.mkdir(parents=True, exist_ok=True)
        path.rename(moved)
        sync_folder(moved.parent)
        sync_folder(path.parent)
    return target


def _outputs(step: Step, state: RunState) -> list[Path]:
    return [path_inside(state.folder, name) for name in step.outputs]


def _new_folder(previous: Path) -> Path:
    previous.mkdir(exist_ok=True)
    taken = [int(entry.name) for entry in previous.iterdir() if entry.name.isdigit()]
    target = previous / str(max(taken, default=0) + 1)
    target.mkdir()
    sync_folder(previous)
    return target
