"""Whole runs of the trainer in this process. Kills and signals are in tests/engine/test_tuning.py."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from kaito.failure import ConfigFailure, DataFailure, DivergedFailure, TemporaryFailure
from tests.unit.tuning.tiny_models import QLORA, settings, write_config, write_data

Tune = Callable[..., dict[str, Any]]


def without_dropout(**arguments: Any) -> dict[str, dict[str, Any]]:
    sections = settings(**arguments)
    return {**sections, "LoraConfig": {**sections["LoraConfig"], "lora_dropout": 0.0}}


def restless() -> dict[str, dict[str, Any]]:
    """72 steps at a rate so high that the held-out loss rises and falls, with an evaluation each 9."""
    return settings(num_train_epochs=8, learning_rate=0.1, lr_scheduler_type="constant")


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def evaluations(folder: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line and line["step"] > 0}


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize(("micro", "accumulation"), [(2, 4), (3, 3), (1, 8)])
def test_accumulated_micro_batches_are_a_larger_batch(
    tune: Tune, tmp_path: Path, micro: int, accumulation: int
) -> None:
    rows = micro * accumulation
    whole = without_dropout(per_device_train_batch_size=rows, gradient_accumulation_steps=1)
    tune("whole", whole)
    tune("cut", without_dropout(per_device_train_batch_size=micro, gradient_accumulation_steps=accumulation))
    assert losses(tmp_path / "cut") == pytest.approx(losses(tmp_path / "whole"), abs=1e-5)
    one, other = (load_file(tmp_path / name / "results/adapter_model.safetensors") for name in ("whole", "cut"))
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)


def test_a_divided_micro_batch_changes_neither_the_steps_nor_the_result(tune: Tune, tmp_path: Path) -> None:
    sections = without_dropout(per_device_train_batch_size=6)
    whole = tune("whole", sections)
    divided = tune("divided", sections, micro_batch_divisor=4)
    assert divided["steps"] == whole["steps"]
    assert losses(tmp_path / "divided") == pytest.approx(losses(tmp_path / "whole"), abs=1e-5)


def test_the_model_learns_what_the_rows_say(tune: Tune, tmp_path: Path) -> None:
    sections = settings(num_train_epochs=60, learning_rate=1e-2)
    sections["LoraConfig"] = {"r": 16, "lora_alpha": 32, "modules_to_save": ["lm_head"]}  # a random one learns little
    result = tune(sections=sections, data=write_data(tmp_path / "few", rows=12))
    first, last = losses(tmp_path / "run")[0], result["loss"]
    assert first > 5
    assert last < 0.1


def test_the_results_folder_is_complete_and_true(
    tune: Tune, tmp_path: Path, llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tune(data_digest="")
    folder = tmp_path / "run" / "results"
    assert {path.name for path in folder.iterdir()} == {
        ".kaito",
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "evaluation.json",
        "fine_tuning_completed.txt",
        "metrics.jsonl",
        "training_config.resolved.yaml",
    }
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("acme/tiny", "0" * 40)
    assert (config["task_type"], config["inference_mode"], config["r"]) == ("CAUSAL_LM", True, 4)
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert evaluation["base_loss"] == result["base_eval_loss"]
    assert evaluation["loss"] == result["eval_loss"] < evaluation["base_loss"]
    assert evaluation["rows"] == 4
    assert (folder / "chat_template.jinja").read_text() == (llama / "chat_template.jinja").read_text()
    assert "acme/tiny" in (folder / "README.md").read_text()
    assert result["checkpoint"] == f"checkpoint-{result['steps']}"
    assert (tmp_path / "run" / "checkpoints" / result["checkpoint"]).is_dir()
    said = capsys.readouterr().out
    for line in ("Model Loaded", "Dataset loaded successfully from", "trainable params: ", "Fine-Tuning completed"):
        assert line in said
    assert str(llama) not in (folder / "adapter_config.json").read_text() + (folder / "README.md").read_text()


def test_the_saved_adapter_gives_the_same_logits_when_loaded_by_peft(tune: Tune, tmp_path: Path, llama: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    tune(sections=settings(learning_rate=1e-2))
    folder = tmp_path / "run" / "results"
    base = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    ids = torch.tensor([[0, 3, 60, 70, 80, 4]])
    with torch.no_grad():
        plain = base(ids).logits
        expected = plain_with(base, load_file(folder / "adapter_model.safetensors"), ids)
        adapted = PeftModel.from_pretrained(base, folder).eval()(ids).logits
    assert torch.allclose(adapted, expected, atol=1e-5)
    assert not torch.allclose(adapted, plain, atol=1e-3)


def plain_with(base: Any, adapter: dict[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
    """Logits of the base with alpha / r * B A added to its weights by hand, undone afterwards."""
    changed = []
    for name, a in adapter.items():
        if not name.endswith("lora_A.weight"):
            continue
        layer = base.get_submodule(name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
        delta = (8 / 4) * adapter[name.replace("lora_A", "lora_B")] @ a
        layer.weight += delta
        changed.append((layer, delta))
    logits = base(ids).logits
    for layer, delta in changed:
        layer.weight -= delta
    return logits


def test_equal_runs_give_an_equal_adapter_and_an_equal_result(tune: Tune, tmp_path: Path) -> None:
    assert tune("one") == tune("two")
    one, two = (tmp_path / name / "results/adapter_model.safetensors" for name in ("one", "two"))
    assert sha256(one) == sha256(two)
    assert tune("three", settings(seed=4))["digest"] != tune("four")["digest"]


def test_a_finished_run_that_is_started_again_trains_no_step(
    tune: Tune, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = tune()
    before = losses(tmp_path / "run")
    capsys.readouterr()
    assert tune() == first
    assert losses(tmp_path / "run") == before
    assert f"resumed from step {first['steps']}" in capsys.readouterr().out


def test_whole_modules_that_are_trained_too_are_resumed_bit_for_bit(tune: Tune, tmp_path: Path) -> None:
    sections = settings()
    sections["LoraConfig"]["modules_to_save"] = ["lm_head"]
    first = tune(sections=sections, save_steps=7)
    shutil.rmtree(tmp_path / "run" / "results")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / first["checkpoint"])
    assert tune(sections=sections, save_steps=7) == first
    assert list(range(1, first["steps"] + 1)) == [
        line["step"]
        for line in map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
        if "loss" in line
    ]


def test_a_run_that_was_cut_short_by_max_steps_in_an_epoch_is_not_trained_further(tune: Tune, tmp_path: Path) -> None:
    sections = settings(max_steps=5)
    first = tune(sections=sections)
    shutil.rmtree(tmp_path / "run" / "results")
    assert tune(sections=sections) == first
    assert len(losses(tmp_path / "run")) == 5


def test_other_settings_do_not_resume_the_old_checkpoints(
    tune: Tune, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tune()
    capsys.readouterr()
    again = tune(sections=settings(learning_rate=1e-3))
    said = capsys.readouterr().out
    assert "is of other settings or data" in said
    assert "resumed" not in said
    assert len(losses(tmp_path / "run")) == again["steps"]
    assert (tmp_path / "run/results/.kaito/previous/1/adapter_model.safetensors").exists()
    assert again == tune("fresh", settings(learning_rate=1e-3))


def test_other_data_than_were_checked_are_refused(tune: Tune) -> None:
    with pytest.raises(DataFailure) as refused:
        tune(data_digest="sha256:" + "0" * 64)
    assert refused.value.reason == "DataChanged"


def test_without_held_out_rows_there_is_no_evaluation_and_one_line_says_so(
    tune: Tune, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tune(sections={**settings(), "DatasetConfig": {"train_test_split": 1}})
    assert (result["eval_loss"], result["base_eval_loss"]) == (None, None)
    assert not (tmp_path / "run/results/evaluation.json").exists()
    assert capsys.readouterr().out.count("no evaluation") == 1


def test_the_adapter_with_the_lowest_held_out_loss_is_kept(tune: Tune, tmp_path: Path) -> None:
    sections = restless()
    result = tune("best", sections)
    evaluation = json.loads((tmp_path / "best/results/evaluation.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "best/metrics.jsonl").read_text().splitlines()]
    curve = {line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line and line["step"] > 0}
    assert result["eval_loss"] == min(curve.values()) == curve[evaluation["best_step"]]
    assert evaluation["best_step"] < result["steps"], "the last step was the best: nothing is shown"
    sections["TrainingArguments"]["load_best_model_at_end"] = False
    last = tune("last", sections)
    assert last["eval_loss"] == curve[result["steps"]]
    assert last["digest"] != result["digest"]


def test_a_run_that_gets_no_better_ends_early_keeps_its_best_adapter_and_says_so(
    tune: Tune, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = tune("whole", restless())
    result = tune("early", restless(), early_stopping_patience=2)
    said = capsys.readouterr().out
    curve = evaluations(tmp_path / "early")
    best = min(curve, key=lambda step: curve[step])
    assert result["steps"] == max(curve) == best + 18 < whole["steps"] == 72
    assert result["note"] == f"stopped early at step {result['steps']} of 72: no better for 2 evaluations"
    assert said.count(result["note"]) == 1
    assert result["eval_loss"] == curve[best]
    assert result["checkpoint"] == f"checkpoint-{result['steps']}"
    assert curve.items() <= evaluations(tmp_path / "whole").items(), "up to there it is the same run"
    assert json.loads((tmp_path / "early/results/evaluation.json").read_text())["best_step"] == best
    assert result["note"] in (tmp_path / "early/results/README.md").read_text()
    assert not (tmp_path / "early/checkpoints/rows").exists(), "tokenised rows are of no use any more"
    assert len(losses(tmp_path / "early")) == result["steps"]

    assert tune("early", restless(), early_stopping_patience=2) == result
    assert f"resumed from step {result['steps']} of 72" in capsys.readouterr().out
    assert len(losses(tmp_path / "early")) == result["steps"], "a finished run trains no step more"


def test_the_progress_of_a_run_that_ends_early_ends_at_its_last_step(
    tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = tmp_path / "progress.jsonl"
    monkeypatch.setenv("KAITO_PROGRESS", str(progress))
    result = tune("early", restless(), early_stopping_patience=1)
    last = json.loads(progress.read_text().splitlines()[-1])
    assert (last["done"], last["total"], last["unit"]) == (result["steps"], result["steps"], "steps")


def test_patience_that_is_never_needed_changes_nothing(tune: Tune) -> None:
    patient = tune("patient", early_stopping_patience=2)
    assert patient == tune("whole")
    assert "note" not in patient


def test_a_checkpoint_is_made_at_each_evaluation(tune: Tune, tmp_path: Path) -> None:
    tune(sections=settings(max_steps=7, eval_strategy="steps", eval_steps=5), save_seconds=3600.0)
    saved = sorted(path.name for path in (tmp_path / "run/checkpoints").glob("checkpoint-*"))
    assert saved == ["checkpoint-5", "checkpoint-7"]
    own = json.loads((tmp_path / "run/checkpoints/checkpoint-5/kaito.json").read_text())
    assert list(own["evaluations"]) == ["5"], "the evaluation is in it"


def test_a_run_that_goes_on_evaluates_what_was_due_before_it_decides_to_end(tune: Tune, tmp_path: Path) -> None:
    """As after SIGTERM in an evaluation: the newest checkpoint stands at its step and has not seen it."""
    early = tune("early", restless(), early_stopping_patience=2)
    run = tmp_path / "early"
    newest = run / "checkpoints" / early["checkpoint"]
    own = json.loads((newest / "kaito.json").read_text())
    del own["evaluations"][str(early["steps"])]
    (newest / "kaito.json").write_text(json.dumps(own))
    described = json.loads((newest / "manifest.json").read_text())
    file = newest / "kaito.json"
    described["files"]["kaito.json"] = {"bytes": file.stat().st_size, "sha256": sha256(file)}
    (newest / "manifest.json").write_text(json.dumps(described))
    curve = evaluations(run)
    assert tune("early", restless(), early_stopping_patience=2) == early
    assert evaluations(run) == curve
    assert len(losses(run)) == early["steps"]


def test_an_adapter_that_improves_too_little_is_not_saved(tune: Tune, tmp_path: Path) -> None:
    with pytest.raises(DivergedFailure, match=r"less than the 3\.0") as failed:
        tune(sections=settings(max_steps=3), min_improvement=3.0)
    assert failed.value.reason == "ImprovementTooSmall"
    assert not (tmp_path / "run" / "results" / "adapter_model.safetensors").exists()
    assert tune(sections=settings(max_steps=3), min_improvement=0.001)["steps"] == 3
    with pytest.raises(ConfigFailure, match="no rows are held out"):
        tune("none", {**settings(), "DatasetConfig": {"train_test_split": 1}}, min_improvement=0.1)
    with pytest.raises(ConfigFailure, match="no rows are held out"):
        tune("none", {**settings(), "DatasetConfig": {"train_test_split": 1}}, early_stopping_patience=2)


def test_weights_that_are_no_numbers_end_the_run_as_diverged_at_the_step(
    tune: Tune, tmp_path: Path, llama: Path
) -> None:
    poisoned = tmp_path / "poisoned"
    shutil.copytree(llama, poisoned)
    weights = load_file(poisoned / "model.safetensors")
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, poisoned / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DivergedFailure, match=r"step 1 \(learning rate 0\)") as diverged:
        tune(model=poisoned)
    assert diverged.value.exit_code == 7
    assert not (tmp_path / "run/checkpoints/checkpoint-1").exists()


def test_a_learning_rate_beyond_all_bounds_diverges_and_leaves_no_poisoned_checkpoint(
    tune: Tune, tmp_path: Path
) -> None:
    sections = settings(learning_rate=1e30, max_grad_norm=0, warmup_steps=0, lr_scheduler_type="constant")
    with pytest.raises(DivergedFailure, match=r"at step [1-9] \(learning rate 1e\+30\)") as diverged:
        tune(sections=sections, save_steps=1)
    assert "lower learning_rate" in diverged.value.hint
    for checkpoint in (tmp_path / "run/checkpoints").glob("checkpoint-*"):
        saved = load_file(checkpoint / "adapter_model.safetensors")
        assert all(torch.isfinite(weights).all() for weights in saved.values())


@pytest.mark.parametrize(
    ("share", "arguments"),
    [
        (0.9, {"learning_rate": 1e30, "max_grad_norm": 0, "lr_scheduler_type": "constant"}),  # finite, and useless
        (1, {"adam_epsilon": 1e-100}),  # zero by zero where the first gradient is none
    ],
)
def test_an_adapter_that_its_last_update_destroyed_is_neither_saved_nor_kept_in_a_checkpoint(
    tune: Tune, tmp_path: Path, share: float, arguments: dict[str, Any]
) -> None:
    sections = settings(max_steps=1, warmup_steps=0, **arguments)
    sections["DatasetConfig"] = {"train_test_split": share}
    improvement = {"min_improvement": 0.1} if share < 1 else {}
    for _ in range(2):  # a second start finds no poisoned checkpoint to call finished
        with pytest.raises(DivergedFailure, match="step 1") as diverged:
            tune(sections=sections, **improvement)
        assert diverged.value.exit_code == 7
        assert "lower learning_rate" in diverged.value.hint
    assert not (tmp_path / "run/results/adapter_model.safetensors").exists()
    assert not list((tmp_path / "run/checkpoints").glob("checkpoint-*"))


def test_a_gradient_that_is_no_number_is_found_though_the_loss_is_one(tune: Tune, tmp_path: Path, llama: Path) -> None:
    steep = tmp_path / "steep"
    shutil.copytree(llama, steep)
    weights = load_file(steep / "model.safetensors")
    weights["model.norm.weight"] *= 1e25  # the loss is of that size, and the gradient's square is beyond float32
    save_file(weights, steep / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DivergedFailure, match="at step 1 "):
        tune(model=steep, sections={**settings(), "DatasetConfig": {"train_test_split": 1}})


def test_a_run_of_a_single_step_learns(tune: Tune, tmp_path: Path) -> None:
    tune(sections=settings(max_steps=1))
    line = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[1])
    assert line["learning_rate"] == 3e-3


def test_a_lora_that_fits_no_module_is_refused(tune: Tune) -> None:
    sections = settings()
    sections["LoraConfig"]["target_modules"] = ["query_key_value"]
    with pytest.raises(ConfigFailure):
        tune(sections=sections)


@pytest.mark.parametrize(
    ("lora", "said"),
    [
        ({"modules_to_save": ["nothing"]}, "modules_to_save: nothing in the base model is named nothing"),
        ({"target_parameters": ["zzz"], "lora_dropout": 0}, "target_parameters: nothing in the base model is named"),
        ({"trainable_token_indices": [99999]}, "no token 99999"),
        ({"layers_to_transform": [99]}, "does not fit the base model"),
    ],
)
def test_what_the_base_model_does_not_have_is_refused_in_words(tune: Tune, lora: dict[str, Any], said: str) -> None:
    sections = settings(max_steps=1)
    sections["LoraConfig"] |= lora
    with pytest.raises(ConfigFailure, match=said) as refused:
        tune(sections=sections)
    assert refused.value.reason == "LoraConfigInvalid"


def test_options_that_an_optimizer_refuses_end_in_words(tune: Tune) -> None:
    with pytest.raises(ConfigFailure, match=r"TrainingArguments\.optim cannot be used: .*[Nn]esterov"):
        tune(sections=settings(max_steps=1, optim="sgd", optim_args="nesterov=true"))


def test_secrets_in_settings_without_effect_reach_neither_log_nor_results(
    tune: Tune, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sections = settings(max_steps=1, hub_token="hf_SECRET", torch_compile=True)
    sections["ModelConfig"] = {"proxies": {"https": "http://user:SECRET@proxy:1"}}
    tune(sections=sections)
    said = capsys.readouterr()
    assert "TrainingArguments.torch_compile has no effect here" in said.out
    assert "SECRET" not in said.out + said.err
    written = [file for file in (tmp_path / "run").rglob("*") if file.is_file() and file.name != "config.yaml"]
    assert written
    assert not [file for file in written if b"SECRET" in file.read_bytes()]


def test_bfloat16_and_gradient_checkpointing_and_kaitos_lists_train(tune: Tune) -> None:
    sections = settings(bf16=True, gradient_checkpointing=True, ddp_find_unused_parameters=False, save_strategy="no")
    sections["ModelConfig"] = {"torch_dtype": "bfloat16", "device_map": "auto", "local_files_only": True}
    sections["QuantizationConfig"] = {"load_in_4bit": False}
    sections["LoraConfig"]["target_modules"] = ["q_proj", "v_proj"]
    sections["DataCollator"] = {"mlm": True}
    result = tune(sections=sections)
    assert result["eval_loss"] < result["base_eval_loss"]


def test_qlora_learns_after_the_base_was_evaluated(tune: Tune, capsys: pytest.CaptureFixture[str]) -> None:
    sections = {**settings(num_train_epochs=6, learning_rate=1e-2), "QuantizationConfig": QLORA}
    result = tune(sections=sections)
    assert result["eval_loss"] < result["base_eval_loss"] - 1
    assert "QLoRA Enabled: 14 layers" in capsys.readouterr().out


def test_an_unreadable_configuration_is_named(tune: Tune, tmp_path: Path) -> None:
    bad = write_config(tmp_path / "bad.yaml", {"TrainingArguments": {"learning_rat": 1}})
    with pytest.raises(ConfigFailure, match="learning_rate"):
        tune(config=bad)


@pytest.mark.parametrize("largest_file_bytes", [30_000, 60_000])
def test_a_full_disk_ends_the_run_for_now_and_leaves_no_half_checkpoint(
    tune: Tune, tmp_path: Path, largest_file_bytes: int
) -> None:
    import resource

    tune(save_steps=4, sections=settings(max_steps=4))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file_bytes, before[1]))
    try:
        with pytest.raises(TemporaryFailure, match="the checkpoint of step 4") as failed:
            tune("full", settings(max_steps=4), save_steps=4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert failed.value.exit_code == 75
    assert not list((tmp_path / "full" / "checkpoints").glob("checkpoint-*"))
    assert tune("full", settings(max_steps=4), save_steps=4) == tune("run", settings(max_steps=4))
