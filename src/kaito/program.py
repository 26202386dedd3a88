"""The program's side of the contract with the runner: progress, result, failure, stack dumps, and dying in time.

Every `python -m kaito.…` of a step ends its module with `run_program(main)`. Run by hand, without a runner, the same
program prints its result as JSON.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from kaito.failure import ConfigFailure, ExitCode, Failure, NoSpaceFailure, is_disk_full

PROGRESS_VARIABLE = "KAITO_PROGRESS"
RESULT_VARIABLE = "KAITO_RESULT"
PARENT_VARIABLE = "KAITO_PARENT_PID"
RESERVE_VARIABLE = "KAITO_RESERVE"  # a file to give up when the disk is full, so that the last words have room

_PR_SET_PDEATHSIG = 1
_NO_SPACE_BYTES = 16384
_PACKAGE = Path(__file__).parent
# Exceptions that say what is wrong with the machine or a library, and do not quote what they were given.
_OF_THE_MACHINE = (OSError, RuntimeError, ImportError, MemoryError)


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
        if result is not None:
            write_result(result)
            if RESULT_VARIABLE not in os.environ:
                print(json.dumps(result))
    except Stopped:
        sys.exit(ExitCode.STOPPED)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # noqa: BLE001  the last resort: what is no Failure is a bug, and says so
        sys.exit(_say_failure(error))
    sys.exit(ExitCode.DONE)


def _say_failure(error: Exception) -> ExitCode:
    """Tell the runner and the log why the program ends; returns its exit code. Also where nothing can be written."""
    if no_space := _no_space(error):
        give_up_reserve()
        failure: Failure = no_space
    elif isinstance(error, Failure):
        failure = error
    else:
        with suppress(OSError):
            print("".join(_trace(error)), end="", file=sys.stderr)
        failure = Failure(f"{type(error).__name__} at {_place(error)}", "This is a bug; the step's log has more.")
    with suppress(OSError):
        write_result({"reason": failure.reason, "message": failure.message, "hint": failure.hint})
    with suppress(OSError):
        print(f"error: {failure.message}" + (f" ({failure.hint})" if failure.hint else ""), file=sys.stderr)
    return failure.exit_code


def _trace(error: BaseException) -> list[str]:
    """The traceback and those of its causes. An exception that is about a value may quote it, and that may be of a
    row: of such only the type is shown, of those that are about the machine what they say too."""
    lines: list[str] = []
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        lines = [*_trace(cause), "\n… and then:\n\n"]
    said = str(error) if isinstance(error, _OF_THE_MACHINE) else ""
    name = type(error).__name__ + (f": {said}" if said else "")
    return [*lines, "Traceback (most recent call last):\n", *traceback.format_tb(error.__traceback__), f"{name}\n"]


def _place(error: BaseException) -> str:
    """The file and line of ours at which the error was raised or let through: at least `run_program`'s own."""
    frames = ((Path(frame.f_code.co_filename), line) for frame, line in traceback.walk_tb(error.__traceback__))
    *_, (file, line) = ((file, line) for file, line in frames if file.is_relative_to(_PACKAGE))
    return f"{file.relative_to(_PACKAGE.parent)}:{line}"


def give_up_reserve() -> None:
    """Free what the runner keeps for the last words of a run whose disk is full."""
    path = os.environ.get(RESERVE_VARIABLE)
    if path is not None:
        with suppress(OSError):
            Path(path).unlink()


def _no_space(error: Exception) -> NoSpaceFailure | None:
    """A full disk as the one failure that it is, whichever call met it; None for every other error."""
    if isinstance(error, Failure) and error.reason == NoSpaceFailure.reason:
        return NoSpaceFailure(error.message, error.hint)
    # Some libraries fail on a full disk without a word of why.
    is_unclear = not isinstance(error, Failure) or error.exit_code == ExitCode.TEMPORARY
    if not is_disk_full(error) and not (is_unclear and _free_bytes(Path.cwd()) < _NO_SPACE_BYTES):
        return None
    folder = min(_written_folders(error), key=_free_bytes)
    said = error.message if isinstance(error, Failure) else str(error)
    return NoSpaceFailure(
        f"the disk of {folder} is full, {_free_bytes(folder) / 1e6:.1f} MB are free: {said}",
        f"make room on the disk of {folder}; what is finished is kept, and the next start goes on from there",
    )


def _written_folders(error: Exception) -> list[Path]:
    """Where the program may have met a full disk: the file that the error names, else the paths that it was given."""
    if isinstance(error, OSError) and isinstance(error.filename, str):
        return [Path(error.filename).absolute().parent]
    given = [Path.cwd() / word for word in sys.argv[1:]]
    return [Path.cwd(), *(path for path in given if path.exists() and os.access(path, os.W_OK))]


def _free_bytes(path: Path) -> int:
    place = next(parent for parent in (path, *path.parents) if parent.exists())
    return shutil.disk_usage(place).free
