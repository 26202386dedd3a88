"""The status of a Workspace from the facts: one function, both engines. Computed at the end; nothing is kept here.

What a run has reached is read from its steps; conditions keep the time of their last change from the old status.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from kaito.api.status import (
    CheckpointStatus,
    Condition,
    DataStatus,
    ModelStatus,
    OutputStatus,
    ProgressStatus,
    RunStatus,
    State,
    StepStatus,
    TuningStatus,
    WorkspaceStatus,
)
from kaito.api.workspace import Workspace
from kaito.contract import Observed, Plan, Progress, Refusal, Run, StepRun
from kaito.failure import ExitCode, NoSpaceFailure
from kaito.plan.attempts import waits_for_registry

# A phase is one word for the whole run; the first three are those of the three Jobs.
JOB_PHASES = {"check": "Checking", "tune": "Training", "push": "Pushing"}

PHASES = (
    "Pending",
    *JOB_PHASES.values(),
    "Running",
    "Waiting",
    "Succeeded",
    "Failed",
    "Refused",
    "Stopped",
    "Interrupted",
)

_STATES: Mapping[str, State] = {
    "Pending": "Pending",
    "Stopped": "Pending",
    "Interrupted": "Pending",
    "Succeeded": "Succeeded",
    "Failed": "Failed",
    "Refused": "Failed",
}


def status(
    workspace: Workspace, plan: Plan, observed: Observed, run: Run | None, old: WorkspaceStatus | None, now: float
) -> WorkspaceStatus:
    """The status document. `run` is of the Workspace's present inputs; `now` in seconds since 1970."""
    steps = list(steps_of(plan, run))
    phase = phase_of(plan, observed, run)
    failure = failure_of(plan, observed, run)
    tuning = TuningStatus(
        run=_run_status(plan, observed, run, phase, steps), progress=_progress(_trained(observed, steps), phase)
    )
    generation = workspace.metadata.generation
    conditions = [
        _dated(condition, old, now, generation)
        for condition in _conditions(workspace, plan, phase, steps, failure, attended=observed.attended)
    ]
    return WorkspaceStatus(
        conditions=conditions,
        state=_STATES.get(phase, "Running"),
        tuning=tuning if workspace.tuning is not None else None,
        observed_generation=generation,
    )


def phase_of(plan: Plan, observed: Observed, run: Run | None) -> str:
    """Pending, Checking, Training, Pushing, Waiting, Succeeded, Failed, Refused, Stopped or Interrupted."""
    steps = list(steps_of(plan, run))
    if plan.jobs and plan.refusal is None and all(ran.state == "done" for _, _, ran in steps):
        return "Succeeded"
    if plan.refusal is not None:
        return "Refused"
    if observed.running is not None:
        return JOB_PHASES.get(observed.running, "Running")
    if observed.given_up is not None and not observed.attended:
        return "Failed"
    failed = [(name, ran) for _, name, ran in steps if ran.state == "failed"]
    if failed:
        return "Waiting" if waits_for_registry(*failed[0]) else "Failed"
    if observed.attended and run is not None:  # between two Jobs, or two attempts
        following = next(job for job, _, ran in steps if ran.state != "done")
        return JOB_PHASES.get(following, "Running")
    if observed.stopped:
        return "Stopped"
    return "Pending" if all(ran.started is None for _, _, ran in steps) else "Interrupted"


def failure_of(plan: Plan, observed: Observed, run: Run | None) -> Refusal:
    """Why the run ended or waits: refused, given up, or the failed step's words; empty where nothing is wrong."""
    if plan.refusal is not None:
        return plan.refusal
    if observed.given_up is not None and not observed.attended:
        return observed.given_up
    for _, name, ran in steps_of(plan, run):
        if ran.state == "failed":
            return Refusal(_reason(name, ran), f"{name}: {ran.message}", ran.hint)
    return Refusal("", "")


