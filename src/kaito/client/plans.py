"""Plans of documents that are not applied: with what the hub says of the model, where it may be asked."""

from __future__ import annotations

import os
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path

from kaito.api.workspace import Workspace
from kaito.client.documents import DocumentSet, with_absolute_paths
from kaito.contract import ModelFacts, Observed, Plan
from kaito.failure import Failure
from kaito.local.device import find_device
from kaito.plan import plan


def plan_documents(
    documents: DocumentSet, *, local: bool = False, offline: bool = False, allow_hosts: tuple[str, ...] = ()
) -> list[tuple[Plan, tuple[str, ...]]]:
    """The plan of each Workspace, with notes on what it rests on. Valid documents are assumed.

    For the cluster where an instanceType is named, unless `local`; else for this machine.
    """
    plans: list[tuple[Plan, tuple[str, ...]]] = []
    for document in documents.workspaces:
        value = with_absolute_paths(document)
        workspace = Workspace.model_validate({key: item for key, item in value.items() if key != "status"})
        here = local or not workspace.resource.instance_type
        observed = Observed(
            configs=documents.configs,
            secrets=dict.fromkeys(documents.secrets, 0.0),
            device=find_device() if here else None,
            allow_hosts=allow_hosts,
        )
        first = plan(workspace, observed)
        facts, note = _model_facts(first, documents, offline)
        notes = [f"For this machine: {find_device().name}." if here else "For a cluster.", note]
        if workspace.tuning is not None:
            notes.append("The rows are not counted yet: batch and dropout are settled after the check job.")
        final = plan(workspace, replace(observed, model=facts)) if facts is not None else first
        plans.append((final, tuple(notes)))
    return plans


def _model_facts(planned: Plan, documents: DocumentSet, offline: bool) -> tuple[ModelFacts | None, str]:
    """What the `resolve` step would find, asked with its own words."""
    step = next((step for job in planned.jobs for step in job.steps if step.name == "resolve"), None)
    if step is None:
        return None, "The base model is not looked at: the plan is refused."
    if offline:
        return None, "Offline: the model's facts are the catalog's."
    from kaito.hub.resolve import resolve

    repo, revision = (_value(step.argv, flag) for flag in ("--repo", "--revision"))
    secret = _value(step.argv, "--token-file").partition("/")[2].partition("/")[0]
    token = documents.secrets.get(secret, {}).get("HF_TOKEN", os.environ.get("HF_TOKEN", "").encode())
    with tempfile.TemporaryDirectory() as folder:
        try:
            with (
                redirect_stdout(StringIO()),
                redirect_stderr(StringIO()),
            ):  # a program's log lines are no part of a plan
                facts = resolve(repo, revision, Path(folder), token.decode().strip())
        except Failure as failure:
            return None, f"The model's facts are the catalog's: {failure.message}"
    return facts, f"{repo} at {facts.commit}."


def _value(argv: tuple[str, ...], flag: str) -> str:
    return argv[argv.index(flag) + 1] if flag in argv else ""
