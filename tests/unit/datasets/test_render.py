from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kaito.datasets.render import Rendered, Renderer
from kaito.datasets.rows import RowError
from kaito.datasets.templates import shipped_names
from kaito.failure import ConfigFailure, ModelFailure
from tests.unit.datasets.models import build_model, build_sentencepiece_like

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

# As vendors write them, each with a trap.
PHI_3_WITH_EOS = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
SYSTEM_IN_LAST_USER_TURN = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set turns = messages[1:] %}"
    "{% else %}{% set turns = messages %}{% endif %}{{ bos_token }}{% for message in turns %}"
    "{% if message['role'] == 'user' %}{% if (loop.last or loop.index0 == turns | length - 2) and system is defined %}"
    "{{ '[INST] ' + system + '\n\n' + message['content'] + '[/INST]' }}{% else %}"
    "{{ '[INST] ' + message['content'] + '[/INST]' }}{% endif %}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
THINKING = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% set answer = message['content'].split('</think>')[-1].lstrip('\n') %}"
    "{% if loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{{ answer }}"
    "{% else %}{{ message['content'] }}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NO_END_TOKEN = (
    "{% for message in messages %}{{ message['role'] | capitalize + ': ' + message['content'] + '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
EOS_BEHIND_LAST_ANSWER_ONLY = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] }}"
    "{% if loop.last and message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
