"""The training configuration: KAITO's six sections as typed models, read from YAML, merged, and written again.

What a section may hold is in `sections` and `training_arguments`; what is accepted without effect, in `effects`.
Which values count where nobody said anything is the plan's decision.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from pydantic import Field

from kaito.api.documents import Document, FieldError, parse_documents
from kaito.api.effects import ADVICE, RENAMED, RETIRED, is_without_effect
from kaito.api.paths import Path, format_path
from kaito.api.schema import Typed, show, unknown_key, validate
from kaito.api.sections import DataCollator, DatasetConfig, LoraConfig, ModelConfig, QuantizationConfig
from kaito.api.training_arguments import TrainingArguments
from kaito.failure import ConfigFailure

__all__ = [
    "DataCollator",
    "DatasetConfig",
    "LoraConfig",
    "ModelConfig",
    "ParsedTrainingConfig",
    "QuantizationConfig",
    "TrainingArguments",
    "TrainingConfig",
    "dump_training_config",
    "load_training_config",
    "merge",
    "parse_training_config",
    "read_training_config",
    "with_present_names",
]

TRAINING_CONFIG_KEY = "training_config.yaml"
"""The key of a ConfigMap under which the training configuration stands."""

LineOf = Callable[[Path], int]

_OUTPUT = "/mnt/results"
_KNOWN_PATHS = ("/workspace/chat_templates/", "/workspace/tfs/weights", "/workspace/weights", "/mnt/")


class TrainingConfig(Typed):
    """KAITO's six sections. A section that is absent, empty or null says nothing."""

    model: ModelConfig = Field(default_factory=ModelConfig, alias="ModelConfig")
    """How the base model is loaded."""
    quantization: QuantizationConfig = Field(default_factory=QuantizationConfig, alias="QuantizationConfig")
    """How the base model is quantised."""
    lora: LoraConfig = Field(default_factory=LoraConfig, alias="LoraConfig")
    """The adapter."""
    training: TrainingArguments = Field(default_factory=TrainingArguments, alias="TrainingArguments")
    """The run."""
    dataset: DatasetConfig = Field(default_factory=DatasetConfig, alias="DatasetConfig")
    """The data."""
    collator: DataCollator = Field(default_factory=DataCollator, alias="DataCollator")
    """KAITO's collator section; nothing in it has an effect."""


SECTIONS = tuple(info.alias or name for name, info in TrainingConfig.model_fields.items())


@dataclass(frozen=True, slots=True)
class ParsedTrainingConfig:
    """`config` is None exactly when there are errors. Lines count in the text that was given."""

    config: TrainingConfig | None
    errors: tuple[FieldError, ...] = ()
    warnings: tuple[FieldError, ...] = ()


# --- reading --------------------------------------------------------------------------------------------------------


def parse_training_config(text: str | bytes, *, file: str = "") -> ParsedTrainingConfig:
    """A `training_config.yaml`: one document, with the sections under `training_config`. Rules K3 to K5, K10, K11."""
    documents = parse_documents(text, file=file)
    if not documents:
        return _failed(FieldError("training_config", "the text is empty; expected `training_config:` with sections"))
    if len(documents) > 1:
        line = documents[1].line_of(())
        return _failed(FieldError("training_config", "more than one YAML document; keep one", line))
    document = documents[0]
    if document.value is None and document.errors:
        return ParsedTrainingConfig(None, document.errors)
    return _parse_document(document)


def _parse_document(document: Document) -> ParsedTrainingConfig:
    value = document.value
    if not isinstance(value, dict) or "training_config" not in value:
        message = "expected the key `training_config` at the top, holding the sections"
        return _failed(FieldError("training_config", message, document.line_of(())))
    extra = tuple(
        FieldError(format_path((key,)), unknown_key(key, ["training_config"]), document.line_of((key,)))
        for key in value
        if key != "training_config"
    )
    at: Path = ("training_config",)
    parsed = read_training_config(value["training_config"], lambda path: document.line_of((*at, *path)), at)
    errors = (*document.errors, *extra, *parsed.errors)
    return ParsedTrainingConfig(None if errors else parsed.config, errors, parsed.warnings)


