from __future__ import annotations

import pytest

from kaito.failure import ConfigFailure
from kaito.oci import Reference

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "whole", "host"),
    [
        ("foo", "docker.io/library/foo:latest", "registry-1.docker.io"),
        ("team/foo:1", "docker.io/team/foo:1", "registry-1.docker.io"),
        ("index.docker.io/foo", "docker.io/library/foo:latest", "registry-1.docker.io"),
        ("localhost/foo", "localhost/foo:latest", "localhost"),
        ("localhost:5000/a/b:v1", "localhost:5000/a/b:v1", "localhost:5000"),
        ("127.0.0.1:5000/a", "127.0.0.1:5000/a:latest", "127.0.0.1:5000"),
        ("[::1]:5000/a:b", "[::1]:5000/a:b", "[::1]:5000"),
        ("aimodels.azurecr.io/adapters/phi-3:0.0.1", "aimodels.azurecr.io/adapters/phi-3:0.0.1", "aimodels.azurecr.io"),
        (f"ghcr.io/a/b@{DIGEST}", f"ghcr.io/a/b@{DIGEST}", "ghcr.io"),
        (f"ghcr.io/a/b:t@{DIGEST}", f"ghcr.io/a/b:t@{DIGEST}", "ghcr.io"),
        ("oci://ghcr.io/a/b", "ghcr.io/a/b:latest", "ghcr.io"),
        (" ghcr.io/a__b/c-d.e \n", "ghcr.io/a__b/c-d.e:latest", "ghcr.io"),
    ],
)
def test_references_are_normalised_as_docker_does(text: str, whole: str, host: str) -> None:
    reference = Reference.parse(text)
    assert (str(reference), reference.host) == (whole, host)
    assert Reference.parse(whole) == reference


@pytest.mark.parametrize(
    "text",
    ["", ":", "a:", "a@", "a@sha256:12", "ghcr.io/", "ghcr.io/UPPER", "ACR_REPO_HERE.azurecr.io/Adapters:1", "a//b",
     "a/b:-x", "a/../b", "ghcr.io:port/a", "a b", "https://ghcr.io/a", "user@host/a"],
)  # fmt: skip
def test_what_is_no_reference_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(ConfigFailure) as caught:
        Reference.parse(text)
    assert repr(text) in caught.value.message
