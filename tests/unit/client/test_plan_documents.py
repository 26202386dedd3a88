"""`kaito plan -f`: a clear verdict, an exit code that says the same, and the warnings that `validate` has."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from kaito.cli import app

WORKSPACE = """\
apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata: {{name: w}}
resource: {resource}
tuning:
  preset: {{name: {preset}}}
  method: lora
  input: {{volumeSource: {{hostPath: {{path: data}}}}}}
  output: {{image: "localhost:5000/a:1", imagePushSecret: s}}
"""
ON_A100 = "{instanceType: Standard_NC24ads_A100_v4, labelSelector: {matchLabels: {a: b}}}"


def plan(folder: Path, preset: str, *options: str, resource: str = ON_A100) -> Result:
    file = folder / "w.yaml"
    file.write_text(WORKSPACE.format(preset=preset, resource=resource))
    return CliRunner().invoke(app, ["plan", *options, "-f", str(file)])


def test_a_model_that_fits_with_no_rows_is_refused_with_what_would_help(tmp_path: Path) -> None:
    ended = plan(tmp_path, "llama-3.3-70b-instruct", "--offline")
    assert ended.exit_code == 1
    assert "refused: DoesNotFit: llama-3.3-70b-instruct with these settings needs about" in ended.stdout
    assert "hint: method qlora holds the base model in a quarter of the memory" in ended.stdout
    assert "micro-batch of 0" not in ended.stdout


def test_a_model_that_fits_says_so(tmp_path: Path) -> None:
    ended = plan(tmp_path, "phi-4", "--offline")
    assert ended.exit_code == 0, ended.output
    assert "verdict: fits: needs" in ended.stdout


def test_a_model_of_which_nothing_is_known_is_no_promise(tmp_path: Path) -> None:
    ended = plan(tmp_path, "acme/unheard-of", "--offline")
    assert ended.exit_code == 0
    assert "verdict: not known whether it fits" in ended.stdout
    assert "0 B" not in ended.stdout


def test_a_model_folder_that_does_not_exist_is_refused_on_this_machine(tmp_path: Path) -> None:
    ended = plan(tmp_path, "./no-model", resource="{}")
    assert ended.exit_code == 1
    assert f"refused: ModelNotFound: model folder {tmp_path / 'no-model'} does not exist" in " ".join(
        ended.stdout.split()
    )


def test_a_model_folder_may_exist_on_a_cluster_alone(tmp_path: Path) -> None:
    assert plan(tmp_path, "./no-model").exit_code == 0


def test_a_hub_that_cannot_be_reached_refuses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAITO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    ended = plan(tmp_path, "phi-4")
    assert ended.exit_code == 0, ended.output
    assert "The model's facts are the catalog's" in ended.stdout


def test_a_data_folder_that_does_not_exist_is_a_warning_as_in_validate(tmp_path: Path) -> None:
    ended = plan(tmp_path, "phi-4", "--offline")
    assert f"tuning.input.volumeSource.hostPath.path: warning: {tmp_path / 'data'} does not exist" in ended.stderr
    (tmp_path / "data").mkdir()
    assert "does not exist" not in plan(tmp_path, "phi-4", "--offline").stderr


def test_an_unknown_machine_type_gets_the_nearest_one_and_no_refusal(tmp_path: Path) -> None:
    mistyped = ON_A100.replace("_v4", "")
    ended = plan(tmp_path, "llama-3.3-70b-instruct", "--offline", resource=mistyped)
    assert ended.exit_code == 0
    assert "warning: 'Standard_NC24ads_A100' is not known here, nor are its GPUs; did you mean " in ended.stderr
    assert "Standard_NC24ads_A100_v4?" in ended.stderr
