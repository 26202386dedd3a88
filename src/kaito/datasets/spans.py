"""Which characters of a rendered conversation the assistant writes. Text alone; tokens are `render`'s.

How a span is found, and what counts as the end of a turn: docs/decisions/loss-mask.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from kaito.datasets.rows import RowError, require_characters
from kaito.datasets.templates import ChatTemplate

Messages = Sequence[dict[str, Any]]

_PRIVATE_USE = range(0xE000, 0xF900)
_LONGEST_TOKEN = 200  # characters of a special token and the white space before it


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `start` to `end` (exclusive) are the assistant's. `closed`: they end with an end-of-turn token."""

    start: int
    end: int
    closed: bool


def locate_answers(
    template: ChatTemplate, messages: Messages, end_tokens: re.Pattern[str], turns: Sequence[int]
) -> tuple[str, list[Span]]:
    """The rendered conversation and the spans of the assistant's turns of these indices, which ascend.

    `end_tokens` matches, at its start, white space and one of the tokenizer's special tokens. Raises RowError where
    the template refuses the conversation or an answer cannot be found in its text.
    """
    text = template.render(messages)
    require_characters(text, "messages")  # contents are checked; other fields of a turn may be placed too
    ends = _content_ends(template, messages, turns, text)
    _require_other_turns(template, messages, text)
    if ends is None:
        if template.has_generation_marks:
            return text, _generation_spans(template, messages, turns, text, end_tokens)
        rule = f"the chat template of {template.origin} does not reproduce the assistant's text"
        raise RowError(rule, "messages", "choose another ModelConfig.chat_template, or mark it with {% generation %}")
    spans: list[Span] = []
    for turn, content_end in zip(turns, ends, strict=True):
        after = spans[-1].end if spans else 0
        start = _answer_start(template, messages, turn, text, after, content_end)
        spans.append(_close(template, messages, turn, text, start, content_end, end_tokens))
    return text, spans


def _content_ends(template: ChatTemplate, messages: Messages, turns: Sequence[int], text: str) -> list[int] | None:
    """Where each answer's content ends in `text`; None if the template does not keep the end of a content."""
    for strip in (str, str.rstrip, str.strip):
        mark, _ = _unused_characters(text)
        marked = _render_marked(template, messages, turns, strip, "", mark)
        places = _find_marks(marked, mark, text)
        if places is not None and len(places) == len(turns):
            return places
    return None


def _content_start(template: ChatTemplate, messages: Messages, turn: int, text: str) -> int | None:
    for strip in (str, str.lstrip, str.strip):
        mark, _ = _unused_characters(text)
        marked = _render_marked(template, messages, [turn], strip, mark, "")
        places = _find_marks(marked, mark, text)
        if places is not None and len(places) == 1:
            return places[0]
    return None


def _render_marked(
    template: ChatTemplate,
    messages: Messages,
    turns: Sequence[int],
    strip: Callable[[str], str],
    before: str,
    behind: str,
) -> str | None:
    marked = [
        {**message, "content": before + strip(message["content"]) + behind} if i in turns else message
        for i, message in enumerate(messages)
    ]
    return _try_render(template, marked)


def _find_marks(marked: str | None, mark: str, text: str) -> list[int] | None:
    """Places of the marks in `text`; None unless `marked` without its marks is `text`."""
    if marked is None or marked.replace(mark, "") != text:
        return None
    return [match.start() - count for count, match in enumerate(re.finditer(mark, marked))]


def _answer_start(
    template: ChatTemplate, messages: Messages, turn: int, text: str, after: int, content_end: int
) -> int:
    """Where the assistant begins to write: at the end of the generation prompt."""
    opening = _try_render(template, messages[:turn], add_generation_prompt=True)
    if opening is not None and after <= len(opening) <= content_end and text.startswith(opening):
        return len(opening)
    # The template writes earlier turns otherwise when the conversation goes on, or its generation prompt holds more
    # than the turn's header: the content itself is found, and white space before it that no prompt ends with.
    content_start = _content_start(template, messages, turn, text)
    if content_start is None or not after <= content_start <= content_end:
        rule = (
            f"the generation prompt of the chat template of {template.origin} is not what the conversation begins with"
        )
        raise RowError(rule, f"messages[{turn}]", "choose another ModelConfig.chat_template")
    prompt = _generation_prompt(template, messages[:turn])
    head = text[:content_start].rstrip()
    if prompt is None or not head.endswith(prompt.rstrip()):
        return content_start
    blanks = prompt[len(prompt.rstrip()) :]
    return len(head) + len(blanks) if text.startswith(blanks, len(head)) else content_start


