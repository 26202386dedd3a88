"""Rules about `tuning` (T3 to T16) and about the configuration that it names and holds (K1, K2, K7 to K9)."""

from __future__ import annotations

from kaito.api.findings import Findings, ValidationContext
from kaito.api.paths import Path
from kaito.api.references import subdomain_problem
from kaito.api.rules_sources import check_destination, check_preset, check_source
from kaito.api.schema import nearest, show
from kaito.api.training import TRAINING_CONFIG_KEY, TrainingConfig, merge, parse_training_config
from kaito.api.training_rules import contradictions, unmet_evaluation
from kaito.api.workspace import Tuning, Workspace

METHODS = ("lora", "qlora")
_AT: Path = ("tuning",)


def check_tuning(workspace: Workspace, tuning: Tuning, findings: Findings, context: ValidationContext) -> None:
    if tuning.preset is None:
        findings.error((*_AT, "preset"), "missing; name the base model: `preset: {name: …}`")
    else:
        model = check_preset(tuning.preset, (*_AT, "preset"), workspace.api_version, findings, context)
        if model is not None and not model.tunable:
            message = f"the weights of {tuning.preset.name} are published quantised: no adapter can be trained on them"
            findings.error((*_AT, "preset", "name"), message)
    _check_method(tuning.method, findings)
    if tuning.input is None:
        findings.error((*_AT, "input"), "missing; say where the data is: `urls`, `image` or `volumeSource`")
    else:
        check_source(tuning.input, (*_AT, "input"), findings, context)
    if tuning.output is None:
        findings.error((*_AT, "output"), "missing; say where the adapter goes: `image` or `volumeSource`")
    else:
        check_destination(tuning.output, (*_AT, "output"), findings, context)
    _check_config(tuning, findings, context)


def _check_method(method: str, findings: Findings) -> None:
    """T3, in any case."""
    path = (*_AT, "method")
    if not method:
        findings.error(path, "missing; write lora or qlora")
    elif method.lower() not in METHODS:
        near = nearest(method, METHODS)
        findings.error(
            path, f"expected lora or qlora, got {show(method)}" + (f"; did you mean {near}?" if near else "")
        )


def _check_config(tuning: Tuning, findings: Findings, context: ValidationContext) -> None:
    """K1 to K9 of the named ConfigMap together with the inline parameters, which win."""
    path = (*_AT, "config")
    named: TrainingConfig | None = None
    if tuning.config:
        if not findings.check(path, tuning.config, subdomain_problem(tuning.config)):
            return
        named = _named_config(tuning.config, path, findings, context)
        if named is None:
            return
    inline = tuning.parameters
    if named is not None or inline is not None:
        effective = merge(named or TrainingConfig(), inline or TrainingConfig())
        _check_held_out(tuning, effective, findings)
        _check_contradictions(tuning, effective, findings)
        where = path if named is not None else (*_AT, "parameters", "QuantizationConfig")
        _check_quantization(tuning.method.lower(), effective, where, findings, is_named=named is not None)


def _named_config(name: str, path: Path, findings: Findings, context: ValidationContext) -> TrainingConfig | None:
    if name not in context.configs:
        message = f"the ConfigMap {show(name)} is not among the given documents"
        if context.configs_complete:
            findings.error(path, f"{message}; add it")
        else:
            findings.warn(path, f"{message}, so it is not checked")
        return None
    text = context.configs[name].get(TRAINING_CONFIG_KEY)
    if text is None:
        findings.error(path, f"the ConfigMap {show(name)} has no key {TRAINING_CONFIG_KEY}")
        return None
    parsed = parse_training_config(text)
    if name not in context.configs_checked_apart:
        for error in parsed.errors:
            findings.error(path, f"ConfigMap {name}, line {error.line} of its text: {error.field}: {error.message}")
        for warning in parsed.warnings:
            findings.warn(
                path, f"ConfigMap {name}, line {warning.line} of its text: {warning.field}: {warning.message}"
            )
    return parsed.config


def _check_held_out(tuning: Tuning, config: TrainingConfig, findings: Findings) -> None:
    """What is judged by the held-out loss needs held-out rows."""
    for key, lacks, remedy in unmet_evaluation(tuning.evaluation, config):
        findings.error((*_AT, "evaluation", key), f"{lacks}; {remedy[0].lower()}{remedy[1:-1]}")


def _check_contradictions(tuning: Tuning, config: TrainingConfig, findings: Findings) -> None:
    """Settings that cannot be true together, named where the user can change them."""
    inline = tuning.parameters.model_dump(by_alias=True, exclude_none=True) if tuning.parameters is not None else {}
    for found in contradictions(config):
        if inline.get(found.section):
            at = (*_AT, "parameters", found.section, *([found.key] if found.key in inline[found.section] else []))
            findings.error(at, found.message)
        else:
            findings.error((*_AT, "config"), f"ConfigMap {tuning.config}: {found.field}: {found.message}")


def _check_quantization(method: str, config: TrainingConfig, path: Path, findings: Findings, *, is_named: bool) -> None:
    """K7 to K9. Without a named ConfigMap, silence leaves the choice to the plan."""
    four, eight = config.quantization.load_in_4bit, config.quantization.load_in_8bit
    if four and eight:
        return  # a contradiction whatever the method
    if method == "lora" and (four or eight):
        which = "load_in_4bit" if four else "load_in_8bit"
        findings.error(path, f"with method lora {which} must not be true; set it to false, or write method: qlora")
    elif method == "qlora" and not (four or eight) and (is_named or four is False):
        message = "with method qlora either load_in_4bit or load_in_8bit must be true; set one, or write method: lora"
        findings.error(path, message)
