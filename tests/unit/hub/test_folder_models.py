from __future__ import annotations

import json
from pathlib import Path

import pytest

from kaito.failure import ModelFailure
from kaito.hub.pull import pull
from kaito.hub.resolve import resolve
from tests.unit.hub.conftest import safetensors

NEEDED = {
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
}


def test_a_folder_is_resolved_to_its_shapes_and_small_files(model_folder: Path, tmp_path: Path) -> None:
    facts = resolve(str(model_folder), "", tmp_path / "model")
    assert facts.commit.startswith("sha256:") and facts.files_digest == facts.commit
    assert facts.parameters == 300 * 400 + 64
    assert facts.bytes == (model_folder / "model.safetensors").stat().st_size
    assert (facts.layers, facts.hidden, facts.intermediate, facts.vocab, facts.context) == (2, 64, 128, 600, 1024)
    assert facts.kv_bytes_per_token == 2 * 2 * 16 * 2 * 2
    assert (facts.architecture, facts.gated) == ("LlamaForCausalLM", False)
    assert {path.name for path in (tmp_path / "model").iterdir()} == NEEDED


def test_the_weights_of_a_folder_are_linked_and_their_digest_is_that_of_resolve(
    model_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    facts = resolve(str(model_folder), "", out)
    for _ in range(2):
        result = pull(str(model_folder), facts.commit, out)
        assert result["commit"] == facts.commit and result["files_digest"] == facts.files_digest
        assert {path.name for path in out.iterdir()} == NEEDED | {"model.safetensors", ".pulled.json"}
        assert (out / "model.safetensors").is_symlink()
        assert (out / "model.safetensors").read_bytes() == (model_folder / "model.safetensors").read_bytes()


def test_a_folder_that_changed_after_resolve_is_refused(model_folder: Path, tmp_path: Path) -> None:
    facts = resolve(str(model_folder), "", tmp_path / "model")
    (model_folder / "model.safetensors").write_bytes(safetensors({"a": [300, 401]}))
    with pytest.raises(ModelFailure) as refusal:
        pull(str(model_folder), facts.commit, tmp_path / "model")
    assert refusal.value.reason == "ModelChanged"


def test_a_file_that_is_not_needed_does_not_change_the_commit(model_folder: Path, tmp_path: Path) -> None:
    before = resolve(str(model_folder), "", tmp_path / "a").commit
    (model_folder / "README.md").write_text("changed")
    assert resolve(str(model_folder), "", tmp_path / "b").commit == before
    (model_folder / "tokenizer_config.json").write_text("{}")
    assert resolve(str(model_folder), "", tmp_path / "c").commit != before


def test_the_demo_model_is_built_in(tmp_path: Path) -> None:
    facts = resolve("builtin:demo", "", tmp_path / "model")
    pull("builtin:demo", facts.commit, tmp_path / "model")
    assert facts.parameters > 1_000_000
    assert facts.bytes == (tmp_path / "model" / "model.safetensors").stat().st_size


def test_shards_of_an_index_are_all_needed(model_folder: Path, tmp_path: Path) -> None:
    (model_folder / "model.safetensors").unlink()
    for part in ("1", "2"):
        (model_folder / f"model-{part}.safetensors").write_bytes(safetensors({part: [8, 8]}))
    index = {"metadata": {}, "weight_map": {"1": "model-1.safetensors", "2": "model-2.safetensors"}}
    (model_folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert resolve(str(model_folder), "", tmp_path / "model").parameters == 128
    (model_folder / "model-2.safetensors").unlink()
    with pytest.raises(ModelFailure, match=r"model-2\.safetensors, which is missing"):
        resolve(str(model_folder), "", tmp_path / "model")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "LFS pointer"),
        ("model.safetensors", safetensors({"a": [64, 64]})[:-1], "is cut"),
        ("model.safetensors", b"\x05\x00", "is cut"),
        ("model.safetensors", b"\x08\x00\x00\x00\x00\x00\x00\x00not json", "is cut"),
        ("config.json", b"{", "not JSON"),
        ("config.json", b"[]", "not an object"),
        ("model.safetensors.index.json", b"{}", "weight_map"),
        ("model.safetensors.index.json", b"{", "not JSON"),
    ],
)
def test_a_damaged_model_is_called_so(name: str, content: bytes, said: str, model_folder: Path, tmp_path: Path) -> None:
    (model_folder / name).write_bytes(content)
    with pytest.raises(ModelFailure, match=said):
        resolve(str(model_folder), "", tmp_path / "model")


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"config.json": "{}", "pytorch_model.bin": "x"}, "WeightsNotSafetensors"),
        ({"config.json": "{}"}, "NotAModel"),
        ({"adapter_config.json": "{}", "adapter_model.safetensors": "x"}, "NotAModel"),
        ({"consolidated.safetensors": "x", "params.json": "{}"}, "NotAModel"),
        ({"model.Q4.gguf": "x"}, "NotAModel"),
        ({}, "NotAModel"),
    ],
)
def test_what_is_no_model_to_tune_is_refused_with_the_reason(
    files: dict[str, str], reason: str, tmp_path: Path
) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(content)
    with pytest.raises(ModelFailure) as refusal:
        resolve(str(folder), "", tmp_path / "model")
    assert refusal.value.reason == reason and refusal.value.hint


@pytest.mark.parametrize("repo", ["/no/such/folder", "./none", "builtin:nothing", "builtin:../demo"])
def test_a_model_that_is_not_there_is_not_found(repo: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFailure) as refusal:
        resolve(repo, "", tmp_path / "model")
    assert refusal.value.reason == "ModelNotFound"
