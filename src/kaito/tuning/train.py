"""One tuning from configuration to results folder, top to bottom: parse, load, build, train, save."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed
from transformers.utils.logging import disable_progress_bar

from kaito import program
from kaito.api.evaluations import evaluation_steps
from kaito.api.training import load_training_config
from kaito.contract import digest_of
from kaito.failure import ConfigFailure, DataFailure
from kaito.program import Stopped
from kaito.tuning import baseline, card, checkpoints, results
from kaito.tuning.base_files import check_base_files
from kaito.tuning.batches import order_digest
from kaito.tuning.collectives import barrier, from_first_rank, rank, ranks
from kaito.tuning.data import split_rows
from kaito.tuning.divergence import require_finite, require_finite_loss, require_improvement
from kaito.tuning.evaluation import held_out_loss
from kaito.tuning.memory import (
    ending_as_out_of_memory,
    in_smaller_batches,
    is_out_of_memory,
    out_of_memory,
    release_memory,
)
from kaito.tuning.metrics import Metrics
from kaito.tuning.model import (
    adapter_facts,
    adapter_weights,
    add_adapter,
    count_parameters,
    is_quantized,
    load_adapter_weights,
    load_base,
)
from kaito.tuning.pace import Pace, Stop, stopping_between_steps
from kaito.tuning.packing import choose_layout
from kaito.tuning.precision import choose_precision
from kaito.tuning.results import DEFAULT_OWNER
from kaito.tuning.schedule import (
    build_batches,
    identity_of,
    rows_of_a_step,
    save_stride,
    saved_by_packing,
    split_seed,
    total_steps,
    warmup_steps,
)
from kaito.tuning.settings import effective, for_device, ignored_keys
from kaito.tuning.threads import available_cpus
from kaito.tuning.tokenised import forget_rows, load_examples
from kaito.tuning.trainer import LoraTrainer, build_arguments

PAD_TOKEN_ID = 0  # any id does: padding is masked by position and never a label
EVALUATION_ROWS = 4  # of one batch for each row of a micro-batch: without gradients more fit


@dataclass(frozen=True, slots=True)
class Request:
    """One run of the program. `micro_batch_divisor` is 2 after memory ran out; `save_steps` adds checkpoints.

    `min_improvement`: by how much the held-out loss must fall below the base's for the adapter to be kept.
    `early_stopping_patience`: evaluations in a row without a lower held-out loss after which training ends.
    """

    config: Path
    data: Path
    model: Path
    checkpoints: Path
    results: Path
    metrics: Path
    repo: str
    revision: str
    data_digest: str = ""
    owner: str = DEFAULT_OWNER
    min_improvement: float | None = None
    early_stopping_patience: int | None = None
    micro_batch_divisor: int = 1
    save_seconds: float = 60.0
    save_steps: int | None = None


@ending_as_out_of_memory()
def train(request: Request) -> dict[str, Any]:
    """Train, evaluate, save. Returns the result of the step `tune`. Raises a Failure, or Stopped after SIGTERM."""
    first = rank() == 0
    quieten_libraries()
    config = effective(load_training_config(request.config))
    for line in ignored_keys(config):
        say(f"warning: {line} has no effect here")

    # --- data ---
    check_digest(request)
    if first:
        check_base_files(request.model, request.checkpoints)
    loaded = load_examples(
        request.data, request.model, config, folder=request.checkpoints, data_digest=request.data_digest
    )
    say(loaded.summary)
    split = split_rows(loaded.examples, train_share=config.dataset.train_test_split, seed=split_seed(config))
    say(f"{len(split.train):,} rows to train, {len(split.held_out):,} held out")
    if not split.held_out and (request.min_improvement is not None or request.early_stopping_patience is not None):
        raise ConfigFailure(
            "tuning.evaluation looks at the held-out loss, and no rows are held out",
            "lower train_test_split, or add rows",
        )

    # --- device and base model ---
    torch.set_num_threads(available_cpus())
    on_cpu = bool(config.training.use_cpu) or not torch.cuda.is_available()
    capability = None if on_cpu else torch.cuda.get_device_capability()
    precision = choose_precision(config, capability=capability, parameters=count_parameters(request.model))
    for warning in precision.warnings:
        say(f"warning: {warning}")
    micro = max(1, (config.training.per_device_train_batch_size or 1) // request.micro_batch_divisor)
    own = for_device(config, capability)
    arguments = build_arguments(own, request.checkpoints, autocast=precision.autocast, on_cpu=on_cpu)
    device = arguments.device
    base = load_base(request.model, config, precision, device)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    say(
        f"Model Loaded: {type(base).__name__}, {request.repo}" + (f" at {request.revision}" if request.revision else "")
    )
    say(f"{where}; weights {precision.weights}, autocast {precision.autocast}")
    saved = saved_by_packing(config, split.train, micro)
    layout = choose_layout(base, config, split.train, saved=saved, device=device, autocast=precision.autocast)
    say(("warning: " if layout.warning else "") + layout.said)
    batches = build_batches(config, split.train, micro, packed=layout.packed)

    # --- which run this is, and how far it is ---
    total = total_steps(config, batches.steps_per_epoch)
    arguments.warmup_steps = warmup_steps(config, total)
    order = order_digest(split.train, batches)
    identity = identity_of(
        config,
        precision=precision,
        order=order,
        held_out=digest_of([example.digest().hex() for example in split.held_out]),
        repo=request.repo,
        revision=request.revision,
    )
    request.checkpoints.mkdir(parents=True, exist_ok=True)
    if first:
        results.prepare(request.results, owner=request.owner, identity=identity)
    checkpoint = from_first_rank(checkpoints.newest_valid(request.checkpoints, identity=identity) if first else None)
    metrics = Metrics(request.metrics, quiet=not first)
    metrics.truncate_after(checkpoint.step if checkpoint else -1)

    # --- the base on the held-out rows, before LoRA touches it ---
    asked = config.training.per_device_eval_batch_size
    eval_batch = max(1, asked // request.micro_batch_divisor) if asked else EVALUATION_ROWS * micro
    base_loss = None
    if split.held_out:
        base_loss = baseline.measured_once(
            request.checkpoints,
            identity,
            lambda: in_smaller_batches(
                lambda batch: held_out_loss(
                    base,
                    split.held_out,
                    batch_size=batch,
                    pad_token_id=PAD_TOKEN_ID,
                    device=device,
                    autocast=precision.autocast,
                    packed=layout.packed,
                ),
                eval_batch,
                lambda: release_memory(base),
                may_halve=ranks() == 1,
            ),
        )
    if base_loss is None:
        say("no evaluation: no rows are held out")
    elif checkpoint is None:
        metrics.evaluation(step=0, loss=base_loss.loss)
        say(f"evaluation of the base: held-out loss {base_loss.loss:.4f} on {base_loss.rows} rows")

    # --- adapter ---
    set_seed(config.training.seed or 0)
    model = add_adapter(base, config.lora, repo=request.repo, revision=request.revision)
    facts = adapter_facts(model)
    say(
        f"trainable params: {facts.trainable:,} || all params: {facts.total:,}"
        f" || trainable%: {100 * facts.trainable / facts.total:.4f}"
        f" || {', '.join(f'{name} x{count}' for name, count in facts.modules.items())}"
    )
    initial = adapter_weights(model)

    # --- train ---
    stop = Stop()
    pace = Pace(
        evaluation_steps(
            total=total,
            steps_per_epoch=batches.steps_per_epoch,
            strategy=config.training.eval_strategy or "epoch",
            every=config.training.eval_steps,
        ),
        save_seconds=request.save_seconds,
        save_steps=request.save_steps or save_stride(config, total, batches.steps_per_epoch),
        patience=request.early_stopping_patience,
    )

    def build_trainer(piece: int) -> LoraTrainer:
        return LoraTrainer(
            model,
            arguments,
            train=split.train,
            held_out=split.held_out,
            batches=build_batches(config, split.train, piece, packed=layout.packed),
            pad_token_id=PAD_TOKEN_ID,
            autocast=precision.autocast,
            eval_batch=max(1, eval_batch * piece // micro),
            label_smoothing=config.training.label_smoothing_factor or 0.0,
            folder=request.checkpoints,
            identity=identity,
            pace=pace,
            metrics=metrics,
            stop=stop,
        )

    def restart() -> checkpoints.Checkpoint | None:
        newest = checkpoints.newest_valid(request.checkpoints, identity=identity)
        metrics.truncate_after(newest.step if newest else 0)
        load_adapter_weights(model, initial)
        release_memory(model)
        return newest

    say(f"{total} steps of {rows_of_a_step(config)} rows, {total / batches.steps_per_epoch:.3g} epochs")
    with stopping_between_steps(stop):
        may_halve = ranks() == 1 and request.micro_batch_divisor == 1
        trainer = train_within_memory(build_trainer, restart, checkpoint, total, micro, may_halve=may_halve)
    if stop.requested:
        say(f"stopped at step {trainer.state.global_step} of {total}: saved, and goes on from there")
        raise Stopped

    # --- save ---
    steps, found = trainer.state.global_step, trainer.found
    early = early_stop(steps, total, found.without_improvement)
    if early:
        say(early)
        program.report(steps, steps, "steps")
    kept = steps
    if config.training.load_best_model_at_end and found.best_weights is not None and found.best_step is not None:
        kept = found.best_step
        load_adapter_weights(model, found.best_weights)
    eval_loss = found.evaluations.get(kept)
    weights = adapter_weights(model)
    require_finite(weights, step=kept)
    require_finite_loss(eval_loss, step=kept)
    if base_loss is not None and eval_loss is not None:
        say(f"held-out loss: base {base_loss.loss:.4f}, adapter {eval_loss:.4f} (step {kept} of {steps})")
        require_improvement(request.min_improvement, base_loss.loss - eval_loss)
    last_loss = metrics.last_loss() if first else None
    result: dict[str, Any] = {
        "steps": steps,
        "loss": last_loss,
        "eval_loss": eval_loss,
        "base_eval_loss": base_loss.loss if base_loss else None,
        "best_step": kept,
        "eval_rows": base_loss.rows if base_loss else 0,
        "checkpoint": f"{checkpoints.PREFIX}{steps}",
        **({"note": early} if early else {}),
    }
    if first:
        outcome = card.Outcome(
            repo=request.repo,
            revision=request.revision,
            method="qlora" if is_quantized(config) else "lora",
            config=config,
            data_digest=request.data_digest,
            rows=len(split.train),
            order=order,
            steps=steps,
            best_step=kept,
            loss=last_loss,
            eval_loss=eval_loss,
            base=base_loss,
            note=early,
        )
        card.write_files(
            results.part_folder(request.results, request.owner),
            outcome,
            adapter_config=model.peft_config["default"],
            weights=weights,
            chat_template=loaded.chat_template,
            metrics=request.metrics,
        )
        results.save(request.results, owner=request.owner, identity=identity)
        result["digest"] = digest_of(results.digest_files(request.results))
        say(f"adapter saved to {request.results}\nFine-Tuning completed")
    barrier()
    if first:
        forget_rows(request.checkpoints)
    return result


def train_within_memory(
    build_trainer: Callable[[int], LoraTrainer],
    restart: Callable[[], checkpoints.Checkpoint | None],
    checkpoint: checkpoints.Checkpoint | None,
    total: int,
    micro: int,
    *,
    may_halve: bool,
) -> LoraTrainer:
    """Train to the end; if memory runs out and it may, once more with half the micro-batch and the same steps.

    Several processes cannot agree on that in the middle of a step: there the launcher starts all of them again.
    """
    trainer = build_trainer(micro)
    try:
        run(trainer, checkpoint, total)
        return trainer
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        if not may_halve or micro == 1:
            raise out_of_memory(f"with a micro-batch of {micro}") from error
        error.__traceback__ = None  # it holds the failed step's tensors
    trainer.let_go()
    say(f"out of memory with a micro-batch of {micro}: going on with {micro // 2}, at the same rows in a step")
    checkpoint = restart()
    trainer = build_trainer(micro // 2)
    try:
        run(trainer, checkpoint, total)
    except Exception as error:
        if is_out_of_memory(error):
            raise out_of_memory(f"with a micro-batch of {micro // 2}") from error
        raise
    return trainer


def run(trainer: LoraTrainer, checkpoint: checkpoints.Checkpoint | None, total: int) -> None:
    """Train from the checkpoint, or from the start, to step `total` or until stopped."""
    if checkpoint is None:
        trainer.train()
        return
    say(f"resumed from step {checkpoint.step} of {total}")
    trainer.restore(checkpoint)
    over = checkpoint.step >= total or trainer.is_out_of_patience() or trainer.stop.requested
    if not over:  # transformers would train one step more
        trainer.train(resume_from_checkpoint=str(checkpoint.path))


def early_stop(steps: int, total: int, evaluations: int) -> str:
    """What is said of a run that ended before its last step, else ""."""
    if steps >= total:
        return ""
    times = f"{evaluations} evaluation{'' if evaluations == 1 else 's'}"
    return f"stopped early at step {steps:,} of {total:,}: no better for {times}"


def check_digest(request: Request) -> None:
    """Refuse data that are not the ones that were checked."""
    from kaito.datasets.files import files_digest

    if not request.data_digest or rank() != 0:
        return
    found = files_digest(request.data)
    if found != request.data_digest:
        raise DataFailure(
            f"the data in {request.data} are not those that were checked: {found}, not {request.data_digest}",
            "fetch them again, or check the new ones first",
            reason="DataChanged",
        )


def quieten_libraries() -> None:
    """A log is read line by line: no progress bars, and no warnings of libraries about one another."""
    disable_progress_bar()
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)  # peft asks for it


def say(line: str) -> None:
    if rank() == 0:
        print(line, flush=True)
