from __future__ import annotations

import json
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


def test_a_hub_that_cannot_be_reached_is_answered_with_what_to_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kaito.transfer.retry.BACKOFF_SECONDS", 0.01)
    monkeypatch.setenv("HF_ENDPOINT", "http://no-such-hub.invalid")
    with pytest.raises(TemporaryFailure, match=r"no-such-hub\.invalid cannot be resolved") as failure:
        resolve(ID, "", tmp_path / "model")
    for said in ("network and the proxy", "HF_ENDPOINT names a mirror", "a folder or an oci:// image"):
        assert said in failure.value.hint


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


@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/1", "c0ffee0", "c0ffee" + "0" * 34])
def test_a_branch_a_tag_a_reference_and_a_short_commit_are_pinned_to_the_whole_commit(
    revision: str, repo: HubRepo, tmp_path: Path
) -> None:
    repo.refs = ("main", "v1.0", "refs/pr/1")
    facts = resolve(ID, revision, tmp_path / "model")
    assert facts.commit == repo.commit
    assert pull(ID, revision, tmp_path / "model")["commit"] == repo.commit


def test_a_renamed_repository_is_followed(hub: Hub, repo: HubRepo, tmp_path: Path) -> None:
    hub.renamed["old-name/small"] = ID
    repo.gated, repo.readers = True, ("good-token",)
    facts = resolve("old-name/small", "", tmp_path / "model", "good-token")
    assert pull("old-name/small", facts.commit, tmp_path / "model", "good-token")["commit"] == repo.commit
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == repo.files["model.safetensors"]


def test_an_id_without_an_owner_is_one_too(hub: Hub, repo: HubRepo, tmp_path: Path) -> None:
    hub.repos["gpt2"] = repo
    assert resolve("gpt2", "", tmp_path / "model").commit == repo.commit


def test_a_hub_that_asks_to_wait_is_waited_for(hub: Hub, repo: HubRepo, tmp_path: Path) -> None:
    hub.faults.append(Fault("/lfs/", times=2, status=429, headers={"Retry-After": "0"}))
    pull(ID, repo.commit, tmp_path / "model")
    assert len(hub.requested("/lfs/")) == 3


def test_copies_of_the_weights_in_other_formats_are_left_where_they_are(
    hub: Hub, repo: HubRepo, tmp_path: Path
) -> None:
    extra = safetensors({"copy": [8]})
    repo.files |= {
        "original/consolidated.00.pth": b"x",
        "original/model.safetensors": extra,
        "metal/model.bin": b"x",
        "onnx/model.onnx": b"x",
        "pytorch_model.bin": b"x",
        "consolidated.safetensors": extra,
        "model.gguf": b"x",
    }
    before = resolve(ID, "", tmp_path / "model")
    result = pull(ID, before.commit, tmp_path / "model")
    assert {path.name for path in (tmp_path / "model").rglob("*.safetensors")} == {"model.safetensors"}
    assert not [path for path in (tmp_path / "model").iterdir() if path.is_dir() or path.suffix in (".bin", ".gguf")]
    assert result["files_digest"] == before.files_digest


def test_the_shards_of_an_index_are_pulled_wherever_they_lie(hub: Hub, repo: HubRepo, tmp_path: Path) -> None:
    repo.files["weights/model-2.safetensors"] = safetensors({"b": [16]})
    repo.files["model-1.safetensors"] = repo.files.pop("model.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "weights/model-2.safetensors"}}
    repo.files["model.safetensors.index.json"] = json.dumps(index).encode()
    facts = resolve(ID, "", tmp_path / "model")
    assert facts.parameters == 300 * 400 + 64 + 16
    pull(ID, facts.commit, tmp_path / "model")
    assert (tmp_path / "model" / "weights" / "model-2.safetensors").read_bytes() == safetensors({"b": [16]})


@pytest.mark.parametrize(
    ("token", "reason", "said"),
    [
        ("stale", "TokenInvalid", "refuses the token"),
        ("narrow", "TokenDenied", "Please enable access to public gated repositories"),
        ("stranger", "ModelGated", "is gated"),
    ],
)
def test_a_token_that_is_refused_is_refused_in_words(
    token: str, reason: str, said: str, hub: Hub, repo: HubRepo, tmp_path: Path
) -> None:
    repo.gated, repo.readers = True, ("good-token",)
    hub.tokens, hub.narrow = ("good-token", "narrow", "stranger"), ("narrow",)
    with pytest.raises(ModelFailure, match=said) as refusal:
        resolve(ID, "", tmp_path / "model", token)
    assert refusal.value.reason == reason


def test_a_disabled_repository_is_called_so(repo: HubRepo, tmp_path: Path) -> None:
    repo.disabled = True
    with pytest.raises(ModelFailure) as refusal:
        resolve(ID, "", tmp_path / "model")
    assert refusal.value.reason == "ModelDisabled"


def test_a_listing_that_leads_out_of_the_folder_is_refused(hub: Hub, repo: HubRepo, tmp_path: Path) -> None:
    entry = {"type": "file", "path": "../../config.json", "size": 2, "oid": "0" * 40}
    hub.files[f"/api/models/{ID}/tree/{repo.commit}"] = json.dumps([entry]).encode()
    with pytest.raises(ModelFailure, match="does not answer as a hub"):
        resolve(ID, "", tmp_path / "model")


def test_the_files_of_a_model_have_one_digest_wherever_it_lies(
    repo: HubRepo, model_folder: Path, tmp_path: Path
) -> None:
    from_hub = resolve(ID, "", tmp_path / "a")
    from_folder = resolve(str(model_folder), "", tmp_path / "b")
    assert from_hub.files_digest == from_folder.files_digest
