"""ModelFacts from a model's config.json and from the headers of its safetensors. Pure: bytes in, numbers out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from kaito.failure import ModelFailure

# Aliases of config.json, most usual first.
_CONTEXT = ("max_position_embeddings", "n_ctx", "n_positions", "seq_length", "max_seq_len", "max_sequence_length")
_HIDDEN = ("hidden_size", "n_embd", "d_model", "dim")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HEADS = ("num_attention_heads", "n_head", "n_heads")
_KV_HEADS = ("num_key_value_heads", "n_head_kv", "n_kv_heads", "num_kv_heads")
_HEAD_DIM = ("head_dim", "attention_head_dim")
# Of a mixture without dense layers: the width of one expert.
_INTERMEDIATE = (
    "intermediate_size",
    "ffn_hidden_size",
    "n_inner",
    "ffn_dim",
    "ffn_dim_override",
    "moe_intermediate_size",
)
_DEFAULT_CONTEXT = 2048
_KV_BYTES = 2

_LARGEST_HEADER_BYTES = 100 << 20
_DTYPE_BYTES = {"float32": 4.0, "float64": 8.0, "float8_e4m3fn": 1.0, "int8": 1.0}
_QUANTISED_BITS = {"mxfp4": 4, "awq": 4, "gptq": 4, "fp8": 8}


def parse_config(text: bytes) -> dict[str, Any]:
    """config.json with the fields of its language model at the top. NaN and Infinity are allowed."""
    try:
        config = json.loads(text)
    except ValueError as error:
        raise ModelFailure(f"config.json of the model is not JSON: {error}", "fetch the model again") from error
    if not isinstance(config, dict):
        raise ModelFailure("config.json of the model is not an object", "fetch the model again")
    for key in ("text_config", "llm_config"):
        inner = config.get(key)
        if isinstance(inner, dict):
            config = inner | {name: value for name, value in config.items() if value is not None}
    return config


def shapes_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """layers, hidden, intermediate, kv_bytes_per_token, vocab, context, architecture of ModelFacts."""
    hidden = _number(config, _HIDDEN)
    layers = _number(config, _LAYERS) or len(config.get("layers_block_type") or ())
    architectures = config.get("architectures")
    named = architectures[0] if isinstance(architectures, list) and architectures else config.get("model_type")
    return {
        "layers": layers,
        "hidden": hidden,
        "intermediate": _number(config, _INTERMEDIATE),
        "kv_bytes_per_token": _kv_elements(config, hidden) * layers * _KV_BYTES,
        "vocab": _number(config, ("vocab_size", "padded_vocab_size")),
        "context": _number(config, _CONTEXT) or _number(config, ("model_max_length",)) or _DEFAULT_CONTEXT,
        "architecture": str(named or ""),
    }


def _kv_elements(config: Mapping[str, Any], hidden: int) -> int:
    """Cached numbers per token and layer."""
    latent = _number(config, ("kv_lora_rank",))
    if latent:
        return latent + _number(config, ("qk_rope_head_dim",))
    heads = _number(config, _HEADS)
    kv_heads = _number(config, _KV_HEADS)
    if config.get("multi_query") and not config.get("new_decoder_architecture"):
        kv_heads = 1
    head_dim = _number(config, _HEAD_DIM) or (hidden // heads if heads else 0)
    return 2 * (kv_heads or heads) * head_dim


def _number(config: Mapping[str, Any], names: Sequence[str]) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0:
            return int(value)
    return 0


def header_length(start: bytes, name: str, file_bytes: int) -> int:
    """The length of a safetensors header from the file's first 8 bytes. Raises ModelFailure where it is none."""
    if start.startswith(b"version "):
        hint = "run `git lfs pull` in the model's folder"
        raise ModelFailure(f"{name} is a Git LFS pointer, not the weights", hint, reason="WeightsDamaged")
    length = int.from_bytes(start[:8], "little")
    if len(start) < 8 or length > _LARGEST_HEADER_BYTES or length + 8 > file_bytes:
        raise _damaged(name)
    return length


def count_parameters(header: bytes, name: str, file_bytes: int) -> int:
    """Parameters that a safetensors file holds. Raises ModelFailure where the file is cut or its header broken."""
    try:
        tensors = json.loads(header)
        shapes = [entry["shape"] for key, entry in tensors.items() if key != "__metadata__"]
        ends = [entry["data_offsets"][1] for key, entry in tensors.items() if key != "__metadata__"]
        if 8 + len(header) + max(ends, default=0) != file_bytes:
            raise _damaged(name)
        return sum(math.prod(shape) for shape in shapes)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise _damaged(name) from error


def estimate_parameters(config: Mapping[str, Any], weight_bytes: int) -> int:
    """Parameters from the size of the weights and the number format that the configuration names."""
    quantisation = config.get("quantization_config")
    if isinstance(quantisation, dict):
        bits = quantisation.get("bits") or _QUANTISED_BITS.get(str(quantisation.get("quant_method")), 0)
        if quantisation.get("load_in_4bit"):
            bits = 4
        if isinstance(bits, int) and bits > 0:
            return weight_bytes * 8 // bits
    return int(weight_bytes / _DTYPE_BYTES.get(str(config.get("torch_dtype") or config.get("dtype")), 2.0))


def _damaged(name: str) -> ModelFailure:
    return ModelFailure(f"{name} is cut or is no safetensors file", "fetch the model again", reason="WeightsDamaged")
