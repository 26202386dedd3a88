"""Names that point elsewhere: image references, URLs, object names, hosts, and placeholders left in their place.

Each function answers with what is wrong, or "". Nothing is looked up.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from kaito.api.schema import show

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")

MAX_WORKSPACE_NAME = 52
"""What we append to a Workspace's name must fit into 63 characters."""


def label_problem(name: str, limit: int = 63) -> str:
    """Of an RFC 1123 label, as object names of this kind are."""
    if len(name) > limit:
        return f"has {len(name)} characters; at most {limit} are allowed"
    if not _LABEL.fullmatch(name):
        return f"{show(name)} is no RFC 1123 label: lower-case letters, digits, and '-' but at neither end"
    return ""


def subdomain_problem(name: str) -> str:
    """Of an RFC 1123 subdomain, as names of Secrets, ConfigMaps and adapters are."""
    if len(name) > 253 or not _SUBDOMAIN.fullmatch(name):
        return f"{show(name)} is no RFC 1123 name: lower-case letters, digits, '-' and '.'"
    return ""


# --- images ---------------------------------------------------------------------------------------------------------

_HOST = re.compile(
    r"([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9a-fA-F:.]+\])(:[0-9]+)?"
)
_COMPONENT = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"[a-z0-9]+([+._-][a-z0-9]+)*:[0-9a-fA-F]{32,}")


def image_problem(reference: str) -> str:
    """Of an image reference, `[registry[:port]/]repository[:tag][@digest]`."""
    if not reference or reference != reference.strip() or " " in reference:
        return f"{show(reference)} is no image reference: [REGISTRY/]REPOSITORY[:TAG][@DIGEST]"
    if "://" in reference:
        return f"{show(reference)} has a scheme; an image reference has none"
    rest, has_digest, digest = reference.partition("@")
    if has_digest and not _is_digest(digest):
        return f"{show(digest)} is no digest: sha256: and 64 hexadecimal digits"
    registry, rest = split_registry(rest)
    if registry and not _HOST.fullmatch(registry):
        return f"{show(registry)} is no registry: HOST or HOST:PORT"
    repository, has_tag, tag = rest.partition(":")
    if has_tag and not _TAG.fullmatch(tag):
        return f"{show(tag)} is no tag: up to 128 letters, digits, '_', '.' and '-'"
    if repository != repository.lower():
        return f"the repository {show(repository)} must be in lower case"
    if len(repository) > 255 or not all(_COMPONENT.fullmatch(part) for part in repository.split("/")):
        return f"{show(repository)} is no repository: lower-case letters and digits, separated by '.', '_', '-' and '/'"
    return ""


def split_registry(reference: str) -> tuple[str, str]:
    """(registry, the rest). The first component is a registry if it has a dot or a port, or is `localhost`."""
    first, slash, rest = reference.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return first, rest
    return "", reference


def _is_digest(digest: str) -> bool:
    if digest.startswith("sha256:"):
        return re.fullmatch(r"sha256:[0-9a-f]{64}", digest) is not None
    return _DIGEST.fullmatch(digest) is not None


# --- URLs and hosts -------------------------------------------------------------------------------------------------

_LOCAL_NAMES = frozenset(
    (
        "metadata.google.internal",
        "metadata.google",
        "metadata.goog",
        "metadata",
        "instance-data.ec2.internal",
        "instance-data",
    )
)


def url_problem(url: str, allow_hosts: Sequence[str] = ()) -> str:
    """Of the URL of a file (rules T7 to T10)."""
    shown = url.split("?", 1)[0]
    if any(character.isspace() or not character.isprintable() for character in url):
        return f"{show(shown)} is no URL: it has a space or a control character"
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError as error:
        return f"{show(shown)} is no URL: {error}"
    if not parts.scheme or not host:
        return f"{show(shown)} is no absolute URL: https://HOST/PATH"
    if parts.scheme.lower() not in ("http", "https"):
        return f"{show(shown)} must begin with https:// or http://"
    return host_problem(host, allow_hosts)


def host_problem(host: str, allow_hosts: Sequence[str] = ()) -> str:
    """Of a literal host: loopback, private, link-local and metadata services are refused unless a glob allows them."""
    name = host.removeprefix("[").removesuffix("]").split("%")[0].rstrip(".").lower()
    if any(fnmatchcase(name, glob.lower().removeprefix("[").removesuffix("]")) for glob in allow_hosts):
        return ""
    remedy = f"allow it by --allow-host {name} if you mean it"
    if name == "localhost" or name.endswith(".localhost") or name in _LOCAL_NAMES:
        return f"the host {name} is local or a metadata service; {remedy}"
    address = _literal_address(name)
    if address is not None and not _is_public(address):
        return f"the address {name} is loopback, private or link-local; {remedy}"
    return ""


def _literal_address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        pass
    return _shortened_address(name)


def _shortened_address(name: str) -> ipaddress.IPv4Address | None:
    """The short, octal and hexadecimal forms that C libraries read: 127.1, 2130706433, 0177.0.0.1, 0x7f000001."""
    parts = name.split(".")
    if len(parts) > 4 or not all(re.fullmatch(r"0x[0-9a-f]{1,8}|[0-9]{1,11}", part) for part in parts):
        return None
    try:
        *leading, last = [
            int(part, 0 if part.startswith("0x") else 8 if part.startswith("0") else 10) for part in parts
        ]
    except ValueError:
        return None
    width = 8 * (4 - len(leading))
    if last >= 1 << width or any(part > 255 for part in leading):
        return None
    return ipaddress.IPv4Address(sum(part << (24 - 8 * place) for place, part in enumerate(leading)) + last)


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is not None:
            return _is_public(inner)
    return address.is_global and not address.is_multicast and str(address) != "168.63.129.16"


# --- placeholders ---------------------------------------------------------------------------------------------------

_PLACEHOLDER = re.compile(
    r"[A-Z0-9]+(?:_[A-Z0-9]+)*_HERE"
    r"|YOUR[_-][A-Z0-9_-]*[A-Z0-9]"
    r"|<[A-Za-z][A-Za-z0-9 _-]*>|<(?:\.{3}|…)>"
    r"|\$\{[A-Za-z_][A-Za-z0-9_]*\}"
    r"|(?<![\w.-])TODO(?![\w.-])"
    r"|^(?:\.{0,2}/)?path/to/\S*"
)


def placeholders(text: str) -> list[str]:
    """What nobody has filled in yet: KAITO's `ACR_REPO_HERE`, and `YOUR_REGISTRY`, `<name>`, `${VAR}`, `TODO`,
    `/path/to/data`."""
    return list(dict.fromkeys(_PLACEHOLDER.findall(text)))
