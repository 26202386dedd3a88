from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors

from kaito.datasets.formats import parse_row
from kaito.datasets.render import Loss, Rendered, Renderer
from kaito.datasets.rows import RowError
from kaito.datasets.spans import ends_with_token
from kaito.datasets.templates import shipped_names
from kaito.failure import ConfigFailure, ModelFailure
from tests.unit.datasets.any_rows import CELLS, NAMES
from tests.unit.datasets.models import build_model, build_sentencepiece_like
from tests.unit.datasets.templates import (
    EOS_BEHIND_LAST_ANSWER_ONLY,
    GENERATION_MARKED,
    NO_END_TOKEN,
    PHI_3_WITH_EOS,
    SYSTEM_IN_LAST_USER_TURN,
    THINKING,
)

DEMO_TEMPLATE = Path(__file__).parents[3] / "src/kaito/hub/builtin/demo/chat_template.jinja"

# name of the template -> what ends a turn, which is also the tokenizer's eos and, deliberately, its pad token
END_OF_TURN = {
    "mistral-instruct": "</s>",
    "llama-3-instruct": "<|eot_id|>",
    "phi-3": "<|end|>",
    "phi-3-small": "<|end|>",
    "phi-4": "<|im_end|>",
    "chatml": "<|im_end|>",
}

PHI_3_TEXT = (
    "<|system|>\nS<|end|>\n<|user|>\nq<|end|>\n<|assistant|>\na<|end|>\n<|user|>\nr<|end|>\n<|assistant|>\nb<|end|>\n"
)

ANSWERS = [
    "A registry holds images.",
    "😀👩‍👩‍👧 and 🇨🇭 and é",
    "東京は日本の首都です。",
    "مرحبا بالعالم، שלום",
    " leading space",
    "one\n\n    two\n\tthree",
    'a <b> {{ not a template }} {% raw %} \\n "quoted"',
    "x",
]


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, Path] = {}

    def build(eos: str) -> Path:
        if eos not in made:
            made[eos] = build_model(tmp_path_factory.mktemp("model") / "m", eos=eos, pad=eos)
        return made[eos]

    return build


def chat(*contents: str, system: str = "") -> dict[str, Any]:
    turns = [{"role": "system", "content": system}] if system else []
    turns += [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]
    return {"messages": turns}


def trained_text(renderer: Renderer, rendered: Rendered) -> str:
    ids = [token for token, trained in zip(rendered.input_ids, rendered.trained, strict=True) if trained]
    return str(renderer.tokens.tokenizer.decode(ids, skip_special_tokens=False))


def test_every_shipped_template_is_covered_here() -> None:
    assert shipped_names() == sorted(END_OF_TURN)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mistral-instruct", "<s>[INST] S\n\nq [/INST] a</s>[INST] r [/INST] b</s>"),
        (
            "llama-3-instruct",
            "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nq<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\na<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nr<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nb<|eot_id|>",
        ),
        ("phi-3", PHI_3_TEXT),
        ("phi-3-small", "<s>" + PHI_3_TEXT),
        (
            "phi-4",
            "<|im_start|>system<|im_sep|>S<|im_end|><|im_start|>user<|im_sep|>q<|im_end|>"
            "<|im_start|>assistant<|im_sep|>a<|im_end|><|im_start|>user<|im_sep|>r<|im_end|>"
            "<|im_start|>assistant<|im_sep|>b<|im_end|>",
        ),
        (
            "chatml",
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"
            "<|im_start|>user\nr<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n",
        ),
    ],
)
def test_a_shipped_template_writes_the_models_own_format_to_the_character(name: str, text: str, model_of: Any) -> None:
    renderer = Renderer.load(model_of("</s>"), chat_template=name)
    assert renderer.render_row(chat("q", "a", "r", "b", system="S")).text == text


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("name", END_OF_TURN)
def test_the_answer_and_its_end_token_are_trained_and_nothing_else(name: str, answer: str, model_of: Any) -> None:
    end = END_OF_TURN[name]
    renderer = Renderer.load(model_of(end), chat_template=name)
    rendered = renderer.render_row(chat("What does it hold?", answer, system="Be brief."))
    kept = answer if name in ("mistral-instruct", "chatml") else answer.strip()
    if name == "mistral-instruct":
        kept = " " + kept  # [/INST] is followed by a space that the model writes
    assert trained_text(renderer, rendered) == kept + end


