"""Tables of images: a folder with a folder a class, a TAR, and tables whose rows name images that lie beside them.

Nothing is unpacked: a row of a folder holds a path, one of a TAR the bytes of its member, read when the row is asked for. Unusual: what decides the pictures
(of a file its size and time, of an archive its bytes) is part of the table's hash, so rows that were encoded before are not taken for others.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from nabi import cache
from nabi.data.members import Members, members_beside, open_members
from nabi.data.opening import IMAGES
from nabi.data.records import Derived
from nabi.data.tables import Table
from nabi.errors import DataError


def image_table(path: Path) -> Table:
    """The images of a folder or of a TAR.

    Raises:
        DataError, HostileError: see :func:`image_folder` and :func:`image_archive`.
    """
    return image_folder(path) if path.is_dir() else image_archive(path)


def image_folder(path: Path) -> Table:
    """A folder of images, as rows ``image`` (a path) and ``label``, the name of the folder that each lies in; no label if they lie in ``path`` itself.

    Raises:
        DataError: there is no image, or some have a class and some have none.
    """
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGES and p.is_file() and not p.name.startswith("."))
    if not files:
        raise DataError(f"{path.name}: a folder without an image", value=str(path), expected=f"files such as {', '.join(IMAGES)}")
    names = [file.relative_to(path).as_posix() for file in files]
    rows = [{"image": str(file), **_labelled(name)} for file, name in zip(files, names, strict=True)]
    return _table(path.name, rows, names, _stated(files))


def image_archive(path: Path) -> Table:
    """A TAR of images, as rows ``image`` (bytes), ``key`` (its name there) and ``label``, the name of its folder; no label if it is in none.

    Raises:
        DataError: it is no TAR, holds no image, or some have a class and some have none.
        HostileError: a member's name leads outside, or a member is a link.
    """
    members = open_members(path)
    names = [name for name in members if PurePosixPath(name).suffix.lower() in IMAGES]
    if not names:
        raise DataError(f"{path.name}: an archive without an image", value=str(path), expected=f"members such as {', '.join(IMAGES)}")
    rows = Derived(len(names), lambda i: {"image": members[names[i]], "key": names[i], **_labelled(names[i])})
    return _table(path.name, rows, names, cache.digest(path))


def with_images(table: Table, column: str = "image") -> Table:
    """The table with images in place of what names them: paths from the table's folder, keys of a TAR, an NPZ or a folder beside the table.

    A path that is there as it is, and what is no name, stays.

    Raises:
        DataError: nothing beside the table has these names.
    """
    first = table[0].get(column) if len(table) else None
    if not _names(first):
        return table
    find, given = finder(table.source, column), (str(row.get(column)) for row in table)
    if _is_file(Path(), first):
        return table.changed(find, _stated(map(Path, given)))
    if table.source is None:
        return table  # it is refused where it is read, by its place
    if _is_file(table.source.parent, first):
        return table.changed(find, _stated(table.source.parent / name for name in given))
    try:
        beside = members_beside(table.source)
    except DataError as problem:
        if problem.value is None and _is_no_key(first):  # there is no place at all
            return table
        raise
    return table.changed(find, _digest(beside))


def finder(source: Path | None, column: str = "image") -> Callable[[Mapping[str, Any], str], dict[str, Any]]:
    """(row, where it is) -> the row with what its ``column`` names: a path from the table's folder, or the member of what lies beside the table.

    Args:
        source: the table's file; None if there is none, and rows name nothing but paths as they are.
        column: which.

    Raises:
        DataError: when a row is asked for: it names a member that is not there, or there is no place of members; ``where`` is named.
    """
    members: list[Members] = []

    def found(row: Mapping[str, Any], where: str) -> dict[str, Any]:
        name = row.get(column)
        if source is None or not _names(name) or _is_file(Path(), name):
            return dict(row)
        if _is_file(source.parent, name):
            return {**row, column: str(source.parent / str(name))}
        try:
            members.extend([] if members else [members_beside(source)])
        except DataError as problem:
            if problem.value is None and _is_no_key(name):
                return dict(row)
            raise
        return {**row, column: members[0].of(row, column, where)}

    return found


def _is_file(folder: Path, name: Any) -> bool:
    try:
        return isinstance(name, str) and (folder / name).is_file()
    except OSError:  # such as a name that is too long
        return False


def _is_no_key(name: Any) -> bool:
    """Whether it is the path of a file that is not there, which is told where it is read, or the image itself in base64."""
    return isinstance(name, str) and (name.lower().endswith(IMAGES) or (len(name) > 64 and re.fullmatch(r"[A-Za-z0-9+/\s]+={0,2}\s*", name) is not None))


def _names(value: Any) -> bool:
    """Whether it is the name or the number of an image, and neither the image nor an address."""
    return isinstance(value, str | int) and not isinstance(value, bool) and not re.match(r"data:|[a-z]+://", str(value), re.IGNORECASE)


def _labelled(name: str) -> dict[str, str]:
    parent = PurePosixPath(name).parent.name
    return {"label": parent} if parent else {}


def _table(name: str, rows: Any, names: list[str], digest: str) -> Table:
    classed = [bool(_labelled(n)) for n in names]
    if any(classed) and not all(classed):
        what, stray = f"{name}: an image that lies in no class's folder", names[classed.index(False)]
        raise DataError(what, value=stray, expected="all in one folder a class, or none", fix="move it or leave it out")
    columns = ["image", *(["key"] if not isinstance(rows, list) else []), *(["label"] if any(classed) else [])]
    sha256 = hashlib.sha256("\n".join((digest, *names)).encode("utf-8", "surrogateescape")).hexdigest()
    return Table(rows, name, columns=columns, sha256=sha256, complete=columns, places=lambda i: f"{name}, {names[i]}")


def _stated(files: Iterable[Path]) -> str:
    """Size and time of each file; of one that is not there its name, which reading it tells of."""
    digest = hashlib.sha256()
    for file in files:
        try:
            found = file.stat()
        except OSError:
            digest.update(f"{file}\n".encode("utf-8", "surrogateescape"))
        else:
            digest.update(f"{found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _digest(members: Members) -> str:
    return cache.digest(members.path) if members.path.is_file() else _stated(members.path / name for name in members)
