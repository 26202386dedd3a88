"""What the training configuration says about data, put into effect: which files, which columns, how rendered."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from kaito.api.sections import COLUMNS, DatasetConfig
from kaito.api.training import TrainingConfig
from kaito.datasets.columns import Columns
from kaito.datasets.files import RECOGNISED, DataFile, Listing, find_names, how_to_give_data, recognise, scan_folder
from kaito.datasets.render import Loss, Renderer
from kaito.datasets.templates import read_json
from kaito.failure import ConfigFailure, DataFailure

_FORMATS = {
    "json": ("json", "jsonl"),
    "jsonl": ("json", "jsonl"),
    "csv": ("csv", "tsv"),
    "tsv": ("csv", "tsv"),
    "parquet": ("parquet",),
    "arrow": ("arrow",),
}
_SHOWN_NAMES = 5
# The context in a model's config.json by its usual names, and where the language model's part of it may be nested.
_CONTEXT = ("max_position_embeddings", "n_ctx", "n_positions", "seq_length", "max_seq_len", "max_sequence_length")
_LANGUAGE_MODEL = ("text_config", "llm_config")


def build_renderer(model_folder: Path, config: TrainingConfig) -> Renderer:
    """The renderer that preflight and training share. Raises ModelFailure, ConfigFailure.

    Rows are cut at `max_length` or at the base model's context, whichever is less; the log says so if it is the latter.
    """
    asked, context = config.training.max_length, read_context(model_folder)
    if asked is not None and context is not None and context < asked:
        print(
            f"warning: max_length {asked} is beyond the base model's context: rows are cut at {context} tokens",
            file=sys.stderr,
            flush=True,
        )
    return Renderer.load(
        model_folder,
        chat_template=config.model.chat_template or config.training.chat_template_path,
        max_length=min((length for length in (asked, context) if length is not None), default=None),
        columns=columns_of(config.dataset, config.training.dataset_text_field),
        keep_end=config.training.truncation_mode == "keep_end",
        long_rows=config.dataset.long_rows or "truncate",
        loss=loss_of(config),
        eos_token=config.training.eos_token,
    )


def read_context(model_folder: Path) -> int | None:
    """Tokens of the model's context by its config.json, None where that names none. Raises ModelFailure."""
    config = read_json(model_folder / "config.json")
    nested = [part for key in _LANGUAGE_MODEL if isinstance(part := config.get(key), dict)]
    for part in [config, *nested]:
        for name in _CONTEXT:
            value = part.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None


def columns_of(dataset: DatasetConfig, text: str | None = None) -> Columns:
    """Where the configuration says the standard columns are. `text`: TrainingArguments.dataset_text_field."""
    said = {name: column for name in COLUMNS if (column := getattr(dataset, f"{name}_column", None))}
    if text is not None and text != "text":  # TRL's own default, which says nothing of the format
        said.setdefault("text", text)
    return Columns((dataset.column_mapping or {}) | said)


def loss_of(config: TrainingConfig) -> Loss:
    """Which tokens are learnt. Raises ConfigFailure for keys that contradict each other."""
    loss = Loss(
        assistant_only=config.training.assistant_only_loss is not False,
        completion_only=config.training.completion_only_loss is not False,
        last_turn_only=config.dataset.train_on_last_turn_only is True,
    )
    if loss.last_turn_only and not loss.assistant_only:
        raise ConfigFailure(
            "TrainingArguments.assistant_only_loss is false, which learns all turns, and "
            "DatasetConfig.train_on_last_turn_only is true",
            "leave one of them out",
        )
    return loss


def scan_data(data: Path, dataset: DatasetConfig) -> Listing:
    """The files at `dataset_path` of the folder `data` (of the one file, that one). Raises DataFailure where there is
    none, and where one is not what it claims to be or what `dataset_extension` says; ConfigFailure."""
    if data.is_dir():
        below = (dataset.dataset_path or "").removeprefix("/mnt/data").strip("/")
        listing = scan_folder(data, below)
        if not listing.files:
            raise _nothing_at(below, data)
    elif (found := recognise(data, data.name)) is None:
        raise DataFailure(f"{data} is not a data file", how_to_give_data([data.name]))
    else:
        listing = Listing((DataFile(data, data.name, found, data.stat().st_size),), ())
    _require_extension(listing.files, dataset)
    return listing


def _nothing_at(below: str, data: Path) -> DataFailure:
    names = [name for name in find_names(data)[0] if name.isprintable()][:_SHOWN_NAMES] if below else []
    if names:
        return DataFailure(f"no data file at DatasetConfig.dataset_path {below!r}", f"found: {', '.join(names)}")
    return DataFailure(f"no data file in {data}: it is empty", how_to_give_data([]), reason="NoData")


def _require_extension(files: Sequence[DataFile], dataset: DatasetConfig) -> None:
    extension = (dataset.dataset_extension or "").lower().removeprefix(".").removesuffix(".gz")
    if extension:
        formats = _FORMATS.get(extension)
        if formats is None:
            hint = f"what is read: {RECOGNISED}"
            raise ConfigFailure(f"DatasetConfig.dataset_extension: {extension!r} is not read", hint)
        for file in files:
            if file.kind not in formats:
                rule = f"{file.name} is {file.format}, DatasetConfig.dataset_extension says {extension}"
                raise DataFailure(rule, "leave dataset_extension out: files are recognised by their content")
