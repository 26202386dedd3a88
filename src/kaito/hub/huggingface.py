"""A model on the Hugging Face hub, or on a server that speaks its routes (`HF_ENDPOINT`), at one commit."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

import httpx

from kaito.failure import ConfigFailure, Failure, ModelFailure, NoSpaceFailure, TemporaryFailure
from kaito.hub.digests import has_content
from kaito.hub.files import RepoFile
from kaito.hub.repository import Progress
from kaito.transfer import DigestMismatch, HostRefused, NoSpace, TransferError, build_client, download, send

DEFAULT_ENDPOINT = "https://huggingface.co"

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_REFUSALS = (401, 403, 404)
_MOST_PAGES = 1000
_UNREACHABLE = (
    "check the network and the proxy; HF_ENDPOINT names a mirror; without a network use a folder or an oci:// image"
)


class HuggingFaceRepository:
    def __init__(self, repo: str, token: str, client: httpx.Client, endpoint: str) -> None:
        self._repo = repo
        self._client = client
        self._endpoint = endpoint
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.commit = ""
        self.gated = False
        self.parameters = 0
        self.files: Mapping[str, RepoFile] = {}

    @classmethod
    def open(cls, repo: str, revision: str, token: str) -> HuggingFaceRepository:
        """Ask the hub for the commit of `revision` and its files. Raises ModelFailure, TemporaryFailure."""
        if not _ID.fullmatch(repo):
            hint = "a Hugging Face id is org/name; a folder begins with / or ./"
            raise ModelFailure(f"{repo!r} is no model id", hint, reason="ModelNotFound")
        endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or DEFAULT_ENDPOINT
        allowed = [host.strip() for host in os.environ.get("KAITO_ALLOW_HOSTS", "").split(",") if host.strip()]
        # The endpoint is the operator's own setting; where it redirects to is not.
        client = build_client(allow_hosts=[urlsplit(endpoint).hostname or "", *allowed])
        found = cls(repo, token, client, endpoint)
        found._load(revision or "main")
        return found

    def _load(self, revision: str) -> None:
        api = f"{self._endpoint}/api/models/{self._repo}"
        info = self._get_json(f"{api}/revision/{quote(revision, safe='')}", revision)
        if not isinstance(info, dict) or not re.fullmatch(r"[0-9a-f]{40,64}", str(info.get("sha"))):
            raise self._no_hub()
        self.commit = str(info["sha"])
        self.gated = bool(info.get("gated"))
        counted = info.get("safetensors")
        total = counted.get("total") if isinstance(counted, dict) else None
        self.parameters = total if isinstance(total, int) else 0
        self.files = self._list_files(f"{api}/tree/{self.commit}?recursive=true")

    def _list_files(self, url: str) -> dict[str, RepoFile]:
        files: dict[str, RepoFile] = {}
        for _ in range(_MOST_PAGES):
            response = self._get(url, self.commit)
            try:
                for entry in json.loads(response.content):
                    if entry.get("type") == "file":
                        lfs = entry.get("lfs") or {}
                        path, size = str(entry["path"]), int(lfs.get("size", entry["size"]))
                        if ".." in PurePosixPath(path).parts or path.startswith("/"):
                            raise ValueError(f"{path} leads out of the repository")
                        sha256 = str(lfs.get("oid", "")).removeprefix("sha256:")
                        files[path] = RepoFile(path, size, sha256, "" if sha256 else _blob(entry["oid"]))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise self._no_hub() from error
            following = response.links.get("next", {}).get("url")
            if not following:
                return files
            # The token goes to the endpoint alone; a mirror may pass on the original's addresses.
            page = urlsplit(urljoin(url, following))
            url = urlunsplit((*urlsplit(self._endpoint)[:2], page.path, page.query, ""))
        raise ModelFailure(f"{self._repo} has more files than are listed", "choose another repository")

    def read(self, name: str, start: int, length: int) -> bytes:
        headers = {"Range": f"bytes={start}-{start + length - 1}"} if length else {}
        response = self._get(self._address(name), self.commit, headers=headers, stream=True)
        wanted = start + length if response.status_code == 200 else length
        content = bytearray()
        try:
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) >= wanted:
                    break
        except httpx.TransportError as error:
            raise TemporaryFailure(f"{name} of {self._repo}: the connection broke", "try again later") from error
        finally:
            response.close()
        return bytes(content[start:wanted] if response.status_code == 200 else content[:wanted])

    def fetch(self, name: str, target: Path, progress: Progress) -> None:
        file = self.files[name]
        try:
            download(
                self._client,
                self._address(name),
                target,
                headers=self._headers,
                size=file.bytes,
                sha256=file.sha256 or None,
                progress=progress,
            )
        except TransferError as error:
            raise self._transfer_failure(error) from error
        if not file.sha256 and not has_content(target, file, progress):
            target.unlink()
            raise TemporaryFailure(f"{name} of {self._repo} arrived damaged", "the same download may succeed later")

    def _address(self, name: str) -> str:
        return f"{self._endpoint}/{self._repo}/resolve/{self.commit}/{quote(name)}"

    def _get_json(self, url: str, revision: str) -> Any:
        try:
            return json.loads(self._get(url, revision).content)
        except ValueError as error:
            raise self._no_hub() from error

    def _get(
        self, url: str, revision: str, *, headers: Mapping[str, str] | None = None, stream: bool = False
    ) -> httpx.Response:
        try:
            response = send(
                self._client,
                "GET",
                url,
                headers=self._headers | dict(headers or {}),
                expect=(200, 206, *_REFUSALS),
                stream=stream,
            )
        except TransferError as error:
            raise self._transfer_failure(error) from error
        if response.status_code in _REFUSALS:
            response.close()
            raise self._refusal(response, revision)
        return response

    def _no_hub(self) -> ModelFailure:
        return ModelFailure(f"{self._endpoint} does not answer as a hub does", "check HF_ENDPOINT", reason="NotAHub")

    def _refusal(self, response: httpx.Response, revision: str) -> ModelFailure:
        """What a 401, 403 or 404 means: the hub says it in two headers."""
        code = response.headers.get("x-error-code", "")
        said = re.sub(r"[^\x20-\x7e]+", " ", response.headers.get("x-error-message", ""))[:200]
        with_token = bool(self._headers)
        if said == "Access to this resource is disabled.":
            hint = "its owner or the hub has withdrawn it: choose another model"
            return ModelFailure(f"model {self._repo} is disabled on {self._endpoint}", hint, reason="ModelDisabled")
        if code == "GatedRepo":
            page = f"{self._endpoint}/{self._repo}"
            hint = (
                f"the token's owner has no access yet: ask for it on {page}"
                if with_token
                else f"accept its terms on {page} and give a token (HF_TOKEN, or a Secret with the key HF_TOKEN)"
            )
            return ModelFailure(f"model {self._repo} is gated", hint, reason="ModelGated")
        if code == "RevisionNotFound":
            hint = "give a branch, a tag or a commit that exists"
            return ModelFailure(f"model {self._repo} has no revision {revision}", hint, reason="ModelNotFound")
        if with_token and response.status_code == 401 and not code:
            hint = "give a token that is valid (HF_TOKEN)"
            return ModelFailure(f"{self._endpoint} refuses the token", hint, reason="TokenInvalid")
        if with_token and response.status_code == 403 and not code:
            hint = "give the token this right on the hub, or give another one (HF_TOKEN)"
            message = f"the token may not read model {self._repo}" + (f": {said}" if said else "")
            return ModelFailure(message, hint, reason="TokenDenied")
        hint = "check the id" + (
            "; if the model is private, the token needs access to it"
            if with_token
            else "; if the model is private, give a token (HF_TOKEN, or a Secret with the key HF_TOKEN)"
        )
        return ModelFailure(f"{self._endpoint} has no model {self._repo} to show", hint, reason="ModelNotFound")

    def _transfer_failure(self, error: TransferError) -> Failure:
        if isinstance(error, HostRefused):
            hint = "if this host is meant, allow it: KAITO_ALLOW_HOSTS"
            return ConfigFailure(str(error), hint, reason="HostRefused")
        if isinstance(error, NoSpace):
            return NoSpaceFailure(str(error), "free some space; finished files are kept")
        if error.status in (401, 403):
            return ModelFailure(str(error), "the token needs access to this model (HF_TOKEN)", reason="ModelGated")
        if isinstance(error, DigestMismatch) or error.retryable:
            is_unreachable = error.status is None and not isinstance(error, DigestMismatch)
            return TemporaryFailure(str(error), _UNREACHABLE if is_unreachable else "the hub may answer later")
        return ModelFailure(str(error), "check the id, the revision and HF_ENDPOINT")


def _blob(oid: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{40}", oid):
        raise ValueError(f"{oid!r} names no content")
    return oid
