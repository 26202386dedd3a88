"""The program's side of the contract with the runner: progress, result, failure, stack dumps, and dying in time.

Every `python -m kaito.…` of a step ends its module with `run_program(main)`. Run by hand, without a runner, the same
program prints its result as JSON.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from kaito.failure import ConfigFailure, ExitCode, Failure

PROGRESS_VARIABLE = "KAITO_PROGRESS"
RESULT_VARIABLE = "KAITO_RESULT"
PARENT_VARIABLE = "KAITO_PARENT_PID"

_PR_SET_PDEATHSIG = 1


class Stopped(BaseException):
    """SIGTERM arrived. Not an Exception: no `except Exception` between here and the entry may swallow it."""


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends, and end now if that has happened already.

    Called at the entry of every program, and of every process that a program starts (ranks, loaders): nothing that
    trains may outlive the runner. The expected parent is `KAITO_PARENT_PID`; without it nobody is waited on.
    """
    expected = os.environ.get(PARENT_VARIABLE)
    if expected is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(expected):
        os._exit(ExitCode.TEMPORARY)


def report(done: int, total: int, unit: str) -> None:
    """Append one line of progress. `unit`: bytes, rows or steps. One short write: call it a few times a second."""
    path = os.environ.get(PROGRESS_VARIABLE)
    if path is None:
        return
    line = json.dumps({"time": time.time(), "done": done, "total": total, "unit": unit}) + "\n"
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(line)


def write_result(value: Mapping[str, Any]) -> None:
    """Write the result (or `{reason, message, hint}`) where the runner reads it, whole or not at all."""
    path = os.environ.get(RESULT_VARIABLE)
    if path is None:
        return
    temporary = Path(path + ".part")
    temporary.write_text(json.dumps(value), encoding="utf-8")
    temporary.replace(path)


def read_token(path: Path | None) -> str:
    """The hub's token: of a file, else of HF_TOKEN. Raises ConfigFailure if the file cannot be read."""
    if path is None:
        return os.environ.get("HF_TOKEN", "").strip()
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        hint = "give a text file that holds the token alone"
        raise ConfigFailure(f"token file {path} cannot be read", hint) from error


def _raise_stopped(_signal: int, _frame: FrameType | None) -> None:
    raise Stopped


def run_program(main: Callable[[list[str]], Mapping[str, Any] | None]) -> NoReturn:
    """Run a program's `main(argv)` under the contract and exit with the code that its end means.

    `main` returns its result, or raises a `Failure`. SIGTERM ends the process with 143 wherever it is, unless `main`
    sets a handler of its own. SIGUSR1 dumps all stacks to stderr.
    """
    die_with_parent()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    signal.signal(signal.SIGTERM, _raise_stopped)
    try:
        result = main(sys.argv[1:])
    except Stopped:
        sys.exit(ExitCode.STOPPED)
    except KeyboardInterrupt:
        sys.exit(130)
    except Failure as failure:
        write_result({"reason": failure.reason, "message": failure.message, "hint": failure.hint})
        print(f"error: {failure.message}" + (f" ({failure.hint})" if failure.hint else ""), file=sys.stderr)
        sys.exit(failure.exit_code)
    except Exception as error:  # noqa: BLE001  the last resort: what escapes here is a bug, and says so
        traceback.print_exc()
        message = f"{type(error).__name__}: {error}"
        write_result({"reason": "InternalError", "message": message, "hint": "This is a bug; the step's log has more."})
        sys.exit(ExitCode.BUG)
    if result is not None:
        write_result(result)
        if RESULT_VARIABLE not in os.environ:
            print(json.dumps(result))
    sys.exit(ExitCode.DONE)
