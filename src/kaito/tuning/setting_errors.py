"""What libraries raise for settings that they do not take: the end of a run in words, not in a traceback."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from kaito.failure import ConfigFailure
from kaito.tuning.memory import is_out_of_memory

SETTING_ERRORS = (ValueError, TypeError, NotImplementedError, LookupError, re.error)


@contextmanager
def fitting_settings(where: str) -> Iterator[None]:
    """What a library says of a setting here ends as ConfigFailure. `where`: the section or key.

    A plain RuntimeError does not: a device or another process raises those.
    """
    try:
        yield
    except SETTING_ERRORS as error:
        if is_out_of_memory(error):
            raise
        raise ConfigFailure(
            f"{where} cannot be used: {type(error).__name__}: {error}", "correct it, or leave it out"
        ) from error
