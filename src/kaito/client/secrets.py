"""The Secrets that a Workspace names: from the set of documents, from files, or what stands in for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kaito.client.documents import DocumentSet
from kaito.local.desired import save_secret, secret_changes

DOCKER_CONFIG_KEY = ".dockerconfigjson"
TOKEN_KEY = "HF_TOKEN"  # noqa: S105  the name of a Secret's key, as KAITO has it


def save_secrets(
    folder: Path, body: Mapping[str, Any], documents: DocumentSet, files: Mapping[str, Path]
) -> Iterator[str]:
    """Write what `body` (a Workspace's `tuning` or `inference`) names below `folder`; yields what stands in for it."""
    for name, is_token in secrets_of(body):
        if name in documents.secrets:
            save_secret(folder, name, documents.secrets[name])
        elif name in files:
            content = files[name].read_bytes()
            save_secret(folder, name, {TOKEN_KEY if is_token else DOCKER_CONFIG_KEY: content})
        elif name not in secret_changes(folder):
            instead = "the environment's HF_TOKEN" if is_token else "the user's docker configuration"
            yield f"Secret {name} is not in the given files: {instead} is used (or give --secret {name}=PATH)"


def secrets_of(body: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """The Secrets that a Workspace names, each with whether it is a token (else a registry's credentials)."""
    source, output = body.get("input") or {}, body.get("output") or {}
    options = (body.get("preset") or {}).get("presetOptions") or {}
    for name in [*(source.get("imagePullSecrets") or []), *(options.get("imagePullSecrets") or [])]:
        yield name, False
    if output.get("imagePushSecret"):
        yield output["imagePushSecret"], False
    if options.get("modelAccessSecret"):
        yield options["modelAccessSecret"], True
