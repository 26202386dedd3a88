"""A row for a person to look at: its pieces together are its text, and the learnt ones are the answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from kaito.datasets.masked import mark_trained
from kaito.datasets.render import Renderer
from tests.unit.datasets.models import build_model, build_sentencepiece_like

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def conversation(*contents: str) -> dict[str, list[dict[str, str]]]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]}


def test_the_learnt_pieces_are_the_answers_with_their_end_tokens(tmp_path: Path) -> None:
    renderer = Renderer.load(build_model(tmp_path / "m", eos="<|end|>", chat_template=TEMPLATE))
    pieces = mark_trained(renderer.render_row(conversation("q 1", "a 1", "q 2", "a 2")), renderer.tokens.tokenizer)
    assert [piece.text for piece in pieces if piece.trained] == ["a 1<|end|>", "a 2<|end|>"]
    assert "".join(piece.text for piece in pieces).endswith("<|user|>q 2<|end|><|assistant|>a 2<|end|>")


@pytest.mark.parametrize("text", ["東京は日本の首都です。", "😀😀", "a  b\n\n   c"])
def test_no_character_is_lost_where_learnt_and_unlearnt_tokens_meet(text: str, tmp_path: Path) -> None:
    renderer = Renderer.load(build_model(tmp_path / "m", eos="<|end|>", chat_template=TEMPLATE))
    rendered = renderer.render_row(conversation(text, text))
    pieces = mark_trained(rendered, renderer.tokens.tokenizer)
    assert "".join(piece.text for piece in pieces) == rendered.text
    assert [piece.text for piece in pieces if piece.trained] == [text + "<|end|>"]


def test_a_space_between_prompt_and_answer_is_kept_by_a_tokenizer_that_strips_the_first(tmp_path: Path) -> None:
    renderer = Renderer.load(build_sentencepiece_like(tmp_path / "m"))
    rendered = renderer.render_row({"prompt": "the opposite of hot is", "completion": " cold"})
    pieces = mark_trained(rendered, renderer.tokens.tokenizer)
    assert "is cold" in "".join(piece.text for piece in pieces)


def test_what_is_cut_off_is_not_shown(tmp_path: Path) -> None:
    renderer = Renderer.load(build_model(tmp_path / "m", eos="<|end|>", chat_template=TEMPLATE), max_length=8)
    rendered = renderer.render_row(conversation("word " * 30, "answer"))
    assert "answer" not in "".join(piece.text for piece in mark_trained(rendered, renderer.tokens.tokenizer))
