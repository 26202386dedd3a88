"""The base model and its adapter: load, quantise, guard, wrap in LoRA.

Three guards stand here because what they keep out is silent: a base with missing weights (filled with noise), layers
that were not quantised though asked for, and bitsandbytes' inference layout on CPUs (wrong gradients after any
evaluation).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from kaito.api.training import LoraConfig, TrainingConfig
from kaito.failure import ConfigFailure, ModelFailure
from kaito.tuning.memory import is_out_of_memory
from kaito.tuning.precision import Precision
from kaito.tuning.setting_errors import SETTING_ERRORS

SAFETENSORS_HEADER_LIMIT = 100_000_000  # bytes; the format's own bound

# Keys of the section that peft knows under the same name. The rest names the base, which we write ourselves.
_PEFT_KEYS = (
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "exclude_modules",
    "bias",
    "use_rslora",
    "use_dora",
    "fan_in_fan_out",
    "modules_to_save",
    "init_lora_weights",
    "layers_to_transform",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
    "trainable_token_indices",
    "target_parameters",
    "lora_bias",
)


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What LoRA was put on. `modules`: last part of the names -> how many."""

    trainable: int
    total: int
    modules: dict[str, int]


def count_parameters(folder: Path) -> int:
    """Parameters of a base model by the headers of its safetensors files; 0 where it has none."""
    return sum(_parameters_of(file) for file in sorted(folder.glob("*.safetensors")))


def _parameters_of(file: Path) -> int:
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        try:
            if size > SAFETENSORS_HEADER_LIMIT:
                raise ValueError("the header is too long")
            header = json.loads(stream.read(size))
        except ValueError as error:
            raise ModelFailure(f"{file} is no safetensors file: {error}", "fetch the base model again") from error
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def is_quantized(config: TrainingConfig) -> bool:
    return bool(config.quantization.load_in_4bit or config.quantization.load_in_8bit)


def load_base(folder: Path, config: TrainingConfig, precision: Precision, device: torch.device) -> nn.Module:
    """The frozen base model on `device`, quantised if the configuration says so. Raises ModelFailure."""
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {
        "dtype": precision.weights if precision.weights == "auto" else getattr(torch, precision.weights),
        "local_files_only": True,
        "trust_remote_code": bool(config.model.trust_remote_code),
        "device_map": {"": str(device)},
        "output_loading_info": True,
    }
    if config.model.attn_implementation:
        options["attn_implementation"] = config.model.attn_implementation
    if is_quantized(config):
        _let_falcon_be_quantized()
        options["quantization_config"] = _quantization(config, precision)
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(str(folder), **options)
    except ImportError as error:  # a kernel of attention or a quantisation that is a package of its own
        raise ConfigFailure(
            f"the settings need a package that is not installed here: {error}",
            "leave ModelConfig.attn_implementation out, or use sdpa or eager",
            reason="NotInstalled",
        ) from error
    except Exception as error:  # transformers and safetensors raise a dozen types for a base that does not load
        if is_out_of_memory(error):
            raise
        raise ModelFailure(
            f"the base model in {folder} does not load: {type(error).__name__}: {error}",
            "check that it is a complete causal language model that transformers knows",
        ) from error
    if loading["missing_keys"]:
        missing = sorted(loading["missing_keys"])
        raise ModelFailure(
            f"the base model in {folder} lacks {len(missing)} weights, the first is {missing[0]}",
            "fetch the base model again; a model without them answers noise",
        )
    model.config.use_cache = False  # keys and values are of use in generation alone
    if is_quantized(config):
        layers = keep_gradients_through_4bit(model)
        if layers == 0:
            raise ModelFailure(
                f"no layer of {type(model).__name__} was quantised, though the configuration asks for it",
                "use method lora for this model",
            )
        print(f"QLoRA Enabled: {layers} layers quantised", flush=True)
    return cast("nn.Module", model)


def _quantization(config: TrainingConfig, precision: Precision) -> Any:
    from transformers import BitsAndBytesConfig

    options = config.quantization.model_dump(exclude_none=True)
    options.pop("quant_method", None)
    options.pop("llm_int8_enable_fp32_cpu_offload", None)  # each GPU holds the whole model
    options["bnb_4bit_compute_dtype"] = (
        torch.float32 if precision.compute_4bit == "auto" else getattr(torch, precision.compute_4bit)
    )
    return BitsAndBytesConfig(**options)


def _let_falcon_be_quantized() -> None:
    """transformers quantises layers whose type *is* `nn.Linear`; Falcon's is a subclass, so none would be."""
    from transformers.models.falcon import modeling_falcon

    modeling_falcon.FalconLinear = nn.Linear


