"""Facts of every architecture that the catalog names, held against the modelling code: models without weights."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from kaito.catalog import Model, models
from kaito.catalog import shapes_of as catalog_shapes_of
from kaito.hub.facts import count_parameters, estimate_parameters, parse_config, shapes_of

ARCHITECTURES = sorted({model.architecture for model in models()})
KNOWN = [name for name in ARCHITECTURES if hasattr(transformers, name)]
DECODERS = [
    model
    for model in models()
    if model.shapes_source and model.bytes and not model.quantization and model.architecture.endswith("ForCausalLM")
]

# What transformers does not know is described as its repositories' config.json do it.
MLA = {"num_hidden_layers": 61, "hidden_size": 7168, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "vocab_size": 163840}
NESTED = {
    "KimiK25ForConditionalGeneration": ({"text_config": MLA}, 70272),
    "MistralLarge3ForCausalLM": ({"text_config": {**MLA, "vocab_size": 131072}, "vision_config": {}}, 70272),
    "NemotronH_Nano_VL_V2": (
        {
            "llm_config": {
                "num_hidden_layers": 62,
                "hidden_size": 5120,
                "num_attention_heads": 40,
                "num_key_value_heads": 8,
                "head_dim": 128,
                "vocab_size": 131072,
            }
        },
        253952,
    ),
}


@cache
def build(architecture: str) -> tuple[dict[str, Any], nn.Module]:
    """The config.json of the architecture's defaults, and its model, on no device."""
    kind = getattr(transformers, architecture)
    config = kind.config_class()
    config.architectures, config.dtype = [architecture], torch.bfloat16
    with torch.device("meta"):
        model = kind(config)
    return json.loads(config.to_json_string()), model


def read(config: dict[str, Any]) -> dict[str, Any]:
    return shapes_of(parse_config(json.dumps(config).encode()))


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The language model's layers: of what is as deep, that with the widest members."""
    lists = [
        module for name, module in model.named_modules() if name.endswith(("layers", ".h")) and "vision" not in name
    ]
    return max(
        (found for found in lists if isinstance(found, nn.ModuleList)),
        key=lambda found: count(found) if len(found) else 0,
    )


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def key_value_width(model: nn.Module) -> int:
    """Cached numbers a token of the first layer with attention, by its projections; 0 where they have other names."""
    for layer in decoder_layers(model):
        widths = {
            name.rpartition(".")[2]: module for name, module in layer.named_modules() if isinstance(module, nn.Linear)
        }
        if "kv_a_proj_with_mqa" in widths:
            return int(widths["kv_a_proj_with_mqa"].out_features)
        if "k_proj" in widths and "v_proj" in widths:
            return int(widths["k_proj"].out_features + widths["v_proj"].out_features)
        for fused, output in (("qkv_proj", "o_proj"), ("query_key_value", "dense")):
            if fused in widths:
                return int(widths[fused].out_features - widths[output].in_features)
    return 0


def test_every_architecture_of_the_catalog_is_looked_at() -> None:
    assert sorted([*KNOWN, *NESTED]) == ARCHITECTURES


@pytest.mark.parametrize("architecture", KNOWN)
def test_the_facts_of_a_config_are_those_of_the_model_that_it_makes(architecture: str) -> None:
    config, model = build(architecture)
    shapes = read(config)
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    layers = decoder_layers(model)
    assert shapes["architecture"] == architecture
    assert (shapes["layers"], shapes["hidden"]) == (len(layers), embedding.embedding_dim)
    assert shapes["vocab"] == embedding.num_embeddings
    width = key_value_width(model)
    if width:
        assert shapes["kv_bytes_per_token"] == len(layers) * width * 2
    assert shapes["context"] == config.get("text_config", config)["max_position_embeddings"]
    assert shapes["intermediate"] > 0


@pytest.mark.parametrize("architecture", KNOWN)
def test_the_parameters_of_a_model_are_counted_by_header_and_by_size(architecture: str) -> None:
    config, model = build(architecture)
    header: dict[str, Any] = {}
    end = 0
    for name, parameter in model.named_parameters():  # a tied head is saved once
        header[name] = {
            "dtype": "BF16",
            "shape": list(parameter.shape),
            "data_offsets": [end, end + 2 * parameter.numel()],
        }
        end += 2 * parameter.numel()
    text = json.dumps(header).encode()
    assert count_parameters(text, "model.safetensors", 8 + len(text) + end) == count(model)
    by_size = estimate_parameters(parse_config(json.dumps(config).encode()), 8 + len(text) + end)
    assert by_size == pytest.approx(count(model), rel=0.02)


@pytest.mark.parametrize("architecture", NESTED)
def test_a_language_models_section_gives_the_facts_where_transformers_does_not_know_the_model(
    architecture: str,
) -> None:
    config, kv_bytes = NESTED[architecture]
    shapes = read({"architectures": [architecture], **config})
    assert shapes["architecture"] == architecture
    assert shapes["kv_bytes_per_token"] == kv_bytes
    assert kv_bytes in [model.kv_bytes_per_token for model in models() if model.architecture == architecture]
    assert shapes["hidden"] and shapes["vocab"]


@pytest.mark.parametrize("known", DECODERS, ids=lambda known: known.name)
def test_a_model_of_the_catalog_has_the_parameters_of_the_model_that_its_shapes_make(known: Model) -> None:
    shapes = catalog_shapes_of(known)
    assert shapes is not None
    widths: dict[str, Any] = {
        "hidden_size": known.hidden,
        "num_hidden_layers": known.layers,
        "num_attention_heads": known.heads,
        "vocab_size": known.vocab,
        # A head of its own is in the published weights, or is not.
        "tie_word_embeddings": shapes.other_parameters < 1.5 * known.vocab * known.hidden,
    }
    if known.architecture == "FalconForCausalLM":
        widths |= {"new_decoder_architecture": known.kv_heads > 1, "num_kv_heads": known.kv_heads}
    else:
        widths |= {
            "intermediate_size": known.intermediate,
            "num_key_value_heads": known.kv_heads,
            "head_dim": known.head_dim,
        }
    kind = getattr(transformers, known.architecture)
    config = kind.config_class(**widths)
    with torch.device("meta"):
        model = kind(config)
    assert shapes.parameters == pytest.approx(count(model), rel=0.02)
    assert read(json.loads(config.to_json_string()))["kv_bytes_per_token"] == known.kv_bytes_per_token
