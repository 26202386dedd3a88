"""Every way in which a step's program can end, and what the runner makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kaito.contract import Step
from kaito.runner.child import Timing
from kaito.runner.steps import pause_seconds
from tests.unit.runner.runner_rig import Rig

COUNT = "open('starts', 'a').write('x\\n')\n"
RESULT = "import json, os, sys\nPath = os.environ['KAITO_RESULT']\n"


def test_steps_run_in_order_in_the_run_folder_and_their_results_are_kept(rig: Rig) -> None:
    first = rig.step(
        """
        import os, sys
        from kaito.program import run_program
        def main(argv):
            return {"cwd": os.getcwd(), "argv": argv, "stdin": sys.stdin.read(), "extra": os.environ["EXTRA"]}
        run_program(main)
        """,
        "resolve",
        arguments=("--repo", "x"),
        env={"EXTRA": "1"},
    )
    second = rig.step("import os; assert os.path.exists('logs/resolve.log')", "fetch", after=("resolve",))
    ended = rig.run(first, second)
    assert ended.code == 0
    assert rig.ran("resolve").result == {"cwd": str(rig.folder), "argv": ["--repo", "x"], "stdin": "", "extra": "1"}
    assert rig.ran("fetch").state == "done"
    assert rig.ran("fetch").result is None
    assert rig.termination()["reason"] == "Completed"
    assert '"resolve"' in next(line for line in ended.stdout.splitlines() if line.startswith("KAITO_REPORT "))


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (2, "ConfigInvalid"),
        (3, "DataInvalid"),
        (4, "ModelUnavailable"),
        (5, "RegistryDenied"),
        (6, "OutOfMemory"),
        (7, "Diverged"),
    ],
)
def test_a_final_code_is_not_tried_again_and_is_the_runners_own(rig: Rig, code: int, reason: str) -> None:
    after = rig.step("open('ran-after', 'w')", "two")
    assert rig.run(rig.step(COUNT + f"print('why not'); raise SystemExit({code})"), after).code == code
    assert rig.lines("starts") == ["x"]
    assert not (rig.folder / "ran-after").exists()
    ran = rig.ran()
    assert (ran.state, ran.exit_code, ran.reason) == ("failed", code, reason)
    assert "why not" in ran.message
    assert rig.termination()["step"] == "one"


@pytest.mark.parametrize(
    ("end", "code", "reason"),
    [
        ("raise SystemExit(1)", 1, "InternalError"),
        ("raise SystemExit(42)", 42, "InternalError"),
        ("raise SystemExit(75)", 75, "Temporary"),
        ("raise SystemExit(143)", 143, "Killed"),
        ("import os; os.kill(os.getpid(), 9)", 137, "Killed"),
        ("import os; os.kill(os.getpid(), 15)", 143, "Killed"),
        ("import os; os.abort()", 134, "Killed"),
    ],
)
def test_what_may_pass_is_tried_again_a_bounded_number_of_times(rig: Rig, end: str, code: int, reason: str) -> None:
    assert rig.run(rig.step(COUNT + end, attempts=3)).code == code
    assert rig.lines("starts") == ["x"] * 3
    ran = rig.ran()
    assert (ran.state, ran.attempt, ran.exit_code, ran.reason) == ("failed", 3, code, reason)
    assert rig.reasons() == ["Started", "Retrying", "Started", "Retrying", "Started", reason]


def test_a_step_that_succeeds_on_its_third_attempt_is_done(rig: Rig) -> None:
    step = rig.step(COUNT + "raise SystemExit(0 if len(open('starts').readlines()) == 3 else 75)", attempts=3)
    assert rig.run(step).code == 0
    assert (rig.ran().state, rig.ran().attempt, rig.ran().reason) == ("done", 3, "")
    log = (rig.folder / "logs/one.log").read_text()
    assert [line.split(",")[1] for line in log.splitlines() if line.startswith("---")] == [
        " attempt 1 of 3",
        " attempt 2 of 3",
        " attempt 3 of 3",
    ]


def test_what_a_failing_program_says_is_what_the_user_reads(rig: Rig) -> None:
    step = rig.step(
        """
        from kaito.failure import DataFailure
        from kaito.program import run_program
        def main(argv):
            raise DataFailure("data/a.jsonl:7: no answer", "Add one.", reason="RowInvalid")
        run_program(main)
        """
    )
    assert rig.run(step).code == 3
    said = {"reason": "RowInvalid", "message": "data/a.jsonl:7: no answer", "hint": "Add one."}
    assert {key: getattr(rig.ran(), key) for key in said} == said
    assert rig.termination() == {"step": "one", **said, "results": {}}


def test_an_earlier_attempts_words_are_not_taken_for_the_last_ones(rig: Rig) -> None:
    step = rig.step(
        COUNT + "n = len(open('starts').readlines()); print('said by', n) if n < 2 else 0; exit(1)", attempts=2
    )
    rig.run(step)
    assert "said by" not in rig.ran().message


@pytest.mark.parametrize(
    "result", ["{not json", "[1, 2]", "", '"' + "x" * 300_000 + '"', "[" * 100_000, '{"a": ' * 60 + "1" + "}" * 60]
)
def test_a_broken_result_is_a_bug_of_the_program(rig: Rig, result: str) -> None:
    (rig.base / "result").write_text(result)
    source = f"import os, shutil; shutil.copy({str(rig.base / 'result')!r}, os.environ['KAITO_RESULT'])"
    assert rig.run(rig.step(source, attempts=1)).code == 1
    assert rig.ran().reason == "ResultInvalid"


def test_a_result_is_kept_as_json_that_everybody_can_read(rig: Rig) -> None:
    text = r'{"loss": NaN, "worse": [1e999], "half": "\ud800", "fine": 1.5}'
    step = rig.step(f"import os; open(os.environ['KAITO_RESULT'], 'w').write({text!r})")
    assert rig.run(step).code == 0
    assert rig.ran().result == {"loss": None, "worse": [None], "half": "?", "fine": 1.5}
    json.loads((rig.folder / "run.json").read_text(), parse_constant=pytest.fail)


def test_a_success_written_before_a_crash_does_not_count(rig: Rig) -> None:
    step = rig.step("import os; open(os.environ['KAITO_RESULT'], 'w').write('{}'); os._exit(3)")
    assert rig.run(step).code == 3
    assert rig.ran().result is None


def test_an_old_result_is_not_taken_for_a_new_one(rig: Rig) -> None:
    source = COUNT + "import os\nif len(open('starts').readlines()) == 1:\n"
    source += "    open(os.environ['KAITO_RESULT'], 'w').write('{\"old\": 1}')\n    os._exit(75)\n"
    assert rig.run(rig.step(source)).code == 0
    assert rig.ran().result is None


def test_odd_reasons_are_replaced_and_long_messages_bounded(rig: Rig) -> None:
    failure = json.dumps({"reason": "not a word!", "message": "m" * 100_000, "hint": 7})
    step = rig.step(f"import os; open(os.environ['KAITO_RESULT'], 'w').write({failure!r}); os._exit(4)")
    rig.run(step)
    assert rig.ran().reason == "ModelUnavailable"
    assert len(rig.ran().message) == 2000
    assert rig.ran().hint == ""


def test_a_program_that_does_not_exist_is_said_to_be_missing(rig: Rig) -> None:
    assert rig.run(Step("one", ("no-such-program",))).code == 2
    assert "no-such-program" in rig.ran().message
    assert rig.ran().state == "failed"


def test_a_users_files_do_not_shadow_modules(rig: Rig) -> None:
    (rig.folder / "json.py").write_text("raise SystemExit(7)")
    assert rig.run(Step("one", ("python", "-m", "json.tool", "--help"))).code == 0


@pytest.mark.parametrize("path", ["../out", "/etc/out", "a/../../out", "run.json", "logs/one.log", ""])
def test_a_file_outside_the_run_folder_is_refused_before_anything_is_written(rig: Rig, path: str) -> None:
    ended = rig.run(rig.step("pass"), files={"fine.yaml": "a: 1\n", path: "x"})
    assert ended.code == 2
    assert rig.termination()["reason"] == "JobInvalid"
    assert not (rig.folder / "fine.yaml").exists()
    assert not (rig.folder.parent / "out").exists()


def test_a_link_does_not_lead_a_file_out_of_the_run_folder(rig: Rig, tmp_path: Path) -> None:
    (rig.folder / "link").symlink_to(tmp_path)
    assert rig.run(rig.step("pass"), files={"link/out": "x"}).code == 2
    assert not (tmp_path / "out").exists()


def test_the_jobs_files_are_there_before_the_first_step(rig: Rig) -> None:
    step = rig.step("assert open('config/training.yaml').read() == 'a: 1'")
    assert rig.run(step, files={"config/training.yaml": "a: 1"}).code == 0


def test_a_job_that_cannot_be_run_is_refused_in_words(rig: Rig) -> None:
    ended = rig.run(Step("Bad/Name", ("true",)), Step("two", ()), Step("two", ("true",), attempts=0))
    assert ended.code == 2
    message = rig.termination()["message"]
    assert all(part in message for part in ("'Bad/Name'", "one name", "has no program", "above 0"))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"namespace": 1}', None])
def test_a_job_file_that_cannot_be_read_is_an_error_of_one_line(rig: Rig, text: str | None) -> None:
    job, log = rig.base / "job.json", rig.base / "termination"
    if text is not None:
        job.write_text(text)
    ended = rig.end(rig.start(job, "--termination-log", str(log)))
    assert ended.code == 2
    assert len(ended.stderr.splitlines()) == 1
    assert json.loads(log.read_text())["reason"] == "JobInvalid"


def test_the_folder_of_another_workspace_is_left_alone(rig: Rig) -> None:
    rig.run(rig.step("pass"))
    before = (rig.folder / "run.json").read_text()
    assert rig.run(rig.step("pass"), workspace="other").code == 2
    assert rig.termination()["reason"] == "FolderTaken"
    assert (rig.folder / "run.json").read_text() == before


def test_a_damaged_run_file_is_not_guessed_at(rig: Rig) -> None:
    (rig.folder / "run.json").write_text('{"workspace": "phi", "run"')
    (rig.folder / "results").mkdir()
    assert rig.run(rig.step("pass", outputs=("results",))).code == 2
    assert rig.termination()["reason"] == "RunUnreadable"
    assert (rig.folder / "results").exists()


def test_pauses_double_and_stay_bounded() -> None:
    timing = Timing(backoff_seconds=4.0, backoff_limit_seconds=60.0)
    for attempt, longest in [(1, 4.0), (2, 8.0), (3, 16.0), (5, 60.0), (5000, 60.0)]:
        pauses = [pause_seconds(timing, attempt) for _ in range(50)]
        assert all(longest / 2 <= pause <= longest for pause in pauses)
        assert len(set(pauses)) > 1  # jitter
