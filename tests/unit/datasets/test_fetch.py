from __future__ import annotations

import hashlib
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from kaito.api.sections import DatasetConfig
from kaito.datasets import files_digest, sources
from kaito.datasets.fetch import fetch
from kaito.datasets.settings import scan_data
from kaito.datasets.sources import Access, Source
from kaito.failure import ConfigFailure, DataFailure, RegistryFailure, TemporaryFailure
from tests.memory import PEAK_BYTES
from tests.servers.files import FileServer, run_file_server
from tests.servers.hub import Answer, Fault, Hub, run_hub
from tests.servers.proxy import Fault as Stall
from tests.servers.proxy import run_proxy
from tests.servers.registry import RegistryServer, run_registry

LINE = b'{"prompt": "p", "completion": "c"}\n'
LOCAL = Access(allow_hosts=("127.0.0.1",))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("kaito.transfer.retry.BACKOFF_SECONDS", 0.01)
    with run_hub() as running:
        yield running


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_files_of_addresses_are_kept_apart_and_in_order(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"/b/train.jsonl": LINE, "/a/train.jsonl": LINE * 2, "/what%20is%20this/..": b"", "/q": LINE * 3}
    urls = (f"{hub.url}/b/train.jsonl?download=true&sig=abc", f"{hub.url}/a/train.jsonl", f"{hub.url}/q/?x=1")
    hub.files["/q/"] = LINE * 3
    result = fetch(Source(urls=urls), tmp_path / "data", LOCAL)
    assert names(tmp_path / "data") == [".fetched.json", "000-train.jsonl", "001-train.jsonl", "002-q"]
    assert (tmp_path / "data" / "001-train.jsonl").read_bytes() == LINE * 2
    assert result == {"files": 3, "bytes": len(LINE) * 6, "digest": files_digest(tmp_path / "data")}
    assert "sig=abc" not in (tmp_path / "data" / ".fetched.json").read_text()


def test_a_file_is_called_what_its_server_calls_it(hub: Hub, tmp_path: Path) -> None:
    """An address need not show the name, and only the name says that a file is CSV."""
    named = {"Content-Disposition": "inline; filename*=UTF-8''my%20rows.csv"}
    hub.files = {"/api/7": Answer(200, b"prompt,completion\na,b\n", named), "/b.jsonl": LINE}
    urls = (f"{hub.url}/api/7?download=true", f"{hub.url}/b.jsonl?download=true")
    fetch(Source(urls=urls), tmp_path / "data", LOCAL)
    assert names(tmp_path / "data") == [".fetched.json", "000-my-rows.csv", "001-b.jsonl"]
    hub.requests.clear()
    fetch(Source(urls=urls), tmp_path / "data", LOCAL)
    assert hub.requests == []


def test_a_second_start_fetches_nothing_again_unless_a_file_is_no_longer_what_it_was(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"/a.jsonl": LINE, "/b.jsonl": LINE}
    source = Source(urls=(f"{hub.url}/a.jsonl", f"{hub.url}/b.jsonl"))
    first = fetch(source, tmp_path / "data", LOCAL)
    hub.requests.clear()
    assert fetch(source, tmp_path / "data", LOCAL) == first
    assert hub.requests == []
    (tmp_path / "data" / "001-b.jsonl").write_bytes(b"x" * len(LINE))
    assert fetch(source, tmp_path / "data", LOCAL) == first
    assert [request.path for request in hub.requests] == ["/b.jsonl"]


def test_a_cut_connection_goes_on_where_it_broke(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"/a.jsonl": LINE * 10_000}
    hub.faults.append(Fault("/a.jsonl", times=2, cut_after=50_000))
    fetch(Source(urls=(f"{hub.url}/a.jsonl",)), tmp_path / "data", LOCAL)
    assert (tmp_path / "data" / "000-a.jsonl").read_bytes() == LINE * 10_000
    assert [r.headers.get("range", "") for r in hub.requests] == ["", "bytes=50000-", "bytes=100000-"]


