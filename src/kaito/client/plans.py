"""Plans of documents that are not applied: with what the hub says of the model, where it may be asked."""

from __future__ import annotations

import os
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from itertools import pairwise
from pathlib import Path

from kaito.api.workspace import Workspace
from kaito.catalog import find_sku
from kaito.client.documents import DocumentSet, with_absolute_paths
from kaito.contract import DataFacts, ModelFacts, Observed, Plan, Refusal
from kaito.failure import Failure
from kaito.local.desired import SECRETS, save_secret
from kaito.local.device import find_device
from kaito.plan import plan
from kaito.plan.bases import private_image

_NOTHING_FOUND = ModelFacts("", 0, 0, 0, 0, 0, 0, 0, "", gated=False, files_digest="")  # the catalog's word counts
SHORTEST_ROW = 64  # tokens


def plan_documents(
    documents: DocumentSet, *, local: bool = False, offline: bool = False, allow_hosts: tuple[str, ...] = ()
) -> list[tuple[Plan, tuple[str, ...]]]:
    """The plan of each Workspace, with notes on what it rests on. Valid documents are assumed.

    For the cluster where an instanceType is named, unless `local`; else for this machine. Refused is, beside what can
    never be, a model that does not fit with the shortest rows, and a folder of this machine that is no model.
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
        facts, note, missing = _model_facts(first, documents, offline)
        notes = [f"For this machine: {find_device().name}." if here else "For a cluster.", note]
        if workspace.tuning is not None:
            notes.append("The rows are not counted yet: what they decide is marked as provisional.")
        final = plan(workspace, replace(observed, model=facts)) if facts is not None else first
        if final.refusal is None:
            known = replace(observed, model=facts or _NOTHING_FOUND)
            refusal = (missing if here else None) or _misfit(workspace, known, final)
            final = replace(final, refusal=refusal)
        plans.append((final, tuple(notes)))
    return plans


def _misfit(workspace: Workspace, observed: Observed, planned: Plan) -> Refusal | None:
    """Why the model cannot be trained whatever the rows are: not even short ones fit. None where they might."""
    if planned.estimate is None or planned.estimate.micro_batch > 0:
        return None
    if observed.device is None and find_sku(workspace.resource.instance_type or "") is None:
        return None  # which GPU it will be is not known
    if observed.model is _NOTHING_FOUND and workspace.tuning is not None and private_image(workspace.tuning.preset):
        return None  # nor what the image holds
    if _refused_for_memory(workspace, observed, SHORTEST_ROW) is None:
        return None
    return _refused_for_memory(workspace, observed, planned.settings["TrainingArguments.max_length"].value)


def _refused_for_memory(workspace: Workspace, observed: Observed, tokens: int) -> Refusal | None:
    rows = DataFacts(1, 0, "", 1000, tokens, tokens, tokens, tokens)
    refusal = plan(workspace, replace(observed, data=rows)).refusal
    return refusal if refusal is not None and refusal.reason == "DoesNotFit" else None


def _model_facts(planned: Plan, documents: DocumentSet, offline: bool) -> tuple[ModelFacts | None, str, Refusal | None]:
    """What the `resolve` step would find, asked with its own words; and why a folder of this machine is no model."""
    step = next((step for job in planned.jobs for step in job.steps if step.name == "resolve"), None)
    if step is None:
        return None, "The base model is not looked at: the plan is refused.", None
    repo, revision = (_value(step.argv, flag) for flag in ("--repo", "--revision"))
    is_folder = repo.startswith("/")
    if offline and not is_folder:
        return None, "Offline: the model's facts are the catalog's.", None
    from kaito.hub.resolve import resolve

    secret = _value(step.argv, "--token-file").partition("/")[2].partition("/")[0]
    token = documents.secrets.get(secret, {}).get("HF_TOKEN", os.environ.get("HF_TOKEN", "").encode())
    with tempfile.TemporaryDirectory() as folder:
        logins = [word for flag, word in pairwise(step.argv) if flag == "--credentials"]
        for name in (login.removeprefix(f"{SECRETS}/") for login in logins):
            save_secret(Path(folder), name, documents.secrets.get(name, {}))
        try:
            with (
                redirect_stdout(StringIO()),
                redirect_stderr(StringIO()),
            ):  # a program's log lines are no part of a plan
                credentials = [Path(folder) / login for login in logins]
                facts = resolve(repo, revision, Path(folder, "model"), token.decode().strip(), credentials)
        except Failure as failure:
            if is_folder:
                return None, failure.message, Refusal(failure.reason, failure.message, failure.hint)
            return None, f"The model's facts are the catalog's: {failure.message}", None
    return facts, f"{repo} at {facts.commit}.", None


def _value(argv: tuple[str, ...], flag: str) -> str:
    return argv[argv.index(flag) + 1] if flag in argv else ""