def keep_gradients_through_4bit(model: nn.Module) -> int:
    """Keep 4-bit layers in their training layout on CPUs, and count all quantised layers. Call after every load.

    On CPUs with AVX512-BF16, bitsandbytes (0.50) repacks a 4-bit layer at the first forward without gradients and
    never back: after one evaluation, three quarters of the gradient are lost without an error.
    """
    import bitsandbytes

    layers = 0
    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
        layers += isinstance(module, bitsandbytes.nn.Linear4bit | bitsandbytes.nn.Linear8bitLt)
    return layers


def add_adapter(model: nn.Module, lora: LoraConfig, *, repo: str, revision: str) -> Any:
    """The base wrapped in a fresh LoRA adapter (a PeftModel), trainable weights in float32. Raises ConfigFailure.

    float32 because AdamW's steps are lost in less, and because a resumed adapter is loaded as float32: only so it
    goes on bit for bit.
    """
    import peft

    options = {key: value for key in _PEFT_KEYS if (value := getattr(lora, key)) is not None}
    if options.get("target_modules") in ("all-linear", ["all-linear"]):
        options["target_modules"] = all_linear(model)
    kinds = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    require_matches(model, lora)
    try:
        wrapped = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **options))
    except (*SETTING_ERRORS, RuntimeError) as error:
        if is_out_of_memory(error) or "CUDA error" in str(error):
            raise
        raise ConfigFailure(
            f"LoraConfig does not fit the base model: {error}",
            f"linear layers of this model: {', '.join(sorted(kinds))}",
            reason="LoraConfigInvalid",
        ) from error
    adapter = wrapped.peft_config["default"]
    adapter.base_model_name_or_path, adapter.revision = repo, revision or None
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return wrapped


def require_matches(model: Any, lora: LoraConfig) -> None:
    """Raises ConfigFailure for names and tokens that the base lacks, where peft says nothing or fails in its middle."""
    modules = [name for name, _ in model.named_modules()]
    parameters = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    for key, wished, known in (
        ("modules_to_save", lora.modules_to_save, modules),
        ("target_parameters", lora.target_parameters, parameters),
    ):
        for name in wished or ():
            if not any(f".{found}".endswith(f".{name}") for found in known):
                endings = sorted({found.rsplit(".", 1)[-1] for found in known} - {""})
                raise ConfigFailure(
                    f"LoraConfig.{key}: nothing in the base model is named {name}",
                    f"names of this model end in {', '.join(word for word in endings if not word.isdecimal())}",
                    reason="LoraConfigInvalid",
                )
    tokens = lora.trainable_token_indices or []
    rows = model.get_input_embeddings().weight.shape[0]
    for token in tokens if isinstance(tokens, list) else [token for many in tokens.values() for token in many]:
        if not 0 <= token < rows:
            raise ConfigFailure(
                f"LoraConfig.trainable_token_indices: the base model has no token {token}",
                f"its tokens are 0 to {rows - 1}",
                reason="LoraConfigInvalid",
            )


def all_linear(model: Any) -> list[str] | str:
    """The last parts of the names of all linear layers but the output's: what `all-linear` stands for.

    Short names keep the adapter's configuration readable. Where they would match more than those layers, peft's own
    `all-linear` lists each by its whole name.
    """
    head = model.get_output_embeddings()
    chosen = {name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head}
    suffixes = {name.rsplit(".", 1)[-1] for name in chosen}
    matched = {name for name, _ in model.named_modules() if name.rsplit(".", 1)[-1] in suffixes}
    return sorted(suffixes) if chosen and matched == chosen else "all-linear"


def adapter_facts(model: Any) -> AdapterFacts:
    """What the adapter covers. Raises ConfigFailure when that is nothing."""
    trainable, total = model.get_nb_trainable_parameters()
    modules = Counter(name.rsplit(".", 1)[-1] for name, module in model.named_modules() if hasattr(module, "lora_A"))
    if not trainable:
        raise ConfigFailure("nothing is trainable: LoraConfig matches no module", "leave target_modules out")
    return AdapterFacts(trainable, total, dict(sorted(modules.items())))


def adapter_weights(model: Any) -> dict[str, torch.Tensor]:
    """The adapter's weights by peft's saved names, on the CPU."""
    from peft import get_peft_model_state_dict

    # Without False peft asks the hub whether the base's vocabulary has grown. It has not: nothing here resizes it.
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in weights.items()}


def load_adapter_weights(model: Any, weights: dict[str, torch.Tensor]) -> None:
    """Put weights of `adapter_weights` back. Raises ValueError when names or shapes differ."""
    from peft import set_peft_model_state_dict

    expected = adapter_weights(model)
    if {name: tensor.shape for name, tensor in weights.items()} != {name: t.shape for name, t in expected.items()}:
        raise ValueError("the adapter's weights do not fit the model")
    set_peft_model_state_dict(model, weights)
