"""Valid Workspaces as plain values, to be changed in one place by a test, and a context with a small catalog."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from io import StringIO
from typing import Any

from ruamel.yaml import YAML

from kaito.api.documents import Document, parse_documents
from kaito.api.findings import Findings, ValidationContext
from kaito.api.paths import parse_path
from kaito.api.validation import validate_document

REMOVED = object()
GIB = 2**30


@dataclass(frozen=True)
class Model:
    bytes: int = 7 * GIB
    context: int = 4096
    tunable: bool = True


@dataclass(frozen=True)
class Sku:
    gpus: int
    gpu_memory_bytes: int
    compute_capability: float | None


MODELS = {
    "phi-3-mini-128k-instruct": Model(),
    "phi-2": Model(),
    "gpt-oss-20b": Model(tunable=False),
    "large": Model(bytes=60 * GIB),
}
SKUS = {
    "standard_nc24ads_a100_v4": Sku(1, 80 * GIB, 8.0),
    "standard_nc6s_v3": Sku(1, 16 * GIB, 7.0),
    "standard_nc24s_v3": Sku(4, 16 * GIB, 7.0),
}
MIG = {"1g.5gb": 5 * GIB, "3g.40gb": 40 * GIB}

CONTEXT = ValidationContext(
    find_preset=lambda name: MODELS.get(name.lower()),
    nearest_presets=lambda name: ["phi-3-mini-128k-instruct"] if name.startswith("phi") else [],
    find_sku=lambda name: SKUS.get(name.lower()),
    mig_slice_bytes=MIG.get,
    node_classes=frozenset({"image-ubuntu"}),
)

TUNING: dict[str, Any] = {
    "apiVersion": "kaito.sh/v1beta1",
    "kind": "Workspace",
    "metadata": {"name": "tune-phi", "annotations": {"note": "x"}},
    "resource": {
        "instanceType": "Standard_NC24ads_A100_v4",
        "labelSelector": {"matchLabels": {"app": "tune-phi"}},
    },
    "tuning": {
        "preset": {"name": "phi-3-mini-128k-instruct"},
        "method": "qlora",
        "input": {"urls": ["https://example.com/data.parquet?download=true"]},
        "output": {"image": "registry.example.com/adapters/phi:1", "imagePushSecret": "push"},
    },
}
INFERENCE: dict[str, Any] = {
    "apiVersion": "kaito.sh/v1beta1",
    "kind": "Workspace",
    "metadata": {"name": "serve-phi"},
    "resource": {
        "instanceType": "Standard_NC24ads_A100_v4",
        "labelSelector": {"matchLabels": {"app": "serve-phi"}},
    },
    "inference": {
        "preset": {"name": "phi-3-mini-128k-instruct"},
        "adapters": [{"source": {"name": "one", "image": "registry.example.com/adapters/one:1"}, "strength": "0.5"}],
    },
}


def changed(workspace: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy with `field path -> value`; REMOVED takes a field away."""
    workspace = copy.deepcopy(workspace)
    for path, value in changes.items():
        *parents, last = parse_path(path)
        target: Any = workspace
        for key in parents:
            target = target[key] if isinstance(key, int) else target.setdefault(key, {})
        if value is REMOVED:
            del target[last]
        else:
            target[last] = copy.deepcopy(value)
    return workspace


def as_document(value: Any) -> Document:
    text = StringIO()
    yaml = YAML(typ="rt", pure=True)
    yaml.dump(value, text)
    (document,) = parse_documents(text.getvalue(), file="w.yaml")
    return document


def check(workspace: dict[str, Any], changes: dict[str, Any], context: ValidationContext = CONTEXT) -> Findings:
    return validate_document(as_document(changed(workspace, changes)), context)
