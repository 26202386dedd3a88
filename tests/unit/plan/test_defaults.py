"""What a plan chooses where nobody said anything, and that it says why of each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kaito.contract import Observed, Setting
from kaito.plan import plan
from tests.unit.plan.test_plan_tuning import DATA, FOUND, LAPTOP, PHI, steps, workspace

CONFIG_MAPS = Path(__file__).parents[2] / "fixtures" / "configmaps"


def settings(observed: Observed = FOUND, **tuning: Any) -> dict[str, Setting]:
    return dict(plan(workspace(**tuning), observed).settings)


def of_rows(rows: int, **tuning: Any) -> dict[str, Setting]:
    return settings(replace(FOUND, data=replace(DATA, rows=rows)), **tuning)


@pytest.mark.parametrize(
    ("name", "value", "source"),
    [
        ("TrainingArguments.learning_rate", 2e-4, "default"),
        ("TrainingArguments.lr_scheduler_type", "cosine", "default"),
        ("TrainingArguments.warmup_steps", 0.03, "3 % of the steps"),
        ("TrainingArguments.weight_decay", 0.0, "default"),
        ("TrainingArguments.max_grad_norm", 1.0, "default"),
        ("TrainingArguments.num_train_epochs", 3.0, "default"),
        ("TrainingArguments.optim", "adamw_torch", "default"),
        ("TrainingArguments.seed", 42, "default"),
        ("TrainingArguments.gradient_checkpointing", True, "by the model's size"),
        ("TrainingArguments.eval_strategy", "epoch", "default"),
        ("TrainingArguments.load_best_model_at_end", True, "the best by held-out loss is kept"),
        ("DatasetConfig.train_test_split", 0.95, "5 % held out, 500 rows at most"),
        ("DatasetConfig.shuffle_dataset", True, "default"),
        ("LoraConfig.r", 16, "default"),
        ("LoraConfig.lora_alpha", 32, "twice the rank"),
        ("LoraConfig.target_modules", "all-linear", "default"),
        ("LoraConfig.lora_dropout", 0.0, "many rows"),
        ("ModelConfig.torch_dtype", "bfloat16", "default"),
    ],
)
def test_the_defaults_of_lora(name: str, value: Any, source: str) -> None:
    assert settings(method="lora")[name] == Setting(value, source)


@pytest.mark.parametrize(
    ("name", "value", "source"),
    [
        ("TrainingArguments.max_grad_norm", 0.3, "method qlora"),
        ("QuantizationConfig.load_in_4bit", True, "method qlora"),
        ("QuantizationConfig.bnb_4bit_quant_type", "nf4", "default"),
        ("QuantizationConfig.bnb_4bit_use_double_quant", True, "default"),
        ("QuantizationConfig.bnb_4bit_compute_dtype", "bfloat16", "follows torch_dtype"),
    ],
)
def test_the_defaults_of_qlora(name: str, value: Any, source: str) -> None:
    assert settings(method="qlora")[name] == Setting(value, source)


def test_every_setting_says_where_it_comes_from() -> None:
    assert all(setting.source for setting in settings().values())


def test_a_very_large_model_learns_at_half_the_rate() -> None:
    large = replace(FOUND, model=replace(PHI, parameters=32_000_000_000))
    assert settings(large)["TrainingArguments.learning_rate"] == Setting(1e-4, "over 30 billion parameters")


def test_a_small_model_keeps_its_activations() -> None:
    small = replace(FOUND, model=replace(PHI, parameters=1_500_000_000))
    assert settings(small)["TrainingArguments.gradient_checkpointing"].value is False


@pytest.mark.parametrize(("rows", "dropout"), [(9_999, 0.05), (10_000, 0.0)])
def test_few_rows_are_trained_with_dropout(rows: int, dropout: float) -> None:
    assert of_rows(rows)["LoraConfig.lora_dropout"].value == dropout


@pytest.mark.parametrize(
    ("rows", "batch", "why"),
    [
        (100, 1, "about 285 optimizer steps"),
        (1_000, 8, "about 357 optimizer steps"),
        (15_000, 32, "about 1362 optimizer steps"),
    ],
)
def test_rows_of_a_step_leave_some_three_hundred_steps_where_the_data_allow(rows: int, batch: int, why: str) -> None:
    found = of_rows(rows)
    micro = found["TrainingArguments.per_device_train_batch_size"]
    assert micro.value * found["TrainingArguments.gradient_accumulation_steps"].value == batch
    assert micro.source == why


@pytest.mark.parametrize(
    ("rows", "said", "batch", "why"),
    [
        (38, {"max_steps": 10}, 8, "max_steps 10: about 2.2 times the rows"),
        (38, {"max_steps": 10, "num_train_epochs": 1}, 4, "max_steps 10: about 1.1 times the rows"),
        (38, {"max_steps": 1_000}, 1, "max_steps 1000: about 27.8 times the rows"),
        (15_000, {"max_steps": 10}, 32, "max_steps 10: about 0.0 times the rows"),
        (38, {"max_steps": -1}, 1, "about 108 optimizer steps"),
    ],
)
def test_a_limit_of_steps_gets_a_batch_with_which_every_row_is_seen(
    rows: int, said: dict[str, Any], batch: int, why: str
) -> None:
    found = of_rows(rows, parameters={"TrainingArguments": said})
    micro = found["TrainingArguments.per_device_train_batch_size"]
    assert micro.value * found["TrainingArguments.gradient_accumulation_steps"].value == batch
    assert micro.source == why


@pytest.mark.parametrize(
    ("rows", "said", "warning"),
    [
        (
            38,
            {"max_steps": 10, "per_device_train_batch_size": 1},
            "26 of 36 rows are never seen: max_steps 10 of 1 rows each; raise max_steps to 36, or the batch",
        ),
        (
            15_000,
            {"max_steps": 10},
            "14,180 of 14,500 rows are never seen: max_steps 10 of 32 rows each; raise max_steps to 454, or the batch",
        ),
        (38, {"max_steps": 10}, None),
        (38, {"num_train_epochs": 0.5}, None),
    ],
)
def test_rows_that_a_limit_of_steps_leaves_unseen_are_counted(
    rows: int, said: dict[str, Any], warning: str | None
) -> None:
    planned = plan(workspace(parameters={"TrainingArguments": said}), replace(FOUND, data=replace(DATA, rows=rows)))
    assert [line for line in planned.warnings if "never seen" in line] == ([warning] if warning else [])


def test_what_the_rows_may_still_change_is_marked_as_provisional() -> None:
    uncounted = settings(replace(FOUND, data=None))
    marked = {name for name, setting in uncounted.items() if "provisional" in setting.source}
    assert marked == {
        "LoraConfig.lora_dropout",
        "TrainingArguments.gradient_accumulation_steps",
        "TrainingArguments.max_length",
        "TrainingArguments.per_device_train_batch_size",
    }
    assert not [name for name, setting in settings().items() if "provisional" in setting.source]


@pytest.mark.parametrize(
    ("modules", "reason", "hint"),
    [
        (["q_prj"], "ConfigInvalid", "Its linear layers: down_proj, gate_up_proj, o_proj, qkv_proj."),
        (["qkv_prj"], "ConfigInvalid", "Did you mean qkv_proj?"),
        (["model.layers.0.self_attn.qkv_proj"], "", ""),
        (["lm_head"], "", ""),
        (["all-linear"], "", ""),
        ("q_prj|k_prj", "", ""),
    ],
)
def test_a_module_that_the_base_model_does_not_have_is_refused_before_the_training(
    modules: Any, reason: str, hint: str
) -> None:
    refusal = plan(workspace(parameters={"LoraConfig": {"target_modules": modules}}), FOUND).refusal
    assert (refusal.reason if refusal else "") == reason
    assert hint in (refusal.hint if refusal else "")


def test_a_module_among_others_that_the_base_model_has_is_a_warning() -> None:
    planned = plan(workspace(parameters={"LoraConfig": {"target_modules": ["o_proj", "q_proj"]}}), FOUND)
    assert planned.refusal is None
    assert "LoraConfig.target_modules: the base model has no q_proj" in planned.warnings


def test_modules_of_an_architecture_that_is_not_known_are_left_to_the_trainer() -> None:
    strange = replace(FOUND, model=replace(PHI, architecture="StrangeForCausalLM"))
    assert plan(workspace(parameters={"LoraConfig": {"target_modules": ["c_attn"]}}), strange).refusal is None


def test_an_alpha_follows_the_rank_that_was_said() -> None:
    said = settings(parameters={"LoraConfig": {"r": 8}})
    assert said["LoraConfig.r"] == Setting(8, "tuning.parameters")
    assert said["LoraConfig.lora_alpha"] == Setting(16, "twice the rank")


def test_parameters_that_are_adapted_by_name_get_no_dropout() -> None:
    said = settings(parameters={"LoraConfig": {"target_parameters": ["experts.gate_up_proj"]}})
    assert said["LoraConfig.lora_dropout"].value == 0.0


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_kaitos_own_configmap_says_what_it_says(method: str) -> None:
    name = f"{method}-params-template"
    from ruamel.yaml import YAML

    document = YAML(typ="safe").load((CONFIG_MAPS / f"{name}.yaml").read_text())
    found = settings(replace(FOUND, configs={name: document["data"]}), method=method, config=name)
    source = f"ConfigMap {name}"
    assert found["LoraConfig.r"] == Setting(8, source)
    assert found["LoraConfig.lora_alpha"] == Setting(8, source)
    assert found["LoraConfig.lora_dropout"] == Setting(0.0, source)
    assert found["TrainingArguments.per_device_train_batch_size"] == Setting(1, source)
    assert found["TrainingArguments.gradient_accumulation_steps"] == Setting(1, "the batch size was given")
    assert found["DatasetConfig.train_test_split"] == Setting(1.0, source)
    assert found["LoraConfig.target_modules"] == Setting("all-linear", "default")
    assert found["TrainingArguments.learning_rate"] == Setting(2e-4, "default")


def test_patience_goes_to_the_trainer_and_decides_the_result() -> None:
    patient = steps(FOUND, evaluation={"earlyStoppingPatience": 3})["tune"]
    assert patient.argv[patient.argv.index("--early-stopping-patience") + 1] == "3"
    assert patient.verdict != steps(FOUND)["tune"].verdict


@pytest.mark.parametrize(("patience", "warned"), [(1, False), (2, True), (5, True)])
def test_patience_that_can_never_act_is_a_warning(patience: int, warned: bool) -> None:
    """Three epochs, three evaluations: the third is after the last step."""
    warnings = plan(workspace(evaluation={"earlyStoppingPatience": patience}), FOUND).warnings
    found = [warning for warning in warnings if "earlyStoppingPatience" in warning]
    assert [f"{patience} never stops this training of 3 evaluations" in warning for warning in found] == [True] * warned


@pytest.mark.parametrize(
    ("tuning", "observed", "reason", "words"),
    [
        (
            {"evaluation": {"earlyStoppingPatience": 2}, "parameters": {"DatasetConfig": {"train_test_split": 1}}},
            FOUND,
            "NothingHeldOut",
            "tuning.evaluation.earlyStoppingPatience needs held-out rows",
        ),
        (
            {
                "evaluation": {"earlyStoppingPatience": 2},
                "parameters": {"TrainingArguments": {"eval_strategy": "no"}},
            },
            FOUND,
            "NothingHeldOut",
            "tuning.evaluation.earlyStoppingPatience counts evaluations on the way",
        ),
        (
            {"evaluation": {"earlyStoppingPatience": 2}},
            replace(FOUND, data=replace(DATA, rows=19)),
            "NothingHeldOut",
            "of 19 rows to learn from none are",
        ),
        (
            {"evaluation": {"minImprovement": 0.1}},
            replace(FOUND, data=replace(DATA, rows=2000, untrained=1900, dropped=90)),
            "NothingHeldOut",
            "of 10 rows to learn from none are",
        ),
        (
            {"parameters": {"TrainingArguments": {"lr_scheduler_type": "warmup_stable_decay"}}},
            FOUND,
            "ConfigInvalid",
            "TrainingArguments.lr_scheduler_kwargs: warmup_stable_decay needs num_decay_steps",
        ),
        (
            {"parameters": {"ModelConfig": {"attn_implementation": "flash_attention_2"}}},
            replace(FOUND, device=LAPTOP),
            "ConfigInvalid",
            "flash_attention_2 trains on a GPU alone",
        ),
    ],
)
def test_what_the_trainer_would_refuse_is_refused_by_the_plan(
    tuning: dict[str, Any], observed: Observed, reason: str, words: str
) -> None:
    refusal = plan(workspace(**tuning), observed).refusal
    assert refusal is not None
    assert refusal.reason == reason
    assert words in refusal.message
