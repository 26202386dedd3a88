"""The base install has no torch: the trainer then says what to install instead of failing in an import."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

LIGHT = ("annotated_types", "kaito", "pydantic", "pydantic_core", "ruamel", "typing_extensions", "typing_inspection")


def test_without_the_extra_the_trainer_names_it_and_ends_with_2(tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    for name in LIGHT:
        spec = find_spec(name)
        assert spec is not None
        where = Path(spec.origin or next(iter(spec.submodule_search_locations or [])))
        source = where.parent if where.name == "__init__.py" else where
        (packages / source.name).symlink_to(source)
    flags = ["config", "data", "model", "checkpoints", "results", "metrics"]
    argv = [word for flag in flags for word in (f"--{flag}", "x")]
    result = tmp_path / "result.json"
    ended = subprocess.run(
        [sys.executable, "-S", "-m", "kaito.tuning", *argv, "--repo", "x", "--revision", "y"],
        env={"PYTHONPATH": str(packages), "KAITO_RESULT": str(result), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    assert json.loads(result.read_text())["reason"] == "NotInstalled"
    assert "kaito[tuning]" in ended.stderr
