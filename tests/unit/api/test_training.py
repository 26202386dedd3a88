"""A training configuration is read by its types, straight from YAML, and written so that it reads the same."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaito.api.effects import RENAMED, RETIRED, WITHOUT_EFFECT
from kaito.api.schema import known_keys
from kaito.api.training import (
    LoraConfig,
    ModelConfig,
    ParsedTrainingConfig,
    TrainingArguments,
    TrainingConfig,
    dump_training_config,
    load_training_config,
    merge,
    parse_training_config,
)
from kaito.failure import ConfigFailure


def parse(**sections: str) -> ParsedTrainingConfig:
    """Sections in flow style, one a line from line 2 on."""
    lines = "".join(f"  {name}: {text}\n" for name, text in sections.items())
    return parse_training_config(f"training_config:\n{lines}")


def read(**sections: str) -> TrainingConfig:
    parsed = parse(**sections)
    assert parsed.config is not None, parsed.errors
    return parsed.config


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("target_modules: all-linear", {"target_modules": "all-linear"}),
        ("target_modules: '.*(q|v)_proj'", {"target_modules": ".*(q|v)_proj"}),
        ("target_modules: [q_proj, v_proj]", {"target_modules": ["q_proj", "v_proj"]}),
        ("init_lora_weights: gaussian", {"init_lora_weights": "gaussian"}),
        ("init_lora_weights: false", {"init_lora_weights": False}),
        ("rank_pattern: {a: 4}", {"rank_pattern": {"a": 4}}),
        ("loftq_config: {loftq_bits: 4}", {"loftq_config": {"loftq_bits": 4}}),
        ("layers_to_transform: 3", {"layers_to_transform": 3}),
        ("layers_to_transform: [3]", {"layers_to_transform": [3]}),
        ("layer_replication: []", {"layer_replication": []}),
        ("r: '8'", {"r": 8}),
        ("lora_dropout: 0", {"lora_dropout": 0.0}),
        ("use_dora: yes", {"use_dora": True}),
        ("r: null", {}),
    ],
)
def test_unions_lists_and_mappings_are_read(written: str, value: dict[str, object]):
    assert read(LoraConfig=f"{{{written}}}").lora.model_dump(exclude_none=True) == value


@pytest.mark.parametrize(
    ("section", "written", "message"),
    [
        ("LoraConfig", "r: true", "expected a whole number, got true"),
        ("LoraConfig", "r: 1.5", "expected a whole number, got 1.5"),
        ("LoraConfig", "r: 0", "must be at least 1, got 0"),
        ("LoraConfig", "lora_dropout: 1", "must be less than 1, got 1"),
        ("LoraConfig", "target_modules: 3", "expected a list of strings or a string, got 3"),
        ("LoraConfig", "target_modules: {a: b}", "expected a list of strings or a string, got a mapping"),
        ("LoraConfig", "init_lora_weights: fancy", "got 'fancy'"),
        ("LoraConfig", "init_lora_weights: pissa_niter_16", "pissa_niter_16 changes the base model's weights"),
        ("LoraConfig", "init_lora_weights: eva", "use true, gaussian or orthogonal"),
        ("LoraConfig", "layer_replication: [[0, 4]]", "stacks layers of the base model"),
        ("TrainingArguments", "lr_scheduler_type: greedy", "follows the held-out loss"),
        ("TrainingArguments", "lr_scheduler_type: reduce_lr_on_plateau", "use cosine or linear"),
        ("TrainingArguments", "optim: galore_adamw", "expected one of adamw_torch, "),
        ("TrainingArguments", "ddp_backend: mpi", "is not built into our torch"),
        ("TrainingArguments", "logging_steps: 0", "must be greater than 0"),
        ("QuantizationConfig", "bnb_4bit_compute_dtype: float64", "expected one of auto, bfloat16"),
        ("LoraConfig", "bias: some", "expected one of none, all, lora_only, got 'some'"),
        ("LoraConfig", "rank_pattern: [1]", "expected a mapping, got a list"),
        ("LoraConfig", "task_type: SEQ_CLS", "only CAUSAL_LM"),
        ("LoraConfig", "targetmodules: x", 'did you mean "target_modules"?'),
        ("QuantizationConfig", "load_in_4bit: maybe", "expected true or false, got 'maybe'"),
        ("QuantizationConfig", "bnb_4bit_quant_type: int4", "expected one of fp4, nf4"),
        ("ModelConfig", "torch_dtype: bfloat8", "expected one of auto, bfloat16"),
        ("ModelConfig", "chat_template: /etc/template.jinja", "exists in no Pod"),
        ("ModelConfig", "chat_template: /workspace/chat_templates/../x", "exists in no Pod"),
        ("TrainingArguments", "learning_rate: fast", "expected a number, got 'fast'"),
        ("TrainingArguments", "learning_rate: .inf", "must be finite"),
        ("TrainingArguments", "learning_rate: 0", "must be greater than 0"),
        ("TrainingArguments", "warmup_ratio: 3", "less than 1"),
        ("TrainingArguments", "optim: adamww_torch", "got 'adamww_torch'; did you mean adamw_torch?"),
        ("TrainingArguments", "eval_strategy: sometimes", "expected one of no, steps, epoch"),
        ("TrainingArguments", "output_dir: 3", "expected a string, got 3"),
        ("TrainingArguments", "output_dir: ../other", "no folder below /mnt"),
        ("TrainingArguments", "output_dir: /mnt/../etc", "no folder below /mnt"),
        ("TrainingArguments", "output_dir: /mnt", "no folder below /mnt"),
        ("TrainingArguments", "resume_from_checkpoint: /home/me/run", "exists in no Pod"),
        ("DatasetConfig", "train_test_split: 1.5", "must be at most 1"),
        ("DatasetConfig", "column_mapping: {prompts: question}", "no standard column"),
        ("DatasetConfig", "dataset_path: ../secrets", "leaves the data"),
        ("DataCollator", "mlm: 3", "expected true or false, got 3"),
    ],
)
def test_a_wrong_value_is_named_with_its_line_and_field(section: str, written: str, message: str):
    parsed = (
        parse(ModelConfig="{}", **{section: f"{{{written}}}"})
        if section != "ModelConfig"
        else parse(LoraConfig="{}", ModelConfig=f"{{{written}}}")
    )
    (error,) = parsed.errors
    assert message in error.message
    key = written.partition(":")[0]
    assert error.field == f"training_config.{section}.{key}"
    assert error.line == 3
    assert parsed.config is None


def test_all_problems_are_reported_at_once():
    parsed = parse(LoraConfig="{r: x, rr: 1}", Lora="{}", TrainingArguments="{seed: -1}", DatasetConfig="[]")
    assert sorted(error.line for error in parsed.errors) == [2, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "text", ["", "# nothing", "a: 1", "[]", "training_config: 3", "training_config: {}\n---\na: 1"]
)
def test_a_text_that_is_no_configuration_is_an_error(text: str):
    parsed = parse_training_config(text)
    assert parsed.config is None
    assert parsed.errors[0].field


@pytest.mark.parametrize(
    "text", ["training_config:", "training_config: {}", "training_config: {LoraConfig: , DataCollator: {}}"]
)
def test_empty_and_null_sections_say_nothing(text: str):
    assert parse_training_config(text).config == TrainingConfig()


def test_an_unknown_section_names_the_nearest():
    (error,) = parse(loraConfig="{}").errors
    assert error.message == 'unknown section; did you mean "LoraConfig"?'


@pytest.mark.parametrize(
    ("written", "key", "value"),
    [
        ("evaluation_strategy: epoch", "eval_strategy", "epoch"),
        ("max_seq_length: 512", "max_length", 512),
        ("warmup_ratio: 0.1", "warmup_steps", 0.1),
        ("group_by_length: true", "train_sampling_strategy", "group_by_length"),
        ("activation_checkpointing: true", "gradient_checkpointing", True),
    ],
)
def test_older_names_are_read_with_a_warning(written: str, key: str, value: object):
    parsed = parse(TrainingArguments=f"{{{written}}}")
    assert parsed.config is not None
    assert getattr(parsed.config.training, key) == value
    (warning,) = parsed.warnings
    assert key in warning.message
    assert warning.line == 2
    assert warning.field == f"training_config.TrainingArguments.{written.partition(':')[0]}"


def test_a_wrong_value_under_an_older_name_is_reported_under_the_name_that_was_written():
    (error,) = parse(TrainingArguments="{evaluation_strategy: sometimes}").errors
    assert error.line == 2
    assert "expected one of no, steps, epoch" in error.message


def test_the_present_name_wins_over_the_older_one():
    parsed = parse(TrainingArguments="{max_seq_length: 512, max_length: 1024}")
    assert parsed.config is not None
    assert parsed.config.training.max_length == 1024
    assert len(parsed.warnings) == 1


@pytest.mark.parametrize("written", ["no", "'no'", "false"])
def test_save_strategy_no_is_read_however_yaml_means_it(written: str):
    assert read(TrainingArguments=f"{{save_strategy: {written}}}").training.save_strategy == "no"


@pytest.mark.parametrize(
    ("section", "written"),
    [
        ("TrainingArguments", "dataset_num_proc: 4"),
        ("TrainingArguments", "logging_dir: /var/log/run"),
        ("TrainingArguments", "report_to: wandb"),
        ("TrainingArguments", "output_dir: /mnt/elsewhere"),
        ("TrainingArguments", "output_dir: /tmp/out"),
        ("DataCollator", "mlm: true"),
        ("ModelConfig", "device_map: sequential"),
    ],
)
def test_what_has_no_effect_gives_one_warning(section: str, written: str):
    parsed = parse(**{section: f"{{{written}}}"})
    assert not parsed.errors
    (warning,) = parsed.warnings
    assert "without effect" in warning.message


def test_a_token_in_a_configuration_is_never_printed():
    parsed = parse(TrainingArguments="{hub_token: [hf_secret]}")
    assert parsed.errors
    assert "hf_secret" not in str(parsed)


def test_every_key_without_effect_is_a_key_and_every_older_name_is_none():
    models = {info.alias: info.annotation for info in TrainingConfig.model_fields.values()}
    for section, keys in WITHOUT_EFFECT.items():
        assert set(keys) <= set(known_keys(models[section]))
    for section, names in RENAMED.items():
        assert set(names.values()) <= set(known_keys(models[section]))
        assert not set(names) & set(known_keys(models[section]))
    for section, retired in RETIRED.items():
        assert not set(retired) & set(known_keys(models[section]))


def fields_in_source(package: str, file: str, name: str) -> set[str]:
    """The annotated fields of a class of an installed package, which is not imported: that takes ten seconds."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"{package} is not installed")
    tree = ast.parse((Path(spec.origin).parent / file).read_text(encoding="utf-8"))
    (found,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    statements = [node.target for node in found.body if isinstance(node, ast.AnnAssign)]
    return {target.id for target in statements if isinstance(target, ast.Name) and not target.id.startswith("_")}


def test_every_argument_of_the_installed_transformers_is_known():
    theirs = fields_in_source("transformers", "training_args.py", "TrainingArguments") - {"framework"}
    assert len(theirs) > 90
    assert theirs <= {*known_keys(TrainingArguments), *RENAMED["TrainingArguments"]}


def test_every_key_of_our_lora_section_is_a_key_of_the_installed_peft():
    theirs = fields_in_source("peft", "tuners/lora/config.py", "LoraConfig")
    theirs |= fields_in_source("peft", "config.py", "PeftConfig") | fields_in_source(
        "peft", "config.py", "PeftConfigMixin"
    )
    assert set(known_keys(LoraConfig)) <= theirs


# --- merging and writing --------------------------------------------------------------------------------------------


def test_inline_parameters_win_key_by_key():
    base = read(LoraConfig="{r: 8, lora_alpha: 16}", TrainingArguments="{seed: 1}")
    over = read(LoraConfig="{r: 32}", DatasetConfig="{shuffle_seed: 2}")
    merged = merge(base, over)
    assert (merged.lora.r, merged.lora.lora_alpha) == (32, 16)
    assert (merged.training.seed, merged.dataset.shuffle_seed) == (1, 2)


def test_a_false_that_was_said_wins_over_a_true():
    merged = merge(read(TrainingArguments="{bf16: true}"), read(TrainingArguments="{bf16: false}"))
    assert merged.training.bf16 is False


def test_an_inline_template_that_is_not_ascii_comes_through_unchanged():
    template = "{% for m in messages %}<|{{ m.role }}|>\nça va – 你好 🙂 \\n{{ m.content }}\n{% endfor %}"
    config = TrainingConfig(model=ModelConfig(chat_template=template))
    text = dump_training_config(config)
    assert "你好 🙂" in text
    assert parse_training_config(text).config == config


def test_the_written_text_does_not_depend_on_the_order_of_the_keys():
    one = read(LoraConfig="{r: 8, lora_alpha: 16}", TrainingArguments="{seed: 1, save_strategy: no}")
    other = read(TrainingArguments="{save_strategy: no, seed: 1}", LoraConfig="{lora_alpha: 16, r: 8}")
    assert dump_training_config(one) == dump_training_config(other)
    assert 'save_strategy: "no"' in dump_training_config(one)


@given(
    template=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=60).filter(
        lambda text: not text.startswith("/")
    ),
    patterns=st.dictionaries(
        st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=1), st.integers(1, 9)
    ),
    rate=st.floats(1e-12, 10),
    options=st.dictionaries(
        st.sampled_from("abc"), st.one_of(st.booleans(), st.integers(), st.sampled_from(["no", "1", "~"]))
    ),
)
@settings(max_examples=150, deadline=None)
def test_what_is_written_reads_as_the_same(
    template: str, patterns: dict[str, int], rate: float, options: dict[str, object]
):
    config = TrainingConfig(
        model=ModelConfig(chat_template=template),
        lora=LoraConfig(rank_pattern=patterns),
        training=TrainingArguments(learning_rate=rate, lr_scheduler_kwargs=options),
    )
    parsed = parse_training_config(dump_training_config(config))
    assert parsed.config == config, parsed.errors


def test_a_file_that_is_wrong_is_a_failure_that_names_file_line_and_field(tmp_path: Path):
    path = tmp_path / "training_config.yaml"
    path.write_text("training_config:\n  LoraConfig:\n    rank: 8\n")
    with pytest.raises(ConfigFailure) as caught:
        load_training_config(path)
    assert f"{path}:3: training_config.LoraConfig.rank" in caught.value.message
    with pytest.raises(ConfigFailure, match="cannot be read"):
        load_training_config(tmp_path / "missing.yaml")


@pytest.mark.parametrize(("section", "key"), [("TrainingArguments", "seed"), ("TrainingArguments", "data_seed")])
def test_a_seed_that_no_generator_takes_is_refused(section: str, key: str) -> None:
    assert parse(**{section: f"{{{key}: {2**32 - 1}}}"}).errors == ()
    (error,) = parse(**{section: f"{{{key}: {2**32}}}"}).errors
    assert error.field == f"training_config.{section}.{key}"
    (error,) = parse(DatasetConfig=f"{{shuffle_seed: {2**64}}}").errors
    assert error.field == "training_config.DatasetConfig.shuffle_seed"
