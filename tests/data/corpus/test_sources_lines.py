"""Plain text as a source: whole files, and long ones cut between paragraphs."""

from __future__ import annotations

import gzip
import itertools
import random
from pathlib import Path

import pytest
import zstandard

from corpus_reading import read_source
from nabi.data.corpus import listing, rows
from nabi.data.corpus.documents import Origin, Trouble
from nabi.data.corpus.sources import open_origin
from nabi.errors import DataError


def book(seed: int, end: str = "\n") -> str:
    drawn = random.Random(seed)
    paragraphs = [end.join(f"줄 {i} " + "w" * drawn.randrange(20) for _ in range(drawn.randrange(1, 4))) for i in range(60)]
    return "".join(p + end * drawn.randrange(2, 5) for p in paragraphs)


@pytest.mark.parametrize("pack", ["", ".gz", ".zst"])
def test_a_file_that_fits_is_one_document(tmp_path: Path, pack: str) -> None:
    data = book(0).encode()
    (tmp_path / f"a.txt{pack}").write_bytes({"": data, ".gz": gzip.compress(data), ".zst": zstandard.compress(data)}[pack])
    (document,), _, _ = read_source(tmp_path / f"a.txt{pack}", max_bytes=len(data), license="CC0-1.0")
    assert document.text == book(0) and document.path == f"a.txt{pack}" and document.facts == {"license": "CC0-1.0"}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("pack", ["", ".gz", ".zst"])
def test_a_long_file_is_cut_between_paragraphs_and_nothing_is_lost(tmp_path: Path, pack: str, end: str) -> None:
    data = book(1, end).encode()
    (tmp_path / f"a.txt{pack}").write_bytes({"": data, ".gz": gzip.compress(data), ".zst": zstandard.compress(data)}[pack])
    documents, trouble, _ = read_source(tmp_path / f"a.txt{pack}", max_bytes=400)
    assert len(documents) > 5 and not trouble.counts
    assert all(len(d.text.encode()) <= 400 for d in documents)
    assert [w for d in documents for w in d.text.split()] == data.decode().split()
    for d in documents:
        at = int(d.path.partition("@")[2])
        assert data[at:].decode().startswith(d.text.split(end)[0]) and (not at or data[:at].endswith(end.encode() * 2))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_byte_ranges_read_the_same_as_the_whole_for_any_cut(tmp_path: Path, end: str) -> None:
    data = (book(2, end) + "x" * 700 + end + "y" + end * 2 + "last").encode() + b"\xff" + (end * 2).encode() + b"end"
    (tmp_path / "a.txt").write_bytes(data)
    source = open_origin(Origin(str(tmp_path / "a.txt"), max_bytes=300))

    def read(cuts: list[int]) -> tuple[list[tuple[str, str]], Trouble]:
        trouble, found = Trouble(most=1000), []
        for start, stop in itertools.pairwise(cuts):
            found += [(d.path, d.text) for d in source.documents(listing.Entry("a.txt", start, stop), trouble)]  # type: ignore[attr-defined]
        return found, trouble

    expected, troubles = read([0, len(data)])
    assert dict(troubles.counts) == {"too long": 1, "not UTF-8": 1} and expected[-1][1] == "end"
    for cut in range(1, len(data), 11):
        assert read([0, cut, len(data)]) == (expected, troubles), cut
    for seed in range(20):
        cuts = sorted(random.Random(seed).sample(range(1, len(data)), 20))
        assert read([0, *cuts, len(data)]) == (expected, troubles), seed


def test_units_of_a_big_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a.txt").write_text(book(3))
    (tmp_path / "c.txt").write_text("short")
    (tmp_path / "d.md").write_text("other")
    expected, _, _ = read_source(tmp_path, kind="text", max_bytes=400)
    for module in (rows, listing):
        monkeypatch.setattr(module, "UNIT", 500)
    documents, _, units = read_source(tmp_path, kind="text", max_bytes=400)
    assert documents == expected and documents[-1].text == "short" and len(units) > 5


def test_a_named_file_may_have_any_ending_and_a_missing_one_is_told(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("read me")
    assert read_source(tmp_path / "README", kind="text")[0][0].text == "read me"
    with pytest.raises(DataError, match="no such text"):
        open_origin(Origin("nowhere.txt", kind="text"))
