"""Base models in images: how a preset becomes `--repo`, `--credentials` and the lineage of the adapter."""

from __future__ import annotations

from typing import Any

from kaito.api.workspace import Workspace
from kaito.contract import Device, Observed, Step
from kaito.plan import plan

LAPTOP = Device("cpu", "a laptop", 2, 16 << 30)
IMAGE = "registry.example.com/models/llama-2-7b:1"


def planned(preset: dict[str, Any], **observed: Any) -> dict[str, Step]:
    """The steps of all Jobs, by name."""
    workspace = Workspace.model_validate(
        {
            "apiVersion": "kaito.sh/v1beta1",
            "kind": "Workspace",
            "metadata": {"name": "w"},
            "resource": {},
            "tuning": {
                "preset": preset,
                "method": "lora",
                "input": {"urls": ["https://example.com/a.jsonl"]},
                "output": {"image": "registry.example.com/a:1", "imagePushSecret": "push"},
            },
        }
    )
    found = plan(workspace, Observed(device=LAPTOP, **observed))
    assert found.refusal is None
    assert {"push", "weights"} >= set(found.jobs[0].secrets)
    return {step.name: step for job in found.jobs for step in job.steps}


def value(step: Step, flag: str) -> str:
    return step.argv[step.argv.index(flag) + 1] if flag in step.argv else ""


def test_private_weights_are_resolved_pulled_and_named_by_their_image() -> None:
    options = {"image": IMAGE, "imagePullSecrets": ["weights"]}
    preset = {"name": "llama-2-7b", "accessMode": "private", "presetOptions": options}
    steps = planned(preset, secrets={"weights": 1.0})
    for name in ("resolve", "model", "tune"):
        assert value(steps[name], "--repo") == f"oci://{IMAGE}"
    for name in ("resolve", "model"):
        assert value(steps[name], "--credentials") == "secrets/weights"
        assert "--token-file" not in steps[name].argv


def test_an_image_may_be_named_as_the_preset_itself() -> None:
    preset = {"name": f"oci://{IMAGE}", "presetOptions": {"imagePullSecrets": ["weights"]}}
    steps = planned(preset)
    assert value(steps["model"], "--repo") == f"oci://{IMAGE}"
    assert value(steps["model"], "--credentials") == "secrets/weights"


def test_private_weights_may_have_a_name_that_no_catalog_knows() -> None:
    options = {"image": f"oci://{IMAGE}"}
    steps = planned({"name": "our-own", "accessMode": "private", "presetOptions": options})
    assert value(steps["resolve"], "--repo") == f"oci://{IMAGE}"


def test_an_image_with_public_access_does_not_replace_the_models_own_place() -> None:
    steps = planned({"name": "phi-4", "presetOptions": {"image": IMAGE}})
    assert value(steps["resolve"], "--repo") == "microsoft/phi-4"
    assert "--credentials" not in steps["resolve"].argv
