"""The runner itself is killed, or two of them meet."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from kaito.runner.lock import is_locked
from kaito.runner.progress import read_progress
from tests.unit.runner.runner_rig import Rig

# Resumes from its own file, refuses to run twice at once, and says when it started and ended.
WORKER = """
import fcntl, os, sys, time
from kaito.program import report, run_program
def main(argv):
    name = argv[0]
    only = open("only.lock", "w")
    try:
        fcntl.flock(only, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        open("overlaps", "a").write(name + "\\n")
    open("started", "a").write(name + "\\n")
    os.makedirs(name, exist_ok=True)
    for part in range(4):
        if not os.path.exists(f"{name}/{part}"):
            time.sleep(0.03)
            open(f"{name}/{part}", "x")
        report(part + 1, 4, "rows")
    open("ended", "a").write(name + "\\n")
    return {"parts": 4}
run_program(main)
"""


def worker(rig: Rig, name: str, after: tuple[str, ...] = ()) -> Any:
    return rig.step(WORKER, name, arguments=(name,), outputs=(name,), after=after)


@pytest.mark.parametrize("seed", range(6))
def test_a_run_whose_runner_is_killed_again_and_again_is_done_once(rig: Rig, seed: int) -> None:
    moments = random.Random(seed)
    job = rig.write_job(worker(rig, "fetch"), worker(rig, "model", ("fetch",)), worker(rig, "tune", ("model",)))
    kills = 0
    for _ in range(4):
        runner = rig.start(job)
        try:
            runner.wait(moments.uniform(0.15, 0.9))
        except subprocess.TimeoutExpired:
            runner.kill()
            kills += 1
        runner.communicate()
    assert rig.end(rig.start(job)).code == 0
    states = {name: step.state for name, step in rig.state().jobs["check"].steps.items()}
    assert states == {"fetch": "done", "model": "done", "tune": "done"}
    assert rig.lines("overlaps") == []
    assert all(len(list((rig.folder / name).iterdir())) == 4 for name in states)
    # No step was started again once a later one had been, and none more often than it was cut off.
    order = rig.lines("started")
    assert order == sorted(order, key=["fetch", "model", "tune"].index)
    assert len(order) <= 3 + kills
    assert not (rig.folder / "previous").exists()


def test_an_interrupted_step_is_started_again_under_its_number(rig: Rig, wait_until: Callable[..., Any]) -> None:
    source = "import os\nif not os.path.exists('up'):\n    open('up', 'w')\n    while True: pass\nraise SystemExit(1)"
    job = rig.write_job(rig.step("from kaito.program import die_with_parent as d; d()\n" + source, attempts=1))
    runner = rig.start(job)
    wait_until((rig.folder / "up").exists)
    runner.kill()
    runner.communicate()
    assert rig.ran().state == "running"
    assert rig.end(rig.start(job)).code == 1
    assert rig.ran().attempt == 1
    assert rig.reasons() == ["Started", "Interrupted", "Started", "InternalError"]


@pytest.mark.parametrize(("saves", "starts"), [("checkpoint-100", 4), ("checkpoint-100.part", 3)])
def test_attempts_count_anew_after_a_newer_checkpoint_alone(
    rig: Rig, wait_until: Callable[..., Any], saves: str, starts: int
) -> None:
    source = """
        from kaito.program import die_with_parent
        import os
        die_with_parent()
        n = len(open("starts").readlines()) if os.path.exists("starts") else 0
        open("starts", "a").write("x\\n")
        if n == 1:
            os.makedirs("checkpoints/SAVES")
            open("up", "w")
            while True: pass
        raise SystemExit(75)
        """
    job = rig.write_job(rig.step(source.replace("SAVES", saves), attempts=2))
    runner = rig.start(job)
    wait_until((rig.folder / "up").exists)
    assert rig.ran().attempt == 2
    runner.kill()
    runner.communicate()
    assert rig.end(rig.start(job)).code == 75
    assert len(rig.lines("starts")) == starts  # two before; then two more, or the second again


def test_a_child_that_outlives_its_runner_keeps_every_other_out(rig: Rig, wait_until: Callable[..., Any]) -> None:
    source = """
        import os, time
        open("starts", "a").write("x\\n")
        open("child.pid", "w").write(str(os.getpid()))
        while not os.path.exists("go"): time.sleep(0.02)
        """
    job = rig.write_job(rig.step(source))
    runner = rig.start(job)
    child = int(wait_until(lambda: rig.lines("child.pid"))[0])
    runner.kill()
    runner.communicate()
    ended = rig.end(rig.start(job))
    assert ended.code == 75
    assert f"process {child}" in ended.stderr
    assert is_locked(rig.folder)
    assert rig.lines("starts") == ["x"]
    os.kill(child, signal.SIGKILL)
    (rig.folder / "go").touch()
    wait_until(lambda: not is_locked(rig.folder))
    assert rig.end(rig.start(job)).code == 0


def test_the_second_of_two_runners_is_turned_away_and_changes_nothing(rig: Rig, wait_until: Callable[..., Any]) -> None:
    job = rig.write_job(rig.step("import os, time\nwhile not os.path.exists('go'): time.sleep(0.02)"))
    first = rig.start(job)
    wait_until(lambda: rig.ran().state == "running")
    before = (rig.folder / "run.json").read_text()
    log = rig.base / "termination"
    second = rig.end(rig.start(job, "--termination-log", str(log)))
    assert second.code == 75
    assert f"process {first.pid}" in second.stderr
    assert json.loads(log.read_text())["reason"] == "Locked"
    assert (rig.folder / "run.json").read_text() == before
    assert not (rig.folder / "termination.json").exists()
    (rig.folder / "go").touch()
    assert rig.end(first).code == 0
    assert not is_locked(rig.folder)


def test_a_runner_dies_with_the_engine_that_started_it(rig: Rig, wait_until: Callable[..., Any]) -> None:
    step = rig.step(
        "import time\nfrom kaito.program import die_with_parent\ndie_with_parent()\nwhile True: time.sleep(1)"
    )
    job = rig.write_job(step)
    engine = subprocess.Popen(
        [
            *("python3", "-c"),
            "import os, subprocess, sys, time; os.environ['KAITO_PARENT_PID'] = str(os.getpid());"
            "subprocess.Popen(sys.argv[1:]); time.sleep(600)",
            *(os.environ.get("PYTHON") or __import__("sys").executable, "-m", "kaito.runner", str(job)),
        ],
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: rig.ran().state == "running")
    wait_until(lambda: is_locked(rig.folder))
    engine.kill()
    engine.wait()
    wait_until(lambda: not is_locked(rig.folder))


def test_a_reader_of_the_lock_does_not_keep_a_runner_out(rig: Rig) -> None:
    job = rig.write_job(rig.step("import time; time.sleep(0.2)"))
    runner = rig.start(job)
    give_up = time.monotonic() + 30
    while runner.poll() is None:
        assert time.monotonic() < give_up
        is_locked(rig.folder)
        read_progress(rig.folder)
    assert rig.end(runner).code == 0
