"""Rules about a Workspace's name, its top level (C1 to C8) and its annotations."""

from __future__ import annotations

from kaito.api.findings import Findings, Nodes, ValidationContext
from kaito.api.paths import Path
from kaito.api.references import MAX_WORKSPACE_NAME, label_problem, subdomain_problem
from kaito.api.schema import nearest, show
from kaito.api.workspace import DEFAULT_INSTANCE_TYPE, V1ALPHA1, Workspace

PREFIX = "kaito.sh/"
RUNTIME = "kaito.sh/runtime"
BYPASS = "kaito.sh/bypass-resource-checks"
NODE_CLASS = "kaito.sh/node-class-name"
NODE_STRATEGY = "kaito.sh/node-strategy"
STREAMING = "kaito.sh/model-streaming"

# Annotation -> what it may say (an empty tuple: anything), in the order of KAITO's own, then ours.
_CHOICES: dict[str, tuple[str, ...]] = {
    "kaito.sh/performance-mode": ("balanced", "interactivity", "throughput"),
    "kaito.sh/use-local-weights": ("true", "false"),
    "kaito.sh/serve-after-tuning": ("true", "false"),
    "kaito.sh/stop": ("true", "false"),
    NODE_STRATEGY: ("nodeclaim", "nodepool", "existing"),
}
_NODE_IMAGES = ("azurelinux", "ubuntu")
_HONOURED = (
    "kaito.sh/enablelb",
    RUNTIME,
    BYPASS,
    "kaito.sh/node-image-family",
    NODE_CLASS,
    "kaito.sh/model-cache",
    "kaito.sh/retry",
    "kaito.sh/rerun",
    *_CHOICES,
)
_WITHOUT_EFFECT = {
    "kaito.sh/disable-benchmark": "no benchmark runs at the start",
    STREAMING: "weights are not streamed",
    "kaito.sh/model-mirror-storage-class": "there are no model mirrors; kaito.sh/model-cache names a claim for weights",
    "kaito.sh/streaming-service-account": "weights are not streamed",
    "inference.kaito.sh/static-model-mirror": "there are no model mirrors",
    "inference.kaito.sh/stream-datarefs-url": "weights are not streamed",
    "inference.kaito.sh/stream-identity-client-id": "weights are not streamed",
    "inference.kaito.sh/stream-source-type": "weights are not streamed",
    "kaito.sh/upgrade-start-time": "images are not upgraded by themselves",
}


def nodes_of(workspace: Workspace, context: ValidationContext) -> Nodes:
    """Who gets the nodes: the annotation, else the context. On this machine nobody has to.

    `auto`: a Workspace whose `resource` says nothing is one for this machine; the others get nodes by NodeClaims.
    """
    asked = workspace.annotations.get(NODE_STRATEGY, "")
    if context.nodes == "local":
        return "local"
    choices: dict[str, Nodes] = {"nodeclaim": "nodeclaim", "nodepool": "nodepool", "existing": "existing"}
    if asked not in choices and context.nodes == "auto":
        return "nodeclaim" if workspace.resource.model_dump(exclude_none=True) else "local"
    return choices.get(asked, context.nodes)


def check_name(workspace: Workspace, findings: Findings) -> None:
    name, path = workspace.metadata.name, ("metadata", "name")
    if not name:
        findings.error(path, "missing; a Workspace needs a name")
    else:
        findings.check(path, name, label_problem(name, MAX_WORKSPACE_NAME))
    namespace = workspace.metadata.namespace
    if namespace is not None:
        findings.check(("metadata", "namespace"), namespace, label_problem(namespace))


def check_top(workspace: Workspace, findings: Findings, context: ValidationContext) -> None:
    """C1 to C4."""
    if workspace.inference is None and workspace.tuning is None:
        findings.error(("tuning",), "either `inference` or `tuning` must be given; neither is")
    if workspace.inference is not None and workspace.tuning is not None:
        findings.error(("tuning",), "either `inference` or `tuning` may be given, not both")
    check_instance_type(workspace, findings, nodes_of(workspace, context))


def check_instance_type(workspace: Workspace, findings: Findings, nodes: Nodes) -> None:
    path: Path = ("resource", "instanceType")
    instance_type = workspace.resource.instance_type
    is_default = workspace.api_version == V1ALPHA1 and instance_type == DEFAULT_INSTANCE_TYPE
    if nodes == "existing" and instance_type and not is_default:
        findings.error(path, "must be empty: the nodes are your own, and none is made (node strategy `existing`)")
    if nodes in ("nodeclaim", "nodepool") and not instance_type:
        findings.error(
            path, f"missing; nodes are made for this Workspace (node strategy `{nodes}`): name their machine type"
        )


def check_annotations(workspace: Workspace, findings: Findings, context: ValidationContext) -> None:
    """C5 to C8, and a warning for what has no effect or is misspelt."""
    for key, value in workspace.annotations.items():
        path: Path = ("metadata", "annotations", key)
        if key in _CHOICES and value not in _CHOICES[key]:
            findings.error(path, f"expected one of {', '.join(_CHOICES[key])}, got {show(value)}")
        elif key == "kaito.sh/node-image-family" and value.strip().lower() not in _NODE_IMAGES:
            findings.error(path, f"expected one of {', '.join(_NODE_IMAGES)}, got {show(value)}")
        elif key == "kaito.sh/model-cache":
            findings.check(path, value, subdomain_problem(value))
        elif key == RUNTIME and value not in ("vllm", "transformers"):
            findings.warn(path, f"expected vllm or transformers, got {show(value)}; the runtime is chosen by the GPU")
        elif key == "kaito.sh/enablelb" and value not in ("True", "False"):
            findings.warn(path, f"only True has an effect, got {show(value)}")
        elif key == "kaito.sh/serve-after-tuning" and workspace.tuning is None:
            findings.warn(path, "without effect: nothing is tuned here")
        elif key in _WITHOUT_EFFECT:
            findings.warn(path, f"without effect: {_WITHOUT_EFFECT[key]}")
        elif key.startswith(PREFIX) and key not in _HONOURED:
            near = nearest(key, [*_HONOURED, *_WITHOUT_EFFECT])
            findings.warn(path, "unknown annotation" + (f'; did you mean "{near}"?' if near else ""))
    check_node_class(workspace, findings, context)


def check_node_class(workspace: Workspace, findings: Findings, context: ValidationContext) -> None:
    """C8: only where Karpenter makes the nodes, and only names that the operator allows."""
    name = workspace.annotations.get(NODE_CLASS, "")
    if name and nodes_of(workspace, context) == "nodepool" and name not in context.node_classes:
        allowed = ", ".join(sorted(context.node_classes)) or "none"
        findings.error(
            ("metadata", "annotations", NODE_CLASS), f"{show(name)} is no allowed NodeClass; allowed: {allowed}"
        )
