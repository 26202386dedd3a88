"""`run.json`: what ran in a run folder and how it ended. Written by the runner alone, after each change, by rename.

Its one promise: a step's `fingerprint` that is not empty is that of the outputs on disk.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from kaito.contract import JobFile, JobRun, Run, StepRun, from_json, to_json
from kaito.failure import ConfigFailure
from kaito.runner.files import replace_text
from kaito.runner.reserve import with_reserve

RUN_FILE = "run.json"
STOPPED = "Stopped"


class RunUnreadable(ConfigFailure):
    """`run.json` is not what a runner wrote."""

    reason = "RunUnreadable"


def load_run(folder: Path) -> Run | None:
    """None where nothing ran. Raises RunUnreadable for a damaged file, never a half-read one."""
    path = folder / RUN_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise _unreadable(path, str(error)) from error
    try:
        return from_json(Run, json.loads(text))
    except ValueError as error:
        raise _unreadable(path, str(error).splitlines()[0]) from error


def save_run(folder: Path, run: Run) -> None:
    """Whole or not at all. Raises OSError."""
    replace_text(folder / RUN_FILE, json.dumps(to_json(run), indent=1, ensure_ascii=False) + "\n")


def _unreadable(path: Path, cause: str) -> RunUnreadable:
    hint = "Restore the file, or move it away: what is in the folder is then set aside in previous/ and made anew."
    return RunUnreadable(f"{path} cannot be read: {cause}", hint)


@lru_cache(maxsize=1)
def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


def owner() -> str:
    """This runner's name in `run.json`: its Pod's UID (`POD_UID`), else boot id and pid."""
    return os.environ.get("POD_UID") or f"{_boot_id()}:{os.getpid()}"


def was_done(step: StepRun) -> bool:
    """Whether the step's outputs are whole: done in this run, or carried over from an earlier one."""
    return step.exit_code == 0 and step.state in {"done", "pending"}


def is_unfinished(step: StepRun) -> bool:
    """Whether the step began to write its outputs and did not end: they are its, but not whole."""
    return bool(step.fingerprint) and not was_done(step)


class RunState:
    """The run as it stands. Every change is on disk when the call returns; every call may raise OSError."""

    def __init__(self, folder: Path, run: Run) -> None:
        self.folder = folder
        self.run = run

    @classmethod
    def open(cls, folder: Path, job_file: JobFile) -> RunState:
        """Take up the folder's run, or begin a new one, with this attempt at a Job in it.

        Raises RunUnreadable, and ConfigFailure if the folder is another Workspace's.
        """
        found = load_run(folder)
        if found is not None and found.workspace != job_file.workspace:
            raise ConfigFailure(
                f"{folder} holds the run of workspace {found.workspace!r}, not of {job_file.workspace!r}",
                "Use a run folder of its own for each workspace.",
                reason="FolderTaken",
            )
        state = cls(folder, _take_up(found, job_file))
        state.save()
        return state

    def save(self) -> None:
        save_run(self.folder, self.run)

    def step(self, job: str, name: str) -> StepRun:
        found = self.run.jobs.get(job)
        return found.steps.get(name, StepRun()) if found else StepRun()

    def same_steps(self, name: str) -> dict[str, StepRun]:
        """The step in every job that has it (`fetch` is one of `check` and of `tune`), by job."""
        return {job: ran.steps[name] for job, ran in self.run.jobs.items() if name in ran.steps}

    def record(self, job: str, name: str, step: StepRun) -> None:
        """Record how a step ended or rests. On a full disk the reserve is given up for that, but never for a start."""
        self.run = _with_step(self.run, job, name, step)
        with_reserve(self.folder, self.save)

    def start(self, job: str, name: str, step: StepRun) -> None:
        """Record a step that is about to write its outputs. Unfinished ones of its name elsewhere end by that."""
        for other, ran in self.same_steps(name).items():
            if other != job and is_unfinished(ran):
                self.run = _with_step(self.run, other, name, StepRun())
        self.run = _with_step(self.run, job, name, step)
        self.save()

    def disclaim(self, name: str) -> None:
        """Say of a step, in every job that has it, that nothing on disk is known to be its."""
        for job, step in self.same_steps(name).items():
            if step.fingerprint or step.state != "pending":
                self.run = _with_step(self.run, job, name, StepRun())
        self.save()


def _with_step(run: Run, job: str, name: str, step: StepRun) -> Run:
    before = run.jobs.get(job, JobRun())
    return replace(run, jobs={**run.jobs, job: replace(before, steps={**before.steps, name: step})})


def _take_up(found: Run | None, job_file: JobFile) -> Run:
    jobs: Mapping[str, JobRun] = {} if found is None else found.jobs
    if found is not None and (found.run, found.inputs_hash) != (job_file.run, job_file.inputs_hash):
        jobs = {
            name: JobRun(steps={step: _carried(ran) for step, ran in job.steps.items()}) for name, job in jobs.items()
        }
    job = job_file.job
    before = jobs.get(job.name, JobRun())
    steps = {step.name: _retried(before.steps.get(step.name, StepRun())) for step in job.steps}
    jobs = {**jobs, job.name: JobRun(job_file.attempt, steps, job_file.request)}
    return Run(workspace=job_file.workspace, run=job_file.run, inputs_hash=job_file.inputs_hash, jobs=jobs)


def _retried(step: StepRun) -> StepRun:
    """What an earlier runner gave up on begins afresh, on the outputs that it left."""
    return StepRun(fingerprint=step.fingerprint) if step.state == "failed" else step


def _carried(step: StepRun) -> StepRun:
    """An earlier run's step in a new run: not done in it yet, but whose outputs lie on disk is still known."""
    if was_done(step):
        return replace(step, state="pending")
    return StepRun(fingerprint=step.fingerprint)
