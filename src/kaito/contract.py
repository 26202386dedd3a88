"""What engines, the runner and the programs of a step say to each other: plans, jobs, facts, run state.

Types and their JSON; no decisions (`kaito.plan`) and no processes (`kaito.program`, `kaito.runner`). Files that hold
them are read leniently, so that an older part can read what a newer one wrote.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast

VERSION = 1  # of job.json and run.json
ROWS_FOR_A_SPLIT = 20  # of fewer, none are held out: each is worth more in the training

JobName = Literal["check", "tune", "push", "model"]
ImageName = Literal["light", "tuning", "serving", "vllm"]
StepState = Literal["pending", "running", "waiting", "done", "failed"]

# --- facts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What `resolve` found out about a base model. Sizes in bytes; 0 and "" where the source does not say."""

    commit: str
    parameters: int
    bytes: int
    layers: int
    hidden: int
    kv_bytes_per_token: int
    vocab: int
    context: int
    architecture: str
    gated: bool
    files_digest: str
    intermediate: int = 0


@dataclass(frozen=True, slots=True)
class DataFacts:
    """What `fetch` and `preflight` found in the data. Token lengths are of whole rendered rows.

    `truncated` rows are cut at the length that `preflight` used, `dropped` ones left out for it; `untrained` ones have
    no trained token.
    """

    files: int
    bytes: int
    digest: str
    rows: int = 0
    tokens_p50: int = 0
    tokens_p95: int = 0
    tokens_p99: int = 0
    tokens_max: int = 0
    truncated: int = 0
    untrained: int = 0
    dropped: int = 0

    @property
    def rows_trained(self) -> int:
        """Those that teach something: neither left out for their length nor without a trained token."""
        return max(0, self.rows - self.untrained - self.dropped)