def _reason(name: str, ran: StepRun) -> str:
    if name != "push" or ran.reason == NoSpaceFailure.reason:
        return ran.reason
    return {int(ExitCode.REGISTRY): "PushDenied", int(ExitCode.TEMPORARY): "RegistryUnavailable"}.get(
        ran.exit_code or 0, ran.reason
    )


def steps_of(plan: Plan, run: Run | None) -> Iterator[tuple[str, str, StepRun]]:
    """(job, step, what ran) of every planned step, in order."""
    for job in plan.jobs:
        ran = run.jobs.get(job.name) if run is not None else None
        for step in job.steps:
            yield job.name, step.name, ran.steps.get(step.name, StepRun()) if ran is not None else StepRun()


# --- the run --------------------------------------------------------------------------------------------------------


def _run_status(
    plan: Plan, observed: Observed, run: Run | None, phase: str, steps: list[tuple[str, str, StepRun]]
) -> RunStatus:
    results = {name: ran.result or {} for _, name, ran in steps if ran.state == "done"}
    model = observed.model
    data = observed.data
    pushed = results.get("push", {})
    return RunStatus(
        number=run.run if run is not None else 1,
        inputs_hash=plan.inputs_hash,
        phase=phase,
        steps=[_step_status(job, name, ran) for job, name, ran in steps],
        log_tail=list(observed.log_tail) if phase in {"Failed", "Waiting"} and observed.log_tail else None,
        model=ModelStatus(repo=_repo(plan), commit=model.commit) if model is not None else None,
        data=DataStatus(digest=data.digest, rows=data.rows) if data is not None else None,
        output=OutputStatus(
            image=pushed.get("image", ""), digest=pushed.get("digest", ""), size_bytes=pushed.get("size_bytes", 0)
        )
        if pushed
        else None,
    )


def _repo(plan: Plan) -> str:
    for job in plan.jobs:
        for step in job.steps:
            if "--repo" in step.argv:
                return step.argv[step.argv.index("--repo") + 1]
    return ""


def _step_status(job: str, name: str, ran: StepRun) -> StepStatus:
    return StepStatus(
        name=name,
        job=job,
        state=ran.state,
        attempt=ran.attempt,
        start_time=timestamp(ran.started),
        end_time=timestamp(ran.ended),
        exit_code=ran.exit_code,
        reason=_reason(name, ran) if ran.state == "failed" else ran.reason,
        message=ran.message,
        hint=ran.hint,
    )


def _trained(observed: Observed, steps: list[tuple[str, str, StepRun]]) -> Progress | None:
    """The newest word; once the training is done, what it reached: a push has no loss of its own."""
    result = next((ran.result for _, name, ran in steps if name == "tune" and ran.state == "done"), None)
    if not result or observed.progress is None:
        return observed.progress
    total = int(result.get("steps") or 0)
    return replace(
        observed.progress,
        step="tune",
        done=total,
        total=total,
        unit="steps",
        loss=result.get("loss"),
        eval_loss=result.get("eval_loss"),
        seconds_left=None,
    )


def _progress(progress: Progress | None, phase: str) -> ProgressStatus | None:
    if progress is None or not progress.step:
        return None
    checkpoint = progress.checkpoint
    return ProgressStatus(
        text=progress_text(progress, phase),
        step=progress.step,
        done=progress.done,
        total=progress.total,
        unit=progress.unit,
        epoch=progress.epoch,
        loss=progress.loss,
        eval_loss=progress.eval_loss,
        tokens_per_second=progress.tokens_per_second,
        seconds_left=progress.seconds_left,
        last_checkpoint=CheckpointStatus(step=checkpoint["step"], time=timestamp(checkpoint["time"]))
        if checkpoint
        else None,
        time=timestamp(progress.time),
    )


