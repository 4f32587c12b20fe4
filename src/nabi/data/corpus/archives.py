"""Archives: each member of a zip or tar file is a document. Members are read as streams; nothing is ever unpacked to disk.

Unusual: an archive with one bad name, link or device in it is refused as a whole, before a document is taken: who made it meant harm, and harmless members of
such an archive are worth no more than the others. So a tar is read twice, and by one worker, in its own order. A zip has a list of its members, is sorted by
their names' bytes, and is read by many. Formats: PKWARE's APPNOTE and POSIX pax through ``zipfile`` and ``tarfile``, whose memory is bounded from outside.
"""

from __future__ import annotations

import io
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, cast

from nabi.data.corpus.documents import Document, Origin, Trouble, Unit
from nabi.data.corpus.listing import Entry, Listed, Names, shown
from nabi.data.corpus.streams import FREE, RATIO, TOTAL, HostileError, Stream, bomb, opened, text_of_bytes
from nabi.errors import DataError

MEMBERS = 1_000_000
LONGEST_NAME = 4096
HEADER = 1 << 20  # bytes that may describe one member of a tar
DIRECTORY = 1 << 28  # bytes that may list the members of a zip
NESTED = (".zip", ".tar", ".tgz", ".gz", ".zst", ".bz2", ".xz", ".7z", ".rar", ".jar", ".whl", ".egg")
TARS = {"": "", ".tgz": ".gz", ".gz": ".gz", ".zst": ".zst", ".bz2": ".bz2", ".xz": ".xz"}
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile unpacks the others with no limit to what one call gives
FLAWS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError)


def open_origin(origin: Origin) -> Zip | Tar:
    """The source of an archive.

    Raises:
        DataError: there is no such file, or its ending is not that of an archive.
    """
    name = Path(origin.path).name.lower()
    if not Path(origin.path).is_file():
        raise DataError("there is no such archive", value=origin.path, expected="one file", fix="check the path; name each archive as a source of its own")
    if name.endswith(".zip"):
        return Zip(origin)
    packing = Path(name).suffix
    if packing == ".tar" or packing == ".tgz" or (packing in TARS and name.removesuffix(packing).endswith(".tar")):
        return Tar(origin)
    raise DataError("not an archive", value=origin.path, expected="a name that ends in .zip, .tar, .tar.gz, .tgz, .tar.zst, .tar.bz2 or .tar.xz",
                    fix="rename it to what it holds")  # fmt: skip


def refuse(archive: str, name: str) -> None:
    """Refuse a name that leads out of the archive, or would on some system.

    Raises:
        HostileError: it does.
    """
    for bad, why in (
        ("\0" in name, "holds a NUL"), ("\\" in name, "holds a backslash"), (name.startswith("/"), "is absolute"), (not name.strip("/"), "is empty"),
        (re.match("[A-Za-z]:", name) is not None, "has a drive letter"), (".." in name.split("/"), "leads outside"), (len(name) > LONGEST_NAME, "is too long"),
    ):  # fmt: skip
        if bad:
            raise hostile(archive, f"a member's name {why}", name)


def hostile(archive: str, what: str, name: object) -> HostileError:
    return HostileError(f"{archive}: {what}", value=name, expected="an archive of plain files whose names stay inside it",
                        fix="nothing of it was taken: it may be meant to do harm; fetch it from someone you trust")  # fmt: skip


