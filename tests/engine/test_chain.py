"""One YAML in, an adapter in a registry out: the whole chain with a real registry and a model that really trains."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import trustme

from tests.engine.machine import Machine, write_workspace
from tests.servers.files import FileServer, run_file_server
from tests.servers.registry import PASSWORD, RegistryServer, run_registry, write_docker_config
from tests.unit.tuning.tiny_models import settings

SEED = Path(__file__).parents[1] / "fixtures" / "seeds" / "003-tuning-phi-3.yaml"


def parameters(**arguments: Any) -> dict[str, Any]:
    return settings(**arguments)


def test_a_workspace_file_becomes_an_adapter_in_a_registry_that_changes_the_answer(
    machine: Machine, registry: RegistryServer
) -> None:
    image = f"{registry.host}/adapters/tiny:1"
    file = write_workspace(
        machine.folder / "w.yaml",
        output={"image": image, "imagePushSecret": "anonymous"},
        parameters=parameters(num_train_epochs=8, learning_rate=1e-2),
    )

    ended = machine.run(file)
    assert "Succeeded" in ended.stdout
    status = machine.get("tiny")["status"]
    assert status["state"] == "Succeeded"
    pushed = status["tuning"]["run"]["output"]
    assert pushed["image"] == image

    pulled = machine.folder / "pulled"
    assert machine.kaito("adapter", "pull", image, "--out", str(pulled)).returncode == 0
    results = machine.run_folder("tiny") / "results"
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (pulled / name).read_bytes() == (results / name).read_bytes()
    lineage = json.loads((pulled / "adapter_config.json").read_text())
    assert lineage["base_model_name_or_path"] == str(machine.folder / "model")
    assert lineage["revision"] == status["tuning"]["run"]["model"]["commit"]
    evaluation = json.loads((pulled / "evaluation.json").read_text())
    assert evaluation["loss"] < evaluation["base_loss"] / 2
    before, after = answers(machine.folder / "model", pulled, "where is the red lamp 0 ")
    assert before != after
    copied = machine.kaito("adapter", "push", str(pulled), f"{registry.host}/adapters/copy:1", "-o", "json")
    assert copied.returncode == 0, copied.stderr
    progress = status["tuning"]["progress"]
    assert (progress["step"], progress["done"]) == ("tune", progress["total"])
    assert progress["evalLoss"] == pytest.approx(evaluation["loss"])
    assert "before" in machine.kaito("describe", "tiny").stdout

    again = machine.kaito("run", "-f", str(file))
    assert again.returncode == 0
    assert "nothing to do" in again.stdout
    assert machine.starts("tiny", "tune") == 1


def answers(model_folder: Path, adapter: Path, question: str) -> tuple[str, str]:
    """The greedy answers of the base and of the adapted model."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_folder), adapter).eval()
    chat = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)

    def answer() -> str:
        with torch.no_grad():
            output = adapted.generate(**prompt, max_new_tokens=20, do_sample=False)
        return str(tokenizer.decode(output[0, prompt["input_ids"].shape[1] :]))

    with adapted.disable_adapter():
        before = answer()
    return before, answer()


def test_the_same_workspace_gives_the_same_image_digest(new_machine: Any, registry: RegistryServer) -> None:
    digests = []
    for name in ("first", "second"):
        machine = new_machine(name)
        file = write_workspace(
            machine.folder / "w.yaml",
            preset={"name": str((machine.folder / "model").resolve())},
            output={"image": f"{registry.host}/same/{name}:1", "imagePushSecret": "none"},
            parameters=parameters(num_train_epochs=1),
        )
        machine.run(file)
        digests.append(machine.get("tiny")["status"]["tuning"]["run"]["output"]["digest"])
    assert digests[0] == digests[1]


