"""Rules about nodes: the selector (R2 to R4), partitions (R5 to R8, R12), machine type and memory (R13 to R15)."""

from __future__ import annotations

from kaito.api.findings import Findings, KnownSku, Nodes, ValidationContext
from kaito.api.paths import Path
from kaito.api.references import placeholders
from kaito.api.rules_metadata import BYPASS, RUNTIME, nodes_of
from kaito.api.schema import show
from kaito.api.workspace import Inference, LabelSelector, Partition, Workspace

VLLM_CAPABILITY = 7.5
"""CUDA compute capability from which vLLM runs."""

RESERVED_LABELS = frozenset(
    (
        "kaito.sh/workspace",
        "kaito.sh/workspacenamespace",
        "kaito.sh/ragengine",
        "kaito.sh/ragenginenamespace",
        "karpenter.kaito.sh/workspace-name",
        "karpenter.kaito.sh/workspace-namespace",
        "karpenter.kaito.sh/inferenceset",
        "karpenter.kaito.sh/inferenceset-namespace",
    )
)
GIB = 2**30
_SELECTOR: Path = ("resource", "labelSelector")
_PARTITION: Path = ("resource", "partition")


def check_selector(selector: LabelSelector | None, findings: Findings) -> None:
    """R2 to R4."""
    if selector is None:
        findings.error(_SELECTOR, "missing; give the labels of the nodes: `matchLabels: {apps: NAME}`")
        return
    check_expressions(selector, findings)
    labels = selector.match_labels or {}
    reserved = [label for label in labels if label in RESERVED_LABELS]
    if labels and len(reserved) == len(labels):
        findings.error((*_SELECTOR, "matchLabels"), "must hold at least one label that is not reserved")
        return
    for label in reserved:
        findings.warn((*_SELECTOR, "matchLabels", label), "without effect: the label is reserved")


def check_expressions(selector: LabelSelector, findings: Findings) -> None:
    for position, expression in enumerate(selector.match_expressions or []):
        if expression.operator != "In" or len(expression.values or []) != 1:
            path = (*_SELECTOR, "matchExpressions", position)
            findings.error(path, "only operator In with exactly one value can be used")


def check_inference_resource(workspace: Workspace, findings: Findings, context: ValidationContext) -> None:
    """R2 to R16, but what needs nodes (R9 to R11): those are looked at when the Workspace runs."""
    nodes = nodes_of(workspace, context)
    if nodes == "local":
        return
    check_selector(workspace.resource.label_selector, findings)
    partition = workspace.resource.partition
    if partition is not None:
        if nodes == "existing":
            _check_partition(workspace, partition, findings, context)
        else:
            findings.error(_PARTITION, "only nodes of your own can be partitioned (node strategy `existing`)")
        return
    if nodes == "existing":
        return
    check_sku(workspace.resource.instance_type, findings, context)
    if workspace.inference is not None:
        _check_memory(workspace, workspace.inference, findings, context)


def check_sku(instance_type: str | None, findings: Findings, context: ValidationContext) -> None:
    """R13: a known machine type, or (Azure) one of a GPU or CPU family that may be newer than the table:
    a warning where it looks like one that is known."""
    if not instance_type or context.find_sku is None or context.find_sku(instance_type) is not None:
        return
    path: Path = ("resource", "instanceType")
    near = list(context.nearest_skus(instance_type)) if context.nearest_skus is not None else []
    hint = f"did you mean {near[0]}?" if near else "`kaito skus` lists the known ones"
    if context.cloud == "azure" and instance_type.lower().startswith(("standard_n", "standard_d")):
        if near and not placeholders(instance_type):
            findings.warn(path, f"{show(instance_type)} is not known here, nor are its GPUs; {hint}")
        return
    findings.check(path, instance_type, f"{show(instance_type)} is no known machine type of {context.cloud}; {hint}")


def runtime_of(workspace: Workspace, sku: KnownSku | None) -> str:
    """`vllm` or `transformers`: as asked, else vLLM where the GPU can run it."""
    asked = workspace.annotations.get(RUNTIME)
    if asked in ("vllm", "transformers"):
        return asked
    capability = sku.compute_capability if sku is not None else None
    return "transformers" if capability is None or capability < VLLM_CAPABILITY else "vllm"


