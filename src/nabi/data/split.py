"""Splits and samples that depend on the rows' content and a seed, not on their order or number."""

from __future__ import annotations

import hashlib
import heapq
import unicodedata
from typing import Any

from nabi.data.tables import Table, canonical
from nabi.errors import DataError, OptionError


def split(table: Table, fraction: float, seed: int, key: str = "text") -> tuple[Table, Table]:
    """Split a table in (train, dev), both in the table's order.

    A row's side is a hash of the seed and its ``folded`` key. So rows with the same text lie on one side, and added rows move none of
    the others. The dev side has about ``fraction`` of the rows, not exactly.

    Args:
        table: at least two rows with different keys.
        fraction: of the rows for dev, between 0 and 1.
        seed: another seed is another split.
        key: the column that decides: the one that must not be shared by both sides.

    Raises:
        OptionError: a fraction that is not between 0 and 1.
        DataError: no such column, or a side without rows.
    """
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction < 1:
        raise OptionError("the dev fraction is out of range", value=fraction, expected="a number between 0 and 1, such as 0.1")
    table.require(key)
    sides: tuple[list[int], list[int]] = [], []
    for index, row in enumerate(table):
        sides[_chance(seed, folded(row[key])) < fraction].append(index)
    if not all(sides):
        raise DataError(f"{table.name}: the split leaves no row for {'train' if sides[1] else 'dev'}",
                        value=f"{len(table)} rows, fraction {fraction}", expected="a row on both sides",
                        fix="give more rows, another fraction or another seed")
    return table.take(sides[0]), table.take(sides[1])


def balanced_sample(table: Table, *, per_label: int | None = None, total: int | None = None, seed: int = 0, label: str = "label") -> Table:
    """The first rows of each label in a seeded order, returned in the table's order. A larger sample contains the smaller.

    With ``per_label``, each label gives that many. With ``total``, the labels share it by their frequency, each at least one row
    (Sainte-Laguë's method).

    Raises:
        OptionError: not exactly one of ``per_label`` and ``total``, less than 1, or a ``total`` below the number of labels.
        DataError: no such column, or fewer rows than asked for.
    """
    amount = total if per_label is None else per_label
    if (per_label is None) == (total is None) or not isinstance(amount, int) or amount < 1:
        raise OptionError("the sample's size is not given", value=f"per_label={per_label}, total={total}",
                          expected="one of the two, at least 1")
    table.require(label)
    groups: dict[bytes, list[int]] = {}
    for index, row in enumerate(table):
        groups.setdefault(canonical(row[label]), []).append(index)
    counts = {name: len(rows) for name, rows in groups.items()}
    if total is not None and total < len(counts):
        raise OptionError("the sample is too small", value=total, expected=f"at least {len(counts)}, one row for each label")
    seats = _shares(counts, amount) if total is not None else dict.fromkeys(counts, amount)
    if short := [f"{n.decode()} has {counts[n]}" for n, wanted in seats.items() if counts[n] < wanted]:
        raise DataError(f"{table.name}: too few rows for the sample", value=", ".join(short),
                        expected=f"{amount} of each label", fix="ask for fewer with per_label, or use total")
    if sum(seats.values()) < amount:
        raise DataError(f"{table.name}: too few rows for the sample", value=f"{len(table)} rows",
                        expected=f"at least {amount}", fix="ask for fewer")
    order = [_chance(seed, canonical(row).decode()) for row in table]
    return table.take(sorted(i for name, rows in groups.items() for i in sorted(rows, key=order.__getitem__)[: seats[name]]))


def folded(value: Any) -> str:
    """A text for comparison: composed (NFC), lower-cased, each run of white space one blank. What is no string is taken as JSON."""
    text = value if isinstance(value, str) else canonical(value).decode()
    return " ".join(unicodedata.normalize("NFC", text).lower().split())


def _chance(seed: int, text: str) -> float:
    """A number in [0, 1) that is fixed for a seed and a text."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{text}".encode(), digest_size=6).digest(), "big") / 2**48


def _shares(counts: dict[bytes, int], total: int) -> dict[bytes, int]:
    seats = dict.fromkeys(counts, 1)
    queue = [(-count / 3, name) for name, count in counts.items() if count > 1]
    heapq.heapify(queue)
    for _ in range(total - len(seats)):
        if not queue:
            break
        name = heapq.heappop(queue)[1]
        seats[name] += 1
        if seats[name] < counts[name]:
            heapq.heappush(queue, (-counts[name] / (2 * seats[name] + 1), name))
    return seats
