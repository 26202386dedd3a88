"""Field paths: `tuning.input.urls[0]`, `metadata.annotations[kaito.sh/runtime]` as text and as tuples."""

from __future__ import annotations

import re

Key = str | int
Path = tuple[Key, ...]

_PLAIN = re.compile(r"[A-Za-z0-9_\-]+")
_PART = re.compile(r"\[(\d+)\]|\[([^\]]*)\]|\.?([^.\[]+)")
_SHOWN_CHARACTERS = 80


def format_path(path: Path) -> str:
    """The path as people write it. A key that is no plain word stands in brackets; the root is `document`."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        elif _PLAIN.fullmatch(key):
            text += f".{key}" if text else key
        else:
            shown = key if len(key) <= _SHOWN_CHARACTERS else key[:_SHOWN_CHARACTERS] + "…"
            text += f"[{shown}]" if shown.isprintable() else f"[{shown!r}]"
    return text or "document"


def parse_path(text: str) -> Path:
    """The tuple of a written path: digits in brackets are list positions, everything else a key."""
    return tuple(int(index) if index else key or word for index, key, word in _PART.findall(text))