class _Archive(Listed):
    def __init__(self, origin: Origin) -> None:
        super().__init__(origin)
        self.names, self.name = Names(origin), Path(origin.path).name

    def left_out(self, path: str, size: int) -> Entry | None:
        """What to count of a member that is not to be read; None if it is to be."""
        if path.lower().endswith(NESTED):
            return Entry(path, reason="nested archive")
        return Entry(path, reason="too long", note=f"{size:,} bytes") if size > self.origin.max_bytes else None

    def asked_for(self, path: str) -> bool:
        """Whether a member is to be read or counted; an archive in it is counted whatever its name."""
        wanted = self.names.wants(path) or (path.lower().endswith(NESTED) and not self.names.leaves_out(path))
        return wanted and not self.names.leaves_out_above(path)

    def where(self, path: str) -> str:
        """A member as a reader would look it up."""
        return f"{self.name}!{path}"

    def document(self, data: bytes, path: str, trouble: Trouble) -> Iterator[Document]:
        where = self.where(shown(path))
        if (text := text_of_bytes(data, where, trouble)) is not None:
            yield Document(text, where, {**self.facts, "path": shown(path)})


class Zip(_Archive):
    """The members of a zip file."""

    _open: zipfile.ZipFile | None = None

    def entries(self, scratch: Path) -> Iterator[Entry]:
        size, total, locked = Path(self.origin.path).stat().st_size, 0, 0
        found = []
        for index, info in enumerate(self._file().infolist()):
            name, mode = info.orig_filename, info.external_attr >> 16
            refuse(self.name, name)
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise hostile(self.name, "a member is a link or a device", name)
            total += info.file_size
            if info.file_size > max(FREE, RATIO * info.compress_size) or total > min(TOTAL, max(FREE, RATIO * size)):
                raise bomb(self.name, f"{total:,} bytes from {size:,}, at {info.filename}")
            path = _plain(name)
            if info.is_dir() or not self.asked_for(path):
                continue
            locked += info.flag_bits & 1
            found.append(self.left_out(path, info.file_size) or self._entry(path, index, info))
        if found and locked == len(found):
            raise DataError(f"{self.name}: the archive is encrypted", expected="one that needs no password", fix="unpack it, and name the folder")
        yield from found

    @staticmethod
    def _entry(path: str, index: int, info: zipfile.ZipInfo) -> Entry:
        if info.flag_bits & 1:
            return Entry(path, reason="encrypted")
        if info.compress_type not in METHODS:
            return Entry(path, reason="unreadable", note=f"packed in a way other than deflate (method {info.compress_type})")
        return Entry(path, index, index + 1, info.file_size)

    def documents(self, entry: Entry, trouble: Trouble) -> Iterator[Document]:
        archive = self._file()
        try:
            with archive.open(archive.infolist()[entry.start]) as file:
                data = file.read(self.origin.max_bytes + 1)
        except (*FLAWS, IndexError) as problem:
            trouble.add("broken", f"{self.name}!{shown(entry.path)}", str(problem))
            return
        yield from self.document(data, entry.path, trouble)

    def _file(self) -> zipfile.ZipFile:
        # kept open: a list of a million members takes seconds to read
        if self._open is None:
            try:
                self._open = zipfile.ZipFile(_Directory(self.origin.path))
            except FLAWS as problem:
                raise DataError(f"{self.name}: not a whole zip file ({problem})", fix="fetch or pack it again") from None
        return self._open


