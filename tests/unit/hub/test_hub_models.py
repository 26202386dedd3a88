from __future__ import annotations

from pathlib import Path

import pytest

from kaito.failure import ConfigFailure, ModelFailure, TemporaryFailure
from kaito.hub.pull import RECORD, pull
from kaito.hub.resolve import resolve
from tests.servers.hub import Fault, Hub, HubRepo
from tests.unit.hub.conftest import read_all, safetensors

ID = "acme/small-model"


@pytest.fixture
def repo(hub: Hub, model_folder: Path) -> HubRepo:
    hub.repos[ID] = HubRepo(read_all(model_folder))
    return hub.repos[ID]


def test_an_id_is_pinned_to_its_commit_and_its_facts_are_those_of_the_folder(
    hub: Hub, repo: HubRepo, model_folder: Path, tmp_path: Path
) -> None:
    facts = resolve(ID, "", tmp_path / "model")
    local = resolve(str(model_folder), "", tmp_path / "local")
    assert facts.commit == repo.commit
    for name in ("parameters", "bytes", "layers", "hidden", "kv_bytes_per_token", "vocab", "context", "intermediate"):
        assert getattr(facts, name) == getattr(local, name)
    assert not (tmp_path / "model" / "model.safetensors").exists()
    assert (tmp_path / "model" / "tokenizer.json").read_bytes() == repo.files["tokenizer.json"]


def test_the_number_of_parameters_that_the_hub_tells_is_taken(hub: Hub, repo: HubRepo, tmp_path: Path) -> None:
    repo.tells_parameters = True
    assert resolve(ID, "main", tmp_path / "model").parameters == 4242
    assert not hub.requested("/lfs/")


def test_resolve_asks_for_the_header_of_the_weights_alone(hub: Hub, repo: HubRepo, tmp_path: Path) -> None:
    resolve(ID, "", tmp_path / "model")
    asked = [request.headers["range"] for request in hub.requested("/lfs/")]
    assert len(asked) == 2 and asked[0] == "bytes=0-7"


def test_pull_brings_every_file_verified(hub: Hub, repo: HubRepo, tmp_path: Path) -> None:
    facts = resolve(ID, "", tmp_path / "model")
    result = pull(ID, facts.commit, tmp_path / "model")
    assert result == {
        "commit": repo.commit,
        "bytes": sum(path.stat().st_size for path in (tmp_path / "model").iterdir() if path.name != RECORD),
        "files_digest": facts.files_digest,
    }
    for path in (path for path in (tmp_path / "model").iterdir() if path.name != RECORD):
        assert path.read_bytes() == repo.files[path.name]


def test_a_finished_file_is_not_fetched_again_and_a_changed_one_is(hub: Hub, repo: HubRepo, tmp_path: Path) -> None:
    pull(ID, repo.commit, tmp_path / "model")
    hub.requests.clear()
    (tmp_path / "model" / "config.json").write_bytes(b"x" * len(repo.files["config.json"]))
    pull(ID, repo.commit, tmp_path / "model")
    assert not hub.requested("/lfs/")
    assert (tmp_path / "model" / "config.json").read_bytes() == repo.files["config.json"]


