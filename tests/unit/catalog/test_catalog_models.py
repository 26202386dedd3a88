"""The catalog of base models: its data and how a preset's name finds a model."""

import json
from collections import Counter
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from kaito import catalog
from kaito.catalog import Model, find_model, models, nearest_models, shapes_of
from kaito.catalog.entries import read_entries

GIB = 2**30
DATA = Path(catalog.__file__).parent
WITH_SHAPES = [model for model in models() if model.shapes_source]
SIXTEEN_BIT = [model for model in WITH_SHAPES if model.bytes and not model.quantization]

LEGACY = {
    "phi-4": "microsoft/phi-4",
    "phi-4-mini-instruct": "microsoft/Phi-4-mini-instruct",
    "phi-3-mini-4k-instruct": "microsoft/Phi-3-mini-4k-instruct",
    "phi-3-mini-128k-instruct": "microsoft/Phi-3-mini-128k-instruct",
    "phi-3-medium-4k-instruct": "microsoft/Phi-3-medium-4k-instruct",
    "phi-3-medium-128k-instruct": "microsoft/Phi-3-medium-128k-instruct",
    "phi-3.5-mini-instruct": "microsoft/Phi-3.5-mini-instruct",
    "llama-3.1-8b-instruct": "meta-llama/Llama-3.1-8B-Instruct",
    "llama-3.3-70b-instruct": "meta-llama/Llama-3.3-70B-Instruct",
    "deepseek-r1-distill-llama-8b": "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
    "deepseek-r1-distill-qwen-14b": "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B",
    "deepseek-r1-0528": "deepseek-ai/DeepSeek-R1-0528",
    "deepseek-v3-0324": "deepseek-ai/DeepSeek-V3-0324",
    "qwen2.5-coder-7b-instruct": "Qwen/Qwen2.5-Coder-7B-Instruct",
    "qwen2.5-coder-32b-instruct": "Qwen/Qwen2.5-Coder-32B-Instruct",
    "gpt-oss-20b": "openai/gpt-oss-20b",
    "gpt-oss-120b": "openai/gpt-oss-120b",
    "gemma-3-4b-instruct": "google/gemma-3-4b-it",
    "gemma-3-27b-instruct": "google/gemma-3-27b-it",
    "mistral-7b": "mistralai/Mistral-7B-v0.3",
    "mistral-7b-instruct": "mistralai/Mistral-7B-Instruct-v0.3",
    "ministral-3-3b-instruct": "mistralai/Ministral-3-3B-Instruct-2512",
    "ministral-3-8b-instruct": "mistralai/Ministral-3-8B-Instruct-2512",
    "ministral-3-14b-instruct": "mistralai/Ministral-3-14B-Instruct-2512",
    "mistral-large-3-675b-instruct": "mistralai/Mistral-Large-3-675B-Instruct-2512",
    "falcon-7b": "tiiuae/falcon-7b",
    "falcon-7b-instruct": "tiiuae/falcon-7b-instruct",
    "falcon-40b": "tiiuae/falcon-40b",
    "falcon-40b-instruct": "tiiuae/falcon-40b-instruct",
    "phi-2": "microsoft/phi-2",
    "llama-2-7b": "meta-llama/Llama-2-7b-hf",
    "llama-2-13b-chat": "meta-llama/Llama-2-13b-chat-hf",
    "llama-2-70b": "meta-llama/Llama-2-70b-hf",
    "demo": "builtin:demo",
}


@pytest.mark.parametrize("file", ["models.yaml", "skus.yaml"])
def test_the_quick_reader_reads_what_a_yaml_parser_reads(file: str) -> None:
    assert read_entries(file) == YAML(typ="safe", pure=True).load((DATA / file).read_text(encoding="utf-8"))


def test_the_catalog_has_the_sixty_models_of_v0_12_and_those_of_2024_and_the_demo() -> None:
    assert len(models()) == 60 + 4 + 1 + 6 + 1


@pytest.mark.parametrize(("name", "repo"), LEGACY.items())
def test_a_name_of_kaitos_documents_is_the_repository_it_stood_for(name: str, repo: str) -> None:
    model = find_model(name)
    assert model is not None
    assert model.repo == repo
    assert model.known


def test_no_two_models_share_a_name_an_alias_or_a_repository() -> None:
    keys = Counter(key.lower() for model in models() for key in (model.name, model.repo, *model.aliases))
    assert [key for key, count in keys.items() if count > 1] == []