@dataclass(frozen=True, slots=True)
class Device:
    """What a run has to compute with. `memory_bytes` is of one GPU, or of the machine (its cgroup) for a CPU."""

    kind: Literal["cpu", "cuda"]
    name: str
    count: int
    memory_bytes: int
    compute_capability: float | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a Workspace cannot be made true as it stands, or why a run was given up: for a condition."""

    reason: str
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person asked for beside the Workspace itself.

    `retried`: when they last asked for another try (seconds since 1970); what failed before counts as not tried.
    `recheck` changes when the `check` Job must look again, `again` when a finished run must be made anew. `sources`:
    local folders (data, base model) -> what was in them when it was asked, so that a changed one is read again.
    """

    retried: float | None = None
    recheck: str = ""
    again: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything that a decision may depend on and that is not in the Workspace or the catalog.

    `configs` are the ConfigMaps at hand (name -> key -> text); of Secrets never what is in them, but when that last
    changed (name -> seconds since 1970). `attended`: an engine is at work on it. `running` is the Job whose runner
    lives now, `progress` its newest word, `log_tail` the last lines of the step that runs or failed. `stopped`: the
    last engine was told to stop; `given_up`: why it ended where no step says so. `allow_hosts`: globs of private
    hosts that data may come from.
    """

    model: ModelFacts | None = None
    data: DataFacts | None = None
    configs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    secrets: Mapping[str, float] = field(default_factory=dict)
    device: Device | None = None
    asked: Asked = field(default_factory=Asked)
    attended: bool = False
    running: JobName | None = None
    progress: Progress | None = None
    log_tail: tuple[str, ...] = ()
    stopped: bool = False
    given_up: Refusal | None = None
    allow_hosts: tuple[str, ...] = ()


# --- a plan ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """One program of a Job, run in the run folder.

    `argv[0] == "python"` stands for the interpreter of the runner. Paths in `argv` are relative to the run folder.
    `identity` hashes the resolved configuration that decides the step's result; with the results of the steps named
    in `after` it makes the step's fingerprint. `outputs` are the entries of the run folder that the step alone
    writes: what is in them belongs to one fingerprint and is moved to `previous/` when that changes. `verdict` is what
    decides only whether they will do: where it alone changes, the step runs again on the outputs that it left.
    `out_of_memory_argv` is added after a first out-of-memory kill; a second one is final.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    timeout_seconds: float = 3600.0
    stall_seconds: float = 600.0
    attempts: int = 3
    identity: str = ""
    verdict: str = ""
    after: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    out_of_memory_argv: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume of the user's (Kubernetes' `VolumeSource`, as written) and the path where a Pod sees it."""

    name: str
    path: str
    source: Mapping[str, Any]
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """What runs in one place, its steps in order. `files` (path in the run folder -> text) are written first."""

    name: JobName
    image: ImageName
    steps: tuple[Step, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    cpu: float = 1.0
    memory_bytes: int = 0
    gpus: int = 0
    mounts: tuple[Mount, ...] = ()
    secrets: tuple[str, ...] = ()
    attempts: int = 3
    start_seconds: float = 1800.0


@dataclass(frozen=True, slots=True)
class Service:
    """A server and the adapters that it starts with: name -> where from (image, urls or path) and strength."""

    image: ImageName
    argv: tuple[str, ...]
    port: int = 5000
    adapters: tuple[Mapping[str, Any], ...] = ()
    cpu: float = 1.0
    memory_bytes: int = 0
    gpus: int = 0
    mounts: tuple[Mount, ...] = ()
    secrets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Nodes:
    """The nodes that a plan needs on a cluster."""

    count: int
    instance_type: str
    labels: Mapping[str, str]
    strategy: Literal["nodeclaim", "nodepool", "existing"]


@dataclass(frozen=True, slots=True)
class Setting:
    """One effective setting and where it comes from: a default, the ConfigMap, the Workspace, or what was found."""

    value: Any
    source: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """GPU (or CPU) memory of the training, in bytes, by part. `rough` where the model's shapes are not known."""

    parts: Mapping[str, int]
    total_bytes: int
    available_bytes: int
    micro_batch: int
    rough: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that an engine must make true for one Workspace, or why it must not try (`refusal`)."""

    namespace: str
    workspace: str
    inputs_hash: str
    jobs: tuple[Job, ...]
    service: Service | None = None
    nodes: Nodes | None = None
    settings: Mapping[str, Setting] = field(default_factory=dict)
    estimate: Estimate | None = None
    warnings: tuple[str, ...] = ()
    refusal: Refusal | None = None


# --- a run ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JobFile:
    """`job.json`: one attempt at one Job. `config` is the user's ConfigMap text as read at the start.

    `request` names what was asked for when the attempt was decided on (`kaito.plan.request_of`).
    """

    namespace: str
    workspace: str
    run: int
    attempt: int
    run_folder: str
    inputs_hash: str
    config: str
    job: Job
    request: str = ""
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class StepRun:
    """A step of `run.json`. Times in seconds since 1970. `owner` is a Pod's UID, or boot id and pid.

    `result` holds what the program found, never a clock value: equal inputs give an equal result. `checkpoint`: the
    newest complete one's step when this attempt was started.
    """

    state: StepState = "pending"
    attempt: int = 0
    fingerprint: str = ""
    owner: str = ""
    started: float | None = None
    ended: float | None = None
    exit_code: int | None = None
    reason: str = ""
    message: str = ""
    hint: str = ""
    result: Mapping[str, Any] | None = None
    checkpoint: int = 0


@dataclass(frozen=True, slots=True)
class JobRun:
    """`request`: that of the newest attempt. Another one asks for another try of what failed."""

    attempt: int = 1
    steps: Mapping[str, StepRun] = field(default_factory=dict)
    request: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """`run.json`: the state of all Jobs of one run of one Workspace."""

    workspace: str
    run: int
    inputs_hash: str
    jobs: Mapping[str, JobRun] = field(default_factory=dict)
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class Progress:
    """`GET /progress` and the live view: where the running step is. `time` is that of the newest word from it."""

    job: str = ""
    step: str = ""
    attempt: int = 0
    state: str = "pending"
    done: int = 0
    total: int = 0
    unit: str = ""
    epoch: float | None = None
    loss: float | None = None
    eval_loss: float | None = None
    tokens_per_second: float | None = None
    seconds_left: float | None = None
    checkpoint: Mapping[str, Any] | None = None
    time: float | None = None


# --- JSON -----------------------------------------------------------------------------------------------------------

T = TypeVar("T")


_adapters: dict[Any, Any] = {}  # building one costs milliseconds: once a type


def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]


def to_json(value: Any) -> dict[str, Any]:
    """A contract type as plain JSON values."""
    return cast("dict[str, Any]", _adapter(type(value)).dump_python(value, mode="json"))


def from_json(kind: type[T], data: Any) -> T:
    """A contract type from plain JSON values; unknown keys are passed over. Raises ValueError on a wrong shape."""
    return cast("T", _adapter(kind).validate_python(data))


def digest_of(value: Any) -> str:
    """`sha256:…` of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
