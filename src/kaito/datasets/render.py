"""A row of data to token ids and the loss mask. The same for preflight and training; no torch, no transformers.

What is learnt: the assistant's answer and the token that ends its turn, nothing else (docs/decisions/loss-mask.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kaito.datasets.formats import Chat, Completion, parse_row
from kaito.datasets.rows import RowError
from kaito.datasets.spans import locate_answers
from kaito.datasets.templates import ChatTemplate, load_template
from kaito.datasets.tokens import Tokens, load_tokens
from kaito.failure import ConfigFailure, ModelFailure


@dataclass(frozen=True, slots=True)
class Rendered:
    """`trained[i]`: whether token i is a label. `truncated`: cut at max_length. `text`, `length`: of the whole row."""

    input_ids: list[int]
    trained: list[bool]
    truncated: bool
    text: str
    length: int


@dataclass(frozen=True, slots=True)
class Renderer:
    """Renders rows for one model. `template` is None where neither the model nor the configuration has one.

    `max_length` in tokens: of a longer row the start is kept, with `keep_end` the end.
    """

    tokens: Tokens
    template: ChatTemplate | None
    max_length: int | None = None
    columns: Mapping[str, str] | None = None
    keep_end: bool = False

    @classmethod
    def load(
        cls,
        model_folder: Path,
        *,
        chat_template: str | None = None,
        max_length: int | None = None,
        columns: Mapping[str, str] | None = None,
        keep_end: bool = False,
    ) -> Renderer:
        """From the tokenizer files of a model.

        `chat_template`: the text of a template, or a name of one of ours; default the model's own. `columns`: our
        column name -> that of the data. Raises ModelFailure, ConfigFailure.
        """
        tokens = load_tokens(model_folder)
        template = load_template(model_folder, chat_template, tokens.special_tokens)
        return cls(tokens, template, max_length, columns, keep_end)

    @property
    def chat_template(self) -> str | None:
        """The template's text, to be kept with what is trained on it."""
        return self.template.text if self.template else None

    def render(self, value: Mapping[str, Any]) -> Rendered:
        """Ids and mask of a row. Raises RowError; ConfigFailure for a conversation without a chat template."""
        row = parse_row(value, self.columns)
        text, ids, trained = self._render_chat(row) if isinstance(row, Chat) else self._render_completion(row)
        kept = self._kept(len(ids))
        return Rendered(ids[kept], trained[kept], truncated=kept != slice(None), text=text, length=len(ids))

    def _kept(self, length: int) -> slice:
        if self.max_length is None or length <= self.max_length:
            return slice(None)
        return slice(-self.max_length, None) if self.keep_end else slice(self.max_length)

    def _render_chat(self, chat: Chat) -> tuple[str, list[int], list[bool]]:
        if self.template is None:
            raise template_missing()
        text, spans = locate_answers(self.template, chat.messages, self.tokens.end_tokens, chat.trained_from)
        # The template has written the start token, if there is one.
        encoding = self.tokens.tokenizer.encode(text, add_special_tokens=False)
        ids = list(encoding.ids)
        trained = [False] * len(ids)
        remaining = iter(spans)
        span = next(remaining, None)
        for index, (start, _) in enumerate(encoding.offsets):
            while span is not None and start >= span.end:
                span = next(remaining, None)
            if span is None:
                break
            trained[index] = start >= span.start
        if not spans[-1].closed and chat.messages[-1]["role"] == "assistant":
            ids.append(self._require_eos())
            trained.append(True)
            text += self.tokens.tokenizer.id_to_token(ids[-1]) or ""
        if not any(trained):
            raise RowError("no token of the answer is left after tokenisation", "messages", "remove the row")
        return text, ids, trained

    def _render_completion(self, row: Completion) -> tuple[str, list[int], list[bool]]:
        tokenizer = self.tokens.tokenizer
        eos = self._require_eos()
        prompt = tokenizer.encode(row.prompt, add_special_tokens=False).ids
        whole = tokenizer.encode(row.prompt + row.completion, add_special_tokens=False).ids
        # A prompt such as "Answer: " would share its last token with the completion. Then the prompt is encoded as it
        # is when the model is asked, and the completion as what it has to write.
        completion = whole[len(prompt) :] if whole[: len(prompt)] == prompt else self._encode_inside(row.completion)
        text = row.prompt + row.completion
        if completion[-1:] != [eos]:
            completion = [*completion, eos]
            text += tokenizer.id_to_token(eos) or ""
        before = [*self.tokens.prefix_ids, *prompt]
        return text, before + completion, [False] * len(before) + [True] * len(completion)

    def _encode_inside(self, text: str) -> list[int]:
        """Ids of text that does not begin a document: without the space that some tokenizers put there."""
        newline = self.tokens.tokenizer.encode("\n", add_special_tokens=False).ids
        ids = self.tokens.tokenizer.encode("\n" + text, add_special_tokens=False).ids
        if newline and ids[: len(newline)] == newline:
            return list(ids[len(newline) :])
        return list(self.tokens.tokenizer.encode(text, add_special_tokens=False).ids)

    def _require_eos(self) -> int:
        if self.tokens.eos_id is None:
            hint = "name one as eos_token in the model's tokenizer_config.json"
            raise ModelFailure("the model's tokenizer has no end token, so no answer could end", hint)
        return self.tokens.eos_id


def template_missing() -> ConfigFailure:
    """The failure of a conversation that meets a model without a chat template."""
    return ConfigFailure(
        "the data are conversations, and the base model has no chat template",
        "set ModelConfig.chat_template to a template's text or a shipped name (such as chatml), or use prompt and "
        "completion",
        reason="ChatTemplateMissing",
    )
