"""The runner's HTTP, asked while a step runs."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import httpx

from tests.unit.runner.runner_rig import Rig

REPORTS = """
import os, time
from kaito.program import report
for i in range(1, 4): report(i, 10, "rows"); time.sleep(0.02)
while not os.path.exists("go"): time.sleep(0.02)
"""
FLAGS = ("--backoff-seconds", "0.01", "--grace-seconds", "5")


def test_progress_metrics_and_health_are_served_while_a_step_runs(rig: Rig, wait_until: Callable[..., Any]) -> None:
    runner = rig.start(rig.write_job(rig.step(REPORTS, "fetch")), *FLAGS, "--serve", "127.0.0.1:0")
    port = wait_until(lambda: rig.lines("runner.port"))[0]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10, trust_env=False) as client:
        wait_until(lambda: client.get("/progress").json()["done"] == 3)
        seen = client.get("/progress").json()
        assert {"job": "check", "step": "fetch", "attempt": 1, "state": "running", "total": 10}.items() <= seen.items()
        assert set(seen) == {
            *("job", "step", "attempt", "state", "done", "total", "unit", "epoch", "loss", "eval_loss"),
            *("tokens_per_second", "seconds_left", "checkpoint", "time"),
        }
        metrics = client.get("/metrics").text
        assert 'kaito_step_done{job="check",step="fetch"} 3.0' in metrics
        assert 'kaito_step_state{job="check",state="running",step="fetch"} 1.0' in metrics
        assert client.get("/health").status_code == 200
        (rig.folder / "go").touch()
        # An open connection does not hold the runner up.
        assert rig.end(runner).code == 0


def test_a_port_that_is_taken_does_not_stop_the_run(rig: Rig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = rig.end(rig.start(rig.write_job(rig.step("pass")), *FLAGS, "--serve", address))
    assert ended.code == 0
    assert rig.reasons("") == ["NotServed"]


def test_an_address_that_is_none_does_not_stop_the_run(rig: Rig) -> None:
    assert rig.end(rig.start(rig.write_job(rig.step("pass")), *FLAGS, "--serve", "nonsense")).code == 0
    assert rig.reasons("") == ["NotServed"]


def test_help_shows_an_example_and_imports_no_server(rig: Rig) -> None:
    import subprocess
    import sys

    code = "import sys, kaito.runner; print({'uvicorn', 'starlette', 'pydantic', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
    shown = subprocess.run([sys.executable, "-m", "kaito.runner", "--help"], capture_output=True, text=True, check=True)
    assert "example:" in shown.stdout
