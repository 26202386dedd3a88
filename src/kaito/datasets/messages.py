"""A row's list of messages, in OpenAI's form ({role, content}) or ShareGPT's ({from, value})."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from kaito.datasets.rows import RowError, require_characters

ROLES = ("system", "developer", "user", "assistant", "tool")

Message = dict[str, Any]

_MISTAKEN_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "ai": "assistant"}
_SHAREGPT_ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bot", "model", "bing", "bard"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function_response"), "tool"),
    "system": "system",
}
_TOOL_CALLS = ("tool_calls", "function_call")
_NOT_TEXT = {
    **dict.fromkeys(("image", "image_url", "input_image"), "an image"),
    **dict.fromkeys(("video", "video_url"), "a video"),
    **dict.fromkeys(("audio", "input_audio"), "a sound"),
}


def parse_messages(value: object, column: str) -> tuple[list[Message], bool]:
    """The messages as {role, content, …}, and whether they are in ShareGPT's form. A text is read as JSON."""
    if isinstance(value, str):
        value = _parse_json(value, column)
    if not isinstance(value, list):
        raise RowError(f"a {kind(value)}, not a list of messages", column, "write a list of {role, content}")
    if not value:
        raise RowError("no messages", column, "give at least a user's and an assistant's turn, or remove the row")
    first = value[0]
    sharegpt = isinstance(first, dict) and "from" in first and "role" not in first
    parse = _parse_sharegpt if sharegpt else _parse_openai
    return [parse(message, f"{column}[{index}]") for index, message in enumerate(value)], sharegpt


def trained_turns(messages: Iterable[Message], column: str, start: int = 0) -> tuple[int, ...]:
    """Indices of the assistant's turns that are learnt: from `start` on, without those of weight 0."""
    weights = {i: message.pop("weight", 1) for i, message in enumerate(messages) if message["role"] == "assistant"}
    answers = [index for index in weights if index >= start]
    if not answers:
        raise RowError("no assistant turn, so nothing to learn", column, "add the answer as an assistant's turn")
    turns = tuple(index for index in answers if weights[index])
    if not turns:
        raise RowError("every answer has weight 0, so nothing to learn", column, "remove the row")
    return turns


def require_text(text: object, column: str) -> str:
    """`text`, if it is one that holds more than white space. Raises RowError."""
    if not isinstance(text, str):
        raise RowError(f"a {kind(text)}, not text", column, "write the text as a string")
    if not text or text.isspace():
        raise RowError("empty", column, "write the text, or remove the row")
    require_characters(text, column)
    return text


def kind(value: object) -> str:
    """What JSON calls a value of this type."""
    names = {str: "string", int: "number", float: "number", bool: "boolean", dict: "object", list: "list"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def _parse_json(text: str, column: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        remedy = "write the list of messages as JSON: with double quotes, as json.dumps does"
        raise RowError("a text that is not JSON", column, remedy) from error


def _parse_openai(message: object, place: str) -> Message:
    if not isinstance(message, dict):
        raise RowError(f"a {kind(message)}, not {{role, content}}", place, "write an object with role and content")
    role = message.get("role")
    if role not in ROLES:
        if role is None and "from" in message:
            raise RowError("'from' and 'value' among 'role' and 'content'", place, "use one form in the whole row")
        meant = _MISTAKEN_ROLES.get(role) if isinstance(role, str) else None
        remedy = f"write '{meant}' instead of '{role}'" if meant else f"a role is one of {', '.join(ROLES)}"
        raise RowError("no role" if role is None else "unknown role", f"{place}.role", remedy)
    return _build(message, role, message.get("content"), f"{place}.content", place)


def _parse_sharegpt(message: object, place: str) -> Message:
    if not isinstance(message, dict):
        raise RowError(f"a {kind(message)}, not {{from, value}}", place, "write an object with from and value")
    said = message.get("from")
    if said == "function_call":
        raise _tool_call(f"{place}.from")
    role = _SHAREGPT_ROLES.get(said.lower()) if isinstance(said, str) else None
    if role is None:
        rule = "no 'from'" if said is None else "unknown speaker"
        raise RowError(rule, f"{place}.from", f"one of {', '.join(_SHAREGPT_ROLES)}")
    return _build(message, role, message.get("value"), f"{place}.value", place)


def _build(message: Mapping[str, Any], role: str, content: object, column: str, place: str) -> Message:
    for name in _TOOL_CALLS:
        if message.get(name):
            raise _tool_call(f"{place}.{name}")
    built: Message = {"role": role, "content": require_text(_join_parts(content, column), column)}
    # Other fields (name, reasoning_content) are the chat template's affair; parquet fills absent ones with null.
    if len(message) > 2:
        known = ("role", "content", "from", "value", *_TOOL_CALLS)
        built.update({key: item for key, item in message.items() if item is not None and key not in known})
        if built.get("weight", 1) not in (0, 1):
            raise RowError("neither 0 nor 1", f"{place}.weight", "write 0 for an answer that is not learnt, else 1")
        if role != "assistant":
            built.pop("weight", None)
    return built


def _tool_call(place: str) -> RowError:
    return RowError("tool calls are not read", place, "write what the assistant says as content, or remove the row")


def _join_parts(content: object, place: str) -> object:
    """Content as one string: OpenAI's list of text parts is joined."""
    if content is None:
        raise RowError("no content", place, "write the turn's text, or remove the turn")
    if not isinstance(content, list):
        return content
    parts = []
    for part in content:
        if not (isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)):
            said = part.get("type") if isinstance(part, dict) else None
            what = (
                _NOT_TEXT.get(said, "a part that is not text") if isinstance(said, str) else "a part that is not text"
            )
            raise RowError(what, place, "only text is trained on: remove other parts, or the row")
        parts.append(part["text"])
    return "".join(parts)