@pytest.mark.parametrize("model", models(), ids=lambda model: model.name)
def test_an_entry_has_sane_values(model: Model) -> None:
    assert model.name == model.name.lower()
    assert find_model(model.name) is find_model(model.repo) is model
    assert model.architecture and model.licence
    assert model.parameters or model.bytes
    assert model.bytes == 0 or 2**20 < model.bytes < 1000 * GIB
    assert 1024 <= model.context <= 2**20
    assert 10**3 < model.kv_bytes_per_token < 10**7
    assert model.gated is not False or model.repo.startswith("builtin:")
    assert model.tunable is not bool(model.quantization)
    assert bool(model.layers) == bool(model.shapes_source)


@pytest.mark.parametrize("model", WITH_SHAPES, ids=lambda model: model.name)
def test_shapes_explain_the_cache_and_the_number_of_parameters(model: Model) -> None:
    assert model.kv_bytes_per_token == 2 * 2 * model.layers * model.kv_heads * model.head_dim
    assert model.heads % model.kv_heads == 0
    shapes = shapes_of(model)
    assert shapes is not None
    assert shapes.rough is bool(model.quantization)
    assert shapes.parameters == pytest.approx(model.parameters, rel=0.15)


@pytest.mark.parametrize("model", SIXTEEN_BIT, ids=lambda model: model.name)
def test_shapes_explain_the_size_of_the_weights(model: Model) -> None:
    linear, embedding = shapes_of(model).linear_parameters, model.vocab * model.hidden
    besides = model.bytes / 2 - linear
    vision_tower = 0.5e9 if model.name.startswith("gemma-3") else 0
    assert 0.99 * embedding <= besides <= 2.01 * embedding + vision_tower + 0.002 * linear


def test_only_repositories_known_to_ask_for_a_licence_are_called_gated() -> None:
    gated = {model.repo.split("/")[0] for model in models() if model.gated}
    assert gated == {"meta-llama", "google"}


@pytest.mark.parametrize(
    ("name", "repo"),
    [("PHI-4", "microsoft/phi-4"), ("qwen/qwen2.5-coder-7b-instruct", "Qwen/Qwen2.5-Coder-7B-Instruct"),
     ("mistral-7b-v0.3", "mistralai/Mistral-7B-v0.3"), (" demo ", "builtin:demo")],
)  # fmt: skip
def test_a_name_is_found_in_any_case_and_by_alias(name: str, repo: str) -> None:
    model = find_model(name)
    assert model is not None and model.known and model.repo == repo


@pytest.mark.parametrize(
    ("name", "short"),
    [("HuggingFaceTB/SmolLM2-135M", "smollm2-135m"), ("/models/mine/", "mine"), ("./mine", "mine"), ("../a/b", "b"),
     ("builtin:other", "other")],
)  # fmt: skip
def test_any_repository_or_folder_is_a_model_of_which_nothing_is_known(name: str, short: str) -> None:
    assert find_model(name) == Model(name=short, repo=name, known=False)


@pytest.mark.parametrize("name", ["", "phi-5", "preset-model", "a/b/c", "a b/c", "builtin:", "-x/y", "org/"])
def test_a_name_that_stands_for_nothing_finds_nothing(name: str) -> None:
    assert find_model(name) is None


def test_a_misspelt_name_is_answered_with_the_nearest_ones() -> None:
    assert nearest_models("phi-3-mini-128k-instuct")[0] == "phi-3-mini-128k-instruct"
    assert "falcon-7b" in nearest_models("Falcon7b")
    assert nearest_models("zzzzzzzz") == []
    assert len(nearest_models("llama")) <= 3


def test_the_demo_entry_says_what_its_files_say() -> None:
    folder = DATA.parent / "hub/builtin/demo"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = find_model("demo")
    assert model is not None
    assert config["architectures"] == [model.architecture]
    assert model.bytes == pytest.approx((folder / "model.safetensors").stat().st_size, rel=0.002)
    assert (model.layers, model.hidden, model.intermediate, model.vocab, model.context) == (
        config["num_hidden_layers"], config["hidden_size"], config["intermediate_size"], config["vocab_size"],
        config["max_position_embeddings"],
    )  # fmt: skip
    assert (model.heads, model.kv_heads) == (config["num_attention_heads"], config["num_key_value_heads"])
