"""The Workspace as a person writes it, `v1alpha1` and `v1beta1`: fields, types, defaults. Rules are in `validation`.

There is no `spec`: `resource`, `inference`, `tuning` and `status` stand at the top, as in KAITO.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator
from pydantic.alias_generators import to_camel

from kaito.api.documents import Document, FieldError
from kaito.api.schema import Integer, Number, Typed, validate
from kaito.api.status import WorkspaceStatus
from kaito.api.training import TrainingConfig, read_training_config, with_present_names

__all__ = ["ParsedWorkspace", "Workspace", "WorkspaceStatus", "parse_workspace"]

GROUP = "kaito.sh"
V1ALPHA1 = "kaito.sh/v1alpha1"
V1BETA1 = "kaito.sh/v1beta1"
DEFAULT_INSTANCE_TYPE = "Standard_NC24ads_A100_v4"
"""Of v1alpha1 alone; v1beta1 has none."""

Object = dict[str, Any]


class Part(Typed):
    model_config = ConfigDict(alias_generator=to_camel)


class ObjectMeta(Part):
    name: str = ""
    namespace: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    generate_name: str | None = None
    uid: str | None = None
    resource_version: str | None = None
    generation: Integer | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: Integer | None = None
    finalizers: list[str] | None = None
    owner_references: list[Object] | None = None
    managed_fields: list[Object] | None = None
    self_link: str | None = None


class MatchExpression(Part):
    key: str
    """The label."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """Only `In` can be used here, with exactly one value."""
    values: list[str] | None = None
    """The label's values."""


class LabelSelector(Part):
    match_labels: dict[str, str] | None = None
    """Labels that the nodes have; nodes that are made get them."""
    match_expressions: list[MatchExpression] | None = None
    """Only operator `In` with exactly one value."""


class Partition(Part):
    """A part of a GPU, on nodes of your own."""

    mode: Literal["mig", "accelerator"]
    """`mig`: a MIG slice; `accelerator`: so many GPUs."""
    profile: str | None = None
    """Of mode mig: the slice, such as `2g.24gb`."""
    count: Annotated[Integer, Field(ge=1)] | None = None
    """Of mode accelerator: how many."""


class Resource(Part):
    """The nodes that a Workspace runs on."""

    count: Integer | None = None
    """How many nodes. Deprecated in v1beta1: planning decides."""
    instance_type: str | None = None
    """The machine type of nodes that are made for this Workspace; empty for nodes of your own."""
    label_selector: LabelSelector | None = None
    """Labels of the nodes: selects nodes of your own, and marks nodes that are made."""
    preferred_nodes: list[str] | None = None
    """Without effect. Deprecated."""
    partition: Partition | None = None
    """A part of a GPU, on nodes of your own, for inference."""
    retain: bool | None = None
    """Keep the nodes when the Workspace is done with them."""


class PresetOptions(Part):
    image: str | None = None
    """With access mode private: an image that holds the model's weights. `oci://` may precede it."""
    image_pull_secrets: list[str] | None = None
    """Secrets with the credentials of that image's registry."""
    model_access_secret: str | None = None
    """A Secret with the key `HF_TOKEN`, for gated models."""


class Preset(Part):
    """The base model."""

    name: str
    """A name of the catalog, a Hugging Face id (`org/name`), an image (`oci://REGISTRY/REPOSITORY:TAG`) or a folder."""
    access_mode: Literal["public", "private"] | None = None
    """`private`: the weights come from `presetOptions.image`."""
    preset_options: PresetOptions | None = None
    """Where private weights and tokens are."""


class DataSource(Part):
    """Where data comes from: exactly one of `urls`, `image` and `volumeSource`."""

    name: str | None = None
    """A name for it; of an adapter: the id under which it is served."""
    urls: list[str] | None = None
    """Files, by http or https."""
    volume_source: Object | None = None
    """A Kubernetes volume source."""
    image: str | None = None
    """An image whose folder `/data` holds the files."""
    image_pull_secrets: list[str] | None = None
    """Secrets with the credentials of the image's registry."""


class DataDestination(Part):
    """Where the adapter goes: exactly one of `image` and `volumeSource`."""

    volume_source: Object | None = None
    """A Kubernetes volume source; the adapter's files lie at its root."""
    image: str | None = None
    """The image as which the adapter is pushed."""
    image_push_secret: str | None = None
    """The Secret with the credentials of the image's registry."""


class Adapter(Part):
    source: DataSource | None = None
    """Where the adapter's files are."""
    strength: str | None = None
    """A factor on the adapter's update, any finite decimal in quotes. "1.0" where not said."""


