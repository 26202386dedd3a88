"""Image references: `registry/repository:tag@digest`, normalised as Docker does. Text only."""

from __future__ import annotations

import re
from dataclasses import dataclass

from kaito.failure import ConfigFailure

_REGISTRY = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?::\d{1,5})?")
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_DOCKER_HUB = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_SCHEMES = ("oci://", "docker://")


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed reference. `tag` is "" only where there is a digest; `digest` is "" where none is given."""

    registry: str
    repository: str
    tag: str
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parse and normalise: `foo` is `docker.io/library/foo:latest`. Raises ConfigFailure."""
        rest = text.strip()
        for scheme in _SCHEMES:
            rest = rest.removeprefix(scheme)
        rest, at, digest = rest.partition("@")
        if at and not _DIGEST.fullmatch(digest):
            raise _invalid(text, f"the digest {digest!r} is not sha256: and 64 hexadecimal digits")
        registry, repository = _split_registry(rest)
        repository, tag = _split_tag(repository)
        if not _REGISTRY.fullmatch(registry):
            raise _invalid(text, f"{registry!r} is not a registry's host, with or without a port")
        if registry in _DOCKER_HUB:
            registry = "docker.io"
            repository = repository if "/" in repository else f"library/{repository}"
        if not _REPOSITORY.fullmatch(repository) or len(repository) > 255:
            raise _invalid(text, f"{repository!r} is not a repository: lower-case letters, digits and . _ - between /")
        if tag is None:
            tag = "" if digest else "latest"
        elif not _TAG.fullmatch(tag):
            raise _invalid(text, f"{tag!r} is not a tag: letters, digits and . _ -, at most 128")
        return cls(registry, repository, tag, digest)

    @property
    def name(self) -> str:
        """Registry and repository."""
        return f"{self.registry}/{self.repository}"

    @property
    def host(self) -> str:
        """The host, with its port if there is one, that answers the registry's API."""
        return "registry-1.docker.io" if self.registry == "docker.io" else self.registry

    @property
    def target(self) -> str:
        """What to ask the registry for: the digest, else the tag."""
        return self.digest or self.tag

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.name}{tag}" + (f"@{self.digest}" if self.digest else "")


def _split_registry(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    # Docker's rule: what comes before the first slash is a host if it could not be a repository.
    if slash and ("." in first or ":" in first or first == "localhost" or first != first.lower()):
        return first, rest
    return "docker.io", text


def _split_tag(text: str) -> tuple[str, str | None]:
    repository, colon, tag = text.rpartition(":")
    return (repository, tag) if colon else (text, None)


def _invalid(text: str, why: str) -> ConfigFailure:
    return ConfigFailure(f"image {text!r}: {why}", "write it as registry.example/repository:tag", reason="ImageInvalid")
