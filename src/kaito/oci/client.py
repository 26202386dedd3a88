"""A session with one repository of one registry: authentication, errors in words, single requests.

What the requests mean (manifests, blobs, uploads) is for `blobs` and `images`.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httpx

from kaito.failure import ConfigFailure, Failure, TemporaryFailure
from kaito.oci.authorization import Challenge, basic_authorization, fetch_token, parse_challenges
from kaito.oci.credentials import Credentials, Login
from kaito.oci.errors import Action, ImageNotFound, RegistryUnavailable, denied
from kaito.oci.reference import Reference
from kaito.transfer import (
    HostRefused,
    NoSpace,
    NotTLS,
    TransferError,
    backoff,
    build_client,
    is_loopback,
    send,
)
from kaito.transfer.retry import Content

INSECURE_VARIABLE = "KAITO_INSECURE_REGISTRIES"
ALLOWED_VARIABLE = "KAITO_ALLOW_HOSTS"

# What `request` returns to its caller or turns into a failure by itself; 5xx and 429 are retried by `send`.
_ANSWERS = frozenset(range(200, 300)) | (frozenset(range(400, 500)) - {408, 425, 429})
_SCOPES: Mapping[Action, str] = {"pull": "pull", "push": "pull,push"}


class Repository:
    """A connection to the repository of a reference, for one action. Use as a context manager.

    TLS, but where the registry is on loopback or matches KAITO_INSECURE_REGISTRIES and speaks no TLS. The registry's
    host is free, as the user named it; where it redirects to, and its token server, fall under the host rule
    (`allow_hosts`: globs).
    """

    def __init__(
        self,
        reference: Reference,
        action: Action,
        *,
        credentials: Credentials | None = None,
        allow_hosts: Sequence[str] = (),
        attempts: int = 5,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.reference = reference
        self.action = action
        self.attempts = attempts
        self.sleep = sleep
        self._credentials = credentials if credentials is not None else Credentials()
        self._logins: list[Login | None] = [*self._credentials.find(reference.registry, reference.repository), None]
        self._turn = 0  # which login is being used
        self._challenge: Challenge | None = None
        self._authorization = ""
        self._is_fresh = False  # the authorization was made for the request that is under way
        host = urlsplit(f"//{reference.host}").hostname or ""
        try:
            self.http = build_client(allow_hosts=[host, *allow_hosts])
        except TransferError as error:
            raise ConfigFailure(error.message) from error
        self._base = ""

    def __enter__(self) -> Repository:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.http.close()

    def url(self, path: str) -> str:
        """The address of `/v2/REPOSITORY/path`."""
        return f"{self.base}/v2/{self.reference.repository}/{path}"

    @property
    def base(self) -> str:
        if not self._base:
            self._base = f"{self._find_scheme()}://{self.reference.host}"
        return self._base

    def request(
        self,
        method: str,
        url: str,
        *,
        expect: Collection[int],
        headers: Mapping[str, str] | None = None,
        content: Content | None = None,
        max_bytes: int = 4 << 20,
        attempts: int | None = None,
    ) -> httpx.Response:
        """The whole answer, its status in `expect`; logs in where the registry asks for it.

        Raises PullDenied, PushDenied, ImageNotFound, RegistryUnavailable, ConfigFailure.
        """
        while True:
            try:
                response = send(
                    self.http,
                    method,
                    url,
                    headers={**(headers or {}), **self.authorization(url)},
                    content=content,
                    expect=_ANSWERS,
                    max_bytes=max_bytes,
                    attempts=attempts or self.attempts,
                    sleep=self.sleep,
                )
            except TransferError as error:
                raise self.failure(error) from error
            if response.status_code in expect:
                self._is_fresh = False
                return response
            if response.status_code not in (401, 403) or not self._log_in(response):
                raise self._refusal(response)

    def authorization(self, url: str) -> dict[str, str]:
        """The header that goes to the registry itself, and to nobody else."""
        is_ours = self._authorization and url.startswith(self.base + "/")
        return {"Authorization": self._authorization} if is_ours else {}

    def failure(self, error: TransferError) -> Failure:
        """A transfer's error as the failure of this action."""
        if isinstance(error, HostRefused):
            return ConfigFailure(f"{self._named()}: {error.message}", "", reason="HostRefused")
        if isinstance(error, NoSpace):
            return TemporaryFailure(f"{self._named()}: {error.message}", "free some space", reason="NoSpace")
        if isinstance(error, NotTLS):
            hint = f"if it is meant to be plain http, name it in {INSECURE_VARIABLE}"
            return denied(self.action, f"{self._named()}: {error.message}", hint)
        if error.retryable:
            hint = "the registry is down, overloaded or cannot be reached from here; trying again later may help"
            return RegistryUnavailable(f"{self._named()}: {error.message}", hint, pause=error.pause)
        hint = "" if error.status else f"check the registry's address; {ALLOWED_VARIABLE} and SSL_CERT_FILE count too"
        return denied(self.action, f"{self._named()}: {error.message}", hint)

    def _find_scheme(self) -> str:
        if not may_be_insecure(self.reference.host):
            return "https"
        for attempt in range(1, self.attempts + 1):
            try:
                send(self.http, "GET", f"https://{self.reference.host}/v2/", expect=range(200, 600), attempts=1)
            except NotTLS:
                return "http"
            except TransferError as error:
                if not error.retryable or attempt == self.attempts:
                    raise self.failure(error) from error
                self.sleep(backoff(attempt))
            else:
                break
        return "https"

    def _log_in(self, refusal: httpx.Response) -> bool:
        """Make the next authorization after a 401 or 403. False when all logins are used up.

        A refused authorization that has worked before has expired: its login comes again.
        """
        challenges = parse_challenges(refusal.headers.get("www-authenticate", ""))
        self._challenge = challenges[0] if challenges else self._challenge
        if self._challenge is None:
            return False
        if self._is_fresh or (refusal.status_code == 403 and self._authorization):
            self._turn += 1
        while self._turn < len(self._logins):
            authorization = self._authorize(self._challenge, self._logins[self._turn])
            if authorization:
                self._authorization, self._is_fresh = authorization, True
                return True
            self._turn += 1
        self._turn = len(self._logins) - 1
        return False

    def _authorize(self, challenge: Challenge, login: Login | None) -> str:
        if challenge.scheme == "basic":
            return basic_authorization(login) if login is not None and login.password else ""
        if login is not None and login.registry_token:
            return f"Bearer {login.registry_token}"
        self._check_realm(challenge)
        scope = f"repository:{self.reference.repository}:{_SCOPES[self.action]}"
        try:
            token = fetch_token(self.http, challenge, login, scope)
        except TransferError as error:
            raise self.failure(error) from error
        return f"Bearer {token}" if token else ""

    def _check_realm(self, challenge: Challenge) -> None:
        """A registry that speaks TLS cannot have the password sent in the clear."""
        realm = urlsplit(challenge.parameters.get("realm", ""))
        if realm.scheme != "https" and (realm.scheme != "http" or not may_be_insecure(realm.netloc)):
            what = f"{self._named()}: its token server {realm.scheme}://{realm.netloc} is not one of https"
            raise denied(self.action, what, f"name it in {INSECURE_VARIABLE} if that is meant")

    def _refusal(self, response: httpx.Response) -> Failure:
        status, said = response.status_code, _registry_says(response)
        used = self._used_logins()
        if status in (401, 403):
            verb = "push to" if self.action == "push" else "pull from"
            words = f"{self._named()}: not allowed to {verb} it {used} ({said})"
            return denied(self.action, words, self._remedy())
        if status == 404 and self.action == "pull":
            hint = "check the name and the tag; some registries say so too when a login is missing"
            return ImageNotFound(f"{self._named()}: not found {used} ({said})", hint)
        if status == 404:
            return denied("push", f"{self._named()}: no such repository ({said})", "create the repository first")
        if status == 405:
            return denied(self.action, f"{self._named()}: the registry takes no pushes ({said})", "is it read-only?")
        if status == 413:
            return denied(self.action, f"{self._named()}: too large for the registry ({said})", "raise its limit")
        return denied(self.action, f"{self._named()}: {response.request.method} is refused ({said})", "")

    def _used_logins(self) -> str:
        names = list(dict.fromkeys(login.source for login in self._logins if login is not None))
        if not names:
            found = ", ".join(self._credentials.sources)
            return f"without a login (none for {self.reference.registry} in {found})" if found else "without a login"
        return f"with the credentials of {' or '.join(names)}"

    def _remedy(self) -> str:
        if len(self._logins) == 1:
            return f"give a secret (docker configuration) with a login for {self.reference.registry}"
        return "check user, password and rights in the secret, or whether its token has expired"

    def _named(self) -> str:
        return f"registry {self.reference.registry}, repository {self.reference.repository}"


def may_be_insecure(host: str) -> bool:
    """Whether plain http may be spoken to a host (with its port): loopback, or a glob of KAITO_INSECURE_REGISTRIES."""
    name = urlsplit(f"//{host}").hostname or ""
    globs = globs_of_environment(INSECURE_VARIABLE)
    return is_loopback(name) or any(fnmatchcase(text, glob) for glob in globs for text in (host.lower(), name))


def globs_of_environment(variable: str) -> list[str]:
    """The comma-separated globs of a variable, in lower case."""
    return [glob.strip().lower() for glob in os.environ.get(variable, "").split(",") if glob.strip()]


def _registry_says(response: httpx.Response) -> str:
    """The registry's own code and message, on one short line, else the status."""
    words = f"{response.status_code} {response.reason_phrase}".strip()
    try:
        first: Any = response.json()["errors"][0]
        words = f"{words}: {first['code']} {first.get('message') or ''}".strip()
    except (ValueError, LookupError, TypeError, AttributeError):
        pass
    return re.sub(r"[^\x20-\x7e]+", " ", words)[:200]
