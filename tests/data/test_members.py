"""What lies beside a table, by key: folders, TAR and NPZ, and what is refused."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from nabi.data import members, read_table
from nabi.data.corpus.streams import HostileError
from nabi.data.members import Members, members_beside, open_members
from nabi.errors import DataError

FILES = {"a.jpg": b"\xff\xd8one", "b.jpg": b"", "deep/c.png": b"three" * 1000}


def tar(path: Path, files: dict[str, bytes], **fields: object) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for field, value in fields.items():
                setattr(info, field, value)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture(params=["folder", "tar"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Members:
    if request.param == "tar":
        return open_members(tar(tmp_path / "x.tar", FILES))
    for name, data in FILES.items():
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).write_bytes(data)
    return open_members(tmp_path / "x")


def test_members_are_read_by_name_with_or_without_the_ending(place: Members) -> None:
    assert list(place) == list(FILES) and len(place) == 3
    for name, data in FILES.items():
        assert place[name] == data and place[name.rpartition(".")[0]] == data and name in place
    assert "x" not in place and 3.5 not in place


def test_a_missing_key_is_named_and_so_is_the_row(place: Members) -> None:
    with pytest.raises(DataError, match=r"no member has this key: 'aa\.jpg'.*such as a\.jpg"):
        place["aa.jpg"]
    with pytest.raises(DataError, match=r"t\.csv, line 4: x.*no member has this key: 'zz'"):
        place.of({"image": "zz"}, "image", "t.csv, line 4")
    for odd in (None, 1.5, True):
        with pytest.raises(DataError, match=r"t\.csv, line 4: image is no key"):
            place.of({"image": odd}, "image", "t.csv, line 4")
    assert place.of({"image": "a"}, "image", "t.csv, line 4") == FILES["a.jpg"]


def test_a_key_of_several_members_is_refused(tmp_path: Path) -> None:
    both = open_members(tar(tmp_path / "x.tar", {"a.jpg": b"1", "a.png": b"2"}))
    assert both["a.png"] == b"2"
    with pytest.raises(DataError, match=r"several members have this key: 'a'\. Expected a\.jpg, a\.png\."):
        both["a"]


@pytest.mark.parametrize("name", ["../out.jpg", "/etc/x", "a/../../b", "c:x", "a\\b"])
def test_names_that_lead_outside_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(HostileError, match=r"bad\.tar: a member's name"):
        open_members(tar(tmp_path / "bad.tar", {"a.jpg": b"1", name: b"2"}))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(kind: bytes, tmp_path: Path) -> None:
    with pytest.raises(HostileError, match="a link or a device"):
        open_members(tar(tmp_path / "bad.tar", {"a": b""}, type=kind, linkname="/etc/passwd"))


def test_a_link_out_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "secret").write_bytes(b"1")
    (tmp_path / "x" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(HostileError, match="a link leads outside"):
        open_members(tmp_path / "x")["link"]


def test_broken_archives_are_refused(tmp_path: Path) -> None:
    whole = tar(tmp_path / "a.tar", FILES).read_bytes()
    for cut in (100, 1024, 1030, 1536, 2000, 4500):
        (tmp_path / "a.tar").write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"a\.tar: not a whole TAR archive"):
            open_members(tmp_path / "a.tar")["deep/c.png"]
    (tmp_path / "a.tar").write_bytes(b"no archive" * 100)
    with pytest.raises(DataError, match="not a whole TAR archive"):
        open_members(tmp_path / "a.tar")
    with pytest.raises(DataError, match="two members have one name"):
        data = tar(tmp_path / "a.tar", {"a": b"1"}).read_bytes()[:1024]
        (tmp_path / "a.tar").write_bytes(data * 2 + bytes(1024))
        open_members(tmp_path / "a.tar")
    (tmp_path / "a.tar.gz").write_bytes(b"x")
    with pytest.raises(DataError, match="not a place of members.*Unpack it"):
        open_members(tmp_path / "a.tar.gz")
    with pytest.raises(DataError, match="no such file or folder"):
        open_members(tmp_path / "none.tar")


def test_an_archive_that_changes_is_noticed(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", FILES)
    place = open_members(path)
    assert place["a"] == FILES["a.jpg"]
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(DataError, match="changed while it was in use"):
        place["deep/c"]


def test_a_member_that_is_too_large_is_refused(place: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "LARGEST", 4999)
    assert place["a"] == FILES["a.jpg"]
    with pytest.raises(DataError, match=r"a member is too large: 'deep/c\.png, 5,000 bytes'"):
        place["deep/c"]


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "MOST", 2)
    with pytest.raises(DataError, match="too many members"):
        open_members(tar(tmp_path / "a.tar", FILES))


def test_entries_of_an_npz_are_read_by_number(tmp_path: Path) -> None:
    pictures = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    np.savez(tmp_path / "train_images.npz", images=pictures)
    (tmp_path / "train.jsonl").write_text(json.dumps({"index": 1, "text": "x"}) + "\n" + json.dumps({"index": 2, "text": "y"}) + "\n")
    place, table = members_beside(tmp_path / "train.jsonl"), read_table(tmp_path / "train.jsonl")
    assert np.array_equal(place.of(table[0], "index", table.where(0)), pictures[1]) and np.array_equal(place["0"], pictures[0])
    with pytest.raises(DataError, match=r"train\.jsonl, line 2: .*no member has this key: '2'"):
        place.of(table[1], "index", table.where(1))
    np.savez(tmp_path / "two.npz", a=pictures, b=pictures)
    with pytest.raises(DataError, match="which array holds the members is not clear.*one of a, b"):
        open_members(tmp_path / "two.npz")
    assert np.array_equal(open_members(tmp_path / "two.npz", "b")[1], pictures[1])


def test_the_place_beside_a_table_must_be_one(tmp_path: Path) -> None:
    table = tmp_path / "dev.jsonl.gz"
    table.write_bytes(b"")
    with pytest.raises(DataError, match="no place of members beside the table"):
        members_beside(table)
    tar(tmp_path / "dev_images.tar", FILES)
    tar(tmp_path / "developers.tar", FILES)
    assert members_beside(table)["a"] == FILES["a.jpg"]
    (tmp_path / "dev").mkdir()
    with pytest.raises(DataError, match="several places of members.*dev, dev_images.tar"):
        members_beside(table)
