"""Which models may be packed, and that packed rows teach what they teach apart: losses and gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kaito.api.training import LoraConfig, TrainingConfig
from kaito.tuning.attention import BY_DOCUMENT, VARLEN
from kaito.tuning.batches import collate, flatten
from kaito.tuning.data import Example
from kaito.tuning.evaluation import held_out_loss, token_losses
from kaito.tuning.model import add_adapter, load_base
from kaito.tuning.packing import Proof, choose_layout, prove, rows_to_check
from kaito.tuning.precision import Precision
from tests.unit.tuning.tiny_models import QLORA

CPU = torch.device("cpu")
FLOAT32 = Precision("float32", "no", "float32")
SHAPE = {
    "vocab_size": 384,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.08,
}
GROUPED = {"num_key_value_heads": 2}
WINDOW = {**GROUPED, "sliding_window": 16}  # shorter than the longest row


def build(kind: str, **shape: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SHAPE, **shape}))
    model.config.use_cache = False
    return model.eval()


def rows(*lengths: int) -> list[Example]:
    random = np.random.default_rng(1)
    return [Example(random.integers(3, 384, length).astype(np.int32), np.arange(length) % 3 > 0) for length in lengths]


def proof_of(model: Any, kernel: str = BY_DOCUMENT) -> Proof:
    return prove(model, kernel, rows(70, 33, 5), device=CPU, autocast="no")


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("llama", GROUPED),
        ("qwen2", GROUPED),
        ("qwen3", {**GROUPED, "head_dim": 16}),
        ("mistral", WINDOW),
        ("phi3", WINDOW),
        ("gemma3_text", {**WINDOW, "head_dim": 16}),
        ("phi", {}),
    ],
)
def test_families_that_attend_by_our_kernel_are_packed_with_equal_losses_and_gradients(
    kind: str, shape: dict[str, Any]
) -> None:
    model = build(kind, **shape)
    before = model.config._attn_implementation
    proof = proof_of(model)
    assert proof.objection == ""
    assert proof.difference < 1e-5
    assert model.config._attn_implementation == before

    adapted = add_adapter(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"), repo="a", revision="b")
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    apart = gradients(adapted, [collate([row], 0) for row in rows(40, 9, 21, 2)])
    padded = gradients(adapted, [collate(rows(40, 9, 21, 2), 0)])
    model.config._attn_implementation = BY_DOCUMENT
    packed = gradients(adapted, [flatten(rows(40, 9, 21, 2))])
    assert sum(float(gradient.abs().sum()) for gradient in packed.values()) > 1
    for name in apart:
        torch.testing.assert_close(packed[name], apart[name], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(packed[name], padded[name], atol=1e-5, rtol=1e-4)


def gradients(model: Any, batches: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    model.zero_grad()
    for batch in batches:
        (token_losses(model, batch) / 10).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("kind", "shape", "objection"),
    [
        ("falcon", {}, "cannot be packed"),
        ("bloom", {}, "leaks between packed documents"),
        ("gemma2", {**GROUPED, "head_dim": 16}, "softcap"),
        ("gpt_oss", {**GROUPED, "head_dim": 16, "num_local_experts": 4, "rope_parameters": None}, "s_aux"),
        ("llama4_text", {**GROUPED, "attention_chunk_size": 16, "num_local_experts": 2}, "leaks between packed"),
        ("mamba", {}, "mixes tokens outside its attention"),
        ("lfm2", {**GROUPED, "layer_types": ["conv", "full_attention"]}, "mixes tokens outside its attention"),
    ],
)
def test_families_that_leak_or_attend_in_ways_of_their_own_are_not_packed(
    kind: str, shape: dict[str, Any], objection: str
) -> None:
    proof = proof_of(build(kind, **shape))
    assert objection in proof.objection


def test_a_leak_is_measured_and_a_layer_that_goes_its_own_way_is_noticed_even_in_bfloat16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One layer that attends to all that lies before it: what the comparison must never let through."""
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    from kaito.tuning.attention import attend_by_document

    def leaking(module: Any, *args: Any, **kwargs: Any) -> Any:
        kernel = sdpa_attention_forward if module.layer_idx == 1 else attend_by_document
        return kernel(module, *args, **kwargs)

    AttentionInterface.register("leaking", leaking)
    proof = proof_of(build("llama", **GROUPED), "leaking")
    assert proof.difference > 1e-2
    assert f"leaks between packed documents ({proof.difference:.2g})" == proof.objection

    model = build("llama", **GROUPED, initializer_range=0.005).to(torch.bfloat16)  # says next to nothing of any row
    stock, ours = model.model.layers[1].self_attn.config, type(model.config)(**SHAPE, **GROUPED)
    ours._attn_implementation = "sdpa"
    assert stock is model.config
    model.model.layers[1].self_attn.config = ours
    found = prove(model, BY_DOCUMENT, rows(70, 33, 5), device=CPU, autocast="no")
    assert found.difference < 5e-2, "seen by its size alone: nothing is shown"
    assert found.objection == "cannot be packed: 1 attentions seen in 2 layers"


