"""Layers onto the disk, from images that nobody vouches for: bounded, and never outside the folder.

An entry that could leave the folder refuses the whole image; what lies beside the wanted folder is passed over.
"""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import stat
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, cast

from kaito.oci.errors import ImageInvalid
from kaito.transfer import require_free_space
from kaito.transfer.space import full_disk_named

MOST_FILES = 100_000

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_COPY_BYTES = 1 << 20
_LARGEST_NAME_BYTES = 1 << 20
_EXTENDED_HEADERS = frozenset(
    {tarfile.XHDTYPE, tarfile.XGLTYPE, b"X", tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
)


class Extraction:
    """Puts the folder `subfolder` ("" for all) of an image's layers, in their order, under `root`.

    At most `max_bytes` of uncompressed layers and MOST_FILES entries in all. Raises ImageInvalid, NoSpace.
    """

    def __init__(self, root: Path, subfolder: str, *, image: str, max_bytes: int) -> None:
        self.root = root
        self._subfolder = PurePosixPath(subfolder)
        self._image = image
        self._max_bytes = max_bytes
        self._bytes_left = max_bytes
        self._files_left = MOST_FILES
        root.mkdir(parents=True)

    def add_layer(self, blob: Path, *, is_gzip: bool) -> None:
        """Unpack one tar layer over what the layers before it left."""
        written: set[Path] = set()
        try:
            with blob.open("rb") as file, full_disk_named(self.root):
                stream = _Bounded(self, file, is_gzip)
                with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|", tarinfo=_Entry) as archive:
                    for entry in archive:
                        self._add_entry(archive, entry, written)
                while stream.read(_COPY_BYTES):
                    pass  # what follows the end of the archive still counts, and its checksum is verified
        except (tarfile.TarError, zlib.error, gzip.BadGzipFile, EOFError, UnicodeError) as error:
            raise self.refuse(f"a layer is damaged: {error}") from error
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            raise self.refuse("a layer has a name that is too long for this file system") from error

    def add_file(self, blob: Path, name: str) -> None:
        """Put a blob that is a file by itself (an artifact's) under its name."""
        path = self._inside(self._checked_name(name))
        if path == self.root:
            raise self.refuse(f"a layer has no usable name: {name!r}")
        self.count_bytes(blob.stat().st_size)
        self._count_file()
        self._make_folder(path.parent, name)
        _remove(path)
        blob.replace(path)
        path.chmod(0o644)

    def finish(self) -> list[str]:
        """Check the links that were made and return the files, relative and sorted."""
        files = []
        home = self.root.resolve()
        for folder, folders, names in os.walk(self.root):
            for name in (*folders, *names):
                path = Path(folder, name)
                if path.is_symlink() and not (path.exists() and path.resolve().is_relative_to(home)):
                    raise self.refuse(f"the link {path.relative_to(self.root)} leads out of the folder, or nowhere")
            files += [str(Path(folder, name).relative_to(self.root)) for name in names]
        return sorted(files)

    def refuse(self, why: str) -> ImageInvalid:
        return ImageInvalid(f"{self._image}: {why}", "the image is not used; nothing of it was kept")

    def count_bytes(self, count: int) -> None:
        self._bytes_left -= count
        if self._bytes_left < 0:
            raise self.refuse(f"unpacks to more than {self._max_bytes} bytes")

    def _add_entry(self, archive: tarfile.TarFile, entry: tarfile.TarInfo, written: set[Path]) -> None:
        self._count_file()
        name = self._checked_name(entry.name)
        if name.name == f"{_WHITEOUT}{self._subfolder.name}" and name.parent == self._subfolder.parent:
            self._clear(self.root, written)  # the wanted folder itself is removed
            return
        if not name.is_relative_to(self._subfolder):
            return
        path = self._inside(name.relative_to(self._subfolder))
        if name.name == _OPAQUE:
            self._clear(path.parent, written)
        elif name.name.startswith(_WHITEOUT):
            self._clear(path.with_name(name.name.removeprefix(_WHITEOUT)), written)
        elif entry.isdir():
            self._make_folder(path, entry.name)
            written.add(path)
        elif path == self.root:
            raise self.refuse(f"{entry.name} is not a folder")
        else:
            self._make_folder(path.parent, entry.name)
            self._put(archive, entry, path)
            written.add(path)

    def _put(self, archive: tarfile.TarFile, entry: tarfile.TarInfo, path: Path) -> None:
        if entry.isreg() and entry.sparse is None:
            _remove(path)
            self._copy(archive, entry, path)
        elif entry.islnk():
            source = self._link_source(entry)
            if source != path:
                _remove(path)
                os.link(source, path, follow_symlinks=False)
        elif entry.issym():
            if PurePosixPath(entry.linkname).is_absolute():
                raise self.refuse(f"the link {entry.name} leads to an absolute path")
            _remove(path)
            path.symlink_to(entry.linkname)  # where it leads is checked at the end; nothing is written through it
        else:
            raise self.refuse(f"{entry.name} is a device, a pipe, a sparse or another special file")

    def _copy(self, archive: tarfile.TarFile, entry: tarfile.TarInfo, path: Path) -> None:
        source = archive.extractfile(entry)
        assert source is not None, "a regular file has a body"
        require_free_space(path.parent, entry.size)
        with source, path.open("xb") as target:
            shutil.copyfileobj(source, target, _COPY_BYTES)
            copied = target.tell()
        if copied != entry.size:
            raise self.refuse(f"{entry.name} is cut short")
        path.chmod(0o755 if entry.mode & stat.S_IXUSR else 0o644)

    def _link_source(self, entry: tarfile.TarInfo) -> Path:
        name = self._checked_name(entry.linkname)
        if not name.is_relative_to(self._subfolder):
            raise self.refuse(f"the hard link {entry.name} leads out of the folder")
        source = self._inside(name.relative_to(self._subfolder))
        self._make_folder(source.parent, entry.linkname)
        if source.is_symlink() or not source.is_file():
            raise self.refuse(f"the hard link {entry.name} leads to what is not a file")
        return source

    def _checked_name(self, text: str) -> PurePosixPath:
        name = PurePosixPath(text)
        if name.is_absolute() or ".." in name.parts or "\0" in text:
            raise self.refuse(f"the entry {text!r} leads out of the image")
        return name

    def _inside(self, name: PurePosixPath) -> Path:
        return self.root.joinpath(*name.parts)

    def _make_folder(self, folder: Path, text: str) -> None:
        """Make a folder below the root, one level after the other: none of them may be a link or a file."""
        at = self.root
        for part in folder.relative_to(self.root).parts:
            at = at / part
            try:
                at.mkdir()
            except FileExistsError:
                if at.is_symlink() or not at.is_dir():
                    raise self.refuse(f"the entry {text!r} goes through a link or a file") from None

    def _clear(self, path: Path, written: set[Path]) -> None:
        """Remove what the layers before this one left at a path. Links on the way are not followed."""
        for parent in path.relative_to(self.root).parents:
            if (self.root / parent).is_symlink():
                raise self.refuse(f"a whiteout goes through the link {parent}")
        if path.is_symlink() or not path.is_dir():
            if path not in written:
                path.unlink(missing_ok=True)
            return
        for child in path.iterdir():
            self._clear(child, written)
        if path != self.root and path not in written and not any(path.iterdir()):
            path.rmdir()

    def _count_file(self) -> None:
        self._files_left -= 1
        if self._files_left < 0:
            raise self.refuse(f"has more than {MOST_FILES} entries")


class _Bounded:
    """A layer's uncompressed bytes, counted against the extraction's bound."""

    def __init__(self, extraction: Extraction, file: IO[bytes], is_gzip: bool) -> None:
        self._extraction = extraction
        self._file: IO[bytes] = cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if is_gzip else file

    def read(self, count: int) -> bytes:
        data = self._file.read(count)
        self._extraction.count_bytes(len(data))
        return data


class _Entry(tarfile.TarInfo):
    """A header whose extended names are bounded: tarfile reads them whole into memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Entry:
        entry = super().frombuf(buf, encoding, errors)
        if entry.type in _EXTENDED_HEADERS and entry.size > _LARGEST_NAME_BYTES:
            raise tarfile.ReadError(f"an extended header of {entry.size} bytes")
        return entry


def _remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)