def _check_memory(workspace: Workspace, inference: Inference, findings: Findings, context: ValidationContext) -> None:
    """R14 and R15: the weights fit the machines, where both are known. vLLM's nodes are planned, not checked here."""
    instance_type = workspace.resource.instance_type
    sku = context.find_sku(instance_type) if context.find_sku is not None and instance_type else None
    model = context.find_preset(inference.preset.name) if context.find_preset is not None and inference.preset else None
    if sku is None or model is None or not model.bytes or runtime_of(workspace, sku) == "vllm":
        return
    machine = sku.gpus * sku.gpu_memory_bytes
    count = workspace.resource.count or 1
    needed = f"the weights of {inference.preset.name if inference.preset else ''} need {_gib(model.bytes)}"
    if model.bytes > machine * count:
        message = f"{needed}, {count} machine(s) of {instance_type} have {_gib(machine * count)} of GPU memory"
    elif model.bytes > machine:
        message = f"{needed}, one {instance_type} has {_gib(machine)}; the transformers runtime uses one machine alone"
    else:
        return
    path: Path = ("resource", "instanceType")
    if BYPASS in workspace.annotations:
        findings.warn(path, message)
    else:
        findings.error(path, f"{message}; take a larger one (annotation {BYPASS} turns this into a warning)")


def _check_partition(
    workspace: Workspace, partition: Partition, findings: Findings, context: ValidationContext
) -> None:
    """R5 to R7."""
    if partition.mode == "accelerator":
        if "enableAccelerator" not in context.gates:
            findings.error((*_PARTITION, "mode"), "accelerator partitions are not enabled (gate enableAccelerator)")
        if partition.profile:
            findings.error((*_PARTITION, "profile"), "belongs to mode mig alone")
        if partition.count is None:
            findings.error((*_PARTITION, "count"), "missing; mode accelerator needs the number of GPUs")
        return
    if "enableMIG" not in context.gates:
        findings.error((*_PARTITION, "mode"), "MIG partitions are not enabled (gate enableMIG)")
    if partition.count is not None:
        findings.error((*_PARTITION, "count"), "belongs to mode accelerator alone")
    if not partition.profile:
        findings.error((*_PARTITION, "profile"), "missing; mode mig needs a profile such as 2g.24gb")
        return
    if context.mig_slice_bytes is None:
        return
    slice_bytes = context.mig_slice_bytes(partition.profile)
    if slice_bytes is None:
        findings.error((*_PARTITION, "profile"), f"{show(partition.profile)} is no MIG profile; one is 2g.24gb")
        return
    _check_slice(workspace, partition.profile, slice_bytes, findings, context)


def _check_slice(
    workspace: Workspace, profile: str, slice_bytes: int, findings: Findings, context: ValidationContext
) -> None:
    """R6."""
    preset = workspace.inference.preset if workspace.inference is not None else None
    model = context.find_preset(preset.name) if context.find_preset is not None and preset is not None else None
    if preset is None or model is None or model.bytes <= slice_bytes:
        return
    message = f"the weights of {preset.name} need {_gib(model.bytes)}, a slice {profile} has {_gib(slice_bytes)}"
    if BYPASS in workspace.annotations:
        findings.warn((*_PARTITION, "profile"), message)
    else:
        findings.error((*_PARTITION, "profile"), f"{message} (annotation {BYPASS} turns this into a warning)")


def check_tuning_resource(workspace: Workspace, findings: Findings, context: ValidationContext) -> None:
    """T1 and T2; the machine type as for inference. Whether the training fits is the plan's to say."""
    nodes: Nodes = nodes_of(workspace, context)
    resource = workspace.resource
    if (resource.count or 1) > 1:
        findings.error(("resource", "count"), "a tuning runs on one node: set it to 1 or leave it out")
    if resource.partition is not None:
        findings.error(_PARTITION, "a tuning cannot run on a part of a GPU")
    if nodes == "local":
        return
    check_selector(resource.label_selector, findings)
    if nodes != "existing":
        check_sku(resource.instance_type, findings, context)


def _gib(number_of_bytes: int) -> str:
    return f"{number_of_bytes / GIB:.1f} GiB"
