from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kaito.failure import ModelFailure, NoSpaceFailure
from kaito.hub.cache import CachedModel, ModelCache, default_cache
from kaito.hub.files import RepoFile
from kaito.hub.pack import pack_model
from kaito.hub.pull import RECORD, pull, pull_source
from kaito.hub.repository import Source
from kaito.hub.resolve import resolve
from kaito.local.home import kaito_home
from kaito.oci import Reference
from tests.servers.hub import Fault, Hub, HubRepo
from tests.unit.hub.conftest import read_all

ID = "acme/small-model"
WEIGHTS = "model.safetensors"


@pytest.fixture
def repo(hub: Hub, model_folder: Path) -> HubRepo:
    hub.repos[ID] = HubRepo(read_all(model_folder))
    return hub.repos[ID]


def blob(cache_folder: Path) -> Path:
    """The weights' content in the cache."""
    return next(path for path in (cache_folder / "blobs").glob("sha256-*") if not path.suffix)


def test_a_second_run_fetches_nothing_and_asks_nobody(hub: Hub, repo: HubRepo, tmp_path: Path) -> None:
    pull(ID, repo.commit, tmp_path / "a")
    hub.requests.clear()
    facts = resolve(ID, repo.commit, tmp_path / "b")
    assert pull(ID, repo.commit, tmp_path / "b")["files_digest"] == facts.files_digest
    assert hub.requests == []
    assert (tmp_path / "a" / WEIGHTS).samefile(tmp_path / "b" / WEIGHTS)
    assert facts.parameters == 300 * 400 + 64


def test_a_branch_is_asked_for_each_time_and_its_weights_are_not_fetched_again(
    hub: Hub, repo: HubRepo, tmp_path: Path
) -> None:
    pull(ID, "", tmp_path / "a")
    repo.commit = "beef" * 10
    repo.files["tokenizer_config.json"] = b'{"changed": true}'
    hub.requests.clear()
    assert pull(ID, "", tmp_path / "b")["commit"] == repo.commit
    assert not hub.requested("/lfs/")
    assert (tmp_path / "a" / "tokenizer_config.json").read_bytes() != b'{"changed": true}'
    assert (tmp_path / "b" / "tokenizer_config.json").read_bytes() == b'{"changed": true}'


def test_what_a_run_does_to_its_small_files_leaves_the_cache_alone(repo: HubRepo, tmp_path: Path) -> None:
    pull(ID, repo.commit, tmp_path / "a")
    with (tmp_path / "a" / "config.json").open("ab") as file:
        file.write(b" changed")
    (tmp_path / "a" / WEIGHTS).unlink()
    pull(ID, repo.commit, tmp_path / "b")
    assert (tmp_path / "b" / "config.json").read_bytes() == repo.files["config.json"]
    assert (tmp_path / "b" / WEIGHTS).read_bytes() == repo.files[WEIGHTS]


def test_weights_in_the_cache_are_read_only(repo: HubRepo, cache_folder: Path, tmp_path: Path) -> None:
    pull(ID, repo.commit, tmp_path / "a")
    assert blob(cache_folder).stat().st_mode & 0o222 == 0


@pytest.mark.parametrize("damage", ["altered", "cut", "gone"])
def test_a_file_that_is_damaged_in_the_cache_is_fetched_again(
    damage: str, hub: Hub, repo: HubRepo, cache_folder: Path, tmp_path: Path
) -> None:
    pull(ID, repo.commit, tmp_path / "a")
    path = blob(cache_folder)
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        content[-1] ^= 1
        path.write_bytes(content if damage == "altered" else content[:-10])
    hub.requests.clear()
    pull(ID, repo.commit, tmp_path / "b")
    assert len(hub.requested("/lfs/")) == 1
    assert (tmp_path / "b" / WEIGHTS).read_bytes() == repo.files[WEIGHTS]


def test_a_file_whose_time_alone_changed_is_verified_and_kept(
    hub: Hub, repo: HubRepo, cache_folder: Path, tmp_path: Path
) -> None:
    pull(ID, repo.commit, tmp_path / "a")
    os.utime(blob(cache_folder), (1, 1))
    hub.requests.clear()
    pull(ID, repo.commit, tmp_path / "b")
    assert hub.requests == []
    assert ModelCache().has(next(file for file in ModelCache().records()[0][1].files if file.path == WEIGHTS))


def test_two_pulls_at_once_fetch_each_file_once(hub: Hub, repo: HubRepo, tmp_path: Path) -> None:
    programs = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "kaito.hub.pull",
                "--repo",
                ID,
                "--revision",
                repo.commit,
                "--out",
                str(tmp_path / name),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("a", "b", "c")
    ]
    ended = [program.communicate(timeout=120) for program in programs]
    assert [program.returncode for program in programs] == [0, 0, 0], ended
    assert len(hub.requested("/lfs/")) == 1
    for name in ("a", "b", "c"):
        assert (tmp_path / name / WEIGHTS).read_bytes() == repo.files[WEIGHTS]


