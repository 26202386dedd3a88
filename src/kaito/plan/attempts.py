"""Whether a Job is started, waited for, done or given up: one rule for both engines.

What the runner gave up on is final, with two exceptions that cost no training: a registry that refuses or is away.
A runner that ended without a result (killed, node lost) is started again, a bounded number of times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kaito.contract import Job, JobRun, Observed, Refusal, StepRun, digest_of
from kaito.failure import ExitCode, NoSpaceFailure

HOUR = 3600.0
WAIT_LIMIT = 24 * HOUR


# What a program means as final; a runner that ends with one and failed no step cannot be started at all.
_FINAL = frozenset({2, 3, 4, 5, 6, 7})


@dataclass(frozen=True, slots=True)
class Attempt:
    """One Pod's or runner's life. `exit_code` is None where it ended without one (killed, node lost).

    `ended`: seconds since 1970. `checkpoint`: the newest complete checkpoint's step when it ended. `interrupted`: it
    left no step failed and the Job not done; `failure` is then the runner's own last word, if it left one. `request`:
    what was asked for when it was started.
    """

    number: int
    exit_code: int | None = None
    ended: float = 0.0
    checkpoint: int = 0
    interrupted: bool = True
    failure: Refusal | None = None
    request: str = ""


@dataclass(frozen=True, slots=True)
class Runs:
    """What is known of a Job's earlier attempts, none of which is running now."""

    state: JobRun | None = None
    attempts: Sequence[Attempt] = ()


@dataclass(frozen=True, slots=True)
class Start:
    attempt: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before `until` (seconds since 1970), or until the named Secret changes, or `retry`."""

    until: float
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Done:
    pass


@dataclass(frozen=True, slots=True)
class Failed:
    step: str
    reason: str
    message: str
    hint: str = ""


def next_attempt(job: Job, runs: Runs, observed: Observed, now: float) -> Start | Wait | Done | Failed:
    """What to do with a Job of which no attempt is running. `now`: seconds since 1970."""
    steps = runs.state.steps if runs.state is not None else {}
    if all(step.name in steps and steps[step.name].state == "done" for step in job.steps):
        return Done()
    before = runs.state.attempt if runs.state is not None else 0
    following = max([before, *(attempt.number for attempt in runs.attempts)]) + 1
    request = request_of(job, observed)
    attempts = [attempt for attempt in runs.attempts if attempt.request == request]
    for step in job.steps:
        ran = steps.get(step.name)
        if ran is None or ran.state != "failed" or runs.state is None or runs.state.request != request:
            continue
        if waits_for_registry(step.name, ran):
            return _wait(step.name, ran, attempts, following, now)
        return Failed(step.name, ran.reason, ran.message, ran.hint)
    return _after_interruption(job, runs, attempts, following)


def request_of(job: Job, observed: Observed) -> str:
    """What is asked for, in one word: another one after a `retry`, or after one of the Job's Secrets has changed.

    Compared with that of the newest attempt, not by times: a clock that is set back makes no request an old one, and
    one set forward lets no attempt be made for ever.
    """
    changes = {name: observed.secrets[name] for name in job.secrets if name in observed.secrets}
    return digest_of({"retried": observed.asked.retried, "secrets": changes})


def waits_for_registry(step: str, ran: StepRun) -> bool:
    """Whether a failed step costs nothing but waiting: the registry refuses, or is away when all else is done."""
    if step not in {"login", "push"} or ran.reason == NoSpaceFailure.reason:
        return False
    return ran.exit_code == ExitCode.REGISTRY or (step == "push" and ran.exit_code == ExitCode.TEMPORARY)


def _wait(step: str, ran: StepRun, attempts: Sequence[Attempt], following: int, now: float) -> Start | Wait | Failed:
    ended = now if ran.ended is None else ran.ended
    tries = sum(attempt.exit_code in (ExitCode.REGISTRY, ExitCode.TEMPORARY) for attempt in attempts)
    if tries * HOUR >= WAIT_LIMIT:
        return Failed(step, ran.reason, f"{ran.message} (tried hourly for 24 hours)", ran.hint)
    if now >= ended + HOUR or now < ended:  # it ended in the future: the clock was set back, and nobody knows how far
        return Start(following)
    return Wait(ended + HOUR, ran.reason, ran.message)


def _after_interruption(job: Job, runs: Runs, attempts: Sequence[Attempt], following: int) -> Start | Failed:
    """Attempts count anew after each newer checkpoint, and one stopped by SIGTERM (a drain, Ctrl-C) is free."""
    spent = 0
    newest = 0
    for attempt in attempts:
        if attempt.checkpoint > newest:
            newest, spent = attempt.checkpoint, 0
        elif attempt.interrupted and attempt.exit_code != ExitCode.STOPPED:
            spent += 1
    last = attempts[-1] if attempts else Attempt(0)
    said = last.failure if last.interrupted else None
    again = said is None or (last.exit_code not in _FINAL and said.reason != NoSpaceFailure.reason)
    if spent < job.attempts and again:
        return Start(following)
    step = _unfinished(job, runs)
    if said is not None:
        return Failed(step, said.reason, said.message, said.hint)
    return Failed(
        step,
        "Interrupted",
        f"The job ended {spent} times without a result and without a newer checkpoint.",
        "Look at the log's end: the machine may be out of memory or restarting.",
    )


def _unfinished(job: Job, runs: Runs) -> str:
    done = {name for name, ran in (runs.state.steps if runs.state else {}).items() if ran.state == "done"}
    return next((step.name for step in job.steps if step.name not in done), job.steps[-1].name)
