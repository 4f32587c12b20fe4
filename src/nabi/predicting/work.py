"""The work folder of a run, beside its file: what it answers, what is done, and the answers so far.

    .NAME.work/job.json           what is answered: hashes of the model and the data, the task, its options
    .NAME.work/journal.jsonl      a line a part that is done: its size and SHA-256; at last that they are joined
    .NAME.work/parts/00000.jsonl  the answers of a part, a line each
    .NAME.work/joined             the whole file, until it is renamed

A part counts when its line is in the journal: the file is written under another name, synchronised and renamed, then the line is written and synchronised. So a
kill at any moment leaves a part that is done or one that is not; a line that was cut off is none; a part whose bytes are not what its line says is done again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from nabi import cache
from nabi.errors import OptionError, StorageError
from nabi.files import sync, whole
from nabi.weights.files import locked


class Work:
    """The work folder of a file that is being written.

    Args:
        out: the file.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out.with_name(f".{out.name}.work")
        self.done: dict[int, dict[str, Any]] = {}  # part -> what the journal says of it
        self.marked = False  # whether the parts were joined
        self.begun = False  # whether it is ours

    @property
    def joined(self) -> Path:
        """The whole file, until it is renamed."""
        return self.folder / "joined"

    def part(self, number: int) -> Path:
        """The file of a part."""
        return self.folder / "parts" / f"{number:05d}.jsonl"

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Holds the folder, which is made if it is not there; no other run writes the same file meanwhile.

        Raises:
            OptionError: another run holds it.
            StorageError: it can't be made.
        """
        try:
            self.folder.mkdir(exist_ok=True)
            place = self.folder.stat().st_ino
        except OSError as problem:
            raise StorageError(f"{self.out} could not be written: {problem}") from problem
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(locked(self.folder, wait=False))
                same = self.folder.stat().st_ino == place
            except (BlockingIOError, FileNotFoundError):
                same = False
            if not same:
                raise OptionError("another run is writing this file", value=str(self.out), fix="wait for it, or give another --out")
            yield

    def begin(self, job: dict[str, Any], fresh: bool, say: Callable[..., None]) -> None:
        """Find what is done of this job, or begin it.

        Args:
            job: plain data: all that decides the answers.
            fresh: throw away what is there.
            say: hears of parts that are done again.

        Raises:
            OptionError: the folder has the answers of another job.
            StorageError: it can't be written.
        """
        path = self.folder / "job.json"
        try:
            begun = json.loads(path.read_text(encoding="utf-8")) if path.exists() and not fresh else None
        except (OSError, ValueError) as problem:
            raise OptionError("the work folder can't be read", value=f"{self.folder} ({problem})", fix="--fresh throws it away and begins anew") from None
        self._read()
        if begun is not None and self.marked and not self.joined.exists() and (begun != job or not self.out.exists()):
            begun = None  # that job was done, and its file is in place
        if begun is not None and begun != job and self.done:
            raise self._other(begun, job)
        self.begun = True
        if begun != job:
            self.done, self.marked = {}, False
            try:
                for each in self.folder.iterdir():
                    shutil.rmtree(each) if each.is_dir() else each.unlink()
                (self.folder / "parts").mkdir()
                (self.folder / "journal.jsonl").touch()
                with whole(path) as draft:
                    draft.write_text(json.dumps(job, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
                synchronise(self.folder)
            except OSError as problem:
                raise StorageError(f"{self.folder} could not be written: {problem}") from problem
            return
        for draft in (*self.folder.glob(".*"), *self.folder.glob("parts/.*")):
            draft.unlink()
        if not self.marked:
            self._check(say)

    def write(self, number: int, lines: Iterable[bytes]) -> dict[str, Any]:
        """Write the answers of a part; gives its size and SHA-256. It is not done before :meth:`commit`.

        Raises:
            StorageError: it could not be written.
        """
        digest, size, path = hashlib.sha256(), 0, self.part(number)
        with whole(path) as draft, draft.open("wb") as file:
            for line in lines:
                digest.update(line)
                size += file.write(line)
        synchronise(path.parent)
        return {"bytes": size, "sha256": digest.hexdigest()}

    def commit(self, number: int, facts: dict[str, Any]) -> None:
        """Say that a part is done.

        Raises:
            StorageError: the journal could not be written.
        """
        self._note({"part": number, **facts})
        self.done[number] = {"part": number, **facts}

    def finish(self, overwrite: bool) -> None:
        """The joined file becomes the one that was asked for, and the folder goes.

        Raises:
            OptionError: there is a file of that name by now.
            StorageError: it could not be renamed.
        """
        if not self.marked:
            self._note({"joined": True})
            self.marked = True
        if self.joined.exists():
            refuse(self.out, overwrite)
            try:
                self.joined.replace(self.out)
            except OSError as problem:
                raise StorageError(f"{self.out} could not be written: {problem}") from problem
            synchronise(self.out.parent)
        self.discard()

    def discard(self) -> None:
        """The folder goes: the parts first, then what says that they were joined, at once."""
        shutil.rmtree(self.folder / "parts", ignore_errors=True)
        self.folder.rename(self._gone)
        self.tidy()

    def tidy(self) -> None:
        """Remove what a run left that was killed at its very end, its file in place."""
        shutil.rmtree(self._gone, ignore_errors=True)

    @property
    def _gone(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.gone")

    def _note(self, facts: dict[str, Any]) -> None:
        path = self.folder / "journal.jsonl"
        try:
            with path.open("ab") as file:
                file.write(json.dumps(facts, ensure_ascii=False).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as problem:
            raise StorageError(f"{path} could not be written: {problem}") from problem

    def _read(self) -> None:
        """Take in the journal; a last line that was cut off is cut away."""
        path = self.folder / "journal.jsonl"
        if not path.exists():
            return
        data = path.read_bytes()
        kept = data[: data.rfind(b"\n") + 1]
        for line in kept.splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):  # a line that was damaged: its part is done again
                facts = json.loads(line)
                if facts.get("joined"):
                    self.marked = True
                else:
                    self.done[int(facts["part"])] = facts
        if kept != data:
            with path.open("r+b") as file:
                file.truncate(len(kept))
                os.fsync(file.fileno())

    def _check(self, say: Callable[..., None]) -> None:
        """Forget parts that are not what the journal says."""
        for number, facts in list(self.done.items()):
            path = self.part(number)
            try:
                whole_ = path.stat().st_size == facts["bytes"] and cache.digest(path) == facts["sha256"]
            except OSError:
                whole_ = False
            if not whole_:
                say(f"warning: {path} is damaged or gone; its rows are answered again", part=number)
                del self.done[number]

    def _other(self, begun: dict[str, Any], job: dict[str, Any]) -> OptionError:
        differing = [f"{name} (was {_shown(begun.get(name), job.get(name))}, is {_shown(job.get(name), begun.get(name))})"
                     for name in {**begun, **job} if begun.get(name) != job.get(name)]  # fmt: skip
        rows = sum(facts["rows"] for facts in self.done.values())
        return OptionError(f"a run of another job was begun for {self.out.name}, and {rows:,} rows of it are answered; what differs: {'; '.join(differing)}",
                           fix="give that command again to go on with it, or --fresh to throw its answers away")  # fmt: skip


def refuse(out: Path, overwrite: bool) -> None:
    """Refuse a file that is there.

    Raises:
        OptionError: it is, and may not be replaced.
    """
    if out.exists() and not out.is_file():
        raise OptionError("the answers can't be written here", value=str(out), expected="a file or a new name")
    if out.exists() and not overwrite:
        raise OptionError("the file for the answers is there already", value=str(out), fix="give another --out, or --overwrite to replace it")


def synchronise(folder: Path) -> None:
    """Bring the names in a folder to the disk.

    Raises:
        StorageError: that failed.
    """
    try:
        sync(folder)
    except OSError as problem:
        raise StorageError(f"{folder} could not be written: {problem}") from problem


def _shown(value: Any, other: Any) -> str:
    """Of two lists or mappings what differs, else the value."""
    if isinstance(value, dict) and isinstance(other, dict):
        value = {name: item for name, item in value.items() if other.get(name) != item}
    elif isinstance(value, list) and isinstance(other, list):
        value = [item for item in value if item not in other] or value
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:80]} ... {text[-30:]}"
