"""A rig that runs real runners over small real programs."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kaito.contract import Job, JobFile, Run, Step, StepRun, to_json
from kaito.runner.events import read_events
from kaito.runner.state import load_run

DRIVER = """
import json, sys
from pathlib import Path
from kaito.contract import JobFile, from_json
from kaito.runner import Timing, run_job

job, folder, timing = sys.argv[1:]
job_file = from_json(JobFile, json.loads(Path(job).read_text()))
sys.exit(run_job(job_file, Path(folder), timing=Timing(**json.loads(timing))))
"""

QUICK = {
    "backoff_seconds": 0.01,
    "killed_backoff_seconds": 0.01,
    "dump_seconds": 1.0,
    "stall_grace_seconds": 0.5,
    "look_seconds": 0.05,
}


def until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Wait for a condition to hold and return its value."""
    give_up = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < give_up, "the condition did not come to hold in time"
        time.sleep(0.02)
    return value


@dataclass
class Ended:
    code: int
    stdout: str
    stderr: str


@dataclass
class Rig:
    base: Path
    folder: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def program(self, source: str, name: str = "program") -> str:
        """Write a program; `PROLOGUE` is what most of them need."""
        path = self.base / f"{name}.py"
        path.write_text(textwrap.dedent(source))
        return str(path)

    def step(self, source: str, name: str = "one", **fields: Any) -> Step:
        arguments = fields.pop("arguments", ())
        return Step(
            name, ("python", self.program(source, f"{name}-{len(list(self.base.iterdir()))}"), *arguments), **fields
        )

    def write_job(self, *steps: Step, job: str = "check", **fields: Any) -> Path:
        files = fields.pop("files", {})
        defaults: dict[str, Any] = {"namespace": "default", "workspace": "phi", "run": 1, "attempt": 1, "config": ""}
        defaults |= {"run_folder": str(self.folder), "inputs_hash": "sha256:a"} | fields
        job_file = JobFile(**defaults, job=Job(name=job, image="light", steps=steps, files=files))  # type: ignore[arg-type]  # a test's literal
        path = self.base / "job.json"
        path.write_text(json.dumps(to_json(job_file)))
        return path

    def start(self, job: Path, *flags: str, **timing: float) -> subprocess.Popen[str]:
        """Start the command line if there are flags, else `run_job` with quick intervals."""
        if flags:
            argv = [sys.executable, "-m", "kaito.runner", str(job), *flags]
        else:
            argv = [sys.executable, "-c", DRIVER, str(job), str(self.folder), json.dumps(QUICK | timing)]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.started.append(process)
        return process

    def end(self, process: subprocess.Popen[str], seconds: float = 60.0) -> Ended:
        stdout, stderr = process.communicate(timeout=seconds)
        assert "Traceback" not in stderr, stderr
        code = process.returncode
        return Ended(128 - code if code < 0 else code, stdout, stderr)

    def run(self, *steps: Step, job: str = "check", timing: Mapping[str, float] | None = None, **fields: Any) -> Ended:
        return self.end(self.start(self.write_job(*steps, job=job, **fields), **(timing or {})))

    def state(self) -> Run:
        run = load_run(self.folder)
        assert run is not None
        return run

    def ran(self, step: str = "one", job: str = "check") -> StepRun:
        run = load_run(self.folder)
        found = run.jobs.get(job) if run else None
        return found.steps.get(step, StepRun()) if found else StepRun()

    def reasons(self, step: str = "one") -> list[str]:
        return [event.reason for event in read_events(self.folder) if event.step == step]

    def termination(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads((self.folder / "termination.json").read_text())
        return value

    def lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []
