"""What a plan refuses because nothing here can make it true: said before anything is fetched or bought."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from kaito.api.workspace import Preset, Tuning
from kaito.contract import Observed, Refusal
from kaito.plan.destinations import host_folder
from kaito.plan.settings import Chosen


def refuse_tuning(tuning: Tuning, observed: Observed) -> Refusal | None:
    """Of what was typed, with where it shall run."""
    private = refuse_private(tuning.preset)
    if private is not None or observed.device is None:
        return private
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


def refuse_private(preset: Preset | None) -> Refusal | None:
    """Weights from an image: accepted by the API, not yet by this version."""
    if preset is None or preset.access_mode != "private":
        return None
    message = "accessMode: private takes the base model from an image, which this version does not"
    hint = "Use the model's Hugging Face id or a folder as preset.name, with a modelAccessSecret where it is gated."
    return Refusal("PrivateImageNotSupported", message, hint)


def _refuse_volume(field: str, volume: Mapping[str, Any] | None) -> Refusal | None:
    if volume is None or "hostPath" in volume:
        return None
    kinds = ", ".join(sorted(volume)) or "nothing"
    message = f"{field} is of kind {kinds}, which exists on a cluster alone"
    return Refusal("VolumeNeedsCluster", message, "On this machine use hostPath: {path: FOLDER}.")


def refuse_settings(tuning: Tuning, chosen: Chosen) -> Refusal | None:
    """Of what was typed, with the settings that follow."""
    evaluation = tuning.evaluation
    if evaluation is None or evaluation.min_improvement is None:
        return None
    if chosen.get("DatasetConfig", "train_test_split") != 1:
        return None
    message = "tuning.evaluation.minImprovement needs held-out rows, and train_test_split: 1 holds none out"
    return Refusal("NothingHeldOut", message, "Set DatasetConfig.train_test_split to 0.95.")
