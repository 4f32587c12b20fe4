"""Duplicates: planted ones are found as often as the formula says, nothing else is dropped, whatever the memory, the number of tasks, and what was killed."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nabi.data.corpus import exact, jobs, near
from nabi.data.corpus.duplicates import EXACT, KEPT, LEFTOVERS, NEAR, STAGES, Job, dropped, find, summary
from nabi.data.corpus.marks import Marker, ShardReader, ShardWriter, folded, marks_path
from nabi.data.corpus.minhash import Near
from nabi.data.corpus.runs import Run, pieces, write
from nabi.errors import DataError, OptionError, StorageError

# similarity: shared shingles, all shingles of one text
LEVELS = {0.3: (60, 130), 0.45: (90, 145), 0.7: (140, 170), 0.8: (152, 171), 0.9: (162, 171), 0.95: (152, 156)}
WORDS = 5
RULE = Near()


def planted(shared: int, count: int, draw: random.Random) -> tuple[str, str]:
    """Two texts of ``count`` shingles each, of which ``shared`` are in both: a common beginning, then words of their own."""
    names = [f"w{draw.getrandbits(50):x}" for _ in range(2 * count)]
    head, tail = shared + WORDS - 1, count - shared
    return " ".join(names[: head + tail]), " ".join(names[:head] + names[head + tail : head + 2 * tail])


def slow_jaccard(a: str, b: str) -> float:
    sets = []
    for text in (a, b):
        words = text.split()
        sets.append({tuple(words[i : i + WORDS]) for i in range(len(words) - WORDS + 1)})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def shards(folder: Path, texts: list[str], count: int, near: Near | None) -> None:
    """The texts in order in ``count`` shards of uneven length."""
    cuts = [round(len(texts) * (i / count) ** 1.3) for i in range(count + 1)]
    for number in range(count):
        with ShardWriter(folder, number, near) as writer:
            for text in texts[cuts[number] : cuts[number + 1]]:
                writer.add(json.dumps({"text": text, "path": "x"}).encode(), text)


def outcome(job: Job) -> list[tuple[int, int, float]]:
    """For each document the reason, the number of the document that it equals (-1: none), the similarity."""
    starts = job.starts()
    found = np.concatenate([dropped(job, shard) for shard in range(job.shards)])
    of = np.where(found["reason"] == KEPT, -1, starts[found["shard"]] + found["row"])
    return list(zip(found["reason"].tolist(), of.tolist(), found["jaccard"].tolist(), strict=True))


def search(folder: Path, texts: list[str], *, count: int = 3, near: Near | None = RULE, **options: Any) -> list[tuple[int, int, float]]:
    folder.mkdir(exist_ok=True)
    shards(folder, texts, count, near)
    job = Job(folder, count, near, **options)
    find(job)
    return outcome(job)


@pytest.fixture(scope="module")
def corpus() -> tuple[list[str], dict[int, tuple[int, float]]]:
    """Texts; for the later of each planted pair the number of the earlier and their similarity."""
    draw = random.Random(5)
    texts, pairs = [" ".join(f"f{draw.getrandbits(40):x}" for _ in range(draw.randrange(1, 120))) for _ in range(600)], []
    for similarity, (shared, count) in LEVELS.items():
        for _ in range(150):
            a, b = planted(shared, count, draw)
            pairs.append((len(texts), len(texts) + 1, similarity))
            texts += [a, b]
    order = list(range(len(texts)))
    draw.shuffle(order)
    at = {old: new for new, old in enumerate(order)}
    partners = {max(at[a], at[b]): (min(at[a], at[b]), similarity) for a, b, similarity in pairs}
    return [texts[i] for i in order], partners


def test_planted_near_duplicates_are_found_as_the_formula_says_and_nothing_else(tmp_path: Path, corpus: tuple[list[str], dict[int, tuple[int, float]]]) -> None:
    texts, partners = corpus
    rule = Near(threshold=0.65)
    found = search(tmp_path, texts, near=rule)
    hits, planted_pairs = dict.fromkeys(LEVELS, 0), dict.fromkeys(LEVELS, 0)
    for doc, (earlier, similarity) in partners.items():
        planted_pairs[similarity] += 1
        reason, of, measured = found[doc]
        if reason == NEAR:
            hits[similarity] += 1
            assert of == earlier and measured == pytest.approx(similarity) == pytest.approx(slow_jaccard(texts[doc], texts[earlier]))
    assert {doc for doc, (reason, _, _) in enumerate(found) if reason != KEPT} <= set(partners)
    assert hits[0.3] == hits[0.45] == 0
    for similarity in (0.7, 0.8, 0.9, 0.95):
        expected = rule.probability(similarity)
        assert abs(hits[similarity] / 150 - expected) <= 3.5 * math.sqrt(expected * (1 - expected) / 150) + 0.005, similarity
    assert all(measured >= 0.65 for reason, _, measured in found if reason == NEAR)


def test_texts_below_the_threshold_stay(tmp_path: Path, corpus: tuple[list[str], dict[int, tuple[int, float]]]) -> None:
    texts, partners = corpus
    found = search(tmp_path, texts, near=Near(threshold=0.8))
    gone = [partners[doc][1] for doc, (reason, _, _) in enumerate(found) if reason == NEAR]
    assert set(gone) == {0.8, 0.9, 0.95} and len(gone) > 400


def test_exact_duplicates_agree_with_a_plain_hash(tmp_path: Path) -> None:
    draw = random.Random(1)
    base = ["", " \n", "나비는 한국어다", "def f(x):\n    return x\n", "é à", "日本語 テキスト", "x" * 1000, "a\u3000b\u00a0c", "a\x1cb\x85c"]
    base += [f"text {i} " * draw.randrange(1, 5) for i in range(150)]
    change = [str, lambda t: t.replace(" ", "\n\t"), lambda t: unicodedata.normalize("NFD", t), lambda t: t + "\u2028 ", lambda t: t + "!", str.upper]
    texts = [draw.choice(change)(draw.choice(base)) for _ in range(1000)]
    found = search(tmp_path, texts, count=4, near=None)
    first: dict[str, int] = {}
    expected = []
    for number, text in enumerate(texts):
        plain = hashlib.sha256("".join(unicodedata.normalize("NFC", text).split()).encode()).hexdigest()
        of = first.setdefault(plain, number)
        expected.append((KEPT, -1, 0.0) if of == number else (EXACT, of, 1.0))
    assert found == expected and 300 < sum(reason == EXACT for reason, _, _ in found) < 900


def test_without_exact_the_same_texts_are_near_duplicates(tmp_path: Path) -> None:
    texts = ["one two three four five six seven", "short", "short", "one two three four five six seven"]
    assert search(tmp_path, texts, exact=False) == [(KEPT, -1, 0), (KEPT, -1, 0), (KEPT, -1, 0), (NEAR, 0, 1)]
    assert search(tmp_path, texts, near=None, exact=False) == [(KEPT, -1, 0)] * 4


def test_nothing_is_merged_through_a_chain(tmp_path: Path) -> None:
    words = [f"w{i}" for i in range(404)]
    texts = [" ".join(words[shift : shift + 304]) for shift in (0, 25, 50, 75)]  # neighbours .85, every other .71
    found = search(tmp_path, texts, near=Near(threshold=0.8, bands=100, rows=4))
    assert slow_jaccard(texts[0], texts[1]) > 0.8 > slow_jaccard(texts[0], texts[2])
    assert [(reason, of) for reason, of, _ in found] == [(KEPT, -1), (NEAR, 0), (KEPT, -1), (NEAR, 2)]


def test_exact_duplicates_go_before_near_ones(tmp_path: Path) -> None:
    a, b = planted(*LEVELS[0.95], random.Random(2))
    assert [(reason, of) for reason, of, _ in search(tmp_path, [a, b, b, a], count=2)] == [(KEPT, -1), (NEAR, 0), (EXACT, 1), (EXACT, 0)]


@pytest.mark.parametrize(
    ("one", "other", "far"),
    [
        ("나비는 꽃에서 꽃으로 날아다니며 꿀을 빨아먹는다. 낮에 활동한다.", "나비는 꽃에서 꽃으로 날아다니며, 꿀을 빨아먹는다! 낮에 활동한다", "서로 다르다"),
        ("吾輩は猫である。名前はまだ無い。どこで生れたか", "吾輩は猫である、名前はまだ無い…どこで　生れたか", "国境の長いトンネルを抜けると雪国であった"),
        ("😀😃😄😁😆😅🤣😂🙂🙃", "😀 😃 😄 😁 😆 😅 🤣 😂 🙂 🙃!", "🦋🦊🐻🐼🐨🐯🦁🐮"),
    ],
)
def test_korean_japanese_and_emoji_texts_are_found(tmp_path: Path, one: str, other: str, far: str) -> None:
    found = search(tmp_path, [one, far, other])
    assert [(reason, of) for reason, of, _ in found] == [(KEPT, -1), (KEPT, -1), (NEAR, 0)]


def test_degenerate_texts(tmp_path: Path) -> None:
    texts = ["", "word", "a" * 1_000_000, "😀" * 10, "word", "", "a" * 999_999, "😀" * 9, "- , .", "a " * 50_000, "a " * 40_000]
    found = search(tmp_path, texts, count=4)
    assert [(reason, of) for reason, of, _ in found] == [*[(KEPT, -1)] * 4, (EXACT, 1), (EXACT, 0), (KEPT, -1), (NEAR, 3), *[(KEPT, -1)] * 2, (NEAR, 9)]


@pytest.mark.parametrize("texts", [[], ["only one text is here, of some words"], ["", ""]])
def test_tiny_corpora_and_empty_shards(tmp_path: Path, texts: list[str]) -> None:
    assert len(search(tmp_path, texts, count=3)) == len(texts)


def test_the_result_is_the_same_for_any_memory_shards_and_tasks_even_killed_ones(
    tmp_path: Path, corpus: tuple[list[str], dict[int, tuple[int, float]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [*corpus[0][:900], *corpus[0][200:300], *["the same words that many documents have in them"] * 50]
    plain = search(tmp_path / "plain", texts)
    assert {reason for reason, _, _ in plain} == {KEPT, EXACT, NEAR}
    monkeypatch.setattr(jobs, "LEAST", 0)
    monkeypatch.setattr(near, "PIECE", 97)
    monkeypatch.setattr(exact, "parts", lambda *call: 3 * jobs.parts(*call))
    other = tmp_path / "other"
    other.mkdir()
    shards(other, texts, 8, Near())
    memory = 0
    while True:  # the least that is not refused
        job = Job(other, 8, Near(), memory)
        try:
            STAGES[0].tasks(job)
            break
        except OptionError as problem:
            memory = int(problem.expected.split()[2])
    draw = random.Random(0)
    sync, killed, counts = os.fsync, 0, {}

    def dies(_: int) -> None:
        raise KeyboardInterrupt

    for stage in STAGES:
        tasks = list(range(stage.tasks(job)))
        counts[stage.name] = len(tasks)
        tasks += draw.choices(tasks, k=len(tasks) // 3)  # some are repeated
        draw.shuffle(tasks)
        for task in tasks:
            if draw.random() < 0.5:
                before = stage.output(job, task).exists()
                monkeypatch.setattr(os, "fsync", dies)
                with pytest.raises(KeyboardInterrupt):
                    stage.run(job, task)
                monkeypatch.setattr(os, "fsync", sync)
                killed += 1
                assert stage.output(job, task).exists() == before
            stage.run(job, task)
            assert stage.output(job, task).exists()
    assert outcome(job) == plain and killed > 20
    assert min(counts.values()) == counts.pop("clusters") == 1 < min(counts.values()), counts
    summaries = [summary(done, sample=0) for done in (job, Job(tmp_path / "plain", 3, RULE))]
    assert summaries[0] == summaries[1]
    assert summaries[0]["near"] == sum(reason == NEAR for reason, _, _ in plain) and summaries[0]["documents"] == len(texts)


def test_a_bucket_read_in_several_blocks_is_one_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "PIECE", 7)
    rule = Near(bands=1, rows=1, threshold=1.0)  # one key, so nothing else ties the blocks
    texts = ["a b c d e" + "!" * i for i in range(40)] + ["v w x y z", "v, w x y z", "only this one here is alone"]
    assert [of for _, of, _ in search(tmp_path, texts, near=rule)] == [-1, *[0] * 39, -1, 40, -1]
    assert json.loads((tmp_path / "clusters.json").read_text()) == {"tasks": 1, "records": 42, "largest": 40}


def test_a_heap_of_one_make_stays_near_linear_and_what_is_left_out_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boilerplate = " ".join(f"w{i}" for i in range(200))
    alike = [f"{boilerplate} {i}" for i in range(3000)]
    found = search(tmp_path / "alike", alike)
    assert [of for _, of, _ in found] == [-1] + [0] * 2999
    assert summary(Job(tmp_path / "alike", 3, Near()))["compared"] == 2999  # each with the one that was kept, not with each other
    # texts that share keys, but too little to be dropped: only some are remembered and compared
    monkeypatch.setattr(near, "REMEMBERED", 10)
    monkeypatch.setattr(near, "TRIES", 5)
    draw = random.Random(0)
    shared = " ".join(f"w{i}" for i in range(200))
    unlike = [" ".join([shared, *(f"u{draw.getrandbits(40):x}" for _ in range(40))]) for _ in range(300)]
    found = search(tmp_path / "unlike", unlike, near=Near(threshold=0.95))
    counts = summary(Job(tmp_path / "unlike", 3, Near()))
    assert all(reason == KEPT for reason, _, _ in found)
    assert 500 < counts["compared"] <= 5 * 300 and 200 < counts["capped"] < 300


def test_the_summary_has_a_sample_of_pairs(tmp_path: Path, corpus: tuple[list[str], dict[int, tuple[int, float]]]) -> None:
    found = search(tmp_path, corpus[0])
    job = Job(tmp_path, 3, Near())
    starts, sample = job.starts(), summary(job, sample=7)["near_pairs"]
    assert len(sample) == 7 and sample == summary(job, sample=7)["near_pairs"]
    for pair in sample:
        (shard, row), (of_shard, of_row) = pair["document"], pair["of"]
        assert found[starts[shard] + row] == (NEAR, starts[of_shard] + of_row, pytest.approx(pair["jaccard"], abs=1e-4))
    assert {pair["document"][0] for pair in sample} != {0}


def test_what_may_be_deleted_is_deleted_without_loss(tmp_path: Path) -> None:
    found = search(tmp_path, ["a b c d e f", "a b c d e f!", "short"])
    for pattern in LEFTOVERS:
        assert list(tmp_path.glob(pattern))
        for path in tmp_path.glob(pattern):
            path.unlink()
    assert sorted({path.name.split("-")[0] for path in tmp_path.iterdir()}) == ["docs", "dropped", "marks"]
    assert outcome(Job(tmp_path, 3, Near())) == found


# the files


def test_a_shard_is_read_as_it_was_written(tmp_path: Path) -> None:
    texts = ["one", "", "둘 셋", "line\nend", "x" * 10_000]
    shards(tmp_path, texts, 1, Near())
    with ShardReader(tmp_path, 0) as reader:
        assert [reader.text(row) for row in (4, 0, 3, 2, 1)] == [texts[row] for row in (4, 0, 3, 2, 1)]
        assert json.loads(reader.line(2)) == {"text": "둘 셋", "path": "x"}
        marks, marker = reader.marks(), Marker(Near())
    assert [record["digest"].tobytes() + record["keys"].tobytes() for record in marks] == [marker.mark(text) for text in texts]
    assert marks["digest"][0].tobytes() == hashlib.sha256(b"one").digest()[:16]
    assert (tmp_path / "docs-00000.jsonl").read_bytes().splitlines()[2] == json.dumps({"text": "둘 셋", "path": "x"}).encode()


def test_a_shard_that_was_not_finished_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), ShardWriter(tmp_path, 0, None) as writer:
        writer.add(b"{}", "")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StorageError, match="docs-00000"), ShardWriter(tmp_path, 0, None) as writer:
        writer.add(b"{}", "")
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_shards_that_are_missing_or_changed_are_refused(tmp_path: Path) -> None:
    shards(tmp_path, ["a b c d e f g"] * 5, 2, Near())
    with pytest.raises(DataError, match="missing.*00002"):
        find(Job(tmp_path, 3, Near()))
    with pytest.raises(OptionError, match="band keys of shard 0: 14. Expected 5"):
        find(Job(tmp_path, 2, Near(bands=5)))
    for change in (lambda data: data[:-1], lambda data: b"X" + data[1:], lambda data: data[:7], lambda data: b""):
        copy = tmp_path / "copy"
        shutil.copytree(tmp_path, copy, ignore=shutil.ignore_patterns("copy"))
        marks_path(copy, 1).write_bytes(change(marks_path(copy, 1).read_bytes()))
        with pytest.raises(DataError, match="cut or changed.*marks-00001"):
            find(Job(copy, 2, Near()))
        shutil.rmtree(copy)
    docs = tmp_path / "docs-00001.jsonl"
    docs.write_bytes(docs.read_bytes() + b"{}\n")
    with pytest.raises(DataError, match="cut or changed"):
        find(Job(tmp_path, 2, Near()))


def test_too_little_memory_is_refused_with_what_would_do(tmp_path: Path) -> None:
    shards(tmp_path, ["a b c d e f g"] * 5, 2, Near())
    with pytest.raises(OptionError, match=rf"memory.*{100 << 20}.*at least {160 << 20} for 5 documents"):
        find(Job(tmp_path, 2, Near(), memory=100 << 20))
    find(Job(tmp_path, 2, Near(), memory=160 << 20))


def test_twenty_million_documents_fit_half_a_gigabyte_and_more_are_refused() -> None:
    job = Job(Path(), 1000, Near(), memory=512 * 10**6)
    jobs.need(job, np.linspace(0, 20_000_000, 1001).astype(np.int64), cluster=1_000_000)
    with pytest.raises(OptionError, match="memory"):
        jobs.need(job, np.linspace(0, 60_000_000, 1001).astype(np.int64))
    with pytest.raises(OptionError, match="largest cluster"):
        jobs.need(job, np.linspace(0, 20_000_000, 1001).astype(np.int64), cluster=2_000_000)
    with pytest.raises(OptionError, match="below"):
        jobs.need(Job(Path(), 2, None, memory=1 << 50), np.array([0, 1 << 31, 1 << 32]))


def test_pieces_of_sorted_files_hold_every_record_once_and_keys_whole(tmp_path: Path) -> None:
    kind = np.dtype([("key", "<u8"), ("doc", "<u4")])
    draw = np.random.default_rng(0)
    runs, everything = [], []
    for i in range(4):
        records = np.zeros(int(draw.integers(0, 60)), kind)
        records["key"] = np.sort(draw.choice(np.array([0, 1, 2, 5, 1 << 40, (1 << 64) - 1], np.uint64), len(records)))
        records["doc"] = np.arange(len(records)) + 100 * i
        write(tmp_path / f"{i}", [records[:10], records[10:]])
        runs.append(Run(tmp_path / f"{i}", kind, "key"))
        everything += records.tolist()
    for most in (1, 7, 30, 1000):
        seen: list[tuple[int, int]] = []
        closed: set[int] = set()
        for records, alone in pieces(runs, 0, 1 << 64, most):
            keys = set(records["key"].tolist())
            assert 0 < len(records) <= most and (len(keys) == 1 or not alone) and not keys & closed
            if not alone:
                closed |= keys
            seen += records.tolist()
        assert sorted(seen) == sorted(everything)
    some = [record for records, _ in pieces(runs, 1, 3, 5) for record in records.tolist()]
    assert sorted(some) == sorted(record for record in everything if record[0] in (1, 2))


def test_trees_that_are_united_have_the_lowest_number_at_the_root() -> None:
    draw = np.random.default_rng(1)
    for _ in range(30):
        count = int(draw.integers(2, 200))
        parent, slow = np.arange(count, dtype=np.uint32), {i: {i} for i in range(count)}
        for _ in range(3):
            a, b = draw.integers(0, count, (2, int(draw.integers(0, count)))).astype(np.uint32)
            for x, y in zip(a.tolist(), b.tolist(), strict=True):
                both = slow[x] | slow[y]
                slow.update(dict.fromkeys(both, both))
            near.unite(parent, a.copy(), b.copy())
        for i in range(count):
            root = i
            while parent[root] != root:
                root = int(parent[root])
            assert root == min(slow[i])


def test_white_space_is_what_python_says() -> None:
    def plain(text: str) -> bytes:
        return "".join(unicodedata.normalize("NFC", text).split()).encode()

    everything = [chr(c) for c in range(0x3100) if not unicodedata.combining(chr(c))]
    for text in ("".join(everything), *("a" + c + "b" for c in everything[:256])):
        assert folded(text) == plain(text)
    assert folded("a\udc80 b") == b"a\xed\xb2\x80b"


def test_finding_duplicates_needs_no_torch() -> None:
    code = "import sys, nabi.data.corpus.duplicates as d; print(any(name in sys.modules for name in ('torch', 'pyarrow', 'pandas')), len(d.STAGES))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == ["False", "8"]
