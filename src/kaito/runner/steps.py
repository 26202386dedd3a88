"""One step: skipped, or started until it is done, has failed for good, or the runner is told to stop.

Exit 1, 75, unknown codes, signals and stalls are tried again in place, `Step.attempts` starts in all, with back-off.
2 to 7, a full disk and a missed deadline are final. An out-of-memory kill earns one more start, with
`out_of_memory_argv`.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from kaito.contract import Step, StepRun
from kaito.failure import ExitCode, Failure, NoSpaceFailure, is_disk_full
from kaito.runner.child import Ending, StepFiles, Timing, run_child
from kaito.runner.events import EventLog
from kaito.runner.fingerprint import find_done, fingerprint_of, is_claimed, set_aside
from kaito.runner.lock import FolderLock
from kaito.runner.outcome import Outcome, read_outcome
from kaito.runner.progress import CHECKPOINTS, checkpoint_step
from kaito.runner.reserve import disk_full, give_up_reserve, take_reserve
from kaito.runner.signals import Signals
from kaito.runner.state import STOPPED, RunState, owner

_OUT_OF_MEMORY = "OutOfMemory"


@dataclass(frozen=True, slots=True)
class JobContext:
    """What the steps of one Job share."""

    job: str
    folder: Path
    lock: FolderLock
    state: RunState
    events: EventLog
    signals: Signals
    timing: Timing


@dataclass(frozen=True, slots=True)
class _Begin:
    """The first start of a step by this runner. `reduced`: it ran out of memory before, so with less of it."""

    attempt: int
    reduced: bool


def run_step(context: JobContext, step: Step) -> Outcome:
    """Run one step to its end. The outcome's code is 0, the failure's, or 143 if the runner was told to stop.

    Raises OSError if the folder cannot be written.
    """
    try:
        return _run(context, step)
    except OSError as error:
        if not is_disk_full(error):
            raise
        give_up_reserve(context.folder)
        return _fail_unstarted(context, step, disk_full(error, context.folder))
    except Failure as failure:  # it could not be started, or not be ended
        return _fail_unstarted(context, step, failure)


def _fail_unstarted(context: JobContext, step: Step, failure: Failure) -> Outcome:
    outcome = Outcome(failure.exit_code, failure.reason, failure.message, failure.hint)
    return _fail(context, step, context.state.step(context.job, step.name), outcome)


def _run(context: JobContext, step: Step) -> Outcome:
    fingerprint = fingerprint_of(step, context.job, context.state)
    skipped = _skip(context, step, fingerprint)
    if skipped is not None:
        return skipped
    begin = _take_over(context, step, fingerprint)
    if not is_claimed(step, fingerprint, context.state):
        reached = checkpoint_step(context.folder) if CHECKPOINTS in step.outputs else 0
        moved = set_aside(step, context.state)
        if moved is not None:
            place = moved.relative_to(context.folder)
            kept = (
                f"training begins anew; {reached:,} steps are kept in"
                if reached
                else f"{', '.join(step.outputs)} moved to"
            )
            context.events.add(step.name, "MovedAside", f"its inputs changed: {kept} {place}")
    return _run_attempts(context, step, fingerprint, begin)


def _skip(context: JobContext, step: Step, fingerprint: str) -> Outcome | None:
    found = find_done(step, context.job, fingerprint, context.state)
    if found is None:
        return None
    job, ran = found
    where = "" if job == context.job else f" since job {job}"
    context.state.record(context.job, step.name, replace(ran, state="done"))
    context.events.add(step.name, "Skipped", f"skipped, unchanged{where}")
    return Outcome(ExitCode.DONE, result=ran.result)


def _take_over(context: JobContext, step: Step, fingerprint: str) -> _Begin:
    """Count on from where an earlier runner was cut off.

    A start that was interrupted or stopped is not a failure: it is made again under its number. After a newer
    checkpoint the starts count anew.
    """
    ran = context.state.step(context.job, step.name)
    if ran.fingerprint != fingerprint:
        return _Begin(1, reduced=False)
    interrupted = ran.state == "running"
    if interrupted:
        message = f"attempt {ran.attempt} was cut off with its runner ({ran.owner}); it goes on from what is saved"
        context.events.add(step.name, "Interrupted", message, level="warning")
    reduced = ran.reason == _OUT_OF_MEMORY and ran.state in {"running", "waiting"}
    if ran.state == "waiting":
        return _Begin(min(ran.attempt + 1, step.attempts), reduced)
    if interrupted or ran.reason == STOPPED:
        progressed = checkpoint_step(context.folder) > ran.checkpoint
        return _Begin(1 if progressed else max(1, ran.attempt), reduced)
    return _Begin(1, reduced=False)


def _run_attempts(context: JobContext, step: Step, fingerprint: str, begin: _Begin) -> Outcome:
    deadline = time.monotonic() + step.timeout_seconds
    attempt, reduced = begin.attempt, begin.reduced
    while True:
        running = StepRun(
            state="running",
            attempt=attempt,
            fingerprint=fingerprint,
            owner=owner(),
            started=time.time(),
            checkpoint=checkpoint_step(context.folder),
        )
        if reduced:
            message = f"ran out of memory before; started with {' '.join(step.out_of_memory_argv)}"
            running = replace(running, reason=_OUT_OF_MEMORY, message=message)
        if context.signals.stops:
            return _stop(context, step, running, "told to stop before it was started")
        take_reserve(context.folder)
        context.state.start(context.job, step.name, running)
        context.events.add(step.name, "Started", f"attempt {attempt} of {step.attempts}")
        ending = _start(context, step, attempt, reduced, deadline - time.monotonic())
        outcome = read_outcome(step, ending, StepFiles.of(context.folder, step.name))
        if outcome.code == ExitCode.DONE:
            return _finish(context, step, running, outcome)
        if ending.cause == "stopped" and not _is_final(outcome):
            how = "stopped" if ending.code != 137 else "did not stop in time and was killed"
            return _stop(context, step, running, f"{how}; it goes on from what is saved when it is started again")
        reduces = outcome.reason == _OUT_OF_MEMORY and ending.out_of_memory and not reduced
        reduces = reduces and bool(step.out_of_memory_argv)
        delay = pause_seconds(context.timing, attempt, killed=ending.cause == "ended" and ending.code > 128)
        spent = attempt >= step.attempts or deadline - time.monotonic() <= delay
        if not reduces and (_is_final(outcome) or ending.cause == "deadline" or spent):
            return _fail(context, step, running, outcome)
        reduced = reduced or reduces
        _note_retry(context, step, running, outcome, delay)
        _wait(context, delay)
        attempt = min(attempt + 1, step.attempts) if reduces else attempt + 1


def _start(context: JobContext, step: Step, attempt: int, reduced: bool, seconds_left: float) -> Ending:
    moment = datetime.now(UTC).isoformat(timespec="seconds")
    header = f"--- {context.job}/{step.name}, attempt {attempt} of {step.attempts}, {moment}"
    try:
        return run_child(
            step,
            step.out_of_memory_argv if reduced else (),
            context.folder,
            header,
            signals=context.signals,
            lock=context.lock,
            job=context.job,
            timing=context.timing,
            seconds_left=seconds_left,
        )
    finally:
        context.lock.name_holders(job=context.job)


def _is_final(outcome: Outcome) -> bool:
    return ExitCode.CONFIG <= outcome.code <= ExitCode.DIVERGED or outcome.reason == NoSpaceFailure.reason


def pause_seconds(timing: Timing, attempt: int, *, killed: bool = False) -> float:
    """Doubles with each attempt; jitter keeps many runners from asking one registry at the same moment."""
    first = timing.killed_backoff_seconds if killed else timing.backoff_seconds
    longest = min(timing.backoff_limit_seconds, first * 2.0 ** min(attempt - 1, 30))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311  jitter, not a secret


def _wait(context: JobContext, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not context.signals.stops and (left := until - time.monotonic()) > 0:
        context.signals.wait(left)


def _ended(running: StepRun, outcome: Outcome) -> StepRun:
    return replace(
        running,
        ended=time.time(),
        exit_code=outcome.code,
        reason=outcome.reason,
        message=outcome.message,
        hint=outcome.hint,
        result=outcome.result,
    )


def _finish(context: JobContext, step: Step, running: StepRun, outcome: Outcome) -> Outcome:
    context.state.record(context.job, step.name, replace(_ended(running, outcome), state="done"))
    context.events.add(step.name, "Done", "done")
    return outcome


def _fail(context: JobContext, step: Step, running: StepRun, outcome: Outcome) -> Outcome:
    context.state.record(context.job, step.name, replace(_ended(running, outcome), state="failed"))
    context.events.add(step.name, outcome.reason, outcome.message, level="error")
    return outcome


def _note_retry(context: JobContext, step: Step, running: StepRun, outcome: Outcome, delay: float) -> None:
    context.state.record(context.job, step.name, replace(_ended(running, outcome), state="waiting"))
    message = f"{outcome.reason}: {outcome.message}; started again in {delay:.0f} s"
    context.events.add(step.name, "Retrying", message, level="warning")


def _stop(context: JobContext, step: Step, running: StepRun, message: str) -> Outcome:
    outcome = Outcome(ExitCode.STOPPED, STOPPED, message)
    context.state.record(context.job, step.name, replace(_ended(running, outcome), state="pending"))
    context.events.add(step.name, STOPPED, message)
    return outcome