def test_the_comparison_draws_no_random_numbers_and_changes_no_weight() -> None:
    model = build("mistral", **WINDOW, attention_dropout=0.3)
    model.train()
    state, weights = torch.get_rng_state(), {name: value.clone() for name, value in model.state_dict().items()}
    assert proof_of(model).objection == ""
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert model.training


def test_the_longest_a_middle_and_the_shortest_row_are_compared() -> None:
    assert [len(row.input_ids) for row in rows_to_check(rows(5, 60, 7, 9, 8))] == [60, 8, 5]
    assert [len(row.input_ids) for row in rows_to_check(rows(6))] == [6, 6, 6]


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_a_quantised_base_is_packed_and_still_has_its_gradients(llama: Path, compute: str) -> None:
    config = TrainingConfig.model_validate({"QuantizationConfig": {**QLORA, "bnb_4bit_compute_dtype": compute}})
    base = load_base(llama, config, Precision("float32", "no", compute), CPU)
    layout = choose_layout(base, config, rows(70, 33, 5, 12), saved=0.3, device=CPU, autocast="no")
    assert layout.packed, layout.said
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights="gaussian")
    adapted = add_adapter(base, lora, repo="a", revision="b")
    packed = gradients(adapted, [flatten(rows(40, 9, 21, 2))])
    base.config._attn_implementation = "sdpa"
    apart = gradients(adapted, [collate([row], 0) for row in rows(40, 9, 21, 2)])
    exact = compute == "float32"
    for name in apart:
        torch.testing.assert_close(
            packed[name], apart[name], atol=1e-5 if exact else 0.05, rtol=1e-4 if exact else 0.05
        )


@pytest.mark.parametrize(
    ("sections", "packed", "warning", "said"),
    [
        ({}, True, False, "batches: packed; 3 documents checked, difference "),
        ({"TrainingArguments": {"packing": True}}, True, False, "batches: packed"),
        ({"TrainingArguments": {"packing": False, "padding_free": True}}, True, False, "batches: packed"),
        ({"TrainingArguments": {"packing": False}}, False, False, "as the configuration says"),
        ({"TrainingArguments": {"padding_free": False}}, False, False, "as the configuration says"),
        ({"ModelConfig": {"attn_implementation": "eager"}}, False, False, "attn_implementation is eager"),
        (
            {"ModelConfig": {"attn_implementation": "sdpa"}, "TrainingArguments": {"packing": True}},
            False,
            True,
            "attn_implementation is sdpa",
        ),
    ],
)
def test_the_configuration_is_obeyed_and_one_line_says_what_is_done(
    sections: dict[str, Any], packed: bool, warning: bool, said: str
) -> None:
    model = build("llama", **GROUPED)
    layout = choose_layout(
        model, TrainingConfig.model_validate(sections), rows(9, 30, 12), saved=0.3, device=CPU, autocast="no"
    )
    assert (layout.packed, layout.warning) == (packed, warning)
    assert said in layout.said
    assert model.config._attn_implementation == (BY_DOCUMENT if packed else "sdpa")


def test_a_model_that_cannot_be_packed_is_padded_as_it_came_and_the_line_names_it() -> None:
    model = build("falcon")
    before = model.config._attn_implementation
    asked = TrainingConfig.model_validate({"TrainingArguments": {"packing": True}})
    layout = choose_layout(model, asked, rows(9, 30, 12), saved=0.3, device=CPU, autocast="no")
    assert (layout.packed, layout.warning) == (False, True)
    assert "padded: FalconForCausalLM cannot be packed" in layout.said
    assert model.config._attn_implementation == before


def test_rows_of_like_length_are_packed_only_where_that_is_asked_for() -> None:
    """There is nothing to win, and the comparison takes its time."""
    for asked, packed in ((None, False), (True, True)):
        config = TrainingConfig.model_validate({"TrainingArguments": {"packing": asked}})
        layout = choose_layout(build("llama", **GROUPED), config, rows(9, 30), saved=0.02, device=CPU, autocast="no")
        assert layout.packed == packed, layout.said


def test_the_held_out_loss_is_the_same_packed_and_padded() -> None:
    model = build("mistral", **WINDOW)
    held_out = rows(*range(2, 60))

    def measured(packed: bool, batch_size: int) -> float:
        model.config._attn_implementation = BY_DOCUMENT if packed else "sdpa"
        found = held_out_loss(
            model, held_out, batch_size=batch_size, pad_token_id=0, device=CPU, autocast="no", packed=packed
        )
        assert found is not None
        assert found.tokens == sum(int(row.trained[1:].sum()) for row in held_out)
        return found.loss

    assert measured(True, 1) == pytest.approx(measured(False, 7), abs=1e-5)
    assert measured(True, 20) == pytest.approx(measured(False, 1), abs=1e-5)


def test_dropout_and_float32_take_the_kernel_that_runs_everywhere() -> None:
    """The GPU's kernel for documents of any length has neither: asked for it, a CPU computes the same."""
    assert proof_of(build("mistral", **WINDOW), VARLEN).objection == ""