def test_the_first_documents_phi_3_workspace_runs_with_only_hosts_and_preset_changed(
    tmp_path: Path, tiny_inputs: Path
) -> None:
    """https with a CA of the test's own, on loopback, allowed by name; a registry with a password."""
    authority = trustme.CA()
    rows = [json.loads(line) for line in (tiny_inputs / "data" / "rows.jsonl").read_text().splitlines()]
    (tmp_path / "tls").mkdir()
    parquet = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), parquet)
    text = SEED.read_text()
    path = "/datasets/philschmid/dolly-15k-oai-style/resolve/main/data/train-00000-of-00001-54e3756291ca09c6.parquet"
    with (
        run_file_server(
            FileServer(files={path: parquet.read_bytes()}), authority=authority, folder=tmp_path / "tls"
        ) as server,
        run_registry(tmp_path / "registry", users=("team",), authority=authority) as registry,
    ):
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        machine = Machine(tmp_path / "machine", {"SSL_CERT_FILE": str(tmp_path / "ca.pem")})
        login = {registry.host: {"username": "team", "password": PASSWORD}}
        secret = write_docker_config(tmp_path / "secret", login) / ".dockerconfigjson"
        changes = {
            "https://huggingface.co": server.url,
            "ACR_REPO_HERE.azurecr.io/IMAGE_NAME_HERE:0.0.1": f"{registry.host}/adapters/phi-3:0.0.1",
            "ACR_REGISTRY_SECRET_HERE": "registry-login",
            "phi-3-mini-128k-instruct": str(tiny_inputs / "model"),
        }
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        file = tmp_path / "phi-3.yaml"
        file.write_text(text)

        refused = machine.kaito("run", "-f", str(file), "--secret", f"registry-login={secret}")
        assert refused.returncode == 1
        assert "phi-3.yaml:" in refused.stderr
        assert "loopback" in refused.stderr

        host = server.url.partition("://")[2].partition(":")[0]
        machine.run(file, "--allow-host", host, "--secret", f"registry-login={secret}")
        assert machine.phase("workspace-tuning-phi-3") == "Succeeded"
        assert (machine.run_folder("workspace-tuning-phi-3") / "secrets").stat().st_mode & 0o077 == 0
        logs = machine.all_logs() + (machine.run_folder("workspace-tuning-phi-3") / "events.jsonl").read_text()
        assert PASSWORD not in logs


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_an_adapter_goes_to_a_folder_with_everything_about_it(machine: Machine, method: str) -> None:
    file = write_workspace(
        machine.folder / "w.yaml",
        method=method,
        output={"volumeSource": {"hostPath": {"path": "out"}}},
        parameters=parameters(num_train_epochs=1),
    )
    machine.run(file)
    found = {path.name for path in (machine.folder / "out").iterdir()}
    assert found >= {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "evaluation.json",
        "fine_tuning_completed.txt",
        "metrics.jsonl",
        "training_config.resolved.yaml",
    }


def test_a_stale_completion_marker_in_an_output_folder_is_no_adapter_of_this_run(machine: Machine) -> None:
    out = machine.folder / "out"
    out.mkdir()
    (out / "fine_tuning_completed.txt").write_text("Fine-Tuning completed at 2024-01-01-00-00-00")
    (out / "adapter_model.safetensors").write_bytes(b"old adapter")
    (out / "notes.txt").write_text("a person's own")
    file = write_workspace(
        machine.folder / "w.yaml",
        output={"volumeSource": {"hostPath": {"path": "out"}}},
        parameters=parameters(num_train_epochs=1),
    )
    machine.run(file)
    assert machine.starts("tiny", "tune") == 1
    assert (out / "adapter_model.safetensors").read_bytes() != b"old adapter"
    kept = list(out.glob(".kaito/previous/**/adapter_model.safetensors"))
    assert [path.read_bytes() for path in kept] == [b"old adapter"]
    assert (out / "notes.txt").read_text() == "a person's own"

    assert machine.kaito("delete", "tiny").returncode == 0
    other = write_workspace(
        machine.folder / "other.yaml",
        name="other",
        output={"volumeSource": {"hostPath": {"path": "out"}}},
        parameters=parameters(num_train_epochs=1),
    )
    machine.run(other)


def test_two_workspaces_of_one_file_print_one_json_document(machine: Machine) -> None:
    (machine.folder / "bad").mkdir()
    files = [
        write_workspace(
            machine.folder / f"{name}.yaml",
            name=name,
            input={"volumeSource": {"hostPath": {"path": "bad"}}},
            output={"volumeSource": {"hostPath": {"path": f"out-{name}"}}},
        )
        for name in ("one", "two")
    ]
    ended = machine.kaito("run", "-f", str(files[0]), "-f", str(files[1]), "-o", "json")
    assert ended.returncode == 1
    phases = {
        item["metadata"]["name"]: item["status"]["tuning"]["run"]["phase"] for item in json.loads(ended.stdout)["items"]
    }
    assert phases == {"one": "Failed", "two": "Failed"}