@pytest.mark.parametrize("name", END_OF_TURN)
def test_every_assistant_turn_of_a_conversation_is_trained(name: str, model_of: Any) -> None:
    end = END_OF_TURN[name]
    renderer = Renderer.load(model_of(end), chat_template=name)
    rendered = renderer.render_row(chat("a?", "one.", "b?", "one.", "c?", "three.", system="S"))
    space = " " if name == "mistral-instruct" else ""
    assert trained_text(renderer, rendered) == "".join(space + text + end for text in ("one.", "one.", "three."))


@pytest.mark.parametrize("name", END_OF_TURN)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    question=st.text(min_size=1).filter(str.strip),
    answers=st.lists(st.text(min_size=1).map(str.strip).filter(bool), min_size=1, max_size=3),
    system=st.just("") | st.text(min_size=1).filter(str.strip),
)
def test_whatever_is_said_the_answers_alone_are_trained(
    name: str, question: str, answers: list[str], system: str, model_of: Any
) -> None:
    end = END_OF_TURN[name]
    renderer = Renderer.load(model_of(end), chat_template=name)
    turns = [text for answer in answers for text in (question, answer)]
    rendered = renderer.render_row(chat(*turns, system=system))
    space = " " if name == "mistral-instruct" else ""
    assert trained_text(renderer, rendered) == "".join(space + answer + end for answer in answers)


@pytest.mark.parametrize("system", ["", "Sei kurz. 東京 😀"])
@pytest.mark.parametrize("name", END_OF_TURN)
def test_the_padding_token_is_a_label_where_it_ends_an_answer_and_nowhere_else(
    name: str, system: str, model_of: Any
) -> None:
    end = END_OF_TURN[name]
    model = model_of(end)
    assert json.loads((model / "tokenizer_config.json").read_text())["pad_token"] == end
    renderer = Renderer.load(model, chat_template=name)
    questions, answers = ["Ünïcode? 😀", f"Is {end} a token?", "مرحبا"], ["東京", "Ja 🇨🇭.", "é"]
    rendered = renderer.render_row(
        chat(*(text for turn in zip(questions, answers, strict=True) for text in turn), system=system)
    )
    pad = renderer.tokens.tokenizer.token_to_id(end)
    labels = [token for token, trained in zip(rendered.input_ids, rendered.trained, strict=True) if trained]
    assert labels.count(pad) == len(answers)
    space = " " if name == "mistral-instruct" else ""
    assert trained_text(renderer, rendered) == "".join(space + answer + end for answer in answers)


