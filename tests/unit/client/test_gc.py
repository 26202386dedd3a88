"""What `kaito gc` takes and what it leaves alone, on run folders as the runner leaves them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kaito.api.workspace import Workspace
from kaito.cli import app
from kaito.client.gc import TRASH, find_garbage, remove_garbage
from kaito.contract import JobRun, Run, StepRun
from kaito.hub.cache import CachedModel, ModelCache
from kaito.hub.files import RepoFile
from kaito.local.desired import Desired, save_desired
from kaito.local.home import Key, run_folder
from kaito.local.lock import engine_lock
from kaito.local.observe import view
from kaito.runner.lock import FolderLock
from kaito.runner.state import save_run

DAY = 86400.0
NOW = 1_000_000_000.0
KEY = Key("default", "w")
COMMIT = "c0ffee" + "0" * 34


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KAITO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("KAITO_MODEL_CACHE", raising=False)
    return tmp_path / "home"


def workspace(**changes: Any) -> dict[str, Any]:
    tuning = {
        "preset": {"name": "acme/small"},
        "method": "lora",
        "input": {"urls": ["https://example.com/a.jsonl"]},
        "output": {"image": "registry.example.com/a:1", "imagePushSecret": "s"},
        **changes,
    }
    return {
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "metadata": {"name": "w", "namespace": "default"},
        "resource": {},
        "tuning": tuning,
    }


def build_run(key: Key = KEY, *, ended: float = NOW - 60 * DAY, failed: str = "", **changes: Any) -> Path:
    """The folder of a run that ended: every step done, or `failed` (JOB/STEP) the last one."""
    folder = run_folder(key)
    document = workspace(**changes)
    document["metadata"] |= {"name": key.name}
    save_desired(key, Desired(document))
    planned = view(key).plan
    jobs = {}
    results: dict[str, dict[str, Any]] = {"push": {"digest": "sha256:" + "1" * 64, "image": "a", "size_bytes": 1}}
    for job in planned.jobs:
        steps = {}
        for step in job.steps:
            if f"{job.name}/{step.name}" == failed:
                steps[step.name] = StepRun("failed", 1, "f", "o", ended - 1, ended, 1, "InternalError", "no")
                break
            result = results.get(step.name)
            steps[step.name] = StepRun("done", 1, "f", "o", ended - 1, ended, 0, result=result)
        jobs[job.name] = JobRun(1, steps)
        if failed.startswith(job.name + "/"):
            break
    save_run(folder, Run(key.name, 1, planned.inputs_hash, jobs))
    assert Workspace.model_validate(document)
    for name, size in (
        ("data/train.jsonl", 1000),
        ("model/config.json", 10),
        ("checkpoints/checkpoint-5/adapter.safetensors", 500),
        ("results/adapter_model.safetensors", 100),
        ("logs/tune.log", 20),
        ("metrics.jsonl", 5),
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    return folder


def build_cached(cache: ModelCache, content: bytes, *, repo: str = "acme/small", age_days: float = 60) -> Path:
    """A model of one file in the cache, last used `age_days` ago; the file's path."""
    file = RepoFile("model.safetensors", len(content), sha256=content.hex().ljust(64, "0")[:64])
    with cache.in_use():
        path = cache.fetch(file, lambda target, _: target.write_bytes(content) and None, lambda *_: None)
        cache.save(CachedModel(repo, COMMIT, False, 1, (file,)))
    for aged in (path, *(record for record, model in cache.records() if model.repo == repo)):
        os.utime(aged, (NOW - age_days * DAY,) * 2)
    return path


def collect(days: float = 30) -> tuple[set[str], dict[str, str]]:
    """Find and remove; what went, as paths below the home, and what was kept."""
    found = remove_garbage(find_garbage(days * DAY, NOW))
    home = Path(os.environ["KAITO_HOME"])
    return {str(item.path.relative_to(home)) for item in found.garbage}, dict(found.kept)


