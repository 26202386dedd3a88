"""Downloads: resumed after any cut, verified, whole or not there."""

from __future__ import annotations

import gzip
import hashlib
import random
from pathlib import Path

import httpx
import pytest

from kaito.transfer import DigestMismatch, NoSpace, TransferError, download, require_free_space
from kaito.transfer.space import full_disk_named
from tests.servers.files import FileServer
from tests.servers.proxy import Fault, FaultProxy

DATA = random.Random(7).randbytes(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


def test_a_download_arrives_whole_with_digest_and_name(files: FileServer, client: httpx.Client, tmp_path: Path) -> None:
    files.files["/sets/train%20set.jsonl"] = DATA
    told: list[tuple[int, int]] = []
    done = download(
        client,
        f"{files.url}/sets/train%20set.jsonl?sig=x#y",
        tmp_path / "new" / "x",
        size=len(DATA),
        sha256=SHA256,
        progress=lambda *at: told.append(at),
    )
    assert (done.path.read_bytes(), done.bytes, done.sha256, done.name) == (DATA, len(DATA), SHA256, "train set.jsonl")
    assert told[-1] == (len(DATA), len(DATA))
    assert list((tmp_path / "new").iterdir()) == [done.path]


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ('attachment; filename="a b.parquet"', "a b.parquet"),
        ("attachment; filename*=UTF-8''r%C3%A9sum%C3%A9.csv", "résumé.csv"),
        ('attachment; filename="../../etc/passwd"', "passwd"),
        ("attachment", "x"),
    ],
)
def test_the_servers_name_for_a_file_is_one_segment(
    files: FileServer, client: httpx.Client, tmp_path: Path, header: str, name: str
) -> None:
    files.files["/x"] = b"y"
    files.headers["/x"] = {"Content-Disposition": header}
    assert download(client, f"{files.url}/x", tmp_path / "x").name == name


@pytest.mark.parametrize("cut", [0, 1, 65_536, 123_457, len(DATA) - 1])
def test_a_cut_download_goes_on_where_it_was(
    files: FileServer, proxy: FaultProxy, client: httpx.Client, tmp_path: Path, pauses: list[float], cut: int
) -> None:
    files.files["/x"] = DATA
    proxy.add(Fault(cut_response=cut))
    done = download(client, f"{proxy.url}/x", tmp_path / "x", sleep=pauses.append)
    assert done.path.read_bytes() == DATA
    assert files.requests[1][1].get("range") == (f"bytes={cut}-" if cut else None)


