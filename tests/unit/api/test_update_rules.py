"""Every rule of an update, by its number: what may not change, and that the rest is not checked again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kaito.api.findings import ValidationContext
from kaito.api.validation import validate_update
from kaito.api.workspace import Workspace
from tests.unit.api.workspaces import CONTEXT, INFERENCE, REMOVED, TUNING, changed

EXISTING = replace(CONTEXT, nodes="existing")
STREAMING = "metadata.annotations[kaito.sh/model-streaming]"
NODE_CLASS = "metadata.annotations[kaito.sh/node-class-name]"
ADAPTER = {"source": {"name": "one", "image": "a/b"}}
MINE = {"resource.instanceType": REMOVED}


def update(
    workspace: dict[str, Any], before: dict[str, Any], after: dict[str, Any], context: ValidationContext = CONTEXT
) -> list[tuple[str, str]]:
    old = Workspace.model_validate(changed(workspace, before))
    new = Workspace.model_validate(changed(workspace, after))
    return [(error.field, error.message) for error in validate_update(old, new, context)]


REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any], ValidationContext, list[str]]] = [
    (
        "U1-removed",
        TUNING,
        {},
        {"tuning": REMOVED, "inference": INFERENCE["inference"]},
        CONTEXT,
        ["inference", "tuning"],
    ),
    ("U2", INFERENCE, {"resource.count": 1}, {"resource.count": 2}, CONTEXT, ["resource.count"]),
    (
        "U3",
        INFERENCE,
        MINE,
        {**MINE, "resource.partition": {"mode": "mig", "profile": "3g.40gb"}},
        replace(EXISTING, gates=frozenset({"enableMIG"})),
        ["resource.partition"],
    ),
    ("U4-set", INFERENCE, MINE, {}, EXISTING, ["resource.instanceType"]),
    ("U4-other", INFERENCE, {}, {"resource.instanceType": "Standard_NC6s_v3"}, EXISTING, ["resource.instanceType"]),
    ("U5-other", TUNING, {}, {"resource.instanceType": "Standard_NC6s_v3"}, CONTEXT, ["resource.instanceType"]),
    ("U5-removed", TUNING, {}, MINE, CONTEXT, ["resource.instanceType"]),
    (
        "U6-changed",
        TUNING,
        {},
        {"resource.labelSelector": {"matchLabels": {"app": "other"}}},
        CONTEXT,
        ["resource.labelSelector"],
    ),
    (
        "U6-operator",
        TUNING,
        {},
        {
            "resource.labelSelector": {
                "matchLabels": {"app": "tune-phi"},
                "matchExpressions": [{"key": "a", "operator": "Exists"}],
            }
        },
        CONTEXT,
        ["resource.labelSelector.matchExpressions[0]", "resource.labelSelector"],
    ),
    ("U7", TUNING, {}, {NODE_CLASS: "other"}, replace(CONTEXT, nodes="nodepool"), [NODE_CLASS]),
    ("U8", INFERENCE, {}, {STREAMING: "disabled"}, replace(CONTEXT, gates=frozenset({"ModelStreaming"})), [STREAMING]),
    (
        "U9",
        INFERENCE,
        {},
        {"inference.preset.presetOptions": {"modelAccessSecret": "hf"}},
        CONTEXT,
        ["inference.preset"],
    ),
    (
        "U10",
        INFERENCE,
        {"inference.preset": REMOVED, "inference.template": {"spec": {"containers": [{}]}}},
        {},
        CONTEXT,
        ["inference.preset", "inference.template"],
    ),
    (
        "U11",
        INFERENCE,
        {},
        {"inference.adapters": [{"source": {"name": "A B", "image": "a/b"}}]},
        CONTEXT,
        ["inference.adapters[0].source.name"],
    ),
    ("U12", INFERENCE, {}, {"inference.adapters": [ADAPTER, ADAPTER]}, CONTEXT, ["inference.adapters[1].source.name"]),
    ("U13-removed", TUNING, {}, {"tuning.input": REMOVED}, CONTEXT, ["tuning.input"]),
    ("U13-name", TUNING, {"tuning.input.name": "a"}, {"tuning.input.name": "b"}, CONTEXT, ["tuning.input.name"]),
    ("U13-image", TUNING, {}, {"tuning.input": {"image": "A/B"}}, CONTEXT, ["tuning.input.image"]),
    ("U14-removed", TUNING, {}, {"tuning.output": REMOVED}, CONTEXT, ["tuning.output"]),
    ("U14-image", TUNING, {}, {"tuning.output.image": "a/b:c:d"}, CONTEXT, ["tuning.output.image"]),
    ("U15", TUNING, {}, {"tuning.preset.name": "large"}, CONTEXT, ["tuning.preset"]),
    ("U16", TUNING, {}, {"tuning.method": "lora"}, CONTEXT, ["tuning.method"]),
    ("U17-checked", TUNING, {}, {"tuning.config": "missing"}, CONTEXT, ["tuning.config"]),
    ("T9-on-update", TUNING, {}, {"tuning.input.urls": ["http://localhost/x"]}, CONTEXT, ["tuning.input.urls[0]"]),
]


@pytest.mark.parametrize(
    ("workspace", "before", "after", "context", "fields"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_a_change_that_a_rule_forbids_is_named(
    workspace: dict[str, Any],
    before: dict[str, Any],
    after: dict[str, Any],
    context: ValidationContext,
    fields: list[str],
):
    assert [field for field, _ in update(workspace, before, after, context)] == fields


ALLOWED: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any], ValidationContext]] = [
    ("nothing", TUNING, {}, {}, CONTEXT),
    ("U2-unset", INFERENCE, {}, {"resource.count": 2}, CONTEXT),
    ("U4-emptied", INFERENCE, {}, MINE, EXISTING),
    (
        "U6-same",
        TUNING,
        {},
        {"resource.labelSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["tune-phi"]}]}},
        CONTEXT,
    ),
    ("U9-default", INFERENCE, {}, {"inference.preset.accessMode": "public"}, CONTEXT),
    (
        "U10-content",
        INFERENCE,
        {"inference": {"template": {"spec": {"containers": [{"name": "a"}]}}}},
        {"inference": {"template": {"spec": {"containers": [{"name": "b"}]}}}},
        CONTEXT,
    ),
    ("U11-strength", INFERENCE, {}, {"inference.adapters[0].strength": "2"}, CONTEXT),
    ("U13-urls", TUNING, {}, {"tuning.input.urls": ["https://example.com/other.jsonl"]}, CONTEXT),
    ("U14-image", TUNING, {}, {"tuning.output.image": "registry.example.com/adapters/phi:2"}, CONTEXT),
    ("U16-case", TUNING, {}, {"tuning.method": "QLoRA"}, CONTEXT),
]


@pytest.mark.parametrize(
    ("workspace", "before", "after", "context"), [row[1:] for row in ALLOWED], ids=[row[0] for row in ALLOWED]
)
def test_other_changes_are_accepted(
    workspace: dict[str, Any], before: dict[str, Any], after: dict[str, Any], context: ValidationContext
):
    assert update(workspace, before, after, context) == []


def test_what_was_wrong_before_does_not_forbid_another_change():
    fault = {"tuning.input.urls": ["http://localhost/x"]}
    assert update(TUNING, fault, {**fault, "metadata.labels": {"a": "b"}}) == []


def test_an_object_that_is_being_deleted_is_not_checked():
    after = {"tuning": REMOVED, "metadata.deletionTimestamp": "2026-01-01T00:00:00Z"}
    assert update(TUNING, {}, after) == []