@pytest.mark.parametrize("name", [*END_OF_TURN, "demo"])
def test_token_ids_are_those_of_transformers(name: str, model_of: Any, tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    template = DEMO_TEMPLATE.read_text(encoding="utf-8") if name == "demo" else None
    folder = DEMO_TEMPLATE.parent if name == "demo" else model_of(END_OF_TURN[name])
    renderer = Renderer.load(folder, chat_template=template or name)
    reference = PreTrainedTokenizerFast.from_pretrained(folder)
    for answer in ANSWERS:
        for row in (chat("Why?", answer, system="Sys"), chat("Why?", answer, "And?", "So.")):
            expected = reference.apply_chat_template(
                row["messages"], chat_template=renderer.chat_template, tokenize=True, return_dict=False
            )
            assert renderer.render_row(row).input_ids == expected


def test_the_demo_models_own_template_trains_answer_and_end_token() -> None:
    renderer = Renderer.load(DEMO_TEMPLATE.parent)
    for answer in ("It resumes.", "😀 東京", "two\n\nlines"):
        rendered = renderer.render_row(chat("What does it do?", answer, "And then?", "Nothing.", system="Be brief."))
        assert trained_text(renderer, rendered) == f"{answer}<|end|>Nothing.<|end|>"


@pytest.mark.parametrize(
    ("template", "row", "expected"),
    [
        (PHI_3_WITH_EOS, chat("a?", "one.", "b?", "two."), "one.<|end|>two.<|end|>"),
        (SYSTEM_IN_LAST_USER_TURN, chat("a?", "one.", "b?", "two.", system="S"), " one.</s> two.</s>"),
        (THINKING, chat("a?", "one.", "b?", "two."), "one.<|im_end|><think>\n\n</think>\n\ntwo.<|im_end|>"),
        (THINKING, chat("a?", "<think>\nhm\n</think>\n\none.", "b?", "two."), None),
        (NO_END_TOKEN, chat("a?", "one.", "b?", "two."), " one. two.</s>"),
        (EOS_BEHIND_LAST_ANSWER_ONLY, chat("a?", "one.", "b?", "two."), "one.two.</s>"),
        (GENERATION_MARKED, chat("a?", "one.", "b?", "two."), "one<|end|>two<|end|>"),
    ],
)
def test_vendors_templates_with_traps_train_the_same(
    template: str, row: dict[str, Any], expected: str | None, model_of: Any
) -> None:
    renderer = Renderer.load(model_of("</s>"), chat_template=template)
    if expected is None:
        expected = "one.<|im_end|><think>\n\n</think>\n\ntwo.<|im_end|>"
    assert trained_text(renderer, renderer.render_row(row)) == expected


def test_an_assistant_turn_that_opens_the_conversation_is_found(model_of: Any) -> None:
    template = "{{ messages[0]['role'][:0] }}" + PHI_3_WITH_EOS
    renderer = Renderer.load(model_of("</s>"), chat_template=template)
    row = {"messages": [{"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Hi."}]}
    assert trained_text(renderer, renderer.render_row(row)) == "Hello.<|end|>"


def test_the_answer_is_found_where_the_end_token_repeats_its_letters(model_of: Any) -> None:
    renderer = Renderer.load(model_of("<|end|>"), chat_template="phi-3")
    assert trained_text(renderer, renderer.render_row(chat("end", "end", "e", "d"))) == "end<|end|>d<|end|>"


def test_a_token_that_begins_before_the_answer_is_not_trained(tmp_path: Path) -> None:
    # No control token stands between them: the header's newline and two of the answer's spaces become one token.
    model = build_model(tmp_path / "m", eos="<|im_end|>")
    renderer = Renderer.load(model, chat_template="chatml")
    rendered = renderer.render_row(chat("a?", "   indented"))
    text = trained_text(renderer, rendered)
    assert text == " indented<|im_end|>"


def test_a_template_that_marks_its_generations_wrongly_is_refused(model_of: Any) -> None:
    template = GENERATION_MARKED.replace("message['role'] == 'assistant'", "message['role'] == 'nobody'")
    template = template.replace("{{ message['content'] }}", "{{ message['content'][:-1] }}")
    renderer = Renderer.load(model_of("</s>"), chat_template=template)
    with pytest.raises(RowError, match="marks 0 generations"):
        renderer.render_row(chat("a?", "one."))


def test_a_template_that_changes_the_answer_beyond_recognition_is_refused(model_of: Any) -> None:
    template = "{% for message in messages %}{{ message['content'][:9] }}{% endfor %}"
    renderer = Renderer.load(model_of("</s>"), chat_template=template)
    with pytest.raises(RowError, match="does not reproduce"):
        renderer.render_row(chat("a?", "a long enough answer."))


def test_a_template_that_drops_the_system_turn_is_refused(model_of: Any) -> None:
    template = PHI_3_WITH_EOS.replace("{{ '<|' +", "{% if message['role'] != 'system' %}{{ '<|' +").replace(
        "{% endfor %}", "{% endif %}{% endfor %}"
    )
    renderer = Renderer.load(model_of("</s>"), chat_template=template)
    with pytest.raises(RowError, match="drops a system turn"):
        renderer.render_row(chat("a?", "one.", system="Speak German."))


def test_a_templates_refusal_is_told_without_the_rows_words(model_of: Any) -> None:
    renderer = Renderer.load(model_of("</s>"), chat_template="mistral-instruct")
    row = {
        "messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}, *chat("c", "d")["messages"]]
    }
    with pytest.raises(RowError, match="must alternate"):
        renderer.render_row(row)
    loud = Renderer.load(model_of("</s>"), chat_template="{{ raise_exception(messages[0]['content']) }}")
    with pytest.raises(RowError) as refusal:
        loud.render_row(chat("my secret", "answer"))
    assert "secret" not in str(refusal.value)


def test_a_prompt_and_completion_train_the_completion_and_the_end_token(model_of: Any) -> None:
    renderer = Renderer.load(model_of("</s>"))
    for prompt, completion in (("Q: why?\nA:", " because 😀"), ("Q: why?\nA: ", "because"), ("x\n\n", "\n  y")):
        rendered = renderer.render_row({"prompt": prompt, "completion": completion})
        assert trained_text(renderer, rendered) == completion + "</s>"
        whole = renderer.tokens.tokenizer.decode(rendered.input_ids, skip_special_tokens=False)
        assert whole == f"<s>{prompt}{completion}</s>"


def test_a_completion_that_ends_with_the_end_token_gets_no_second_one(model_of: Any) -> None:
    renderer = Renderer.load(model_of("</s>"))
    rendered = renderer.render_row({"prompt": "a", "completion": "b</s>"})
    assert trained_text(renderer, rendered) == "b</s>"


def test_a_conversational_prompt_and_completion_train_the_completion_alone(model_of: Any) -> None:
    renderer = Renderer.load(model_of("<|end|>"), chat_template="phi-3")
    messages = chat("a?", "one.", "b?", "two.")["messages"]
    rendered = renderer.render_row({"prompt": messages[:3], "completion": messages[3:]})
    assert trained_text(renderer, rendered) == "two.<|end|>"
    assert rendered.input_ids == renderer.render_row({"messages": messages}).input_ids


ALPACA = {"instruction": "Add these.", "input": "1 and 2", "output": "It is 3."}


@pytest.mark.parametrize(
    ("row", "asked"),
    [
        (ALPACA, "Add these.\n\n1 and 2"),
        ({**ALPACA, "input": ""}, "Add these."),
        ({"instruction": "Add these.", "context": "1 and 2", "response": "It is 3."}, "Add these.\n\n1 and 2"),
        ({"context": "Add these.", "response": "It is 3."}, "Add these."),
    ],
)
def test_an_instruction_is_a_conversation_where_there_is_a_chat_template(
    row: dict[str, Any], asked: str, model_of: Any
) -> None:
    renderer = Renderer.load(model_of("<|end|>"), chat_template="phi-3")
    rendered = renderer.render_row(row)
    assert rendered.text == f"<|user|>\n{asked}<|end|>\n<|assistant|>\nIt is 3.<|end|>\n"
    assert trained_text(renderer, rendered) == "It is 3.<|end|>"
    with_system = renderer.render_row({**row, "system": "S"})
    assert with_system.text == "<|system|>\nS<|end|>\n" + rendered.text


def test_an_instruction_has_alpacas_headings_where_there_is_none(model_of: Any) -> None:
    renderer = Renderer.load(model_of("</s>"))
    layout = "### Instruction:\nAdd these.\n\n### Input:\n1 and 2\n\n### Response:\nIt is 3.</s>"
    rendered = renderer.render_row(ALPACA)
    assert rendered.text == layout
    assert trained_text(renderer, rendered) == "It is 3.</s>"
    assert renderer.render_row({**ALPACA, "system": "S"}).text == "S\n\n" + layout
    without_input = renderer.render_row({**ALPACA, "input": None})
    assert without_input.text == "### Instruction:\nAdd these.\n\n### Response:\nIt is 3.</s>"
    assert {rendered.format, without_input.format} == {"alpaca"}


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("plain", "<s>plain</s>"),
        ("<s>with its start", "<s>with its start</s>"),
        ("<s>with both</s>", "<s>with both</s>"),
        ("with its end</s>\n", "<s>with its end</s>\n"),
        ("</s> is the end token", "<s></s> is the end token</s>"),
    ],
)
def test_plain_text_is_trained_whole_with_one_start_and_one_end(text: str, tokens: str, model_of: Any) -> None:
    renderer = Renderer.load(model_of("</s>"), chat_template="phi-3")
    rendered = renderer.render_row({"text": text})
    assert renderer.tokens.tokenizer.decode(rendered.input_ids, skip_special_tokens=False) == tokens
    assert all(rendered.trained)


