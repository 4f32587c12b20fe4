"""A folder as a source: order, names, and what can't be read."""

from __future__ import annotations

import os
import random
import tracemalloc
from pathlib import Path

import pytest

from corpus_reading import paths, read_source
from nabi.data.corpus import listing
from nabi.data.corpus.documents import Origin, Trouble
from nabi.data.corpus.folders import open_origin
from nabi.errors import DataError


def filled(folder: Path, names: list[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"text of {name}", encoding="utf-8")
    return folder


NAMES = ["b.py", "a.py", "a/z.py", "a-b.py", "a/b/c.txt", "한글.py", "Z.py", "a0"]


def test_documents_come_in_the_order_of_their_paths_bytes(tmp_path: Path) -> None:
    got = read_source(filled(tmp_path, NAMES), license="MIT")[0]
    assert [d.path for d in got] == sorted(NAMES, key=str.encode)
    assert all(d.text == f"text of {d.path}" and d.facts == {"license": "MIT", "path": d.path} for d in got)


def test_the_order_in_which_the_system_lists_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, [f"d{i % 7}/f{i}.py" for i in range(300)])
    expected = paths(tmp_path)
    real = os.scandir

    class Shuffled:
        def __init__(self, folder: Path) -> None:
            with real(folder) as items:
                self.items = list(items)
            random.shuffle(self.items)

        def __enter__(self) -> list[os.DirEntry[str]]:
            return self.items

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(os, "scandir", Shuffled)
    assert paths(tmp_path) == expected


def test_sorting_on_disk_gives_the_same_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, [f"d{i % 7}/f{i}.py" for i in range(300)])
    expected = paths(tmp_path)
    monkeypatch.setattr(listing, "RUN", 7)
    monkeypatch.setattr(listing, "FAN", 3)
    assert paths(tmp_path) == expected and len(expected) == 300


def test_many_units_read_the_same_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, NAMES * 1)
    expected, _, one = read_source(tmp_path)
    monkeypatch.setattr(listing, "UNIT", 1000)
    documents, _, units = read_source(tmp_path)
    assert documents == expected and len(one) == 1 and len(units) == len(NAMES)


def test_a_long_listing_is_not_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "RUN", 300)
    source = open_origin(Origin(str(tmp_path)))
    monkeypatch.setattr(source, "entries", lambda scratch: (listing.Entry(f"folder/of/{i * 7919 % 6_000:09}", size=1) for i in range(6_000)))
    tracemalloc.start()
    try:
        units = list(source.units(tmp_path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    read = [entry.path for unit in units for entry in listing.entries_of(unit)]
    assert read == [f"folder/of/{i:09}" for i in range(6_000)]
    assert peak < 900_000, peak  # as a list of entries they take 1.9 MB


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (("*.py",), (), ["Z.py", "a-b.py", "a.py", "a/z.py", "b.py", "한글.py"]),
        (("a/*",), (), ["a/b/c.txt", "a/z.py"]),
        ((), ("*.py",), ["a/b/c.txt", "a0"]),
        ((), ("a",), ["Z.py", "a-b.py", "a.py", "a0", "b.py", "한글.py"]),
        (("*.py", "*.txt"), ("a/b/*", "Z*"), ["a-b.py", "a.py", "a/z.py", "b.py", "한글.py"]),
        (("[ab].py",), (), ["a.py", "b.py"]),
    ],
)
def test_include_and_exclude(tmp_path: Path, include: tuple[str, ...], exclude: tuple[str, ...], expected: list[str]) -> None:
    assert paths(filled(tmp_path, NAMES), include=include, exclude=exclude) == expected


def test_git_and_caches_are_skipped(tmp_path: Path) -> None:
    filled(tmp_path, ["a.py", "x/.git/config", "x/__pycache__/a.pyc", "x/b.py", "x/.github/c"])
    assert paths(tmp_path) == ["a.py", "x/.github/c", "x/b.py"]


