"""What is on this machine for one Workspace: its run folder read into facts, and what `plan` makes of them.

The one view that the engine acts on and that `get`, `describe` and the live view show. Reads files, writes none.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kaito.api.workspace import Workspace, WorkspaceStatus
from kaito.contract import DataFacts, Job, JobRun, ModelFacts, Observed, Plan, Refusal, Run, StepRun, from_json
from kaito.failure import ConfigFailure
from kaito.local.desired import Desired, Unreadable, load_desired, secret_changes
from kaito.local.device import find_device
from kaito.local.ending import Ending, load_ending
from kaito.local.home import Key, run_folder
from kaito.local.lock import engine_pid
from kaito.local.processes import tree_memory_bytes
from kaito.plan import failure_of, hash_inputs, phase_of, plan, status, steps_of
from kaito.runner.events import Event, read_events
from kaito.runner.files import read_tail
from kaito.runner.lock import is_locked
from kaito.runner.progress import read_progress
from kaito.runner.state import load_run

__all__ = ["Event", "View", "job_run", "observe", "read_events", "run_number", "view"]

LOG_TAIL_LINES = 50
LOG_TAIL_BYTES = 8_000


@dataclass(frozen=True, slots=True)
class View:
    """One Workspace as it is now. `run` is None where nothing has run of its present inputs."""

    key: Key
    desired: Desired
    workspace: Workspace
    observed: Observed
    plan: Plan
    run: Run | None
    status: WorkspaceStatus
    memory_bytes: int = 0

    @property
    def phase(self) -> str:
        """Pending, Checking, Training, Pushing, Waiting, Succeeded, Failed, Refused, Stopped or Interrupted."""
        return phase_of(self.plan, self.observed, self.run)

    @property
    def folder(self) -> Path:
        return run_folder(self.key)

    def failure(self) -> Refusal:
        """Why the run ended or waits; empty where nothing is wrong."""
        return failure_of(self.plan, self.observed, self.run)

    def steps(self) -> list[tuple[str, str, StepRun]]:
        """(job, step, what ran) in order; a step that an earlier Job has done already is left out where it rests."""
        shown: list[tuple[str, str, StepRun]] = []
        for job, name, ran in steps_of(self.plan, self.run):
            if ran.state in {"pending", "done"} and any(name == other for _, other, _ in shown):
                continue
            shown.append((job, name, ran))
        return shown

    @property
    def adapter(self) -> str:
        """Where a finished adapter is: `in FOLDER`, or the image with its digest. "" where there is none yet."""
        run = self.status.tuning.run if self.status.tuning is not None else None
        if run is not None and run.output is not None and run.output.image:
            return f"{run.output.image}@{run.output.digest}" if run.output.digest else run.output.image
        output = self.workspace.tuning.output if self.workspace.tuning is not None else None
        folder = ((output.volume_source or {}).get("hostPath") or {}).get("path") if output is not None else None
        return f"in {folder}" if folder and self.phase == "Succeeded" else ""

    def config_text(self) -> str:
        """The user's ConfigMap text as read at the start, "" where the Workspace names none."""
        body = self.workspace.tuning or self.workspace.inference
        name = (body.config if body is not None else None) or ""
        return "\n".join(self.desired.configs.get(name, {}).values())

    def age_seconds(self) -> float | None:
        """Since its run began; None where none has."""
        started = [ran.started for _, _, ran in steps_of(self.plan, self.run) if ran.started]
        return max(0.0, time.time() - min(started)) if started else None  # a clock set back makes nothing younger

    def document(self) -> dict[str, Any]:
        """The Workspace as typed, with its status: what `get -o yaml` prints."""
        return {**self.desired.workspace, "status": self.status_value()}

    def status_value(self) -> dict[str, Any]:
        return self.status.model_dump(mode="json", by_alias=True, exclude_none=True)

    def status_json(self) -> str:
        return json.dumps(self.status_value(), indent=1, ensure_ascii=False)


