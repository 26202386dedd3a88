"""Requests with bounded retries and checked redirects. Whole answers and open streams; files are `download`'s."""

from __future__ import annotations

import email.utils
import random
import socket
import ssl
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

import httpx

from kaito.transfer.errors import HostUnknown, NotTLS, TransferError

# Bytes, or a function that starts the body anew: a body that is used up cannot be sent a second time.
Content = bytes | Callable[[], Iterable[bytes]]

BACKOFF_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 60.0
LARGEST_ANSWER_BYTES = 16 << 20
NAME_ATTEMPTS = 2  # a name that is not found twice is misspelt, or there is no network
_Cause = TypeVar("_Cause", bound=BaseException)

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BODY_KEEPING_REDIRECTS = frozenset({307, 308})
_RETRIED = frozenset({408, 425, 429})
_FINAL = frozenset({501, 505})
# OpenSSL's words for an answer in plain text.
_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"})
_BOUND_TO_ORIGIN = ("authorization", "cookie", "proxy-authorization")


def send(
    client: httpx.Client,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    content: Content | None = None,
    params: Mapping[str, str] | None = None,
    stream: bool = False,
    attempts: int = 5,
    name_attempts: int = NAME_ATTEMPTS,
    expect: Collection[int] = (200,),
    redirects: int = 5,
    max_bytes: int = LARGEST_ANSWER_BYTES,
    sleep: Callable[[float], None] = time.sleep,
) -> httpx.Response:
    """The answer to a request, its status one of `expect`.

    Connection errors, 408, 425, 429 and 5xx are tried again, `attempts` times in all (`name_attempts` where the host's
    name cannot be resolved), with exponential back-off and jitter; Retry-After is honoured up to a minute. Redirects
    are followed, each checked by the client's host rule, with Authorization dropped where the origin changes. With
    `stream` the caller reads and closes the answer; else it is read whole, at most `max_bytes`. Raises TransferError
    (with `status` where an answer came), HostRefused.
    """
    target = parse_url(url).copy_merge_params(params) if params else parse_url(url)
    for attempt in range(1, attempts + 1):
        try:
            response = _send_once(
                client, method, target, dict(headers or {}), content, redirects=redirects, expect=expect
            )
            if response.status_code in expect:
                return response if stream else _read_whole(response, max_bytes)
            error = _status_error(method, target, response)
            response.close()
        except httpx.TransportError as cause:
            error = connection_error(method, target, cause)
        if not error.retryable or attempt >= (name_attempts if isinstance(error, HostUnknown) else attempts):
            raise error
        sleep(backoff(attempt, error.pause))
    raise AssertionError("attempts is at least 1")


def backoff(attempt: int, pause: float | None = None) -> float:
    """Seconds to wait after the `attempt`-th failure (from 1), at least `pause`, never above a minute."""
    grown = BACKOFF_SECONDS * 2.0 ** (attempt - 1) * random.uniform(0.5, 1.0)  # noqa: S311  jitter, not a secret
    return min(max(grown, pause or 0.0), LONGEST_WAIT_SECONDS)


def retry_after(headers: httpx.Headers) -> float | None:
    """Seconds that the server asks to wait: Retry-After as a number or a date."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    return max(0.0, moment.timestamp() - time.time())


def is_retried(status: int) -> bool:
    return status in _RETRIED or (status >= 500 and status not in _FINAL)


def connection_error(method: str, url: str | httpx.URL, cause: httpx.TransportError) -> TransferError:
    """A failed connection in words. Refused certificates and broken addresses are final, all else may pass."""
    if _find_cause(cause, socket.gaierror) is not None:
        return HostUnknown(f"{method} {shown(url)}: {cause}", retryable=True)
    tls = _find_cause(cause, ssl.SSLError)
    if isinstance(tls, ssl.SSLCertVerificationError):
        why = f"the server's certificate is not trusted: {tls.verify_message} (SSL_CERT_FILE names a CA file)"
        return TransferError(f"{method} {shown(url)}: {why}")
    if tls is not None and tls.reason in _NOT_TLS:
        return NotTLS(f"{method} {shown(url)}: the server does not speak TLS")
    why = str(cause) or type(cause).__name__
    final = isinstance(cause, httpx.UnsupportedProtocol | httpx.LocalProtocolError)
    return TransferError(f"{method} {shown(url)}: {why}", retryable=not final)


def shown(url: str | httpx.URL) -> str:
    """An address as it may be printed: no user, password, query or fragment."""
    return str(parse_url(url).copy_with(query=None, fragment=None, userinfo=b""))


def parse_url(url: str | httpx.URL) -> httpx.URL:
    try:
        return httpx.URL(url)
    except httpx.InvalidURL as error:
        raise TransferError(f"not an address: {error}") from error


def _send_once(
    client: httpx.Client,
    method: str,
    url: httpx.URL,
    headers: dict[str, str],
    content: Content | None,
    *,
    redirects: int,
    expect: Collection[int],
) -> httpx.Response:
    for _ in range(redirects + 1):
        if url.scheme not in ("http", "https") or not url.host:
            raise TransferError(f"{method} {shown(url)}: only http and https addresses with a host are followed")
        body: Any = content() if callable(content) else content
        response = client.send(client.build_request(method, url, headers=headers, content=body), stream=True)
        status = response.status_code
        if status in expect or status not in _REDIRECTS or "location" not in response.headers:
            return response
        if method not in ("GET", "HEAD") and status not in _BODY_KEEPING_REDIRECTS:
            return response
        response.close()
        try:
            target = url.join(response.headers["location"])
        except httpx.InvalidURL as error:
            raise TransferError(f"{method} {shown(url)}: redirected to what is not an address") from error
        if _origin(target) != _origin(url):
            headers = {name: value for name, value in headers.items() if name.lower() not in _BOUND_TO_ORIGIN}
        url = target
    raise TransferError(f"{method} {shown(url)}: more than {redirects} redirects")


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _read_whole(response: httpx.Response, max_bytes: int) -> httpx.Response:
    body = bytearray()
    try:
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > max_bytes:
                raise TransferError(f"{shown(response.request.url)} answers with more than {max_bytes} bytes")
    finally:
        response.close()
    headers = response.headers.copy()
    for name in ("content-encoding", "transfer-encoding"):
        headers.pop(name, None)  # the body below is decoded
    return httpx.Response(response.status_code, headers=headers, content=bytes(body), request=response.request)


def _status_error(method: str, url: httpx.URL, response: httpx.Response) -> TransferError:
    status = response.status_code
    words = f"{status} {response.reason_phrase}".strip()
    message = f"{method} {shown(url)}: the server answers {words}"
    return TransferError(message, retryable=is_retried(status), status=status, pause=retry_after(response.headers))


def _find_cause(cause: BaseException | None, kind: type[_Cause]) -> _Cause | None:
    while cause is not None:
        if isinstance(cause, kind):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None
