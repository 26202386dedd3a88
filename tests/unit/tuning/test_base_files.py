"""A base model in a folder of this machine, changed after its pull."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from kaito.failure import ModelFailure
from kaito.hub.pull import pull
from tests.unit.tuning.tiny_models import settings

Tune = Callable[..., dict[str, Any]]


@pytest.fixture
def own(tmp_path: Path, llama: Path) -> Path:
    """The user's folder; `tmp_path / "model"` is pulled from it."""
    shutil.copytree(llama, tmp_path / "own")
    pull(str(tmp_path / "own"), "", tmp_path / "model")
    assert (tmp_path / "model/model.safetensors").is_symlink()
    return tmp_path / "own"


def test_a_run_does_not_go_on_with_a_base_that_changed_under_it(tune: Tune, tmp_path: Path, own: Path) -> None:
    model, sections = tmp_path / "model", settings(max_steps=4)
    first = tune(model=model, sections=sections, save_steps=2)
    shutil.rmtree(tmp_path / "run/checkpoints/checkpoint-4")
    assert tune(model=model, sections=sections, save_steps=2) == first, "unchanged: it goes on"
    before = own.joinpath("model.safetensors").stat()
    weights = load_file(own / "model.safetensors")
    weights["model.norm.weight"] *= 2
    save_file(weights, own / "model.safetensors", metadata={"format": "pt"})
    os.utime(own / "model.safetensors", ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ModelFailure, match="changed since they were pulled") as changed:
        tune(model=model, sections=sections, save_steps=2)
    assert changed.value.reason == "ModelChanged"
    assert "rerun" in changed.value.hint


def test_files_that_were_only_touched_or_moved_are_the_same_base(tune: Tune, tmp_path: Path, own: Path) -> None:
    first = tune(model=tmp_path / "model", sections=settings(max_steps=2))
    shutil.copyfile(own / "model.safetensors", own / "copy")
    (own / "copy").replace(own / "model.safetensors")
    assert tune(model=tmp_path / "model", sections=settings(max_steps=2)) == first
