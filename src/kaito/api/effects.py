"""What becomes of keys that are accepted and yet not acted on: older names, and keys without an effect here.

A key counts as without effect only when it says something else than what is done anyway: KAITO's shipped
configuration sets several of these to their defaults and deserves no warning for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BeforeValidator

Value = TypeVar("Value")

ANY = object()  # no value of this key is what is done anyway

RENAMED: Mapping[str, Mapping[str, str]] = {
    "ModelConfig": {"dtype": "torch_dtype"},
    "TrainingArguments": {
        "evaluation_strategy": "eval_strategy",
        "max_seq_length": "max_length",
        "per_gpu_train_batch_size": "per_device_train_batch_size",
        "per_gpu_eval_batch_size": "per_device_eval_batch_size",
        "no_cuda": "use_cpu",
        "activation_checkpointing": "gradient_checkpointing",
        "activation_checkpointing_kwargs": "gradient_checkpointing_kwargs",
        "warmup_ratio": "warmup_steps",
        "group_by_length": "train_sampling_strategy",
    },
}
"""Section -> older (or newer) name -> the name here. `warmup_steps` below 1 is a share, as `warmup_ratio` was."""

RETIRED = {
    "TrainingArguments": frozenset(
        (
            "overwrite_output_dir",
            "logging_dir",
            "save_safetensors",
            "half_precision_backend",
            "fp16_backend",
            "fp16_opt_level",
            "jit_mode_eval",
            "use_ipex",
            "use_mps_device",
            "ray_scope",
            "past_index",
            "tpu_num_cores",
            "tpu_metrics_debug",
            "torchdynamo",
            "mp_parameters",
            "dispatch_batches",
            "split_batches",
            "include_inputs_for_metrics",
            "include_tokens_per_second",
            "push_to_hub_model_id",
            "push_to_hub_organization",
            "push_to_hub_token",
            "fsdp_min_num_params",
            "fsdp_transformer_layer_cls_to_wrap",
            "adafactor",
            "use_legacy_prediction_loop",
            "num_of_sequences",
            "chars_per_token",
            "dataset_batch_size",
        )
    )
}
"""Section -> keys that older versions of transformers and TRL had and that say nothing any more."""

_FOLLOWS_LOSS = "follows the held-out loss, which a run that was interrupted could not repeat; use cosine or linear"
_CHANGES_BASE = "changes the base model's weights, so that the adapter would fit no other copy of it"
_NOT_BUILT = "is not built into our torch; use nccl (GPUs) or gloo"

REFUSED: Mapping[tuple[str, str], Mapping[str, str]] = {
    ("TrainingArguments", "lr_scheduler_type"): {
        "reduce_lr_on_plateau": _FOLLOWS_LOSS,
        "greedy": _FOLLOWS_LOSS,
    },
    ("TrainingArguments", "ddp_backend"): dict.fromkeys(("mpi", "ccl", "hccl", "cncl", "mccl"), _NOT_BUILT),
    ("LoraConfig", "init_lora_weights"): {
        **dict.fromkeys(("pissa", "olora", "corda", "loftq"), f"{_CHANGES_BASE}; use true, gaussian or orthogonal"),
        "eva": "needs a pass over the data beforehand, which is not made; use true, gaussian or orthogonal",
    },
}
"""(section, key) -> value that peft or transformers knows and that is not trained here -> why, and what to use."""


def refuse_known(section: str, key: str) -> BeforeValidator:
    """Refuses the values of `REFUSED` by their reason, before pydantic says which are accepted."""
    reasons = REFUSED[section, key]

    def check(value: Any) -> Any:
        name = value.split("_niter_")[0] if isinstance(value, str) else ""  # pissa_niter_16: a number of rounds
        if name in reasons:
            raise ValueError(f"{value} {reasons[name]}")
        return value

    return BeforeValidator(check)


WITHOUT_EFFECT: Mapping[str, Mapping[str, Any]] = {
    "ModelConfig": {
        "pretrained_model_name_or_path": ("/workspace/tfs/weights", "/workspace/weights"),
        "state_dict": ANY,
        "cache_dir": ANY,
        "force_download": (False,),
        "proxies": ANY,
        "output_loading_info": (False,),
        "local_files_only": (True, False),
        "device_map": ("auto",),
    },
    "QuantizationConfig": {
        "llm_int8_enable_fp32_cpu_offload": (False,),
    },
    "LoraConfig": {
        "loftq_config": ({},),
        "eva_config": ({},),
        "corda_config": ({},),
        "megatron_config": ANY,
        "megatron_core": ("megatron.core",),
        "revision": ANY,
        "base_model_name_or_path": ANY,
        "auto_mapping": ANY,
    },
    "TrainingArguments": {
        "length_column_name": ("length",),
        "remove_unused_columns": (True, False),
        "eval_accumulation_steps": ANY,
        "eval_do_concat_batches": (True,),
        "eval_use_gather_object": (False,),
        "prediction_loss_only": (True, False),
        "include_for_metrics": ([],),
        "batch_eval_metrics": (False,),
        "label_names": ANY,
        "average_tokens_across_devices": (True,),
        "optim_target_modules": ANY,
        "eval_on_start": (True, False),
        "logging_strategy": ("steps",),
        "logging_first_step": (True, False),
        "logging_nan_inf_filter": ANY,
        "log_level": ("passive",),
        "log_level_replica": ("warning",),
        "log_on_each_node": (True,),
        "disable_tqdm": (True, False),
        "report_to": ("none", [], ["none"]),
        "run_name": ANY,
        "project": ("huggingface",),
        "trackio_space_id": ANY,
        "trackio_bucket_id": ANY,
        "trackio_static_space_id": ANY,
        "include_num_input_tokens_seen": ("no", False, True, "all", "non_padding"),
        "save_only_model": (False,),
        "save_on_each_node": (False,),
        "enable_jit_checkpoint": (True,),
        "resume_from_checkpoint": (True,),
        "restore_callback_states_from_checkpoint": (True,),
        "ignore_data_skip": (False,),
        "push_to_hub": (False,),
        "hub_model_id": ANY,
        "hub_strategy": ("every_save",),
        "hub_token": ANY,
        "hub_private_repo": ANY,
        "hub_always_push": (False,),
        "hub_revision": ANY,
        "fsdp": ("", False, []),
        "fsdp_config": ({},),
        "deepspeed": ({},),
        "parallelism_config": ({},),
        "accelerator_config": ({},),
        "local_rank": (-1,),
        "shuffle_dataset": ANY,
        "dataset_num_proc": ANY,
        "dataset_kwargs": ({},),
        "pad_token": ANY,
        "model_init_kwargs": ({},),
        "skip_memory_metrics": (True,),
        "debug": ("", []),
        "do_train": (True,),
        "do_eval": (True,),
        "do_predict": (False,),
        "use_cache": (False,),
        "packing_strategy": ("bfd",),
        "eval_packing": ANY,
        "pad_to_multiple_of": (1,),
        "activation_offloading": (False,),
        "torch_compile": (False,),
        "torch_compile_backend": ANY,
        "torch_compile_mode": ANY,
        "use_liger_kernel": (False,),
        "liger_kernel_config": ANY,
        "auto_find_batch_size": (True, False),
        "save_total_limit": (2,),
        "dataloader_drop_last": (False,),
        "dataloader_num_workers": (0,),
        "dataloader_pin_memory": (True, False),
        "dataloader_persistent_workers": (False,),
        "dataloader_prefetch_factor": ANY,
        "dataloader_multiprocessing_context": ANY,
        "dataloader_in_order": (True,),
        "loss_type": ("nll",),
        "router_aux_loss_coef": (0.0, 0),
        "eval_delay": (0.0, 0),
        "bf16_full_eval": (False,),
        "fp16_full_eval": (False,),
    },
    "DataCollator": {
        "mlm": (False,),
        "mlm_probability": ANY,
        "mask_replace_prob": ANY,
        "random_replace_prob": ANY,
        "whole_word_mask": (False,),
        "pad_to_multiple_of": ANY,
        "seed": ANY,
        "return_tensors": ("pt",),
        "tokenizer": ANY,
    },
}
"""Section -> key -> the values that say what is done anyway (no warning), or ANY."""

ADVICE = {
    ("QuantizationConfig", "llm_int8_enable_fp32_cpu_offload"): "each GPU holds the whole model",
    ("TrainingArguments", "average_tokens_across_devices"): "the loss is the mean over the tokens of all GPUs",
    ("TrainingArguments", "optim_target_modules"): "no optimizer here acts on chosen modules alone",
    ("TrainingArguments", "logging_strategy"): "metrics are written by steps: set logging_steps",
    ("ModelConfig", "pretrained_model_name_or_path"): "`tuning.preset.name` names the base model",
    ("ModelConfig", "proxies"): "set HTTPS_PROXY in the environment",
    ("ModelConfig", "device_map"): "one process a GPU, each with the whole model",
    ("TrainingArguments", "dataset_num_proc"): "rows are rendered once, in one stream",
    ("TrainingArguments", "report_to"): "metrics go to metrics.jsonl, the status and Prometheus",
    ("TrainingArguments", "hub_token"): "a token belongs in a Secret: take it out of this file",
    ("TrainingArguments", "push_to_hub"): "`tuning.output` says where the adapter goes",
    ("TrainingArguments", "resume_from_checkpoint"): "a run always goes on from its newest checkpoint",
    ("TrainingArguments", "save_only_model"): "a checkpoint that cannot be resumed is none",
    ("TrainingArguments", "shuffle_dataset"): "set DatasetConfig.shuffle_dataset",
    ("TrainingArguments", "deepspeed"): "each GPU holds the whole model",
    ("TrainingArguments", "fsdp"): "each GPU holds the whole model",
    ("TrainingArguments", "packing_strategy"): "no row is cut, and none is moved to another step",
    ("TrainingArguments", "eval_packing"): "held-out rows lie in memory as the others do, at the same loss",
    ("TrainingArguments", "pad_to_multiple_of"): "a padded batch is as long as its longest row",
    ("TrainingArguments", "auto_find_batch_size"): "a micro-batch that does not fit is halved anyway",
    ("TrainingArguments", "save_total_limit"): "the two newest checkpoints are kept",
    ("TrainingArguments", "pad_token"): "no label depends on padding",
    ("TrainingArguments", "model_init_kwargs"): "set what ModelConfig has",
    ("DataCollator", "mlm"): "a causal language model learns the next token; read as `mlm: false`",
}


SAME_RESULT: Mapping[str, frozenset[str]] = {
    "TrainingArguments": frozenset(
        (
            "ddp_timeout",
            "gradient_accumulation_steps",
            "logging_steps",
            "output_dir",
            "packing",
            "padding_free",
            "per_device_eval_batch_size",
            "per_device_train_batch_size",
            "save_steps",
            "save_strategy",
            "torch_empty_cache_steps",
        )
    )
}
"""Section -> keys of how a step's rows are cut and lie in memory, and of where and when something is written. The
adapter is the same with any value of theirs: a step's rows are counted apart."""


def deciding(sections: Mapping[str, Mapping[str, Value]]) -> dict[str, dict[str, Value]]:
    """Of the settings those that decide the adapter: without the keys of `SAME_RESULT` and those without effect."""
    kept = {
        section: {
            key: value
            for key, value in keys.items()
            if key not in SAME_RESULT.get(section, ()) and key not in WITHOUT_EFFECT.get(section, ())
        }
        for section, keys in sections.items()
    }
    return {section: keys for section, keys in kept.items() if keys}


def is_without_effect(section: str, key: str, value: Any) -> bool:
    """Whether the key says something that nothing here acts on."""
    if value is None or key not in WITHOUT_EFFECT.get(section, {}):
        return False
    same = WITHOUT_EFFECT[section][key]
    return same is ANY or not any(type(value) is type(known) and value == known for known in same)
