"""Archives as a source: formats, hostile names, bombs, damage. Nothing may ever be written."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from corpus_reading import paths, read_source
from nabi.data.corpus import archives
from nabi.errors import DataError

FILES = {"b/x.py": b"print('b')\n", "a.py": "print('안녕')\n".encode(), "a/z.txt": b"z", "한글.py": b"pass\n"}


def tar_of(files: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zip_of(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return out.getvalue()


FORMATS: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    ".zip": zip_of, ".tar": tar_of, ".tar.gz": lambda f: gzip.compress(tar_of(f)), ".tgz": lambda f: gzip.compress(tar_of(f)),
    ".tar.zst": lambda f: zstandard.compress(tar_of(f)),
    ".tar.bz2": lambda f: bz2.compress(tar_of(f)), ".tar.xz": lambda f: lzma.compress(tar_of(f)) + b"\0" * 8,
}  # fmt: skip


@pytest.mark.parametrize("ending", FORMATS)
def test_members_are_documents_in_every_format(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"dump{ending}").write_bytes(FORMATS[ending](FILES))
    documents, trouble, _ = read_source(tmp_path / f"dump{ending}", license="MIT")
    order = sorted(FILES, key=str.encode) if ending == ".zip" else list(FILES)
    assert [(d.path, d.text) for d in documents] == [(f"dump{ending}!{name}", FILES[name].decode()) for name in order] and not trouble.counts
    assert documents[0].facts == {"license": "MIT", "path": order[0]}


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_of_every_kind_with_long_names(tmp_path: Path, format: int) -> None:
    name = "/".join(["folder"] * 20) + "/a.py"
    (tmp_path / "a.tar").write_bytes(tar_of({name: b"x" * 1024, "./b.py": b"y"}, format))
    assert paths(tmp_path / "a.tar") == [f"a.tar!{name}", "a.tar!b.py"]


@pytest.mark.parametrize("ending", [".zip", ".tar.gz"])
def test_names_are_chosen_and_nested_archives_counted(tmp_path: Path, ending: str) -> None:
    files = FILES | {"deep/in.zip": b"PK", "x/.git/config": b"no", "x/__pycache__/a.py": b"no", "b/long.py": b"x" * 101, "nul.py": b"\0" * 9}
    files["data/in.tar"] = b""
    (tmp_path / f"a{ending}").write_bytes(FORMATS[ending](files))
    documents, trouble, _ = read_source(tmp_path / f"a{ending}", include=("*.py",), exclude=("한*", "data"), max_bytes=100)
    assert sorted(d.facts["path"] for d in documents) == ["a.py", "b/x.py"]
    assert dict(trouble.counts) == {"nested archive": 1, "too long": 1, "binary": 1}


BAD_NAMES = [
    "../x", "a/../../x", "a/..", "..", "/etc/passwd", "//server/share", "/", "C:/x", "c:x", "Z:\\x", "a\\b", "..\\x", "\\\\server\\x",
    "\\x", "a/b\\..\\c", "a/../b",
    "./../x", "a//../x", "x" * 4097, "a/" * 2050 + "b", "../" * 50 + "x", "C:", "a/b/..",
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(BAD_NAMES)))
@pytest.mark.parametrize("ending", [".zip", ".tar", ".tar.gz"])
def test_a_bad_name_refuses_the_whole_archive(tmp_path: Path, ending: str, number: int) -> None:
    (tmp_path / f"a{ending}").write_bytes(FORMATS[ending]({"good.py": b"1", BAD_NAMES[number]: b"2", "more.py": b"3"}))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match="a member's name"):
        read_source(tmp_path / f"a{ending}", include=("good.py",))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_name_with_a_nul_refuses_the_archive(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zip_of({"good.py": b"1", "a.pyX.png": b"2"}).replace(b"a.pyX.png", b"a.py\0.png"))
    info = tarfile.TarInfo("a")
    info.pax_headers = {"path": "a.py\0.png"}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(info)
    (tmp_path / "a.tar").write_bytes(out.getvalue())
    for name in ("a.zip", "a.tar"):
        with pytest.raises(DataError, match="holds a NUL"):
            read_source(tmp_path / name)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z"])
def test_links_and_devices_of_a_tar_refuse_it(tmp_path: Path, kind: bytes) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("good.py"))
        info = tarfile.TarInfo("bad")
        info.type, info.linkname = kind, "good.py"
        archive.addfile(info)
    (tmp_path / "a.tar").write_bytes(out.getvalue())
    with pytest.raises(DataError, match="a link or a device"):
        read_source(tmp_path / "a.tar")


@pytest.mark.parametrize("mode", [0o120777, 0o020666, 0o060666, 0o010666, 0o140777])
def test_links_and_devices_of_a_zip_refuse_it(tmp_path: Path, mode: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("good.py", "1")
        info = zipfile.ZipInfo("bad")
        info.external_attr = mode << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="a link or a device"):
        read_source(tmp_path / "a.zip")


def bomb(path: Path, size: int) -> None:
    """An archive of one member of zeros; a repeated block is packed once and written often, so that making it is fast."""
    if path.suffix == ".zip":
        # the directory says what it unpacks to: 4 GB, as much as a zip can say without its longer form
        data = zip_of({"a.py": bytes(1 << 20)})
        path.write_bytes(data.replace(struct.pack("<L", 1 << 20), struct.pack("<L", min(size, 0xFFFFFFF0))))
        return
    info = tarfile.TarInfo("a.py")
    info.size = size
    head = info.tobuf(tarfile.GNU_FORMAT)
    zeros = bytes(1 << 24)
    packs = {".gz": lambda data: gzip.compress(data, 1), ".bz2": bz2.compress, ".xz": lambda data: lzma.compress(data, preset=0), ".zst": zstandard.compress}
    pack = packs[path.suffix]
    with path.open("wb") as out:
        out.write(pack(head))
        part = pack(zeros)
        for _ in range(size // len(zeros)):
            out.write(part)


@pytest.mark.parametrize("ending", [".zip", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst"])
def test_ten_gigabytes_of_zeros_are_refused_fast_and_in_little_memory(tmp_path: Path, ending: str) -> None:
    bomb(tmp_path / f"a{ending}", 10_000_000_000)
    code = f"""
