"""How a command ends on a problem: one line on stderr, exit code 1."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import typer

if TYPE_CHECKING:
    from kaito.client import Key


def fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(1)


def parse_key(name: str, namespace: str) -> Key:
    """NAME or NAMESPACE/NAME as typed."""
    from kaito.client import Key

    try:
        return Key.parse(name, namespace)
    except ValueError as error:
        fail(str(error))


@contextmanager
def failing() -> Iterator[None]:
    """What the client raises, as one line each."""
    from kaito.client import AlreadyRunning, NotFound, Unreadable
    from kaito.failure import Failure, is_disk_full

    try:
        yield
    except AlreadyRunning as error:
        fail(f"{error}; kaito stop {error.key.name} stops it, kaito logs {error.key.name} -f shows it")
    except Unreadable as error:
        fail(f"{error}; kaito delete {error.key.name} removes it")
    except Failure as failure:
        fail(failure.message + (f" ({failure.hint})" if failure.hint else ""))
    except OSError as error:
        if is_disk_full(error):
            fail(f"the disk is full: {error.filename or error} cannot be written; make room there")
        fail(str(error))
    except (NotFound, ValueError) as error:
        fail(str(error))
