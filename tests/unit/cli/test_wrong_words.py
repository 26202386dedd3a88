"""A command that is given a word which means nothing says so at once, and what was meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from kaito.cli import app


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAITO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "400")


def kaito(*argv: str) -> Result:
    return CliRunner().invoke(app, argv)


def words(ended: Result) -> str:
    return " ".join(ended.output.replace("│", " ").split())


@pytest.mark.parametrize("phase", ["Sucess", "phase=Sucess", "condition=WorkspaceSucceded"])
def test_a_phase_that_does_not_exist_is_not_waited_for(phase: str) -> None:
    ended = kaito("wait", "w", "--for", phase)
    assert ended.exit_code == 2, "typer's own code, which `kaito` ends as 64"
    assert "is no phase; did you mean Succeeded?" in words(ended)


@pytest.mark.parametrize("phase", ["Training", "succeeded", "phase=Failed", "condition=WorkspaceSucceeded"])
def test_a_phase_in_any_of_its_writings_is_waited_for(phase: str) -> None:
    ended = kaito("wait", "w", "--for", phase)
    assert ended.exit_code == 1
    assert "Workspace default/w not found" in words(ended)


def test_an_empty_namespace_is_named() -> None:
    assert "No Workspaces in namespace other on this machine." in words(kaito("get", "-n", "other"))
    assert "No Workspaces on this machine." in words(kaito("get"))


def test_a_folder_that_does_not_exist_is_not_pushed(tmp_path: Path) -> None:
    ended = kaito("adapter", "push", str(tmp_path / "gone"), "localhost:1/a:1")
    assert ended.exit_code == 1
    assert f"the folder {tmp_path / 'gone'} does not exist" in words(ended)


def test_a_folder_is_no_image_to_inspect(tmp_path: Path) -> None:
    ended = kaito("adapter", "inspect", str(tmp_path))
    assert ended.exit_code == 1
    assert f"{tmp_path} is a folder of this machine, not an image" in words(ended)


@pytest.mark.parametrize("image", ["notanimage", "org/name:1", "oci://notanimage"])
def test_a_model_is_packed_for_a_registry_that_is_named(image: str) -> None:
    ended = kaito("models", "pack", "demo", "--image", image)
    assert ended.exit_code == 2
    assert "names no registry: write HOST/REPOSITORY:TAG" in words(ended)


def test_what_has_no_lines_is_named_without_one(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    gone, empty = tmp_path / "gone.yaml", tmp_path / "empty"
    for command in ("validate", "plan"):
        ended = kaito(command, "-f", str(gone), "-f", str(empty))
        assert ended.exit_code == 1
        assert ended.output.splitlines() == [
            f"{gone}: document: cannot be read: No such file or directory",
            f"{empty}: document: the folder has no *.yaml, *.yml, *.json file",
        ]