class _Directory(io.FileIO):
    """A zip file for ``zipfile``, which reads the list of members at once, however long, and makes an object of each."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > DIRECTORY:
            raise hostile(Path(str(self.name)).name, "a list of members that is too long", f"{size:,} bytes")
        data = super().read(size) or b""
        if data.count(b"PK\1\2") > MEMBERS:
            raise hostile(Path(str(self.name)).name, "too many members", f"over {MEMBERS:,}")
        return data


class Tar(_Archive):
    """The members of a tar file, packed or not: one unit, in the order of the archive."""

    links = False  # whether a link is counted, as one in a folder is, and not refused

    def inside(self, name: str) -> str:
        """What a member is called in its documents and before ``include`` and ``exclude``."""
        return _plain(name)

    def count(self) -> tuple[int, int]:
        """How many members will be read or counted, and how many bytes of text they have.

        Raises:
            DataError, HostileError: as ``read``.
        """
        size = count = 0
        for info, _ in self._members():
            if not info.isdir() and self.asked_for(self.inside(info.name)):
                count += 1
                size += info.size if info.isreg() and info.size <= self.origin.max_bytes else 0
        return count, size

    def units(self, work: Path) -> Iterator[Unit]:
        count, size = self.count()
        if not count:
            raise DataError("there is nothing to read", value=self.origin.path, expected="files as asked for", fix="check the patterns in include and exclude")
        yield Unit(self.name, 0, count, size)

    def read(self, unit: Unit, trouble: Trouble) -> Iterator[Document]:
        for info, archive in self._members():
            path = self.inside(info.name)
            if info.isdir() or not self.asked_for(path):
                continue
            out = self.left_out(path, info.size) if info.isreg() else Entry(path, reason="link")
            if info.issparse():
                out = Entry(path, reason="unreadable", note="a sparse file")
            if out:
                trouble.add(out.reason, self.where(shown(path)), out.note)
                continue
            file = archive.extractfile(info)
            assert file is not None
            yield from self.document(file.read(), path, trouble)

    def _members(self) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
        """The members of the archive, each checked; the archive stands at the member's data.

        Raises:
            HostileError: a name, a link, a device or a bomb.
            DataError: cut off or damaged.
        """
        packing = TARS.get(Path(self.name.lower()).suffix, "")
        try:
            with Stream(opened(Path(self.origin.path), self.name, follow=True), packing, self.name) as stream:
                feed = _Headers(stream, self.name, self.origin.max_bytes)
                # as mode "r|", which would read a header of any length and unpack with no limit
                with closing(tarfile.TarFile(fileobj=cast("IO[bytes]", feed), encoding="utf-8")) as archive:
                    for number in range(1, MEMBERS + 2):
                        feed.left = HEADER
                        info = archive.next()
                        if info is None:
                            break
                        if number > MEMBERS:
                            raise hostile(self.name, "too many members", f"over {MEMBERS:,}")
                        refuse(self.name, info.name)
                        if not info.isreg() and not info.isdir() and not (self.links and info.issym()):
                            raise hostile(self.name, "a member is a link or a device", info.name)
                        # what tarfile would keep of each
                        archive.members.clear()  # type: ignore[attr-defined]
                        archive.pax_headers.clear()  # type: ignore[attr-defined]
                        feed.left = self.origin.max_bytes + HEADER
                        yield info, archive
                    feed.ended()
        except (tarfile.TarError, EOFError, OSError, ValueError, RecursionError, struct.error) as problem:
            raise DataError(f"{self.name}: not a whole tar file ({problem})", fix="fetch or pack it again") from None


class _Headers:
    """A stream for ``tarfile`` that goes forwards only and gives no more than ``left`` bytes before it is set anew."""

    def __init__(self, stream: Stream, name: str, most: int) -> None:
        self._stream, self._name, self._last, self.left = stream, name, b"", max(HEADER, most)

    def tell(self) -> int:
        return self._stream.tell()

    def seek(self, to: int) -> None:
        if to < self._stream.tell():
            raise tarfile.StreamError("a member lies before the last one")
        self._stream.skip(to)

    def read(self, size: int) -> bytes:
        self.left -= size
        if self.left < 0:
            raise hostile(self._name, "a header that is too long", f"over {HEADER:,} bytes")
        self._last = self._stream.read(size)
        return self._last

    def ended(self) -> None:
        """Make sure that the archive ended where it says, since tarfile takes damage for the end.

        Raises:
            tarfile.ReadError: it did not.
        """
        if len(self._last) < tarfile.BLOCKSIZE or self._last.strip(b"\0"):
            raise tarfile.ReadError("cut off or damaged")
        while piece := self._stream.some():
            if piece.strip(b"\0"):
                raise tarfile.ReadError("more data after its end")


def _plain(name: str) -> str:
    """A member's name without ``./`` and the like."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))
