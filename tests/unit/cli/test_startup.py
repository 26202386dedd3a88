"""The command line starts light: `--help` and `validate` import nothing that trains; exit codes are as documented."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kaito.cli import app

HEAVY = ("torch", "transformers", "peft", "bitsandbytes", "pyarrow", "tokenizers", "uvicorn")


def modules_after(*argv: str) -> set[str]:
    """The modules that a `kaito` command has imported when it ends."""
    script = (
        "import sys\nsys.argv = ['kaito', *sys.argv[1:]]\nfrom kaito.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "sys.stderr.write('\\n'.join(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", script, *argv], capture_output=True, text=True, check=True)
    return set(ended.stderr.splitlines())


def kaito(*argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kaito.cli", *argv]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)


def test_help_imports_nothing_heavy() -> None:
    loaded = modules_after("--help")
    assert "kaito.cli" in loaded
    assert loaded.isdisjoint(HEAVY)
    assert loaded.isdisjoint({"kaito.plan", "kaito.client", "httpx"})


def test_validate_and_plan_import_nothing_that_trains(tmp_path: Path) -> None:
    file = tmp_path / "w.yaml"
    file.write_text("apiVersion: kaito.sh/v1beta1\nkind: Workspace\nmetadata: {name: w}\nresource: {}\n")
    assert modules_after("validate", "-f", str(file)).isdisjoint(HEAVY)
    assert modules_after("plan", "--offline", "-f", str(file)).isdisjoint(HEAVY)


@pytest.mark.parametrize("command", sorted(command.name or "" for command in app.registered_commands))
def test_every_command_has_help_with_an_example(command: str) -> None:
    ended = kaito(command, "--help")
    assert ended.returncode == 0
    assert "kaito" in ended.stdout
    assert command in {"models", "skus"} or "Example" in ended.stdout


def test_wrong_usage_ends_with_64() -> None:
    assert kaito("validate").returncode == 64
    assert kaito("nonsense").returncode == 64
    assert kaito("plan").returncode == 64
    assert kaito("retry", "w", "--secret", "no-path").returncode == 64


def test_a_workspace_on_standard_input_is_read() -> None:
    ended = kaito("validate", "-f", "-", stdin="kind: Workspace\napiVersion: kaito.sh/v1\n")
    assert ended.returncode == 1
    assert "-:2: apiVersion:" in ended.stdout


def test_a_reader_that_has_gone_is_no_traceback() -> None:
    shell = f"'{sys.executable}' -m kaito.cli models -o json | head -c 10"
    ended = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert "Traceback" not in ended.stderr
