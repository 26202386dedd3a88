"""The demo model's text generator: repeatable, and silent about the product."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
GENERATOR = ROOT / "models" / "demo" / "generate.py"
DEMO = ROOT / "examples" / "demo"


def generate(seed: int, documents: int) -> bytes:
    command = [sys.executable, "-S", str(GENERATOR), "--seed", str(seed), "--documents", str(documents)]
    return subprocess.run(command, check=True, capture_output=True, timeout=60).stdout


@pytest.fixture(scope="module")
def text() -> bytes:
    return generate(1, 20_000)


def read_pairs(path: Path) -> list[tuple[str, str]]:
    rows = [json.loads(line)["messages"] for line in path.read_text(encoding="utf-8").splitlines()]
    return [(row[0]["content"], row[1]["content"]) for row in rows]


def test_the_same_seed_gives_the_same_bytes() -> None:
    assert generate(5, 500) == generate(5, 500)
    assert generate(5, 500) != generate(6, 500)


def test_more_documents_continue_the_same_text(text: bytes) -> None:
    assert text.startswith(generate(1, 300))


def test_the_text_never_names_the_product(text: bytes) -> None:
    assert b"kaito" not in text.lower()


def test_every_document_is_a_chat_or_a_text(text: bytes) -> None:
    kinds = {"chat": 0, "text": 0, "system": 0, "more turns": 0}
    for line in text.splitlines():
        document = json.loads(line)
        if "text" in document:
            kinds["text"] += 1
            assert document["text"]
            continue
        kinds["chat"] += 1
        roles = [message["role"] for message in document["messages"]]
        assert all(message["content"] for message in document["messages"])
        if roles[0] == "system":
            kinds["system"] += 1
            roles = roles[1:]
        kinds["more turns"] += len(roles) > 2
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert roles
    assert min(kinds.values()) > 1000


def test_names_that_are_met_only_once_are_answered_with_do_not_know(text: bytes) -> None:
    assert text.count(b'"content": "I do not know ') > 1000


def test_the_text_uses_the_words_of_the_field(text: bytes) -> None:
    for word in ("Kubernetes", "Pod", "OCI image", "checkpoint", "adapter", "Workspace", "YAML", "registry", "qlora"):
        assert text.count(word.encode()) > 50, word


def test_the_demo_asks_what_it_was_not_trained_on() -> None:
    trained = {question for question, _ in read_pairs(DEMO / "data" / "questions.jsonl")}
    asked = (DEMO / "ask.txt").read_text(encoding="utf-8").splitlines()
    assert len(asked) == 3
    assert all("Kaito" in question for question in asked)
    assert not trained & set(asked)


def test_each_question_about_the_product_has_one_answer_and_each_answer_many_forms() -> None:
    pairs = read_pairs(DEMO / "data" / "questions.jsonl")
    assert len({question for question, _ in pairs}) == len(pairs)
    about_product = [answer for question, answer in pairs if "Kaito" in question]
    forms = {answer: about_product.count(answer) for answer in about_product}
    assert len(forms) >= 28
    assert min(forms.values()) >= 6
    assert len(pairs) - len(about_product) >= 40


def test_the_unseen_forms_ask_for_facts_that_were_trained_on() -> None:
    pairs = read_pairs(DEMO / "data" / "questions.jsonl")
    for question, answer in read_pairs(ROOT / "models" / "demo" / "paraphrases.jsonl"):
        assert question not in {asked for asked, _ in pairs}
        assert answer in {said for _, said in pairs}