def test_what_cannot_be_read_is_counted_by_reason(tmp_path: Path) -> None:
    folder = filled(tmp_path / "in", ["good.py", "closed.py", "sub/deep.py"])
    outside = filled(tmp_path / "out", ["secret.py"])
    (folder / "to_file.py").symlink_to(outside / "secret.py")
    (folder / "to_folder").symlink_to(outside)
    (folder / "broken").symlink_to(outside / "nothing")
    os.mkfifo(folder / "pipe.py")
    for name, data in {
        "nul.py": b"a = 1\0\n" * 20, "elf.so": b"\x7fELF\0\1", "cp949.txt": "안녕하세요 반갑습니다".encode("cp949"),
        "latin.txt": "déjà vu à la".encode("latin-1"),
        "utf16.txt": "안녕 hello\n".encode("utf-16"),
        "utf16le.txt": "plain old words\n".encode("utf-16-le"), "long.txt": b"x" * 2001, "fits.txt": b"x" * 2000,
        "mark.txt": b"\xef\xbb\xbfmarked", "empty.txt": b"",
    }.items():  # fmt: skip
        (folder / name).write_bytes(data)
    documents, trouble, _ = read_source(folder, max_bytes=2000)
    assert {d.path: len(d.text) for d in documents} == {"closed.py": 17, "empty.txt": 0, "fits.txt": 2000, "good.py": 15, "mark.txt": 6, "sub/deep.py": 19}
    assert dict(trouble.counts) == {"link": 3, "binary": 2, "not UTF-8": 4, "too long": 1, "unreadable": 1}
    seen = "\n".join(line for lines in trouble.examples.values() for line in lines)
    for words in ("elf.so: a NUL byte at byte 4; it looks like a program (ELF)", "cp949.txt: byte 0; it looks like CP949", "looks like LATIN1",
                  "looks like UTF-16\n",
                  "looks like UTF-16LE", "nul.py: a NUL byte at byte 5", "pipe.py: not a plain file", "long.txt: 2,001 bytes"):  # fmt: skip
        assert words in f"{seen}\n", words


def test_what_changes_after_the_listing_is_counted(tmp_path: Path) -> None:
    folder = filled(tmp_path / "in", ["a.py", "gone.py", "grown.py", "linked.py", "piped.py", "dir/b.py"])
    work = tmp_path / "work"
    work.mkdir()
    source, trouble = open_origin(Origin(str(folder), max_bytes=100)), Trouble()
    units = list(source.units(work))
    (folder / "gone.py").unlink()
    (folder / "grown.py").write_text("x" * 101)
    for name in ("linked.py", "piped.py"):
        (folder / name).unlink()
    (folder / "linked.py").symlink_to(folder / "a.py")
    os.mkfifo(folder / "piped.py")
    (folder / "dir" / "b.py").unlink()
    (folder / "dir").rmdir()
    (folder / "dir").write_text("now a file")
    assert [d.path for unit in units for d in source.read(unit, trouble)] == ["a.py"]
    assert dict(trouble.counts) == {"vanished": 2, "too long": 1, "link": 1, "unreadable": 1}


def test_a_folder_that_is_closed_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, ["a.py", "closed/b.py"])
    real = os.scandir

    def scandir(folder: Path) -> object:
        if isinstance(folder, Path) and folder.name == "closed":
            raise PermissionError(13, "Permission denied")
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    documents, trouble, _ = read_source(tmp_path)
    assert len(documents) == 1 and trouble.examples == {"unreadable": ["closed: Permission denied"]}


def test_names_that_are_not_utf8_can_be_written(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9\n.py")).write_text("good")
    documents, _, _ = read_source(tmp_path)
    assert documents[0].text == "good" and documents[0].path == "caf\\xe9\n.py"
    documents[0].facts["path"].encode()


def test_deep_folders_are_read(tmp_path: Path) -> None:
    deep = "/".join(["d"] * 300) + "/a.py"
    filled(tmp_path, [deep])
    assert paths(tmp_path) == [deep]


@pytest.mark.parametrize(("names", "options", "words"), [([], {}, "nothing to read"), (["a.py"], {"include": ("*.txt",)}, "patterns in include"),
                                                         (["a.py"], {"max_bytes": 3}, "too long: 1")])  # fmt: skip
def test_nothing_to_read_is_an_error(tmp_path: Path, names: list[str], options: dict[str, object], words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_source(filled(tmp_path, names), kind="folder", **options)


def test_a_listing_that_is_gone_is_an_error(tmp_path: Path) -> None:
    source = open_origin(Origin(str(filled(tmp_path / "in", ["a.py"]))))
    unit = next(iter(source.units(tmp_path)))
    Path(unit.key).unlink()
    with pytest.raises(DataError, match="listing of a source"):
        list(source.read(unit, Trouble()))


def test_no_such_folder() -> None:
    with pytest.raises(DataError, match="no such folder"):
        open_origin(Origin("nowhere", kind="folder"))
