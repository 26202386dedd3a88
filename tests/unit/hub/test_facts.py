from __future__ import annotations

import json

import pytest

from kaito.hub.facts import estimate_parameters, parse_config, shapes_of

LLAMA = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8}


@pytest.mark.parametrize(
    ("config", "kv_bytes"),
    [
        (LLAMA, 131072),
        ({**LLAMA, "num_key_value_heads": None}, 524288),
        ({**LLAMA, "head_dim": 64}, 65536),
        ({"n_embd": 4544, "n_layer": 32, "n_head": 71, "multi_query": True}, 8192),
        ({"num_hidden_layers": 61, "kv_lora_rank": 512, "qk_rope_head_dim": 64}, 70272),
    ],
)
def test_the_cache_of_a_token_follows_the_kind_of_attention(config: dict[str, object], kv_bytes: int) -> None:
    assert shapes_of(config)["kv_bytes_per_token"] == kv_bytes


def test_a_language_models_own_section_is_used_and_numbers_beyond_json_are_allowed() -> None:
    text = json.dumps({"model_type": "vlm", "rope": float("nan"), "text_config": {**LLAMA, "model_type": "inner"}})
    shapes = shapes_of(parse_config(text.encode()))
    assert (shapes["hidden"], shapes["layers"], shapes["architecture"]) == (4096, 32, "vlm")


def test_what_is_not_said_has_its_default() -> None:
    shapes = shapes_of({})
    assert shapes["context"] == 2048
    assert all(value == 0 for name, value in shapes.items() if name not in ("context", "architecture"))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, 500),
        ({"torch_dtype": "float32"}, 250),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, 2000),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, 2000),
    ],
)
def test_parameters_are_estimated_from_the_size_of_the_weights(config: dict[str, object], expected: int) -> None:
    assert estimate_parameters(config, 1000) == expected
