"""The page that lists what holds by default names tests; they must exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "explanation" / "right-by-default.md"


def test_every_row_of_the_page_names_tests_that_exist() -> None:
    defined = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    rows = [row for row in rows if "| shown by |" not in row]
    named = [re.findall(r"`(test_\w+)`", row) for row in rows]
    assert len(rows) >= 20
    assert not [row for row, tests in zip(rows, named, strict=True) if not tests]
    assert {name for tests in named for name in tests} <= defined
