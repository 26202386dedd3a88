"""How a program ends: the typed failures and their exit codes. Who tries again after which: `kaito.runner`."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from enum import IntEnum
from typing import ClassVar

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# As libraries that are not Python's put it into their own errors: safetensors (Rust), and C's strerror.
_FULL_WORDS = ("os error 28", "No space left on device", "Disk quota exceeded")


class ExitCode(IntEnum):
    """Exit codes of programs. 2 to 7 are final; 1, 75 and signals are tried again; 143 is not a failure."""

    DONE = 0
    BUG = 1
    CONFIG = 2
    DATA = 3
    MODEL = 4
    REGISTRY = 5
    OUT_OF_MEMORY = 6
    DIVERGED = 7
    TEMPORARY = 75
    STOPPED = 143


class Failure(Exception):
    """A program's typed end. Every package's errors descend from one of these.

    Failure
    ├── ConfigFailure      2   the configuration cannot work
    ├── DataFailure        3   the training data cannot be read or used
    ├── ModelFailure       4   the base model is missing, gated, or does not fit
    ├── RegistryFailure    5   the registry refuses
    ├── OutOfMemoryFailure 6
    ├── DivergedFailure    7   the loss is not a number
    └── TemporaryFailure   75  the same call may succeed later
        └── NoSpaceFailure     the disk is full: no time alone heals that, so nothing tries again by itself

    `message` says what happened and where; `hint` says what to do; `reason` is a CamelCase word for a condition.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.BUG
    reason: str = "InternalError"

    def __init__(self, message: str, hint: str = "", *, reason: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if reason is not None:
            self.reason = reason


class ConfigFailure(Failure):
    exit_code = ExitCode.CONFIG
    reason = "ConfigInvalid"


class DataFailure(Failure):
    exit_code = ExitCode.DATA
    reason = "DataInvalid"


class ModelFailure(Failure):
    exit_code = ExitCode.MODEL
    reason = "ModelUnavailable"


class RegistryFailure(Failure):
    exit_code = ExitCode.REGISTRY
    reason = "RegistryDenied"


class OutOfMemoryFailure(Failure):
    exit_code = ExitCode.OUT_OF_MEMORY
    reason = "OutOfMemory"


class DivergedFailure(Failure):
    exit_code = ExitCode.DIVERGED
    reason = "Diverged"


class TemporaryFailure(Failure):
    exit_code = ExitCode.TEMPORARY
    reason = "Temporary"


class NoSpaceFailure(TemporaryFailure):
    reason = "NoSpace"


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one that it came from, is the kernel's word that the disk is full or the quota used up."""
    return any(
        cause.errno in _FULL if isinstance(cause, OSError) else any(words in str(cause) for words in _FULL_WORDS)
        for cause in _causes(error)
        if not isinstance(cause, Failure)  # its words may be another machine's: a registry's disk is not ours
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