def test_a_download_that_is_cut_goes_on_where_it_stopped(hub: Hub, repo: HubRepo, tmp_path: Path) -> None:
    hub.faults.append(Fault("/lfs/", times=2, cut_after=100_000))
    pull(ID, repo.commit, tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == repo.files["model.safetensors"]
    assert [request.headers.get("range", "") for request in hub.requested("/lfs/")] == [
        "",
        "bytes=100000-",
        "bytes=200000-",
    ]


def test_a_hub_that_is_busy_is_asked_again(hub: Hub, repo: HubRepo, tmp_path: Path) -> None:
    hub.faults.append(Fault("/api/models/", times=2, status=503))
    assert resolve(ID, "", tmp_path / "model").commit == repo.commit


def test_a_hub_that_stays_down_is_a_temporary_failure(
    hub: Hub, repo: HubRepo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kaito.transfer.retry.BACKOFF_SECONDS", 0.01)
    hub.faults.append(Fault("/api/models/", times=50, status=503))
    with pytest.raises(TemporaryFailure):
        resolve(ID, "", tmp_path / "model")


def test_weights_that_arrive_wrong_are_not_kept(hub: Hub, repo: HubRepo, tmp_path: Path) -> None:
    weights = repo.files["model.safetensors"]
    broken = bytearray(weights)
    broken[-1] ^= 1
    hub.files[f"/{ID}/resolve/{repo.commit}/model.safetensors"] = bytes(broken)
    with pytest.raises(TemporaryFailure):
        pull(ID, repo.commit, tmp_path / "model")
    assert not (tmp_path / "model" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("gated", "private", "token", "reason", "said"),
    [
        (True, False, "", "ModelGated", "accept its terms"),
        (True, False, "someone", "ModelGated", "no access yet"),
        (False, True, "", "ModelNotFound", "if the model is private, give a token"),
        (False, True, "someone", "ModelNotFound", "the token needs access"),
    ],
)
def test_gated_and_private_models_are_told_apart(
    gated: bool, private: bool, token: str, reason: str, said: str, repo: HubRepo, tmp_path: Path
) -> None:
    repo.gated, repo.private, repo.readers = gated, private, ("good-token",)
    with pytest.raises(ModelFailure) as refusal:
        resolve(ID, "", tmp_path / "model", token)
    assert refusal.value.reason == reason
    assert said in refusal.value.hint
    facts = resolve(ID, "", tmp_path / "model", "good-token")
    assert facts.gated is gated


def test_a_missing_model_or_revision_is_not_found(repo: HubRepo, tmp_path: Path) -> None:
    with pytest.raises(ModelFailure, match="acme/none") as missing:
        resolve("acme/none", "", tmp_path / "model")
    assert missing.value.reason == "ModelNotFound"
    with pytest.raises(ModelFailure, match="no revision v9"):
        resolve(ID, "v9", tmp_path / "model")
    with pytest.raises(ModelFailure, match="is no model id"):
        resolve("acme/../../etc", "", tmp_path / "model")


def test_the_token_goes_to_the_hub_and_not_to_its_storage(hub: Hub, repo: HubRepo, tmp_path: Path) -> None:
    repo.gated, repo.readers = True, ("good-token",)
    pull(ID, repo.commit, tmp_path / "model", "good-token")
    assert all("authorization" not in request.headers for request in hub.requested("/lfs/"))
    assert all(request.headers["authorization"] == "Bearer good-token" for request in hub.requested("/api/"))


def test_storage_on_a_private_host_is_refused_unless_it_is_allowed(
    repo: HubRepo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAITO_ALLOW_HOSTS", "")
    with pytest.raises(ConfigFailure) as refusal:
        pull(ID, repo.commit, tmp_path / "model")
    assert refusal.value.reason == "HostRefused"


def test_pickles_alone_are_refused(repo: HubRepo, tmp_path: Path) -> None:
    repo.files["pytorch_model.bin"] = repo.files.pop("model.safetensors")
    with pytest.raises(ModelFailure) as refusal:
        resolve(ID, "", tmp_path / "model")
    assert refusal.value.reason == "WeightsNotSafetensors"


def test_a_model_of_many_files_is_listed_over_all_pages(hub: Hub, repo: HubRepo, tmp_path: Path) -> None:
    repo.files |= {f"a/{index}.txt": b"x" for index in range(20)}
    repo.files["model-2.safetensors"] = safetensors({"extra": [4]})  # not loaded: model.safetensors is whole
    resolve(ID, "", tmp_path / "model")
    assert len(hub.requested(f"/api/models/{ID}/tree/")) > 5


def test_a_server_that_is_no_hub_is_called_so(hub: Hub, tmp_path: Path) -> None:
    hub.files[f"/api/models/{ID}/revision/main"] = b"<html>Sign in</html>"
    with pytest.raises(ModelFailure, match="does not answer as a hub"):
        resolve(ID, "", tmp_path / "model")
