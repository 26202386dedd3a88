"""Which login is used for a repository, out of docker configurations as people have them."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from kaito.failure import ConfigFailure
from kaito.oci import Credentials, Login
from tests.servers.registry import write_docker_config


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def find(folder: Path, registry: str, repository: str = "team/a") -> list[tuple[str, str]]:
    return [(login.username, login.password) for login in Credentials.load([folder]).find(registry, repository)]


@pytest.mark.parametrize(
    "entry", [{"auth": encoded("me:pa:ss")}, {"username": "me", "password": "pa:ss"}, {"auth": encoded("me:pa:ss\0")}]
)
def test_auth_and_user_with_password_are_the_same(tmp_path: Path, entry: dict[str, str]) -> None:
    assert find(write_docker_config(tmp_path / "s", {"ghcr.io": entry}), "ghcr.io") == [("me", "pa:ss")]


@pytest.mark.parametrize(
    "key",
    [
        "ghcr.io",
        "https://ghcr.io",
        "https://ghcr.io/v2/",
        "http://ghcr.io/v1",
        "ghcr.io/team",
        "ghcr.io/team/a",
        "*.io",
    ],
)
def test_keys_that_cover_a_repository(tmp_path: Path, key: str) -> None:
    entry = {"username": "me", "password": "x"}
    assert find(write_docker_config(tmp_path / "s", {key: entry}), "ghcr.io") == [("me", "x")]


@pytest.mark.parametrize("key", ["gcr.io", "ghcr.io:443", "ghcr.io/tea", "ghcr.io/team/a/b", "*", "*.ghcr.io"])
def test_keys_that_do_not_cover_a_repository(tmp_path: Path, key: str) -> None:
    entry = {"username": "me", "password": "x"}
    assert find(write_docker_config(tmp_path / "s", {key: entry}), "ghcr.io") == []


def test_docker_hub_goes_by_its_old_names(tmp_path: Path) -> None:
    entry = {"username": "me", "password": "x"}
    folder = write_docker_config(tmp_path / "s", {"https://index.docker.io/v1/": entry})
    assert find(folder, "docker.io") == [("me", "x")]


def test_the_closest_entry_comes_first_and_files_keep_their_order(tmp_path: Path) -> None:
    one = write_docker_config(
        tmp_path / "one",
        {"ghcr.io": {"username": "wide", "password": "x"}, "ghcr.io/team": {"username": "close", "password": "x"}},
    )
    two = write_docker_config(tmp_path / "two", {"ghcr.io": {"username": "second", "password": "x"}})
    logins = Credentials.load([one, tmp_path / "missing", two]).find("ghcr.io", "team/a")
    assert [(login.source, login.username) for login in logins] == [
        ("one", "close"), ("one", "wide"), ("two", "second")
    ]  # fmt: skip


def test_every_json_file_of_a_folder_counts_under_its_name(tmp_path: Path) -> None:
    for name in ("acr", "ghcr"):
        config = {"auths": {f"{name}.io": {"username": name, "password": "x"}}}
        (tmp_path / f"{name}.json").write_text(json.dumps(config))
    credentials = Credentials.load([tmp_path])
    assert credentials.find("ghcr.io", "a")[0].source == "ghcr"
    assert credentials.sources == ("acr", "ghcr")


def test_the_users_own_configuration_counts_only_where_no_folder_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "own"))
    (tmp_path / "own").mkdir()
    own = {"auths": {"ghcr.io": {"username": "own", "password": "x"}}}
    (tmp_path / "own" / "config.json").write_text(json.dumps(own))
    assert Credentials.load([tmp_path / "missing"]).find("ghcr.io", "a")[0].username == "own"
    secret = write_docker_config(tmp_path / "s", {})
    assert Credentials.load([secret]).find("ghcr.io", "a") == []


def test_a_legacy_dockercfg_is_read(tmp_path: Path) -> None:
    (tmp_path / ".dockercfg").write_text(json.dumps({"ghcr.io": {"auth": encoded("me:x")}}))
    assert find(tmp_path, "ghcr.io") == [("me", "x")]


def test_identity_tokens_are_told_apart(tmp_path: Path) -> None:
    folder = write_docker_config(
        tmp_path / "s", {"a.io": {"auth": encoded("00000000-0000-0000-0000-000000000000:"), "identitytoken": "idt"}}
    )
    assert Credentials.load([folder]).find("a.io", "x")[0].identity_token == "idt"


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"auths": []}', '{"auths": {"a.io": "secret-text"}}', '{"credsStore": "../../bin/sh"}']
)
def test_a_file_that_is_not_dockers_is_named_but_not_quoted(tmp_path: Path, text: str) -> None:
    (tmp_path / "acr").mkdir()
    (tmp_path / "acr" / ".dockerconfigjson").write_text(text)
    with pytest.raises(ConfigFailure, match="acr") as caught:
        Credentials.load([tmp_path / "acr"])
    assert "secret-text" not in caught.value.message


def test_a_broken_auth_is_named_but_not_quoted(tmp_path: Path) -> None:
    folder = write_docker_config(tmp_path / "acr", {"a.io": {"auth": "hunter2!"}})
    with pytest.raises(ConfigFailure, match=r"acr.*'a\.io'") as caught:
        Credentials.load([folder]).find("a.io", "x")
    assert "hunter2" not in caught.value.message


def test_a_login_does_not_print_its_secrets() -> None:
    assert "hunter2" not in repr(Login("acr", "robot", "hunter2", "hunter2", "hunter2"))


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`docker-credential-tests` on PATH: prints what the file beside it holds, fails where that is empty."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "docker-credential-tests"
    program.write_text(
        '#!/bin/sh\n[ "$1" = get ] || exit 2\ncat > "$0.asked"\n'
        '[ -s "$0.answer" ] || { echo "credentials not found in native keychain"; exit 1; }\ncat "$0.answer"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return program


@pytest.mark.parametrize("more", [{"credHelpers": {"ghcr.io": "tests"}}, {"credsStore": "tests"}])
def test_a_credential_helper_is_asked(tmp_path: Path, helper: Path, more: dict[str, object]) -> None:
    helper.with_name(helper.name + ".answer").write_text('{"ServerURL": "ghcr.io", "Username": "me", "Secret": "x"}')
    assert find(write_docker_config(tmp_path / "s", {"ghcr.io": {}}, **more), "ghcr.io") == [("me", "x")]
    assert helper.with_name(helper.name + ".asked").read_text() == "ghcr.io"


def test_a_helpers_token_is_an_identity_token(tmp_path: Path, helper: Path) -> None:
    helper.with_name(helper.name + ".answer").write_text('{"Username": "<token>", "Secret": "idt"}')
    folder = write_docker_config(tmp_path / "s", {}, credsStore="tests")
    assert [login.identity_token for login in Credentials.load([folder]).find("ghcr.io", "a")] == ["idt"]


@pytest.mark.parametrize("name", ["tests", "not-installed"])
def test_a_helper_that_knows_nothing_or_is_not_there_gives_no_login(tmp_path: Path, helper: Path, name: str) -> None:
    assert find(write_docker_config(tmp_path / "s", {}, credsStore=name), "ghcr.io") == []


def test_a_helper_that_babbles_is_named(tmp_path: Path, helper: Path) -> None:
    helper.with_name(helper.name + ".answer").write_text("hunter2")
    folder = write_docker_config(tmp_path / "s", {}, credsStore="tests")
    with pytest.raises(ConfigFailure, match="docker-credential-tests") as caught:
        Credentials.load([folder]).find("ghcr.io", "a")
    assert "hunter2" not in caught.value.message