class MixPart(Part):
    name: str
    """The name of an adapter of this Workspace."""
    strength: str | None = None
    """Its factor in the mix. "1.0" where not said."""


class Mix(Part):
    """Several adapters, served together under one name."""

    name: str
    """The id under which the mix is served."""
    adapters: list[MixPart]
    """What is mixed."""


class Inference(Part):
    """Serve a model: exactly one of `preset` and `template`."""

    preset: Preset | None = None
    """The base model."""
    template: Object | None = None
    """A pod template of your own."""
    config: str | None = None
    """A ConfigMap with the key `inference_config.yaml`."""
    adapters: list[Adapter] | None = None
    """Adapters that are served beside the base model; at most 10."""
    mixes: list[Mix] | None = None
    """Mixes of these adapters."""


class Evaluation(Part):
    """What the adapter must reach, and when to train no further. Both look at the held-out loss."""

    min_improvement: Number | None = None
    """The held-out loss must fall by at least this, else the run fails and nothing is pushed."""
    early_stopping_patience: Annotated[Integer, Field(ge=1)] | None = None
    """Stop after so many evaluations in a row without a lower held-out loss. Not said: train to the end."""


class Tuning(Part):
    """Fine-tune a model."""

    preset: Preset | None = None
    """The base model."""
    method: str = ""
    """`lora` or `qlora`."""
    config: str | None = None
    """A ConfigMap with the key `training_config.yaml`. Defaults that fit model and data where not said."""
    parameters: TrainingConfig | None = None
    """The sections of a training configuration; they win over `config` key by key."""
    evaluation: Evaluation | None = None
    """What the adapter must reach, and when to train no further."""
    input: DataSource | None = None
    """The training data."""
    output: DataDestination | None = None
    """Where the adapter goes."""

    @field_validator("parameters", mode="before")
    @classmethod
    def _present_names(cls, value: Any) -> Any:
        return with_present_names(value) if isinstance(value, dict) else value


class Workspace(Part):
    """Fine-tunes a language model, or serves one."""

    api_version: Literal["kaito.sh/v1alpha1", "kaito.sh/v1beta1"]
    kind: Literal["Workspace"]
    metadata: ObjectMeta = Field(default_factory=ObjectMeta)
    resource: Resource = Field(default_factory=Resource)
    inference: Inference | None = None
    tuning: Tuning | None = None
    status: WorkspaceStatus | None = None

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def namespace(self) -> str:
        return self.metadata.namespace or "default"

    @property
    def annotations(self) -> dict[str, str]:
        return self.metadata.annotations or {}

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, value: Any) -> Any:
        """What the API server does too: nulls are as if not written; v1alpha1 has a default instanceType."""
        if not isinstance(value, dict):
            return value
        value = {key: item for key, item in value.items() if item is not None}
        resource = value.get("resource")
        if value.get("apiVersion") == V1ALPHA1 and isinstance(resource, dict) and "instanceType" not in resource:
            value["resource"] = {**resource, "instanceType": DEFAULT_INSTANCE_TYPE}
        return value


@dataclass(frozen=True, slots=True)
class ParsedWorkspace:
    """`workspace` is None exactly when there are errors."""

    workspace: Workspace | None
    errors: tuple[FieldError, ...] = ()
    warnings: tuple[FieldError, ...] = ()


ONLY_V1BETA1 = (
    ("resource", "partition"),
    ("tuning", "preset", "presetOptions", "modelAccessSecret"),
    ("inference", "preset", "presetOptions", "modelAccessSecret"),
)

_PARAMETERS = ("tuning", "parameters")


def parse_workspace(document: Document) -> ParsedWorkspace:
    """A document as a Workspace, or every key and type in it that is wrong. Whether it makes sense: `validation`."""
    workspace, complaints = validate(Workspace, document.value, document.line_of)
    inline = "tuning.parameters"
    errors = [error for error in complaints if not f"{error.field}.".startswith(f"{inline}.")]
    warnings: tuple[FieldError, ...] = ()
    parameters = _value_at(document.value, _PARAMETERS)
    if parameters is not None:
        parsed = read_training_config(parameters, lambda path: document.line_of((*_PARAMETERS, *path)), _PARAMETERS)
        errors += parsed.errors
        warnings = parsed.warnings
    if document.api_version == V1ALPHA1:
        for path in ONLY_V1BETA1:
            if _value_at(document.value, path) is not None:
                message = f"unknown in v1alpha1; write apiVersion: {V1BETA1}"
                errors.append(FieldError(".".join(path), message, document.line_of(path)))
    return ParsedWorkspace(None if errors else workspace, tuple(errors), warnings)


def _value_at(value: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value
