"""Rules about `inference` (R1, I1 to I3, I10, I11), adapters and mixes (U11, U12), and the configuration (F1 to F5)."""

from __future__ import annotations

import math
from typing import Any

from kaito.api.documents import FieldError, parse_documents
from kaito.api.findings import Findings, KnownModel, ValidationContext
from kaito.api.paths import Path
from kaito.api.references import subdomain_problem
from kaito.api.rules_sources import check_preset, check_source
from kaito.api.schema import show
from kaito.api.workspace import Adapter, Inference, Mix, Workspace

INFERENCE_CONFIG_KEY = "inference_config.yaml"
MAX_ADAPTERS = 10
RETIRED_PRESETS = frozenset(("phi-2",))
_AT: Path = ("inference",)


def check_inference(workspace: Workspace, inference: Inference, findings: Findings, context: ValidationContext) -> None:
    model: KnownModel | None = None
    if inference.preset is None and inference.template is None:
        findings.error(_AT, "either `preset` or `template` must be given; neither is")
    elif inference.preset is not None and inference.template is not None:
        findings.error(_AT, "either `preset` or `template` may be given, not both")
    if inference.preset is not None:
        if inference.preset.name.lower() in RETIRED_PRESETS:
            findings.error((*_AT, "preset", "name"), f"{inference.preset.name} is deprecated and no longer served")
        else:
            model = check_preset(inference.preset, (*_AT, "preset"), workspace.api_version, findings, context)
    if inference.template is not None:
        _check_template(inference.template, findings)
    check_adapters(inference.adapters or [], findings, context)
    _check_mixes(inference.mixes or [], inference.adapters or [], findings)
    if inference.config:
        _check_config(inference.config, model, findings, context)


def _check_template(template: dict[str, Any], findings: Findings) -> None:
    path = (*_AT, "template")
    for key in template:
        if key not in ("metadata", "spec"):
            findings.error((*path, key), "unknown key; a pod template has metadata and spec")
    spec = template.get("spec")
    containers = spec.get("containers") if isinstance(spec, dict) else None
    if not isinstance(containers, list) or not containers:
        findings.error((*path, "spec", "containers"), "missing; a pod template has at least one container")


# --- adapters -------------------------------------------------------------------------------------------------------


def check_adapters(adapters: list[Adapter], findings: Findings, context: ValidationContext) -> None:
    """I10, I11, U11, U12."""
    at: Path = (*_AT, "adapters")
    if len(adapters) > MAX_ADAPTERS:
        findings.error(at, f"{len(adapters)} adapters are given; at most {MAX_ADAPTERS} are allowed")
    names: dict[str, int] = {}
    for position, adapter in enumerate(adapters):
        path: Path = (*at, position)
        _check_strength(adapter.strength, (*path, "strength"), findings)
        source = adapter.source
        if source is None:
            findings.error((*path, "source"), "missing; say where the adapter is")
            continue
        name_path: Path = (*path, "source", "name")
        if not source.name:
            findings.error(name_path, "missing; an adapter is served under its name")
        elif source.name in names:
            findings.error(name_path, f"{show(source.name)} is also the name of adapters[{names[source.name]}]")
        else:
            names[source.name] = position
            findings.check(name_path, source.name, subdomain_problem(source.name))
        check_source(source, (*path, "source"), findings, context)


def _check_strength(strength: str | None, path: Path, findings: Findings) -> None:
    if strength is None:
        return
    try:
        is_finite = math.isfinite(float(strength))
    except ValueError:
        is_finite = False
    if not is_finite:
        findings.check(path, strength, f'{show(strength)} is no finite number; write one in quotes, such as "0.5"')


def _check_mixes(mixes: list[Mix], adapters: list[Adapter], findings: Findings) -> None:
    at: Path = (*_AT, "mixes")
    known = [adapter.source.name for adapter in adapters if adapter.source is not None and adapter.source.name]
    taken = set(known)
    for position, mix in enumerate(mixes):
        path: Path = (*at, position)
        findings.check((*path, "name"), mix.name, subdomain_problem(mix.name))
        if mix.name in taken:
            findings.error((*path, "name"), f"{show(mix.name)} is already the name of an adapter or a mix")
        taken.add(mix.name)
        if not mix.adapters:
            findings.error((*path, "adapters"), "missing; a mix has at least one adapter")
        for part, mixed in enumerate(mix.adapters):
            _check_strength(mixed.strength, (*path, "adapters", part, "strength"), findings)
            if mixed.name not in known:
                message = f"no adapter of this Workspace is called {show(mixed.name)}"
                findings.error((*path, "adapters", part, "name"), message)


# --- the configuration ----------------------------------------------------------------------------------------------


def _check_config(name: str, model: KnownModel | None, findings: Findings, context: ValidationContext) -> None:
    """F1 to F5."""
    path: Path = (*_AT, "config")
    if not findings.check(path, name, subdomain_problem(name)):
        return
    if name not in context.configs:
        message = f"the ConfigMap {show(name)} is not among the given documents"
        if context.configs_complete:
            findings.error(path, f"{message}; add it")
        else:
            findings.warn(path, f"{message}, so it is not checked")
        return
    text = context.configs[name].get(INFERENCE_CONFIG_KEY)
    if text is None:
        findings.error(path, f"the ConfigMap {show(name)} has no key {INFERENCE_CONFIG_KEY}")
        return
    options, errors = parse_inference_config(text)
    if name not in context.configs_checked_apart:
        for error in errors:
            findings.error(path, f"ConfigMap {name}, line {error.line} of its text: {error.field}: {error.message}")
    length = options.get("max-model-len")
    if model is not None and model.context and isinstance(length, int) and length > model.context:
        findings.error(path, f"max-model-len {length} exceeds the model's context of {model.context} tokens")


def parse_inference_config(text: str) -> tuple[dict[str, Any], list[FieldError]]:
    """The `vllm` section of an `inference_config.yaml`, and what is wrong with the text. Flags are vLLM's to judge."""
    documents = parse_documents(text)
    if not documents:
        return {}, []
    document = documents[0]
    errors = list(document.errors)
    if document.value is None:
        return {}, errors
    if not isinstance(document.value, dict):
        return {}, [*errors, FieldError("document", "expected a mapping with the key vllm", document.line_of(()))]
    options = document.value.get("vllm")
    if options is None:
        return {}, errors
    if not isinstance(options, dict):
        return {}, [
            *errors,
            FieldError("vllm", f"expected a mapping, got {show(options)}", document.line_of(("vllm",))),
        ]
    for key, value in options.items():
        line = document.line_of(("vllm", key))
        if isinstance(value, dict | list):
            errors.append(FieldError(f"vllm.{key}", f"expected one value, got {show(value)}", line))
        elif key == "max-model-len" and not _is_integer(value):
            errors.append(FieldError(f"vllm.{key}", f"expected a whole number, got {show(value)}", line))
    length = options.get("max-model-len")
    if isinstance(length, str) and length.strip().isdecimal():
        options = {**options, "max-model-len": int(length)}
    return options, errors


def _is_integer(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip() or value.strip().isdecimal()
    return value is None or (isinstance(value, int) and not isinstance(value, bool))
