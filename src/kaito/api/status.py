"""The status of a Workspace: KAITO's conditions and fields, and ours under `tuning` and `inference`. Types alone.

Read leniently: an older program must be able to read what a newer one wrote.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

State = Literal["Pending", "Ready", "NotReady", "Running", "Succeeded", "Failed"]


class Recorded(BaseModel):
    """Base of what a program wrote: unknown keys are passed over."""

    model_config = ConfigDict(
        extra="ignore",
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        defer_build=True,
    )


class Condition(Recorded):
    """One aspect of the state, as all of Kubernetes writes it."""

    type: str
    """The aspect: ResourceReady, JobStarted, InferenceReady, WorkspaceSucceeded…"""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: str = ""
    """Why, in one CamelCase word."""
    message: str = ""
    """Why, and what to do, for people."""
    last_transition_time: str = Field(default="", json_schema_extra={"format": "date-time"})
    """When `status` last changed."""
    observed_generation: int | None = None
    """The generation of the Workspace that this is about."""


class Metric(Recorded):
    description: str
    """What was measured."""
    value: str
    """The value."""
    unit: str | None = None
    """Its unit."""
    config: dict[str, str] | None = None
    """How it was measured."""


class Performance(Recorded):
    metrics: dict[str, Metric] | None = None
    """Results of the benchmark at the start."""


class StepStatus(Recorded):
    """One step of a run: a program that ran, runs or will run."""

    name: str
    """resolve, fetch, preflight, login, model, tune, push."""
    job: str = ""
    """The Job that the step is part of."""
    state: Literal["pending", "running", "waiting", "done", "failed"] = "pending"
    """Where it is."""
    attempt: int = 0
    """How often it was started."""
    start_time: str | None = Field(default=None, json_schema_extra={"format": "date-time"})
    """When its last attempt began."""
    end_time: str | None = Field(default=None, json_schema_extra={"format": "date-time"})
    """When its last attempt ended."""
    exit_code: int | None = None
    """How its last attempt ended."""
    reason: str = ""
    """Why it failed or waits, in one word."""
    message: str = ""
    """Why it failed or waits."""
    hint: str = ""
    """What to do about it."""


class ModelStatus(Recorded):
    repo: str = ""
    """The base model's repository."""
    commit: str = ""
    """Its commit."""


class DataStatus(Recorded):
    digest: str = ""
    """Digest of the training data."""
    rows: int = 0
    """Rows in it."""


class OutputStatus(Recorded):
    image: str = ""
    """The image as which the adapter was pushed."""
    digest: str = ""
    """Its digest."""
    size_bytes: int = 0
    """Its size."""


class RunStatus(Recorded):
    """The record of the newest run. What is recorded once is never recomputed."""

    number: int = 1
    """Counts the runs of this Workspace."""
    inputs_hash: str = ""
    """Hash of what the run was asked to do."""
    phase: str = ""
    """What the run is doing."""
    steps: list[StepStatus] = Field(default_factory=list)
    """Its steps, in order."""
    log_tail: list[str] | None = None
    """The last lines of the log of a step that failed."""
    model: ModelStatus | None = None
    """The base model as resolved."""
    data: DataStatus | None = None
    """The data as fetched."""
    output: OutputStatus | None = None
    """The adapter as pushed."""


class CheckpointStatus(Recorded):
    step: int = 0
    """Optimizer steps done."""
    time: str | None = None
    """When it was written."""


class ProgressStatus(Recorded):
    """Where the running step is."""

    text: str = ""
    """For people: `412/1200, 34 min left`."""
    step: str = ""
    """The running step."""
    done: int = 0
    """So many units are done."""
    total: int = 0
    """Of so many."""
    unit: str = ""
    """bytes, rows or steps."""
    epoch: float | None = None
    """Passes over the training rows."""
    loss: float | None = None
    """Training loss."""
    eval_loss: float | None = None
    """Held-out loss."""
    tokens_per_second: float | None = None
    """Tokens trained in a second."""
    seconds_left: float | None = None
    """Estimated time left."""
    last_checkpoint: CheckpointStatus | None = None
    """The newest complete checkpoint."""
    time: str | None = None
    """When this was true."""


class TuningStatus(Recorded):
    run: RunStatus | None = None
    """The newest run."""
    progress: ProgressStatus | None = None
    """Where it is."""


class AdapterStatus(Recorded):
    name: str
    """The adapter's name."""
    digest: str = ""
    """Digest of what is loaded."""
    state: str = ""
    """Whether it is served."""
    reason: str = ""
    """Why not, in one word."""
    message: str = ""
    """Why not."""


class InferenceStatus(Recorded):
    adapters: list[AdapterStatus] | None = None
    """The adapters and whether they are served."""
    model: ModelStatus | None = None
    """The base model as resolved."""


class WorkspaceStatus(Recorded):
    """What has been observed. Written by programs alone."""

    worker_nodes: list[str] | None = None
    """Names of the nodes that are used."""
    conditions: list[Condition] | None = None
    """One entry an aspect."""
    state: State | None = None
    """All of it in one word."""
    target_node_count: int | None = None
    """How many nodes are wanted."""
    performance: Performance | None = None
    """Results of the benchmark at the start."""
    tuning: TuningStatus | None = None
    """The run of a tuning Workspace."""
    inference: InferenceStatus | None = None
    """What an inference Workspace serves."""
    observed_generation: int | None = None
    """The generation of the Workspace that this is about."""
