"""An inference Workspace: `check` the model, `model` its weights, and a Service with the adapters.

This version plans it and shows it; it does not serve yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kaito.api.workspace import Adapter, Inference, Workspace
from kaito.catalog import Model, NodesTooSmallError, Sku, estimate_inference_nodes, find_sku
from kaito.contract import Job, Nodes, Observed, Plan, Refusal, Service
from kaito.plan.bases import base_model
from kaito.plan.inputs import hash_inputs
from kaito.plan.steps import PlannedModel, build_model, build_resolve, node_labels

RUNTIME = "kaito.sh/runtime"
VLLM_CAPABILITY = 7.5
_HINT = "The adapter is a PEFT adapter: vLLM, transformers and KAITO load it."


def plan_inference(workspace: Workspace, observed: Observed) -> Plan:
    """The Plan of an inference Workspace. Valid input is assumed."""
    inference = workspace.inference
    assert inference is not None
    empty = Plan(workspace.namespace, workspace.name, hash_inputs(workspace, observed), ())
    if inference.preset is None:
        message = "a Pod template of one's own runs on a cluster alone"
        return replace(empty, refusal=Refusal("TemplateNeedsCluster", message))
    if observed.device is not None:
        return replace(
            empty, refusal=Refusal("ServingNotSupported", "this version trains and does not serve yet", _HINT)
        )
    model = base_model(inference.preset)
    if model is None:
        message = f"no base model is called {inference.preset.name!r}"
        return replace(empty, refusal=Refusal("ModelNotFound", message, "kaito models lists the known ones."))
    sku = None if observed.device is not None else find_sku(workspace.resource.instance_type or "")
    nodes, refusal = _nodes(workspace, model, observed, sku)
    base = PlannedModel(model.repo, observed.model.commit if observed.model else "", "", found=bool(observed.model))
    check = Job("check", "light", (build_resolve(workspace, inference.preset, base, observed),))
    weights = Job("model", "light", (build_model(workspace, inference.preset, base, observed),))
    runtime = _runtime(workspace, observed, sku)
    service = _service(inference, runtime, sku)
    return replace(empty, jobs=(check, weights), service=service, nodes=nodes, refusal=refusal)


def _runtime(workspace: Workspace, observed: Observed, sku: Sku | None) -> str:
    """The annotation if given, else vLLM where the GPU can run it, else transformers."""
    asked = workspace.annotations.get(RUNTIME)
    if asked:
        return asked
    capability = sku.compute_capability if sku else observed.device.compute_capability if observed.device else None
    return "vllm" if capability is not None and capability >= VLLM_CAPABILITY else "transformers"


def _nodes(
    workspace: Workspace, model: Model, observed: Observed, sku: Sku | None
) -> tuple[Nodes | None, Refusal | None]:
    if observed.device is not None:
        return None, None
    count = 1
    if sku is not None and model.bytes and model.kv_bytes_per_token:
        try:
            count = estimate_inference_nodes(
                weight_bytes=model.bytes,
                kv_bytes_per_token=model.kv_bytes_per_token,
                gpus_per_node=sku.gpus,
                gpu_memory_bytes=sku.gpu_memory_bytes,
            )
        except NodesTooSmallError as error:
            return None, Refusal("DoesNotFit", f"{model.name} on {sku.name}: {error}")
    instance_type = workspace.resource.instance_type or ""
    nodes = Nodes(count, instance_type, node_labels(workspace), "nodeclaim" if instance_type else "existing")
    if count == 1:
        return nodes, None
    message = f"{model.name} takes {count} nodes of {instance_type}; serving over several nodes is not supported"
    return nodes, Refusal("MultiNodeNotSupported", message, "Choose a larger instanceType: kaito skus lists them.")


def _service(inference: Inference, runtime: str, sku: Sku | None) -> Service:
    argv = ("python", "-m", "kaito.serving", "--runtime", runtime, "--model", "model", "--adapters", "adapters.yaml")
    adapters = tuple(_adapter(adapter) for adapter in inference.adapters or [] if adapter.source is not None)
    gpus = sku.gpus if sku is not None else 0
    return Service("vllm" if runtime == "vllm" else "serving", argv, adapters=adapters, gpus=gpus)


def _adapter(adapter: Adapter) -> Mapping[str, Any]:
    source = adapter.source
    assert source is not None
    where = source.model_dump(by_alias=True, exclude_none=True, exclude={"name", "image_pull_secrets"})
    return {"name": source.name or "", "source": where, "strength": adapter.strength or "1.0"}
