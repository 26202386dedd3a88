"""transformers' Trainer with our batches, our loss, our evaluation and our checkpoints. What it adds is small: the loop
itself, the optimizer, the schedule, mixed precision and several GPUs are transformers' own.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerControl, TrainerState, TrainingArguments

from kaito.api.training import TrainingConfig
from kaito.failure import DivergedFailure, TemporaryFailure
from kaito.tuning import checkpoints
from kaito.tuning.batches import EpochBatches, Rows, build_batch, seen_tokens, trained_tokens
from kaito.tuning.collectives import barrier, rank, ranks, sum_over_ranks
from kaito.tuning.data import Example
from kaito.tuning.divergence import AGAINST_DIVERGENCE, require_finite, require_finite_loss
from kaito.tuning.evaluation import HeldOutLoss, held_out_loss, token_losses
from kaito.tuning.memory import in_smaller_batches, release_memory
from kaito.tuning.metrics import Metrics
from kaito.tuning.model import adapter_weights, load_adapter_weights
from kaito.tuning.pace import Found, Pace, Pacemaker, Stop
from kaito.tuning.precision import Autocast
from kaito.tuning.setting_errors import fitting_settings

ADAPTER = "adapter_model.safetensors"
BEST_ADAPTER = "best_adapter_model.safetensors"
OWN_STATE = "kaito.json"
TORCH_CANNOT_WRITE = ("PytorchStreamWriter", "inline_container", "iostream error")  # plain RuntimeErrors of torch.save

# Settings that transformers' Trainer acts on itself, under the same name.
PASSED_ON = (
    "learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "num_train_epochs",
    "max_steps",
    "max_grad_norm",
    "optim",
    "optim_args",
    "optim_target_modules",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "tf32",
    "torch_empty_cache_steps",
    "neftune_noise_alpha",
    "full_determinism",
    "logging_steps",
    "seed",
    "ddp_timeout",
    "ddp_backend",
    "ddp_bucket_cap_mb",
    "ddp_broadcast_buffers",
    "ddp_static_graph",
)


@fitting_settings("TrainingArguments")
def build_arguments(config: TrainingConfig, folder: Path, *, autocast: Autocast, on_cpu: bool) -> TrainingArguments:
    """transformers' arguments. Building them also joins the other ranks, where there are any."""
    passed = {name: value for name in PASSED_ON if (value := getattr(config.training, name)) is not None}
    checkpointing = bool(config.training.gradient_checkpointing)
    return TrainingArguments(
        **passed,
        output_dir=str(folder / checkpoints.PART),  # a checkpoint is written there first, then renamed
        per_device_train_batch_size=1,  # of EpochBatches' items: the micro-batches of a whole step
        gradient_accumulation_steps=1,
        activation_checkpointing=checkpointing,
        activation_checkpointing_kwargs=(
            {"use_reentrant": False, **(config.training.gradient_checkpointing_kwargs or {})} if checkpointing else None
        ),
        bf16=autocast == "bf16",
        fp16=autocast == "fp16",
        use_cpu=on_cpu,
        ddp_find_unused_parameters=bool(config.training.ddp_find_unused_parameters),
        save_strategy="no",  # ours
        eval_strategy="no",  # ours
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        log_level_replica="error",
        logging_nan_inf_filter=False,  # a loss that is no number must not be smoothed over
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )


class LoraTrainer(Trainer):  # type: ignore[misc]  # transformers ships no types
    """Trains one adapter from `train` rows. All ranks build the same one."""

    control: TrainerControl
    model_wrapped: Any

    def __init__(
        self,
        model: Any,
        arguments: TrainingArguments,
        *,
        train: Sequence[Example],
        held_out: Sequence[Example],
        batches: EpochBatches,
        pad_token_id: int,
        autocast: Autocast,
        eval_batch: int,
        label_smoothing: float,
        folder: Path,
        identity: str,
        pace: Pace,
        metrics: Metrics,
        stop: Stop,
    ) -> None:
        build = partial(build_batch, packed=batches.packed, pad_token_id=pad_token_id)
        super().__init__(
            model, arguments, train_dataset=Rows(train), data_collator=lambda pieces: [build(piece) for piece in pieces]
        )
        self.loss_is_scaled_for_ga = True  # compute_loss divides by the tokens of the whole step
        self.pop_callback(PrinterCallback)  # metrics are ours
        self.add_callback(Pacemaker(self))
        self.held_out, self.batches, self.pad_token_id = held_out, batches, pad_token_id
        self.autocast, self.eval_batch, self.label_smoothing = autocast, eval_batch, label_smoothing
        self.folder, self.identity, self.pace, self.metrics, self.stop = folder, identity, pace, metrics, stop
        self.found = Found()
        self._unlogged: tuple[float, int] | None = None
        self._loss: torch.Tensor | None = None

    # --- optimizer and schedule ---

    def create_optimizer(self, *given: Any, **named: Any) -> Any:
        with fitting_settings("TrainingArguments.optim"):
            return super().create_optimizer(*given, **named)

    def create_scheduler(self, *given: Any, **named: Any) -> Any:
        with fitting_settings("TrainingArguments.lr_scheduler_type"):
            return super().create_scheduler(*given, **named)

    # --- batches and loss ---

    def get_train_dataloader(self) -> DataLoader[list[Example]]:
        # A generator of its own, or the loader draws from torch's and an interrupted run would drift from a whole one.
        return DataLoader(
            self.train_dataset, batch_sampler=self.batches, collate_fn=self.data_collator, generator=torch.Generator()
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[list[dict[str, Any]]], num_batches: int, device: torch.device
    ) -> tuple[list[list[dict[str, Any]]], torch.Tensor]:
        """The micro-batches of one step, as a single sample, and the trained tokens in them over all ranks."""
        samples = [pieces for _, pieces in zip(range(num_batches), epoch_iterator, strict=False)]
        trained = sum(trained_tokens(batch) for pieces in samples for batch in pieces)
        seen = sum(seen_tokens(batch) for pieces in samples for batch in pieces)
        trained_by_all, seen_by_all = sum_over_ranks([trained, seen])
        self.metrics.tokens += int(seen_by_all)
        self.state.num_input_tokens_seen = self.metrics.tokens
        return samples, torch.tensor(max(trained_by_all, 1.0), device=device)

    def training_step(
        self, model: Any, inputs: list[dict[str, Any]], num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        """All micro-batches of a step: as many as it needs, and gradients go from rank to rank with the last alone.

        transformers accumulates a fixed number of them; how many the rows of a step fill differs from step to step.
        """
        loss = torch.zeros((), device=self.args.device)
        for number, batch in enumerate(inputs, start=1):
            with contextlib.nullcontext() if number == len(inputs) else self.accelerator.no_sync(model):
                loss += super().training_step(model, batch, num_items_in_batch)
        self._loss = loss
        return loss

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """This micro-batch's part of the step's mean loss per trained token: parts of one step add up to it.

        Gradients of ranks are averaged, so each part counts as often as there are ranks.
        """
        if return_outputs or num_items_in_batch is None:
            raise ValueError("the loss is computed for a step of training alone")
        return token_losses(model, inputs, self.label_smoothing) * ranks() / num_items_in_batch

    def _get_grad_norm(self, model: Any, grad_norm: torch.Tensor | float | None = None) -> torch.Tensor | float:
        """Called once a step, right before the optimizer's: the last chance to keep the weights clean."""
        norm = super()._get_grad_norm(model, grad_norm)
        # float16: steps with an infinite gradient are skipped by design, and the scale is halved each time. Once it is
        # below 1 the gradient itself, not its scale, is too large for the type.
        scaler = self.accelerator.scaler
        broken = not math.isfinite(float(norm)) and (scaler is None or scaler.get_scale() < 1)
        if self._loss is not None and not torch.isfinite(self._loss):
            broken = True
        if broken:
            raise DivergedFailure(
                f"the loss or its gradient is not a number at step {self.state.global_step + 1}"
                f" (learning rate {self._get_learning_rate():.2g})",
                AGAINST_DIVERGENCE,
            )
        return cast("torch.Tensor | float", norm)

    def floating_point_ops(self, _inputs: dict[str, Any]) -> int:
        return 0  # transformers walks through all parameters at each micro-batch to count them; nobody reads it

    # --- metrics and evaluation ---

    def log(self, logs: dict[str, float], _start_time: float | None = None) -> None:
        if "learning_rate" in logs:
            grad_norm = float(logs.get("grad_norm", math.nan))
            self.metrics.step(
                step=self.state.global_step,
                total=self.state.max_steps,
                epoch=float(self.state.epoch or 0),
                loss=logs["loss"],
                learning_rate=logs["learning_rate"],
                grad_norm=grad_norm if math.isfinite(grad_norm) else None,
            )
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measure the held-out loss now, and keep the adapter if it is the best so far."""
        self.metrics.pause()
        measured = in_smaller_batches(
            self._held_out_loss, self.eval_batch, lambda: release_memory(self.model), may_halve=ranks() == 1
        )
        step = self.state.global_step
        if measured is None:  # stopped: saved as it is, and measured first of all when the run goes on
            self.stop.requested = True
            self.control.should_save = self.control.should_training_stop = True
        else:
            require_finite_loss(measured.loss, step)  # the checkpoint of this step is written after its evaluation
            self.metrics.evaluation(step=step, loss=measured.loss)
            if rank() == 0:
                print(f"evaluation at step {step}: held-out loss {measured.loss:.4f}", flush=True)
            best = self.found.best_loss
            self.found.evaluations[step] = measured.loss
            if best is None or measured.loss < best:
                self.found.best_step, self.found.best_weights = step, adapter_weights(self.model)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, {})
        self.control.should_training_stop |= self.is_out_of_patience()
        self.metrics.go_on()
        return {}

    def _held_out_loss(self, rows: int) -> HeldOutLoss | None:
        """In batches of so many rows; the next evaluation begins with as many."""
        self.eval_batch = rows
        return held_out_loss(
            self.model,
            self.held_out,
            batch_size=rows,
            pad_token_id=self.pad_token_id,
            device=self.args.device,
            autocast=self.autocast,
            packed=self.batches.packed,
            should_stop=lambda: self.stop.requested,
        )

    def is_out_of_patience(self) -> bool:
        """Whether the last evaluations were no better than one before. Follows from what a checkpoint keeps."""
        return self.pace.patience is not None and self.found.without_improvement >= self.pace.patience

    def is_evaluation_due(self) -> bool:
        step = self.state.global_step
        return bool(self.held_out) and step in self.pace.evaluate_at and step not in self.found.evaluations

    # --- checkpoints ---

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """transformers' checkpoint, written where none is looked for, and then made one."""
        step = self.state.global_step
        require_finite({name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}, step)
        self.metrics.pause()
        name = f"{checkpoints.PREFIX}{step}"
        part = self.folder / checkpoints.PART / name
        try:
            if rank() == 0:
                checkpoints.part_folder(self.folder)
            barrier()
            super()._save_checkpoint(model, trial)
            barrier()
            if rank() == 0:
                checkpoints.publish(part, self.folder / name, step=step, identity=self.identity)
                checkpoints.prune(self.folder)
                part.parent.rmdir()
            barrier()
        except (OSError, SafetensorError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in TORCH_CANNOT_WRITE):
                raise
            raise TemporaryFailure(
                f"the checkpoint of step {step} cannot be written to {self.folder}: {error}",
                "make room on that volume; the run goes on from the checkpoint before",
                reason="CheckpointNotWritable",
            ) from error
        self.metrics.go_on()

    def _save(self, output_dir: str | None = None, _state_dict: Any = None) -> None:
        """The adapter, and what transformers knows nothing of."""
        unlogged = sum_over_ranks([self._tr_loss.item() / ranks()])[0]
        if rank() != 0:
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(adapter_weights(self.model), folder / ADAPTER, metadata={"format": "pt"})
        if self.found.best_weights is not None:
            save_file(self.found.best_weights, folder / BEST_ADAPTER, metadata={"format": "pt"})
        own = {
            "evaluations": {str(step): loss for step, loss in self.found.evaluations.items()},
            "best_step": self.found.best_step,
            "unlogged": [unlogged, self._globalstep_last_logged],
        }
        (folder / OWN_STATE).write_text(json.dumps(own), encoding="utf-8")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, _model: Any = None) -> None:
        """The adapter's weights. What else is ours in a checkpoint was read by `restore`, which comes first."""
        load_adapter_weights(self.model, load_file(Path(resume_from_checkpoint) / ADAPTER))

    def go_on_logging(self) -> None:
        """After a resume: the losses since the last line of metrics count in the next one, as if nothing had been."""
        if self._unlogged is not None:
            self._tr_loss += self._unlogged[0]
            self._globalstep_last_logged = self._unlogged[1]

    def let_go(self) -> None:
        """Undo what mixed precision put around the model, so that another trainer can be built on it."""
        self.accelerator.unwrap_model(self.model_wrapped, keep_fp32_wrapper=False)
        self.optimizer = self.lr_scheduler = self.model_wrapped = None
        self.accelerator.free_memory()

    def restore(self, checkpoint: checkpoints.Checkpoint) -> None:
        """What the run knew at the checkpoint, and the evaluation that was due there and not made."""
        self._load_from_checkpoint(str(checkpoint.path))
        own = json.loads((checkpoint.path / OWN_STATE).read_text(encoding="utf-8"))
        best = checkpoint.path / BEST_ADAPTER
        self.found = Found(
            {int(step): loss for step, loss in own["evaluations"].items()},
            own["best_step"],
            load_file(best) if best.exists() else None,
        )
        self._unlogged = (own["unlogged"][0], own["unlogged"][1])
        self.state = TrainerState.load_from_json(str(checkpoint.path / "trainer_state.json"))
        if self.is_evaluation_due():
            self.evaluate()