def test_a_text_that_a_chat_template_wrote_gets_no_second_end(model_of: Any) -> None:
    renderer = Renderer.load(model_of("<|im_end|>"), chat_template="chatml")
    text = renderer.render_row(chat("a?", "one.")).text
    assert renderer.render_row({"text": text}).input_ids.count(renderer.tokens.eos_id) == 2


def test_a_prompt_that_begins_with_the_start_token_gets_no_second_one(model_of: Any) -> None:
    renderer = Renderer.load(model_of("</s>"))
    rendered = renderer.render_row({"prompt": "<s>q", "completion": "a"})
    assert renderer.tokens.tokenizer.decode(rendered.input_ids, skip_special_tokens=False) == "<s>qa</s>"


@pytest.mark.parametrize(
    ("loss", "row", "expected"),
    [
        (Loss(), chat("a?", "one.", "b?", "two."), "one.<|end|>two.<|end|>"),
        (Loss(last_turn_only=True), chat("a?", "one.", "b?", "two."), "two.<|end|>"),
        (Loss(assistant_only=False), chat("a?", "one."), "<|user|>\na?<|end|>\n<|assistant|>\none.<|end|>\n"),
        (Loss(completion_only=False), chat("a?", "one."), "one.<|end|>"),
        (Loss(), {"prompt": "a", "completion": "b"}, "b<|end|>"),
        (Loss(assistant_only=False), {"prompt": "a", "completion": "b"}, "b<|end|>"),
        (Loss(completion_only=False), {"prompt": "a", "completion": "b"}, "<s>ab<|end|>"),
        (Loss(completion_only=False), ALPACA, None),
        (
            Loss(),
            {"prompt": chat("a?", "one.", "b?")["messages"], "completion": chat("", "two.")["messages"][1:]},
            "two.<|end|>",
        ),
    ],
)
def test_what_is_learnt_is_what_the_configuration_says(
    loss: Loss, row: dict[str, Any], expected: str | None, model_of: Any
) -> None:
    renderer = Renderer.load(model_of("<|end|>"), chat_template="phi-3", loss=loss)
    rendered = renderer.render_row(row)
    assert trained_text(renderer, rendered) == (rendered.text if expected is None else expected)


