"""The programs `python -m kaito.oci.push`, `pull` and `login`, started as the runner starts them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kaito.oci import (
    Credentials,
    Reference,
    inspect,
)
from tests.servers.registry import PASSWORD, RegistryServer, write_docker_config
from tests.unit.oci.results_folder import PUBLISHED


def test_the_programs_push_check_and_pull(
    basic_registry: RegistryServer, repository: str, results: Path, tmp_path: Path, program: Callable[..., Any]
) -> None:
    secret = write_docker_config(
        tmp_path / "secrets" / "acr", {basic_registry.host: {"username": "robot", "password": PASSWORD}}
    )
    image = f"{basic_registry.host}/{repository}:1"
    login = program("kaito.oci.login", "--image", image, "--credentials", str(secret))
    assert (login.code, login.value) == (0, {"registry": basic_registry.host, "repository": repository})
    pushed = program(
        "kaito.oci.push", "--results", str(results), "--image", image, "--credentials", str(secret),
        "--preset", "phi-3", "--annotation", "a=b=c",
    )  # fmt: skip
    assert pushed.code == 0, pushed.stderr
    assert sorted(pushed.value) == ["digest", "image", "size_bytes"]
    assert pushed.progress[-1]["unit"] == "bytes"
    image_facts = inspect(Reference.parse(image), credentials=Credentials.load([secret]))
    assert (image_facts.annotations["a"], image_facts.annotations["sh.kaito.model.name"]) == ("b=c", "phi-3")
    pulled = program("kaito.oci.pull", "--image", image, "--out", "back", "--credentials", str(secret))
    assert pulled.value == {"image": image, "digest": pushed.value["digest"], "files": len(PUBLISHED)}


def test_exit_codes_and_reasons(
    basic_registry: RegistryServer, results: Path, tmp_path: Path, program: Callable[..., Any]
) -> None:
    image = f"{basic_registry.host}/a:1"
    secret = write_docker_config(tmp_path / "acr", {basic_registry.host: {"username": "robot", "password": "hunter2"}})
    denied = program("kaito.oci.push", "--results", str(results), "--image", image, "--credentials", str(secret))
    assert (denied.code, denied.value["reason"]) == (5, "PushDenied")
    assert "hunter2" not in json.dumps(denied.value) + denied.stderr
    assert "Traceback" not in denied.stderr
    refused = program("kaito.oci.pull", "--image", image, "--out", "back")
    assert (refused.code, refused.value["reason"]) == (5, "PullDenied")
    down = program("kaito.oci.login", "--image", "127.0.0.1:1/a:1")
    assert (down.code, down.value["reason"]) == (75, "RegistryUnavailable")
    shutil.rmtree(results)
    missing = program("kaito.oci.push", "--results", str(results), "--image", image)
    assert (missing.code, missing.value["reason"]) == (3, "ResultsIncomplete")
    wrong = program("kaito.oci.login", "--image", "UPPER CASE")
    assert wrong.code == 2


@pytest.mark.parametrize("module", ["kaito.oci.push", "kaito.oci.pull", "kaito.oci.login"])
def test_help_has_an_example(program: Callable[..., Any], module: str) -> None:
    ended = program(module, "--help")
    assert ended.code == 0
    assert f"example: python -m {module} --" in ended.stdout
