"""Counting a corpus: figures beside numpy's, in bounded memory; the page is whole and escapes what comes from data."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from nabi.data.corpus import counts
from nabi.data.corpus.counts import OTHER, tally
from nabi.data.corpus.documents import Document
from nabi.data.corpus.stats import Lengths, Stats, corpus_stats, page, told
from nabi.errors import DataError


def test_percentiles_are_numpys_to_one_percent() -> None:
    dice = random.Random(0)
    values = [int(dice.lognormvariate(8, 2)) for _ in range(20_000)]
    lengths = Lengths()
    for value in values:
        lengths.add(value)
    facts = lengths.facts()
    assert (facts["total"], facts["least"], facts["most"]) == (sum(values), min(values), max(values))
    for share in (1, 5, 25, 50, 75, 95, 99):
        assert facts[f"p{share}"] == pytest.approx(np.percentile(values, share, method="inverted_cdf"), rel=0.01), share
    assert facts["p50"] != pytest.approx(np.percentile(values, 60), rel=0.3), "the bound would pass another percentile"
    assert len(lengths._bins) < 3000
    edges, bars = lengths.octaves()
    assert sum(bars) == len(values) and len(edges) == len(bars) + 1
    assert bars[edges.index(10.0)] == sum(1024 <= value < 2048 for value in values)


def test_short_lengths_are_exact() -> None:
    lengths = Lengths()
    for value in (0, 1, 5, 127):
        lengths.add(value)
    assert [lengths.percentile(share) for share in (25, 50, 75, 100)] == [0, 1, 5, 127]
    assert Lengths().facts()["p50"] == 0


def test_a_table_of_names_does_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "MOST", 3)
    table: counts.Tally = {}
    for name in "abcdea":
        tally(table, name, 1, 10)
    assert table == {"a": [2, 20], "b": [1, 10], "c": [1, 10], OTHER: [2, 20]}


def test_any_source_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("one\ntwo\n")
    (tmp_path / "b.md").write_text("three")
    (tmp_path / "c.bin").write_bytes(b"\x00\x01")
    stats = corpus_stats(tmp_path)
    facts = stats.facts()
    assert (facts["documents"], facts["bytes"]["total"], facts["lines"]["total"]) == (2, 13, 3)
    assert facts["extensions"] == {".md": {"documents": 1, "bytes": 5}, ".py": {"documents": 1, "bytes": 8}}
    assert sum(facts["unreadable"].values()) == 1
    (tmp_path / "rows.jsonl").write_text(json.dumps({"content": "x\ud800", "path": "y.py"}) + "\n" + json.dumps({"content": "나비", "repo_name": "o/n"}) + "\n")
    facts = corpus_stats(tmp_path / "rows.jsonl").facts()
    assert facts["bytes"]["total"] == 6 and facts["repositories"]["o/n"]["documents"] == 1
    with pytest.raises(DataError, match="no such file or folder"):
        corpus_stats(tmp_path / "nowhere")


def test_the_page_escapes_what_comes_from_data() -> None:
    stats = Stats("<b>corpus</b>")
    for number in range(50):
        stats.add(Document("word " * (number + 1), f"f{number}.py", {"language": "<script>", "repo": f"o/<i>{number}"}), "train")
    html = page(stats)
    assert "<script>" not in html and "<b>corpus" not in html and "&lt;script&gt;" in html and html.count("<svg") == 2
    assert "The 20 with the most documents of 50." in html and "http" not in html.partition("<body>")[2].replace("http-equiv", "")
    assert "documents" in "\n".join(told(stats)) and "<script>" in "\n".join(told(stats))
    assert page(Stats("empty"))