def test_an_answer_of_weight_0_is_not_learnt(model_of: Any) -> None:
    renderer = Renderer.load(model_of("<|end|>"), chat_template="phi-3")
    row = chat("a?", "one.", "b?", "two.")
    row["messages"][1]["weight"] = 0
    rendered = renderer.render_row(row)
    assert trained_text(renderer, rendered) == "two.<|end|>"
    assert rendered.input_ids == renderer.render_row(chat("a?", "one.", "b?", "two.")).input_ids


def test_another_end_token_is_used_where_the_configuration_names_one(model_of: Any) -> None:
    renderer = Renderer.load(model_of("</s>"), eos_token="<|eot_id|>")
    assert trained_text(renderer, renderer.render_row({"prompt": "a", "completion": "b"})) == "b<|eot_id|>"
    mistral = Renderer.load(model_of("</s>"), chat_template="mistral-instruct", eos_token="<|eot_id|>")
    assert trained_text(mistral, mistral.render_row(chat("a", "b"))) == " b<|eot_id|>"
    with pytest.raises(ConfigFailure, match=r"eos_token: the tokenizer has no token '<nope>'"):
        Renderer.load(model_of("</s>"), eos_token="<nope>")


def test_sentencepiece_like_tokenizers_train_whole_answers(tmp_path: Path) -> None:
    renderer = Renderer.load(build_sentencepiece_like(tmp_path / "m"), chat_template="mistral-instruct")
    for answer in ("A registry holds images.", "😀 東京", "two\n\nlines"):
        rendered = renderer.render_row(chat("What?", answer, "And?", "cold"))
        ids = [i for i, trained in zip(rendered.input_ids, rendered.trained, strict=True) if trained]
        text = renderer.tokens.tokenizer.decode(ids, skip_special_tokens=False)
        assert text.replace(" ", "") == f"{answer}</s>cold</s>".replace(" ", "")
    plain = renderer.render_row({"prompt": "Answer: ", "completion": "cold"})
    whole = renderer.tokens.tokenizer.decode(plain.input_ids, skip_special_tokens=False)
    assert whole == "Answer: cold</s>"


