"""What a source has to read, as a file that is sorted by path; a unit is a range of its bytes.

Unusual: neither the folder's order nor its length is ever in memory. The folders still to visit wait in a file, and the names are sorted outside of memory.
What can't be read is listed too, with the reason, so that the one who reads that unit counts it, once.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from fnmatch import translate
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from nabi.data.corpus.documents import Document, Origin, Trouble, Unit
from nabi.errors import DataError
from nabi.files import whole

UNIT = 32_000_000  # bytes of text in a unit, about
RUN, FAN = 200_000, 64  # entries that are sorted in memory, files that are merged at once
SKIPPED = (".git", "__pycache__")


class Entry(NamedTuple):
    """A file or a part of one.

    Attributes:
        path: in the source's folder or archive, as the system gives it: bytes that are not UTF-8 stand in it as half surrogates.
        start, stop: which part, in the source's own count; both 0 for the whole.
        size: about how many bytes of text.
        reason: why it is not to be read, such as ``link``; empty if it is.
        note: what was seen, or what else the source must know to read it.
    """

    path: str
    start: int = 0
    stop: int = 0
    size: int = 0
    reason: str = ""
    note: str = ""


class Names:
    """Which names an origin asks for. A folder that is left out is left out with all that is in it.

    Args:
        origin: its ``include`` and ``exclude``: a pattern without ``/`` is held against the name (one to leave out also against that of each folder above),
            one with it against the whole path.
        endings: more that a name must end in, one of them.
    """

    def __init__(self, origin: Origin, endings: tuple[str, ...] = ("",)) -> None:
        self.endings = endings
        self.include, self.exclude = _Patterns(origin.include), _Patterns(origin.exclude)

    def wants(self, path: str) -> bool:
        """Whether a file is asked for; that its folders are not left out is known already."""
        if not path.lower().endswith(self.endings) or self.leaves_out(path):
            return False
        return self.include.empty or self.include.match(path)

    def leaves_out(self, path: str) -> bool:
        """Whether a file or folder is left out by its own name or path."""
        return path.rpartition("/")[2] in SKIPPED or self.exclude.match(path)

    def leaves_out_above(self, path: str) -> bool:
        """Whether a file lies in a folder that is left out: for sources that don't walk."""
        at = path.find("/")
        while at >= 0:
            if self.leaves_out(path[:at]):
                return True
            at = path.find("/", at + 1)
        return False


class _Patterns:
    def __init__(self, patterns: tuple[str, ...]) -> None:
        self.empty = not patterns
        self._names, self._paths = (re.compile("|".join(translate(p) for p in patterns if ("/" in p) == whole) or "(?!)") for whole in (False, True))

    def match(self, path: str) -> bool:
        return bool(self._names.match(path.rpartition("/")[2]) or self._paths.match(path))


def shown(path: str) -> str:
    """A path as it can be written: bytes that are not UTF-8 as ``\\xff``."""
    return path if path.isascii() else path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class Listed:
    """A source whose units are ranges of a listing; what is of one kind: ``entries`` and ``documents``."""

    sorted = False  # whether ``entries`` come in the order of their paths' bytes

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.facts = {"license": origin.license} if origin.license else {}

    def entries(self, scratch: Path) -> Iterator[Entry]:
        """All there is to read. ``scratch`` is the name of a file for what does not fit in memory; it is removed afterwards."""
        raise NotImplementedError

    def documents(self, entry: Entry, trouble: Trouble) -> Iterator[Document]:
        """The documents of one entry, in order."""
        raise NotImplementedError

    def list_name(self) -> str:
        """Name of the listing, one for each origin."""
        return f"files-{hashlib.sha256(repr(self.origin).encode(errors='surrogateescape')).hexdigest()[:16]}"

    def units(self, work: Path) -> Iterator[Unit]:
        """Ranges of a listing that is left in ``work``, which all who read must see."""
        listing = work / f"{self.list_name()}.jsonl"
        scratch = work / f"{listing.stem}.scratch"
        troubles: Counter[str] = Counter()
        units: list[Unit] = []
        try:
            with whole(listing) as draft, draft.open("wb") as file:
                start = size = 0
                for entry in self.entries(scratch) if self.sorted else _sorted(self.entries(scratch), work / listing.stem):
                    troubles[entry.reason] += 1
                    if size and size + entry.size > UNIT:
                        units.append(Unit(str(listing), start, start := file.tell(), size))
                        size = 0
                    file.write(_line(entry))
                    size += max(entry.size, 1000)  # opening it costs something too
                units.append(Unit(str(listing), start, file.tell(), size))
        finally:
            scratch.unlink(missing_ok=True)
        if not troubles.pop("", 0):
            listing.unlink()
            seen = ", ".join(f"{reason}: {count}" for reason, count in sorted(troubles.items()))
            raise DataError("there is nothing to read", value=self.origin.path, expected=f"files as asked for{f' (left out: {seen})' if seen else ''}",
                            fix="check the path, and the patterns in include and exclude")  # fmt: skip
        yield from units

    def read(self, unit: Unit, trouble: Trouble) -> Iterator[Document]:
        for entry in entries_of(unit):
            if entry.reason:
                trouble.add(entry.reason, shown(entry.path), entry.note)
            else:
                yield from self.documents(entry, trouble)


