"""What differs between two Workspaces of one name, for the person who applies the second. Nothing is decided by it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from kaito.api.paths import Path, format_path
from kaito.api.training import TRAINING_CONFIG_KEY, parse_training_config
from kaito.local.desired import Desired

_LONGEST_VALUE = 60
_MOST_FIELDS = 5


def describe_changes(before: Desired, after: Desired) -> str:
    """`learning_rate 0.003 -> 0.002, output.image a:1 -> a:2`; "" where a run would be of the same inputs."""
    old, new = _fields(before), _fields(after)
    changed = [_change(path, old.get(path), new.get(path)) for path in dict.fromkeys((*old, *new))]
    changed += [
        f"the files in {folder}"
        for folder, signature in after.asked.sources.items()
        if before.asked.sources.get(folder, signature) != signature
    ]
    lines = [line for line in changed if line]
    more = f" and {len(lines) - _MOST_FIELDS} more" if len(lines) > _MOST_FIELDS else ""
    return ", ".join(lines[:_MOST_FIELDS]) + more


def _fields(desired: Desired) -> dict[Path, Any]:
    """What is said of each field. A setting has one name, be it said in the ConfigMap or, which counts, inline."""
    body = dict(desired.workspace.get("tuning") or desired.workspace.get("inference") or {})
    config = desired.configs.get(str(body.get("config") or ""), {}).get(TRAINING_CONFIG_KEY, "")
    parsed = parse_training_config(config).config
    settings = {} if parsed is None else parsed.model_dump(mode="json", by_alias=True, exclude_unset=True)
    inline = body.pop("parameters", None) or {}
    sections = [*_flat(settings, ()), *_flat(inline, ())]
    return {**dict(_flat(body, ())), **{("settings", *path[1:]): value for path, value in sections}}


def _flat(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, (*path, str(key)))
    elif value is not None:
        yield path, value


def _change(path: Path, old: Any, new: Any) -> str:
    if old == new:
        return ""
    name = format_path(path[1:] if path[0] == "settings" else path)
    shown = [_show(old), _show(new)]
    return f"{name} {' -> '.join(shown)}" if all(shown) else name


def _show(value: Any) -> str:
    """A short value as it is; "" for a long one, or an address whose query may sign it."""
    if value is None:
        return "unset"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if text and len(text) <= _LONGEST_VALUE and "?" not in text and text.isprintable() else ""