def test_a_download_that_is_cut_off_forty_times_fetches_every_byte_once(
    files: FileServer, proxy: FaultProxy, client: httpx.Client, tmp_path: Path, pauses: list[float]
) -> None:
    files.files["/x"] = DATA
    moments = random.Random(3)
    cuts = [moments.randrange(len(DATA) // 40) for _ in range(40)]
    for cut in cuts:
        proxy.add(Fault(cut_response=cut))
    done = download(client, f"{proxy.url}/x", tmp_path / "x", attempts=41, sleep=pauses.append)
    assert done.sha256 == SHA256
    starts = [int(headers.get("range", "bytes=0-")[6:-1]) for _, headers in files.requests]
    assert starts == [sum(cuts[:count]) for count in range(41)]


def test_a_server_without_range_that_always_breaks_off_is_given_up(
    files: FileServer, proxy: FaultProxy, client: httpx.Client, tmp_path: Path, pauses: list[float]
) -> None:
    files.files["/x"], files.repeats["/x"], files.ranges = DATA, 10, False
    proxy.add(Fault(cut_response=2_000_000, times=100))
    with pytest.raises(TransferError) as caught:
        download(client, f"{proxy.url}/x", tmp_path / "x", sleep=pauses.append)
    assert caught.value.retryable
    assert proxy.count("GET") <= 6


def test_a_server_without_range_is_asked_for_the_whole_file_again(
    files: FileServer, proxy: FaultProxy, client: httpx.Client, tmp_path: Path, pauses: list[float]
) -> None:
    files.files["/x"], files.ranges = DATA, False
    proxy.add(Fault(cut_response=200_000, times=2))
    assert download(client, f"{proxy.url}/x", tmp_path / "x", sleep=pauses.append).sha256 == SHA256


def test_a_server_that_passes_over_if_range_splices_nothing(
    files: FileServer, proxy: FaultProxy, client: httpx.Client, tmp_path: Path
) -> None:
    files.files["/x"], files.if_range = DATA, False
    proxy.add(Fault(cut_response=100_000))

    def change(_seconds: float) -> None:
        files.files["/x"] = DATA[::-1]

    assert download(client, f"{proxy.url}/x", tmp_path / "x", sleep=change).path.read_bytes() == DATA[::-1]


def test_a_download_that_ended_before_it_had_its_place_is_not_fetched_again(
    files: FileServer, client: httpx.Client, tmp_path: Path
) -> None:
    """A crash between the last byte and the name: `place` is where a caller would be killed."""
    files.files["/x"] = DATA
    files.headers["/x"] = {"Content-Disposition": 'attachment; filename="train.jsonl"'}
    with pytest.raises(ZeroDivisionError):
        download(client, f"{files.url}/x?download=true", tmp_path / "x", place=lambda _found: tmp_path / str(1 // 0))
    files.headers["/x"] = {}
    done = download(
        client, f"{files.url}/x?download=true", tmp_path / "x", place=lambda found: tmp_path / f"000-{found.name}"
    )
    assert (done.path.name, done.name, done.sha256) == ("000-train.jsonl", "train.jsonl", SHA256)
    assert files.requests[-1][1]["range"] == f"bytes={len(DATA)}-"
    assert list(tmp_path.iterdir()) == [done.path]


def test_another_process_goes_on_with_the_part(
    files: FileServer, proxy: FaultProxy, client: httpx.Client, tmp_path: Path, pauses: list[float]
) -> None:
    files.files["/x"] = DATA
    proxy.add(Fault(cut_response=200_000, times=1))
    proxy.add(Fault(status=503, times=2))
    with pytest.raises(TransferError) as caught:
        download(client, f"{proxy.url}/x", tmp_path / "x", attempts=2, sleep=pauses.append)
    assert caught.value.retryable
    assert not (tmp_path / "x").exists()
    assert (tmp_path / "x.part").stat().st_size == 200_000
    proxy.faults.clear()
    assert download(client, f"{proxy.url}/x", tmp_path / "x").sha256 == SHA256
    assert files.requests[-1][1]["range"] == "bytes=200000-"


def test_a_file_that_changed_in_between_is_fetched_from_the_start(
    files: FileServer, proxy: FaultProxy, client: httpx.Client, tmp_path: Path
) -> None:
    files.files["/x"] = DATA
    proxy.add(Fault(cut_response=100_000))

    def change(_seconds: float) -> None:
        files.files["/x"] = DATA[::-1]

    assert download(client, f"{proxy.url}/x", tmp_path / "x", sleep=change).path.read_bytes() == DATA[::-1]


def test_without_a_validator_or_digest_nothing_is_spliced(
    files: FileServer, proxy: FaultProxy, client: httpx.Client, tmp_path: Path, pauses: list[float]
) -> None:
    files.files["/x"] = DATA
    files.etags = False
    proxy.add(Fault(cut_response=100_000))
    download(client, f"{proxy.url}/x", tmp_path / "x", sleep=pauses.append)
    assert "range" not in files.requests[-1][1]


def test_a_part_of_another_address_is_not_continued(
    files: FileServer, proxy: FaultProxy, client: httpx.Client, tmp_path: Path
) -> None:
    files.files |= {"/x": DATA, "/y": DATA[::-1]}
    proxy.add(Fault(path="/x", cut_response=100_000))
    with pytest.raises(TransferError):
        download(client, f"{proxy.url}/x", tmp_path / "t", attempts=1)
    assert download(client, f"{proxy.url}/y", tmp_path / "t").path.read_bytes() == DATA[::-1]
    assert "range" not in files.requests[-1][1]


def test_a_complete_part_is_not_fetched_again(files: FileServer, client: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "x.part").write_bytes(DATA)
    assert download(client, f"{files.url}/x", tmp_path / "x", size=len(DATA), sha256=SHA256).sha256 == SHA256
    assert files.requests == []


def test_a_flipped_byte_is_fetched_once_more(
    files: FileServer, proxy: FaultProxy, client: httpx.Client, tmp_path: Path
) -> None:
    files.files["/x"] = DATA
    proxy.add(Fault(flip=777))
    assert download(client, f"{proxy.url}/x", tmp_path / "x", sha256=SHA256).path.read_bytes() == DATA


def test_a_wrong_digest_leaves_nothing(
    files: FileServer, proxy: FaultProxy, client: httpx.Client, tmp_path: Path
) -> None:
    files.files["/x"] = DATA
    proxy.add(Fault(flip=777, times=9))
    with pytest.raises(DigestMismatch, match=SHA256):
        download(client, f"{proxy.url}/x", tmp_path / "x", sha256=SHA256)
    assert list(tmp_path.iterdir()) == []
    assert proxy.count("GET") == 2


def test_a_wrong_size_is_refused_before_the_body(files: FileServer, client: httpx.Client, tmp_path: Path) -> None:
    files.files["/x"] = DATA
    with pytest.raises(DigestMismatch, match="300000 bytes, 5 are expected"):
        download(client, f"{files.url}/x", tmp_path / "x", size=5)


def test_the_bound_holds(files: FileServer, client: httpx.Client, tmp_path: Path) -> None:
    files.files["/x"] = DATA
    with pytest.raises(TransferError, match="more than the 1000 allowed"):
        download(client, f"{files.url}/x", tmp_path / "x", max_bytes=1000)


def test_a_body_in_the_servers_own_coding_is_decoded(files: FileServer, client: httpx.Client, tmp_path: Path) -> None:
    files.files["/x.jsonl"] = gzip.compress(DATA)
    files.headers["/x.jsonl"] = {"Content-Encoding": "gzip"}
    assert download(client, f"{files.url}/x.jsonl", tmp_path / "x").path.read_bytes() == DATA


def test_a_gzip_file_is_kept_as_it_was_sent_and_can_be_continued(
    files: FileServer, proxy: FaultProxy, client: httpx.Client, tmp_path: Path, pauses: list[float]
) -> None:
    """Many servers say of `x.gz` that it is coded with gzip; it is the file that is meant all the same."""
    packed = gzip.compress(DATA)
    files.files["/x.jsonl.gz"] = packed
    files.headers["/x.jsonl.gz"] = {"Content-Encoding": "gzip"}
    proxy.add(Fault(cut_response=100_000))
    done = download(client, f"{proxy.url}/x.jsonl.gz", tmp_path / "x", sleep=pauses.append)
    assert done.path.read_bytes() == packed
    assert done.sha256 == hashlib.sha256(packed).hexdigest()
    assert files.requests[-1][1]["range"] == "bytes=100000-"


def test_an_empty_file_arrives(files: FileServer, client: httpx.Client, tmp_path: Path) -> None:
    files.files["/x"] = b""
    assert download(client, f"{files.url}/x", tmp_path / "x", size=0).path.read_bytes() == b""


def test_a_missing_file_is_final(files: FileServer, client: httpx.Client, tmp_path: Path, pauses: list[float]) -> None:
    with pytest.raises(TransferError) as caught:
        download(client, f"{files.url}/x", tmp_path / "x", sleep=pauses.append)
    assert (caught.value.status, caught.value.retryable, pauses) == (404, False, [])


def test_a_full_disk_is_named_before_the_download(tmp_path: Path) -> None:
    with pytest.raises(NoSpace, match="not-there"):
        require_free_space(tmp_path / "not-there" / "yet", 1 << 60)


def test_a_disk_that_fills_up_meanwhile_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(NoSpace, match=f"disk of {tmp_path} is full"),
        full_disk_named(tmp_path),
        Path("/dev/full").open("wb") as file,
    ):
        file.write(DATA)


def test_what_cannot_fit_is_refused_before_a_byte_is_written(
    files: FileServer, client: httpx.Client, tmp_path: Path
) -> None:
    files.files["/x"] = DATA
    files.headers["/x"] = {"Content-Length": str(1 << 60)}
    with pytest.raises(NoSpace, match="are needed"):
        download(client, f"{files.url}/x", tmp_path / "x")
    assert not (tmp_path / "x.part").exists() or (tmp_path / "x.part").stat().st_size == 0