def test_of_a_pushed_run_only_what_can_be_made_again_goes() -> None:
    folder = build_run()
    found = find_garbage(30 * DAY, NOW)
    assert found.bytes == 1510
    collect()
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert left == {
        "workspace.json",
        "run.json",
        "results/adapter_model.safetensors",
        "logs/tune.log",
        "metrics.jsonl",
        "engine.lock",
    }
    assert (folder / "checkpoints").is_dir(), "it says that the training was done"
    assert view(KEY).phase == "Succeeded"
    assert collect() == (set(), {})


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"failed": "tune/tune"}, "it is Failed"),
        ({"failed": "push/push"}, "it is Failed"),
        ({"ended": NOW - DAY}, "not long ago"),
        (
            {"output": {"volumeSource": {"hostPath": {"path": "/no/such/results"}}}},
            "neither pushed nor in its output folder",
        ),
    ],
)
def test_a_run_that_may_go_on_or_whose_adapter_is_not_safe_is_left_alone(changes: dict[str, Any], why: str) -> None:
    folder = build_run(**changes)
    before = sorted(folder.rglob("*"))
    removed, kept = collect()
    assert removed == set()
    assert why in kept["default/w"]
    assert sorted(folder.rglob("*")) == before


def test_an_adapter_that_is_whole_in_its_output_folder_is_safe(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "fine_tuning_completed.txt").touch()
    build_run(output={"volumeSource": {"hostPath": {"path": str(tmp_path / "out")}}})
    removed, _ = collect()
    assert "runs/default/w/data" in removed


def test_a_run_that_is_at_work_is_left_alone() -> None:
    folder = build_run()
    with engine_lock(KEY):
        assert collect() == (set(), {"default/w": "it is being run"})
    with FolderLock.acquire(folder):
        assert collect() == (set(), {"default/w": "it is being run"})


def test_a_run_that_starts_between_the_look_and_the_removal_is_left_alone() -> None:
    folder = build_run()
    found = find_garbage(30 * DAY, NOW)
    with engine_lock(KEY):
        assert remove_garbage(found).garbage == ()
    assert (folder / "data" / "train.jsonl").exists()


def test_what_came_to_be_needed_between_the_look_and_the_removal_is_left_alone_and_said() -> None:
    folder = build_run()
    found = find_garbage(30 * DAY, NOW)
    build_run(failed="tune/tune", input={"urls": ["https://example.com/b.jsonl"]})
    before = sorted(folder.rglob("*"))
    removed = remove_garbage(found)
    assert removed.garbage == ()
    assert "it is Failed" in removed.kept["default/w"]
    assert sorted(folder.rglob("*")) == sorted([*before, folder / "engine.lock"])

    (folder / "workspace.json").write_text('{"half')
    assert "workspace.json" in remove_garbage(found).kept["default/w"]


def test_what_an_interrupted_removal_left_is_removed_by_the_next() -> None:
    folder = build_run()
    (folder / TRASH / "data").mkdir(parents=True)
    collect()
    assert not (folder / TRASH).exists()


def test_of_earlier_inputs_what_is_no_adapter_and_no_unfinished_training_goes() -> None:
    folder = build_run(failed="tune/tune")
    for number, files in {
        "1": ("data/a.jsonl", "step.json"),
        "2": ("checkpoints/checkpoint-1/w", "results/fine_tuning_completed.txt", "step.json"),
        "3": ("checkpoints/checkpoint-1/w", "step.json"),
    }.items():
        for name in files:
            path = folder / "previous" / number / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
        os.utime(folder / "previous" / number, (NOW - 60 * DAY,) * 2)
    collect()
    left = {str(path.relative_to(folder / "previous")) for path in (folder / "previous").rglob("*") if path.is_file()}
    assert left == {"2/results/fine_tuning_completed.txt", "2/step.json", "3/checkpoints/checkpoint-1/w", "3/step.json"}


