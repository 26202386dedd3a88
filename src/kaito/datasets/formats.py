"""What a row may look like: `messages`, or `prompt` and `completion`. Anything else is a RowError, never passed on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kaito.datasets.rows import RowError

RECOGNISED = "'messages' (a list of {role, content}), or 'prompt' and 'completion'"
ROLES = ("system", "developer", "user", "assistant", "tool")

_MISTAKEN_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "ai": "assistant"}
_COLUMNS = ("messages", "prompt", "completion")
_SHOWN_COLUMNS = 12
_LONGEST_NAME = 40


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation. The assistant's turns from index `trained_from` on are what is learnt."""

    messages: list[dict[str, Any]]
    trained_from: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """Plain text and its continuation, which is learnt. No chat template applies."""

    prompt: str
    completion: str


def parse_row(value: Mapping[str, Any], columns: Mapping[str, str] | None = None) -> Chat | Completion:
    """A row as one of the recognised formats. `columns`: our column name -> the name it has in the data."""
    names = {column: (columns or {}).get(column, column) for column in _COLUMNS}
    present = {column for column, name in names.items() if value.get(name) is not None}
    if present == {"messages"}:
        column = names["messages"]
        messages = _parse_messages(value[column], column)
        _require_answer(messages, column)
        return Chat(messages)
    if present == {"prompt", "completion"}:
        return _parse_pair(value, names["prompt"], names["completion"])
    if present >= {"messages"}:
        raise RowError("both 'messages' and 'prompt' or 'completion'", "columns", "keep one of the two formats")
    if present:
        (only,) = present
        other = "completion" if only == "prompt" else "prompt"
        raise RowError(f"'{names[only]}' without '{names[other]}'", names[other], "give both, or 'messages'")
    raise RowError(f"no recognised format: {_found(value)}", "columns", f"a row has {RECOGNISED}")


def _found(value: Mapping[str, Any]) -> str:
    if not value:
        return "the row has no columns"
    names = [name if len(name) <= _LONGEST_NAME else name[:_LONGEST_NAME] + "…" for name in map(str, value)]
    more = ", …" if len(names) > _SHOWN_COLUMNS else ""
    return "found " + ", ".join(f"'{name}'" for name in names[:_SHOWN_COLUMNS]) + more


def _parse_pair(value: Mapping[str, Any], prompt_column: str, completion_column: str) -> Chat | Completion:
    prompt, completion = value[prompt_column], value[completion_column]
    if isinstance(prompt, str) and isinstance(completion, str):
        for text, column in ((prompt, prompt_column), (completion, completion_column)):
            _require_text(text, column)
        return Completion(prompt, completion)
    if isinstance(prompt, list) and isinstance(completion, list):
        messages = _parse_messages(prompt, prompt_column)
        answers = _parse_messages(completion, completion_column)
        _require_answer(answers, completion_column)
        return Chat(messages + answers, trained_from=len(messages))
    rule = "prompt and completion are neither both strings nor both lists of messages"
    raise RowError(rule, completion_column, "write both as strings, or both as lists of {role, content}")


def _parse_messages(value: object, column: str) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise RowError(f"a {_kind(value)}, not a list of messages", column, "write a list of {role, content}")
    if not value:
        raise RowError("no messages", column, "give at least a user's and an assistant's turn, or remove the row")
    return [_parse_message(message, f"{column}[{index}]") for index, message in enumerate(value)]


def _parse_message(message: object, place: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise RowError(f"a {_kind(message)}, not {{role, content}}", place, "write an object with role and content")
    if "role" not in message and "from" in message:
        raise RowError("'from' and 'value' instead of 'role' and 'content'", place, "rename them to role and content")
    role = message.get("role")
    if role not in ROLES:
        meant = _MISTAKEN_ROLES.get(role) if isinstance(role, str) else None
        remedy = f"write '{meant}' instead of '{role}'" if meant else f"a role is one of {', '.join(ROLES)}"
        raise RowError("no role" if role is None else "unknown role", f"{place}.role", remedy)
    if message.get("tool_calls"):
        raise RowError("tool calls are not read", f"{place}.tool_calls", "write what the assistant says as content")
    content = _join_parts(message.get("content"), f"{place}.content")
    _require_text(content, f"{place}.content")
    # Other fields (name, reasoning_content) are the chat template's affair; parquet fills absent ones with null.
    others = {key: item for key, item in message.items() if item is not None and key not in ("role", "content")}
    return {"role": role, "content": content, **others}


def _join_parts(content: object, place: str) -> str:
    """Content as one string: OpenAI's list of text parts is joined."""
    if isinstance(content, str):
        return content
    if content is None:
        raise RowError("no content", place, "write the turn's text, or remove the turn")
    if not isinstance(content, list):
        raise RowError(f"a {_kind(content)}, not text", place, "write the turn's text as a string")
    parts = []
    for part in content:
        if not (isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)):
            raise RowError("a part that is not text", place, "only text is trained on: remove other parts")
        parts.append(part["text"])
    return "".join(parts)


def _require_text(text: str, column: str) -> None:
    if not text.strip():
        raise RowError("empty", column, "write the text, or remove the row")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowError("a broken character (half of a surrogate pair)", column, "mend the escape \\uD8xx") from error


def _require_answer(messages: list[dict[str, Any]], column: str) -> None:
    if not any(message["role"] == "assistant" for message in messages):
        raise RowError("no assistant turn, so nothing to learn", column, "add the answer as an assistant's turn")


def _kind(value: object) -> str:
    names = {str: "string", int: "number", float: "number", bool: "boolean", dict: "object", list: "list"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
