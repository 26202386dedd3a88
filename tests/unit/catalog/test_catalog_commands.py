"""`kaito models` and `kaito skus`."""

import json
import subprocess
import sys

from kaito.catalog import models, skus


def _kaito(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "kaito.cli", *arguments], capture_output=True, text=True, check=True, timeout=60
    ).stdout


def test_models_prints_a_line_for_each_model() -> None:
    header, *lines = _kaito("models").splitlines()
    assert header.split() == ["NAME", "REPO", "PARAMETERS", "WEIGHTS", "CONTEXT", "LICENCE", "GATED", "TUNABLE"]
    assert [line.split()[0] for line in lines] == [model.name for model in models()]
    phi = next(line for line in lines if line.startswith("phi-3-mini-128k-instruct "))
    assert phi.split() == [
        "phi-3-mini-128k-instruct", "microsoft/Phi-3-mini-128k-instruct", "3.8B", "7.1", "GiB", "131072", "mit", "?",
        "yes",
    ]  # fmt: skip


def test_models_as_json_has_everything_that_is_known() -> None:
    entries = {entry["name"]: entry for entry in json.loads(_kaito("models", "-o", "json"))}
    assert len(entries) == len(models())
    assert entries["demo"]["hidden"] == 256
    assert entries["llama-3.1-8b-instruct"]["gated"] is True
    assert entries["phi-4"]["gated"] is None


def test_one_model_is_shown_by_its_name_and_with_ask_by_what_its_files_say() -> None:
    shown = dict(line.split(maxsplit=1) for line in _kaito("models", "phi-4").splitlines())
    assert (shown["repo"], shown["layers"], shown["bytes"]) == ("microsoft/phi-4", "40", "27.3 GiB")
    demo = json.loads(_kaito("models", "demo", "--ask", "-o", "json"))
    assert demo["found"]["hidden"] == demo["hidden"] == 256


def test_a_model_that_nobody_knows_is_a_line_and_not_a_traceback() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "kaito.cli", "models", "phi-44"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: no base model is called 'phi-44' (did you mean phi-4")
    assert "Traceback" not in ended.stderr


def test_skus_prints_a_line_for_each_machine_type() -> None:
    _, *lines = _kaito("skus").splitlines()
    assert [line.split()[0] for line in lines] == [sku.name for sku in skus()]
    v100 = next(line for line in lines if line.startswith("Standard_NC6s_v3 "))
    assert v100.split() == [
        "Standard_NC6s_v3",
        "azure",
        "1",
        "NVIDIA",
        "V100",
        "16.0",
        "GiB",
        "7.0",
        "no",
        "6",
        "112.0",
        "GiB",
    ]


def test_skus_as_json_has_the_memory_in_bytes() -> None:
    entries = {entry["name"]: entry for entry in json.loads(_kaito("skus", "--output", "json"))}
    assert entries["Standard_ND96isr_H200_v5"]["gpu_memory_bytes"] == 141 * 2**30
