"""How a program ends by an exception that is no Failure: it says where, and nothing of the data that it may quote."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kaito.failure import ExitCode

PROGRAM = """
from kaito.program import run_program
from kaito.datasets.masked import mark_trained

def main(argv):
    try:
        {first}
    except KeyError as error:
        {then}

run_program(main)
"""


def end(folder: Path, first: str, then: str = "raise") -> tuple[int, dict[str, str], str]:
    result = folder / "result.json"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(first=first, then=then)],
        env={"KAITO_RESULT": str(result)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, json.loads(result.read_text()), done.stderr


@pytest.mark.parametrize(
    "then", ["raise", "raise ValueError(str(error)) from error", "raise TypeError(f'not {error!r}')", "{}[str(error)]"]
)
def test_what_an_exception_quotes_is_neither_in_the_result_nor_in_the_log(then: str, tmp_path: Path) -> None:
    code, result, log = end(tmp_path, "raise KeyError('my ' + 'secret')", then)
    assert (code, result["reason"]) == (ExitCode.BUG, "InternalError")
    assert "Error at kaito/program.py:" in result["message"]
    assert "my secret" not in json.dumps(result) + log
    assert "in run_program" in log


def test_the_line_of_ours_that_failed_is_named(tmp_path: Path) -> None:
    _, result, log = end(tmp_path, "mark_trained('secret', None)")
    assert result["message"].startswith("AttributeError at kaito/datasets/masked.py:")
    assert "secret" not in json.dumps(result)
    assert "masked.py" in log


def test_what_the_machine_says_is_in_the_log(tmp_path: Path) -> None:
    _, result, log = end(tmp_path, "raise RuntimeError('no such ' + 'device')")
    assert "RuntimeError: no such device" in log
    assert "device" not in result["message"]
