"""A row of data to token ids and the loss mask. The same for preflight and training; no torch, no transformers.

What is learnt: the assistant's answer and the token that ends its turn, nothing else (docs/decisions/loss-mask.md).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kaito.datasets.columns import Columns
from kaito.datasets.formats import Chat, Completion, Instruction, Parsed, Text, parse_row
from kaito.datasets.outline import Outlines
from kaito.datasets.rows import RowError
from kaito.datasets.spans import Span
from kaito.datasets.templates import ChatTemplate, load_template, shipped_names
from kaito.datasets.tokens import Tokens, load_tokens
from kaito.failure import ConfigFailure, ModelFailure

LongRows = Literal["truncate", "drop", "error"]

_BLANK_TOKENS = 8  # behind an end token: at most so many hold the white space there
_ADDED_TOKENS = 16  # more than are put around a text, and within it where a prompt ends
_CONVERSATIONS = ("messages", "sharegpt")


@dataclass(frozen=True, slots=True)
class Rendered:
    """`trained[i]`: whether token i is a label. `text`, `length`: of the whole row.

    `truncated`: cut at max_length. `dropped`: left out for its length, and then there are no ids.
    """

    input_ids: list[int]
    trained: list[bool]
    truncated: bool
    text: str
    length: int
    format: str
    dropped: bool = False


@dataclass(frozen=True, slots=True)
class Loss:
    """Which tokens are learnt, by TRL's names; the default is the answers alone.

    `assistant_only` is about conversations, `completion_only` about rows of one task and its answer; False learns all
    tokens of the row. `last_turn_only`: of a conversation the last answer alone. Plain text is learnt whole.
    """

    assistant_only: bool = True
    completion_only: bool = True
    last_turn_only: bool = False

    def is_on_all_tokens(self, format: str) -> bool:
        return not (self.assistant_only if format in _CONVERSATIONS else self.completion_only)


@dataclass(frozen=True, slots=True)
class Renderer:
    """Renders rows for one model. `template` is None where neither the model nor the configuration has one.

    `max_length` in tokens. Of a longer row the start is kept, with `keep_end` the end; or `long_rows` says otherwise.
    """

    tokens: Tokens
    template: ChatTemplate | None
    max_length: int | None = None
    columns: Columns | None = None
    keep_end: bool = False
    long_rows: LongRows = "truncate"
    loss: Loss = Loss()
    outlines: Outlines | None = None

    @classmethod
    def load(
        cls,
        model_folder: Path,
        *,
        chat_template: str | None = None,
        max_length: int | None = None,
        columns: Columns | None = None,
        keep_end: bool = False,
        long_rows: LongRows = "truncate",
        loss: Loss | None = None,
        eos_token: str | None = None,
    ) -> Renderer:
        """From the tokenizer files of a model.

        `chat_template`: the text of a template, or a name of one of ours; default the model's own. `columns`: where
        the configuration says they are. `eos_token`: the end token, if it is not to be the tokenizer's own. Raises
        ModelFailure, ConfigFailure.
        """
        tokens = load_tokens(model_folder)
        if eos_token is not None:
            tokens = tokens.with_eos(eos_token)
        template = load_template(model_folder, chat_template, tokens.special_tokens)
        outlines = Outlines(template, tokens.end_tokens) if template else None
        return cls(tokens, template, max_length, columns, keep_end, long_rows, loss or Loss(), outlines)

    @property
    def chat_template(self) -> str | None:
        """The template's text, to be kept with what is trained on it."""
        return self.template.text if self.template else None

    def check(self, row: Parsed) -> str:
        """The text of a row, after all checks that need no tokens: that the chat template renders it so that the
        answers are found. Raises what `render` raises but for a row's length, much sooner."""
        prepared = self._prepare(row)
        if isinstance(prepared, Chat):
            return self._locate(prepared)[0]
        self._require_eos()
        return prepared.text if isinstance(prepared, Text) else prepared.prompt + prepared.completion

    def may_refuse(self, text: str) -> bool:
        """Whether a row of this text may be too long for `long_rows: error`. A token has a byte of it at least."""
        refuses = self.long_rows == "error" and self.max_length is not None
        return refuses and len(text.encode()) + _ADDED_TOKENS > (self.max_length or 0)

    def render_row(self, value: Mapping[str, Any]) -> Rendered:
        """`render` of a row as it is in a file."""
        return self.render(parse_row(value, self.columns))

    def render(self, parsed: Parsed) -> Rendered:
        """Ids and mask of a row. Raises RowError; ConfigFailure for a conversation without a chat template."""
        row = self._prepare(parsed)
        if isinstance(row, Chat):
            text, ids, trained = self._render_chat(row)
        elif isinstance(row, Completion):
            text, ids, trained = self._render_completion(row)
        else:
            text, ids, trained = self._render_text(row)
        length = len(ids)
        if self.max_length is None or length <= self.max_length:
            return Rendered(ids, trained, truncated=False, text=text, length=length, format=row.format)
        if self.long_rows == "error":
            remedy = "shorten or split it, raise TrainingArguments.max_length, or set DatasetConfig.long_rows"
            raise RowError(f"{length} tokens, more than max_length {self.max_length}", "length", remedy)
        if self.long_rows == "drop":
            return Rendered([], [], truncated=False, text=text, length=length, format=row.format, dropped=True)
        kept = slice(-self.max_length, None) if self.keep_end else slice(self.max_length)
        return Rendered(ids[kept], trained[kept], truncated=True, text=text, length=length, format=row.format)

    def _prepare(self, row: Parsed) -> Chat | Completion | Text:
        """An instruction becomes what the model is asked in: a conversation where it has a chat template."""
        if isinstance(row, Instruction):
            return row.as_chat() if self.template else row.as_completion()
        return row

    def _locate(self, chat: Chat) -> tuple[str, Sequence[Span]]:
        if self.outlines is None:
            raise template_missing()
        turns = chat.turns[-1:] if self.loss.last_turn_only else chat.turns
        return self.outlines.locate(chat.messages, turns)

    def _render_chat(self, chat: Chat) -> tuple[str, list[int], list[bool]]:
        text, spans = self._locate(chat)
        # The template has written the start token, if there is one.
        encoding = self.tokens.tokenizer.encode(text, add_special_tokens=False)
        ids = encoding.ids
        on_all = self.loss.is_on_all_tokens(chat.format)
        trained = [True] * len(ids) if on_all else _mask(encoding.offsets, spans)
        if not spans[-1].closed and chat.turns[-1] == len(chat.messages) - 1:
            ids.append(self._require_eos())
            trained.append(True)
            text += self._token_text(ids[-1])
        if True not in trained:
            raise RowError("no token of the answer is left after tokenisation", "messages", "remove the row")
        return text, ids, trained

    def _render_completion(self, row: Completion) -> tuple[str, list[int], list[bool]]:
        prompt = self._encode(row.prompt)
        whole = self._encode(row.prompt + row.completion)
        # A prompt such as "Answer: " would share its last token with the completion. Then the prompt is encoded as it
        # is when the model is asked, and the completion as what it has to write.
        completion = whole[len(prompt) :] if whole[: len(prompt)] == prompt else self._encode_inside(row.completion)
        text, completion = self._end(row.prompt + row.completion, completion)
        before = self._start(prompt)
        on_all = self.loss.is_on_all_tokens(row.format)
        return text, before + completion, [on_all] * len(before) + [True] * len(completion)

    def _render_text(self, row: Text) -> tuple[str, list[int], list[bool]]:
        text, ids = self._end(row.text, self._start(self._encode(row.text)))
        return text, ids, [True] * len(ids)

    def _start(self, ids: list[int]) -> list[int]:
        """`ids` behind the start token where the tokenizer wants one, unless the text has it."""
        prefix = list(self.tokens.prefix_ids)
        return ids if ids[: len(prefix)] == prefix else prefix + ids

    def _end(self, text: str, ids: list[int]) -> tuple[str, list[int]]:
        """Both with the end token, unless the text ends with it; a newline behind it makes no difference."""
        eos = self._require_eos()
        end = self._token_text(eos)
        if ids[-1:] == [eos] or (eos in ids[-_BLANK_TOKENS:] and text.rstrip().endswith(end)):
            return text, ids
        return text + end, [*ids, eos]

    def _encode(self, text: str) -> list[int]:
        return list(self.tokens.tokenizer.encode(text, add_special_tokens=False).ids)

    def _encode_inside(self, text: str) -> list[int]:
        """Ids of text that does not begin a document: without the space that some tokenizers put there."""
        newline, ids = self._encode("\n"), self._encode("\n" + text)
        return ids[len(newline) :] if newline and ids[: len(newline)] == newline else self._encode(text)

    def _token_text(self, token: int) -> str:
        return self.tokens.tokenizer.id_to_token(token) or ""

    def _require_eos(self) -> int:
        if self.tokens.eos_id is None:
            hint = "name one as eos_token in the model's tokenizer_config.json"
            raise ModelFailure("the model's tokenizer has no end token, so no answer could end", hint)
        return self.tokens.eos_id


def _mask(offsets: Sequence[tuple[int, int]], spans: Sequence[Span]) -> list[bool]:
    """Which tokens begin within a span. `offsets`: start and end of each token in the text, in order."""
    trained = [False] * len(offsets)
    for span in spans:
        first, behind = bisect_left(offsets, (span.start,)), bisect_left(offsets, (span.end,))
        trained[first:behind] = [True] * (behind - first)
    return trained


def template_missing() -> ConfigFailure:
    """The failure of a conversation that meets a model without a chat template."""
    return ConfigFailure(
        "the data are conversations, and the base model has no chat template",
        f"set ModelConfig.chat_template to a template's text or a shipped name ({', '.join(shipped_names())}), or use "
        "prompt and completion",
        reason="ChatTemplateMissing",
    )