def read_training_config(value: Any, line_of: LineOf, at: Path = ()) -> ParsedTrainingConfig:
    """The sections from plain values that stand at the path `at`; `line_of` takes the path below it."""
    if value is None:
        value = {}
    if not isinstance(value, dict):
        message = f"expected a mapping of the sections {', '.join(SECTIONS)}"
        return _failed(FieldError(format_path(at), message, line_of(())))
    reader = _Reader(line_of, at)
    sections = reader.current_sections(value)
    config, complaints = validate(TrainingConfig, sections, reader.line_of_current, at)
    reader.errors += complaints
    for section, content in sections.items():
        for key, setting in content.items():
            reader.check_effect(section, key, setting)
    errors = tuple(reader.errors)
    return ParsedTrainingConfig(None if errors else config, errors, tuple(reader.warnings))


def with_present_names(value: Mapping[str, Any]) -> dict[str, Any]:
    """The sections with older keys under their present names and retired ones left out, for what was checked before."""
    return _Reader(lambda _: 1, ()).current_sections(value)


def load_training_config(path: FilePath) -> TrainingConfig:
    """The training configuration of a file. Raises ConfigFailure that names file, line and field of every problem."""
    try:
        parsed = parse_training_config(path.read_bytes(), file=str(path))
    except OSError as error:
        raise ConfigFailure(f"{path} cannot be read: {error.strerror}") from error
    if parsed.config is None:
        raise ConfigFailure(
            "; ".join(f"{path}:{error.line}: {error.field}: {error.message}" for error in parsed.errors)
        )
    return parsed.config


def _failed(error: FieldError) -> ParsedTrainingConfig:
    return ParsedTrainingConfig(None, (error,))


