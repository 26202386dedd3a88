"""Base models: what a preset's name stands for, and what is known of it beforehand. Never asks the hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from kaito.catalog.entries import parse_amount, read_entries

_IMAGE = "oci://"
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True, slots=True)
class Model:
    """A base model. Sizes are 0, texts empty and `gated` None where the catalog does not say.

    name: short name, what a person writes in `preset.name`
    repo: `org/name` on the hub, `builtin:NAME`, `oci://IMAGE`, or the path of a folder
    commit: a full one that the catalog pins; empty: `resolve` pins what it finds
    parameters: nominal, of the model's name or card; the shapes give the exact number
    bytes: of the weight files as published
    head_dim: width of one attention head
    context: tokens
    kv_bytes_per_token: of a cache of two bytes an element
    quantization: of the published weights: fp8, awq/4, mxfp4…
    tunable: False for weights that are published quantised: an adapter cannot be trained on them here
    shapes_source: where layers, hidden, intermediate, heads and vocab come from; empty: they are not known
    known: False for a repository or folder that the catalog has no entry for
    """

    name: str
    repo: str
    aliases: tuple[str, ...] = ()
    parameters: int = 0
    bytes: int = 0
    layers: int = 0
    hidden: int = 0
    intermediate: int = 0
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    vocab: int = 0
    context: int = 0
    kv_bytes_per_token: int = 0
    architecture: str = ""
    licence: str = ""
    gated: bool | None = None
    quantization: str = ""
    tunable: bool = True
    shapes_source: str = ""
    known: bool = True
    commit: str = ""


def models() -> tuple[Model, ...]:
    """Every model of the catalog, in its order."""
    return _load()


def find_model(name: str) -> Model | None:
    """The model that a preset's name stands for, or None if the name stands for nothing.

    A short name, an alias or a repository of the catalog, in any case. Besides, any `org/name`, any folder (a path
    that starts with `/`, `./` or `../`), any image (`oci://…`) and `builtin:NAME` is a model of which nothing is known.
    """
    name = name.strip()
    found = _index().get(name.lower())
    if found is not None:
        return found
    if _REPO.fullmatch(name) or name.startswith(("/", "./", "../")):
        return Model(name=name.rstrip("/").rsplit("/", 1)[-1].lower(), repo=name, known=False)
    if name.startswith(_IMAGE) and len(name) > len(_IMAGE):
        repository = name.partition("@")[0].rsplit("/", 1)[-1].partition(":")[0]
        return Model(name=repository.lower(), repo=name, known=False)
    if name.startswith("builtin:") and len(name) > len("builtin:"):
        return Model(name=name.removeprefix("builtin:"), repo=name, known=False)
    return None


def nearest_models(name: str, count: int = 3) -> list[str]:
    """Short names of the catalog that look like `name`, best first, for the message that there is no such model."""
    from difflib import get_close_matches

    close = get_close_matches(name.strip().lower(), list(_index()), n=4 * count, cutoff=0.6)
    names = dict.fromkeys(_index()[key].name for key in close)
    return list(names)[:count]


@cache
def _load() -> tuple[Model, ...]:
    return tuple(_build_model(entry) for entry in read_entries("models.yaml"))


@cache
def _index() -> dict[str, Model]:
    return {key.lower(): model for model in _load() for key in (model.name, model.repo, *model.aliases)}


def _build_model(entry: Mapping[str, Any]) -> Model:
    shapes = entry.get("shapes", {})
    kv_bytes = 2 * 2 * shapes.get("layers", 0) * shapes.get("kv_heads", 0) * shapes.get("head_dim", 0)
    quantization = entry.get("quantization", "")
    return Model(
        name=entry["name"],
        repo=entry["repo"],
        aliases=tuple(entry.get("aliases", ())),
        parameters=parse_amount(entry.get("parameters")),
        bytes=parse_amount(entry.get("size")),
        layers=shapes.get("layers", 0),
        hidden=shapes.get("hidden", 0),
        intermediate=shapes.get("intermediate", 0),
        heads=shapes.get("heads", 0),
        kv_heads=shapes.get("kv_heads", 0),
        head_dim=shapes.get("head_dim", 0),
        vocab=shapes.get("vocab", 0),
        context=entry.get("context", 0),
        kv_bytes_per_token=entry.get("kv_bytes_per_token", kv_bytes),
        architecture=entry["architecture"],
        licence=entry["licence"],
        gated=entry.get("gated"),
        quantization=quantization,
        tunable=not quantization,
        shapes_source=shapes.get("source", ""),
        commit=entry.get("commit", ""),
    )