def _generation_prompt(template: ChatTemplate, messages: Messages) -> str | None:
    """What `add_generation_prompt` adds after `messages`, or after a plain turn where the template refuses these."""
    for conversation in (messages, [{"role": "user", "content": "?"}]):
        without = _try_render(template, conversation)
        opening = _try_render(template, conversation, add_generation_prompt=True)
        if without is not None and opening is not None:
            return _new_text(without, opening)
    return None


def _new_text(shorter: str, longer: str) -> str:
    """What `longer` has from the first character on in which the two differ."""
    pairs = enumerate(zip(shorter, longer, strict=False))
    return longer[next((i for i, (a, b) in pairs if a != b), min(len(shorter), len(longer))) :]


def _try_render(template: ChatTemplate, messages: Messages, *, add_generation_prompt: bool = False) -> str | None:
    try:
        return template.render(messages, add_generation_prompt=add_generation_prompt)
    except RowError:
        return None


def _close(
    template: ChatTemplate,
    messages: Messages,
    turn: int,
    text: str,
    start: int,
    content_end: int,
    end_tokens: re.Pattern[str],
) -> Span:
    """The span with what the template writes after the content to end the turn: a special token, or its own words."""
    tail = text[content_end:] if turn == len(messages) - 1 else _tail_alone(template, messages[: turn + 1])
    found = end_tokens.match(tail)
    ending = found.group() if found else tail.rstrip()
    if not text.startswith(ending, content_end):
        return Span(start, content_end, closed=False)
    end = content_end + len(ending)
    return Span(start, end, closed=ends_with_token(text, start, end, end_tokens))


def _tail_alone(template: ChatTemplate, messages: Messages) -> str:
    """What follows the last message's content where the conversation ends with it."""
    text = _try_render(template, messages)
    ends = None if text is None else _content_ends(template, messages, [len(messages) - 1], text)
    return text[ends[0] :] if text is not None and ends else ""


def ends_with_token(text: str, start: int, end: int, end_tokens: re.Pattern[str]) -> bool:
    """Whether `text[start:end]` ends with a special token, white space after it left aside."""
    return _last_end_token(text, start, end, end_tokens) is not None


def _last_end_token(text: str, start: int, end: int, end_tokens: re.Pattern[str]) -> int | None:
    """Where the end token stops that closes `text[start:end]`, white space after it left aside."""
    stop = start + len(text[start:end].rstrip())
    begin, end = max(start, stop - _LONGEST_TOKEN), min(end, stop + _LONGEST_TOKEN)  # all would take squares of blanks
    return next((match.end() for match in end_tokens.finditer(text, begin, end) if match.end() == stop), None)


def _generation_spans(
    template: ChatTemplate, messages: Messages, turns: Sequence[int], text: str, end_tokens: re.Pattern[str]
) -> list[Span]:
    """The `{% generation %}` blocks of these turns, each with its end token if it stands behind the block."""
    marks = _unused_characters(text)
    spans: list[Span] = []
    place = start = 0
    for block in re.split(f"([{''.join(marks)}])", template.render_generations(messages, marks)):
        if block == marks[0]:
            start = place
        elif block == marks[1]:
            stop = _last_end_token(text, start, place, end_tokens)
            behind = end_tokens.match(text, place) if stop is None else None
            end = stop or (behind.end() if behind else place)
            spans.append(Span(start, end, closed=stop is not None or behind is not None))
        else:
            place += len(block)
    answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    if len(spans) != len(answers):
        rule = f"the chat template marks {len(spans)} generations for {len(answers)} assistant turns"
        raise RowError(rule, "messages", "choose another ModelConfig.chat_template")
    return [span for index, span in zip(answers, spans, strict=True) if index in turns]


def _require_other_turns(template: ChatTemplate, messages: Messages, text: str) -> None:
    """A template that drops a system or user turn without a word would train an answer to another question.

    Each content is marked with its number, at its end, and where a template cuts that off at its beginning.
    """
    left = {index for index, message in enumerate(messages) if message["role"] != "assistant"}
    mark, _ = _unused_characters(text)
    for is_behind in (True, False):
        marked = []
        for index, message in enumerate(messages):
            number = f"{mark}{index}{mark}" if index in left else ""
            content = message["content"]
            marked.append({**message, "content": content + number if is_behind else number + content})
        rendered = _try_render(template, marked) if left else None
        if rendered is not None:
            left -= {int(number) for number in re.findall(rf"{mark}(\d+){mark}", rendered)}
    for index in sorted(left):
        message = messages[index]
        rule = f"the chat template of {template.origin} drops a {message['role']} turn"
        raise RowError(rule, f"messages[{index}]", "remove the turn, or choose another ModelConfig.chat_template")


def _unused_characters(text: str) -> tuple[str, str]:
    unused = list(islice((character for character in map(chr, _PRIVATE_USE) if character not in text), 2))
    if len(unused) < 2:
        raise RowError("every private-use character occurs in the text", "messages", "remove the row")
    return unused[0], unused[1]
