from __future__ import annotations

from pathlib import Path

import pytest

from kaito.failure import ConfigFailure
from kaito.tuning import output
from kaito.tuning.results import MARKER, OutputTaken, claim, part_folder, prepare, save


def write(folder: Path, identity: str, owner: str = "default.phi", text: str = "adapter") -> None:
    prepare(folder, owner=owner, identity=identity)
    (part_folder(folder, owner) / "adapter_model.safetensors").write_text(text)
    save(folder, owner=owner, identity=identity)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_results_are_whole_and_end_with_kaitos_marker(tmp_path: Path) -> None:
    write(tmp_path, "one")
    assert names(tmp_path) == [".kaito", "adapter_model.safetensors", MARKER]
    assert (tmp_path / MARKER).read_text().startswith("Fine-Tuning completed at 20")


def test_a_stale_marker_and_unknown_files_are_moved_away_before_a_run_and_never_deleted(tmp_path: Path) -> None:
    (tmp_path / MARKER).write_text("Fine-Tuning completed at 2020-01-01-00-00-00\n")
    (tmp_path / "adapter_model.safetensors").write_text("old")
    (tmp_path / "lost+found").mkdir()
    prepare(tmp_path, owner="default.phi", identity="one")
    assert names(tmp_path) == [".kaito", "lost+found"]
    previous = tmp_path / ".kaito" / "previous" / "1"
    assert names(previous) == ["adapter_model.safetensors", MARKER]
    assert (previous / "adapter_model.safetensors").read_text() == "old"


def test_a_run_with_other_settings_keeps_the_earlier_results(tmp_path: Path) -> None:
    write(tmp_path, "one", text="first")
    write(tmp_path, "two", text="second")
    assert (tmp_path / "adapter_model.safetensors").read_text() == "second"
    assert (tmp_path / ".kaito/previous/1/adapter_model.safetensors").read_text() == "first"
    assert (tmp_path / ".kaito/previous/1" / MARKER).exists()


def test_a_run_that_died_while_saving_replaces_its_own_files(tmp_path: Path) -> None:
    write(tmp_path, "one", text="half")
    (tmp_path / MARKER).unlink()
    write(tmp_path, "one", text="whole")
    assert (tmp_path / "adapter_model.safetensors").read_text() == "whole"
    assert not (tmp_path / ".kaito" / "previous").exists()


def test_the_folder_of_another_workspace_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, "one", owner="team.llama")
    with pytest.raises(OutputTaken, match="team/llama") as refused:
        output.main(["--results", str(tmp_path), "--owner", "default.phi"])
    assert refused.value.reason == "OutputTaken"
    assert refused.value.exit_code == 2
    assert names(tmp_path / ".kaito") == ["team.llama"]
    assert (tmp_path / MARKER).exists()


def test_a_folder_is_claimed_once_and_again_by_the_same_workspace(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    assert output.main(["--results", str(folder), "--owner", "default.phi"]) == {"path": str(folder)}
    claim(folder, "default.phi")
    assert names(folder / ".kaito") == ["default.phi"]


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ConfigFailure, match="cannot be written") as refused:
        claim(tmp_path / "file", "default.phi")
    assert refused.value.reason == "OutputNotWritable"
