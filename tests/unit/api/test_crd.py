"""The CRD is what the golden file says, is a structural schema, and describes every field.

Refresh the golden file after a change of the models: KAITO_REFRESH=1 pytest tests/unit/api/test_crd.py
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kaito.api.crd import crds
from kaito.cli.crds import render

GOLDEN = Path(__file__).parents[2] / "fixtures" / "crds" / "workspaces.kaito.sh.yaml"

(CRD,) = crds()
ALPHA, BETA = (version["schema"]["openAPIV3Schema"] for version in CRD["spec"]["versions"])


def test_the_crd_is_the_golden_file():
    if os.environ.get("KAITO_REFRESH"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(render(), encoding="utf-8")
    assert render() == GOLDEN.read_text(encoding="utf-8"), "changed; refresh with KAITO_REFRESH=1 and read the diff"


def test_both_versions_are_served_and_v1beta1_is_stored():
    versions = [(v["name"], v["served"], v["storage"]) for v in CRD["spec"]["versions"]]
    assert versions == [("v1alpha1", True, False), ("v1beta1", True, True)]
    assert all(version["subresources"] == {"status": {}} for version in CRD["spec"]["versions"])
    assert CRD["spec"]["names"]["shortNames"] == ["wk", "wks"]
    assert CRD["spec"]["names"]["categories"] == ["workspace"]


def test_the_columns_are_kaitos_with_progress_and_loss():
    alpha, beta = ([c["name"] for c in v["additionalPrinterColumns"]] for v in CRD["spec"]["versions"])
    kaitos = ["Instance", "ResourceReady", "InferenceReady", "JobStarted", "WorkspaceReady"]
    assert alpha == [*kaitos, "Progress", "Loss", "Age"]
    assert beta == [*kaitos, "TargetNodeCount", "State", "Progress", "Loss", "Age"]


def schemas(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for key, inner in schema.get("properties", {}).items():
        yield from schemas(inner, f"{path}.{key}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from schemas(schema[key], f"{path}.{key}")


ALLOWED = {
    *("type", "properties", "required", "items", "enum", "format", "description", "default", "additionalProperties"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "pattern"),
    *("x-kubernetes-preserve-unknown-fields", "x-kubernetes-int-or-string"),
    *("x-kubernetes-list-type", "x-kubernetes-list-map-keys"),
}


@pytest.mark.parametrize("schema", [ALPHA, BETA], ids=["v1alpha1", "v1beta1"])
def test_the_schema_is_structural(schema: dict[str, Any]):
    for path, part in schemas(schema):
        assert set(part) <= ALLOWED, path
        free = "x-kubernetes-preserve-unknown-fields" in part or "x-kubernetes-int-or-string" in part
        assert ("type" in part) or free, path
        assert not ("properties" in part and "additionalProperties" in part), path
        assert (part.get("type") == "array") == ("items" in part), path
        assert all(isinstance(part.get(bound, True), bool) for bound in ("exclusiveMinimum", "exclusiveMaximum")), path
        assert set(part.get("required", ())) <= set(part.get("properties", ())), path


@pytest.mark.parametrize("schema", [ALPHA, BETA], ids=["v1alpha1", "v1beta1"])
def test_every_field_is_described(schema: dict[str, Any]):
    for path, part in schemas(schema):
        for key, inner in part.get("properties", {}).items():
            assert inner.get("description") or key == "metadata", f"{path}.{key}"


def test_only_v1alpha1_has_a_default_machine_type_and_only_v1beta1_partitions():
    alpha, beta = ALPHA["properties"]["resource"], BETA["properties"]["resource"]
    assert "default" in alpha["properties"]["instanceType"]
    assert "default" not in beta["properties"]["instanceType"]
    assert "partition" not in alpha["properties"]
    assert beta["properties"]["partition"]["properties"]["mode"]["enum"] == ["mig", "accelerator"]
    assert alpha["required"] == beta["required"] == ["labelSelector"]


def test_both_versions_agree_but_for_what_v1beta1_adds():
    """No conversion takes place, so a field of both must have the same type in both."""
    beta = dict(schemas(BETA))
    for path, part in schemas(ALPHA):
        assert part.get("type") == beta[path].get("type"), path
