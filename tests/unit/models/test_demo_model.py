"""The committed demo model: a whole Llama folder that loads without torch, and a chat template that tuning can use."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from kaito.datasets.templates import ChatTemplate

FOLDER = Path(__file__).parents[3] / "src" / "kaito" / "hub" / "builtin" / "demo"
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is a Pod?"},
    {"role": "assistant", "content": "A Pod is a group of containers."},
    {"role": "user", "content": "Thank you"},
    {"role": "assistant", "content": "You are welcome."},
]


def read_json(name: str) -> Any:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def read_weights_header() -> dict[str, Any]:
    with (FOLDER / "model.safetensors").open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return header


@pytest.fixture(scope="module")
def tokenizer() -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


@pytest.fixture(scope="module")
def template() -> ChatTemplate:
    text = (FOLDER / "chat_template.jinja").read_text(encoding="utf-8")
    return ChatTemplate(text, "chat_template.jinja", {"bos_token": "<s>", "eos_token": "</s>"})


def test_the_folder_is_complete_and_small() -> None:
    names = {path.name for path in FOLDER.iterdir()}
    assert names == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 10_000_000


def test_every_side_of_the_llama_is_a_multiple_of_64() -> None:
    config = read_json("config.json")
    assert config["architectures"] == ["LlamaForCausalLM"]
    sides = [config[key] for key in ("hidden_size", "intermediate_size", "head_dim", "vocab_size")]
    sides.append(config["num_key_value_heads"] * config["head_dim"])
    assert all(side % 64 == 0 for side in sides)
    for name, tensor in read_weights_header().items():
        assert all(side % 64 == 0 for side in tensor["shape"]), name


def test_the_weights_fit_the_configuration() -> None:
    config, header = read_json("config.json"), read_weights_header()
    assert {tensor["dtype"] for tensor in header.values()} == {"BF16"}
    assert header["model.embed_tokens.weight"]["shape"] == [config["vocab_size"], config["hidden_size"]]
    assert config["tie_word_embeddings"]
    assert "lm_head.weight" not in header
    layers = {name.split(".")[2] for name in header if name.startswith("model.layers.")}
    assert len(layers) == config["num_hidden_layers"]
    end = max(tensor["data_offsets"][1] for tensor in header.values())
    assert sum(tensor["data_offsets"][1] - tensor["data_offsets"][0] for tensor in header.values()) == end


def test_generation_ends_at_the_end_of_a_turn(tokenizer: tokenizers.Tokenizer) -> None:
    ends = [tokenizer.token_to_id("</s>"), tokenizer.token_to_id("<|end|>")]
    assert read_json("generation_config.json")["eos_token_id"] == ends
    assert read_json("generation_config.json")["pad_token_id"] == tokenizer.token_to_id("<pad>")


def test_the_tokenizer_gives_back_what_it_was_given(tokenizer: tokenizers.Tokenizer) -> None:
    assert tokenizer.get_vocab_size() == read_json("config.json")["vocab_size"]
    for text in ("KAITO_HOME is ~/.kaito, port 5000.", "Grüße, 你好 🙂", "  two  spaces\n\tand a tab"):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text
    assert tokenizer.encode("5000", add_special_tokens=False).tokens == ["5", "0", "0", "0"]


def test_a_chat_renders_with_the_end_of_each_turn(template: ChatTemplate) -> None:
    assert template.render(CHAT[:3]) == (
        "<s><|system|>Be brief.<|end|><|user|>What is a Pod?<|end|><|assistant|>A Pod is a group of containers.<|end|>"
    )
    assert template.render(CHAT[:2], add_generation_prompt=True).endswith("What is a Pod?<|end|><|assistant|>")
    assert template.has_generation_marks


@pytest.mark.parametrize("count", [3, 5])
def test_a_shorter_chat_is_a_prefix_of_the_longer_one(template: ChatTemplate, count: int) -> None:
    prompt = template.render(CHAT[: count - 1], add_generation_prompt=True)
    assert template.render(CHAT[:count]).startswith(prompt)
    assert template.render(CHAT).startswith(template.render(CHAT[:count]))
    assert template.render(CHAT[:count]).startswith(template.render(CHAT[: count - 1]))


def test_a_rendered_chat_starts_with_one_begin_token(template: ChatTemplate, tokenizer: tokenizers.Tokenizer) -> None:
    ids = tokenizer.encode(template.render(CHAT), add_special_tokens=False).ids
    begin, end = tokenizer.token_to_id("<s>"), tokenizer.token_to_id("<|end|>")
    assert ids[0] == begin
    assert ids.count(begin) == 1
    assert ids.count(end) == len(CHAT)
