"""A Job's steps in order, in one run folder, under its lock: what `python -m kaito.runner` does.

Every end, also that of a full disk, is an exit code, a termination message and a report.
"""

from __future__ import annotations

import re
import traceback
from pathlib import Path

from kaito.contract import Job, JobFile
from kaito.failure import ConfigFailure, ExitCode, Failure, is_disk_full
from kaito.runner.child import Timing
from kaito.runner.events import EventLog, say
from kaito.runner.files import PORT_FILE, path_inside, write_job_files
from kaito.runner.lock import FolderLock, Locked
from kaito.runner.outcome import Outcome
from kaito.runner.reserve import disk_full, take_reserve, with_reserve
from kaito.runner.signals import Signals
from kaito.runner.state import STOPPED, RunState
from kaito.runner.steps import JobContext, run_step
from kaito.runner.termination import TERMINATION_FILE, JobEnd, print_report, write_termination

_STEP_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def run_job(
    job_file: JobFile,
    folder: Path,
    *,
    timing: Timing = Timing(),  # noqa: B008  frozen
    serve: str | None = None,
    termination_log: Path | None = None,
) -> int:
    """Run a Job to its end and return the exit code: 0, the failed step's, 143 if stopped, 75 if the folder is locked.

    It takes the process over: its signals, and every child that it has. Call it from the main thread of a process
    that is there for nothing else. `serve` is `HOST:PORT` for `GET /progress` and `/metrics`; port 0 takes a free one.
    """
    folder = folder.resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FolderLock.acquire(folder) as lock, Signals() as signals:
            termination = termination_log or folder / TERMINATION_FILE
            end = _run_locked(job_file, folder, lock, signals, timing, serve)
            return conclude(end, termination, whole=termination_log is None)
    except Locked as locked:
        # termination.json in the folder is the holder's.
        hint = "Wait for it to end, or stop it."
        return conclude(JobEnd(ExitCode.TEMPORARY, "", "Locked", str(locked), hint), termination_log, whole=False)
    except OSError as error:
        return conclude(_unwritable(error, folder), termination_log, whole=False)


def conclude(end: JobEnd, termination: Path | None, *, whole: bool) -> int:
    """Say how it ended in every place that is told, and return the exit code."""
    if end.exit_code != ExitCode.DONE:
        say(f"error: {end.message}" + (f" ({end.hint})" if end.hint else ""))
    if termination is not None:
        try:
            with_reserve(termination.parent, lambda: write_termination(end, termination, whole=whole))
        except OSError as error:
            say(f"error: the termination message cannot be written to {termination}: {error.strerror}")
    print_report(end)
    return int(end.exit_code)


def _run_locked(
    job_file: JobFile, folder: Path, lock: FolderLock, signals: Signals, timing: Timing, serve: str | None
) -> JobEnd:
    context: JobContext | None = None
    try:
        for earlier in (TERMINATION_FILE, PORT_FILE):
            (folder / earlier).unlink(missing_ok=True)
        job = job_file.job
        _check_job(job, folder)
        take_reserve(folder)
        lock.name_holders(job=job.name)
        state = RunState.open(folder, job_file)
        context = JobContext(job.name, folder, lock, state, EventLog(folder), signals, timing)
        write_job_files(folder, job.files)
        if serve is not None:
            _serve(context, serve)
        return _run_steps(context, job)
    except Failure as failure:
        return JobEnd(failure.exit_code, "", failure.reason, failure.message, failure.hint)
    except OSError as error:
        return _unwritable(error, folder)
    except Exception as error:  # noqa: BLE001  the last resort: a bug of the runner must not end without a word
        traceback.print_exc()
        return JobEnd(
            ExitCode.BUG, "", Failure.reason, f"{type(error).__name__}: {error}", "This is a bug of the runner."
        )


def _run_steps(context: JobContext, job: Job) -> JobEnd:
    last = ""
    for step in job.steps:
        last = step.name
        if context.signals.stops:
            return _end(context, last, Outcome(ExitCode.STOPPED, STOPPED, "told to stop before it was started"))
        outcome = run_step(context, step)
        if outcome.code != ExitCode.DONE:
            return _end(context, last, outcome)
    return _end(context, last, Outcome(ExitCode.DONE, "Completed", f"job {job.name} is done"))


def _end(context: JobContext, step: str, outcome: Outcome) -> JobEnd:
    steps = context.state.run.jobs[context.job].steps
    results = {name: ran.result for name, ran in steps.items() if ran.state == "done" and ran.result is not None}
    return JobEnd(outcome.code, step, outcome.reason, outcome.message, outcome.hint, results)


def _serve(context: JobContext, address: str) -> None:
    try:
        from kaito.runner.server import serve

        port = serve(context.folder, address)
    except (ImportError, OSError, ValueError) as error:
        context.events.add("", "NotServed", f"progress is not served on {address}: {error}", level="warning")
    else:
        context.events.add("", "Served", f"progress is served on port {port}")


def _check_job(job: Job, folder: Path) -> None:
    """Raises ConfigFailure for a Job that no runner can run."""
    problems = []
    names = [step.name for step in job.steps]
    if len(set(names)) < len(names):
        problems.append("two steps have one name")
    for step in job.steps:
        if not _STEP_NAME.fullmatch(step.name):
            problems.append(f"{step.name!r} is not a step's name (lower case letters, digits, hyphens)")
        if not step.argv:
            problems.append(f"step {step.name!r} has no program")
        if step.attempts < 1 or not step.timeout_seconds > 0 or not step.stall_seconds > 0:
            problems.append(f"step {step.name!r}: attempts, timeout_seconds and stall_seconds must be above 0")
        for output in step.outputs:
            path_inside(folder, output)
    if problems:
        raise ConfigFailure("; ".join(problems), "This is a bug in the plan of the job.", reason="JobInvalid")


def _unwritable(error: OSError, folder: Path) -> JobEnd:
    where = error.filename or folder
    if is_disk_full(error):
        failure = disk_full(error, folder)
        return JobEnd(failure.exit_code, "", failure.reason, failure.message, failure.hint)
    return JobEnd(ExitCode.TEMPORARY, "", "FolderUnwritable", f"{where}: {error.strerror or error}")