def entries_of(unit: Unit) -> Iterator[Entry]:
    """The entries of a unit.

    Raises:
        DataError: the listing is not there any more.
    """
    try:
        with Path(unit.key).open("rb") as file:
            file.seek(unit.start)
            while file.tell() < unit.stop:
                yield Entry(*json.loads(file.readline()))
    except (FileNotFoundError, ValueError) as problem:
        raise DataError("the listing of a source is gone or broken", value=unit.key, expected="the file that listing the source left",
                        fix=f"start anew ({problem})") from None  # fmt: skip


def walk(root: str, names: Names, scratch: Path) -> Iterator[Entry]:
    """The files under a folder in no order; links are listed, never followed.

    Raises:
        DataError: the folder itself can't be read.
    """
    # `waiting` lags behind `found`, both are the same file
    with scratch.open("wb") as found, scratch.open("rb") as waiting:
        found.write(json.dumps("").encode() + b"\n")
        found.flush()
        while line := waiting.readline():
            folder = json.loads(line)
            try:
                with os.scandir(Path(root, folder)) as inside:
                    for item in inside:
                        path = f"{folder}/{item.name}" if folder else item.name
                        if names.leaves_out(path):
                            continue
                        if item.is_dir(follow_symlinks=False):
                            found.write(json.dumps(path).encode() + b"\n")
                        else:
                            yield from _file(item, path, names)
            except OSError as problem:
                if not folder:
                    raise DataError("the folder can't be read", value=root, fix=str(problem)) from None
                yield Entry(folder, reason=reason_of(problem), note=str(problem.strerror))
            found.flush()


def _file(item: os.DirEntry[str], path: str, names: Names) -> Iterator[Entry]:
    try:
        if item.is_symlink():
            if names.wants(path) or item.is_dir():
                yield Entry(path, reason="link")
        elif names.wants(path):
            state = item.stat(follow_symlinks=False)
            plain = stat.S_ISREG(state.st_mode)
            yield Entry(path, size=state.st_size) if plain else Entry(path, reason="unreadable", note="not a plain file")
    except OSError as problem:
        yield Entry(path, reason=reason_of(problem), note=str(problem.strerror))


def reason_of(problem: OSError) -> str:
    """The fixed word for what the system said."""
    return "vanished" if isinstance(problem, FileNotFoundError | NotADirectoryError) else "unreadable"


def _line(entry: Entry) -> bytes:
    return json.dumps(entry).encode() + b"\n"


def _key(entry: Entry) -> tuple[bytes, int]:
    return entry.path.encode("utf-8", "surrogateescape"), entry.start


def _sorted(entries: Iterable[Entry], scratch: Path) -> Iterator[Entry]:
    """The entries in the order of their paths' bytes, sorted in runs that are kept as files ``scratch.0`` and so on."""
    rest, number = iter(entries), 0
    runs: list[Path] = []
    try:
        while run := sorted(islice(rest, RUN), key=_key):
            if not number and len(run) < RUN:
                yield from run
                return
            if len(runs) == FAN:
                runs = [_kept(_merged(runs), scratch, number)]
                number += 1
            runs.append(_kept(run, scratch, number))
            number += 1
        yield from _merged(runs)
    finally:
        for old in scratch.parent.glob(f"{scratch.name}.run*"):
            old.unlink()


def _kept(entries: Iterable[Entry], scratch: Path, number: int) -> Path:
    path = scratch.with_name(f"{scratch.name}.run{number}")
    with path.open("wb") as file:
        file.writelines(map(_line, entries))
    return path


def _merged(runs: list[Path]) -> Iterator[Entry]:
    return heapq.merge(*map(_loaded, runs), key=_key)


def _loaded(path: Path) -> Iterator[Entry]:
    with path.open("rb") as file:
        for line in file:
            yield Entry(*json.loads(line))
    path.unlink()
