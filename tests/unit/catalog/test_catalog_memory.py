"""The memory estimate of tuning: what fits where, and that it moves the way the settings do."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaito.catalog import Model, adapter_parameters, estimate_tuning_memory, find_model, models, shapes_of, smallest_sku
from kaito.contract import Estimate

GIB = 2**30
V100 = 16 * GIB
WITH_SHAPES = [model for model in models() if model.shapes_source and not model.quantization]


def _estimate(model: str | Model, available_bytes: int = V100, **settings: object) -> Estimate:
    found = find_model(model) if isinstance(model, str) else model
    assert found is not None
    options = {"rank": 16, "sequence_length": 1024, **settings}
    return estimate_tuning_memory(found, available_bytes=available_bytes, **options)


def test_qlora_of_phi_3_mini_fits_a_v100() -> None:
    estimate = _estimate("phi-3-mini-128k-instruct", quantization_bits=4, dtype="float16")
    assert estimate.micro_batch >= 1
    assert not estimate.rough
    assert estimate.total_bytes == sum(estimate.parts.values()) <= V100


def test_qlora_of_falcon_7b_fits_a_v100() -> None:
    assert _estimate("falcon-7b", quantization_bits=4, dtype="float16").micro_batch >= 1


@pytest.mark.parametrize("name", ["mistral-7b", "llama-3.1-8b-instruct", "qwen2.5-coder-7b-instruct"])
def test_lora_of_seven_billion_parameters_does_not_fit_16_gib(name: str) -> None:
    estimate = _estimate(name)
    assert estimate.micro_batch == 0
    assert estimate.total_bytes > V100
    assert estimate.parts["weights"] > 13 * GIB


def test_the_demo_model_is_tiny() -> None:
    estimate = _estimate("demo", 4 * GIB, dtype="float32", device="cpu", sequence_length=256, max_micro_batch=8)
    assert estimate.micro_batch == 8
    assert estimate.parts["weights"] == pytest.approx(4 * 4_623_616, rel=0.01)
    assert estimate.total_bytes < 1.2 * GIB


def test_a_micro_batch_is_the_largest_power_of_two_that_fits() -> None:
    estimate = _estimate("phi-3-mini-4k-instruct", quantization_bits=4)
    assert estimate.micro_batch in {2, 4, 8, 16, 32}
    twice = _estimate("phi-3-mini-4k-instruct", 2**50, quantization_bits=4, max_micro_batch=2 * estimate.micro_batch)
    assert twice.micro_batch == 2 * estimate.micro_batch
    assert twice.total_bytes > V100


def test_a_micro_batch_stays_below_its_bound() -> None:
    assert _estimate("demo", 2**50).micro_batch == 64
    assert _estimate("demo", 2**50, max_micro_batch=12).micro_batch == 8
    assert _estimate("demo", 2**50, max_micro_batch=1).micro_batch == 1


def test_adapter_parameters_are_those_that_peft_counts() -> None:
    llama, phi = shapes_of(find_model("llama-3.1-8b-instruct")), shapes_of(find_model("phi-3-mini-4k-instruct"))
    assert llama is not None and phi is not None
    # PEFT's print_trainable_parameters at rank 16: Llama-3.1-8B all-linear; q_proj and v_proj alone.
    assert adapter_parameters(llama, 16) == 41_943_040
    assert adapter_parameters(llama, 16, ["q_proj", "v_proj"]) == 6_815_744
    assert adapter_parameters(llama, 16, ["all-linear"]) == 41_943_040
    # Phi-3's query, key and value are one layer, gate and up another: one input matrix each.
    assert adapter_parameters(phi, 16) == 16 * 32 * (3072 + 9216 + 2 * 3072 + 3072 + 16384 + 8192 + 3072)


def test_a_module_that_the_model_does_not_have_counts_as_its_largest() -> None:
    phi = shapes_of(find_model("phi-3-mini-4k-instruct"))
    assert phi is not None
    assert adapter_parameters(phi, 8, ["lm_head"]) == adapter_parameters(phi, 8, ["gate_up_proj"])


@pytest.mark.parametrize(
    ("optimizer", "bytes_each"), [("adamw_torch", 16), ("paged_adamw_8bit", 10), ("sgd", 8), ("adafactor", 9)]
)
def test_the_optimizer_decides_what_an_adapter_parameter_takes(optimizer: str, bytes_each: int) -> None:
    shapes = shapes_of(find_model("phi-4"))
    assert shapes is not None
    assert _estimate("phi-4", optimizer=optimizer).parts["adapter"] == bytes_each * adapter_parameters(shapes, 16)


def test_four_bits_take_what_the_paper_says() -> None:
    shapes = shapes_of(find_model("llama-2-7b"))
    assert shapes is not None
    others = 2 * shapes.other_parameters
    single = _estimate("llama-2-7b", quantization_bits=4, double_quantization=False).parts["weights"] - others
    double = _estimate("llama-2-7b", quantization_bits=4, double_quantization=True).parts["weights"] - others
    # Double quantisation saves 0.373 bits a parameter (arXiv 2305.14314, section 3).
    assert 8 * (single - double) / shapes.linear_parameters == pytest.approx(0.373, abs=0.001)


@given(
    model=st.sampled_from(WITH_SHAPES),
    rank=st.integers(1, 128),
    length=st.integers(1, 8192),
    checkpointing=st.booleans(),
    bits=st.sampled_from([None, 4, 8]),
    dtype=st.sampled_from(["bfloat16", "float16", "float32"]),
    available=st.integers(GIB, 640 * GIB),
)
def test_more_of_anything_never_takes_less_memory_or_allows_a_larger_micro_batch(
    model: Model, rank: int, length: int, checkpointing: bool, bits: int | None, dtype: str, available: int
) -> None:
    settings = {
        "quantization_bits": bits,
        "gradient_checkpointing": checkpointing,
        "dtype": dtype,
        "max_micro_batch": 1,
    }

    def total(**changed: object) -> int:
        return _estimate(
            model, available, **{"rank": rank, "sequence_length": length, **settings, **changed}
        ).total_bytes

    base = total()
    assert total(rank=rank + 1) > base
    assert total(sequence_length=length + 1) > base
    assert total(lora_dropout=0.05) >= base
    assert total(target_modules=[next(iter(shapes_of(model).linears))]) < base
    assert total(optimizer="adamw_8bit") < base
    assert total(logits_tokens=length // 2) <= base
    assert total(dtype="float32") >= base
    if bits is None:
        assert total(quantization_bits=8) - total(quantization_bits=4) > 0
    else:
        assert total(quantization_bits=None, dtype="float32") > base

    settings["max_micro_batch"] = 64
    few, many = (
        _estimate(model, memory, rank=rank, sequence_length=length, **settings).micro_batch
        for memory in (available, 2 * available)
    )
    assert few <= many


def test_a_head_on_fewer_positions_takes_less() -> None:
    least = {"max_micro_batch": 1, "gradient_checkpointing": False}
    whole, some = (_estimate("phi-4-mini-instruct", **least, logits_tokens=count) for count in (None, 256))
    assert whole.parts["logits"] == 4 * some.parts["logits"] == 1024 * 200064 * 12


def test_dropout_keeps_a_second_input_of_each_adapted_layer() -> None:
    least = {"max_micro_batch": 1, "gradient_checkpointing": False}
    without, everywhere = (_estimate("llama-2-7b", **least, lora_dropout=rate) for rate in (0.0, 0.05))
    query_alone = _estimate("llama-2-7b", **least, lora_dropout=0.05, target_modules=["q_proj"])
    more = query_alone.parts["activations"] - without.parts["activations"]
    assert more == 32 * 1024 * 4096 * 4
    assert everywhere.parts["activations"] - without.parts["activations"] == more * (6 * 4096 + 11008) / 4096


@pytest.mark.parametrize("model", WITH_SHAPES, ids=lambda model: model.name)
def test_gradient_checkpointing_saves_memory(model: Model) -> None:
    least = {"max_micro_batch": 1, "available_bytes": 2**50, "sequence_length": 2048}
    with_it, without = _estimate(model, **least), _estimate(model, **least, gradient_checkpointing=False)
    assert with_it.parts["activations"] < without.parts["activations"] / 3


@pytest.mark.parametrize("model", [m for m in WITH_SHAPES if m.name != "demo"], ids=lambda model: model.name)
@pytest.mark.parametrize("bits", [None, 4])
def test_without_shapes_the_estimate_is_rough_and_near(model: Model, bits: int | None) -> None:
    unknown = replace(
        model, layers=0, hidden=0, intermediate=0, heads=0, kv_heads=0, head_dim=0, vocab=0, architecture=""
    )
    settings = {"quantization_bits": bits, "max_micro_batch": 1, "available_bytes": 2**50}
    exact, rough = _estimate(model, **settings), _estimate(unknown, **settings)
    assert rough.rough and not exact.rough
    assert 0.75 * exact.total_bytes < rough.total_bytes < 1.5 * exact.total_bytes


def test_of_a_model_of_which_nothing_is_known_there_is_no_estimate() -> None:
    estimate = _estimate("some-org/some-model")
    assert estimate == Estimate({}, total_bytes=0, available_bytes=V100, micro_batch=1, rough=True)


def test_a_mixture_of_experts_is_estimated_roughly() -> None:
    shapes = replace(find_model("llama-3.1-8b-instruct"), parameters=47 * 10**9, bytes=94 * 10**9)
    assert _estimate(shapes).rough


def test_the_smallest_sku_is_named_by_cloud() -> None:
    def on(name: str, **settings: object) -> dict[str, str | None]:
        def estimate(memory: int) -> Estimate:
            return _estimate(name, memory, **settings)

        found = {cloud: smallest_sku(estimate, cloud) for cloud in ("azure", "aws", "arc")}
        return {cloud: sku.name if sku else None for cloud, sku in found.items()}

    assert on("phi-3-mini-128k-instruct", quantization_bits=4) == {
        "azure": "Standard_NV36ads_A10_v5",
        "aws": "g6.xlarge",
        "arc": "Standard_NC4_A2",
    }
    assert on("phi-4") == {"azure": "Standard_NC24ads_A100_v4", "aws": "p4d.24xlarge", "arc": None}
    assert on("llama-3.3-70b-instruct") == {"azure": "Standard_ND96isr_H200_v5", "aws": "p5e.48xlarge", "arc": None}
    assert on("deepseek-r1-0528") == {"azure": None, "aws": None, "arc": None}
