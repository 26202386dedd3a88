"""The section TrainingArguments: transformers' and TRL's names and types. None means "not said": the plan fills it.

What no program here acts on is listed in `kaito.api.effects`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from kaito.api.effects import refuse_known
from kaito.api.schema import Integer, Number
from kaito.api.sections import NotNegative, Positive, Section, Seed


def _false_is_no(value: Any) -> Any:
    """YAML 1.1 readers turn an unquoted `no` into false before it gets here."""
    return "no" if value is False else value


Strategy = Annotated[Literal["no", "steps", "epoch"], BeforeValidator(_false_is_no)]
SaveStrategy = Annotated[Literal["no", "steps", "epoch", "best"], BeforeValidator(_false_is_no)]
StepsOrShare = Annotated[Number, Field(ge=0)]
Beta = Annotated[Number, Field(ge=0, lt=1)]
Options = dict[str, Any]
Schedule = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
    "cosine_with_min_lr",
    "cosine_warmup_with_min_lr",
    "warmup_stable_decay",
]
Optimizer = Literal[
    "adamw_torch",
    "adamw_torch_fused",
    "adafactor",
    "sgd",
    "adagrad",
    "rmsprop",
    "adamw_8bit",
    "adamw_bnb_8bit",
    "paged_adamw_8bit",
    "paged_adamw_32bit",
    "ademamix",
    "ademamix_8bit",
    "paged_ademamix_8bit",
    "paged_ademamix_32bit",
    "lion_8bit",
    "lion_32bit",
    "paged_lion_8bit",
    "paged_lion_32bit",
    "rmsprop_bnb",
    "rmsprop_bnb_8bit",
    "rmsprop_bnb_32bit",
]
LogLevel = Literal["detail", "debug", "info", "warning", "error", "critical", "passive"]


class TrainingArguments(Section):
    """The run: schedule, optimizer, precision, batches, evaluation, logging, saving, seeds, rows into samples."""

    output_dir: str | None = None
    """KAITO's path of the results. Ours whatever is said; one that leaves /mnt is an error."""

    # schedule
    num_train_epochs: Annotated[Number, Field(gt=0)] | None = None
    """Passes over the training rows. May be a fraction."""
    max_steps: Annotated[Integer, Field(ge=-1)] | None = None
    """Optimizer steps in all; wins over `num_train_epochs`. -1: not used. A batch that is not said is chosen, up to 32
    rows, so that every row is seen."""
    learning_rate: Annotated[Number, Field(gt=0)] | None = None
    """The highest learning rate."""
    lr_scheduler_type: Annotated[Schedule, refuse_known("TrainingArguments", "lr_scheduler_type")] | None = None
    """How the learning rate goes on after the warm-up."""
    lr_scheduler_kwargs: Options | None = None
    """Further options of the schedule."""
    warmup_steps: StepsOrShare | None = None
    """Steps of rising learning rate; below 1, their share of all steps."""
    gradient_accumulation_steps: Positive | None = None
    """Micro-batches in one optimizer step."""
    average_tokens_across_devices: bool | None = None
    """Without effect: the loss is the mean over the tokens of all GPUs."""
    max_grad_norm: Annotated[Number, Field(ge=0)] | None = None
    """Gradients are clipped to this norm. 0: not clipped."""
    label_smoothing_factor: Annotated[Number, Field(ge=0, lt=1)] | None = None
    """Share of the label's weight spread over the vocabulary."""

    # optimizer
    optim: Optimizer | None = None
    """The optimizer, by transformers' name. Those that need a package that is not here are left out."""
    optim_args: str | None = None
    """Further options of the optimizer: `key=value,key=value`."""
    optim_target_modules: str | list[str] | None = None
    """Without effect: no optimizer here acts on chosen modules alone."""
    weight_decay: Annotated[Number, Field(ge=0)] | None = None
    """Weight decay of AdamW."""
    adam_beta1: Beta | None = None
    """Decay of Adam's first moment."""
    adam_beta2: Beta | None = None
    """Decay of Adam's second moment."""
    adam_epsilon: Annotated[Number, Field(gt=0)] | None = None
    """Adam's epsilon."""

    # precision and memory
    bf16: bool | None = None
    """Compute in bfloat16. Falls back, with a warning, where the GPU has none."""
    fp16: bool | None = None
    """Compute in float16 with a scaled loss."""
    bf16_full_eval: bool | None = None
    """Evaluate wholly in bfloat16."""
    fp16_full_eval: bool | None = None
    """Evaluate wholly in float16."""
    tf32: bool | None = None
    """Use TF32 for what is left in float32."""
    gradient_checkpointing: bool | None = None
    """Compute activations twice instead of keeping them."""
    gradient_checkpointing_kwargs: Options | None = None
    """Options of gradient checkpointing."""
    activation_offloading: bool | None = None
    """Keep activations in the machine's memory."""
    torch_compile: bool | None = None
    """Compile the model."""
    torch_compile_backend: str | None = None
    """The compiler's back-end."""
    torch_compile_mode: str | None = None
    """The compiler's mode."""
    use_liger_kernel: bool | None = None
    """Use Liger's fused kernels."""
    liger_kernel_config: dict[str, bool] | None = None
    """Which of Liger's kernels."""
    use_cache: bool | None = None
    """Keep keys and values in training."""
    torch_empty_cache_steps: Positive | None = None
    """Empty the allocator's cache every so many steps."""
    auto_find_batch_size: bool | None = None
    """Halve the micro-batch when memory runs out."""
    neftune_noise_alpha: Annotated[Number, Field(ge=0)] | None = None
    """Noise on the embeddings (NEFTune)."""

    # batches
    per_device_train_batch_size: Positive | None = None
    """Rows in one micro-batch of one GPU. Chosen by memory where not said."""
    per_device_eval_batch_size: Positive | None = None
    """Rows in one evaluation batch of one GPU."""
    train_sampling_strategy: Literal["random", "sequential", "group_by_length"] | None = None
    """The order in which rows are drawn."""
    length_column_name: str | None = None
    """Without effect: lengths are counted."""
    dataloader_drop_last: bool | None = None
    """Leave out the last, smaller batch."""
    dataloader_num_workers: NotNegative | None = None
    """Processes that prepare batches."""
    dataloader_pin_memory: bool | None = None
    """Prepare batches in pinned memory."""
    dataloader_persistent_workers: bool | None = None
    """Keep the loader's processes between epochs."""
    dataloader_prefetch_factor: Positive | None = None
    """Batches prepared ahead by each process."""
    dataloader_multiprocessing_context: str | None = None
    """How the loader's processes start."""
    dataloader_in_order: bool | None = None
    """Hand out batches in the order of the sampler."""
    remove_unused_columns: bool | None = None
    """Without effect: the trainer sees tokens and labels alone."""

    # evaluation
    eval_strategy: Strategy | None = None
    """When the held-out rows are evaluated."""
    eval_steps: StepsOrShare | None = None
    """With `eval_strategy: steps`: every so many steps; below 1, this share of all."""
    eval_delay: Annotated[Number, Field(ge=0)] | None = None
    """Epochs or steps before the first evaluation."""
    eval_on_start: bool | None = None
    """Evaluate before the first step. Always done where rows are held out."""
    eval_accumulation_steps: Positive | None = None
    """Without effect: only the loss is evaluated."""
    eval_do_concat_batches: bool | None = None
    """Without effect: only the loss is evaluated."""
    eval_use_gather_object: bool | None = None
    """Without effect: only the loss is evaluated."""
    prediction_loss_only: bool | None = None
    """Without effect: only the loss is evaluated."""
    include_for_metrics: list[str] | None = None
    """Without effect: only the loss is evaluated."""
    batch_eval_metrics: bool | None = None
    """Without effect: only the loss is evaluated."""
    label_names: list[str] | None = None
    """Without effect."""
    load_best_model_at_end: bool | None = None
    """Keep the adapter with the lowest held-out loss instead of the last."""
    metric_for_best_model: Literal["loss", "eval_loss"] | None = None
    """The held-out loss is the only metric."""
    greater_is_better: Literal[False] | None = None
    """A lower loss is better."""

    # logging
    logging_strategy: Strategy | None = None
    """Without effect: metrics are written by steps."""
    logging_steps: Annotated[Number, Field(gt=0)] | None = None
    """Metrics every so many steps; below 1, this share of all."""
    logging_first_step: bool | None = None
    """Without effect: metrics of the first step are always written."""
    logging_nan_inf_filter: bool | None = None
    """Without effect: a loss that is no number ends the run as diverged."""
    log_level: LogLevel | None = None
    """Without effect."""
    log_level_replica: LogLevel | None = None
    """Without effect."""
    log_on_each_node: bool | None = None
    """Without effect."""
    disable_tqdm: bool | None = None
    """Without effect: the runner shows the progress."""
    report_to: str | list[str] | None = None
    """Without effect: metrics go to metrics.jsonl, and from there to the status and to Prometheus."""
    run_name: str | None = None
    """Without effect: the Workspace names the run."""
    project: str | None = None
    """Without effect."""
    trackio_space_id: str | None = None
    """Without effect."""
    trackio_bucket_id: str | None = None
    """Without effect."""
    trackio_static_space_id: str | bool | None = None
    """Without effect."""
    include_num_input_tokens_seen: bool | Literal["all", "non_padding", "no"] | None = None
    """Without effect: tokens are always counted."""

    # saving
    save_strategy: SaveStrategy | None = None
    """Which checkpoints are kept in the results. Checkpoints for recovery are always made."""
    save_steps: StepsOrShare | None = None
    """With `save_strategy: steps`: every so many steps; below 1, this share of all."""
    save_total_limit: Positive | None = None
    """How many checkpoints are kept."""
    save_only_model: bool | None = None
    """Without effect: a checkpoint that cannot be resumed is none."""
    save_on_each_node: bool | None = None
    """Without effect."""
    enable_jit_checkpoint: bool | None = None
    """Without effect: a stopped run always saves first."""
    resume_from_checkpoint: str | bool | None = None
    """Without effect: a run always goes on from its newest checkpoint."""
    restore_callback_states_from_checkpoint: bool | None = None
    """Without effect: they always are."""
    ignore_data_skip: bool | None = None
    """Without effect: a resumed run goes on with the rows that come next."""
    push_to_hub: bool | None = None
    """Without effect: `tuning.output` says where the adapter goes."""
    hub_model_id: str | None = None
    """Without effect."""
    hub_strategy: str | None = None
    """Without effect."""
    hub_token: str | None = None
    """Without effect; a token belongs in a Secret."""
    hub_private_repo: bool | None = None
    """Without effect."""
    hub_always_push: bool | None = None
    """Without effect."""
    hub_revision: str | None = None
    """Without effect."""

    # several GPUs
    ddp_find_unused_parameters: bool | None = None
    """Look for parameters without a gradient (several GPUs)."""
    ddp_timeout: Positive | None = None
    """Seconds that a rank waits for the others."""
    ddp_backend: Annotated[Literal["nccl", "gloo"], refuse_known("TrainingArguments", "ddp_backend")] | None = None
    """The library by which ranks talk."""
    ddp_bucket_cap_mb: Positive | None = None
    """Size of the buckets in which gradients are exchanged."""
    ddp_broadcast_buffers: bool | None = None
    """Send buffers from the first rank to all."""
    ddp_static_graph: bool | None = None
    """The set of used parameters never changes."""
    fsdp: str | bool | list[str] | None = None
    """Without effect: each GPU holds the whole model."""
    fsdp_config: str | Options | None = None
    """Without effect: each GPU holds the whole model."""
    deepspeed: str | Options | None = None
    """Without effect: each GPU holds the whole model."""
    parallelism_config: Options | None = None
    """Without effect: each GPU holds the whole model."""
    accelerator_config: str | Options | None = None
    """Without effect."""
    local_rank: Integer | None = None
    """Without effect."""

    # seeds
    seed: Seed | None = None
    """Seeds the adapter's weights, dropout, and what has no seed of its own."""
    data_seed: Seed | None = None
    """Seeds the order in which rows are drawn."""
    full_determinism: bool | None = None
    """Only deterministic kernels: equal inputs give an equal adapter, slower."""

    # rows into samples (TRL's SFTConfig)
    max_length: Positive | None = None
    """The longest sample, in tokens; what is longer is cut and counted."""
    truncation_mode: Literal["keep_start", "keep_end"] | None = None
    """Which end of a too long sample is kept."""
    shuffle_dataset: bool | None = None
    """Without effect: `DatasetConfig.shuffle_dataset` says it."""
    packing: bool | None = None
    """Lay the rows of a step one after the other, without padding. Unsaid: where it spares work and is
    proved for the model."""
    packing_strategy: Literal["bfd", "bfd_split", "bfd-requeue", "wrapped"] | None = None
    """Without effect: no row is cut, and none is moved to another step."""
    padding_free: bool | None = None
    """The same as `packing`. `false`: padded batches."""
    pad_to_multiple_of: Positive | None = None
    """Without effect: a padded batch is as long as its longest row."""
    eval_packing: bool | None = None
    """Without effect: held-out rows lie in memory as the others do, at the same loss."""
    completion_only_loss: bool | None = None
    """Learn the answer alone of a prompt or an instruction, the default. `false`: all tokens of the row."""
    assistant_only_loss: bool | None = None
    """Learn the assistant's turns alone of a conversation, the default. `false`: all tokens of the row."""
    loss_type: Literal["nll", "dft", "chunked_nll"] | None = None
    """The loss."""
    dataset_text_field: str | None = None
    """The column with plain text; `DatasetConfig.text_column` says the same."""
    dataset_num_proc: Positive | None = None
    """Without effect: rows are rendered once, in one stream."""
    dataset_kwargs: Options | None = None
    """Without effect."""
    eos_token: str | None = None
    """The end token in place of the tokenizer's own: behind completions and texts, and for the chat template."""
    pad_token: str | None = None
    """Without effect: no label depends on padding."""
    chat_template_path: str | None = None
    """TRL's name of `ModelConfig.chat_template`."""
    model_init_kwargs: Options | None = None
    """Without effect: see ModelConfig."""
    router_aux_loss_coef: Annotated[Number, Field(ge=0)] | None = None
    """Weight of the balancing loss of a mixture of experts."""

    # the rest
    use_cpu: bool | None = None
    """Train on the CPU though there is a GPU."""
    skip_memory_metrics: bool | None = None
    """Without effect."""
    debug: str | list[str] | None = None
    """Without effect."""
    do_train: bool | None = None
    """Without effect."""
    do_eval: bool | None = None
    """Without effect: `eval_strategy` and the split say it."""
    do_predict: bool | None = None
    """Without effect."""
