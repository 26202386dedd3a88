"""Reads the catalog's own data files: YAML lists whose entries are flow mappings written as JSON.

Not a YAML parser. That form is read by `json` in a millisecond where a YAML parser needs hundreds; a test holds both
readings against each other.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

GIB = 2**30

_FACTORS = {"M": 10**6, "B": 10**9, "T": 10**12, "Gi": GIB}


def read_entries(name: str) -> list[dict[str, Any]]:
    """The entries of one data file of this package, in its order."""
    text = Path(__file__).with_name(name).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    entries = "\n".join(lines).removeprefix("- ").replace("\n- ", ",\n")
    data: list[dict[str, Any]] = json.loads(f"[{entries}]")
    return data


def parse_amount(amount: str | int | None) -> int:
    """`27.31Gi`, `3.8B` or a plain number as an integer; 0 for what an entry leaves out."""
    if amount is None:
        return 0
    if isinstance(amount, int):
        return amount
    digits = amount.rstrip("MBTGi")
    return round(float(digits) * _FACTORS[amount[len(digits) :]])
