"""A rendered row for a person to look at: its text in pieces, each learnt or not. For a terminal, never a log."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tokenizers

    from kaito.datasets.render import Rendered

_CUT_CHARACTER = "\ufffd"


@dataclass(frozen=True, slots=True)
class Piece:
    """Neighbouring tokens that are all learnt, or all not."""

    text: str
    trained: bool


def mark_trained(rendered: Rendered, tokenizer: tokenizers.Tokenizer) -> list[Piece]:
    """The text of what is kept of a row, token by token as the tokenizer has it, special tokens included."""
    return list(_pieces(rendered, tokenizer))


def _pieces(rendered: Rendered, tokenizer: tokenizers.Tokenizer) -> Iterator[Piece]:
    end = 0
    before = ""
    for trained, group in groupby(rendered.trained):
        end += len(list(group))
        # Decoded from the start each time: a tokenizer may write a piece otherwise where nothing stands before it.
        text = tokenizer.decode(rendered.input_ids[:end], skip_special_tokens=False)
        if end < len(rendered.trained):
            text = text.rstrip(_CUT_CHARACTER)  # a character of which the rest is in the next piece
        yield Piece(text[len(before) :], trained)
        before = text
