"""JSON as the standard has it: no key twice in an object, no NaN, no number or nesting beyond all bounds."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from kaito.datasets.rows import RowError, shown


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    keys = [key for key, _ in pairs]
    twice = next(key for key in keys if keys.count(key) > 1)
    raise _Refused(RowError("the key is there twice in one object", shown(twice) or "''", "keep one of the two"))


def _refuse_constant(name: str) -> NoReturn:
    raise _Refused(RowError(f"{name} is not JSON", "columns", "write null where there is no value"))


class _Refused(Exception):
    def __init__(self, error: RowError) -> None:
        super().__init__(str(error))
        self.error = error


_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)
# Finds where a refused value ends. Numbers stay text: one of a million digits is no fault here.
_SKIPPING = json.JSONDecoder(parse_int=str, parse_float=str)


def decode_value(text: str, start: int = 0) -> tuple[Any, int]:
    """The value at `start` and the index behind it; a RowError in its place if it is JSON, but refused.

    Raises json.JSONDecodeError; RecursionError where it is nested too deep.
    """
    try:
        return _STRICT.raw_decode(text, start)
    except json.JSONDecodeError:
        raise
    except _Refused as refused:
        error = refused.error
    except ValueError:
        error = RowError("a number with too many digits", "columns", "mend this row")
    return error, _SKIPPING.raw_decode(text, start)[1]
