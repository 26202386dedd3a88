"""Rules about what may change in a Workspace that exists (U1 to U17)."""

from __future__ import annotations

from kaito.api.findings import Findings, ValidationContext
from kaito.api.rules_metadata import NODE_CLASS, STREAMING, check_node_class, nodes_of
from kaito.api.rules_resource import check_expressions
from kaito.api.workspace import Inference, LabelSelector, Preset, Tuning, Workspace

_FIXED = "cannot be changed"


def check_update(old: Workspace, new: Workspace, findings: Findings, context: ValidationContext) -> None:
    for field in ("inference", "tuning"):
        was, is_now = getattr(old, field) is not None, getattr(new, field) is not None
        if was != is_now:
            change = "removed" if was else "added"
            findings.error((field,), f"cannot be {change}: make another Workspace")
    _check_resource(old, new, findings, context)
    _check_annotations(old, new, findings, context)
    if old.inference is not None and new.inference is not None:
        _check_inference(old.inference, new.inference, findings)
    if old.tuning is not None and new.tuning is not None:
        _check_tuning(old.tuning, new.tuning, findings)


def _check_resource(old: Workspace, new: Workspace, findings: Findings, context: ValidationContext) -> None:
    """U2 to U6."""
    before, after = old.resource, new.resource
    if before.count is not None and after.count is not None and before.count != after.count:
        findings.error(("resource", "count"), f"{_FIXED} (was {before.count})")
    if before.partition != after.partition:
        findings.error(("resource", "partition"), _FIXED)
    nodes = nodes_of(new, context)
    if nodes != "local" and (before.instance_type or "") != (after.instance_type or ""):
        may_be_emptied = nodes == "existing" and not after.instance_type
        may_be_set = nodes != "existing" and not before.instance_type
        if not may_be_emptied and not may_be_set and after.instance_type:
            findings.error(("resource", "instanceType"), f"{_FIXED} (was {before.instance_type or 'empty'})")
    if after.label_selector is not None:
        check_expressions(after.label_selector, findings)
    if _labels(before.label_selector) != _labels(after.label_selector):
        findings.error(("resource", "labelSelector"), _FIXED)


def _labels(selector: LabelSelector | None) -> dict[str, str]:
    """The selector as labels: an `In` expression with one value says the same as a label."""
    if selector is None:
        return {}
    expressions = selector.match_expressions or []
    return {
        **(selector.match_labels or {}),
        **{expression.key: ",".join(expression.values or []) for expression in expressions},
    }


def _check_annotations(old: Workspace, new: Workspace, findings: Findings, context: ValidationContext) -> None:
    """U7, U8."""
    if old.annotations.get(NODE_CLASS) != new.annotations.get(NODE_CLASS):
        check_node_class(new, findings, context)
    if "ModelStreaming" in context.gates and old.annotations.get(STREAMING) != new.annotations.get(STREAMING):
        findings.error(("metadata", "annotations", STREAMING), _FIXED)


def _check_inference(old: Inference, new: Inference, findings: Findings) -> None:
    """U9, U10. Adapters are checked as at creation (U11, U12)."""
    _check_preset(old.preset, new.preset, "inference", findings)
    if (old.template is None) != (new.template is None):
        change = "removed" if old.template is not None else "added"
        findings.error(("inference", "template"), f"cannot be {change}; its content may change")


def _check_tuning(old: Tuning, new: Tuning, findings: Findings) -> None:
    """U13 to U17."""
    if new.input is not None and old.input is not None and (old.input.name or "") != (new.input.name or ""):
        findings.error(("tuning", "input", "name"), f"{_FIXED} (was {old.input.name or 'empty'})")
    _check_preset(old.preset, new.preset, "tuning", findings)
    if old.method.lower() != new.method.lower():
        findings.error(("tuning", "method"), f"{_FIXED} (was {old.method})")


def _check_preset(old: Preset | None, new: Preset | None, part: str, findings: Findings) -> None:
    """U9, U15. An access mode that is left out is `public`."""
    if _compared(old) != _compared(new):
        findings.error((part, "preset"), f"{_FIXED}: make another Workspace")


def _compared(preset: Preset | None) -> dict[str, object] | None:
    if preset is None:
        return None
    return {"access_mode": "public", **preset.model_dump(exclude_none=True)}