def test_a_cached_model_goes_when_it_is_old_and_no_run_holds_it() -> None:
    cache = ModelCache()
    path = build_cached(cache, b"weights")
    linked = run_folder(KEY) / "model" / "model.safetensors"
    build_run(failed="tune/tune")
    os.link(path, linked)
    assert collect()[0] == set(), "a run that may go on has it linked"
    linked.unlink()
    assert collect()[0] == {
        f"cache/models/models/acme%2Fsmall/{COMMIT}.json",
        f"cache/models/blobs/{path.name}",
    }
    assert list(cache.blobs.iterdir()) == []


def test_a_symbolic_link_holds_a_cached_file_too() -> None:
    path = build_cached(ModelCache(), b"weights")
    linked = build_run(failed="tune/tune") / "model" / "model.safetensors"
    linked.symlink_to(path)
    assert collect()[0] == set()


def test_a_finished_run_gives_its_model_free_at_once() -> None:
    path = build_cached(ModelCache(), b"weights")
    os.link(path, build_run() / "model" / "model.safetensors")
    found = find_garbage(30 * DAY, NOW)
    removed, _ = collect()
    assert f"cache/models/blobs/{path.name}" in removed
    assert found.bytes == 1510 + len(b"weights") + sum(
        item.bytes for item in found.garbage if item.kind == "cached model"
    )


def test_a_model_that_was_used_lately_and_a_file_that_two_models_share_stay() -> None:
    cache = ModelCache()
    build_cached(cache, b"one", repo="acme/old")
    shared = build_cached(cache, b"one", repo="acme/new", age_days=1)
    os.utime(shared, (NOW - 60 * DAY,) * 2)
    removed, _ = collect()
    assert removed == {f"cache/models/models/acme%2Fold/{COMMIT}.json"}
    assert shared.exists()


def test_a_cache_that_is_in_use_is_left_alone() -> None:
    cache = ModelCache()
    path = build_cached(cache, b"weights")
    with cache.in_use():
        assert collect() == (set(), {"model cache": "a model is being fetched"})
    assert path.exists()


def test_a_model_that_was_used_between_the_look_and_the_removal_stays() -> None:
    cache = ModelCache()
    path = build_cached(cache, b"weights")
    found = find_garbage(30 * DAY, NOW)
    assert len(found.garbage) == 2
    with cache.in_use():
        cache.save(cache.records()[0][1])
    assert remove_garbage(found).garbage == ()
    assert path.exists()


def test_a_cache_that_other_homes_may_use_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs of another home hold its weights by symbolic links that cannot be seen from here."""
    monkeypatch.setenv("KAITO_MODEL_CACHE", str(tmp_path / "shared"))
    path = build_cached(ModelCache(), b"weights")
    removed, kept = collect()
    assert removed == set()
    assert str(tmp_path / "shared") in kept["model cache"]
    assert path.exists()


def test_a_file_that_arrives_while_the_cache_is_looked_at_is_no_error() -> None:
    cache = ModelCache()
    path = build_cached(cache, b"weights")
    path.with_name("sha256-1.part").symlink_to("gone")
    assert "cached file" in {item.kind for item in find_garbage(30 * DAY, NOW).garbage}


def test_the_command_shows_and_asks_nothing_of_a_pipe() -> None:
    folder = build_run()
    dry = CliRunner().invoke(app, ["gc", "--dry-run", "-o", "json"])
    assert dry.exit_code == 0, dry.output
    value = json.loads(dry.stdout)
    assert (value["dryRun"], value["bytes"], len(value["items"])) == (True, 1510, 3)
    assert (folder / "data").exists()
    assert CliRunner().invoke(app, ["gc", "--dry-run"]).stdout.endswith("1 KiB would be removed\n")
    ended = CliRunner().invoke(app, ["gc"])
    assert ended.exit_code == 0 and "removed 1 KiB" in ended.stdout
    assert not (folder / "data").exists()
    assert CliRunner().invoke(app, ["gc", "--older-than", "soon"]).exit_code == 1