GENERATION_MARKED = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' }}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'][:-1] }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}{{ '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)

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
    assert renderer.render(chat("q", "a", "r", "b", system="S")).text == text


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("name", END_OF_TURN)
def test_the_answer_and_its_end_token_are_trained_and_nothing_else(name: str, answer: str, model_of: Any) -> None:
    end = END_OF_TURN[name]
    renderer = Renderer.load(model_of(end), chat_template=name)
    rendered = renderer.render(chat("What does it hold?", answer, system="Be brief."))
    kept = answer if name in ("mistral-instruct", "chatml") else answer.strip()
    if name == "mistral-instruct":
        kept = " " + kept  # [/INST] is followed by a space that the model writes
    assert trained_text(renderer, rendered) == kept + end


@pytest.mark.parametrize("name", END_OF_TURN)
def test_every_assistant_turn_of_a_conversation_is_trained(name: str, model_of: Any) -> None:
    end = END_OF_TURN[name]
    renderer = Renderer.load(model_of(end), chat_template=name)
    rendered = renderer.render(chat("a?", "one.", "b?", "one.", "c?", "three.", system="S"))
    space = " " if name == "mistral-instruct" else ""
    assert trained_text(renderer, rendered) == "".join(space + text + end for text in ("one.", "one.", "three."))


@pytest.mark.parametrize("name", END_OF_TURN)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    question=st.text(min_size=1).filter(str.strip),
    answers=st.lists(st.text(min_size=1).map(str.strip).filter(bool), min_size=1, max_size=3),
)
def test_whatever_is_said_the_answers_alone_are_trained(
    name: str, question: str, answers: list[str], model_of: Any
) -> None:
    end = END_OF_TURN[name]
    renderer = Renderer.load(model_of(end), chat_template=name)
    turns = [text for answer in answers for text in (question, answer)]
    rendered = renderer.render(chat(*turns))
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
            assert renderer.render(row).input_ids == expected


def test_the_demo_models_own_template_trains_answer_and_end_token() -> None:
    renderer = Renderer.load(DEMO_TEMPLATE.parent)
    for answer in ("It resumes.", "😀 東京", "two\n\nlines"):
        rendered = renderer.render(chat("What does it do?", answer, "And then?", "Nothing.", system="Be brief."))
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
    assert trained_text(renderer, renderer.render(row)) == expected


def test_an_assistant_turn_that_opens_the_conversation_is_found(model_of: Any) -> None:
    template = "{{ messages[0]['role'][:0] }}" + PHI_3_WITH_EOS
    renderer = Renderer.load(model_of("</s>"), chat_template=template)
    row = {"messages": [{"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Hi."}]}
    assert trained_text(renderer, renderer.render(row)) == "Hello.<|end|>"


def test_the_answer_is_found_where_the_end_token_repeats_its_letters(model_of: Any) -> None:
    renderer = Renderer.load(model_of("<|end|>"), chat_template="phi-3")
    assert trained_text(renderer, renderer.render(chat("end", "end", "e", "d"))) == "end<|end|>d<|end|>"


def test_a_token_that_begins_before_the_answer_is_not_trained(tmp_path: Path) -> None:
    # No control token stands between them: the header's newline and two of the answer's spaces become one token.
    model = build_model(tmp_path / "m", eos="<|im_end|>")
    renderer = Renderer.load(model, chat_template="chatml")
    rendered = renderer.render(chat("a?", "   indented"))
    text = trained_text(renderer, rendered)
    assert text == " indented<|im_end|>"


def test_a_template_that_marks_its_generations_wrongly_is_refused(model_of: Any) -> None:
    template = GENERATION_MARKED.replace("message['role'] == 'assistant'", "message['role'] == 'nobody'")
    template = template.replace("{{ message['content'] }}", "{{ message['content'][:-1] }}")
    renderer = Renderer.load(model_of("</s>"), chat_template=template)
    with pytest.raises(RowError, match="marks 0 generations"):
        renderer.render(chat("a?", "one."))


def test_a_template_that_changes_the_answer_beyond_recognition_is_refused(model_of: Any) -> None:
    template = "{% for message in messages %}{{ message['content'][:9] }}{% endfor %}"
    renderer = Renderer.load(model_of("</s>"), chat_template=template)
    with pytest.raises(RowError, match="does not reproduce"):
        renderer.render(chat("a?", "a long enough answer."))


def test_a_template_that_drops_the_system_turn_is_refused(model_of: Any) -> None:
    template = PHI_3_WITH_EOS.replace("{{ '<|' +", "{% if message['role'] != 'system' %}{{ '<|' +").replace(
        "{% endfor %}", "{% endif %}{% endfor %}"
    )
    renderer = Renderer.load(model_of("</s>"), chat_template=template)
    with pytest.raises(RowError, match="drops a system turn"):
        renderer.render(chat("a?", "one.", system="Speak German."))


def test_a_templates_refusal_is_told_without_the_rows_words(model_of: Any) -> None:
    renderer = Renderer.load(model_of("</s>"), chat_template="mistral-instruct")
    row = {
        "messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}, *chat("c", "d")["messages"]]
    }
    with pytest.raises(RowError, match="must alternate"):
        renderer.render(row)
    loud = Renderer.load(model_of("</s>"), chat_template="{{ raise_exception(messages[0]['content']) }}")
    with pytest.raises(RowError) as refusal:
        loud.render(chat("my secret", "answer"))
    assert "secret" not in str(refusal.value)


def test_a_prompt_and_completion_train_the_completion_and_the_end_token(model_of: Any) -> None:
    renderer = Renderer.load(model_of("</s>"))
    for prompt, completion in (("Q: why?\nA:", " because 😀"), ("Q: why?\nA: ", "because"), ("x\n\n", "\n  y")):
        rendered = renderer.render({"prompt": prompt, "completion": completion})
        assert trained_text(renderer, rendered) == completion + "</s>"
        whole = renderer.tokens.tokenizer.decode(rendered.input_ids, skip_special_tokens=False)
        assert whole == f"<s>{prompt}{completion}</s>"


def test_a_completion_that_ends_with_the_end_token_gets_no_second_one(model_of: Any) -> None:
    renderer = Renderer.load(model_of("</s>"))
    rendered = renderer.render({"prompt": "a", "completion": "b</s>"})
    assert trained_text(renderer, rendered) == "b</s>"


def test_a_conversational_prompt_and_completion_train_the_completion_alone(model_of: Any) -> None:
    renderer = Renderer.load(model_of("<|end|>"), chat_template="phi-3")
    messages = chat("a?", "one.", "b?", "two.")["messages"]
    rendered = renderer.render({"prompt": messages[:3], "completion": messages[3:]})
    assert trained_text(renderer, rendered) == "two.<|end|>"
    assert rendered.input_ids == renderer.render({"messages": messages}).input_ids


def test_sentencepiece_like_tokenizers_train_whole_answers(tmp_path: Path) -> None:
    renderer = Renderer.load(build_sentencepiece_like(tmp_path / "m"), chat_template="mistral-instruct")
    for answer in ("A registry holds images.", "😀 東京", "two\n\nlines"):
        rendered = renderer.render(chat("What?", answer, "And?", "cold"))
        ids = [i for i, trained in zip(rendered.input_ids, rendered.trained, strict=True) if trained]
        text = renderer.tokens.tokenizer.decode(ids, skip_special_tokens=False)
        assert text.replace(" ", "") == f"{answer}</s>cold</s>".replace(" ", "")
    plain = renderer.render({"prompt": "Answer: ", "completion": "cold"})
    whole = renderer.tokens.tokenizer.decode(plain.input_ids, skip_special_tokens=False)
    assert whole == "Answer: cold</s>"


def test_a_long_row_keeps_its_start_and_says_so(model_of: Any) -> None:
    row = chat("why?", "a long answer " * 20)
    whole = Renderer.load(model_of("<|end|>"), chat_template="phi-3").render(row)
    cut = Renderer.load(model_of("<|end|>"), chat_template="phi-3", max_length=12).render(row)
    assert (cut.input_ids, cut.trained) == (whole.input_ids[:12], whole.trained[:12])
    assert cut.truncated and not whole.truncated
    assert cut.length == whole.length == len(whole.input_ids)
    end = Renderer.load(model_of("<|end|>"), chat_template="phi-3", max_length=12, keep_end=True).render(row)
    assert end.input_ids == whole.input_ids[-12:]


def test_the_shipped_templates_are_reached_by_kaitos_path(model_of: Any) -> None:
    by_path = Renderer.load(model_of("<|end|>"), chat_template="/workspace/chat_templates/phi-3.jinja")
    assert by_path.chat_template == Renderer.load(model_of("<|end|>"), chat_template="phi-3").chat_template


def test_an_inline_template_keeps_its_characters(model_of: Any) -> None:
    template = (
        "{% for m in messages %}«{{ m.role }}» {{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}«assistant» {% endif %}"
    )
    renderer = Renderer.load(model_of("</s>"), chat_template=template)
    assert renderer.render(chat("a", "ü")).text == "«user» a</s>«assistant» ü</s>"


def test_a_named_template_of_the_tokenizer_configuration_is_used(tmp_path: Path) -> None:
    import json

    folder = build_model(tmp_path / "m")
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    named = [{"name": "rag", "template": "no"}, {"name": "default", "template": PHI_3_WITH_EOS}]
    path.write_text(json.dumps(config | {"chat_template": named}))
    assert Renderer.load(folder).chat_template == PHI_3_WITH_EOS


def test_a_conversation_without_a_chat_template_is_refused_with_the_remedy(model_of: Any) -> None:
    with pytest.raises(ConfigFailure) as refusal:
        Renderer.load(model_of("</s>")).render(chat("a", "b"))
    assert refusal.value.reason == "ChatTemplateMissing"
    assert "ModelConfig.chat_template" in refusal.value.hint


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
            Renderer.load(model_of("</s>"), chat_template=attack + PHI_3_WITH_EOS).render(chat("a", "b"))


@pytest.mark.parametrize(("content", "said"), [("", "broken"), ("{}", "broken"), (None, "no tokenizer.json")])
def test_a_missing_or_broken_tokenizer_is_called_so(content: str | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelFailure, match=said):
        Renderer.load(tmp_path)