def test_an_edited_workspace_resumes_no_old_checkpoint_and_keeps_what_was(
    machine: Machine, registry: RegistryServer
) -> None:
    image = f"{registry.host}/adapters/edited:1"
    output = {"image": image, "imagePushSecret": "none"}
    file = machine.folder / "w.yaml"
    machine.run(write_workspace(file, output=output, parameters=parameters(num_train_epochs=1, save_steps=3)))
    first = adapter_digest(machine)
    edited = write_workspace(file, output=output, parameters=parameters(num_train_epochs=1, save_steps=3, seed=9))
    ended = machine.run(edited)
    assert "differs from the Workspace of this name that has finished before: seed 3 -> 9" in ended.stderr
    assert "training begins anew; " in ended.stdout
    assert machine.starts("tiny", "tune") == 2
    assert machine.starts("tiny", "fetch") == 1, "the data have not changed"
    log = (machine.run_folder("tiny") / "logs" / "tune.log").read_text()
    assert "resumed" not in log
    assert adapter_digest(machine) != first
    kept = list((machine.run_folder("tiny") / "previous").glob("*/results/adapter_model.safetensors"))
    assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in kept] == [first]
    assert machine.get("tiny")["status"]["tuning"]["run"]["number"] == 2


def adapter_digest(machine: Machine) -> str:
    weights = machine.run_folder("tiny") / "results" / "adapter_model.safetensors"
    return hashlib.sha256(weights.read_bytes()).hexdigest()


def test_bad_rows_are_named_before_the_model_is_pulled(machine: Machine) -> None:
    data = machine.folder / "bad"
    data.mkdir()
    (data / "rows.jsonl").write_text('{"messages": [{"role": "user", "content": "hi"}]}\n{"messages": 3}\n')
    file = write_workspace(
        machine.folder / "w.yaml",
        input={"volumeSource": {"hostPath": {"path": "bad"}}},
        output={"volumeSource": {"hostPath": {"path": "out"}}},
    )
    ended = machine.kaito("run", "-f", str(file))
    assert ended.returncode == 1
    assert "rows.jsonl:1" in ended.stderr
    assert "Traceback" not in ended.stderr
    document = machine.get("tiny")
    assert document["status"]["state"] == "Failed"
    preflight = next(s for s in document["status"]["tuning"]["run"]["steps"] if s["name"] == "preflight")
    assert (preflight["state"], preflight["exitCode"]) == ("failed", 3)
    assert "model" not in {key.partition("/")[2] for key, ran in machine.steps("tiny").items() if ran["attempt"]}

    row = {"messages": [{"role": "user", "content": "where"}, {"role": "assistant", "content": "in the hall"}]}
    (data / "rows.jsonl").write_text((json.dumps(row) + "\n") * 30)
    mended = machine.kaito("run", "-f", str(file))
    assert mended.returncode == 0, mended.stderr + machine.all_logs()
    assert machine.get("tiny")["status"]["tuning"]["run"]["data"]["rows"] == 30


def test_data_that_changed_since_a_finished_run_are_trained_on(machine: Machine) -> None:
    rows = (machine.folder / "data" / "rows.jsonl").read_text()
    data = machine.folder / "own"
    data.mkdir()
    (data / "rows.jsonl").write_text(rows)
    file = write_workspace(
        machine.folder / "w.yaml",
        input={"volumeSource": {"hostPath": {"path": "own"}}},
        output={"volumeSource": {"hostPath": {"path": "out"}}},
        parameters=parameters(num_train_epochs=1),
    )
    machine.run(file)
    (data / "more.jsonl").write_text(rows)
    machine.run(file)
    assert machine.starts("tiny", "tune") == 2
    assert machine.get("tiny")["status"]["tuning"]["run"]["data"]["rows"] == 80

    shutil.rmtree(machine.folder / "out")
    again = machine.run(file)
    assert "made again" in again.stderr
    assert (machine.folder / "out" / "adapter_model.safetensors").exists()


