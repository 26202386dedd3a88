"""Rows that cannot be trained on by their columns: what they are, and which mapping would make them one of ours."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Any

from kaito.datasets.layouts import CONVERSATIONS, LAYOUTS, RECOGNISED, Layout, write_mapping
from kaito.datasets.rows import RowError, shown

_SHOWN_COLUMNS = 12
_LIKE = 0.8

_ASKED = ("question", "questions", "query", "user", "human", "problem", "input", "source", "request", "q")
_ANSWERED = ("answer", "answers", "reply", "assistant", "target", "solution", "gpt", "a")
# What data sets call the columns that we know by another name; the first one of a row that is listed is meant.
_MEANT = {
    "messages": ("dialog", "dialogue", "chat", "chats", "turns", "message", "msgs", "history"),
    "instruction": ("instructions", "task", *_ASKED),
    "input": ("context", "passage"),
    "prompt": _ASKED,
    "completion": ("response", "output", *_ANSWERED),
    "output": ("completion", "response", *_ANSWERED),
    "response": ("answer", "reply", "output", "completion"),
    "text": ("content", "body", "document", "article", "passage", "sentence"),
}
_QUESTIONS = ("question", "query", "problem")
_MEDIA = ("image", "images", "video", "videos", "audio", "audios")


def refuse_other_kinds(value: Mapping[str, Any]) -> None:
    """Raises RowError for a row that says more than one answer, or more than text."""
    if "chosen" in value and "rejected" in value:
        raise _preference_pair(value)
    if "label" in value and "completion" in value and _is_verdict(value["label"]):
        rule = "an answer with a verdict (KTO: prompt, completion and a label that is true or false)"
        remedy = "keep the rows with label true and remove the column: an answer that is not wanted would be learnt"
        raise RowError(rule, "label", remedy)
    if "tools" in value and isinstance(value["tools"], list) and value["tools"]:
        raise RowError("tools that the model may call are not read", "tools", "remove the column, or these rows")
    if "context" in value and "response" in value and "instruction" not in value:
        asked = next((name for name in _QUESTIONS if isinstance(value.get(name), str) and value[name].strip()), None)
        if asked is not None:
            mapping = {"input": "context", "instruction": asked, "output": "response"}
            rule = f"context and response, and '{asked}' beside them"
            raise RowError(rule, "columns", f"to train on all of it set {write_mapping(mapping)}")
    for name in _MEDIA:
        if value.get(name):
            remedy = "remove the column if the text makes sense without it, else these rows"
            raise RowError("images, sound and video are not read, text alone is", name, remedy)


def unrecognised(value: Mapping[str, Any], found: Mapping[str, str], named: Mapping[str, str]) -> RowError:
    """The error for a row of no format. `found`: our name -> the data's; `named`: the same, of the configuration."""
    for name, column in named.items():
        if column not in value:
            remedy = suggest_column(column, value)
            return RowError(f"no such column, which DatasetConfig names as {name}", column, remedy)
    layout = next((one for one in LAYOUTS if 0 < sum(name in found for name in one.needed) < len(one.needed)), None)
    mapping = _suggest(value, found)
    remedy = f"set {write_mapping(mapping)}" if mapping else f"a row has {RECOGNISED}"
    if layout is None:
        return RowError(f"no recognised format: {_found(value)}", "columns", remedy)
    there = next(name for name in layout.needed if name in found)
    missing = next(name for name in layout.needed if name not in found)
    return RowError(f"'{found[there]}' without '{named.get(missing, missing)}'", named.get(missing, missing), remedy)


def suggest_column(named: str, columns: Collection[str]) -> str:
    """What to do where the configuration names a column that is not among those of the data."""
    near = difflib.get_close_matches(named, [str(column) for column in columns], n=1)
    return f"did you mean '{shown(near[0])}'?" if near else f"correct the setting: {_found(columns)}"


def _preference_pair(value: Mapping[str, Any]) -> RowError:
    better = "messages" if isinstance(value["chosen"], list) else "completion" if "prompt" in value else "text"
    mapping = {"prompt": "prompt", "completion": "chosen"} if better == "completion" else {better: "chosen"}
    rule = "a preference pair (chosen, rejected): to compare two answers, not to learn one"
    return RowError(rule, "columns", f"to learn the chosen one set {write_mapping(mapping)}")


def _is_verdict(label: object) -> bool:
    return isinstance(label, bool) or (isinstance(label, str) and label.lower() in ("true", "false"))


def _found(value: Collection[str]) -> str:
    if not value:
        return "the row has no columns"
    more = ", …" if len(value) > _SHOWN_COLUMNS else ""
    return "found " + ", ".join(f"'{shown(name)}'" for name in islice(value, _SHOWN_COLUMNS)) + more


def _suggest(value: Mapping[str, Any], found: Mapping[str, str]) -> dict[str, str] | None:
    """The mapping that makes the row one of the formats, if its columns' names allow a guess: the one that leaves the
    fewest of them out. A question and its answer are an instruction, which a chat model reads as a conversation; only
    what is called a prompt is taken for plain text."""
    guesses = [(layout, mapping) for layout in LAYOUTS if (mapping := _guess(layout, value, found))]
    if not guesses:
        return None

    def fitness(guess: tuple[Layout, dict[str, str]]) -> tuple[int, bool]:
        layout, mapping = guess
        covered = {*mapping.values(), *(column for name, column in found.items() if name in layout.columns)}
        return len(covered), "prompt" in found or layout.format != "prompt-completion"

    return max(guesses, key=fitness)[1]


def _guess(layout: Layout, value: Mapping[str, Any], found: Mapping[str, str]) -> dict[str, str] | None:
    mapping: dict[str, str] = {}
    for name in layout.needed:
        kind = list if name in CONVERSATIONS else str
        candidates = [found[name]] if name in found else _candidates(name, value)
        column = next((c for c in candidates if c not in mapping.values() and isinstance(value[c], kind)), None)
        if column is None:
            return None
        mapping[name] = column
    if "instruction" in mapping and "input" not in found:
        beside = (c for c in _candidates("input", value) if c not in mapping.values() and isinstance(value[c], str))
        if column := next(beside, None):
            return {"input": column, **mapping}
    return mapping


def _candidates(name: str, value: Mapping[str, Any]) -> Iterator[str]:
    """The row's columns that may be meant by `name`, the likeliest first."""
    by_lower = {str(key).strip().lower().replace(" ", "_").replace("-", "_"): str(key) for key in value}
    for known in (name, *_MEANT.get(name, ())):
        if known in by_lower:
            yield by_lower[known]
    for near in difflib.get_close_matches(name, by_lower, n=3, cutoff=_LIKE):
        yield by_lower[near]