def program(out: Path, *urls: str) -> list[str]:
    argv = [sys.executable, "-m", "kaito.datasets.fetch", "--out", str(out), "--allow-host", "127.*"]
    return argv + [word for url in urls for word in ("--url", url)]


def test_a_fetch_that_is_killed_at_any_byte_fetches_every_byte_once(tmp_path: Path) -> None:
    body = LINE * 20_000
    cuts = sorted(random.Random(5).sample(range(len(body)), 8))
    out = tmp_path / "data"
    with (
        run_file_server(FileServer(files={"/a.jsonl": LINE, "/b.jsonl": body})) as server,
        run_proxy(server.host) as proxy,
    ):
        argv = program(out, f"{proxy.url}/a.jsonl", f"{proxy.url}/b.jsonl")
        for before, cut in pairwise([0, *cuts]):
            proxy.add(Stall(path="/b.jsonl", hold_response=cut - before))
            child = subprocess.Popen(argv, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            until(lambda: size_of(out / "001.part") == cut)  # noqa: B023  called in this turn alone
            child.kill()
            child.wait()
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        assert [path for path, _ in server.requests].count("/a.jsonl") == 1
        starts = [headers.get("range", "bytes=0-") for path, headers in server.requests if path == "/b.jsonl"]
    assert starts == [f"bytes={cut}-" for cut in [0, *cuts]]
    assert (out / "001-b.jsonl").read_bytes() == body
    assert json.loads(done.stdout)["digest"] == files_digest(out)
    assert f"sha256:{hashlib.sha256(body).hexdigest()}" in done.stderr


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up, "the condition did not come to hold in time"
        time.sleep(0.005)


MEASURED = f"""
import sys
from kaito.datasets.fetch import main
main(sys.argv[1:])
print({PEAK_BYTES})
"""


def test_a_large_file_does_not_need_its_size_in_memory(tmp_path: Path) -> None:
    block = LINE * 30_000
    with run_file_server(FileServer(files={"/a.jsonl": block}, repeats={"/a.jsonl": 300})) as server:
        argv = [sys.executable, "-c", MEASURED, *program(tmp_path / "data", f"{server.url}/a.jsonl")[3:]]
        measured = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert size_of(tmp_path / "data" / "000-a.jsonl") == len(block) * 300 > 300e6
    assert int(measured.stdout) < 150e6


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(401), "DataDenied"),
        (Answer(403, b"<Error>"), "DataDenied"),
        (Answer(404), "DataNotFound"),
        (Answer(400), "DataUnavailable"),
        (Answer(200, b"<!doctype html><title>Sign in</title>"), "DataInvalid"),
        (Answer(200, b""), "DataInvalid"),
        (Answer(302, b"", {"Location": "http://169.254.169.254/metadata"}), "HostRefused"),
        (Answer(302, b"", {"Location": "file:///etc/passwd"}), "DataUnavailable"),
    ],
)
def test_an_address_that_gives_no_data_fails_with_its_reason(
    answer: Answer, reason: str, hub: Hub, tmp_path: Path
) -> None:
    hub.files = {"/train.jsonl": answer}
    with pytest.raises((DataFailure, ConfigFailure)) as failure:
        fetch(Source(urls=(f"{hub.url}/train.jsonl?sig=secret",)), tmp_path / "data", LOCAL)
    assert failure.value.reason == reason
    assert failure.value.hint
    assert "secret" not in failure.value.message


def test_what_was_no_data_is_asked_for_again_at_the_next_start(hub: Hub, tmp_path: Path) -> None:
    source = Source(urls=(f"{hub.url}/train.jsonl",))
    hub.files = {"/train.jsonl": b"<html>Sign in</html>"}
    with pytest.raises(DataFailure, match="HTML"):
        fetch(source, tmp_path / "data", LOCAL)
    hub.files = {"/train.jsonl": LINE}
    assert fetch(source, tmp_path / "data", LOCAL)["files"] == 1


def test_a_server_that_stays_down_is_a_temporary_failure(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"/a.jsonl": LINE}
    hub.faults.append(Fault("/a.jsonl", times=100, status=503))
    with pytest.raises(TemporaryFailure):
        fetch(Source(urls=(f"{hub.url}/a.jsonl",)), tmp_path / "data", LOCAL)