def test_a_reader_that_goes_away_does_not_end_the_training(machine: Machine) -> None:
    file = write_workspace(
        machine.folder / "w.yaml",
        output={"volumeSource": {"hostPath": {"path": "out"}}},
        parameters=parameters(num_train_epochs=1),
    )
    shell = f"'{sys.executable}' -m kaito.cli run -f '{file}' | head -n 2"
    subprocess.run(["bash", "-c", shell], env=machine.environment, capture_output=True, timeout=240, check=True)
    assert machine.phase("tiny") == "Succeeded"


@pytest.mark.parametrize("name", ["workspace.json", "run.json"])
def test_a_damaged_run_folder_is_named_and_hides_no_other_one(machine: Machine, name: str) -> None:
    for run in ("tiny", "other"):
        file = write_workspace(
            machine.folder / "w.yaml", name=run, output={"volumeSource": {"hostPath": {"path": f"out-{run}"}}}
        )
        (machine.folder / "bad").mkdir(exist_ok=True)
        text = file.read_text().replace('"data"', '"bad"')
        file.write_text(text)
        machine.kaito("run", "-f", str(file))
    (machine.run_folder("tiny") / name).write_text('{"half')
    for command in (["get"], ["get", "tiny"], ["describe", "tiny"], ["retry", "tiny"], ["run", "-f", str(file)]):
        ended = machine.kaito(*command)
        assert "Traceback" not in ended.stderr, command
    listed = machine.kaito("get")
    assert listed.returncode == 1
    assert "other" in listed.stdout
    assert "default/tiny" in listed.stderr
    assert name in machine.kaito("get", "tiny").stderr
    assert machine.kaito("delete", "tiny").returncode == 0
    assert machine.kaito("get").returncode == 0


def test_the_documents_of_a_run_can_be_read_by_every_command(machine: Machine) -> None:
    file = write_workspace(
        machine.folder / "w.yaml",
        output={"volumeSource": {"hostPath": {"path": "out"}}},
        parameters=parameters(num_train_epochs=1),
    )
    started = machine.kaito("apply", "-f", str(file))
    assert started.returncode == 0, started.stderr
    waited = machine.kaito("wait", "tiny", "--timeout", "200")
    assert waited.returncode == 0, waited.stderr + machine.all_logs()
    table = machine.kaito("get").stdout.splitlines()
    assert table[0].split()[:2] == ["NAME", "INSTANCE"]
    assert "Succeeded" in table[-1]
    assert "Held-out" in machine.kaito("describe", "tiny").stdout or "tune" in machine.kaito("describe", "tiny").stdout
    assert "Fine-Tuning completed" in machine.kaito("logs", "tiny", "--step", "tune").stdout
    assert machine.kaito("get", "tiny", "-o", "yaml").stdout.startswith("apiVersion:")
    assert machine.kaito("get", "nobody").returncode == 1
    assert machine.kaito("logs", "tiny", "--step", "nothing").returncode == 1
    assert machine.kaito("delete", "tiny").returncode == 0
    assert not machine.run_folder("tiny").exists()


def test_an_adapter_that_improves_less_than_was_asked_for_is_not_pushed(machine: Machine) -> None:
    file = write_workspace(
        machine.folder / "w.yaml",
        output={"volumeSource": {"hostPath": {"path": "out"}}},
        evaluation={"minImprovement": 100.0},
        parameters=parameters(num_train_epochs=1),
    )
    ended = machine.kaito("run", "-f", str(file))
    assert ended.returncode == 1
    assert "ImprovementTooSmall" in ended.stderr
    assert not (machine.folder / "out" / "adapter_model.safetensors").exists()

    metrics = machine.run_folder("tiny") / "metrics.jsonl"
    trained = metrics.read_text()
    write_workspace(
        file,
        output={"volumeSource": {"hostPath": {"path": "out"}}},
        evaluation={"minImprovement": -100.0},
        parameters=parameters(num_train_epochs=1),
    )
    machine.run(file)
    assert (machine.folder / "out" / "adapter_model.safetensors").exists()
    assert metrics.read_text() == trained, "what was trained is looked at again, not trained again"
    assert not (machine.run_folder("tiny") / "previous").exists()
