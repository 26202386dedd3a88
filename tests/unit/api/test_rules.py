"""Every rule of a creation, by its letter and number: one change of a valid Workspace, one error at one field."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kaito.api.references import placeholders
from kaito.api.validation import validate_create
from kaito.api.workspace import DEFAULT_INSTANCE_TYPE, Workspace
from tests.unit.api.workspaces import CONTEXT, INFERENCE, REMOVED, TUNING, check

MINE = {"resource.instanceType": REMOVED}
MIG = {**MINE, "resource.partition": {"mode": "mig", "profile": "3g.40gb"}}
PRIVATE = "loopback, private or link-local"
SMALL = {"resource.instanceType": "Standard_NC6s_v3"}
ANNOTATIONS = "metadata.annotations"

ERRORS: list[tuple[str, dict[str, Any], dict[str, Any], str, str]] = [
    # rule, Workspace, changes, field of the error, words of its message
    ("name", TUNING, {"metadata.name": "Tune"}, "metadata.name", "RFC 1123"),
    ("name-dot", TUNING, {"metadata.name": "a.b"}, "metadata.name", "RFC 1123"),
    ("name-53", TUNING, {"metadata.name": "a" * 53}, "metadata.name", "at most 52"),
    ("name-none", TUNING, {"metadata.name": REMOVED}, "metadata.name", "missing"),
    ("namespace", TUNING, {"metadata.namespace": "My Space"}, "metadata.namespace", "RFC 1123"),
    ("C1", TUNING, {"tuning": REMOVED}, "tuning", "neither is"),
    ("C2", TUNING, {"inference": INFERENCE["inference"]}, "tuning", "not both"),
    ("C4", TUNING, {"resource.instanceType": REMOVED}, "resource.instanceType", "missing"),
    ("C4-empty", TUNING, {"resource.instanceType": ""}, "resource.instanceType", "missing"),
    (
        "C5",
        TUNING,
        {f"{ANNOTATIONS}[kaito.sh/node-image-family]": "debian"},
        f"{ANNOTATIONS}[kaito.sh/node-image-family]",
        "ubuntu",
    ),
    (
        "C6",
        INFERENCE,
        {f"{ANNOTATIONS}[kaito.sh/performance-mode]": "Fast"},
        f"{ANNOTATIONS}[kaito.sh/performance-mode]",
        "balanced",
    ),
    (
        "C7",
        INFERENCE,
        {f"{ANNOTATIONS}[kaito.sh/use-local-weights]": "yes"},
        f"{ANNOTATIONS}[kaito.sh/use-local-weights]",
        "true, false",
    ),
    (
        "serve-after-tuning",
        TUNING,
        {f"{ANNOTATIONS}[kaito.sh/serve-after-tuning]": "True"},
        f"{ANNOTATIONS}[kaito.sh/serve-after-tuning]",
        "true, false",
    ),
    (
        "node-strategy",
        TUNING,
        {f"{ANNOTATIONS}[kaito.sh/node-strategy]": "magic"},
        f"{ANNOTATIONS}[kaito.sh/node-strategy]",
        "nodepool",
    ),
    (
        "model-cache",
        TUNING,
        {f"{ANNOTATIONS}[kaito.sh/model-cache]": "My Claim"},
        f"{ANNOTATIONS}[kaito.sh/model-cache]",
        "RFC 1123",
    ),
    ("R1", INFERENCE, {"inference.preset.name": "phi-2"}, "inference.preset.name", "deprecated"),
    ("R2", INFERENCE, {"resource.labelSelector": REMOVED}, "resource.labelSelector", "missing"),
    (
        "R2-operator",
        INFERENCE,
        {"resource.labelSelector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}},
        "resource.labelSelector.matchExpressions[0]",
        "operator In",
    ),
    (
        "R2-values",
        INFERENCE,
        {"resource.labelSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b", "c"]}]}},
        "resource.labelSelector.matchExpressions[0]",
        "exactly one value",
    ),
    (
        "R4",
        INFERENCE,
        {"resource.labelSelector.matchLabels": {"kaito.sh/workspace": "x"}},
        "resource.labelSelector.matchLabels",
        "not reserved",
    ),
    (
        "R12",
        INFERENCE,
        {"resource.partition": {"mode": "mig", "profile": "1g.5gb"}},
        "resource.partition",
        "nodes of your own",
    ),
    ("R13", INFERENCE, {"resource.instanceType": "m5.large"}, "resource.instanceType", "no known machine type"),
    ("R14", INFERENCE, {**SMALL, "inference.preset.name": "large"}, "resource.instanceType", "60.0 GiB"),
    ("I1", INFERENCE, {"inference.preset": REMOVED}, "inference", "neither is"),
    ("I2", INFERENCE, {"inference.template": {"spec": {"containers": [{"name": "a"}]}}}, "inference", "not both"),
    (
        "I2-template",
        INFERENCE,
        {"inference.preset": REMOVED, "inference.template": {"spec": {}}},
        "inference.template.spec.containers",
        "missing",
    ),
    (
        "I3",
        INFERENCE,
        {"inference.preset.name": "phi-33"},
        "inference.preset.name",
        "did you mean phi-3-mini-128k-instruct",
    ),
    (
        "I10",
        INFERENCE,
        {"inference.adapters": [{"source": {"name": f"a{i}", "image": "a/b"}} for i in range(11)]},
        "inference.adapters",
        "at most 10",
    ),
    (
        "I11",
        INFERENCE,
        {"inference.adapters": [{"source": {"name": "a", "image": "a/b"}}] * 2},
        "inference.adapters[1].source.name",
        "also the name of adapters[0]",
    ),
    ("U11-source", INFERENCE, {"inference.adapters": [{"strength": "1"}]}, "inference.adapters[0].source", "missing"),
    (
        "U11-name",
        INFERENCE,
        {"inference.adapters[0].source.name": "My_Adapter"},
        "inference.adapters[0].source.name",
        "RFC 1123",
    ),
    (
        "U11-nameless",
        INFERENCE,
        {"inference.adapters[0].source.name": REMOVED},
        "inference.adapters[0].source.name",
        "missing",
    ),
    (
        "U11-nothing",
        INFERENCE,
        {"inference.adapters[0].source.image": REMOVED},
        "inference.adapters[0].source",
        "none is given",
    ),
    (
        "U11-strength",
        INFERENCE,
        {"inference.adapters[0].strength": "strong"},
        "inference.adapters[0].strength",
        "finite",
    ),
    ("U11-nan", INFERENCE, {"inference.adapters[0].strength": "NaN"}, "inference.adapters[0].strength", "finite"),
    ("U11-inf", INFERENCE, {"inference.adapters[0].strength": "1e999"}, "inference.adapters[0].strength", "finite"),
    (
        "mixes-adapter",
        INFERENCE,
        {"inference.mixes": [{"name": "m", "adapters": [{"name": "two"}]}]},
        "inference.mixes[0].adapters[0].name",
        "no adapter",
    ),
    (
        "mixes-name",
        INFERENCE,
        {"inference.mixes": [{"name": "one", "adapters": [{"name": "one"}]}]},
        "inference.mixes[0].name",
        "already",
    ),
    (
        "mixes-empty",
        INFERENCE,
        {"inference.mixes": [{"name": "m", "adapters": []}]},
        "inference.mixes[0].adapters",
        "at least one",
    ),
    ("F1", INFERENCE, {"inference.config": "missing"}, "inference.config", "not among"),
    ("T1", TUNING, {"resource.count": 2}, "resource.count", "one node"),
    ("T2", TUNING, {"resource.partition": {"mode": "accelerator", "count": 1}}, "resource.partition", "part of a GPU"),
    ("T3", TUNING, {"tuning.method": "lore"}, "tuning.method", "did you mean lora"),
    ("T3-none", TUNING, {"tuning.method": REMOVED}, "tuning.method", "missing"),
    ("T4", TUNING, {"tuning.config": "missing"}, "tuning.config", "not among"),
    ("T5", TUNING, {"tuning.input": REMOVED}, "tuning.input", "missing"),
    ("T6-none", TUNING, {"tuning.input": {}}, "tuning.input", "none is given"),
    ("T6-empty", TUNING, {"tuning.input.urls": []}, "tuning.input", "none is given"),
    ("T6-two", TUNING, {"tuning.input.image": "a/b:1"}, "tuning.input", "urls and image are given"),
    ("T7", TUNING, {"tuning.input.urls": ["data.parquet"]}, "tuning.input.urls[0]", "no absolute URL"),
    ("T7-host", TUNING, {"tuning.input.urls": ["https:///x"]}, "tuning.input.urls[0]", "no absolute URL"),
    ("T7-port", TUNING, {"tuning.input.urls": ["https://a:b/x"]}, "tuning.input.urls[0]", "is no URL"),
    ("T7-space", TUNING, {"tuning.input.urls": ["https://a.b/x y"]}, "tuning.input.urls[0]", "space"),
    ("T8", TUNING, {"tuning.input.urls": ["ftp://example.com/x"]}, "tuning.input.urls[0]", "https:// or http://"),
    *(
        (f"T9-{host}", TUNING, {"tuning.input.urls": [f"https://{host}/x"]}, "tuning.input.urls[0]", "metadata service")
        for host in (
            "localhost",
            "LOCALHOST",
            "a.localhost",
            "metadata.google.internal",
            "metadata.google",
            "instance-data.ec2.internal",
        )
    ),
    *(
        (f"T10-{host}", TUNING, {"tuning.input.urls": [f"http://{host}:8000/x"]}, "tuning.input.urls[0]", PRIVATE)
        for host in (
            "127.0.0.1",
            "10.1.2.3",
            "192.168.0.1",
            "172.16.0.1",
            "169.254.169.254",
            "[::1]",
            "[fe80::1%25eth0]",
            "[fd00::1]",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0177.0.0.1",
            "012.1",
            "0.0.0.0",
            "[::ffff:10.0.0.1]",
        )
    ),
    ("T11", TUNING, {"tuning.input": {"image": "registry.example.com/Data:1"}}, "tuning.input.image", "lower case"),
    ("T12", TUNING, {"tuning.output": REMOVED}, "tuning.output", "missing"),
    ("T13-none", TUNING, {"tuning.output": {"imagePushSecret": "push"}}, "tuning.output", "none is given"),
    (
        "T13-both",
        TUNING,
        {"tuning.output.volumeSource": {"hostPath": {"path": "/x"}}},
        "tuning.output",
        "both are given",
    ),
    ("T14-image", TUNING, {"tuning.output.image": "registry.example.com/a:b:c"}, "tuning.output.image", "no tag"),
    ("T14-secret", TUNING, {"tuning.output.imagePushSecret": REMOVED}, "tuning.output.imagePushSecret", "missing"),
    (
        "T14-secret-name",
        TUNING,
        {"tuning.output.imagePushSecret": "My Secret"},
        "tuning.output.imagePushSecret",
        "RFC 1123",
    ),
    ("T15", TUNING, {"tuning.preset": REMOVED}, "tuning.preset", "missing"),
    ("T16", TUNING, {"tuning.preset.name": "nothing"}, "tuning.preset.name", "no base model"),
    ("T16-empty", TUNING, {"tuning.preset.name": ""}, "tuning.preset.name", "missing"),
    ("T16-quantised", TUNING, {"tuning.preset.name": "gpt-oss-20b"}, "tuning.preset.name", "published quantised"),
    (
        "volume-kind",
        TUNING,
        {"tuning.input": {"volumeSource": {"hostpath": {"path": "/x"}}}},
        "tuning.input.volumeSource.hostpath",
        'did you mean "hostPath"',
    ),
    (
        "volume-path",
        TUNING,
        {"tuning.input": {"volumeSource": {"hostPath": {}}}},
        "tuning.input.volumeSource.hostPath.path",
        "missing",
    ),
    (
        "volume-claim",
        TUNING,
        {"tuning.input": {"volumeSource": {"persistentVolumeClaim": {"claimName": "My"}}}},
        "tuning.input.volumeSource.persistentVolumeClaim.claimName",
        "RFC 1123",
    ),
    (
        "volume-two",
        TUNING,
        {"tuning.input": {"volumeSource": {"emptyDir": {}, "hostPath": {"path": "/x"}}}},
        "tuning.input.volumeSource",
        "exactly one kind",
    ),
    (
        "volume-text",
        TUNING,
        {"tuning.input": {"volumeSource": {"hostPath": "/x"}}},
        "tuning.input.volumeSource.hostPath",
        "expected a mapping",
    ),
    (
        "K7-inline",
        TUNING,
        {"tuning.parameters": {"QuantizationConfig": {"load_in_4bit": True, "load_in_8bit": True}}},
        "tuning.parameters.QuantizationConfig.load_in_8bit",
        "cannot both",
    ),
    (
        "schedule-without-its-option",
        TUNING,
        {"tuning.parameters": {"TrainingArguments": {"lr_scheduler_type": "cosine_with_min_lr"}}},
        "tuning.parameters.TrainingArguments",
        "needs min_lr",
    ),
    (
        "unknown-option-of-a-schedule",
        TUNING,
        {"tuning.parameters": {"TrainingArguments": {"lr_scheduler_kwargs": {"power": 2}}}},
        "tuning.parameters.TrainingArguments.lr_scheduler_kwargs",
        "no option of cosine",
    ),
    (
        "pattern-without-layers",
        TUNING,
        {"tuning.parameters": {"LoraConfig": {"layers_pattern": ["h"]}}},
        "tuning.parameters.LoraConfig.layers_pattern",
        "needs layers_to_transform",
    ),
    (
        "patience-without-held-out-rows",
        TUNING,
        {
            "tuning.evaluation": {"earlyStoppingPatience": 2},
            "tuning.parameters": {"DatasetConfig": {"train_test_split": 1}},
        },
        "tuning.evaluation.earlyStoppingPatience",
        "needs held-out rows",
    ),
    (
        "patience-without-evaluations",
        TUNING,
        {
            "tuning.evaluation": {"earlyStoppingPatience": 2},
            "tuning.parameters": {"TrainingArguments": {"eval_strategy": "no"}},
        },
        "tuning.evaluation.earlyStoppingPatience",
        "with eval_strategy: no there are none; set TrainingArguments.eval_strategy to epoch or steps",
    ),
    (
        "patience-0",
        TUNING,
        {"tuning.evaluation": {"earlyStoppingPatience": 0}},
        "tuning.evaluation.earlyStoppingPatience",
        "at least 1",
    ),
    (
        "patience-true",
        TUNING,
        {"tuning.evaluation": {"earlyStoppingPatience": True}},
        "tuning.evaluation.earlyStoppingPatience",
        "whole number",
    ),
    (
        "K8-inline",
        TUNING,
        {"tuning.method": "lora", "tuning.parameters": {"QuantizationConfig": {"load_in_4bit": True}}},
        "tuning.parameters.QuantizationConfig",
        "method lora",
    ),
    (
        "K9-inline",
        TUNING,
        {"tuning.parameters": {"QuantizationConfig": {"load_in_4bit": False}}},
        "tuning.parameters.QuantizationConfig",
        "method qlora",
    ),
]


@pytest.mark.parametrize(
    ("workspace", "changes", "field", "words"), [row[1:] for row in ERRORS], ids=[row[0] for row in ERRORS]
)
def test_a_broken_rule_is_one_error_at_its_field(
    workspace: dict[str, Any], changes: dict[str, Any], field: str, words: str
):
    (error,) = check(workspace, changes).errors
    assert error.field == field
    assert words in error.message
    assert error.line >= 1


ACCEPTED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("tuning", TUNING, {}),
    ("inference", INFERENCE, {}),
    ("name-52", TUNING, {"metadata.name": "a" * 52}),
    ("C5", TUNING, {f"{ANNOTATIONS}[kaito.sh/node-image-family]": " Ubuntu "}),
    (
        "R2-in",
        INFERENCE,
        {"resource.labelSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}},
    ),
    ("R13-newer", INFERENCE, {"resource.instanceType": "Standard_ND999_v9"}),
    ("R14-vllm", INFERENCE, {"inference.preset.name": "large"}),
    ("I6-strength", INFERENCE, {"inference.adapters[0].strength": "-1.75"}),
    (
        "I6-urls",
        INFERENCE,
        {"inference.adapters[0].source": {"name": "a", "urls": ["https://example.com/a.safetensors"]}},
    ),
    ("mixes", INFERENCE, {"inference.mixes": [{"name": "m", "adapters": [{"name": "one", "strength": "0.5"}]}]}),
    ("T3-case", TUNING, {"tuning.method": "QLoRA"}),
    ("T6-image", TUNING, {"tuning.input": {"image": "localhost:5000/data", "imagePullSecrets": ["pull"]}}),
    ("T6-volume", TUNING, {"tuning.input": {"volumeSource": {"persistentVolumeClaim": {"claimName": "data"}}}}),
    ("T13-volume", TUNING, {"tuning.output": {"volumeSource": {"hostPath": {"path": "/data/out"}}}}),
    ("T14-digest", TUNING, {"tuning.output.image": f"a.b:5000/c/d-e__f.g:v1.0@sha256:{'0' * 64}"}),
    ("evaluation", TUNING, {"tuning.evaluation": {"minImprovement": 0.1}, "resource.retain": True}),
    ("patience", TUNING, {"tuning.evaluation": {"earlyStoppingPatience": 2}}),
    ("K9-silent", TUNING, {"tuning.parameters": {"LoraConfig": {"target_modules": "all-linear"}}}),
    (
        "K8-4bit-off",
        TUNING,
        {"tuning.method": "lora", "tuning.parameters": {"QuantizationConfig": {"load_in_4bit": False}}},
    ),
    ("null", TUNING, {"inference": None, "tuning.config": None}),
]


@pytest.mark.parametrize(("workspace", "changes"), [row[1:] for row in ACCEPTED], ids=[row[0] for row in ACCEPTED])
def test_what_keeps_the_rules_is_accepted(workspace: dict[str, Any], changes: dict[str, Any]):
    findings = check(workspace, changes)
    assert findings.errors == []
    assert findings.warnings == []


def test_a_machine_type_that_looks_like_a_known_one_is_a_warning_R13():
    near = replace(CONTEXT, nearest_skus=lambda name: ["Standard_NC24ads_A100_v4"] if "A100" in name else [])
    findings = check(INFERENCE, {"resource.instanceType": "Standard_NC24ads_A100"}, near)
    assert findings.errors == []
    (warning,) = findings.warnings
    assert warning.field == "resource.instanceType"
    assert "did you mean Standard_NC24ads_A100_v4?" in warning.message
    assert check(INFERENCE, {"resource.instanceType": "Standard_ND999_v9"}, near).warnings == []


# --- who provides the nodes -----------------------------------------------------------------------------------------

EXISTING = replace(CONTEXT, nodes="existing", gates=frozenset({"enableMIG", "enableAccelerator"}))

ON_EXISTING: list[tuple[str, dict[str, Any], str, str]] = [
    ("C3", {}, "resource.instanceType", "must be empty"),
    ("R5-count", {**MIG, "resource.partition.count": 1}, "resource.partition.count", "mode accelerator alone"),
    ("R5-profile", {**MIG, "resource.partition.profile": "9g.9gb"}, "resource.partition.profile", "no MIG profile"),
    ("R5-no-profile", {**MINE, "resource.partition": {"mode": "mig"}}, "resource.partition.profile", "missing"),
    (
        "R6",
        {**MINE, "resource.partition": {"mode": "mig", "profile": "1g.5gb"}},
        "resource.partition.profile",
        "7.0 GiB",
    ),
    (
        "R7-profile",
        {**MINE, "resource.partition": {"mode": "accelerator", "count": 1, "profile": "1g.5gb"}},
        "resource.partition.profile",
        "mode mig alone",
    ),
    ("R7-count", {**MINE, "resource.partition": {"mode": "accelerator"}}, "resource.partition.count", "missing"),
    (
        "R8",
        {**MINE, "resource.partition": {"mode": "half"}},
        "resource.partition.mode",
        "expected one of mig, accelerator",
    ),
]


@pytest.mark.parametrize(
    ("changes", "field", "words"), [row[1:] for row in ON_EXISTING], ids=[row[0] for row in ON_EXISTING]
)
def test_a_broken_rule_of_nodes_of_your_own_is_one_error(changes: dict[str, Any], field: str, words: str):
    (error,) = check(INFERENCE, changes, EXISTING).errors
    assert error.field == field
    assert words in error.message


@pytest.mark.parametrize("gate", ["enableMIG", "enableAccelerator"])
def test_a_partition_needs_its_gate_R5_R7(gate: str):
    partition = {"mode": "mig", "profile": "3g.40gb"} if gate == "enableMIG" else {"mode": "accelerator", "count": 1}
    changes = {**MINE, "resource.partition": partition}
    assert check(INFERENCE, changes, EXISTING).errors == []
    (error,) = check(INFERENCE, changes, replace(EXISTING, gates=frozenset())).errors
    assert gate in error.message


def test_a_tuning_runs_on_nodes_of_your_own():
    assert check(TUNING, MINE, EXISTING).errors == []


def test_the_default_machine_type_of_v1alpha1_does_not_disturb_nodes_of_your_own():
    changes = {**MINE, "apiVersion": "kaito.sh/v1alpha1"}
    assert check(TUNING, changes, EXISTING).errors == []
    (error,) = check(TUNING, {"apiVersion": "kaito.sh/v1alpha1", **SMALL}, EXISTING).errors
    assert error.field == "resource.instanceType"


def test_the_annotation_says_who_provides_the_nodes():
    changes = {**MINE, f"{ANNOTATIONS}[kaito.sh/node-strategy]": "existing"}
    assert check(TUNING, changes).errors == []


def test_rules_about_nodes_do_not_apply_on_this_machine():
    assert check(TUNING, {"resource": REMOVED}, replace(CONTEXT, nodes="local")).errors == []


def test_a_node_class_must_be_allowed_where_karpenter_makes_nodes_C8():
    changes = {f"{ANNOTATIONS}[kaito.sh/node-class-name]": "mine"}
    assert check(TUNING, changes).errors == []
    (error,) = check(TUNING, changes, replace(CONTEXT, nodes="nodepool")).errors
    assert "image-ubuntu" in error.message


def test_too_little_memory_is_a_warning_when_asked_for_R14():
    changes = {**SMALL, "inference.preset.name": "large", f"{ANNOTATIONS}[kaito.sh/bypass-resource-checks]": ""}
    findings = check(INFERENCE, changes)
    assert findings.errors == []
    assert "60.0 GiB" in findings.warnings[0].message


def test_the_transformers_runtime_uses_one_machine_R15():
    (error,) = check(INFERENCE, {**SMALL, "inference.preset.name": "large", "resource.count": 4}).errors
    assert "one machine alone" in error.message


# --- v1alpha1, hosts, Secrets, warnings -----------------------------------------------------------------------------


def test_v1alpha1_has_a_default_machine_type():
    workspace = Workspace.model_validate({**TUNING, "apiVersion": "kaito.sh/v1alpha1", "resource": {}})
    assert workspace.resource.instance_type == DEFAULT_INSTANCE_TYPE
    assert Workspace.model_validate({**TUNING, "resource": {}}).resource.instance_type is None


def test_private_weights_need_an_image_in_v1alpha1():
    changes = {"apiVersion": "kaito.sh/v1alpha1", "tuning.preset.accessMode": "private"}
    (error,) = check(TUNING, changes).errors
    assert error.field == "tuning.preset.presetOptions.image"
    assert check(TUNING, {**changes, "tuning.preset.presetOptions": {"image": "oci://a.b/c:1"}}).errors == []


@pytest.mark.parametrize(
    "changes",
    [{"resource.partition": {"mode": "mig"}}, {"tuning.preset.presetOptions": {"modelAccessSecret": "hf"}}],
    ids=["partition", "modelAccessSecret"],
)
def test_fields_of_v1beta1_are_unknown_in_v1alpha1(changes: dict[str, Any]):
    errors = check(TUNING, {"apiVersion": "kaito.sh/v1alpha1", **changes}).errors
    assert any("kaito.sh/v1beta1" in error.message for error in errors)


@pytest.mark.parametrize("glob", ["127.0.0.1", "127.*", "*"])
def test_an_allowed_host_may_be_private_T10(glob: str):
    changes = {"tuning.input.urls": ["https://127.0.0.1:8443/data.jsonl"]}
    assert check(TUNING, changes, replace(CONTEXT, allow_hosts=[glob])).errors == []


def test_a_secret_that_does_not_exist_is_an_error_where_that_is_known():
    assert check(TUNING, {}, replace(CONTEXT, secrets=frozenset({"push"}))).errors == []
    (error,) = check(TUNING, {}, replace(CONTEXT, secrets=frozenset())).errors
    assert error.field == "tuning.output.imagePushSecret"


@pytest.mark.parametrize(
    ("annotation", "value", "words"),
    [
        ("kaito.sh/runtme", "vllm", 'did you mean "kaito.sh/runtime"'),
        ("kaito.sh/runtime", "vLLM", "expected vllm or transformers"),
        ("kaito.sh/model-streaming", "disabled", "without effect"),
        ("kaito.sh/enablelb", "true", "only True"),
    ],
)
def test_an_annotation_without_effect_gives_a_warning(annotation: str, value: str, words: str):
    findings = check(INFERENCE, {f"{ANNOTATIONS}[{annotation}]": value})
    assert findings.errors == []
    (warning,) = findings.warnings
    assert words in warning.message
    assert warning.field == f"{ANNOTATIONS}[{annotation}]"


def test_a_reserved_label_beside_others_gives_a_warning_R3():
    findings = check(TUNING, {"resource.labelSelector.matchLabels[kaito.sh/workspace]": "x"})
    assert findings.errors == []
    assert "reserved" in findings.warnings[0].message


# --- all at once, and lines -----------------------------------------------------------------------------------------


def test_a_misspelt_key_does_not_hide_what_the_rules_say():
    changes = {"tuning.methd": "x", "tuning.method": "lore", "metadata.name": "Bad", "tuning.input.url": "x"}
    fields = [error.field for error in check(TUNING, changes).errors]
    assert sorted(fields) == ["metadata.name", "tuning.input.url", "tuning.methd", "tuning.method"]


def test_what_cannot_be_read_is_reported_once():
    errors = check(TUNING, {"tuning.input": {"urls": "https://example.com"}}).errors
    assert [error.field for error in errors] == ["tuning.input.urls"]


def test_a_placeholder_is_named_and_no_second_problem():
    (error,) = check(TUNING, {"tuning.output.image": "YOUR_REGISTRY.azurecr.io/Adapter_HERE:1"}).errors
    assert "YOUR_REGISTRY" in error.message


@pytest.mark.parametrize(
    ("path", "text", "named"),
    [
        ("tuning.input.urls", ["https://${HOST}/train.jsonl"], "${HOST}"),
        ("tuning.input.urls", ["<...>"], "<...>"),
        ("tuning.input.volumeSource", {"hostPath": {"path": "/path/to/data"}}, "/path/to/data"),
        ("tuning.input.volumeSource", {"hostPath": {"path": "./path/to/data"}}, "./path/to/data"),
        ("tuning.output.image", "registry.example.com/TODO:1", "TODO"),
        ("tuning.output.imagePushSecret", "TODO", "TODO"),
    ],
)
def test_whatever_stands_for_a_value_is_a_placeholder(path: str, text: Any, named: str):
    found = check(TUNING, {path: text}).errors
    assert any(f"the placeholder {named};" in error.message for error in found), found


@pytest.mark.parametrize(
    "text",
    ["https://example.com/path/to/data.jsonl", "/data/path/to/it", "TODO.jsonl", "todo", "a-TODO", "$HOME", "$1"],
)
def test_what_only_looks_like_a_placeholder_is_none(text: str):
    assert placeholders(text) == []


def test_angle_brackets_in_a_chat_template_are_no_placeholder():
    template = {"ModelConfig": {"chat_template": "{{ messages[0].content }}<end>YOUR_TURN"}}
    assert check(TUNING, {"tuning.parameters": template}).errors == []


def test_without_a_document_every_error_is_on_line_1():
    workspace = Workspace.model_validate({**TUNING, "tuning": {**TUNING["tuning"], "method": "x"}})
    (error,) = validate_create(workspace, CONTEXT)
    assert (error.field, error.line) == ("tuning.method", 1)
