"""What engines and the CLI read of a run folder, also of a damaged one."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

import pytest

from kaito.contract import JobRun, Progress, Run, StepRun
from kaito.runner.events import EventLog, read_events
from kaito.runner.lock import FolderLock, is_locked
from kaito.runner.progress import newest_checkpoint, read_progress
from kaito.runner.state import RunUnreadable, load_run, save_run


def test_an_empty_folder_has_no_run_and_no_progress(tmp_path: Path) -> None:
    assert load_run(tmp_path) is None
    assert read_progress(tmp_path) == Progress()
    assert read_events(tmp_path) == []
    assert newest_checkpoint(tmp_path) is None
    assert not is_locked(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"workspace": 1}', "\udcff"])
def test_a_damaged_run_file_is_said_to_be_damaged(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RunUnreadable, match=r"run\.json"):
        load_run(tmp_path)


def test_a_newer_runners_fields_are_passed_over(tmp_path: Path) -> None:
    save_run(tmp_path, Run("phi", 1, "h", {"tune": JobRun(1, {"tune": StepRun("done", 1)})}))
    value = json.loads((tmp_path / "run.json").read_text())
    value["jobs"]["tune"]["steps"]["tune"]["colour"] = "red"
    (tmp_path / "run.json").write_text(json.dumps(value))
    run = load_run(tmp_path)
    assert run is not None
    assert run.jobs["tune"].steps["tune"].state == "done"


def test_a_line_cut_by_a_crash_spoils_no_other(tmp_path: Path) -> None:
    EventLog(tmp_path).add("one", "Started", "first")
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"time": 1.0, "step": "on')
    EventLog(tmp_path).add("one", "Done", "größer", level="warning")
    assert [(e.reason, e.message, e.level) for e in read_events(tmp_path)] == [
        ("Started", "first", "info"),
        ("Done", "größer", "warning"),
    ]


def test_odd_lines_in_progress_and_metrics_do_no_harm(tmp_path: Path) -> None:
    save_run(tmp_path, Run("phi", 1, "h", {"tune": JobRun(1, {"tune": StepRun("running", 2, started=10.0)})}))
    (tmp_path / "progress").mkdir()
    odd = ["not json", "[]", '{"done": "many", "total": NaN}', '{"time": 11, "done": 1e999, "total": null}']
    (tmp_path / "progress/tune.jsonl").write_text("\n".join(odd))
    (tmp_path / "metrics.jsonl").write_text('{"time": 12, "loss": NaN}\n{"time": 13, "loss": true, "epoch": "x"}\n')
    seen = read_progress(tmp_path)
    assert (seen.step, seen.attempt, seen.done, seen.total, seen.time) == ("tune", 2, 0, 0, 13.0)


def test_metrics_of_an_earlier_run_are_not_shown_as_the_present_loss(tmp_path: Path) -> None:
    save_run(tmp_path, Run("phi", 2, "h", {"tune": JobRun(1, {"fetch": StepRun("running", 1, started=100.0)})}))
    (tmp_path / "metrics.jsonl").write_text('{"time": 50, "loss": 1.0}\n')
    assert read_progress(tmp_path).loss is None


def test_two_who_ask_for_the_lock_do_not_take_each_other_for_a_runner(tmp_path: Path) -> None:
    FolderLock.acquire(tmp_path).close()
    with (tmp_path / "runner.lock").open() as asker:
        fcntl.flock(asker, fcntl.LOCK_SH)
        assert not is_locked(tmp_path)


def test_a_lock_is_seen_by_others_until_it_is_closed(tmp_path: Path) -> None:
    with FolderLock.acquire(tmp_path):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)
