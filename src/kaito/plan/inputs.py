"""What a run is a run of: the hash of the Workspace's spec and of the configuration that it names."""

from __future__ import annotations

from kaito.api.workspace import Workspace
from kaito.contract import Observed, digest_of

RERUN = "kaito.sh/rerun"


def hash_inputs(workspace: Workspace, observed: Observed) -> str:
    """Equal exactly when nothing that a run depends on has changed: status, labels and nodes do not count."""
    body = workspace.tuning if workspace.tuning is not None else workspace.inference
    spec = None if body is None else body.model_dump(mode="json", by_alias=True, exclude_none=True)
    config = (body.config if body is not None else None) or ""
    return digest_of(
        {
            "kind": "tuning" if workspace.tuning is not None else "inference",
            "spec": spec,
            "config": dict(observed.configs.get(config, {})) if config else {},
            "rerun": rerun_of(workspace, observed),
            "sources": dict(observed.asked.sources),
        }
    )


def rerun_of(workspace: Workspace, observed: Observed) -> str:
    """What asks for a new run of the same spec: a new value of `kaito.sh/rerun`, or a result that is gone."""
    asked = workspace.annotations.get(RERUN, "")
    return f"{asked}+{observed.asked.again}" if observed.asked.again else asked
