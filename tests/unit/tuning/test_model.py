from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from kaito.api.training import LoraConfig, TrainingConfig
from kaito.failure import ConfigFailure, ModelFailure
from kaito.tuning.batches import collate
from kaito.tuning.evaluation import token_losses
from kaito.tuning.model import adapter_facts, adapter_weights, add_adapter, count_parameters, load_base
from kaito.tuning.precision import Precision
from kaito.tuning.tokenised import load_examples
from tests.unit.tuning.tiny_models import QLORA

FLOAT32 = Precision("float32", "no", "float32")
CPU = torch.device("cpu")


def quantized(folder: Path, compute: str = "float32") -> Any:
    config = TrainingConfig.model_validate({"QuantizationConfig": QLORA})
    return load_base(folder, config, Precision("float32", "no", compute), CPU)


def wrapped(base: Any, **lora: Any) -> Any:
    torch.manual_seed(0)
    return add_adapter(base, LoraConfig(r=4, lora_alpha=8, **lora), repo="acme/tiny", revision="abc")


def gradients(model: Any, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    model.train()
    model.zero_grad()
    (token_losses(model, batch) / 10).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def batch_of(model: Path, data: Path) -> dict[str, torch.Tensor]:
    return collate(load_examples(data, model, TrainingConfig()).examples[:4], 0)


def test_all_linear_layers_but_the_output_get_an_adapter_by_their_short_names(llama: Path) -> None:
    model = wrapped(load_base(llama, TrainingConfig(), FLOAT32, CPU), target_modules="all-linear")
    layers = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert adapter_facts(model).modules == dict.fromkeys(layers, 2)
    adapter = model.peft_config["default"]
    assert sorted(adapter.target_modules) == layers
    assert (adapter.base_model_name_or_path, adapter.revision) == ("acme/tiny", "abc")
    assert not model.get_base_model().config.use_cache


def test_modules_that_the_model_does_not_have_are_an_error_that_names_those_it_has(llama: Path) -> None:
    base = load_base(llama, TrainingConfig(), FLOAT32, CPU)
    with pytest.raises(ConfigFailure) as refused:
        wrapped(base, target_modules=["query_key_value"])
    assert "q_proj" in refused.value.hint


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_trainable_weights_are_float32_whatever_the_base_is(llama: Path, weights: str) -> None:
    model = wrapped(
        load_base(llama, TrainingConfig(), Precision(weights, "no", weights), CPU), modules_to_save=["lm_head"]
    )
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert trainable
    assert {parameter.dtype for parameter in trainable} == {torch.float32}


@pytest.mark.parametrize("family", ["llama", "falcon"])
def test_every_family_is_really_quantised(family: str, request: pytest.FixtureRequest) -> None:
    import bitsandbytes

    model = quantized(request.getfixturevalue(family))
    layers = [module for module in model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
    assert len(layers) == {"llama": 14, "falcon": 8}[family]
    assert not any(module.support_avx512bf16_for_cpu for module in layers)


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_an_evaluation_before_qlora_training_does_not_change_the_gradients(
    llama: Path, data: Path, compute: str
) -> None:
    batch = batch_of(llama, data)
    model = wrapped(quantized(llama, compute))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    before = gradients(model, batch)
    model.eval()
    with torch.no_grad():
        token_losses(model, batch)
        model(input_ids=batch["input_ids"][:1, :1])  # as when a text is generated
    after = gradients(model, batch)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(gradient.abs().sum() > 0 for gradient in after.values())


def test_layers_whose_width_is_no_multiple_of_64_survive_an_evaluation(tmp_path: Path, llama: Path, data: Path) -> None:
    from transformers import AutoConfig, LlamaForCausalLM

    folder = tmp_path / "odd"
    shutil.copytree(llama, folder)
    torch.manual_seed(1)
    LlamaForCausalLM(AutoConfig.from_pretrained(llama, intermediate_size=176)).save_pretrained(folder)
    batch = batch_of(folder, data)
    model = wrapped(quantized(folder, "bfloat16"))
    before = gradients(model, batch)
    model.eval()
    with torch.no_grad():
        token_losses(model, batch)
    after = gradients(model, batch)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_base_of_which_nothing_was_quantised_is_refused(llama: Path) -> None:
    layers = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]
    config = TrainingConfig.model_validate({"QuantizationConfig": {**QLORA, "llm_int8_skip_modules": layers}})
    with pytest.raises(ModelFailure, match="no layer of LlamaForCausalLM was quantised"):
        load_base(llama, config, FLOAT32, CPU)


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_the_adapter_of_a_quantised_base_is_float32_so_that_it_is_resumed_bit_for_bit(
    llama: Path, weights: str
) -> None:
    model = wrapped(quantized(llama, weights))
    trainable = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    assert trainable == {torch.float32}


def test_logits_are_computed_where_a_next_token_is_trained_and_the_loss_is_the_whole_ones(
    llama: Path, data: Path
) -> None:
    base = load_base(llama, TrainingConfig(), FLOAT32, CPU)
    batch = batch_of(llama, data)
    assert len(batch["kept"]) < batch["labels"].shape[1] - 1
    with torch.no_grad():
        whole = base(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"]).loss
        ours = token_losses(base, batch) / (batch["labels"][:, 1:] != -100).sum()
    assert torch.allclose(whole, ours, atol=1e-6)


def test_parameters_are_counted_from_the_headers_of_the_files(llama: Path) -> None:
    base = load_base(llama, TrainingConfig(), FLOAT32, CPU)
    assert count_parameters(llama) == sum(parameter.numel() for parameter in base.parameters())


def test_adapter_weights_are_a_copy(llama: Path) -> None:
    model = wrapped(load_base(llama, TrainingConfig(), FLOAT32, CPU))
    copy = adapter_weights(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1)
    assert not any(torch.equal(copy[name], weights) for name, weights in adapter_weights(model).items())


@pytest.mark.parametrize("damage", ["no weights", "cut weights", "lacking weights", "unknown architecture"])
def test_a_base_that_does_not_load_is_named_and_never_filled_with_noise(
    llama: Path, tmp_path: Path, damage: str
) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(llama, folder)
    weights = folder / "model.safetensors"
    if damage == "no weights":
        weights.unlink()
    elif damage == "cut weights":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif damage == "lacking weights":
        kept = {name: value for name, value in load_file(weights).items() if "layers.1.mlp" not in name}
        save_file(kept, weights, metadata={"format": "pt"})
    else:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "nobody", "architectures": ["Nobody"]}))
    with pytest.raises(ModelFailure):
        load_base(folder, TrainingConfig(), FLOAT32, CPU)
