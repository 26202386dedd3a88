"""What `kaito run`, `retry`, `get` and `describe` say of runs that failed, stopped or ended well."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from kaito.cli import app
from kaito.cli.ending import describe_stop, print_end
from kaito.cli.live import describe_kept, with_restarts
from kaito.contract import JobRun, Run, StepRun
from kaito.local.desired import Desired, save_desired
from kaito.local.ending import Ending, save_ending
from kaito.local.home import Key, run_folder
from kaito.local.observe import View, view
from kaito.runner.events import EventLog
from kaito.runner.state import save_run
from tests.engine.machine import write_workspace

KEY = Key("default", "tiny")
DONE = StepRun("done", attempt=1, started=1.0, ended=2.0, exit_code=0)
STOPPED = StepRun("pending", attempt=1, started=3.0, ended=4.0, exit_code=143, reason="Stopped")
FOLDER = {"volumeSource": {"hostPath": {"path": "/adapters/tiny"}}}
IMAGE = {"image": "registry.example/tiny:1", "imagePushSecret": "none"}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KAITO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def kaito(*argv: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in argv])


def seen(tmp_path: Path, output: dict[str, Any], /, **steps: StepRun) -> View:
    """A Workspace whose steps are done but for those that are given, and which was stopped."""
    file = write_workspace(tmp_path / "w.yaml", preset={"name": "demo"}, output=output)
    document = json.loads(file.read_text())
    document["metadata"]["namespace"] = "default"
    save_desired(KEY, Desired(document))
    plan = view(KEY).plan
    jobs: dict[str, JobRun] = {
        job.name: JobRun(1, {step.name: steps.get(step.name, DONE) for step in job.steps}) for job in plan.jobs
    }
    save_run(run_folder(KEY), Run("tiny", 1, plan.inputs_hash, jobs))
    save_ending(run_folder(KEY), Ending(stopped=True))
    return view(KEY)


def save_progress(checkpoint: int, done: int, total: int) -> None:
    (run_folder(KEY) / "checkpoints" / f"checkpoint-{checkpoint}").mkdir(parents=True)
    (run_folder(KEY) / "progress").mkdir()
    line = {"done": done, "total": total, "unit": "steps", "time": 3.5}
    (run_folder(KEY) / "progress" / "tune.jsonl").write_text(json.dumps(line) + "\n")


def test_a_stop_says_what_is_saved(tmp_path: Path) -> None:
    checking = seen(
        tmp_path, FOLDER, preflight=STOPPED, output=StepRun(), fetch=StepRun(), model=StepRun(), tune=StepRun()
    )
    assert describe_stop(checking, killed=False).startswith("stopped; nothing was trained yet;")
    begun = seen(tmp_path, FOLDER, tune=STOPPED)
    assert "no step of the training was saved yet" in describe_stop(begun, killed=False)
    save_progress(19, 19, 1740)
    saved = describe_stop(view(KEY), killed=False)
    assert saved == "stopped and saved at step 19 of 1,740; kaito run or kaito retry tiny goes on from there"
    assert describe_stop(view(KEY), killed=True).startswith(
        "stopped at once; the newest checkpoint is step 19 of 1,740"
    )
    pushing = seen(tmp_path, IMAGE, push=STOPPED)
    assert "the training is done and kept" in describe_stop(pushing, killed=False)


def test_a_stopped_run_is_listed_as_stopped(tmp_path: Path) -> None:
    stopped = seen(tmp_path, FOLDER, tune=STOPPED)
    assert stopped.status.state == "Pending", "the resource definition has no other word"
    assert kaito("get").stdout.split().count("Stopped") == 2


@pytest.mark.parametrize(
    ("output", "where"),
    [(FOLDER, "in /adapters/tiny"), (IMAGE, "registry.example/tiny:1@sha256:ab")],
)
def test_a_success_says_where_the_adapter_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], output: dict[str, Any], where: str
) -> None:
    pushed = replace(DONE, result={"image": IMAGE["image"], "digest": "sha256:ab", "size_bytes": 1})
    print_end(seen(tmp_path, output, push=pushed), "text", "", killed=False)
    assert capsys.readouterr().out == f"tiny: Succeeded: adapter {where}\n"


def test_a_training_that_begins_anew_is_told_once_with_what_is_kept(tmp_path: Path) -> None:
    training = seen(tmp_path, FOLDER, tune=replace(STOPPED, state="running", started=4e9))
    console = Console(record=True)
    show = with_restarts(lambda _: None, console, KEY)
    EventLog(run_folder(KEY)).add("fetch", "MovedAside", "its inputs changed: data moved to previous/1")
    message = "its inputs changed: training begins anew; 156 steps are kept in previous/2"
    EventLog(run_folder(KEY)).add("tune", "MovedAside", message)
    show(training)
    show(training)
    assert console.export_text().splitlines() == [f"tiny: {message}"]


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({"steps": 10, "best_step": 10, "eval_rows": 40}, ""),
        ({"steps": 10, "best_step": 8, "eval_rows": 40}, ", kept step 8 of 10"),
        ({"steps": 10, "best_step": 10, "eval_rows": 7}, " (on 7 held-out rows: a noisy number)"),
        ({"steps": 10}, ""),
    ],
)
def test_the_step_that_was_kept_and_few_held_out_rows_are_told(result: dict[str, Any], said: str) -> None:
    assert describe_kept(result) == said


def test_a_failure_of_the_data_is_told_once_and_retry_says_which_workspace_it_uses(tmp_path: Path) -> None:
    (tmp_path / "faq").mkdir()
    (tmp_path / "faq" / "faq.csv").write_text("question,answer\n" + "how?,so\n" * 40)
    file = write_workspace(
        tmp_path / "w.yaml",
        preset={"name": "demo"},
        input={"volumeSource": {"hostPath": {"path": "faq"}}},
        output={"volumeSource": {"hostPath": {"path": "out"}}},
    )
    failed = kaito("run", "-f", file)
    assert failed.exit_code == 1
    assert "faq.csv:2 and 39 more rows: columns: no recognised format" in failed.stderr
    mapping = "tuning.parameters.DatasetConfig.column_mapping: {instruction: question, output: answer}"
    assert f"tiny: hint: set {mapping}" in failed.stderr
    assert "tiny: after editing the file: kaito run -f FILE" in failed.stderr
    assert kaito("describe", "tiny").stdout.count("no recognised format") == 1
    again = kaito("retry", "tiny")
    assert again.exit_code == 1
    assert "tiny: using the Workspace as applied at 20" in again.stderr

    document = json.loads(file.read_text())
    document["tuning"]["input"]["volumeSource"]["hostPath"]["path"] = "gone"
    file.write_text(json.dumps(document))
    moved = kaito("run", "-f", file)
    assert f"{tmp_path}/gone does not exist" in moved.stderr
    assert moved.stderr.count("warning") >= 1, "what validate warns of is said before anything runs"
    assert "differs from the Workspace of this name that ran before: input.volumeSource.hostPath.path" in moved.stderr
    assert "tuning.input.volumeSource.hostPath.path" in moved.stderr
