"""Which files of a model's repository are needed: configuration and tokenizer, and the weights as safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kaito.contract import digest_of
from kaito.failure import ModelFailure

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"

_METADATA = frozenset(
    {
        CONFIG,
        INDEX,
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
        "spiece.model",
        "tiktoken.model",
        "chat_template.jinja",
        "chat_template.json",
        "preprocessor_config.json",
        "processor_config.json",
    }
)
_CODE = ".py"  # of a model that transformers does not know; it runs with trust_remote_code alone
_LEGAL = ("readme.md", "license", "licence", "notice", "use_policy", "usage_policy")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_NOT_WEIGHTS = ("consolidated", "adapter_model", "training_args", "optimizer")


@dataclass(frozen=True, slots=True)
class RepoFile:
    """A file of a repository. `sha256` in hex, or `blob`, Git's SHA-1 of the content, where the hub tells only that."""

    path: str
    bytes: int
    sha256: str = ""
    blob: str = ""

    @property
    def address(self) -> str:
        """The name of its content in a cache."""
        return f"sha256-{self.sha256}" if self.sha256 else f"git-{self.blob}"


def metadata_names(names: Sequence[str]) -> list[str]:
    """Configuration, tokenizer and template files, sorted. Raises ModelFailure where it is no model to load."""
    if CONFIG not in names:
        raise _not_a_model(names)
    return sorted(name for name in names if name in _METADATA or (name.endswith(_CODE) and "/" not in name))


def legal_names(names: Sequence[str]) -> list[str]:
    """The model's card and its terms, sorted: what has to go with a copy of it."""
    return sorted(name for name in names if "/" not in name and name.lower().startswith(_LEGAL))


def weight_names(names: Sequence[str], index: Mapping[str, object] | None) -> list[str]:
    """The safetensors files to load, sorted: those of the index, else `model.safetensors`, else all at the top.

    Raises ModelFailure where there are none, or the index names one that is missing.
    """
    if index is not None:
        listed = index.get("weight_map")
        if not isinstance(listed, dict) or not listed:
            raise ModelFailure(f"{INDEX} of the model has no weight_map", "the repository is damaged: choose another")
        wanted = sorted({str(name) for name in listed.values()})
        missing = [name for name in wanted if name not in names]
        if missing:
            raise ModelFailure(f"{INDEX} names {missing[0]}, which is missing", "complete the model's files")
        return wanted
    if "model.safetensors" in names:
        return ["model.safetensors"]
    found = sorted(
        name
        for name in names
        if name.endswith(".safetensors") and "/" not in name and not name.startswith(_NOT_WEIGHTS)
    )
    if found:
        return found
    if any(name.endswith(_PICKLES) for name in names):
        raise ModelFailure(
            "the model's weights are pickle files (.bin, .pt), which can run code when they are read",
            "convert them to safetensors, or choose a repository or revision that has these",
            reason="WeightsNotSafetensors",
        )
    raise _not_a_model(names)


def parse_index(text: bytes) -> dict[str, object]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ModelFailure(f"{INDEX} of the model is not JSON: {error}", "fetch the model again") from error
    return value if isinstance(value, dict) else {}


def digest_of_repo_files(files: Sequence[RepoFile]) -> str:
    """`sha256:…` over the names and contents of files."""
    return digest_of(sorted([file.path, file.sha256 or f"git:{file.blob}"] for file in files))


def _not_a_model(names: Sequence[str]) -> ModelFailure:
    reason = "NotAModel"
    if "adapter_config.json" in names:
        hint = "name its base model as the preset; adapters are listed under inference.adapters"
        return ModelFailure("this is an adapter, not a base model", hint, reason=reason)
    if any(name.endswith(".gguf") for name in names):
        hint = "choose the repository with the original weights as safetensors"
        return ModelFailure("this is a GGUF model, which cannot be tuned", hint, reason=reason)
    if any(name.startswith("consolidated") and name.endswith(".safetensors") for name in names):
        hint = "choose a repository in the Transformers format (config.json and model*.safetensors)"
        return ModelFailure("the model is in Mistral's own format alone", hint, reason=reason)
    hint = "a model has config.json and *.safetensors at the top of its folder"
    return ModelFailure("this is no model: config.json or its weights are missing", hint, reason=reason)
