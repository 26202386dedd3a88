"""A tuning Workspace -> its Jobs, settings and refusals: values in, values out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaito.api.training import parse_training_config
from kaito.api.workspace import Workspace
from kaito.contract import Asked, DataFacts, Device, ModelFacts, Observed, Step
from kaito.plan import plan

GIB = 1 << 30
LAPTOP = Device("cpu", "a laptop", 8, 16 * GIB)
A100 = Device("cuda", "A100", 1, 80 * GIB, 8.0)
V100 = Device("cuda", "V100", 1, 16 * GIB, 7.0)
DEMO = ModelFacts("c" * 40, 4_623_616, 9_253_264, 6, 256, 3072, 3072, 1024, "LlamaForCausalLM", False, "sha256:m", 576)
PHI = ModelFacts(
    commit="d" * 40,
    parameters=3_821_079_552,
    bytes=7_642_181_880,
    layers=32,
    hidden=3072,
    kv_bytes_per_token=393_216,
    vocab=32_064,
    context=131_072,
    architecture="Phi3ForCausalLM",
    gated=False,
    files_digest="sha256:p",
    intermediate=8192,
)
DATA = DataFacts(1, 1000, "sha256:d", rows=15_000, tokens_p50=100, tokens_p95=400, tokens_max=900)


def workspace(**tuning: Any) -> Workspace:
    body = {
        "preset": {"name": "phi-3-mini-128k-instruct"},
        "method": "qlora",
        "input": {"urls": ["https://example.com/train.parquet?download=true"]},
        "output": {"image": "registry.example.com/adapters/phi:1", "imagePushSecret": "push"},
    } | tuning
    metadata = {"name": "tuning-phi", "namespace": "team"}
    return Workspace.model_validate(
        {"apiVersion": "kaito.sh/v1beta1", "kind": "Workspace", "metadata": metadata, "resource": {}, "tuning": body}
    )


def on_cluster(instance_type: str, **tuning: Any) -> Workspace:
    local = workspace(**tuning)
    return local.model_copy(update={"resource": local.resource.model_copy(update={"instance_type": instance_type})})


def steps(observed: Observed, **tuning: Any) -> dict[str, Step]:
    planned = plan(workspace(**tuning), observed)
    return {step.name: step for job in planned.jobs for step in job.steps}


def value(observed: Observed, setting: str, **tuning: Any) -> Any:
    return plan(workspace(**tuning), observed).settings[setting].value


FOUND = Observed(model=PHI, data=DATA, device=A100)


def test_a_tuning_workspace_is_three_jobs_with_the_steps_of_the_design() -> None:
    planned = plan(workspace(), FOUND)
    names = {job.name: [step.name for step in job.steps] for job in planned.jobs}
    assert names == {
        "check": ["resolve", "fetch", "preflight", "login"],
        "tune": ["fetch", "model", "tune"],
        "push": ["push"],
    }


def test_a_volume_output_is_claimed_in_check_and_nothing_is_pushed() -> None:
    planned = plan(workspace(output={"volumeSource": {"hostPath": {"path": "/srv/adapter"}}}), FOUND)
    assert [[step.name for step in job.steps] for job in planned.jobs] == [
        ["resolve", "fetch", "preflight", "output"],
        ["fetch", "model", "tune"],
    ]
    tune = planned.jobs[1].steps[-1]
    assert tune.argv[tune.argv.index("--results") + 1] == "/srv/adapter"
    assert "results" not in tune.outputs


def test_only_the_data_that_was_checked_is_trained_on() -> None:
    planned = plan(workspace(), FOUND)
    check, tune = (job.steps for job in planned.jobs[:2])
    assert "--expect-digest" not in check[1].argv
    assert tune[0].argv[-2:] == ("--expect-digest", "sha256:d")
    assert check[1].identity == tune[0].identity, "the fetch of `tune` is skipped where the folder has the data"


def test_the_base_models_commit_is_pinned_once_it_is_known() -> None:
    before = steps(Observed(device=A100))
    after = steps(FOUND)
    assert "--revision" not in before["model"].argv
    assert after["model"].argv[after["model"].argv.index("--revision") + 1] == PHI.commit
    assert "--revision" not in after["resolve"].argv
    assert before["resolve"].identity == after["resolve"].identity


def test_no_secret_is_in_a_plan_only_where_it_lies() -> None:
    push = steps(FOUND)["push"]
    assert push.argv[push.argv.index("--credentials") + 1] == "secrets/push"
    assert plan(workspace(), FOUND).jobs[2].secrets == ("push",)


def test_planning_twice_changes_nothing() -> None:
    assert plan(workspace(), FOUND) == plan(workspace(), FOUND)


def test_the_split_into_micro_batches_does_not_change_what_is_trained() -> None:
    small = replace(FOUND, device=replace(A100, memory_bytes=9 * GIB))
    assert value(small, "TrainingArguments.per_device_train_batch_size") < value(
        FOUND, "TrainingArguments.per_device_train_batch_size"
    )
    assert steps(small)["tune"].identity == steps(FOUND)["tune"].identity


@pytest.mark.parametrize(
    "changed",
    [
        {"TrainingArguments": {"learning_rate": 1e-3}},
        {"TrainingArguments": {"num_train_epochs": 4}},
        {"LoraConfig": {"r": 4}},
        {"DatasetConfig": {"shuffle_seed": 7}},
    ],
)
def test_a_setting_that_decides_the_result_makes_another_training(changed: dict[str, Any]) -> None:
    assert steps(FOUND, parameters=changed)["tune"].identity != steps(FOUND)["tune"].identity
    assert plan(workspace(parameters=changed), FOUND).inputs_hash != plan(workspace(), FOUND).inputs_hash


@pytest.mark.parametrize(
    "quiet",
    [
        {"logging_steps": 50},
        {"save_steps": 7},
        {"save_strategy": "no"},
        {"run_name": "mine", "report_to": "none", "log_level": "info", "disable_tqdm": True},
        {"ddp_timeout": 60, "dataloader_pin_memory": False, "torch_empty_cache_steps": 5},
        {"packing": False, "padding_free": True, "packing_strategy": "bfd"},
        {"hub_token": "hf_1"},
    ],
)
def test_a_setting_that_is_only_logged_or_saved_does_not(quiet: dict[str, Any]) -> None:
    changed = steps(FOUND, parameters={"TrainingArguments": quiet})
    assert changed["tune"].identity == steps(FOUND)["tune"].identity


def test_another_output_image_pushes_again_and_trains_nothing() -> None:
    other = steps(FOUND, output={"image": "registry.example.com/adapters/phi:2", "imagePushSecret": "push"})
    assert other["tune"].identity == steps(FOUND)["tune"].identity
    assert other["push"].identity != steps(FOUND)["push"].identity


def test_the_resolved_configuration_is_whole_and_can_be_read_back() -> None:
    planned = plan(workspace(), FOUND)
    text = planned.jobs[1].files["training_config.resolved.yaml"]
    config = parse_training_config(text).config
    assert config is not None
    assert (config.lora.r, config.lora.lora_alpha, config.lora.target_modules) == (16, 32, "all-linear")
    assert (config.quantization.load_in_4bit, config.quantization.bnb_4bit_quant_type) == (True, "nf4")
    assert config.training.learning_rate == 2e-4
    assert config.training.max_length == 2048


def test_inline_parameters_win_over_the_configmap_key_by_key() -> None:
    text = "training_config:\n  LoraConfig: {r: 8, lora_alpha: 8}\n"
    observed = replace(FOUND, configs={"mine": {"training_config.yaml": text}})
    planned = plan(workspace(config="mine", parameters={"LoraConfig": {"r": 64}}), observed)
    assert planned.settings["LoraConfig.r"].value == 64
    assert planned.settings["LoraConfig.r"].source == "tuning.parameters"
    assert planned.settings["LoraConfig.lora_alpha"].value == 8
    assert planned.settings["LoraConfig.lora_alpha"].source == "ConfigMap mine"


def test_a_missing_configmap_refuses_before_anything_runs() -> None:
    refusal = plan(workspace(config="gone"), FOUND).refusal
    assert refusal is not None
    assert refusal.reason == "ConfigMapNotFound"


def test_bfloat16_on_an_old_gpu_falls_back_with_one_warning() -> None:
    asked = {"ModelConfig": {"torch_dtype": "bfloat16"}, "TrainingArguments": {"bf16": True}}
    planned = plan(workspace(parameters=asked), replace(FOUND, device=V100))
    assert planned.settings["ModelConfig.torch_dtype"].value == "float16"
    assert planned.settings["TrainingArguments.bf16"].value is False
    assert planned.settings["TrainingArguments.fp16"].value is True
    assert len([warning for warning in planned.warnings if "bfloat16" in warning]) == 1


def test_a_toy_on_a_cpu_trains_in_float32_and_a_real_model_in_bfloat16() -> None:
    toy = Observed(model=DEMO, data=DATA, device=LAPTOP)
    assert value(toy, "ModelConfig.torch_dtype", preset={"name": "demo"}) == "float32"
    assert value(replace(FOUND, device=LAPTOP), "ModelConfig.torch_dtype") == "bfloat16"


@given(rows=st.integers(1, 2_000_000), epochs=st.sampled_from([1, 3, 15]))
def test_the_batch_aims_at_three_hundred_steps_where_the_data_allow(rows: int, epochs: int) -> None:
    observed = replace(FOUND, data=replace(DATA, rows=rows))
    parameters = {"TrainingArguments": {"num_train_epochs": epochs}}
    settings = plan(workspace(parameters=parameters), observed).settings
    batch = (
        settings["TrainingArguments.per_device_train_batch_size"].value
        * settings["TrainingArguments.gradient_accumulation_steps"].value
    )
    optimizer_steps = rows * 0.95 * epochs / batch
    assert 1 <= batch <= 32
    assert optimizer_steps >= 300 or batch == 1
    assert optimizer_steps < 600 or batch == 32


def test_a_batch_size_that_was_given_stands() -> None:
    given_batch = {"TrainingArguments": {"per_device_train_batch_size": 1}}
    assert value(FOUND, "TrainingArguments.per_device_train_batch_size", parameters=given_batch) == 1
    assert value(FOUND, "TrainingArguments.gradient_accumulation_steps", parameters=given_batch) == 1


def test_what_cannot_fit_is_refused_after_check_with_the_smallest_sku_that_does() -> None:
    tiny = replace(FOUND, device=None)
    too_big = on_cluster("Standard_NC6s_v3", method="lora", preset={"name": "mistralai/Mistral-7B-v0.3"})
    facts = replace(PHI, parameters=7_248_023_552, bytes=14_496_047_104, hidden=4096, intermediate=14_336)
    refusal = plan(too_big, replace(tiny, model=facts)).refusal
    assert refusal is not None
    assert refusal.reason == "DoesNotFit"
    assert "qlora" in refusal.hint
    assert "Standard_N" in refusal.hint
    assert plan(too_big, Observed()).refusal is None, "an estimate before `check` refuses nothing"


def test_phi_3_mini_by_qlora_fits_the_v100_that_the_first_documents_name() -> None:
    planned = plan(on_cluster("Standard_NC6s_v3"), replace(FOUND, device=None))
    assert planned.refusal is None
    assert planned.nodes is not None
    assert (planned.nodes.count, planned.nodes.instance_type, planned.nodes.strategy) == (
        1,
        "Standard_NC6s_v3",
        "nodeclaim",
    )


def test_published_quantised_weights_are_refused_with_the_reason() -> None:
    refusal = plan(workspace(preset={"name": "Qwen/Qwen3-8B-AWQ"}), FOUND).refusal
    assert refusal is not None
    assert refusal.reason == "ModelNotTunable"


def test_a_new_value_of_the_rerun_annotation_is_a_new_run() -> None:
    first = workspace()
    again = first.model_copy(
        update={"metadata": first.metadata.model_copy(update={"annotations": {"kaito.sh/rerun": "2"}})}
    )
    assert plan(first, FOUND).inputs_hash != plan(again, FOUND).inputs_hash
    fetch = [plan(w, FOUND).jobs[0].steps[1].identity for w in (first, again)]
    assert fetch[0] != fetch[1]


@pytest.mark.parametrize(
    ("tuning", "reason"),
    [
        ({"output": {"volumeSource": {"persistentVolumeClaim": {"claimName": "c"}}}}, "VolumeNeedsCluster"),
        ({"input": {"volumeSource": {"nfs": {"server": "s", "path": "/p"}}}}, "VolumeNeedsCluster"),
        (
            {"evaluation": {"minImprovement": 0.1}, "parameters": {"DatasetConfig": {"train_test_split": 1}}},
            "NothingHeldOut",
        ),
        ({"preset": {"name": "no-such-model"}}, "ModelNotFound"),
        (
            {
                "input": {"volumeSource": {"hostPath": {"path": "/srv/data"}}},
                "output": {"volumeSource": {"hostPath": {"path": "/srv/data/out"}}},
            },
            "OutputIsInput",
        ),
    ],
)
def test_what_nothing_here_can_make_true_is_refused_before_anything_runs(tuning: dict[str, Any], reason: str) -> None:
    refusal = plan(workspace(**tuning), FOUND).refusal
    assert refusal is not None
    assert refusal.reason == reason
    assert refusal.hint


def test_a_claim_is_fine_on_a_cluster() -> None:
    claim = {"volumeSource": {"persistentVolumeClaim": {"claimName": "c"}}}
    assert plan(on_cluster("Standard_NC24ads_A100_v4", output=claim), Observed()).refusal is None


def test_the_least_improvement_that_was_asked_for_goes_to_the_trainer() -> None:
    tune = steps(FOUND, evaluation={"minImprovement": 0.25})["tune"]
    assert tune.argv[tune.argv.index("--min-improvement") + 1] == "0.25"


def test_a_chat_template_in_the_configmap_becomes_part_of_the_settings() -> None:
    text = "training_config:\n  ModelConfig: {chat_template: mine.jinja}\n"
    observed = replace(FOUND, configs={"c": {"training_config.yaml": text, "mine.jinja": "{{ messages }}"}})
    assert plan(workspace(config="c"), observed).settings["ModelConfig.chat_template"].value == "{{ messages }}"
    gone = replace(FOUND, configs={"c": {"training_config.yaml": text}})
    refusal = plan(workspace(config="c"), gone).refusal
    assert refusal is not None
    assert "mine.jinja" in refusal.message


@pytest.mark.parametrize("template", ["/workspace/chat_templates/phi-3.jinja", "{{ messages }}"])
def test_a_shipped_or_inline_chat_template_stays_as_it_is(template: str) -> None:
    parameters = {"ModelConfig": {"chat_template": template}}
    assert value(FOUND, "ModelConfig.chat_template", parameters=parameters) == template


def identities(observed: Observed, **tuning: Any) -> dict[str, str]:
    return {name: step.identity + step.verdict for name, step in steps(observed, **tuning).items()}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


def test_a_changed_folder_is_fetched_again_and_an_unchanged_one_is_not() -> None:
    folder = {"input": {"volumeSource": {"hostPath": {"path": "/data"}}}}
    observed = replace(FOUND, asked=Asked(sources={"/data": "sha256:1"}))
    other = replace(FOUND, asked=Asked(sources={"/data": "sha256:2"}))
    assert changed(identities(observed, **folder), identities(other, **folder)) == {"fetch", "login"}
    assert plan(workspace(**folder), observed).inputs_hash != plan(workspace(**folder), other).inputs_hash
    assert identities(replace(observed, asked=replace(observed.asked, retried=5.0)), **folder) == identities(
        observed, **folder
    )


def test_a_changed_model_folder_is_resolved_again() -> None:
    local = {"preset": {"name": "/models/mine"}}
    first = replace(FOUND, asked=Asked(sources={"/models/mine": "sha256:1"}))
    second = replace(FOUND, asked=Asked(sources={"/models/mine": "sha256:2"}))
    assert changed(identities(first, **local), identities(second, **local)) >= {"resolve", "model"}


def test_a_check_that_failed_looks_again_at_everything_and_trains_nothing_anew() -> None:
    again = replace(FOUND, asked=Asked(recheck="2"))
    assert changed(identities(FOUND), identities(again)) == {"resolve", "model", "fetch", "preflight", "login"}
    assert plan(workspace(), FOUND).inputs_hash == plan(workspace(), again).inputs_hash


def test_the_registry_is_asked_again_in_each_run_and_after_each_change_of_the_secret() -> None:
    before = replace(FOUND, secrets={"push": 1.0})
    assert changed(identities(before), identities(replace(before, secrets={"push": 2.0}))) == {"login"}
    other_run = {"parameters": {"TrainingArguments": {"learning_rate": 1e-3}}}
    assert "login" in changed(identities(FOUND), identities(FOUND, **other_run))


def test_rerun_trains_and_pushes_again() -> None:
    again = replace(FOUND, asked=Asked(again="1"))
    assert changed(identities(FOUND), identities(again)) >= {"tune", "push", "fetch", "resolve"}


@pytest.mark.parametrize("evaluation", [{"minImprovement": 0.5}, {"earlyStoppingPatience": 2}])
def test_what_is_asked_of_the_held_out_loss_later_is_checked_and_trains_nothing_anew(evaluation: Any) -> None:
    before, after = steps(FOUND)["tune"], steps(FOUND, evaluation=evaluation)["tune"]
    assert before.verdict != after.verdict
    assert before.identity == after.identity


def test_rows_that_teach_nothing_count_for_no_batch_and_no_split() -> None:
    few = replace(FOUND, data=replace(DATA, rows=2000, untrained=700, dropped=600))
    seven_hundred = replace(FOUND, data=replace(DATA, rows=700))
    assert plan(workspace(), few).settings == plan(workspace(), seven_hundred).settings


@pytest.mark.parametrize("gpus", [1, 3, 6, 8])
@pytest.mark.parametrize("rows", [1000, 15_000])
def test_the_memory_decides_no_rows_of_a_step_whatever_the_gpus(gpus: int, rows: int) -> None:
    def batch(gibibytes: int) -> tuple[int, int]:
        device = replace(A100, count=gpus, memory_bytes=gibibytes * GIB)
        found = plan(workspace(), replace(FOUND, device=device, data=replace(DATA, rows=rows))).settings
        micro, accumulation = (
            found[f"TrainingArguments.{key}"].value
            for key in ("per_device_train_batch_size", "gradient_accumulation_steps")
        )
        return micro, micro * accumulation * gpus

    batches = [batch(gibibytes) for gibibytes in (4, 5, 6, 9, 80)]
    assert len({rows_of_a_step for _, rows_of_a_step in batches}) == 1
    if rows == 15_000:
        assert len({micro for micro, _ in batches}) > 1


def test_a_token_is_only_named_where_its_secret_is_at_hand() -> None:
    gated = {"preset": {"name": "org/model", "presetOptions": {"modelAccessSecret": "hf"}}}
    assert "--token-file" not in steps(FOUND, **gated)["resolve"].argv
    at_hand = steps(replace(FOUND, secrets={"hf": 1.0}), **gated)
    assert at_hand["resolve"].argv[-2:] == ("--token-file", "secrets/hf/HF_TOKEN")
    urls = {"input": {"urls": ["https://huggingface.co/datasets/org/rows/resolve/main/train.parquet"]}}
    fetched = steps(replace(FOUND, secrets={"hf": 1.0}), **gated, **urls)["fetch"].argv
    assert fetched[fetched.index("--token-file") + 1] == "secrets/hf/HF_TOKEN"


@pytest.mark.parametrize(
    ("said", "bf16", "fp16", "dtype"),
    [
        ({"fp16": True}, False, True, "float16"),
        ({"bf16": True}, True, False, "bfloat16"),
        ({}, True, False, "bfloat16"),
    ],
)
def test_half_precision_is_one_kind_at_a_time(said: dict[str, bool], bf16: bool, fp16: bool, dtype: str) -> None:
    settings = plan(workspace(parameters={"TrainingArguments": said}), FOUND).settings
    assert settings["TrainingArguments.bf16"].value is bf16
    assert settings["TrainingArguments.fp16"].value is fp16
    assert settings["ModelConfig.torch_dtype"].value == dtype