def test_a_private_host_is_refused_with_the_remedy(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ConfigFailure) as refusal:
        fetch(Source(urls=(f"{hub.url}/a.jsonl",)), tmp_path / "data", Access())
    assert refusal.value.reason == "HostRefused"
    assert "--allow-host" in refusal.value.hint
    assert hub.requests == []


def test_the_hubs_token_is_sent_to_the_hub_alone(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.files = {"/a.jsonl": LINE}
    access = Access(allow_hosts=("127.0.0.1",), token="hf_x")
    fetch(Source(urls=(f"{hub.url}/a.jsonl",)), tmp_path / "other", access)
    assert "authorization" not in hub.requests[-1].headers
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    fetch(Source(urls=(f"{hub.url}/a.jsonl",)), tmp_path / "hub", access)
    assert hub.requests[-1].headers["authorization"] == "Bearer hf_x"


def test_data_that_changed_since_the_check_are_refused(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"/a.jsonl": LINE}
    source = Source(urls=(f"{hub.url}/a.jsonl",))
    checked = fetch(source, tmp_path / "check", LOCAL)["digest"]
    assert fetch(source, tmp_path / "same", LOCAL, expect_digest=checked)["digest"] == checked
    hub.files = {"/a.jsonl": LINE * 2}
    with pytest.raises(DataFailure) as refusal:
        fetch(source, tmp_path / "tune", LOCAL, expect_digest=checked)
    assert refusal.value.reason == "DataChanged"


# --- folders --------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "mine"
    (source / "sub").mkdir(parents=True)
    (source / "a.jsonl").write_bytes(LINE)
    (source / "sub" / "b.jsonl").write_bytes(LINE * 2)
    (source / "README.md").write_text("mine")
    (source / "c.jsonl").symlink_to(source / "a.jsonl")
    return source


def test_the_data_files_of_a_folder_are_copied_and_the_folder_is_left_alone(folder: Path, tmp_path: Path) -> None:
    before = {name: (folder / name).read_bytes() for name in names(folder)}
    result = fetch(Source(folder=str(folder)), tmp_path / "data", Access())
    assert names(tmp_path / "data") == [".fetched.json", "a.jsonl", "c.jsonl", "sub/b.jsonl"]
    assert result["digest"] == files_digest(folder)
    (tmp_path / "data" / "a.jsonl").write_bytes(b"changed")
    assert {name: (folder / name).read_bytes() for name in names(folder)} == before


def test_a_file_that_left_the_folder_leaves_the_data(folder: Path, tmp_path: Path) -> None:
    fetch(Source(folder=str(folder)), tmp_path / "data", Access())
    (folder / "sub" / "b.jsonl").unlink()
    (folder / "c.jsonl").unlink()
    assert fetch(Source(folder=str(folder)), tmp_path / "data", Access())["files"] == 1
    assert names(tmp_path / "data") == [".fetched.json", "a.jsonl"]


def test_a_file_that_changed_in_the_folder_is_copied_again(folder: Path, tmp_path: Path) -> None:
    first = fetch(Source(folder=str(folder)), tmp_path / "data", Access())
    (folder / "a.jsonl").write_bytes(LINE.replace(b'"p"', b'"P"'))
    with pytest.raises(DataFailure) as refusal:
        fetch(Source(folder=str(folder)), tmp_path / "data", Access(), expect_digest=first["digest"])
    assert refusal.value.reason == "DataChanged"


def test_large_files_are_linked_not_copied(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "LINKED_BYTES", len(LINE) * 2)
    fetch(Source(folder=str(folder)), tmp_path / "data", Access())
    assert (tmp_path / "data" / "sub" / "b.jsonl").samefile(folder / "sub" / "b.jsonl")
    assert not (tmp_path / "data" / "a.jsonl").samefile(folder / "a.jsonl")


def test_one_file_may_be_named(folder: Path, tmp_path: Path) -> None:
    fetch(Source(folder=str(folder / "a.jsonl")), tmp_path / "data", Access())
    assert names(tmp_path / "data") == [".fetched.json", "a.jsonl"]


def test_another_source_replaces_what_an_earlier_fetch_brought(folder: Path, hub: Hub, tmp_path: Path) -> None:
    fetch(Source(folder=str(folder)), tmp_path / "data", Access())
    hub.files = {"/x.jsonl": LINE}
    fetch(Source(urls=(f"{hub.url}/x.jsonl",)), tmp_path / "data", LOCAL)
    assert names(tmp_path / "data") == [".fetched.json", "000-x.jsonl"]


def test_a_folder_with_files_of_the_user_is_never_filled(folder: Path, tmp_path: Path) -> None:
    before = names(folder)
    with pytest.raises(ConfigFailure, match="not empty"):
        fetch(Source(folder=str(folder / "sub")), folder, Access())
    assert names(folder) == before


def test_a_first_start_that_was_cut_off_is_gone_on_with(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / ".fetched.json.part").write_text('{"sour')
    fetch(Source(folder=str(folder)), tmp_path / "data", Access())
    assert names(tmp_path / "data") == [".fetched.json", "a.jsonl", "c.jsonl", "sub/b.jsonl"]


@pytest.mark.parametrize(
    ("content", "said"), [({}, "no data file"), ({"x.xlsx": b"a,b"}, "Excel"), ({"x.jsonl": b""}, "empty")]
)
def test_a_folder_without_usable_data_is_refused(content: dict[str, bytes], said: str, tmp_path: Path) -> None:
    source = tmp_path / "mine"
    source.mkdir()
    for name, data in content.items():
        (source / name).write_bytes(data)
    with pytest.raises(DataFailure, match=said):
        fetch(Source(folder=str(source)), tmp_path / "data", Access())


def test_a_folder_that_is_missing_or_empty_is_named_with_its_field(tmp_path: Path) -> None:
    source = tmp_path / "mine"
    with pytest.raises(DataFailure, match=f"{source} does not exist") as missing:
        fetch(Source(folder=str(source)), tmp_path / "data", Access())
    assert "tuning.input.volumeSource.hostPath.path" in missing.value.hint
    source.mkdir()
    with pytest.raises(DataFailure, match=f"no data file in {source}: it is empty"):
        fetch(Source(folder=str(source)), tmp_path / "data", Access())


def test_the_program_says_a_size_and_a_digest_for_each_file(folder: Path, tmp_path: Path) -> None:
    argv = ["--folder", str(folder), "--out", str(tmp_path / "data")]
    done = subprocess.run(
        [sys.executable, "-m", "kaito.datasets.fetch", *argv],
        env={name: value for name, value in os.environ.items() if not name.startswith("KAITO_")},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stderr.splitlines()
    assert lines[0].startswith(f"a.jsonl  jsonl  {len(LINE)} bytes  sha256:")
    assert json.loads(done.stdout)["files"] == 3


def test_what_is_there_already_needs_no_room_a_second_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed: list[int] = []
    monkeypatch.setattr(sources, "require_free_space", lambda _folder, count: needed.append(count))
    fetch(Source(folder=str(folder)), tmp_path / "data", Access())
    (tmp_path / "data" / "sub" / "b.jsonl").unlink()
    fetch(Source(folder=str(folder)), tmp_path / "data", Access())
    assert needed == [len(LINE) * 4, len(LINE) * 2]


# --- images ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[RegistryServer]:
    (tmp_path / "registry").mkdir()
    with run_registry(tmp_path / "registry") as server:
        yield server


def push_image(registry: RegistryServer, *layers: dict[str, bytes]) -> str:
    """An image `data:1` whose layers hold these files, by plain requests."""
    base = f"{registry.url}/v2/data"
    blobs = []
    packed = [(_pack(files), "image.layer.v1.tar+gzip") for files in layers]
    for content, kind in ((b"{}", "image.config.v1+json"), *packed):
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        location = httpx.post(f"{base}/blobs/uploads/").headers["location"]
        httpx.put(f"{location}&digest={digest}", content=content).raise_for_status()
        blobs.append({"mediaType": f"application/vnd.oci.{kind}", "digest": digest, "size": len(content)})
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = {"schemaVersion": 2, "mediaType": kind, "config": blobs[0], "layers": blobs[1:]}
    httpx.put(f"{base}/manifests/1", json=manifest, headers={"Content-Type": kind}).raise_for_status()
    return f"{registry.host}/data:1"


def _pack(files: dict[str, bytes]) -> bytes:
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return layer.getvalue()


def test_the_data_of_an_image_are_unpacked(registry: RegistryServer, tmp_path: Path) -> None:
    image = push_image(
        registry, {"data/a.jsonl": LINE, "data/sub/b.jsonl": LINE, "data/README.md": b"x", "etc/x": b"y"}
    )
    first = fetch(Source(image=image), tmp_path / "data", Access())
    assert names(tmp_path / "data") == [".fetched.json", "a.jsonl", "sub/b.jsonl"]
    assert fetch(Source(image=image), tmp_path / "data", Access()) == first
    (tmp_path / "data" / "a.jsonl").unlink()
    push_image(registry, {"data/c.jsonl": LINE})
    assert fetch(Source(image=image), tmp_path / "data", Access())["files"] == 1
    assert names(tmp_path / "data") == [".fetched.json", "c.jsonl"]


def test_an_image_that_is_not_there_is_the_registrys_failure(registry: RegistryServer, tmp_path: Path) -> None:
    with pytest.raises(RegistryFailure):
        fetch(Source(image=f"{registry.host}/none:1"), tmp_path / "data", Access())


@pytest.mark.parametrize("crash", ["announced", "one of two in place", "all in place"])
def test_an_image_that_was_unpacked_is_not_pulled_again_after_a_crash(
    registry: RegistryServer, tmp_path: Path, crash: str
) -> None:
    image = push_image(registry, {"data/a.jsonl": LINE, "data/b.jsonl": LINE * 2})
    out = tmp_path / "data"
    first = fetch(Source(image=image), out, Access())
    # As the crash leaves it: whole and unpacked aside, some of it in its place.
    (out / ".image").mkdir()
    for name in {"announced": ["a.jsonl", "b.jsonl"], "one of two in place": ["b.jsonl"], "all in place": []}[crash]:
        (out / name).rename(out / ".image" / name)
    registry.stop()
    assert fetch(Source(image=image), out, Access()) == first
    assert names(out) == [".fetched.json", "a.jsonl", "b.jsonl"]
    registry.start()


def test_a_later_layer_hides_what_an_earlier_one_had(registry: RegistryServer, tmp_path: Path) -> None:
    image = push_image(
        registry, {"data/a.jsonl": LINE, "data/b.jsonl": LINE}, {"data/.wh.a.jsonl": b"", "data/c.jsonl": LINE}
    )
    fetch(Source(image=image), tmp_path / "data", Access())
    assert names(tmp_path / "data") == [".fetched.json", "b.jsonl", "c.jsonl"]


def test_a_file_that_is_refused_is_brought_for_the_check_to_judge(folder: Path, tmp_path: Path) -> None:
    (folder / "media").mkdir()
    (folder / "media" / "pics.zip").write_bytes(b"PK\x03\x04pictures")
    first = fetch(Source(folder=str(folder)), tmp_path / "data", Access())
    assert names(tmp_path / "data") == [".fetched.json", "a.jsonl", "c.jsonl", "media/pics.zip", "sub/b.jsonl"]
    assert (first["files"], first["digest"]) == (4, files_digest(folder))
    (folder / "media" / "pics.zip").write_bytes(b"PK\x03\x04others")
    assert fetch(Source(folder=str(folder)), tmp_path / "data", Access())["digest"] != first["digest"]
    with pytest.raises(DataFailure, match="zip archive"):
        scan_data(tmp_path / "data", DatasetConfig())
    assert [file.name for file in scan_data(tmp_path / "data", DatasetConfig(dataset_path="sub")).files] == [
        "sub/b.jsonl"
    ]