def progress_text(progress: Progress, phase: str) -> str:
    """`412/1200, 34 min left`; of a run that is over or waits, its phase."""
    if phase not in JOB_PHASES.values() or not progress.total:
        return phase
    if progress.unit == "bytes":
        count = f"{progress.step} {100 * progress.done // progress.total} %"
    else:
        count = f"{progress.done}/{progress.total}" if progress.unit == "steps" else f"{progress.done} {progress.unit}"
    if progress.seconds_left is None:
        return count
    seconds = progress.seconds_left
    left = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
    return f"{count}, {left} left"


# --- conditions -----------------------------------------------------------------------------------------------------


def _conditions(
    workspace: Workspace,
    plan: Plan,
    phase: str,
    steps: list[tuple[str, str, StepRun]],
    failure: Refusal,
    *,
    attended: bool,
) -> Iterator[Condition]:
    refused = plan.refusal
    if refused is not None and phase == "Refused":
        yield Condition(type="ResourceReady", status="False", reason=refused.reason, message=_words(refused))
    else:
        ready = "workspace resource is ready"
        yield Condition(type="ResourceReady", status="True", reason="workspaceResourceStatusSuccess", message=ready)
    if workspace.tuning is not None:
        yield _job_started(phase, steps, failure)
    is_trained = any(name == "tune" and ran.started is not None for _, name, ran in steps)
    yield _succeeded(phase, failure, _consolation(steps, attended=attended), is_trained=is_trained)


def _job_started(phase: str, steps: list[tuple[str, str, StepRun]], failure: Refusal) -> Condition:
    kind = "JobStarted"
    if phase in {"Failed", "Refused"}:
        return Condition(type=kind, status="False", reason="WorkspaceTuningJobStatusFailed", message=_words(failure))
    if any(name == "tune" and ran.started is not None for _, name, ran in steps):
        message = "Tuning job has started"
        return Condition(type=kind, status="True", reason="WorkspaceTuningJobStatusStarted", message=message)
    message = "Tuning job has not started"
    return Condition(type=kind, status="False", reason="WorkspaceTuningJobStatusPending", message=message)


def _succeeded(phase: str, failure: Refusal, consolation: str, *, is_trained: bool) -> Condition:
    kind = "WorkspaceSucceeded"
    if phase == "Succeeded":
        return Condition(type=kind, status="True", reason="workspaceSucceeded", message="workspace succeeds")
    if phase in {"Failed", "Refused"}:
        return Condition(type=kind, status="False", reason=failure.reason or "workspaceFailed", message=_words(failure))
    if phase == "Waiting":
        message = f"{_words(failure)} {consolation}"
        return Condition(type=kind, status="False", reason=failure.reason, message=message)
    message = "workspace has not completed yet, tuning job is running"
    if phase == "Pending":
        message = "workspace is initializing, tuning job has not started"
    elif phase in {"Stopped", "Interrupted"}:
        where = "from its newest checkpoint" if is_trained else "where it was, with nothing trained yet,"
        message = f"the run is stopped; it goes on {where} when it is started again"
    return Condition(type=kind, status="False", reason="workspacePending", message=message)


def _consolation(steps: list[tuple[str, str, StepRun]], *, attended: bool) -> str:
    """What is not lost while the registry is waited for, and what happens next."""
    trained = any(name == "tune" and ran.state == "done" for _, name, ran in steps)
    kept = "Training is done and kept" if trained else "Nothing has been trained"
    return f"{kept}; {'it is tried again hourly' if attended else 'kaito retry goes on'}."


def _words(failure: Refusal) -> str:
    return failure.message + (f" {failure.hint}" if failure.hint else "")


def _dated(condition: Condition, old: WorkspaceStatus | None, now: float, generation: int | None) -> Condition:
    """With the time at which its status last changed."""
    before = next((c for c in (old.conditions if old else None) or [] if c.type == condition.type), None)
    same = before is not None and before.status == condition.status and before.last_transition_time
    time = before.last_transition_time if same and before is not None else timestamp(now)
    return condition.model_copy(update={"last_transition_time": time, "observed_generation": generation})


def timestamp(seconds: float | None) -> str | None:
    """RFC 3339, as Kubernetes writes times."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
