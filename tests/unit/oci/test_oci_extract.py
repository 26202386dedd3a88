"""Layers that nobody vouches for: what they may do to the disk."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from kaito.oci import ImageInvalid
from kaito.oci import extract as extract_module
from kaito.oci.extract import Extraction

Entry = tuple[str, bytes | None] | tarfile.TarInfo


def file(name: str, content: bytes = b"x") -> Entry:
    return name, content


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, link
    return entry


def tar(*entries: Entry) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry)
                continue
            info = tarfile.TarInfo(entry[0])
            info.size = len(entry[1] or b"")
            archive.addfile(info, io.BytesIO(entry[1] or b""))
    return out.getvalue()


@pytest.fixture
def unpack(tmp_path: Path) -> Callable[..., list[str]]:
    """Unpacks layers into `tmp_path/root`."""

    def run(*layers: bytes, max_bytes: int = 10_000_000, subfolder: str = "data", is_gzip: bool = False) -> list[str]:
        extraction = Extraction(tmp_path / "root", subfolder, image="registry.example/a:1", max_bytes=max_bytes)
        for number, layer in enumerate(layers):
            blob = tmp_path / f"blob-{number}"
            blob.write_bytes(gzip.compress(layer) if is_gzip else layer)
            extraction.add_layer(blob, is_gzip=is_gzip)
        return extraction.finish()

    return run


@pytest.mark.parametrize("prefix", ["data/", "./data/"])
def test_the_folder_is_unpacked_and_what_lies_beside_it_is_not(
    unpack: Callable[..., list[str]], tmp_path: Path, prefix: str
) -> None:
    link = special("etc/mtab", tarfile.SYMTYPE, "/proc/mounts")
    device = special("dev/null", tarfile.CHRTYPE)
    layer = tar(special(prefix, tarfile.DIRTYPE), file(prefix + "a/b.txt", b"b"), file("etc/passwd"), link, device)
    assert unpack(layer, is_gzip=True) == ["a/b.txt"]
    assert (tmp_path / "root" / "a" / "b.txt").read_bytes() == b"b"


@pytest.mark.parametrize(
    "entry",
    [
        file("/etc/cron.d/x"),
        file("/data/x"),
        file("../x"),
        file("data/../../x"),
        file("usr/../../x"),
        special("data/x", tarfile.SYMTYPE, "/etc/passwd"),
        special("data/x", tarfile.SYMTYPE, "../../etc/passwd"),
        special("data/x", tarfile.SYMTYPE, "nowhere"),
        special("data/x", tarfile.LNKTYPE, "etc/passwd"),
        special("data/x", tarfile.LNKTYPE, "../x"),
        special("data/x", tarfile.LNKTYPE, "data/missing"),
        special("data/x", tarfile.CHRTYPE),
        special("data/x", tarfile.BLKTYPE),
        special("data/x", tarfile.FIFOTYPE),
        special("data", tarfile.SYMTYPE, "/etc"),
        file("data/" + "n" * 300),
    ],
    ids=lambda entry: entry.name + "-" + entry.linkname if isinstance(entry, tarfile.TarInfo) else entry[0][:20],
)
def test_an_entry_that_could_leave_the_folder_refuses_the_image(
    unpack: Callable[..., list[str]], tmp_path: Path, entry: Entry
) -> None:
    before = set(tmp_path.parent.iterdir())
    with pytest.raises(ImageInvalid, match=r"registry\.example/a:1"):
        unpack(tar(file("data/good"), entry))
    assert set(tmp_path.parent.iterdir()) == before
    assert {path.name for path in tmp_path.iterdir()} <= {"root", "blob-0"}


def test_nothing_is_written_through_a_link(unpack: Callable[..., list[str]], tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    with pytest.raises(ImageInvalid, match="through a link"):
        unpack(tar(special("data/a", tarfile.SYMTYPE, "../outside"), file("data/a/x")))
    assert list((tmp_path / "outside").iterdir()) == []


def test_links_that_together_lead_out_are_refused(unpack: Callable[..., list[str]]) -> None:
    """Each looks harmless by its text: `d/e/up` is the folder itself, so `d/e/up/../x` is outside it."""
    up = special("data/d/e/up", tarfile.SYMTYPE, "../..")
    out = special("data/out", tarfile.SYMTYPE, "d/e/up/../blob-0")
    with pytest.raises(ImageInvalid, match="leads out"):
        unpack(tar(file("data/d/e/f"), up, out))


def test_links_that_stay_inside_are_kept(unpack: Callable[..., list[str]], tmp_path: Path) -> None:
    soft = special("data/snapshot/model", tarfile.SYMTYPE, "../blobs/1")
    hard = special("data/again", tarfile.LNKTYPE, "data/blobs/1")
    assert unpack(tar(file("data/blobs/1", b"w"), soft, hard)) == ["again", "blobs/1", "snapshot/model"]
    assert (tmp_path / "root" / "snapshot" / "model").read_bytes() == b"w"
    assert (tmp_path / "root" / "again").read_bytes() == b"w"


def test_a_later_file_replaces_a_link_and_not_what_it_leads_to(
    unpack: Callable[..., list[str]], tmp_path: Path
) -> None:
    first = tar(file("data/a", b"1"), special("data/b", tarfile.SYMTYPE, "a"))
    unpack(first, tar(file("data/b", b"2")))
    assert ((tmp_path / "root" / "a").read_bytes(), (tmp_path / "root" / "b").read_bytes()) == (b"1", b"2")


def test_whiteouts_remove_what_lower_layers_left(unpack: Callable[..., list[str]]) -> None:
    first = tar(file("data/old"), file("data/kept"), file("data/d/old"), file("data/e/old"))
    second = tar(
        file("data/.wh.old", b""), file("data/d/.wh..wh..opq", b""), file("data/d/new"), file("data/.wh.e", b"")
    )
    assert unpack(first, second) == ["d/new", "kept"]


def test_a_whiteout_of_the_folder_empties_it(unpack: Callable[..., list[str]]) -> None:
    assert unpack(tar(file("data/old")), tar(file(".wh.data", b"")), tar(file("data/new"))) == ["new"]


def test_modes_do_not_carry_more_than_execution(unpack: Callable[..., list[str]], tmp_path: Path) -> None:
    entry = special("data/run", tarfile.REGTYPE)
    entry.mode = 0o6777
    unpack(tar(entry))
    assert stat.S_IMODE(os.stat(tmp_path / "root" / "run").st_mode) == 0o755  # noqa: PTH116  the mode as the kernel has it


def test_a_bomb_stops_at_the_bound(unpack: Callable[..., list[str]]) -> None:
    with pytest.raises(ImageInvalid, match="more than 1000000 bytes"):
        unpack(tar(file("data/zeros", bytes(5_000_000))), max_bytes=1_000_000, is_gzip=True)


def test_a_bomb_beside_the_folder_counts_too(unpack: Callable[..., list[str]]) -> None:
    with pytest.raises(ImageInvalid, match="more than 1000000 bytes"):
        unpack(tar(file("data/x"), file("zeros", bytes(5_000_000))), max_bytes=1_000_000, is_gzip=True)


def test_a_bomb_in_a_name_is_refused(unpack: Callable[..., list[str]]) -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 50_000_000
    layer = header.tobuf(tarfile.GNU_FORMAT) + bytes(50_000_000 // 512 * 512 + 512)
    with pytest.raises(ImageInvalid, match="extended header"):
        unpack(layer, max_bytes=1 << 30)


def test_the_number_of_entries_is_bounded(unpack: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract_module, "MOST_FILES", 10)
    with pytest.raises(ImageInvalid, match="more than 10 entries"):
        unpack(tar(*(file(f"data/{number}") for number in range(11))))


@pytest.mark.parametrize("cut", [100, 700, 1024])
def test_a_cut_layer_is_refused(unpack: Callable[..., list[str]], tmp_path: Path, cut: int) -> None:
    whole = gzip.compress(tar(file("data/x", os.urandom(3000))))
    (tmp_path / "blob").write_bytes(whole[:-cut])
    extraction = Extraction(tmp_path / "root", "data", image="a", max_bytes=10_000_000)
    with pytest.raises(ImageInvalid):
        extraction.add_layer(tmp_path / "blob", is_gzip=True)


def test_what_is_no_tar_is_refused(unpack: Callable[..., list[str]]) -> None:
    with pytest.raises(ImageInvalid, match="damaged"):
        unpack(b"<html>" * 1000)
