"""What a plan refuses because nothing here can make it true: said before anything is fetched or bought."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import PurePath
from typing import Any

from kaito.api.evaluations import evaluation_steps
from kaito.api.schema import nearest
from kaito.api.training_rules import contradictions, unmet_evaluation
from kaito.api.workspace import Tuning
from kaito.contract import ROWS_FOR_A_SPLIT, Observed, Refusal
from kaito.plan.destinations import host_folder
from kaito.plan.settings import Basis, Chosen, rows_per_step, step_limit, trained_rows

ALL_LINEAR = "all-linear"
EMBEDDINGS = ("embed_tokens", "word_embeddings", "lm_head")
KERNELS_OF_GPUS = frozenset({"flash_attention_2", "flash_attention_3", "flex_attention"})


def refuse_tuning(tuning: Tuning, observed: Observed) -> Refusal | None:
    """Of what was typed, with where it shall run."""
    if observed.device is None:
        return None
    for field, part in (("input", tuning.input), ("output", tuning.output)):
        volume = part.volume_source if part is not None else None
        refusal = _refuse_volume(f"tuning.{field}.volumeSource", volume)
        if refusal is not None:
            return refusal
    return _refuse_overlap(tuning)


def _refuse_overlap(tuning: Tuning) -> Refusal | None:
    """Results among the data would be read as data by the next run."""
    if tuning.input is None or tuning.output is None or tuning.output.image:
        return None
    if tuning.input.urls or tuning.input.image:
        return None
    data = PurePath(host_folder(tuning.input.volume_source, ""))
    results = PurePath(host_folder(tuning.output.volume_source, ""))
    if results != data and data not in results.parents and results not in data.parents:
        return None
    message = f"the output folder {results} and the data's folder {data} lie within each other"
    return Refusal("OutputIsInput", message, "Give the adapter a folder of its own.")


def _refuse_volume(field: str, volume: Mapping[str, Any] | None) -> Refusal | None:
    if volume is None or "hostPath" in volume:
        return None
    kinds = ", ".join(sorted(volume)) or "nothing"
    message = f"{field} is of kind {kinds}, which exists on a cluster alone"
    return Refusal("VolumeNeedsCluster", message, "On this machine use hostPath: {path: FOLDER}.")


def refuse_settings(
    tuning: Tuning, chosen: Chosen, basis: Basis, linears: Collection[str] = frozenset()
) -> Refusal | None:
    """Of what was typed, with the settings that follow. `linears`: of the base model; empty where not known."""
    for found in contradictions(chosen.config()):
        return Refusal("ConfigInvalid", f"{found.field}: {found.message}", "Correct it in the configuration.")
    unknown = unknown_modules(chosen, linears)
    if unknown and len(unknown) == len(chosen.get("LoraConfig", "target_modules")):
        message = f"LoraConfig.target_modules: the base model has no module {unknown[0]}"
        near = nearest(unknown[0], linears)
        hint = f"Did you mean {near}? " if near else ""
        return Refusal("ConfigInvalid", message, f"{hint}Its linear layers: {', '.join(sorted(linears))}.")
    kernel = chosen.get("ModelConfig", "attn_implementation")
    if basis.device == "cpu" and kernel in KERNELS_OF_GPUS:
        message = f"ModelConfig.attn_implementation: {kernel} trains on a GPU alone"
        return Refusal("ConfigInvalid", message, "Leave it out, or use sdpa or eager.")
    return _refuse_evaluation(tuning, chosen, basis.rows)


def unknown_modules(chosen: Chosen, linears: Collection[str]) -> list[str]:
    """Which of `target_modules` the base model does not have. A pattern (one text) is left to the trainer."""
    modules = chosen.get("LoraConfig", "target_modules")
    if not linears or not isinstance(modules, list) or modules == [ALL_LINEAR]:
        return []
    return [name for name in modules if name.rpartition(".")[2] not in {*linears, *EMBEDDINGS}]


def idle_patience(tuning: Tuning, chosen: Chosen, basis: Basis) -> tuple[str, ...]:
    """The warning that early stopping cannot come before the last step, once the rows are counted."""
    patience = tuning.evaluation.early_stopping_patience if tuning.evaluation is not None else None
    if patience is None or not basis.rows:
        return ()
    steps_per_epoch = math.ceil(trained_rows(chosen, basis) / rows_per_step(chosen, basis))
    arguments = "TrainingArguments"
    evaluations = evaluation_steps(
        total=step_limit(chosen) or math.ceil(chosen.get(arguments, "num_train_epochs") * steps_per_epoch),
        steps_per_epoch=steps_per_epoch,
        strategy=chosen.get(arguments, "eval_strategy") or "epoch",
        every=chosen.get(arguments, "eval_steps"),
    )
    if patience + 1 < len(evaluations):  # the first is the best so far, and after the last there is nothing to stop
        return ()
    times = f"{len(evaluations)} evaluation{'' if len(evaluations) == 1 else 's'}"
    return (
        f"tuning.evaluation.earlyStoppingPatience {patience} never stops this training of {times}: lower it, or set "
        "eval_strategy: steps and eval_steps",
    )


def _refuse_evaluation(tuning: Tuning, chosen: Chosen, rows: int) -> Refusal | None:
    """What the held-out loss shall decide. `rows`: those that teach something; 0 before they are counted."""
    for key, lacks, remedy in unmet_evaluation(tuning.evaluation, chosen.config()):
        return Refusal("NothingHeldOut", f"tuning.evaluation.{key} {lacks}", remedy)
    asked = tuning.evaluation.model_dump(by_alias=True, exclude_none=True) if tuning.evaluation is not None else {}
    if asked and 0 < rows < ROWS_FOR_A_SPLIT:
        field = f"tuning.evaluation.{next(iter(asked))}"
        message = f"{field} needs held-out rows, and of {rows} rows to learn from none are: it takes {ROWS_FOR_A_SPLIT}"
        return Refusal("NothingHeldOut", message, "Give more rows, or leave tuning.evaluation out.")
    return None
