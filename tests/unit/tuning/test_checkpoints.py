from __future__ import annotations

import json
from pathlib import Path

import pytest

from kaito.tuning.checkpoints import (
    MANIFEST,
    PART,
    Checkpoint,
    listed,
    newest_valid,
    part_folder,
    prune,
    publish,
)


def save(folder: Path, step: int, identity: str = "run") -> Checkpoint:
    part = part_folder(folder)
    (part / "adapter_model.safetensors").write_bytes(b"weights" * step)
    (part / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return publish(part, folder / f"checkpoint-{step}", step=step, identity=identity)


def newest(folder: Path, identity: str = "run") -> int | None:
    found = newest_valid(folder, identity=identity)
    return found.step if found else None


def test_the_newest_checkpoint_is_the_one_of_the_highest_step(tmp_path: Path) -> None:
    for step in (9, 100, 20):
        save(tmp_path, step)
    assert newest(tmp_path) == 100
    assert [checkpoint.step for checkpoint in listed(tmp_path)] == [100, 20, 9]


def test_pruning_keeps_the_two_newest(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)
        prune(tmp_path)
    assert [checkpoint.step for checkpoint in listed(tmp_path)] == [3, 2]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "no manifest", "broken manifest"])
def test_a_damaged_checkpoint_is_moved_aside_and_the_one_before_is_used(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, 5)
    path = save(tmp_path, 10).path
    weights = path / "adapter_model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-3])
    elif damage == "flipped":
        weights.write_bytes(b"X" + weights.read_bytes()[1:])
    elif damage == "missing":
        weights.unlink()
    elif damage == "no manifest":
        (path / MANIFEST).unlink()
    else:
        (path / MANIFEST).write_text("{")
    assert newest(tmp_path) == 5
    assert (tmp_path / "damaged" / "checkpoint-10").is_dir()
    assert capsys.readouterr().out.count("is damaged") == 1
    assert newest(tmp_path) == 5  # nothing is looked at twice
    assert capsys.readouterr().out == ""


def test_a_checkpoint_of_other_settings_is_moved_aside_and_kept(tmp_path: Path) -> None:
    save(tmp_path, 5, identity="another run")
    assert newest(tmp_path) is None
    save(tmp_path, 5, identity="a third")
    assert newest(tmp_path) is None
    assert sorted(path.name for path in (tmp_path / "previous").iterdir()) == ["checkpoint-5", "checkpoint-5.2"]


def test_what_was_being_written_when_the_process_died_is_no_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 3)
    part = part_folder(tmp_path) / "checkpoint-6"
    part.mkdir()
    (part / "optimizer.pt").write_bytes(b"half")
    assert newest(tmp_path) == 3
    assert not (tmp_path / PART).exists()
