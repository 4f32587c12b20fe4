"""(1) A row alone is a row in a pack, in any order; (5) a ragged continuation is one pass; (8) what a body can't read, it names."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from blocks import EncoderDecoder

from conformance.kit import FAMILIES, LENGTHS, batch, body_of, config_of, gap, randomised, rows_of
from nabi.batch import Batch, Row
from nabi.errors import InputError
from nabi.layout import Layout
from nabi.nn.body import Body, Run


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_row_alone_is_the_row_in_a_pack(family: str) -> None:
    body, rows, order = body_of(family), rows_of(family), [4, 0, 6, 2, 5, 1, 3]
    alone = [body(batch(rows, [i])) for i in range(len(rows))]
    for ids in (list(range(len(rows))), order):
        packed = body(batch(rows, ids))
        assert packed.keys() == alone[0].keys()
        for part, hidden in packed.items():
            assert hidden.layout is not None
            split = dict(zip(ids, hidden.values.split(hidden.layout.lengths), strict=True))
            for i, row in split.items():
                assert gap(row, alone[i][part].values) <= 1e-5, (part, i)
            # control: rows 2 and 5 have one length, and are not each other
            assert gap(split[2], alone[5][part].values) > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_kept_tokens_are_those_of_the_whole(family: str) -> None:
    body, rows = body_of(family), batch(rows_of(family))
    for part, hidden in body(rows).items():
        layout = body.layout(rows, part)
        wanted = layout.last(torch.arange(sum(layout.lengths))).flip(0)
        kept = body(rows, keep={part: wanted})
        assert set(kept) == {part} and kept[part].layout is None
        assert gap(kept[part].values, hidden.values[wanted]) <= 1e-5
        assert gap(kept[part].values, hidden.values[wanted - 1]) > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_embeddings_given_are_embeddings_made(family: str) -> None:
    body, rows = body_of(family), batch(rows_of(family))
    given, made = body(rows, embedded=body.embed(rows)), body(rows)
    assert all(torch.equal(given[part].values, made[part].values) for part in made)


def continues(body: Body, rows: list[Row]) -> float | None:
    """The largest gap between a pass in ragged pieces (rows reordered and cropped on the way) and one pass; None if the body keeps no past."""
    whole = batch(rows)
    try:
        cache = body.begin(whole, reserve=4)
    except InputError as error:
        assert "keeps no past" in str(error) and type(body).__name__ in str(error)
        return None
    part = cache.part
    full = body(whole)[part].values.split(whole.parts[part].layout.lengths)

    def fed(order: list[int], begins: list[int], ends: list[int]) -> float:
        pieces = [Row({part: {s: x[a:b] for s, x in rows[i].parts[part].items()}}) for i, a, b in zip(order, begins, ends, strict=True)]
        now = batch(pieces).after(cache)
        hidden = body(now, cache, keep={part: None})[part].values.split(now.parts[part].layout.lengths)
        return max(gap(h, full[i][a:b]) for h, i, a, b in zip(hidden, order, begins, ends, strict=True))

    order, lengths = list(range(len(rows))), [row.length(part) for row in rows]
    first = [1 + i % (n - 2) for i, n in enumerate(lengths)]
    gaps = [fed(order, [0] * len(rows), first), fed(order, first, [n + 1 for n in first])]
    cache.crop(first)  # the second piece is forgotten, and read again by rows in another order
    order.reverse()
    cache.reorder(order)
    assert list(cache.lengths) == [first[i] for i in order]
    gaps.append(fed(order, [first[i] for i in order], [lengths[i] for i in order]))
    return max(gaps)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_ragged_continuation_is_one_pass(family: str) -> None:
    found = continues(body_of(family), rows_of(family, [n + 3 for n in LENGTHS]))
    assert found is None or found <= 1e-5


@torch.no_grad()
def test_control_the_continuation_is_checked() -> None:
    """No shipped family may keep a past, so the check itself is tried on a probe's, right and with a wrong crop."""
    body = randomised(EncoderDecoder()).eval()
    g = torch.Generator().manual_seed(0)
    rows = [Row({part: {"tokens": torch.randint(31, (n,), generator=g).tolist()} for part in ("text", "target")}, example=n) for n in (5, 9, 4)]
    found = continues(body, rows)
    assert found is not None and found <= 1e-5
    begin = body.begin

    def forgetful(given: Batch, reserve: int) -> object:
        cache = begin(given, reserve)
        cache.crop = lambda lengths: type(cache).crop(cache, [n - (n > 1) for n in lengths])  # type: ignore[method-assign]
        return cache

    body.begin = forgetful  # type: ignore[method-assign,assignment]
    with pytest.raises(AssertionError):
        continues(body, rows)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_missing_or_unknown_stream_is_named(family: str) -> None:
    body = body_of(family)
    good = batch(rows_of(family))
    Run(body)(good)
    for part, streams in body.needs.items():
        here = good.parts[part]
        for stream in streams:
            less = {s: x for s, x in here.streams.items() if s != stream}
            bad = Batch({**good.parts, part: replace(here, streams=less)})
            with pytest.raises(InputError, match=f"{type(body).__name__} can't read this batch: .*part '{part}' lacks the stream '{stream}'"):
                Run(body)(bad)
        more = {**here.streams, "boxes_and_more": here.streams[next(iter(streams))]}
        with pytest.raises(InputError, match=f"part '{part}' has a stream 'boxes_and_more' that is not read"):
            Run(body)(Batch({**good.parts, part: replace(here, streams=more)}))
        if part not in body.makes:
            with pytest.raises(InputError, match=f"part '{part}' is missing"):
                Run(body)(Batch({name: x for name, x in good.parts.items() if name != part}))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_that_is_too_long_is_named(family: str) -> None:
    body = body_of(family)
    for part, limit in body.limits.items():
        Run(body)(batch(rows_of(family, [limit, 2])))
        with pytest.raises(InputError, match=f"part '{part}' has a row of {limit + 1} tokens, at most {limit} fit"):
            Run(body)(batch(rows_of(family, [2, limit + 1])))
    with pytest.raises(InputError, match=r"rows without a token: \[1\]"):
        Layout.of([2, 0])
    assert config_of(family)