def test_who_waits_for_another_ones_download_reports_its_progress(tmp_path: Path) -> None:
    cache, file = ModelCache(tmp_path / "cache"), RepoFile("w", 100, sha256="0" * 64)
    told: list[tuple[int, int]] = []
    heard = threading.Event()

    def hear(done: int, total: int) -> None:
        told.append((done, total))
        heard.set()

    def load(target: Path, _progress: object) -> None:
        target.with_name(target.name + ".part").write_bytes(b"x" * 40)
        waiter.start()
        assert heard.wait(30)
        target.write_bytes(b"x" * 100)

    waiter = threading.Thread(target=lambda: cache.fetch(file, lambda *_: None, hear))
    with cache.in_use():
        cache.fetch(file, load, lambda *_: None)
        waiter.join(30)
    assert told[0] == (40, 100)


def test_a_pull_that_was_cut_off_goes_on_in_another_run(hub: Hub, repo: HubRepo, tmp_path: Path) -> None:
    hub.faults.append(Fault("/lfs/", times=1, cut_after=100_000))
    hub.faults.append(Fault("/lfs/", times=1, status=404))
    with pytest.raises(ModelFailure):
        pull(ID, repo.commit, tmp_path / "a")
    hub.requests.clear()
    pull(ID, repo.commit, tmp_path / "b")
    assert [request.headers.get("range") for request in hub.requested("/lfs/")] == ["bytes=100000-"]


def test_a_disk_that_is_too_small_is_said_before_anything_is_fetched(hub: Hub, repo: HubRepo, tmp_path: Path) -> None:
    hub.files[f"/api/models/{ID}/tree/{repo.commit}"] = json.dumps(
        [
            {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
            for name, content in repo.files.items()
            if name != WEIGHTS
        ]
        + [
            {
                "type": "file",
                "path": WEIGHTS,
                "size": 1 << 60,
                "oid": "0" * 40,
                "lfs": {"oid": "0" * 64, "size": 1 << 60},
            }
        ]
    ).encode()
    with pytest.raises(NoSpaceFailure, match="are needed") as refusal:
        pull(ID, repo.commit, tmp_path / "model")
    assert "kaito gc" in refusal.value.hint
    assert not hub.requested("/lfs/")


def test_without_the_network_a_commit_in_the_cache_will_do_and_else_it_is_said_which(
    hub: Hub, repo: HubRepo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull(ID, "", tmp_path / "a")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.requests.clear()
    assert resolve(ID, repo.commit, tmp_path / "b").commit == repo.commit
    with pytest.raises(ModelFailure) as refusal:
        resolve(ID, "main", tmp_path / "c")
    assert refusal.value.reason == "ModelNotCached"
    assert f"revision: {repo.commit}" in refusal.value.hint
    with pytest.raises(ModelFailure, match="not in the cache"):
        resolve("acme/other", "", tmp_path / "d")
    assert hub.requests == []


def test_without_the_network_a_model_that_is_cached_is_not_packed_without_its_licence(
    repo: HubRepo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull(ID, "", tmp_path / "a")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelFailure, match="licence") as refusal:
        pack_model(Source(ID, repo.commit), Reference.parse("registry.example.com/a:1"))
    assert "not in the cache" not in refusal.value.message


def test_a_model_with_a_name_longer_than_a_file_name_is_kept_by_its_hash(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path)
    long = "oci://registry.example.com/" + "/".join(["abcdefgh"] * 26)
    models = [CachedModel(f"{long}:{tag}", "sha256:" + "1" * 64, False, 1, ()) for tag in ("a", "b")]
    for model in models:
        cache.save(model)
    assert [cache.find(model.repo, model.commit) for model in models] == models
    assert cache.commits(models[0].repo) == [models[0].commit]


def test_a_cache_on_another_file_system_is_linked_to_by_a_symbolic_link(repo: HubRepo, tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    import tempfile

    with tempfile.TemporaryDirectory(dir=other) as folder:
        pull_source(Source(ID, repo.commit), tmp_path / "model", Path(folder))
        assert (tmp_path / "model" / WEIGHTS).is_symlink()
        assert (tmp_path / "model" / WEIGHTS).read_bytes() == repo.files[WEIGHTS]
        assert (tmp_path / "model" / RECORD).exists()


def test_the_cache_lies_in_the_home_of_runs_unless_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_cache() == tmp_path / "cache"
    monkeypatch.delenv("KAITO_MODEL_CACHE")
    for home in (str(tmp_path / "home"), ""):
        monkeypatch.setenv("KAITO_HOME", home)
        assert default_cache() == kaito_home() / "cache" / "models"


def test_a_model_in_a_folder_needs_no_cache(model_folder: Path, cache_folder: Path, tmp_path: Path) -> None:
    pull(str(model_folder), resolve(str(model_folder), "", tmp_path / "a").commit, tmp_path / "a")
    assert not cache_folder.exists()
