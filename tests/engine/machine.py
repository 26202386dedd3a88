"""A machine of a test's own: `kaito` commands with a KAITO_HOME that is empty at first, and what they leave there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kaito.runner.lock import is_locked

DEADLINE_SECONDS = 240.0


class Machine:
    """`folder` holds the home, the YAML files and the data. `environment` is added to that of every command."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.engine = 0  # the pid of a `kaito run` in the background, where a test needs it
        self.environment = {
            **os.environ,
            "KAITO_HOME": str(self.home),
            "OMP_NUM_THREADS": "1",
            "DOCKER_CONFIG": str(folder / "docker"),
            **(environment or {}),
        }
        folder.mkdir(parents=True, exist_ok=True)

    # --- commands ---

    def kaito(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "kaito.cli", *argv],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )

    def start(self, *argv: str) -> subprocess.Popen[str]:
        """A command in the background, its output in `folder/background.log`."""
        with (self.folder / "background.log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "kaito.cli", *argv], env=self.environment, stdout=log, stderr=log, text=True
            )

    def run(self, file: Path, *argv: str) -> subprocess.CompletedProcess[str]:
        """`kaito run`, which must succeed."""
        ended = self.kaito("run", "-f", str(file), *argv)
        assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}\n{self.all_logs()}"
        return ended

    # --- what is there ---

    def run_folder(self, name: str) -> Path:
        return self.home / "runs" / "default" / name

    def get(self, name: str) -> dict[str, Any]:
        ended = self.kaito("get", name, "-o", "json")
        assert ended.returncode == 0, ended.stderr
        document: dict[str, Any] = json.loads(ended.stdout)
        return document

    def phase(self, name: str) -> str:
        return str(self.get(name)["status"]["tuning"]["run"]["phase"])

    def steps(self, name: str) -> dict[str, dict[str, Any]]:
        """Every step of `run.json`, as JOB/STEP."""
        run = json.loads((self.run_folder(name) / "run.json").read_text())
        return {f"{job}/{step}": ran for job, jobs in run["jobs"].items() for step, ran in jobs["steps"].items()}

    def metrics(self, name: str) -> list[dict[str, Any]]:
        lines = (self.run_folder(name) / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def events(self, name: str) -> list[dict[str, Any]]:
        path = self.run_folder(name) / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def starts(self, name: str, step: str) -> int:
        """How often a step's program was started, from its log's header lines."""
        log = self.run_folder(name) / "logs" / f"{step}.log"
        return sum(line.startswith("--- ") for line in log.read_text(errors="replace").splitlines())

    def holder(self, name: str) -> dict[str, int]:
        """The pids of the runner and of its child, as the lock file names them; 0 where there is none."""
        try:
            return dict(json.loads((self.run_folder(name) / "runner.lock").read_text()))
        except (OSError, ValueError):
            return {"runner": 0, "child": 0}

    def is_at(self, name: str, step: str) -> bool:
        """Whether the program of that step runs now, as the lock file has it."""
        holder = self.holder(name)
        return holder.get("step") == step and holder.get("child", 0) > 0

    def is_locked(self, name: str) -> bool:
        """Whether a runner, or a program that one has started, still lives."""
        return is_locked(self.run_folder(name))

    def all_logs(self) -> str:
        return "\n".join(
            f"== {path.name}\n{path.read_text(errors='replace')[-3000:]}"
            for path in sorted(self.home.glob("runs/*/*/logs/*.log"))
        )


def wait_until(condition: Callable[[], bool], what: str, seconds: float = DEADLINE_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.02)


def kill(pid: int) -> bool:
    """SIGKILL; False where the process has gone already."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def write_workspace(path: Path, **changes: Any) -> Path:
    """A tuning Workspace as YAML (JSON is YAML). `changes` replace keys of `tuning`; `parameters` merge by section."""
    name = changes.pop("name", "tiny")
    tuning: dict[str, Any] = {
        "preset": {"name": str(path.parent / "model")},
        "method": "lora",
        "input": {"volumeSource": {"hostPath": {"path": "data"}}},
        **changes,
    }
    document = {
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "metadata": {"name": name},
        "resource": {},
        "tuning": tuning,
    }
    path.write_text(json.dumps(document, indent=2))
    return path
