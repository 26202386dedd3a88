"""A row of data as what it means: a conversation, a prompt and its completion, an instruction, or plain text.

The formats and their columns: docs/reference/data.md. Any other row is a RowError, never passed on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kaito.datasets.columns import Columns
from kaito.datasets.layouts import CONVERSATIONS
from kaito.datasets.messages import Message, kind, parse_messages, require_text, trained_turns
from kaito.datasets.rows import RowError

__all__ = ["Chat", "Columns", "Completion", "Format", "Instruction", "Parsed", "Text", "parse_row"]

Format = Literal[
    "messages", "sharegpt", "prompt-completion", "alpaca", "instruction-response", "context-response", "text"
]


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation. `turns`: the indices of the assistant's turns that are learnt, in order, at least one."""

    format: str
    messages: list[Message]
    turns: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Completion:
    """Plain text and its continuation, which is learnt. No chat template applies."""

    format: str
    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Instruction:
    """A task, perhaps with further input and a system text, and its answer, which is learnt."""

    format: str
    instruction: str
    answer: str
    input: str = ""
    system: str = ""

    def as_chat(self) -> Chat:
        """For a model with a chat template: the input follows the instruction in the user's turn."""
        asked = f"{self.instruction}\n\n{self.input}" if self.input else self.instruction
        turns = [{"role": "system", "content": self.system}] if self.system else []
        turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": self.answer}]
        return Chat(self.format, turns, (len(turns) - 1,))

    def as_completion(self) -> Completion:
        """For a model without one: Alpaca's headings, the system text in place of its preamble."""
        parts = [self.system] if self.system else []
        parts.append(f"### Instruction:\n{self.instruction}")
        if self.input:
            parts.append(f"### Input:\n{self.input}")
        parts.append("### Response:\n")
        return Completion(self.format, "\n\n".join(parts), self.answer)


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text, all of it learnt."""

    format: str
    text: str


Parsed = Chat | Completion | Instruction | Text

_STANDARD_COLUMNS = Columns()


def parse_row(value: Mapping[str, Any], columns: Columns | None = None) -> Parsed:
    """A row as one of the formats. `columns`: where the configuration says they are. Raises RowError."""
    if not isinstance(value, Mapping):
        raise RowError(f"a {kind(value)}, not an object", "row", 'write an object with columns, {"messages": […]}')
    layout, names = (columns or _STANDARD_COLUMNS).find(value)
    if layout.needed[0] in CONVERSATIONS:
        return _parse_conversation(value, names, names[layout.needed[0]])
    if layout.format == "prompt-completion":
        return _parse_pair(value, *(names[name] for name in layout.needed))
    texts = {name: require_text(value.get(column), column) for name, column in names.items()}
    if layout.format == "text":
        return Text("text", texts["text"])
    if "input" in texts and "context" in texts:
        rule = f"both '{names['input']}' and '{names['context']}' beside the instruction"
        raise RowError(rule, "columns", "keep one of them")
    task, answer = layout.needed
    further = texts.get("input", "") if task == "context" else texts.get("input", texts.get("context", ""))
    return Instruction(layout.format, texts[task], texts[answer], further, texts.get("system", ""))


def _parse_conversation(value: Mapping[str, Any], names: Mapping[str, str], column: str) -> Chat:
    messages, sharegpt = parse_messages(value.get(column), column)
    turns = trained_turns(messages, column)
    if "system" in names:
        if messages[0]["role"] == "system":
            rule = f"a system turn, and a column '{names['system']}'"
            raise RowError(rule, names["system"], "keep one of the two")
        system = {"role": "system", "content": require_text(value[names["system"]], names["system"])}
        messages.insert(0, system)
        turns = tuple(turn + 1 for turn in turns)
    return Chat("sharegpt" if sharegpt else "messages", messages, turns)


def _parse_pair(value: Mapping[str, Any], prompt_column: str, completion_column: str) -> Chat | Completion:
    prompt, completion = value[prompt_column], value[completion_column]
    if isinstance(prompt, str) and isinstance(completion, str):
        texts = require_text(prompt, prompt_column), require_text(completion, completion_column)
        return Completion("prompt-completion", *texts)
    if isinstance(prompt, list) and isinstance(completion, list):
        messages, _ = parse_messages(prompt, prompt_column)
        answers, _ = parse_messages(completion, completion_column)
        turns = trained_turns([*messages, *answers], completion_column, start=len(messages))
        return Chat("prompt-completion", messages + answers, turns)
    rule = "prompt and completion are neither both strings nor both lists of messages"
    raise RowError(rule, completion_column, "write both as strings, or both as lists of {role, content}")
