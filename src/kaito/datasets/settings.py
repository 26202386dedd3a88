"""What the training configuration says about data, put into effect: which files, which columns, how rendered."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from kaito.api.sections import DatasetConfig
from kaito.api.training import TrainingConfig
from kaito.datasets.files import RECOGNISED, DataFile
from kaito.datasets.formats import RECOGNISED as RECOGNISED_ROWS
from kaito.datasets.render import Renderer
from kaito.datasets.templates import read_json
from kaito.failure import ConfigFailure, DataFailure

_FORMATS = {"json": ("json", "jsonl"), "jsonl": ("json", "jsonl"), "parquet": ("parquet",)}
_STANDARD = {"messages": "messages", "prompt": "prompt", "completion": "completion", "response": "completion"}
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
        chat_template=config.model.chat_template,
        max_length=min((length for length in (asked, context) if length is not None), default=None),
        columns=columns_of(config.dataset),
        keep_end=config.training.truncation_mode == "keep_end",
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


def columns_of(dataset: DatasetConfig) -> dict[str, str]:
    """Our column name -> the data's. Raises ConfigFailure for a column of a format that is not read."""
    said = {
        "messages": dataset.messages_column,
        "prompt": dataset.prompt_column,
        "context": dataset.context_column,
        "response": dataset.response_column,
        "text": dataset.text_column,
    }
    columns: dict[str, str] = {}
    for name, column in ((dataset.column_mapping or {}) | {key: text for key, text in said.items() if text}).items():
        if name not in _STANDARD:
            raise ConfigFailure(f"DatasetConfig: column {name!r} belongs to a format that is not read", RECOGNISED_ROWS)
        columns[_STANDARD[name]] = column
    return columns


def select_files(files: Sequence[DataFile], dataset: DatasetConfig) -> list[DataFile]:
    """The files that `dataset_path` and `dataset_extension` leave. Raises DataFailure where that is none."""
    chosen = [file for file in files if _is_below(file.name, dataset.dataset_path)]
    if not chosen:
        where = f" at DatasetConfig.dataset_path {dataset.dataset_path!r}" if dataset.dataset_path and files else ""
        found = ", ".join(file.name for file in files[:5]) if where else ""
        hint = f"found: {found}" if found else f"what is read: {RECOGNISED}"
        raise DataFailure(f"no data file{where}", hint)
    extension = (dataset.dataset_extension or "").removeprefix(".").lower()
    if extension:
        formats = _FORMATS.get(extension)
        if formats is None:
            hint = f"what is read: {RECOGNISED}"
            raise ConfigFailure(f"DatasetConfig.dataset_extension: {extension!r} is not read", hint)
        for file in chosen:
            if file.format not in formats:
                rule = f"{file.name} is {file.format}, DatasetConfig.dataset_extension says {extension}"
                raise DataFailure(rule, "leave dataset_extension out: files are recognised by their content")
    return chosen


def _is_below(name: str, path: str | None) -> bool:
    wanted = (path or "").removeprefix("/mnt/data").strip("/")
    return wanted in ("", ".") or name == wanted or name.startswith(wanted + "/")
