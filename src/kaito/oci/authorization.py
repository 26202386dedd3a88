"""Answers to a registry's challenges: Basic, and Bearer through its token server. Decides nothing about retries."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

import httpx

from kaito.oci.credentials import Login
from kaito.transfer import TransferError, send

CLIENT_ID = "kaito"

_PARAMETER = re.compile(r'([A-Za-z_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_SCHEME = re.compile(r"(?:^|,)\s*(Basic|Bearer)(?=\s|,|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Challenge:
    """A `WWW-Authenticate` that can be answered: `scheme` is basic or bearer."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(header: str) -> list[Challenge]:
    """The Basic and Bearer challenges of a header, Bearer first."""
    starts = list(_SCHEME.finditer(header))
    found = []
    for number, match in enumerate(starts):
        end = starts[number + 1].start() if number + 1 < len(starts) else len(header)
        parameters = {
            name.lower(): re.sub(r"\\(.)", r"\1", quoted) if quoted else bare
            for name, quoted, bare in _PARAMETER.findall(header[match.end() : end])
        }
        found.append(Challenge(match[1].lower(), parameters))
    return sorted(found, key=lambda challenge: challenge.scheme == "basic")


def basic_authorization(login: Login) -> str:
    pair = f"{login.username}:{login.password}".encode()
    return "Basic " + base64.b64encode(pair).decode()


def fetch_token(client: httpx.Client, challenge: Challenge, login: Login | None, scope: str) -> str | None:
    """A Bearer token for the scope from the challenge's realm; None if the login is refused.

    Without a login the token is asked for anonymously. An identity token is traded in by POST (OAuth 2 refresh
    token), user and password by GET with Basic authentication. Raises TransferError.
    """
    realm, service = challenge.parameters.get("realm", ""), challenge.parameters.get("service", "")
    answers = {200, 400, 401, 403}
    if login is not None and login.identity_token:
        form = {
            "grant_type": "refresh_token",
            "service": service,
            "client_id": CLIENT_ID,
            "scope": scope,
            "refresh_token": login.identity_token,
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        response = send(client, "POST", realm, headers=headers, content=urlencode(form).encode(), expect=answers)
    else:
        headers = {"Authorization": basic_authorization(login)} if login is not None else {}
        params = {"scope": scope} | ({"service": service} if service else {})
        if login is not None:
            params["account"] = login.username
        response = send(client, "GET", realm, headers=headers, params=params, expect=answers)
    if response.status_code != 200:
        return None
    return _read_token(response)


def _read_token(response: httpx.Response) -> str:
    try:
        value = response.json()
        token = value.get("token") or value.get("access_token")
    except (ValueError, AttributeError):
        token = None
    if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
        raise TransferError(f"the token server {response.request.url.host} answers without a token")
    return token
