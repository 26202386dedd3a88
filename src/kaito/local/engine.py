"""Makes a tuning Workspace's plan true on this machine: one runner process an attempt, until done, failed or stopped.

Observes the run folder, plans, asks `next_attempt`, starts the runner, and writes `status.json`. What happens inside
an attempt is the runner's business; what to do next is the plan's.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from kaito.contract import Job, JobFile, Plan, Refusal, to_json
from kaito.failure import ExitCode, Failure, is_disk_full
from kaito.hub.cache import CACHE_VARIABLE, default_cache
from kaito.local.ending import Ending, forget_ending, read_termination, save_ending
from kaito.local.home import Key, run_folder
from kaito.local.lock import Deleted, engine_lock
from kaito.local.observe import View, job_run, run_number, view
from kaito.plan import Attempt, Done, Failed, Runs, Start, Wait, next_attempt, request_of
from kaito.program import PARENT_VARIABLE
from kaito.runner.files import replace_text
from kaito.runner.progress import checkpoint_step
from kaito.runner.reserve import disk_full, take_reserve, with_reserve

TICK_SECONDS = 0.2
STATUS_SECONDS = 1.0
WAIT_SECONDS = 5.0  # between two looks while a registry is waited for
LONGEST_PAUSE_SECONDS = 30.0


class Engine:
    """One Workspace of this machine, run in the foreground of the calling process.

    `on_tick` is called once a second with what is to be seen. With `waits` a registry that refuses or is away is
    tried again hourly; without it the run ends and says so.
    """

    def __init__(self, key: Key, *, on_tick: Callable[[View], None] | None = None, waits: bool = False) -> None:
        self.key = key
        self.folder = run_folder(key)
        self._on_tick = on_tick
        self._waits = waits
        self._attempts: dict[str, list[Attempt]] = {}
        self._stopping = threading.Event()
        self._stops = 0
        self._runner: subprocess.Popen[bytes] | None = None
        self._shown = 0.0

    @property
    def was_killed(self) -> bool:
        """Whether it was told to stop a second time, and so did not wait for the trainer to save."""
        return self._stops > 1

    def stop(self) -> None:
        """End the run once the trainer has saved; a second call does not wait for that. Safe in a signal handler."""
        self._stopping.set()
        self._stops += 1
        if self._runner is not None and self._runner.poll() is None:
            self._runner.send_signal(signal.SIGTERM)

    def run(self) -> View:
        """To the end: succeeded, failed, waiting, refused or stopped. Raises AlreadyRunning, Unreadable, Deleted."""
        with engine_lock(self.key):
            forget_ending(self.folder)
            given_up: Refusal | None = None
            try:
                decision = self._converge()
                if isinstance(decision, Failed):
                    given_up = Refusal(decision.reason, f"{decision.step}: {decision.message}", decision.hint)
            except OSError as error:
                if not is_disk_full(error):
                    raise
                given_up = _refusal(disk_full(error, self.folder))
            finally:
                self._end_runner()
            ending = Ending(stopped=self._stopping.is_set(), given_up=given_up)
            with suppress(OSError):  # a full disk: whoever asks later sees `Interrupted`
                with_reserve(self.folder, lambda: save_ending(self.folder, ending))
            return self._observe(attended=False, ending=ending)

    def _converge(self) -> Wait | Failed | Done | None:
        """Attempt after attempt. None where it was stopped or refused."""
        while not self._stopping.is_set():
            seen = self._observe()
            if seen.plan.refusal is not None:
                return None
            decision = self._decide(seen.plan, seen)
            if isinstance(decision, tuple):
                self._attempt(seen, *decision)
            elif isinstance(decision, Wait) and self._waits:
                self._stopping.wait(max(1.0, min(WAIT_SECONDS, decision.until - time.time())))
            else:
                return decision
        return None

    def _decide(self, plan: Plan, seen: View) -> tuple[Job, Start] | Wait | Failed | Done:
        for job in plan.jobs:
            runs = Runs(job_run(seen.run, job), self._attempts.get(job.name, []))
            decision = next_attempt(job, runs, seen.observed, time.time())
            if isinstance(decision, Start):
                return job, decision
            if not isinstance(decision, Done):
                return decision
        return Done()

    def _attempt(self, seen: View, job: Job, start: Start) -> None:
        plan = seen.plan
        job_file = JobFile(
            namespace=self.key.namespace,
            workspace=self.key.name,
            run=run_number(self.key, plan),
            attempt=start.attempt,
            run_folder=str(self.folder),
            inputs_hash=plan.inputs_hash,
            config=seen.config_text(),
            job=job,
            request=request_of(job, seen.observed),
        )
        text = json.dumps(to_json(job_file), indent=1, ensure_ascii=False)
        with_reserve(self.folder, lambda: replace_text(self.folder / "job.json", text))
        exit_code = self._run_runner()
        ran = job_run(self._look().run, job)
        # What an earlier attempt has left there is no word of this one: it may not have been able to write.
        states = {step.state for step in ran.steps.values()} if ran and ran.attempt == start.attempt else set()
        interrupted = exit_code != 0 and "failed" not in states
        attempts = self._attempts.setdefault(job.name, [])
        attempts.append(
            Attempt(
                number=start.attempt,
                exit_code=exit_code if exit_code >= 0 else None,
                ended=time.time(),
                checkpoint=checkpoint_step(self.folder),
                interrupted=interrupted,
                failure=self._last_word() if interrupted and exit_code > 0 else None,
                request=job_file.request,
            )
        )
        if interrupted:
            self._stopping.wait(min(LONGEST_PAUSE_SECONDS, 0.25 * 2 ** len(attempts)))

    def _last_word(self) -> Refusal | None:
        """Why the runner says that it ended; a disk too full for its words says it by itself."""
        said = read_termination(self.folder)
        if said is None:
            try:
                take_reserve(self.folder)
            except OSError as error:
                if is_disk_full(error):
                    return _refusal(disk_full(error, self.folder))
        return said

    def _run_runner(self) -> int:
        """Start the runner and wait. In a session of its own: Ctrl-C reaches this process alone, which passes it on."""
        (self.folder / "logs").mkdir(exist_ok=True)
        environment = {
            **os.environ,
            PARENT_VARIABLE: str(os.getpid()),
            CACHE_VARIABLE: str(default_cache()),  # absolute: programs run in the run folder
        }
        with (self.folder / "logs" / "runner.log").open("ab") as log:
            self._runner = subprocess.Popen(
                [sys.executable, "-m", "kaito.runner", "job.json", "--folder", "."],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if self._stopping.is_set():
            self._runner.send_signal(signal.SIGTERM)
        while True:
            try:
                return self._runner.wait(TICK_SECONDS)
            except subprocess.TimeoutExpired:
                self._tick()

    def _end_runner(self) -> None:
        """Whatever went wrong here, the trainer saves before this process ends."""
        if self._runner is not None and self._runner.poll() is None:
            self._runner.send_signal(signal.SIGTERM)
            self._runner.wait()

    def _tick(self) -> None:
        now = time.monotonic()
        if now - self._shown < STATUS_SECONDS:
            return
        self._shown = now
        self._observe()

    def _look(self, **known: Any) -> View:
        try:
            return view(self.key, **known)
        except KeyError:
            raise Deleted(self.key) from None

    def _observe(self, *, attended: bool = True, ending: Ending | None = None) -> View:
        runner = self._runner.pid if self._runner is not None and self._runner.poll() is None else None
        seen = self._look(runner=runner, attended=attended, ending=ending)
        with suppress(OSError):  # a full disk: status.json is for others to read, and is written again
            replace_text(self.folder / "status.json", seen.status_json())
        if self._on_tick is not None:
            try:
                self._on_tick(seen)
            except OSError:  # whoever watched has gone: the training goes on
                self._on_tick = None
        return seen


def _refusal(failure: Failure) -> Refusal:
    return Refusal(failure.reason, failure.message, failure.hint)


def stop_signals(engine: Engine) -> None:
    """Ctrl-C, SIGTERM and a closed terminal stop the run after it has saved. What is ignored (nohup) stays so."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda _number, _frame: engine.stop())


def exit_code_of(seen: View) -> ExitCode:
    """0 done, 143 stopped, else 1: what `python -m kaito.local` ends with."""
    if seen.phase == "Succeeded":
        return ExitCode.DONE
    return ExitCode.STOPPED if seen.phase == "Stopped" else ExitCode.BUG
