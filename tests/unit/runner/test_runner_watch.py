"""Programs that hang, that do not die, that leave others behind, and that write without end."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from kaito.runner import child
from kaito.runner.progress import read_progress
from tests.unit.runner.runner_rig import Rig

COUNT = "open('starts', 'a').write('x\\n')\n"
HANG = "import time\nwhile True: time.sleep(60)\n"


def reached(moment: float) -> bool:
    return time.monotonic() >= moment


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_silent_program_is_dumped_ended_and_tried_again(rig: Rig) -> None:
    step = rig.step(
        COUNT
        + """
import time
from kaito.program import run_program
def waits_for_nothing(argv):
    while True: time.sleep(60)
run_program(waits_for_nothing)
""",
        stall_seconds=0.5,
        attempts=2,
    )
    assert rig.run(step).code == 75
    assert rig.lines("starts") == ["x", "x"]
    assert (rig.ran().reason, rig.ran().state, rig.ran().attempt) == ("Stalled", "failed", 2)
    assert "in waits_for_nothing" in (rig.folder / "logs/one.log").read_text()


def test_words_keep_a_slow_program_alive(rig: Rig) -> None:
    step = rig.step(
        """
        import os, time
        from kaito.program import report
        words = [
            lambda: report(1, 4, "rows"),
            lambda: print("log"),
            lambda: open("metrics.jsonl", "a").write("{}\\n"),
            lambda: report(4, 4, "rows"),
        ]
        for word in words * 2:
            time.sleep(0.5)
            word()
        """,
        stall_seconds=1.5,
        attempts=1,
    )
    assert rig.run(step).code == 0


def test_a_program_that_speaks_and_then_stops_speaking_has_stalled(rig: Rig) -> None:
    step = rig.step("import time\nfor i in range(5): print(i); time.sleep(0.1)\n" + HANG, stall_seconds=0.6, attempts=1)
    assert rig.run(step).code == 75
    assert rig.ran().reason == "Stalled"
    assert rig.lines("logs/one.log")[-1] == "4"


def test_a_stalled_program_that_ignores_every_signal_is_killed(rig: Rig) -> None:
    step = rig.step(
        "import signal\nfor n in (signal.SIGTERM, signal.SIGUSR1): signal.signal(n, signal.SIG_IGN)\n" + HANG,
        stall_seconds=0.5,
        attempts=1,
    )
    assert rig.run(step, timing={"dump_seconds": 0.1, "stall_grace_seconds": 0.2}).code == 75
    assert rig.ran().reason == "Stalled"


def test_a_step_out_of_time_is_ended_for_good(rig: Rig) -> None:
    step = rig.step(COUNT + "import time\nwhile True: print('busy'); time.sleep(0.05)\n", timeout_seconds=0.8)
    assert rig.run(step).code == 75
    assert rig.lines("starts") == ["x"]
    assert rig.ran().reason == "DeadlineExceeded"
    assert "0.8 s" in rig.ran().message


def test_the_deadline_counts_over_all_attempts(rig: Rig) -> None:
    step = rig.step(COUNT + "exit(75)", timeout_seconds=5, attempts=50)
    assert rig.run(step, timing={"backoff_seconds": 1.0}).code == 75
    assert len(rig.lines("starts")) < 6
    assert rig.ran().reason == "Temporary"


def test_a_machine_that_stood_still_is_not_taken_for_a_stall(rig: Rig, wait_until: Callable[..., Any]) -> None:
    step = rig.step("import time\nopen('up', 'w')\nfor i in range(30): print(i); time.sleep(0.05)\n", stall_seconds=2.0)
    runner = rig.start(rig.write_job(step), look_seconds=0.1)
    wait_until((rig.folder / "up").exists)
    child = json.loads(rig.lines("runner.lock")[0])["child"]
    # The child first, and the runner once it has seen the child's last word: what it measures is silence alone.
    for seconds, pid, number in (
        (0.0, child, signal.SIGSTOP),
        (0.4, runner.pid, signal.SIGSTOP),
        (3.0, runner.pid, signal.SIGCONT),
        (0.3, child, signal.SIGCONT),
    ):
        moment = time.monotonic() + seconds
        wait_until(partial(reached, moment))
        os.kill(pid, number)
    assert rig.end(runner).code == 0
    assert rig.reasons() == ["Started", "Done"]


def test_nothing_that_a_step_started_outlives_it(rig: Rig) -> None:
    step = rig.step(
        """
        import os, subprocess, sys
        sleeper = [sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"]
        same_group = subprocess.Popen(sleeper)
        fled = subprocess.Popen(sleeper, start_new_session=True, close_fds=False)
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                open("daemon.pid", "w").write(str(os.getpid()))
                os.execv(sys.executable, sleeper)
            os._exit(0)
        os.wait()
        while not os.path.exists("daemon.pid"): pass
        open("same.pid", "w").write(str(same_group.pid))
        open("fled.pid", "w").write(str(fled.pid))
        """
    )
    assert rig.run(step).code == 0
    pids = [int((rig.folder / f"{name}.pid").read_text() or 0) for name in ("same", "fled", "daemon")]
    assert all(pids)
    assert not [pid for pid in pids if lives(pid)]
    assert rig.run(rig.step("pass", "two")).code == 0


def test_a_log_that_is_filled_without_end_stays_bounded(rig: Rig) -> None:
    megabytes = 3 * child.LOG_LIMIT // 2**20
    step = rig.step(
        f"""
        import os, time
        for i in range({megabytes}):
            os.write(1, b"x" * 1023 + b"\\n") and os.write(1, (b"y" * 1023 + b"\\n") * 1023)
            if i % 16 == 0: time.sleep(0.1)
        print("last words")
        raise SystemExit(3)
        """
    )
    assert rig.run(step, timing={"look_seconds": 0.02}).code == 3
    sizes = sum(path.stat().st_size for path in (rig.folder / "logs").iterdir())
    assert sizes < 2 * child.LOG_LIMIT
    assert (rig.folder / "logs/one.log.1").exists()
    assert "last words" in rig.ran().message


def test_progress_is_that_of_the_running_step(rig: Rig, wait_until: Callable[..., Any]) -> None:
    step = rig.step(
        """
        import json, os, time
        from kaito.program import report
        for name in ("checkpoint-5", "checkpoint-10", ".part-20"): os.makedirs(f"checkpoints/{name}")
        line = {"step": 11, "epoch": 0.5, "loss": 1.25, "tokens_per_second": 900}
        with open("metrics.jsonl", "w") as file:
            file.write(json.dumps({"time": 1.0, "loss": 99.0}) + "\\n")
            file.write(json.dumps({"time": time.time(), "eval_loss": 2.0}) + "\\n")
            file.write(json.dumps({"time": time.time(), **line}) + "\\n" + '{"time": 1, "lo')
        report(10, 40, "steps"); time.sleep(0.05); report(11, 40, "steps")
        while not os.path.exists("go"): time.sleep(0.02)
        """,
        "tune",
    )
    runner = rig.start(rig.write_job(step, job="tune"))
    seen = wait_until(lambda: (p := read_progress(rig.folder)).done == 11 and p)
    assert (seen.job, seen.step, seen.attempt, seen.state) == ("tune", "tune", 1, "running")
    assert (seen.total, seen.unit, seen.epoch, seen.loss, seen.eval_loss) == (40, "steps", 0.5, 1.25, 2.0)
    assert seen.tokens_per_second == 900
    assert seen.checkpoint is not None
    assert seen.checkpoint["step"] == 10
    assert 0 < seen.seconds_left < 60
    (rig.folder / "go").touch()
    assert rig.end(runner).code == 0
    assert read_progress(rig.folder).state == "done"
    assert read_progress(rig.folder).seconds_left is None
