"""What counts as a full disk: the kernel's word, in whatever error it arrives, and no other machine's."""

from __future__ import annotations

import errno

import pytest

from kaito.failure import DataFailure, TemporaryFailure, is_disk_full


def caused_by(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "x"), True),
        (OSError(errno.EDQUOT, "x"), True),
        (OSError(errno.EACCES, "x"), False),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), True),
        (caused_by(DataFailure("cannot be packed"), OSError(errno.ENOSPC, "x")), True),
        (caused_by(RuntimeError("x"), caused_by(ValueError("y"), OSError(errno.EDQUOT, "z"))), True),
        (TemporaryFailure("the registry says: No space left on device"), False),
        (caused_by(TemporaryFailure("No space left on device"), ConnectionResetError("x")), False),
        (ValueError("x"), False),
    ],
)
def test_a_full_disk_is_told_from_other_errors(error: Exception, full: bool) -> None:
    assert is_disk_full(error) is full