@dataclass(slots=True)
class _Reader:
    """Brings sections to present names and collects what it meets on the way."""

    line_of: LineOf
    at: Path
    errors: list[FieldError] = field(default_factory=list)
    warnings: list[FieldError] = field(default_factory=list)
    written: dict[Path, Path] = field(default_factory=dict)
    """Where a value stands after renaming -> where it was written."""

    def line_of_current(self, path: Path) -> int:
        return self.line_of((*self.written.get(path[:2], path[:2]), *path[2:]))

    def _note(self, notes: list[FieldError], path: Path, message: str) -> None:
        path = self.written.get(path, path)
        notes.append(FieldError(format_path((*self.at, *path)), message, self.line_of(path)))

    def current_sections(self, value: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        current: dict[str, dict[str, Any]] = {}
        for section, content in value.items():
            if section not in SECTIONS:
                message = unknown_key(section, SECTIONS).replace("unknown key", "unknown section")
                self._note(self.errors, (section,), message)
            elif isinstance(content, dict):
                current[section] = self._current_names(section, content)
            elif content is not None:
                self._note(self.errors, (section,), "expected a mapping of this section's keys")
        return current

    def _current_names(self, section: str, content: Mapping[str, Any]) -> dict[str, Any]:
        """The section with older names replaced and retired keys left out, each with a warning."""
        current: dict[str, Any] = {}
        for key, value in content.items():
            path = (section, key)
            name = RENAMED.get(section, {}).get(key, key)
            problem, setting = _translated(section, key, value)
            if problem:
                self._note(self.errors, path, problem)
            elif key in RETIRED.get(section, ()):
                self._note(self.warnings, path, "a key of older versions, without effect here")
            elif name == key:
                current[key] = value
            elif content.get(name):
                self._note(self.warnings, path, f"{name} is given too and wins")
            else:
                self._note(self.warnings, path, f"read as {name}: {show(setting)}")
                current[name] = setting
                self.written[section, name] = path
        return current

    def check_effect(self, section: str, key: str, value: Any) -> None:
        problem = _path_problem(section, key, value)
        warning = _effect_warning(section, key, value)
        if problem:
            self._note(self.errors, (section, key), problem)
        elif warning:
            self._note(self.warnings, (section, key), warning)


def _translated(section: str, key: str, value: Any) -> tuple[str, Any]:
    """(what is wrong with an older key's value, or ""; the value under its present name)."""
    if section == "TrainingArguments" and key == "group_by_length":
        if not isinstance(value, bool):
            return "expected true or false", None
        return "", "group_by_length" if value else "random"
    if section == "TrainingArguments" and key == "warmup_ratio" and isinstance(value, int | float) and value >= 1:
        return f"expected a number from 0 to less than 1, got {show(value)}", None
    return "", value


def _path_problem(section: str, key: str, value: Any) -> str:
    """What is wrong with a path of this machine or of a Pod in a configuration, or ""."""
    if (section, key) == ("TrainingArguments", "output_dir"):
        return _output_problem(value)
    if (section, key) == ("DatasetConfig", "dataset_path"):
        leaves = isinstance(value, str) and ".." in value.split("/")
        return "the path leaves the data; name a file or folder within it" if leaves else ""
    if not isinstance(value, str) or "\n" in value or not value.startswith("/"):
        return ""
    if posixpath.normpath(value) == value.rstrip("/") and value.startswith(_KNOWN_PATHS):
        return ""
    return f"the path {value!r} exists in no Pod; use a name relative to this file, or put the file into the ConfigMap"


def _output_problem(value: Any) -> str:
    """K10 and K11: a path that is not below /mnt counts from there, as in KAITO, and must not climb out."""
    if value is None or not isinstance(value, str):
        return ""  # the type is checked by the model
    cleaned = posixpath.normpath(value if f"{value}/".startswith("/mnt/") else f"/mnt/{value}")
    if cleaned.startswith("/mnt/"):
        return ""
    return f"{value!r} is no folder below /mnt; leave output_dir out, the results' place is ours"


def _effect_warning(section: str, key: str, value: Any) -> str:
    if (section, key) == ("TrainingArguments", "output_dir"):
        same = not isinstance(value, str) or posixpath.normpath(value) == _OUTPUT
        return "" if same else f"without effect: the results are always in {_OUTPUT}"
    if not is_without_effect(section, key, value):
        return ""
    advice = ADVICE.get((section, key))
    return "without effect" + (f": {advice}" if advice else "")


# --- merging and writing --------------------------------------------------------------------------------------------


def merge(base: TrainingConfig, over: TrainingConfig) -> TrainingConfig:
    """`base` with every key that `over` says. Key by key: a dict or list of `over` replaces the whole value."""
    sections = {}
    for name in TrainingConfig.model_fields:
        said = getattr(over, name).model_dump(exclude_none=True)
        sections[name] = getattr(base, name).model_copy(update=said)
    return TrainingConfig(**sections)


def dump_training_config(config: TrainingConfig) -> str:
    """A `training_config.yaml` of what the configuration says, in a stable order. Parsing it gives the same again."""
    from io import StringIO

    from ruamel.yaml import YAML

    sections = config.model_dump(mode="json", by_alias=True, exclude_none=True)
    said = {section: content for section, content in sections.items() if content}
    yaml = YAML(typ="rt", pure=True)
    yaml.default_flow_style = False
    yaml.allow_unicode = True
    yaml.width = 2**20
    text = StringIO()
    yaml.dump({"training_config": _quoted(said)}, text)
    return text.getvalue()


def _quoted(value: Any) -> Any:
    """Strings in quotes, or as blocks: a reader of YAML 1.1 would take a bare `no` for a boolean."""
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString, LiteralScalarString

    if isinstance(value, dict):
        return {key: _quoted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_quoted(item) for item in value]
    if not isinstance(value, str):
        return value
    lines = value.split("\n")
    is_block = len(lines) > 1 and lines[0].strip() and all(line.isprintable() for line in lines)
    if is_block and value == value.strip() + "\n" * (value[-1] == "\n") and value[0] not in "#-%&*!|>":
        return LiteralScalarString(value)
    return DoubleQuotedScalarString(value)