import sys, time
sys.path[:0] = {sys.path!r}
from corpus_reading import read_source
from nabi.errors import DataError
from nabi.memory import peak
begun = time.process_time()
try:
    read_source({str(tmp_path / f"a{ending}")!r})
except DataError as error:
    print(error)
print(peak() // 1000000, time.process_time() - begun)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
    message, figures = done.stdout.strip().splitlines()
    megabytes, seconds = map(float, figures.split())
    assert "unpacks without end" in message and megabytes < 200 and seconds < 5, done.stdout


def test_control_well_packed_text_is_no_bomb(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tar_of({f"{i}.py": os.urandom(500_000).hex().encode() for i in range(12)})))
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(tar_of({"a.py": b"a" * 900_000})))  # 1000:1, but small
    assert len(paths(tmp_path / "a.tar.gz")) == 12 and len(paths(tmp_path / "b.tar.gz")) == 1


def test_members_that_lie_over_each_other_are_a_bomb(tmp_path: Path) -> None:
    data = zip_of({"a.py": os.urandom(150_000)}, zipfile.ZIP_STORED)
    at = data.index(b"PK\1\2")
    directory, end = data[at : data.index(b"PK\5\6")], data[data.index(b"PK\5\6") :]
    count = 1000
    end = end[:8] + struct.pack("<HHLL", count, count, len(directory) * count, at) + end[20:]
    (tmp_path / "a.zip").write_bytes(data[:at] + directory * count + end)
    with pytest.raises(DataError, match="unpacks without end"):
        read_source(tmp_path / "a.zip")