def test_a_long_row_keeps_its_start_and_says_so(model_of: Any) -> None:
    row = chat("why?", "a long answer " * 20)
    whole = Renderer.load(model_of("<|end|>"), chat_template="phi-3").render_row(row)
    cut = Renderer.load(model_of("<|end|>"), chat_template="phi-3", max_length=12).render_row(row)
    assert (cut.input_ids, cut.trained) == (whole.input_ids[:12], whole.trained[:12])
    assert cut.truncated and not whole.truncated
    assert cut.length == whole.length == len(whole.input_ids)
    end = Renderer.load(model_of("<|end|>"), chat_template="phi-3", max_length=12, keep_end=True).render_row(row)
    assert end.input_ids == whole.input_ids[-12:]


def test_a_long_row_is_dropped_or_refused_where_the_configuration_says_so(model_of: Any) -> None:
    row = chat("why?", "a long answer " * 20)
    model = model_of("<|end|>")
    dropped = Renderer.load(model, chat_template="phi-3", max_length=12, long_rows="drop").render_row(row)
    assert dropped.dropped and not dropped.truncated
    assert (dropped.input_ids, dropped.trained) == ([], [])
    assert dropped.length > 12
    with pytest.raises(RowError, match=r"tokens, more than max_length 12"):
        Renderer.load(model, chat_template="phi-3", max_length=12, long_rows="error").render_row(row)
    for long_rows in ("truncate", "drop", "error"):
        short = Renderer.load(model, chat_template="phi-3", max_length=dropped.length, long_rows=long_rows).render_row(
            row
        )
        assert not short.dropped and not short.truncated


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row=st.dictionaries(st.sampled_from(NAMES), CELLS))
def test_whatever_a_row_is_it_is_rendered_or_refused_and_the_check_says_the_same(
    row: dict[str, Any], model_of: Any
) -> None:
    for template in ("phi-3", "mistral-instruct", THINKING):
        renderer = Renderer.load(model_of("<|end|>"), chat_template=template)
        try:
            rendered = renderer.render_row(row)
        except RowError as refusal:
            with pytest.raises(RowError, match=re.escape(refusal.rule)):
                renderer.check(parse_row(row))
        else:
            assert rendered.text.startswith(renderer.check(parse_row(row)))  # but for the end token
            assert len(rendered.input_ids) == len(rendered.trained) == rendered.length
            assert any(rendered.trained)


def test_the_check_refuses_what_the_template_refuses_without_a_token(model_of: Any) -> None:
    renderer = Renderer.load(model_of("</s>"), chat_template="mistral-instruct")
    assert renderer.check(parse_row(chat("a", "b"))) == renderer.render_row(chat("a", "b")).text
    with pytest.raises(RowError, match="must alternate"):
        renderer.check(parse_row({"messages": [*chat("a")["messages"], *chat("b", "c")["messages"]]}))
    with pytest.raises(ConfigFailure, match="no chat template"):
        Renderer.load(model_of("</s>")).check(parse_row(chat("a", "b")))


def test_the_shipped_templates_are_reached_by_kaitos_path(model_of: Any) -> None:
    by_path = Renderer.load(model_of("<|end|>"), chat_template="/workspace/chat_templates/phi-3.jinja")
    assert by_path.chat_template == Renderer.load(model_of("<|end|>"), chat_template="phi-3").chat_template


def test_an_inline_template_keeps_its_characters(model_of: Any) -> None:
    template = (
        "{% for m in messages %}«{{ m.role }}» {{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}«assistant» {% endif %}"
    )
    renderer = Renderer.load(model_of("</s>"), chat_template=template)
    assert renderer.render_row(chat("a", "ü")).text == "«user» a</s>«assistant» ü</s>"


def test_a_named_template_of_the_tokenizer_configuration_is_used(tmp_path: Path) -> None:
    folder = build_model(tmp_path / "m")
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    named = [{"name": "rag", "template": "no"}, {"name": "default", "template": PHI_3_WITH_EOS}]
    path.write_text(json.dumps(config | {"chat_template": named}))
    assert Renderer.load(folder).chat_template == PHI_3_WITH_EOS


def test_a_conversation_without_a_chat_template_is_refused_with_the_remedy(model_of: Any) -> None:
    with pytest.raises(ConfigFailure) as refusal:
        Renderer.load(model_of("</s>")).render_row(chat("a", "b"))
    assert refusal.value.reason == "ChatTemplateMissing"
    assert "ModelConfig.chat_template" in refusal.value.hint
    assert all(name in refusal.value.hint for name in shipped_names())


