"""Conversations with the same roles, rendered once: where a template only places what is said, the words are put in.

What comes out is what `spans` finds by rendering; where a template looks at the words, `spans` is asked for each row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from kaito.datasets.rows import RowError
from kaito.datasets.spans import Messages, Span, ends_with_token, locate_answers
from kaito.datasets.templates import ChatTemplate
from kaito.datasets.watch import Assumed, WatchedTemplate

MOST_OUTLINES = 2048
MOST_TURNS = 64

# Contents by which an outline is drawn: a character of a plane that nobody writes in, between blanks that show
# whether the template trims. It stands for content number 0, 1, …
_FIRST = 0xF0000
_BEFORE, _BEHIND = "\N{EM SPACE}", "\N{EN SPACE}"
_CONTENT = re.compile(f"({_BEFORE}?)([{chr(_FIRST)}-{chr(_FIRST + MOST_TURNS)}])({_BEHIND}?)")
_IN_TEMPLATE = re.compile(rf"[{_BEFORE}{_BEHIND}{chr(_FIRST)}-{chr(_FIRST + MOST_TURNS)}]|\\[uUN]")  # or escaped
_TRIM: dict[tuple[bool, bool], Callable[[str], str]] = {
    (True, True): str,
    (True, False): str.rstrip,
    (False, True): str.lstrip,
    (False, False): str.strip,
}


@dataclass(frozen=True, slots=True)
class _Answer:
    """A trained turn: it starts `before` characters before the content in `slot`, and ends `behind` after it.

    `closed`: whether these end with an end token.
    """

    slot: int
    before: int
    behind: int
    closed: bool


@dataclass(frozen=True, slots=True)
class Outline:
    """Texts in turn with contents: `slots` are (text before it, index of the message, how it is trimmed)."""

    slots: tuple[tuple[str, int, Callable[[str], str]], ...]
    end: str
    answers: dict[int, _Answer]
    assumed: Assumed

    def fits(self, messages: Messages) -> bool:
        return all(self.assumed.holds_for(message["content"]) for message in messages)

    def fill(self, messages: Messages, turns: Sequence[int], end_tokens: re.Pattern[str]) -> tuple[str, list[Span]]:
        parts: list[str] = []
        places: list[tuple[int, int]] = []
        length = 0
        for text, index, trim in self.slots:
            content = trim(messages[index]["content"])
            parts += (text, content)
            start = length + len(text)
            length = start + len(content)
            places.append((start, length))
        parts.append(self.end)
        whole = "".join(parts)
        spans = []
        for turn in turns:
            answer = self.answers[turn]
            start, end = places[answer.slot]
            start, end = start - answer.before, end + answer.behind
            spans.append(Span(start, end, answer.closed or ends_with_token(whole, start, end, end_tokens)))
        return whole, spans


class Outlines:
    """The outlines of one template that were drawn so far."""

    def __init__(self, template: ChatTemplate, end_tokens: re.Pattern[str]) -> None:
        self._template = template
        self._watched: WatchedTemplate | None = None
        self._end_tokens = end_tokens
        self._drawn: dict[tuple[str, ...], Outline | None] = {}

    def locate(self, messages: Messages, turns: Sequence[int]) -> tuple[str, list[Span]]:
        """What `locate_answers` finds."""
        outline = self._outline(messages)
        if outline is None or not outline.fits(messages):
            return locate_answers(self._template, messages, self._end_tokens, turns)
        return outline.fill(messages, turns, self._end_tokens)

    def _outline(self, messages: Messages) -> Outline | None:
        if len(messages) > MOST_TURNS or any(len(message) != 2 for message in messages):
            return None
        roles = tuple([message["role"] for message in messages])
        try:
            return self._drawn[roles]
        except KeyError:
            pass
        if len(self._drawn) >= MOST_OUTLINES:
            return None
        if self._watched is None:
            self._watched = WatchedTemplate(self._template)
        outline = self._drawn[roles] = draw_outline(self._watched, roles, self._end_tokens)
        return outline


def draw_outline(template: WatchedTemplate, roles: Sequence[str], end_tokens: re.Pattern[str]) -> Outline | None:
    """The outline of conversations with these roles; None where the template looks at what is said, or where an
    answer does not simply follow its generation prompt."""
    template.forget()
    if template.may_look_unseen or _IN_TEMPLATE.search(template.text + "".join(template.special_tokens.values())):
        return None
    messages = [
        {"role": role, "content": f"{_BEFORE}{chr(_FIRST + index)}{_BEHIND}"} for index, role in enumerate(roles)
    ]
    turns = [index for index, role in enumerate(roles) if role == "assistant"]
    try:
        text = template.render(messages)
        slots = list(_slots(text))
        placed = [index for _, index, _ in slots]
        if set(placed) != set(range(len(roles))) or any(placed.count(turn) != 1 for turn in turns):
            return None
        answers: dict[int, _Answer] = {}
        behind_last = 0
        for turn in turns:
            start, end = _place(text, turn)
            opening = template.render(messages[:turn], add_generation_prompt=True)
            if not (behind_last <= len(opening) <= start and text.startswith(opening)):
                return None
            alone = text if turn == len(roles) - 1 else template.render(messages[: turn + 1])
            tail = alone[_place(alone, turn)[1] :]
            found = end_tokens.match(tail)
            ending = found.group() if found else tail.rstrip()
            if not text.startswith(ending, end) or _CONTENT.search(ending):
                return None
            closed = ends_with_token(text, end, end + len(ending), end_tokens)
            answers[turn] = _Answer(placed.index(turn), start - len(opening), len(ending), closed)
            behind_last = end + len(ending)
        found_by_rendering = locate_answers(template, messages, end_tokens, turns)
    except RowError:
        return None
    outline = Outline(tuple(slots), text[_last_end(text) :], answers, template.watch.assumed)
    # Drawn right, or not at all: the conversation it was drawn from comes out as it does by rendering.
    alike = outline.fill(messages, turns, end_tokens) == found_by_rendering
    return outline if alike and not template.watch.looked else None


def _slots(text: str) -> Iterator[tuple[str, int, Callable[[str], str]]]:
    place = 0
    for match in _CONTENT.finditer(text):
        trim = _TRIM[bool(match[1]), bool(match[3])]
        yield text[place : match.start()], ord(match[2]) - _FIRST, trim
        place = match.end()


def _place(text: str, turn: int) -> tuple[int, int]:
    for match in _CONTENT.finditer(text):
        if match[2] == chr(_FIRST + turn):
            return match.span()
    raise RowError("the chat template leaves a turn out", "messages", "choose another ModelConfig.chat_template")


def _last_end(text: str) -> int:
    return max((match.end() for match in _CONTENT.finditer(text)), default=0)