@pytest.mark.parametrize("ending", [".zip", ".tar", ".tar.gz"])
def test_too_many_members_are_refused(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"a{ending}").write_bytes(FORMATS[ending]({f"{i}.py": b"" for i in range(101)}))
    monkeypatch.setattr(archives, "MEMBERS", 101)
    assert len(paths(tmp_path / f"a{ending}")) == 101
    monkeypatch.setattr(archives, "MEMBERS", 100)
    with pytest.raises(DataError, match="too many members"):
        read_source(tmp_path / f"a{ending}")


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_a_header_of_any_length_is_not_taken_into_memory(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("header")
    info.type, info.size = kind, 3 << 30
    with (tmp_path / "a.tar").open("wb") as out:
        out.write(info.tobuf(tarfile.GNU_FORMAT))
        out.truncate(3 << 30)
    with pytest.raises(DataError, match="header that is too long"):
        read_source(tmp_path / "a.tar")


def test_headers_without_end_are_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("header")
    info.type = b"g"
    (tmp_path / "a.tar").write_bytes((info.tobuf(tarfile.GNU_FORMAT)) * 5000)
    with pytest.raises(DataError, match="not a whole tar file|header that is too long"):
        read_source(tmp_path / "a.tar")


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
def test_an_archive_that_is_cut_off_is_an_error(tmp_path: Path, ending: str, share: float) -> None:
    data = FORMATS[ending]({f"{i}.py": os.urandom(700).hex().encode() for i in range(9)})
    if ending == ".tar":
        data = data[: len(data) - 9000]  # its last blocks are filling
    (tmp_path / f"a{ending}").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match="not a whole|cut off|damaged"):
        read_source(tmp_path / f"a{ending}")


def test_a_tar_that_is_damaged_in_the_middle_or_goes_on_after_its_end(tmp_path: Path) -> None:
    data = tar_of({"a.py": b"x" * 600, "b.py": b"y", "c.py": b"z"})
    for bad in (data[:1536] + b"\xff" * 512 + data[2048:], data + tar_of({"d.py": b"lost"}), b"", b"\xff" * 2048, data[:2048]):
        (tmp_path / "a.tar").write_bytes(bad)
        with pytest.raises(DataError, match="not a whole tar file"):
            read_source(tmp_path / "a.tar")


def test_members_of_a_zip_that_are_damaged_or_locked_are_counted(tmp_path: Path) -> None:
    data = bytearray(zip_of({"a.py": b"first member", "b.py": b"second member", "c.py": b"third member"}, zipfile.ZIP_STORED))
    data[data.index(b"second")] ^= 1
    at = data.index(b"PK\1\2", data.index(b"PK\1\2", data.index(b"PK\1\2") + 4) + 4)  # of c.py in the directory
    data[at + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    documents, trouble, _ = read_source(tmp_path / "a.zip")
    assert [d.text for d in documents] == ["first member"] and dict(trouble.counts) == {"broken": 1, "encrypted": 1}


def test_a_locked_archive_is_an_error(tmp_path: Path) -> None:
    data = bytearray(zip_of({"a.py": b"first member"}))
    data[data.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DataError, match="encrypted"):
        read_source(tmp_path / "a.zip")


def test_a_size_that_lies_gives_no_more_than_it_says(tmp_path: Path) -> None:
    data = zip_of({"a.py": b"x" * 500_000})
    (tmp_path / "a.zip").write_bytes(data.replace(struct.pack("<L", 500_000), struct.pack("<L", 100)))
    documents, trouble, _ = read_source(tmp_path / "a.zip")
    assert not documents and dict(trouble.counts) == {"broken": 1}


def test_packings_without_a_limit_are_not_unpacked(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zip_of({"a.py": b"x" * 5000}, zipfile.ZIP_BZIP2))
    with pytest.raises(DataError, match="unreadable: 1"):
        read_source(tmp_path / "a.zip")


@pytest.mark.parametrize(("name", "data", "words"), [
    ("a.zip", b"PK\3\4", "not a whole zip"), ("a.zip", b"", "not a whole zip"), ("a.tar.gz", b"plain", "not a gzip file"),
    ("a.tar.xz", tar_of(FILES), "not a xz file"), ("a.rar", b"", "not an archive"),
])  # fmt: skip
def test_what_is_no_archive_is_an_error(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=words):
        read_source(tmp_path / name, kind="archive")