@pytest.mark.parametrize("setting", ["no-such-template", "/etc/passwd", "../../pyproject.toml", "{% for %}", "{{ x"])
def test_a_chat_template_that_cannot_be_used_is_a_configuration_failure(setting: str, model_of: Any) -> None:
    with pytest.raises(ConfigFailure, match=r"chat.template"):
        Renderer.load(model_of("</s>"), chat_template=setting)


def test_a_template_cannot_leave_the_sandbox(model_of: Any) -> None:
    for attack in (
        "{{ messages.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ namespace(__class__=1) }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
    ):
        with pytest.raises(RowError, match="refuses"):
            Renderer.load(model_of("</s>"), chat_template=attack + PHI_3_WITH_EOS).render_row(chat("a", "b"))


@pytest.mark.parametrize(("content", "said"), [("", "broken"), ("{}", "broken"), (None, "no tokenizer.json")])
def test_a_missing_or_broken_tokenizer_is_called_so(content: str | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelFailure, match=said):
        Renderer.load(tmp_path)


@pytest.mark.parametrize("content", ["It is cold.", "  indented\n  code\n", "\n\nlate"])
def test_offsets_that_a_tokenizer_trims_do_not_move_the_mask(content: str, tmp_path: Path) -> None:
    folder = build_model(tmp_path / "m", eos="<|im_end|>", bos_by_post_processor=False)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    row = chat("What is it?\n", content, "x", content)
    template = (
        "{% for m in messages %}{{ m.role + ': ' + m.content + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    masks = []
    for trim in (False, True):
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim, add_prefix_space=False)
        tokenizer.save(str(folder / "tokenizer.json"))
        for name in ("chatml", template):
            masks.append(Renderer.load(folder, chat_template=name).render_row(row))
    assert masks[:2] == masks[2:]


REASONING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.reasoning_content %}"
    "{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}{{ m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_half_of_a_surrogate_pair_in_any_field_that_is_rendered_is_a_bad_row(model_of: Any) -> None:
    renderer = Renderer.load(model_of("<|im_end|>"), chat_template=REASONING)
    row = chat("q", "a")
    row["messages"][1]["reasoning_content"] = "x \ud83d"
    with pytest.raises(RowError, match="half of a surrogate pair"):
        renderer.render_row(row)
    with pytest.raises(RowError, match="half of a surrogate pair"):
        renderer.check(parse_row(row))
    del row["messages"][1]["reasoning_content"]
    row["messages"][1]["unused"] = "x \ud83d"
    assert trained_text(renderer, renderer.render_row(row)) == "a<|im_end|>"


def test_the_end_of_an_answer_is_looked_for_at_its_end_alone() -> None:
    """From each blank of a run on, the pattern looks to the run's end: of a million blanks that is hours."""
    end_tokens = re.compile(r"\s*(?:<\|end\|>)")
    text = "a" + " " * 1_000_000 + "b<|end|>" + "\n" * 1000
    assert ends_with_token(text, 0, len(text), end_tokens)
    assert not ends_with_token(text, 0, len(text) - 1010, end_tokens)


def test_a_dropped_turn_is_noticed_though_another_one_says_the_same(model_of: Any) -> None:
    dropping = (
        "{% for m in messages %}{% if m.role != 'system' %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    renderer = Renderer.load(model_of("<|end|>"), chat_template=dropping)
    for system in ("Be brief.", "Answer"):
        with pytest.raises(RowError, match="drops a system turn"):
            renderer.render_row(chat("Answer me", "ok", system=system))


@pytest.mark.parametrize("written", ["m.content | upper", "m.content | tojson", "m.content[:-1]", "m.content[1:]"])
def test_a_turn_that_is_written_otherwise_is_not_dropped(written: str, model_of: Any) -> None:
    template = (
        "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}{{ m.content }}{% else %}{{ WRITTEN }}"
        "{% endif %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    renderer = Renderer.load(model_of("<|end|>"), chat_template=template.replace("WRITTEN", written))
    rendered = renderer.render_row(chat('a "b"\nc?', "one.", system="Be brief."))
    assert trained_text(renderer, rendered) == "one.<|end|>"
