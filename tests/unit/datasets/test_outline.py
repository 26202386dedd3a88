"""Rendering a kind of conversation once and putting the words in: the same as rendering each, or not done at all."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaito.datasets.outline import MOST_TURNS, Outlines, draw_outline
from kaito.datasets.rows import RowError
from kaito.datasets.spans import locate_answers
from kaito.datasets.templates import ChatTemplate, read_shipped, shipped_names
from kaito.datasets.watch import WatchedTemplate
from tests.unit.datasets.models import CONTROL_TOKENS
from tests.unit.datasets.templates import VENDORS

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
END_TOKENS = re.compile(rf"\s*(?:{'|'.join(map(re.escape, CONTROL_TOKENS))})")
TWO_TURNS = ("system", "user", "assistant", "user", "assistant")

BLIND = {
    "joined": "{% for m in messages %}{{ '<|' ~ m.role ~ '|>' ~ m.content ~ '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "kept in variables": "{% for m in messages %}{% set line %}<|{{ m.role }}|>{{ m.content | trim }}{% endset %}"
    "{% set line = line + '<|end|>' %}{{ line }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "by a macro": "{% macro turn(m) %}<|{{ m.role }}|>{{ m['content'].strip() }}<|end|>{% endmacro %}"
    "{% for m in messages %}{{ turn(m) }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "tested for being there": "{% for m in messages %}{% if m.content and m.content is string %}<|{{ m.role }}|>"
    "{{ m.content }}<|end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
}
TURN = "<|{{ m.role }}|>{{ m.content }}<|end|>"
SEEKING = {
    "in a condition": "{% if '</think>' in m.content %}!{% endif %}{{ m.content }}",
    "at its start": "{% if m.content.startswith('x') %}!{% endif %}{{ m.content }}",
    "at its end, trimmed": "{% if m.content.strip().endswith('x') %}!{% endif %}{{ m.content }}",
    "in a macro": "{% macro f(t) %}{% if 'x' in t %}!{% endif %}{{ t }}{% endmacro %}{{ f(m.content) }}",
    "to split it": "{{ m.content.split('x')[-1] }}",
    "to replace it": "{{ m.content.replace('x', 'y') }}",
    "to trim it": "{{ m.content.strip('x\n') }}",
    "to trim it, trimmed": "{{ (m.content | trim).rstrip('x').lstrip('<') }}",
}
LOOKING = {
    "for a role": "{% if m.role in m.content %}!{% endif %}",
    "for another content": "{% if messages[0].content in m.content %}!{% endif %}",
    "by equality": "{% if m.content == 'x' %}!{% endif %}",
    "against a list": "{% if m.content in ['x', 'y'] %}!{% endif %}",
    "for it in a text": "{% if m.content in 'xyz' %}!{% endif %}",
    "by a test": "{% if m.content is in 'xyz' %}!{% endif %}",
    "by its order": "{% if 'm' < m.content %}!{% endif %}",
    "at its length": "{% if m.content | length > 3 %}!{% endif %}",
    "at a character": "{% if m.content[0] == 'x' %}!{% endif %}",
    "at every character": "{% for c in m.content %}{% if c == 'x' %}!{% endif %}{% endfor %}",
    "by a method": "{% if m.content.isupper() %}!{% endif %}",
    "by a method for several": "{% if m.content.startswith(('x', 'y')) %}!{% endif %}",
    "by a method of another text": "{% if 'xyz'.startswith(m.content) %}!{% endif %}",
    "by splitting": "{{ m.content.split()[-1] }}",
    "by a filter": "{{ m.content | upper }}",
    "by trimming letters after joining": "{{ (m.role ~ m.content).strip('x') }}",
    "as JSON": "{{ m.content | tojson }}",
    "in a list as JSON": "{{ messages | tojson }}",
    "by formatting": "{% if '%s' % m.content == 'x' %}!{% endif %}",
    "by formatting two": "{% if '%s%s' % (m.role, m.content) == 'userx' %}!{% endif %}",
    "by a format method": "{% if '{}'.format(m.content) == 'x' %}!{% endif %}",
    "after joining": "{% if (m.role ~ m.content) == 'userx' %}!{% endif %}",
    "after adding": "{% if 'x' in (m.role + m.content) %}!{% endif %}",
    "in a captured text": "{% set t %}[{{ m.content }}]{% endset %}{% if 'x' in t %}!{% endif %}",
    "in a macro": "{% macro f(t) %}{% if t == 'x' %}!{% endif %}{% endmacro %}{{ f(m.content) }}",
    "as a key": "{% set d = {'x': '!'} %}{{ d[m.content] }}",
    "by sorting": "{% if (messages | sort(attribute='content'))[0].role == 'user' %}!{% endif %}",
    "by selecting": "{% if messages | selectattr('content', 'equalto', 'x') | list %}!{% endif %}",
    "by a change": "{% if loop.changed(m.content) %}!{% endif %}",
}


def conversation(roles: tuple[str, ...], words: list[str]) -> list[dict[str, Any]]:
    return [{"role": role, "content": words[index % len(words)]} for index, role in enumerate(roles)]


def template_of(name: str) -> ChatTemplate:
    if name in shipped_names():
        return ChatTemplate(read_shipped(name), name, SPECIAL)
    if name in SEEKING:
        text = "{% for m in messages %}" + TURN.replace("{{ m.content }}", SEEKING[name]) + "{% endfor %}"
        return ChatTemplate(text + "{% if add_generation_prompt %}<|assistant|>{% endif %}", name, SPECIAL)
    return ChatTemplate((VENDORS | BLIND)[name], name, SPECIAL)


@pytest.mark.parametrize("name", [*shipped_names(), *BLIND])
def test_a_template_that_only_places_the_words_is_drawn(name: str) -> None:
    for roles in (("user", "assistant"), TWO_TURNS):
        assert draw_outline(WatchedTemplate(template_of(name)), roles, END_TOKENS) is not None


@pytest.mark.parametrize("how", LOOKING)
def test_a_template_that_looks_at_the_words_is_rendered_each_time(how: str) -> None:
    text = "{% for m in messages %}" + TURN + "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    assert draw_outline(WatchedTemplate(ChatTemplate(text, "it", SPECIAL)), TWO_TURNS, END_TOKENS) is not None
    looking = text.replace(TURN, LOOKING[how] + TURN)
    assert draw_outline(WatchedTemplate(ChatTemplate(looking, "it", SPECIAL)), TWO_TURNS, END_TOKENS) is None


@pytest.mark.parametrize("how", SEEKING)
def test_a_template_that_seeks_a_text_is_drawn_for_contents_without_it(how: str) -> None:
    template = template_of(how)
    outline = draw_outline(WatchedTemplate(template), ("user", "assistant"), END_TOKENS)
    assert outline is not None
    assert outline.fits(conversation(("user", "assistant"), ["a question", "an answer"]))
    assert not outline.fits(conversation(("user", "assistant"), ["a question", "x</think>x"]))
    assert not outline.fits(conversation(("user", "assistant"), [" x</think>x ", "an answer"]))


WORDS = st.text(min_size=1).filter(str.strip) | st.sampled_from(
    (
        " x ",
        "\n\nx\n",
        "<|end|>",
        "x</s>",
        "</s>",
        "\ue000",
        "<think>\nhm\n</think>\n\nx",
        "\u2003x\u2002",
        "{{ x }}",
        "axb",
        "x a",
    )
)
ROLES = st.sampled_from(
    [
        ("user", "assistant"),
        ("system", "user", "assistant"),
        TWO_TURNS,
        ("user", "assistant", "user", "assistant", "user"),
        ("assistant", "user", "assistant"),
        ("user", "user", "assistant"),
    ]
)


@pytest.mark.parametrize("name", [*shipped_names(), *BLIND, *SEEKING, *VENDORS])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_what_is_filled_in_is_what_rendering_gives(name: str, data: st.DataObject) -> None:
    template = template_of(name)
    outlines = Outlines(template, END_TOKENS)
    roles = data.draw(ROLES)
    answers = [index for index, role in enumerate(roles) if role == "assistant"]
    for _ in range(3):
        messages = conversation(roles, data.draw(st.lists(WORDS, min_size=len(roles), max_size=len(roles))))
        turns = data.draw(st.sampled_from([answers, answers[-1:], answers[:1]]))
        assert _outcome(lambda m=messages, t=turns: outlines.locate(m, t)) == _outcome(
            lambda m=messages, t=turns: locate_answers(template, m, END_TOKENS, t)
        )


def _outcome(locate: Any) -> Any:
    try:
        return locate()
    except RowError as refusal:
        return str(refusal)


def test_messages_with_more_fields_and_long_conversations_are_rendered_each_time() -> None:
    text = "{% for m in messages %}<|{{ m.role }}|>{{ m.name }}{{ m.content }}<|end|>{% endfor %}"
    text += "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    outlines = Outlines(ChatTemplate(text, "it", SPECIAL), END_TOKENS)
    named = [{"role": "user", "content": "q", "name": "Ada"}, {"role": "assistant", "content": "a"}]
    assert outlines.locate(named, [1])[0] == "<|user|>Adaq<|end|><|assistant|>a<|end|>"
    long = conversation(("user", "assistant") * MOST_TURNS, ["q", "a"])
    assert len(outlines.locate(long, range(1, 2 * MOST_TURNS, 2))[1]) == MOST_TURNS


def test_a_template_with_the_drawing_characters_in_it_is_rendered_each_time() -> None:
    text = "{% for m in messages %}<|{{ m.role }}|>\u2003{{ m.content | trim }}<|end|>{% endfor %}"
    text += "{% if add_generation_prompt %}<|assistant|>\u2003{% endif %}"
    for written in (text, text.replace("\u2003{{", "{{ '\\u2003' }}{{")):
        template = ChatTemplate(written, "it", SPECIAL)
        assert draw_outline(WatchedTemplate(template), TWO_TURNS, END_TOKENS) is None


def test_a_template_that_escapes_contents_is_rendered_each_time() -> None:
    text = "{% autoescape true %}{% for m in messages %}" + TURN + "{% endfor %}{% endautoescape %}"
    text += "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    template = ChatTemplate(text, "test", SPECIAL)
    messages = [{"role": "user", "content": "a<b"}, {"role": "assistant", "content": "fine"}]
    assert draw_outline(WatchedTemplate(template), ("user", "assistant"), END_TOKENS) is None
    located = Outlines(template, END_TOKENS).locate(messages, [1])
    assert located == locate_answers(template, messages, END_TOKENS, [1])
    assert "a&lt;b" in located[0]
