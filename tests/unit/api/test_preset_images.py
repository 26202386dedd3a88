"""What may be written of a base model that comes from an image."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kaito.api.document_set import check_set
from kaito.api.documents import parse_documents
from kaito.client.check import build_context


def problems(preset: dict[str, Any], api_version: str = "kaito.sh/v1beta1") -> list[str]:
    document = {
        "apiVersion": api_version,
        "kind": "Workspace",
        "metadata": {"name": "w"},
        "resource": {"instanceType": "Standard_NC24ads_A100_v4", "labelSelector": {"matchLabels": {"a": "b"}}},
        "tuning": {
            "preset": preset,
            "method": "lora",
            "input": {"urls": ["https://example.com/a.jsonl"]},
            "output": {"image": "registry.example.com/a:1", "imagePushSecret": "s"},
        },
    }
    (checked,) = check_set(parse_documents(json.dumps(document)), build_context("auto", (), configs_complete=False))
    return [error.field for error in checked.errors]


@pytest.mark.parametrize(
    "name", ["oci://registry.example.com/models/phi:1", "oci://localhost:5000/m@sha256:" + "a" * 64]
)
def test_an_image_is_a_base_model(name: str) -> None:
    assert problems({"name": name}) == []


@pytest.mark.parametrize("name", ["oci://", "oci://UPPER/Case:1", "oci://registry.example.com/m:", "oci://a b"])
def test_what_is_no_image_is_refused(name: str) -> None:
    assert problems({"name": name}) == ["tuning.preset.name"]


@pytest.mark.parametrize("version", ["kaito.sh/v1alpha1", "kaito.sh/v1beta1"])
def test_private_weights_may_have_any_name(version: str) -> None:
    options = {"image": "registry.example.com/llama:1", "imagePullSecrets": ["s"]}
    assert problems({"name": "our-llama", "accessMode": "private", "presetOptions": options}, version) == []
    assert problems({"name": "our-llama", "presetOptions": options}, version) == ["tuning.preset.name"]