def view(key: Key, *, runner: int | None = None, attended: bool | None = None, ending: Ending | None = None) -> View:
    """Look at a Workspace. `runner`: the pid of the runner that the caller started, if it lives; `attended`: whether
    an engine is at work, `ending`: how the last one ended, where the caller knows.

    Raises KeyError where this machine has no such Workspace, Unreadable where its folder is not what it was.
    """
    desired = load_desired(key)
    if desired is None:
        raise KeyError(str(key))
    try:
        workspace = Workspace.model_validate(desired.workspace)
        run = load_run(run_folder(key))
        basis = observe(key, desired, None, attended=attended, ending=ending)
        current = run if run is not None and run.inputs_hash == hash_inputs(workspace, basis) else None
        observed = observe(key, desired, current, attended=basis.attended, ending=ending)
        planned = plan(workspace, observed)
        state = status(workspace, planned, observed, current, _read_status(run_folder(key)), time.time())
    except OSError as error:
        raise Unreadable(key, error.strerror or str(error)) from error
    except ConfigFailure as error:
        raise Unreadable(key, error.message) from error
    except (ValueError, KeyError, TypeError) as error:
        raise Unreadable(key, f"what is in it is damaged ({str(error).splitlines()[0]})") from error
    memory = tree_memory_bytes(runner) if runner else 0
    return View(key, desired, workspace, observed, planned, current, state, memory)


def observe(
    key: Key, desired: Desired, run: Run | None, *, attended: bool | None = None, ending: Ending | None = None
) -> Observed:
    """The facts that decisions depend on. `run` is None where none is of the present inputs: its facts do not count."""
    folder = run_folder(key)
    ended = ending or load_ending(folder)
    return Observed(
        model=_model_facts(run),
        data=_data_facts(run),
        configs=desired.configs,
        secrets=secret_changes(folder),
        device=find_device(),
        asked=desired.asked,
        attended=engine_pid(key) is not None if attended is None else attended,
        running=_running_job(run) if run is not None and is_locked(folder) else None,
        progress=read_progress(folder) if run is not None else None,
        log_tail=_log_tail(folder, run),
        stopped=ended.stopped,
        given_up=ended.given_up,
        allow_hosts=desired.allow_hosts,
    )


def job_run(run: Run | None, job: Job) -> JobRun | None:
    return None if run is None else run.jobs.get(job.name)


def run_number(key: Key, plan: Plan) -> int:
    """The number of the run that the next attempt belongs to: one more where the inputs have changed."""
    run = load_run(run_folder(key))
    if run is None:
        return 1
    return run.run if run.inputs_hash == plan.inputs_hash else run.run + 1


def _steps(run: Run | None) -> Iterator[tuple[str, StepRun]]:
    for job in (run.jobs if run is not None else {}).values():
        yield from job.steps.items()


def _result(run: Run | None, step: str) -> Mapping[str, Any] | None:
    return next((ran.result for name, ran in _steps(run) if name == step and ran.state == "done"), None)


def _model_facts(run: Run | None) -> ModelFacts | None:
    result = _result(run, "resolve")
    return None if result is None else from_json(ModelFacts, result)


def _data_facts(run: Run | None) -> DataFacts | None:
    """Only whole: fetched and preflighted."""
    fetched, checked = _result(run, "fetch"), _result(run, "preflight")
    if fetched is None or checked is None:
        return None
    tokens = checked.get("tokens") or {}
    return DataFacts(
        files=fetched["files"],
        bytes=fetched["bytes"],
        digest=fetched["digest"],
        rows=checked["rows"],
        tokens_p50=tokens.get("p50", 0),
        tokens_p95=tokens.get("p95", 0),
        tokens_p99=tokens.get("p99", 0),
        tokens_max=tokens.get("max", 0),
        truncated=checked.get("truncated", 0),
        untrained=checked.get("untrained", 0),
        dropped=checked.get("dropped", 0),
    )


def _running_job(run: Run | None) -> Any:
    for name, job in (run.jobs if run else {}).items():
        if any(step.state in {"running", "waiting"} for step in job.steps.values()):
            return name
    return None


def _log_tail(folder: Path, run: Run | None) -> tuple[str, ...]:
    """The end of the failed step's log, else of the running one's: at most 50 lines and 8,000 bytes."""
    for wanted in ({"failed"}, {"running", "waiting"}):
        for name, ran in _steps(run):
            if ran.state in wanted:
                text = read_tail(folder / "logs" / f"{name}.log", LOG_TAIL_BYTES).decode("utf-8", errors="replace")
                return tuple(text.splitlines()[-LOG_TAIL_LINES:])
    return ()


def _read_status(folder: Path) -> WorkspaceStatus | None:
    try:
        return WorkspaceStatus.model_validate_json((folder / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
