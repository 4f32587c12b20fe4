"""Splits and samples."""

from __future__ import annotations

from collections import Counter

import pytest

from nabi.data import Table, balanced_sample, read_table
from nabi.data.split import folded, split
from nabi.errors import DataError, OptionError


def texts(table: Table) -> set[str]:
    return {row["text"] for row in table}


ROWS = [{"text": f"Text  number {i}", "label": "abc"[i % 10 // 8 + i % 10 // 9]} for i in range(400)]


def test_split_is_stable_and_keeps_duplicates_together() -> None:
    table = read_table(ROWS)
    train, dev = split(table, 0.25, seed=3)
    assert len(train) + len(dev) == 400 and 70 < len(dev) < 130
    more = [{"text": f"another {i}"} for i in range(200)] + ROWS[::-1] + [{"text": f" TEXT number\t{i} "} for i in range(400)]
    train_of_more, dev_of_more = split(read_table(more), 0.25, seed=3)
    assert texts(train) <= texts(train_of_more) and texts(dev) <= texts(dev_of_more)
    assert not {folded(t) for t in texts(train_of_more)} & {folded(t) for t in texts(dev_of_more)}
    assert texts(split(table, 0.25, seed=4)[1]) != texts(dev)
    assert texts(dev) <= texts(split(table, 0.5, seed=3)[1])


def test_split_is_pinned() -> None:
    assert [row["text"] for row in split(read_table([{"text": c} for c in "abcdefghijkl"]), 0.3, seed=0)[1]] == ["b", "k", "l"]


def test_split_by_a_column_of_lists_and_composed_letters() -> None:
    table = read_table([{"tokens": ["a", "b"]}] * 5 + [{"tokens": ["a", str(i)]} for i in range(20)])
    sides = split(table, 0.5, seed=0, key="tokens")
    assert sorted(sum(row["tokens"] == ["a", "b"] for row in side) for side in sides) == [0, 5]
    table = read_table([{"text": "\uac00"}, {"text": "\u1100\u1161"}, *ROWS])
    assert sorted(len(texts(side) & {"\uac00", "\u1100\u1161"}) for side in split(table, 0.5, seed=0)) == [0, 2]


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, True, "0.1", None, float("nan")])
def test_bad_fractions(fraction: float) -> None:
    with pytest.raises(OptionError, match="the dev fraction is out of range"):
        split(read_table(ROWS), fraction, seed=0)


def test_a_side_without_rows_and_a_missing_key() -> None:
    with pytest.raises(DataError, match="leaves no row for"):
        split(read_table([{"text": "a"}, {"text": "A "}]), 0.5, seed=0)
    with pytest.raises(DataError, match="no column 'context'"):
        split(read_table(ROWS), 0.5, seed=0, key="context")


def test_samples() -> None:
    table = read_table(ROWS)
    per = balanced_sample(table, per_label=5, seed=1)
    assert Counter(row["label"] for row in per) == {"a": 5, "b": 5, "c": 5}
    assert texts(per) <= texts(balanced_sample(table, per_label=9, seed=1))
    assert texts(per) != texts(balanced_sample(table, per_label=5, seed=2))
    assert texts(per) == texts(balanced_sample(read_table(ROWS[::-1]), per_label=5, seed=1))
    numbers = [int(row["text"].split()[-1]) for row in per]
    assert numbers == sorted(numbers) and per.where(0) == f"list, row {numbers[0] + 1}"
    for total in (3, 4, 10, 64, 400):
        sample = balanced_sample(table, total=total, seed=1)
        counts = Counter(row["label"] for row in sample)
        assert len(sample) == total and min(counts.values()) >= 1 and len(counts) == 3
        assert total < 10 or abs(counts["a"] - 0.8 * total) <= 1
        assert texts(sample) <= texts(balanced_sample(table, total=min(400, total + 1), seed=1))
    assert len(balanced_sample(read_table([{"text": "a", "label": v} for v in (1, "1", [1], None, True)]), per_label=1)) == 5


@pytest.mark.parametrize(("options", "error", "message"), [
    ({}, OptionError, "size is not given"), ({"per_label": 1, "total": 3}, OptionError, "size is not given"),
    ({"per_label": 0}, OptionError, "size is not given"), ({"total": 2}, OptionError, "at least 3, one row for each label"),
    ({"per_label": 41}, DataError, "has 40"), ({"total": 401}, DataError, "400 rows"),
    ({"total": 5, "label": "stars"}, DataError, "no column"),
])
def test_bad_samples(options: dict[str, int], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        balanced_sample(read_table(ROWS), **options)
