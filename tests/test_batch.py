"""Packing: which row went where, how targets travel, what is refused."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nabi.batch import FILLER, Row, Target, batch_of, pack
from nabi.errors import InputError


def text(length, example=0, first=0, **options):
    return Row({"text": {"tokens": list(range(first, first + length))}}, example=example, **options)


def rows_of(part, stream="tokens"):
    return [part.streams[stream][b : b + n].tolist() for b, n in zip(part.layout.begins.tolist(), part.layout.lengths, strict=True)]


@settings(deadline=None)
@given(st.lists(st.integers(1, 12), max_size=12), st.integers(1, 30))
def test_pack_orders_by_length_and_fills_by_tokens(lengths, tokens):
    rows = [text(n, example=i, first=100 * i) for i, n in enumerate(lengths)]
    batches = list(pack(rows, tokens=tokens))
    ids = [i for b in batches for i in b.parts["text"].ids]
    assert sorted(ids) == list(range(len(rows)))
    assert [rows[i].tokens for i in ids] == sorted(lengths)
    for batch, after in pairwise(batches):
        assert batch.tokens + rows[after.parts["text"].ids[0]].tokens > tokens  # no batch is closed early
    for batch in batches:
        part = batch.parts["text"]
        assert batch.tokens <= tokens or len(part.ids) == 1
        assert rows_of(part) == [rows[i].parts["text"]["tokens"] for i in part.ids]  # ids map back
        assert part.example.tolist() == list(part.ids) and part.size == len(part.ids)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 3)), min_size=1, max_size=10), st.integers(1, 20))
def test_together_keeps_the_rows_of_an_example_in_one_batch(made, tokens):
    rows = [text(n, example=e) for n, e in made]
    seen = [set(b.parts["text"].example.tolist()) for b in pack(rows, tokens=tokens, together=True)]
    assert sum(map(len, seen)) == len(set().union(*seen))
    for batch in pack(rows, tokens=tokens, together=True):
        ids = batch.parts["text"].ids
        assert batch.tokens <= tokens or len({rows[i].example for i in ids}) == 1
        for e in {rows[i].example for i in ids}:
            assert [i for i in ids if rows[i].example == e] == [i for i, row in enumerate(rows) if row.example == e]  # in encode's order


def test_without_together_an_example_may_be_cut():
    rows = [text(4, example=0), text(4, example=1), text(4, example=0)]
    assert [b.parts["text"].ids for b in pack(rows, tokens=8)] == [(0, 1), (2,)]
    assert [b.parts["text"].ids for b in pack(rows, tokens=8, together=True)] == [(1,), (0, 2)]


def test_the_four_kinds_of_target():
    targets = {
        "tag": Target("token"),
        "label": Target("row"),
        "choice": Target("example"),
        "spans": Target("ragged"),
        "score": Target("row", dtype=torch.float32),
    }
    given_ = [
        {"tag": [1, 2], "label": 7, "choice": 3, "spans": [], "score": 0.5},
        {"tag": [4], "label": 8, "choice": 3, "spans": [5, 6, 7], "score": 2},
        {"tag": [9, 9, 9], "label": 6, "choice": 1, "spans": [8], "score": -1},
    ]
    rows = [text(len(t["tag"]), example=e, targets=t) for t, e in zip(given_, (4, 4, 2), strict=True)]
    got = batch_of(rows, [1, 0, 2], targets).targets
    assert {k: v.tolist() for k, v in got.items()} == {
        "tag": [4, 1, 2, 9, 9, 9],
        "label": [8, 7, 6],
        "choice": [3, 1],
        "spans": [5, 6, 7, 8],
        "spans.lengths": [3, 0, 1],
        "score": [2.0, 0.5, -1.0],
    }
    assert got["score"].dtype == torch.float32 and got["label"].dtype == torch.int64
    assert batch_of(rows, [0], {}).targets == {}
    assert [b.targets["label"].tolist() for b in pack(rows, targets=targets)] == [[8, 7, 6]]


def test_targets_of_another_part():
    """An image with its labels: a target goes with the rows of its own part."""
    image = Row({"image": {"patches": torch.randn(2, 3)}}, targets={"kind": 1}, example=0)
    labels = [Row({"text": {"tokens": [i]}}, targets={"match": i}, example=0) for i in (5, 6)]
    batch = batch_of([image, *labels], [0, 1, 2], {"kind": Target("row", "image"), "match": Target("row")})
    assert batch.targets["kind"].tolist() == [1] and batch.targets["match"].tolist() == [5, 6]
    assert len(batch.parts["image"].layout) == 1 and len(batch.parts["text"].layout) == 2
    assert batch.parts["text"].ids == (1, 2) and batch.parts["image"].streams["patches"].shape == (2, 3)
    assert batch.tied("text", "image") == [0, 0]
    with pytest.raises(InputError, match="without a row of part 'image'"):
        batch_of([image, Row({"text": {"tokens": [1]}}, example=9)], [0, 1], {}).tied("text", "image")


def test_a_target_of_the_wrong_length_or_a_missing_one_is_refused():
    with pytest.raises(InputError, match="another length than its part"):
        batch_of([text(3, targets={"tag": [1, 2]})], [0], {"tag": Target("token")})
    with pytest.raises(InputError, match=r"rows without the target 'label': \[1\]"):
        batch_of([text(3, targets={"label": 1}), text(2)], [0, 1], {"label": Target("row")})
    assert batch_of([text(3)], [0], {"label": Target("row")}).targets == {}  # nobody has one: inference


def test_leading_goes_into_the_layout():
    rows = [text(3, rows={"text": {"leading": 1, "size": 2.5}}), text(4, rows={"text": {"leading": 3, "size": 1.0}})]
    part = batch_of(rows, [1, 0], {}).parts["text"]
    assert part.layout.leading.tolist() == [3, 1] and set(part.rows) == {"size"} and part.rows["size"].tolist() == [1.0, 2.5]
    assert batch_of([text(3)], [0], {}).parts["text"].layout.leading is None
    mixed = batch_of([text(3, rows={"text": {"leading": 1}}), text(2)], [0, 1], {})  # a row without a mark has none
    assert mixed.parts["text"].layout.leading.tolist() == [1, 0]


def test_fillers_are_not_counted():
    part = batch_of([text(2, example=5), text(1, example=FILLER), text(1, example=FILLER)], [0, 1, 2], {}).parts["text"]
    assert part.size == 1 and part.example.tolist() == [5, -1, -1] and len(part.layout) == 3


def test_streams_of_lists_arrays_and_tensors():
    rows = [
        Row({"audio": {"samples": np.arange(3, dtype=np.float64), "ids": [1, 2, 3], "soft": [0.5, 1, 2], "x": torch.ones(3, 2, dtype=torch.float64)}}),
        Row({"audio": {"samples": np.arange(2, dtype=np.float64), "ids": [4, 5], "soft": [3, 4], "x": torch.ones(2, 2, dtype=torch.float64)}}),
    ]
    streams = batch_of(rows, [0, 1], {}).parts["audio"].streams
    assert streams["samples"].dtype == torch.float32 and streams["samples"].tolist() == [0, 1, 2, 0, 1]
    assert streams["ids"].dtype == torch.int64 and streams["soft"].dtype == torch.float32
    assert streams["x"].dtype == torch.float64 and streams["x"].shape == (5, 2)


def test_nothing_to_pack_and_an_empty_row():
    assert list(pack([])) == []
    with pytest.raises(InputError, match=r"rows without a token: \[0\]"):
        list(pack([text(2), text(0)]))


def test_to_moves_everything():
    moved = batch_of([text(2, targets={"label": 1})], [0], {"label": Target("row")}).to("meta")
    part = moved.parts["text"]
    assert {part.streams["tokens"].device.type, part.example.device.type, part.layout.rows.device.type, moved.targets["label"].device.type} == {"meta"}
    assert part.ids == (0,) and part.size == 1


def test_after_continues_the_rows_of_a_cache():
    class Past:
        part, lengths = "text", [4, 1]

    batch = batch_of([text(1), text(2)], [0, 1], {})
    assert batch.after(Past).parts["text"].layout.positions.tolist() == [4, 1, 2]
    Past.lengths = [4]
    with pytest.raises(InputError, match="another number of rows"):
        batch.after(Past)
