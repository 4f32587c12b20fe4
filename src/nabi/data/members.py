"""What lies beside a table: pictures, sounds and other files by their key, from a folder, a TAR or an NPZ, read when they are asked for.

A row of the table holds the key: a file's name in the folder or the TAR, with or without its ending, or the number of an entry of the NPZ's array. Nothing is
unpacked to the disk and nothing is decoded. Unusual: of a TAR only the places of its members are kept, and each is read from its place with ``pread``.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
import tarfile
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from nabi.data.corpus.archives import hostile, refuse
from nabi.data.opening import kind_of, listed
from nabi.data.records import Records
from nabi.data.tables import Table, read_table
from nabi.errors import DataError

LARGEST = 1 << 28  # bytes of a member
MOST = 10_000_000  # members of a TAR: their names and places are held in memory
BLOCK = 512  # bytes: headers and contents begin at multiples of it
ENDINGS = (".tar", ".npz")


class Members(Mapping[str, Any]):
    """Members by key: bytes of a folder or a TAR, entries of an NPZ's array.

    Args:
        path: the folder, the TAR or the NPZ.
        names: the members' names in their order.
    """

    def __init__(self, path: Path, names: list[str]) -> None:
        self.path, self.name = path, path.name
        self._names = {member: number for number, member in enumerate(names)}
        stems: dict[str, str | None] = {}
        for member in names:
            stem = str(PurePosixPath(member).with_suffix(""))
            stems[stem] = None if stem in stems else member
        self._stems = stems

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str | int) and self._found(str(key)) is not None

    def __getitem__(self, key: str | int) -> Any:
        """A member.

        Raises:
            DataError: there is none with this key, it is too large, or the file was changed.
        """
        found = self._found(str(key))
        if found is None:
            raise self._missing(str(key))
        return self._read(found)

    def of(self, row: Mapping[str, Any], column: str, where: str) -> Any:
        """The member that a row's ``column`` names; ``where`` is where the row is.

        Raises:
            DataError: the column holds no key, or as of ``[...]``; ``where`` is named.
        """
        key = row.get(column)
        if isinstance(key, bool) or not isinstance(key, str | int):
            raise DataError(f"{where}: {column} is no key", value=key, expected=f"the name or the number of a member of {self.name}")
        try:
            return self[key]
        except DataError as problem:
            raise DataError(f"{where}: {problem}") from None

    def _found(self, key: str) -> str | None:
        return key if key in self._names else self._stems.get(key)

    def _missing(self, key: str) -> DataError:
        if key in self._stems:
            several = ", ".join(name for name in self._names if str(PurePosixPath(name).with_suffix("")) == key)
            return DataError(f"{self.name}: several members have this key", value=key, expected=several, fix="give the name with its ending")
        close = difflib.get_close_matches(key, list(self._names)[:10_000], n=1) or list(self._names)[:1]
        return DataError(f"{self.name}: no member has this key", value=key, expected=f"one of {len(self):,}, such as {close[0]}" if close else "it is empty")

    def _read(self, name: str) -> Any:
        raise NotImplementedError


class _Folder(Members):
    def __init__(self, path: Path) -> None:
        self._path = path
        inside = [entry for entry in sorted(path.rglob("*")) if entry.is_file() and not any(part.startswith(".") for part in entry.relative_to(path).parts)]
        super().__init__(path, [entry.relative_to(path).as_posix() for entry in inside])

    def _read(self, name: str) -> bytes:
        path = self._path / name
        if not path.resolve().is_relative_to(self._path.resolve()):
            raise hostile(self.name, "a link leads outside", name)
        try:
            with path.open("rb") as file:
                found = os.fstat(file.fileno())
                if not stat.S_ISREG(found.st_mode):
                    raise DataError(f"{self.name}: a member is no plain file", value=name)
                _fits(self.name, name, found.st_size)
                return file.read()
        except OSError as problem:
            raise DataError(f"{self.name}: a member can't be read ({problem.strerror})", value=name, fix="leave the folder alone while it is read") from None


class _Tar(Members):
    def __init__(self, path: Path) -> None:
        self._sizes, places = array("Q"), array("Q")
        names: dict[str, None] = {}
        try:
            with tarfile.open(path, "r:") as archive:
                for member in archive:
                    name = member.name.removeprefix("./")
                    if member.isdir():
                        continue
                    refuse(path.name, name)
                    if not member.isreg() or member.issparse():
                        raise hostile(path.name, "a member is a link or a device", name)
                    if name in names:
                        raise DataError(f"{path.name}: two members have one name", value=name, fix="write the archive again, each file once")
                    if len(names) == MOST:
                        raise DataError(f"{path.name}: too many members", value=f"over {MOST:,}", fix="split the archive")
                    names[name] = None
                    self._sizes.append(member.size)
                    places.extend((member.offset_data, member.offset_data + member.size))
                    archive.members = []  # type: ignore[attr-defined]  # else each is kept
            # the library takes a header that is cut or damaged for the end, which is a block of zeros
            with path.open("rb") as file:
                file.seek(-(-places[-1] // BLOCK) * BLOCK if places else 0)
                if not names or file.read(BLOCK) != bytes(BLOCK):
                    raise tarfile.ReadError("it does not end as one" if names else "no member")
        except (tarfile.TarError, EOFError, ValueError, OverflowError) as problem:
            raise DataError(f"{path.name}: not a whole TAR archive ({problem})", value=f"{path.stat().st_size:,} bytes", expected="a TAR archive, not packed",
                            fix="fetch or write it again; unpack it if it is a .tar.gz") from None  # fmt: skip
        except OSError as problem:
            raise DataError(f"{path.name}: can't be read ({problem.strerror})", value=str(path)) from None
        super().__init__(path, list(names))
        # the bytes of member i are record 2i; those between are what else the archive holds
        self._records = Records(path, places, lambda data, _: data, path.name, changing=True)

    def _read(self, name: str) -> bytes:
        number = self._names[name]
        _fits(self.name, name, self._sizes[number])
        return self._records[2 * number]


class _Npz(Members):
    def __init__(self, path: Path, table: Table, column: str) -> None:
        self._table, self._column = table, column
        super().__init__(path, [str(number) for number in range(len(table))])

    def _read(self, name: str) -> Any:
        return self._table[int(name)][self._column]


def open_members(source: str | os.PathLike[str], column: str | None = None) -> Members:
    """Open a folder, a .tar or an .npz.

    Args:
        source: its path.
        column: which of the arrays of an NPZ; by default its only one, ``offsets`` aside.

    Raises:
        DataError: it is nothing of these, or damaged.
        HostileError: a member's name leads outside, or a member is a link.
    """
    path = Path(source)
    if path.is_dir():
        return _Folder(path)
    if not path.is_file():
        raise DataError(f"{path.name}: no such file or folder", value=str(path), expected="a folder, a .tar or an .npz", fix=listed(path.parent, path.name))
    if path.suffix.lower() == ".tar":
        return _Tar(path)
    if path.suffix.lower() == ".npz":
        table = read_table(path)
        columns = list(table.columns) if column is None else [column]
        if len(columns) > 1 or columns[0] not in table.columns:
            found = ", ".join(table.columns)
            raise DataError(f"{path.name}: which array holds the members is not clear", value=column, expected=f"one of {found}", fix="name one of them")
        return _Npz(path, table, columns[0])
    fix = "unpack it: members are read from their places" if ".tar" in path.suffixes or path.suffix == ".tgz" else "put the files into a folder or a TAR"
    raise DataError(f"{path.name}: not a place of members", value=str(path), expected="a folder, a .tar or an .npz", fix=fix)


def members_beside(table: str | os.PathLike[str]) -> Members:
    """The members beside a table's file: of ``train.jsonl.gz`` the TAR, the NPZ or the folder ``train``, ``train_images``, ``train-audio`` ...

    Raises:
        DataError: there is none, or more than one.
        HostileError: as of ``open_members``.
    """
    path = Path(table)
    stem = path.name.removesuffix(kind_of(path)[1]).removesuffix(kind_of(path)[0])
    named = re.compile(re.escape(stem) + r"([_-][^.]*)?(\.tar|\.npz)?", re.IGNORECASE)
    found = [p for p in sorted(path.parent.iterdir()) if p != path and named.fullmatch(p.name) and (p.is_dir() or p.suffix.lower() in ENDINGS)]
    if len(found) != 1:
        raise DataError(f"{path.name}: {'several places' if found else 'no place'} of members beside the table", value=", ".join(p.name for p in found) or None,
                        expected=f"one folder, .tar or .npz that is called {stem} or {stem}_...", fix="open the right one with open_members")  # fmt: skip
    return open_members(found[0])


def _fits(place: str, name: str, size: int) -> None:
    if size > LARGEST:
        raise DataError(f"{place}: a member is too large", value=f"{name}, {size:,} bytes", expected=f"at most {LARGEST:,} bytes")
