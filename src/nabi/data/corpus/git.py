"""A git repository: the files of one commit are documents, read from the object store. No checkout is made.

Unusual: the program ``git`` reads the objects, not a Python package (dulwich): it tells how long a file is before it unpacks it, so a blob of 10 GB is never in
memory, and it is many times faster. But it never sees the repository's configuration, hooks or attributes: it runs in a folder of its own with an empty
configuration, and is told where the objects lie. So nothing that a stranger wrote into ``.git`` is run, and nothing is fetched.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from nabi.data.corpus.documents import Document, Origin, Trouble, Unit
from nabi.data.corpus.listing import Entry, Listed, Names, entries_of, shown
from nabi.data.corpus.streams import HostileError, text_of_bytes
from nabi.errors import DataError, OptionError

FILES = 10_000_000  # a dozen objects can say that a commit has a billion
MEMORY = "256m"  # the most that git may ask for at once; a file that can't be had within it is counted
HASH = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")


def open_origin(origin: Origin) -> Git:
    """The source of a repository: its path, with a work tree or bare, or ``path@revision`` for another commit than HEAD's.

    Raises:
        DataError: there is no repository, or no such revision.
        OptionError: git is not installed.
    """
    if shutil.which("git") is None:
        raise OptionError("reading a repository needs the program git", value=origin.path, fix="install it, or check the commit out and name the folder")
    path, revision = origin.path, "HEAD"
    if not Path(path).exists() and "@" in path:
        path, _, revision = path.rpartition("@")
    return Git(origin, Path(path), revision)


class Git(Listed):
    """The files of a commit."""

    sorted = True  # as git lists them

    def __init__(self, origin: Origin, place: Path, revision: str) -> None:
        super().__init__(origin)
        self.place, self.folder = place, _folder(place)
        self.common = self.folder / _text(self.folder / "commondir").strip()
        self.commit = self._commit(revision)
        self.facts |= {"repo": self._remote() or place.resolve().name, "commit": self.commit}

    def entries(self, scratch: Path) -> Iterator[Entry]:
        names, found = Names(self.origin), 0
        with self._git("ls-tree", "-r", "-z", "-l", "--full-tree", self.commit) as (program, out):
            for record in _records(out):
                found += 1
                if found > FILES:
                    raise HostileError(f"{self.place}: a commit without end", value=self.commit, expected=f"at most {FILES:,} files",
                                       fix="nothing of it was taken: it may be meant to do harm")  # fmt: skip
                about, _, name = record.partition(b"\t")
                mode, kind, blob, size = about.decode().split()
                path = name.decode("utf-8", "surrogateescape")
                if not names.wants(path) or names.leaves_out_above(path):
                    continue
                if mode == "120000" or kind == "commit":
                    yield Entry(path, reason="link" if kind == "blob" else "submodule")
                elif not size.isdecimal():
                    yield Entry(path, reason="unreadable", note=f"object {blob} is missing or broken")
                elif int(size) > self.origin.max_bytes:
                    yield Entry(path, reason="too long", note=f"{int(size):,} bytes")
                else:
                    yield Entry(path, size=int(size), note=blob)
            if program.wait():
                raise DataError(f"{self.place}: the folders of the commit can't be read to the end", value=self.commit, expected="a whole repository",
                                fix="git fsck tells what is missing; clone it again")  # fmt: skip

    def read(self, unit: Unit, trouble: Trouble) -> Iterator[Document]:
        # HEAD may have moved since the listing was made; the name of the listing still tells
        facts = self.facts | {"commit": Path(unit.key).stem.rpartition("-")[2]}
        entries = list(entries_of(unit))
        blobs = self._blobs([entry.note for entry in entries if not entry.reason])
        for entry in entries:
            path = shown(entry.path)
            if entry.reason:
                trouble.add(entry.reason, path, entry.note)
            elif (data := next(blobs)) is None:
                trouble.add("unreadable", path, f"object {entry.note} is missing or broken, or needs more than {MEMORY} of memory")
            elif (text := text_of_bytes(data, path, trouble)) is not None:
                yield Document(text, path, {**facts, "path": path})

    def list_name(self) -> str:
        return f"{super().list_name()}-{self.commit}"

    def _blobs(self, hashes: list[str]) -> Iterator[bytes | None]:
        """The files with these hashes; None for one that can't be had. The program ends at a broken one, so the rest is asked of another."""
        done = 0
        while done < len(hashes):
            with tempfile.TemporaryFile() as asked:
                asked.write("".join(f"{blob}\n" for blob in hashes[done:]).encode())
                asked.seek(0)
                with self._git("cat-file", "--batch", asked=asked) as (_, out):
                    for header in iter(out.readline, b""):
                        size = header.split()[-1]
                        if size.isdigit():
                            data = out.read(int(size) + 1)  # and a line end
                            if len(data) <= int(size):
                                break
                            yield data[:-1]
                        else:
                            yield None
                        done += 1
            if done < len(hashes):
                yield None
                done += 1

    def _commit(self, revision: str) -> str:
        name = revision
        if revision == "HEAD":
            name = _text(self.folder / "HEAD").strip().removeprefix("ref:").strip()
        for ref in (name, f"refs/tags/{name}", f"refs/heads/{name}", f"refs/remotes/origin/{name}"):
            if found := self._ref(ref):
                name = found
                break
        if re.fullmatch("[0-9a-f]{4,64}", name):
            with self._git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}") as (_, out):
                if HASH.fullmatch(commit := out.read().decode().strip()):
                    return commit
        raise DataError(f"{self.place}: no such commit", value=revision, expected="a branch, a tag or a commit that is here",
                        fix="commit something first" if revision == "HEAD" else "name it as path@revision, and fetch it first")  # fmt: skip

    def _ref(self, ref: str) -> str:
        """The hash that a reference stands for, else an empty string."""
        if not ref.startswith("refs/") or ".." in ref:
            return ""
        if loose := _text(self.common / ref).strip():
            return loose if HASH.fullmatch(loose) else ""
        packed = self.common / "packed-refs"
        if packed.is_file():
            with packed.open(encoding="utf-8", errors="replace") as lines:
                for line in iter(lambda: lines.readline(4096), ""):
                    value, _, name = line.strip().partition(" ")
                    if name == ref and HASH.fullmatch(value):
                        return value
        return ""

    def _remote(self) -> str:
        """Where it was cloned from, without a password; empty if that is not known."""
        config = self.common / "config"
        if not config.is_file():
            return ""
        # that one file as text: what it includes is not read
        with self._git("config", "--file", str(config.resolve()), "--no-includes", "--get", "remote.origin.url") as (_, out):
            return re.sub("^([a-z+]+://)[^/@]*@", r"\1", out.read().decode(errors="replace").strip())

    @contextmanager
    def _git(self, *words: str, asked: IO[bytes] | None = None) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
        """The running program and its output. It ends with the block."""
        with tempfile.TemporaryDirectory() as folder:
            for inside in ("objects", "refs"):
                Path(folder, inside).mkdir()
            Path(folder, "HEAD").write_text("ref: refs/heads/none\n")
            sha256 = re.search(r"^\s*objectformat\s*=\s*sha256\s*$", _text(self.common / "config"), re.IGNORECASE | re.MULTILINE) is not None
            extension = "[extensions]\nobjectformat = sha256\n" if sha256 else ""
            Path(folder, "config").write_text(f"[core]\nrepositoryformatversion = {int(sha256)}\nbare = true\n{extension}")
            environment = {
                "PATH": os.environ.get("PATH", ""), "SYSTEMROOT": os.environ.get("SYSTEMROOT", ""), "HOME": folder, "LC_ALL": "C", "GIT_DIR": folder,
                "GIT_OBJECT_DIRECTORY": str((self.common / "objects").resolve()), "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull,
                "GIT_ALLOW_PROTOCOL": "", "GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0", "GIT_ALLOC_LIMIT": MEMORY,
            }  # fmt: skip
            program = subprocess.Popen(["git", *words], stdin=asked or subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                       cwd=folder, env=environment)  # fmt: skip
            assert program.stdout is not None
            try:
                yield program, program.stdout
            finally:
                program.stdout.close()
                program.kill()
                program.wait()


def _folder(place: Path) -> Path:
    """Where the repository keeps its own files.

    Raises:
        DataError: it is no repository.
    """
    inside = place / ".git"
    if (text := _text(inside)).startswith("gitdir:"):
        inside = place / text.removeprefix("gitdir:").strip()
    for folder in (inside, place):
        if (folder / "HEAD").is_file() and ((folder / "objects").is_dir() or (folder / "commondir").is_file()):
            return folder
    raise DataError("not a git repository", value=str(place), expected="a folder with .git in it, or a bare repository",
                    fix='check the path, or say kind = "folder"')  # fmt: skip


def _text(path: Path) -> str:
    """The first 64 kB of one of git's small files; empty if it is not there."""
    if not path.is_file():
        return ""
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(1 << 16)


def _records(out: IO[bytes]) -> Iterator[bytes]:
    """What stands between NULs."""
    rest = b""
    while piece := out.read(1 << 16):
        *records, rest = (rest + piece).split(b"\0")
        yield from records
