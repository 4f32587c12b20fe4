"""Layouts against loops over their rows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nabi.errors import InputError
from nabi.layout import Layout, Packed, join

lengths = st.lists(st.integers(1, 7), min_size=1, max_size=6)


def cut(x, layout):
    """The rows of (T, ...) by a loop."""
    begins = [sum(layout.lengths[:i]) for i in range(len(layout))] if layout.begin is None else layout.begin.tolist()
    return [x[b : b + n] for b, n in zip(begins, layout.lengths, strict=True)]


def values(layout, dtype=torch.float64):
    return torch.randn(sum(layout.lengths), 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


@settings(deadline=None)
@given(lengths, st.booleans())
def test_of(sizes, started):
    start = torch.arange(len(sizes)) * 3 if started else None
    layout = Layout.of(sizes, start=start)
    assert layout.lengths == tuple(sizes) and layout.longest == max(sizes) and len(layout) == len(sizes)
    assert layout.sizes.tolist() == sizes and layout.cu_seqlens.dtype == torch.int32
    assert layout.cu_seqlens.tolist() == [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    assert layout.begins.tolist() == layout.cu_seqlens[:-1].tolist()
    assert layout.rows.tolist() == [i for i, n in enumerate(sizes) for _ in range(n)]
    assert layout.positions.tolist() == [p + (3 * i if started else 0) for i, n in enumerate(sizes) for p in range(n)]


@settings(deadline=None)
@given(lengths)
def test_pooling(sizes):
    layout = Layout.of(sizes)
    x = values(layout)
    rows = cut(x, layout)
    for got, want in (
        (layout.first(x), [r[0] for r in rows]),
        (layout.last(x), [r[-1] for r in rows]),
        (layout.sum(x), [r.sum(0) for r in rows]),
        (layout.mean(x), [r.mean(0) for r in rows]),
    ):
        assert got.dtype == x.dtype and torch.allclose(got, torch.stack(want), rtol=1e-14)
    assert layout.mean(x[:, 0]).shape == (len(sizes),)  # (T,) pools as well


def test_pooling_in_low_precision_adds_in_float32():
    layout = Layout.of([600, 1])
    x = torch.full((601, 1), 1.0078125, dtype=torch.bfloat16)
    assert layout.sum(x).dtype == torch.float32 and layout.sum(x)[0].item() == 600 * 1.0078125
    assert layout.mean(x).dtype == torch.bfloat16 and (layout.mean(x) == 1.0078125).all()
    assert x[:600].cumsum(0)[-1].item() != 600 * 1.0078125  # control: bfloat16 would have lost it


def test_an_empty_row_is_refused_by_its_number():
    for make in (lambda n: Layout.of(n), lambda n: Layout.slots(n, [0] * len(n))):
        with pytest.raises(InputError, match=r"rows without a token: \[1, 3\]"):
            make([4, 0, 2, 0])
    with pytest.raises(InputError, match="at least one row"):
        Layout.of([])


@settings(deadline=None)
@given(lengths, st.data())
def test_take_shares_the_tokens_where_they_lie(sizes, data):
    start, leading = torch.arange(len(sizes)), torch.arange(len(sizes)) % 3
    layout = Layout.of(sizes, start=start, leading=leading)
    picked = data.draw(st.lists(st.integers(0, len(sizes) - 1), min_size=1, max_size=9))
    taken, x = layout.take(picked), values(layout)
    again = taken.take(range(len(picked)))  # of slots as well
    for made in (taken, again):
        assert all(torch.equal(a, b) for a, b in zip(cut(x, made), [cut(x, layout)[i] for i in picked], strict=True))
        assert made.start.tolist() == picked and made.leading.tolist() == [i % 3 for i in picked]


def test_rows_in_slots_are_not_pooled():
    layout = Layout.slots([2, 3], [10, 4])
    assert layout.begins.tolist() == [10, 4] and layout.cu_seqlens is None and layout.rows is None and layout.positions is None
    for pool in (layout.first, layout.last, layout.sum, layout.mean):
        with pytest.raises(InputError, match="can't be pooled"):
            pool(torch.zeros(20, 2))


def test_continued():
    layout = Layout.of([2, 3], leading=torch.tensor([1, 0]))
    later = layout.continued(torch.tensor([7, 0]))
    assert later.positions.tolist() == [7, 8, 0, 1, 2] and later.start.tolist() == [7, 0] and later.leading is layout.leading
    assert later.cu_seqlens.tolist() == [0, 2, 5] and layout.positions.tolist() == [0, 1, 0, 1, 2]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=6))
def test_join(pairs):
    a, b = Layout.of([m for m, _ in pairs]), Layout.of([n for _, n in pairs])
    x, y = values(a), values(b) + 9
    joined = join(Packed(x, a), Packed(y, b))
    assert joined.layout.lengths == tuple(m + n for m, n in pairs)
    assert torch.equal(joined.values, torch.cat([torch.cat(rows) for rows in zip(cut(x, a), cut(y, b), strict=True)]))


def test_join_refuses_other_numbers_of_rows():
    a, b = Layout.of([1, 2]), Layout.of([3])
    with pytest.raises(InputError, match="same number of rows"):
        join(Packed(values(a), a), Packed(values(b), b))
    with pytest.raises(InputError):
        join(Packed(values(a), None), Packed(values(a), a))


def test_to_moves_device_tensors_and_keeps_host_truth():
    layout = Layout.of([2, 3], start=torch.tensor([1, 1]), leading=torch.tensor([1, 1]))
    moved = layout.to("meta")
    assert {x.device.type for x in (moved.cu_seqlens, moved.rows, moved.positions, moved.start, moved.leading)} == {"meta"}
    assert moved.sizes.device.type == "cpu" and moved.lengths == (2, 3)
    slots = Layout.slots([2], [5]).to("meta")
    assert slots.begin.tolist() == [5] and slots.rows is None
