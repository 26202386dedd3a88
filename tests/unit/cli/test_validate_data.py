"""`kaito validate --data`: the data got as `run` gets them, numbers, one row as it is trained, and nothing left."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from kaito.cli import app
from tests.servers.files import FileServer, run_file_server
from tests.servers.hub import Hub, HubRepo, run_hub
from tests.servers.registry import run_registry
from tests.unit.datasets.models import build_bare_model
from tests.unit.datasets.test_fetch import push_image

DEADLINE_SECONDS = 60.0
GOOD = [
    {"messages": [{"role": "user", "content": f"question {n}"}, {"role": "assistant", "content": f"answer {n}"}]}
    for n in range(30)
]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A KAITO_HOME of the test's own; what the developer has set for the hub, the terminal and proxies stays out."""
    for name in ("HF_TOKEN", "HF_ENDPOINT", "NO_COLOR", "FORCE_COLOR", "KAITO_ALLOW_HOSTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KAITO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def server() -> Iterator[FileServer]:
    with run_file_server(FileServer()) as running:
        yield running


@pytest.fixture
def hub(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with run_hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("KAITO_ALLOW_HOSTS", "localhost")
        yield running


def lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def workspace(path: Path, source: dict[str, Any], preset: dict[str, Any] | None = None, **parameters: Any) -> Path:
    tuning = {
        "preset": preset or {"name": "demo"},
        "method": "lora",
        "input": source,
        "output": {"image": "localhost:5000/a:1", "imagePushSecret": "push"},
        "parameters": parameters,
    }
    document = {"apiVersion": "kaito.sh/v1beta1", "kind": "Workspace", "metadata": {"name": "w"}, "resource": {}}
    path.write_text(json.dumps(document | {"tuning": tuning}, indent=1))
    return path


def folder_source(folder: Path, *rows: Any) -> dict[str, Any]:
    folder.mkdir()
    (folder / "train.jsonl").write_bytes(lines(*rows))
    return {"volumeSource": {"hostPath": {"path": folder.name}}}


def command(*argv: str | Path) -> list[str]:
    return [sys.executable, "-m", "kaito.cli", "validate", *map(str, argv)]


def validate(*argv: str | Path) -> Result:
    ended = CliRunner().invoke(app, ["validate", *map(str, argv)])
    assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exception
    return ended


def entry_of(*argv: str | Path) -> dict[str, Any]:
    (entry,) = json.loads(validate(*argv, "--data", "-o", "json").stdout)
    return dict(entry)


def left_behind(home: Path) -> list[Path]:
    return list((home / "tmp").glob("*"))


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.02)


# --- a folder of this machine ---------------------------------------------------------------------------------------


def test_good_data_are_shown_in_numbers_and_by_one_row_with_its_mask(home: Path, tmp_path: Path) -> None:
    file = workspace(tmp_path / "w.yaml", folder_source(tmp_path / "data", *GOOD, GOOD[3]))
    ended = validate("-f", file, "--data")
    assert ended.exit_code == 0, ended.stdout + ended.stderr
    for words in ("31", "messages (31)", "p99", "train.jsonl:31 repeats train.jsonl:4", "demo at sha256:"):
        assert words in ended.stdout
    assert "train.jsonl:1 as it is trained" in ended.stdout
    assert "question 0<|end|><|assistant|>⟦answer 0<|end|>⟧" in ended.stdout
    assert "Workspace w: no problem found" in ended.stdout
    assert left_behind(home) == []


def test_json_has_the_numbers_and_no_text_of_a_row(home: Path, tmp_path: Path) -> None:
    bad = {"messages": [{"role": "user", "content": "a secret question"}]}
    file = workspace(tmp_path / "w.yaml", folder_source(tmp_path / "data", *GOOD, bad))
    ended = validate("-f", file, "--data", "-o", "json")
    assert ended.exit_code == 1
    (entry,) = json.loads(ended.stdout)
    found = entry["data"]["found"]
    assert (entry["problems"], found["rows"], found["bad"], found["formats"]) == ([], 31, 1, {"messages": 30})
    assert found["files"] == {"train.jsonl": 31}
    assert 0 < found["tokens"]["p50"] <= found["tokens"]["p99"] <= found["tokens"]["max"]
    (problem,) = entry["data"]["problems"]
    assert (problem["file"], problem["line"], problem["column"]) == ("train.jsonl", 31, "messages")
    for text in ("secret", "question", "answer 0"):
        assert text not in ended.stdout + ended.stderr


def test_one_file_may_be_named_instead_of_a_folder(home: Path, tmp_path: Path) -> None:
    folder_source(tmp_path / "data", *GOOD)
    source = {"volumeSource": {"hostPath": {"path": "data/train.jsonl"}}}
    assert entry_of("-f", workspace(tmp_path / "w.yaml", source))["data"]["found"]["rows"] == 30


def test_the_settings_of_the_workspace_count(home: Path, tmp_path: Path) -> None:
    rows = [{"ask": "q", "say": "a"}, {"ask": "word " * 50, "say": "a"}]
    file = workspace(
        tmp_path / "w.yaml",
        folder_source(tmp_path / "data", *rows),
        DatasetConfig={"column_mapping": {"prompt": "ask", "completion": "say"}},
        TrainingArguments={"max_length": 16},
    )
    found = entry_of("-f", file)["data"]["found"]
    assert (found["bad"], found["truncated"], found["untrained"]) == (0, 1, 1)


def test_a_folder_that_is_not_there_is_a_warning_and_with_data_an_error(home: Path, tmp_path: Path) -> None:
    file = workspace(tmp_path / "w.yaml", {"volumeSource": {"hostPath": {"path": "no-data"}}})
    line = 1 + next(number for number, text in enumerate(file.read_text().splitlines()) if "no-data" in text)
    place = f"{file}:{line}: tuning.input.volumeSource.hostPath.path:"
    plain, looked = validate("-f", file), validate("-f", file, "--data")
    assert (plain.exit_code, looked.exit_code) == (0, 1)
    assert f"{place} warning: {tmp_path}/no-data does not exist" in plain.stderr
    assert f"{place} {tmp_path}/no-data does not exist" in looked.stdout
    (tmp_path / "no-data").mkdir()
    assert validate("-f", file).stderr == ""


def test_data_on_a_volume_of_the_cluster_are_said_to_be_out_of_reach(home: Path, tmp_path: Path) -> None:
    file = workspace(tmp_path / "w.yaml", {"volumeSource": {"persistentVolumeClaim": {"claimName": "data"}}})
    here = validate("-f", file, "--data")
    assert here.exit_code == 1
    assert "persistentVolumeClaim, which exists on a cluster alone" in here.stdout
    labels = {"labelSelector": {"matchLabels": {"a": "b"}}}
    on_a_cluster = json.dumps({"resource": {"instanceType": "Standard_NC24ads_A100_v4", **labels}})[1:-1]
    file.write_text(file.read_text().replace('"resource": {}', on_a_cluster))
    ended = validate("-f", file, "--data")
    assert ended.exit_code == 0
    assert "data on a persistentVolumeClaim" in ended.stderr


def test_a_workspace_with_an_error_of_its_own_is_not_looked_into(home: Path, tmp_path: Path) -> None:
    file = workspace(tmp_path / "w.yaml", folder_source(tmp_path / "data", {"body": 1}))
    file.write_text(file.read_text().replace('"lora"', '"lore"'))
    entry = entry_of("-f", file)
    assert [problem["field"] for problem in entry["problems"]] == ["tuning.method"]
    assert "data" not in entry


# --- on a terminal --------------------------------------------------------------------------------------------------


def on_terminal(*argv: str | Path, **environment: str) -> str:
    """What the command writes where its output is a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command(*argv), stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm", **environment}
    )
    os.close(theirs)
    written = b""
    try:
        while chunk := os.read(ours, 65536):
            written += chunk
    except OSError:  # Linux ends a terminal whose other side is closed so
        pass
    os.close(ours)
    assert process.wait(DEADLINE_SECONDS) == 0, written
    return written.decode()


def test_on_a_terminal_what_is_learnt_is_underlined_and_without_colours_bracketed(home: Path, tmp_path: Path) -> None:
    file = workspace(tmp_path / "w.yaml", folder_source(tmp_path / "data", *GOOD))
    colours = on_terminal("-f", file, "--data")
    assert "\x1b[4;32manswer 0<|end|>\x1b[0m" in colours
    assert "⟦" not in colours
    plain = on_terminal("-f", file, "--data", NO_COLOR="1")
    assert "⟦answer 0<|end|>⟧" in plain


def test_a_row_cannot_command_the_terminal(home: Path, tmp_path: Path) -> None:
    evil = {"prompt": "\x1b[2J\x1b]0;title\x07\u202e[red]", "completion": "\x9b31m done"}
    file = workspace(tmp_path / "w.yaml", folder_source(tmp_path / "data", evil))
    ended = validate("-f", file, "--data")
    assert ended.exit_code == 0, ended.stdout + ended.stderr
    assert not set("\x1b\x07\u202e\x9b") & set(ended.stdout)
    assert "\\x1b[2J" in ended.stdout
    assert "[red]" in ended.stdout


# --- data from elsewhere --------------------------------------------------------------------------------------------


def test_addresses_are_fetched_checked_and_removed(home: Path, tmp_path: Path, server: FileServer) -> None:
    server.files = {"/a.jsonl": lines(*GOOD), "/b.jsonl": lines(GOOD[0], {"body": 1})}
    file = workspace(tmp_path / "w.yaml", {"urls": [f"{server.url}/a.jsonl", f"{server.url}/b.jsonl"]})
    assert validate("-f", file, "--data").exit_code == 1
    assert server.requests == [], "a private host is asked nothing without leave"
    entry = entry_of("-f", file, "--allow-host", "127.0.0.1")
    assert entry["data"]["found"]["rows"] == 32
    ((name, line),) = [(problem["file"], problem["line"]) for problem in entry["data"]["problems"]]
    assert name.endswith("b.jsonl")
    assert line == 2
    assert left_behind(home) == []


def test_what_an_address_gives_instead_of_data_is_named_at_its_line(
    home: Path, tmp_path: Path, server: FileServer
) -> None:
    server.files = {"/train.parquet": b"<!DOCTYPE html><html>please sign in</html>"}
    file = workspace(tmp_path / "w.yaml", {"urls": [f"{server.url}/train.parquet"]})
    (problem,) = entry_of("-f", file, "--allow-host", "127.0.0.1")["problems"]
    assert problem["field"] == "tuning.input.urls"
    assert '"urls"' in file.read_text().splitlines()[problem["line"] - 1]
    assert "sign-in page" in problem["message"]
    assert left_behind(home) == []


def test_the_files_of_an_image_are_checked_and_removed(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "no-logins"))
    with run_registry(tmp_path / "registry") as registry:
        image = push_image(registry, {"data/a.jsonl": lines(*GOOD), "data/b.jsonl": lines({"body": 1})})
        entry = entry_of("-f", workspace(tmp_path / "w.yaml", {"image": image}))
    assert entry["data"]["source"] == image
    assert entry["data"]["found"]["files"] == {"a.jsonl": 30, "b.jsonl": 1}
    assert [(problem["file"], problem["line"]) for problem in entry["data"]["problems"]] == [("b.jsonl", 1)]
    assert left_behind(home) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "kill"])
def test_an_interruption_leaves_nothing_behind(
    how: signal.Signals, home: Path, tmp_path: Path, server: FileServer
) -> None:
    server.files = {"/a.jsonl": lines(*GOOD) * 1000}
    server.pace = {"/a.jsonl": 1.0}
    file = workspace(tmp_path / "w.yaml", {"urls": [f"{server.url}/a.jsonl"]})
    process = subprocess.Popen(
        command("-f", file, "--data", "--allow-host", "127.0.0.1"), stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until(lambda: bool(server.requests), "the download's begin")
        (child,) = children(process.pid)
        process.send_signal(how)
        assert process.wait(DEADLINE_SECONDS) == 130
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
        assert not Path(f"/proc/{child}").exists()
        assert left_behind(home) == []
    finally:
        process.kill()
        process.communicate()


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# --- the base model -------------------------------------------------------------------------------------------------


def hub_repo(folder: Path, **rights: Any) -> HubRepo:
    build_bare_model(folder)
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}"
    )
    return HubRepo({path.name: path.read_bytes() for path in folder.iterdir()}, **rights)


def test_a_model_of_the_hub_is_asked_with_the_token_of_its_secret(home: Path, tmp_path: Path, hub: Hub) -> None:
    hub.repos["acme/small"] = hub_repo(tmp_path / "model", gated=True, readers=("hf_right",))
    preset = {"name": "acme/small", "presetOptions": {"modelAccessSecret": "hub-token"}}
    file = workspace(tmp_path / "w.yaml", folder_source(tmp_path / "data", *GOOD), preset)
    (problem,) = entry_of("-f", file)["problems"]
    assert problem["field"] == "tuning.preset.name"
    assert "acme/small" in problem["message"]
    (tmp_path / "token").write_text("hf_right\n")
    entry = entry_of("-f", file, "--secret", f"hub-token={tmp_path / 'token'}")
    assert entry["problems"] == []
    assert entry["data"]["found"]["tokens"]["max"] > 0
    assert entry["data"]["model"].startswith("acme/small at c0ffee")


def test_a_model_that_does_not_exist_is_an_error_and_the_rows_are_still_checked(
    home: Path, tmp_path: Path, hub: Hub
) -> None:
    file = workspace(
        tmp_path / "w.yaml", folder_source(tmp_path / "data", *GOOD, {"body": 1}), {"name": "acme/nothing"}
    )
    entry = entry_of("-f", file)
    assert [problem["field"] for problem in entry["problems"]] == ["tuning.preset.name"]
    assert [problem["line"] for problem in entry["data"]["problems"]] == [31]
    assert entry["data"]["model"] is None


def test_a_hub_that_cannot_be_reached_is_a_warning_and_the_rows_are_still_checked(
    home: Path, tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # discard: nobody listens there
    file = workspace(tmp_path / "w.yaml", folder_source(tmp_path / "data", *GOOD), {"name": "acme/small"})
    ended = validate("-f", file, "--data")
    assert ended.exit_code == 0, ended.stdout + ended.stderr
    assert "tuning.preset.name: warning: " in ended.stderr
    assert "rows are checked without it" in ended.stderr
    assert "messages (30)" in ended.stdout
    assert "tokens in a row" not in ended.stdout


def test_a_model_without_tokenizer_json_is_an_error_and_the_rows_are_still_checked(
    home: Path, tmp_path: Path, hub: Hub
) -> None:
    repo = hub_repo(tmp_path / "model")
    repo.files.pop("tokenizer.json")
    hub.repos["acme/old"] = repo
    file = workspace(tmp_path / "w.yaml", folder_source(tmp_path / "data", *GOOD, {"body": 1}), {"name": "acme/old"})
    entry = entry_of("-f", file)
    (problem,) = entry["problems"]
    assert problem["field"] == "tuning.preset.name"
    assert "no tokenizer.json" in problem["message"]
    assert [problem["line"] for problem in entry["data"]["problems"]] == [31]


def test_keys_that_no_terminal_can_show_are_no_bug(home: Path, tmp_path: Path) -> None:
    source = folder_source(tmp_path / "data", {"\ud800x": "q", "completion": "a"}, {"\x1b[31mred": 1}, {"a\nb": 2})
    ended = subprocess.run(
        command("-f", workspace(tmp_path / "w.yaml", source), "--data"), capture_output=True, check=False
    )
    assert ended.returncode == 1
    assert ended.stdout.count(b"train.jsonl:") >= 3
    assert not any(word in ended.stdout + ended.stderr for word in (b"Traceback", b"\x1b", b"a\nb"))
