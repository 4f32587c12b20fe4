"""The cache of keys and values: its bytes, its room, what it copies, and what an encoder said, kept once for all that read it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from conformance.kit import batch, body_of
from nabi.batch import Row
from nabi.layout import Layout
from nabi.nn.cache import KeyValues, Slots

LAYERS, HEADS, SIZE = 3, 2, 4


def keys(lengths: Sequence[int], value: float = 0.0) -> tuple[Tensor, Tensor, Layout]:
    """Keys and values of new tokens, all of one value, and where they lie."""
    k = torch.full((sum(lengths), HEADS, SIZE), value)
    return k, -k, Layout.of(lengths)


def add(cache: KeyValues, lengths: Sequence[int], value: float = 0.0) -> None:
    """One forward."""
    k, v, at = keys(lengths, value)
    for i in range(LAYERS):
        cache[i].self.append(k, v, at)
    cache.advance(at)


def held(cache: KeyValues, layer: int = 0) -> list[list[float]]:
    """Of each row, the first number of each of its tokens' keys."""
    k, v, of = cache[layer].self.read()
    rows = [list(range(begin, begin + n)) for begin, n in zip(of.begins.tolist(), of.lengths, strict=True)]
    assert all(torch.equal(v[places], -k[places]) for places in rows)
    return [k[places, 0, 0].tolist() for places in rows]


def bytes_of(slots: int, size: int) -> int:
    """Keys and values of all layers in float32."""
    return LAYERS * 2 * slots * size * HEADS * SIZE * 4


def test_bytes_are_as_computed_for_the_capacity() -> None:
    cache = KeyValues("text", LAYERS, 3, reserve=10)
    assert (cache.capacity, cache.nbytes) == (10, 0)  # nothing is taken before the first keys say of what kind they are
    add(cache, [3, 1, 7])
    assert cache.capacity == 10 and cache.nbytes == bytes_of(3, 10) == sum(2 * 3 * 10 * HEADS * SIZE * 4 for _ in range(LAYERS))
    add(cache, [1, 1, 4])
    assert cache.lengths == [4, 2, 11] and cache.capacity == 13 and cache.nbytes == bytes_of(3, 13)
    cache.reorder([0, 1, 2, 2, 2])
    assert cache.nbytes == bytes_of(5, 13)
    cache.release([0, 1])
    assert cache.lengths == [11, 11, 11] and cache.nbytes == bytes_of(5, 13)  # the room stays for those who wait
    other = KeyValues("text", LAYERS, 2, reserve=4)
    add(other, [2, 3])
    cache.admit(other)
    assert cache.lengths == [11, 11, 11, 2, 3] and cache.nbytes == bytes_of(5, 13)


def test_bytes_of_an_encoders_keys_are_counted_too() -> None:
    cross = Slots(LAYERS, 2, 5, shared=True)
    k, v, of = keys([5, 2])
    for i in range(LAYERS):
        cross.fill(i, k, v, of)
    cache = KeyValues("target", LAYERS, 2, 8, cross)
    add(cache, [1, 1])
    cache.reorder([0, 0, 0, 1, 1, 1])
    assert cache.nbytes == bytes_of(6, 8) + bytes_of(2, 5)


def test_room_stays_near_the_need_and_growing_is_rare() -> None:
    """2,000 tokens, one at a time, in three ragged rows."""
    cache = KeyValues("text", LAYERS, 3, reserve=64)
    add(cache, [5, 1, 40])
    growths = 0
    for _ in range(2000):
        before = cache.capacity, cache.copied
        add(cache, [1, 1, 1])
        need = max(cache.lengths)
        assert need <= cache.capacity <= 1.25 * need + 64
        if cache.capacity == before[0]:
            assert cache.copied == before[1]  # a token that has room moves nothing
        else:
            growths += 1
            assert cache.copied - before[1] == 3 * (need - 1)  # the longest row's tokens of each slot, once
    assert cache.lengths == [2005, 2001, 2040] and growths <= 16  # log(2040 / 64) / log(1.25) = 15.5
    assert cache.copied <= 3 * 2040 * 5  # 1 / (1 - 1 / 1.25) = 5: a geometric sum


def test_control_a_cache_that_grows_by_one_copies_at_every_token(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Slots._grow
    monkeypatch.setattr(Slots, "_grow", lambda self, slots, size: right(self, slots, max(self.lengths) + 1))
    cache = KeyValues("text", LAYERS, 3, reserve=8)
    add(cache, [5, 1, 8])
    for n in range(8, 100):
        before = cache.copied
        add(cache, [1, 1, 1])
        assert cache.copied - before == 3 * n
    assert cache.copied > 3 * 100 * 5


def test_an_order_copies_only_rows_that_part() -> None:
    cache = KeyValues("text", LAYERS, 4, reserve=20)
    k, at = torch.arange(10.0)[:, None, None].repeat(1, HEADS, SIZE), Layout.of([1, 2, 3, 4])
    for i in range(LAYERS):
        cache[i].self.append(k, -k, at)
    cache.advance(at)
    assert held(cache) == [[0], [1, 2], [3, 4, 5], [6, 7, 8, 9]]
    cache.reorder([3, 2, 1, 0])
    assert held(cache, 2) == [[6, 7, 8, 9], [3, 4, 5], [1, 2], [0]] and cache.copied == 0  # rows change places, tokens do not
    cache.reorder([1, 2, 3])
    assert held(cache) == [[3, 4, 5], [1, 2], [0]] and cache.copied == 0
    cache.reorder([0, 0, 1])
    assert held(cache) == [[3, 4, 5], [3, 4, 5], [1, 2]] and cache.copied == 3  # one copy of three tokens; the first heir keeps the slot
    add(cache, [1, 1, 1], 7.0)
    assert held(cache, 1) == [[3, 4, 5, 7], [3, 4, 5, 7], [1, 2, 7]] and cache.copied == 3
    cache.crop([2, 4, 1])
    assert held(cache) == [[3, 4], [3, 4, 5, 7], [1]]
    size = cache.nbytes
    for _ in range(50):  # beams that part again and again find the slots of those that were dropped
        cache.reorder([1, 1, 1])
    assert cache.nbytes == size and cache.copied == 3 + 2 + 4  # of four tokens one slot held two, the other none; from then on both hold all


def test_rows_that_share_are_written_by_none_of_them() -> None:
    """Two rows of one parent go apart."""
    cache = KeyValues("text", LAYERS, 1, reserve=4)
    add(cache, [2], 1.0)
    cache.reorder([0, 0])
    k, _, at = keys([1, 1])
    k[0], k[1] = 2.0, 3.0
    for i in range(LAYERS):
        cache[i].self.append(k, -k, at)
    cache.advance(at)
    assert held(cache) == [[1, 1, 2], [1, 1, 3]]


@pytest.mark.parametrize("family", ["t5", "bart", "marian", "transformer"])
@torch.no_grad()
def test_an_encoder_is_read_once_and_its_keys_are_shared_by_beams(family: str) -> None:
    body: Any = body_of(family)
    calls = {"encoder": 0, "keys": 0}

    def counted(name: str) -> Any:
        def count(*_: Any) -> None:
            calls[name] += 1

        return count

    hooks = [layer.register_forward_hook(counted("encoder")) for layer in body.encoder]
    hooks += [layer.cross.kv.register_forward_hook(counted("keys")) for layer in body.decoder]
    sources = batch([Row({"text": {"tokens": [5] * n}}, example=i) for i, n in enumerate((7, 3))])
    cache = body.begin(sources, 4)
    once = {"encoder": len(body.encoder), "keys": len(body.decoder)}
    assert calls == once and cache.cross.nbytes > 0
    crossed = cache.cross.nbytes
    cache.reorder([0, 0, 0, 0, 1, 1, 1, 1])  # four beams a source
    for step in range(5):
        target = batch([Row({"target": {"tokens": [step + 3]}}, example=i) for i in range(8)]).after(cache)
        body(target, cache, keep={"target": None})
        cache.reorder([1, 1, 0, 2, 7, 6, 6, 6])
    assert calls == once and cache.cross.nbytes == crossed and cache.cross.copied == 0
    assert len(cache.cross.stamps) == 2 and [cache.cross.rows.count(slot) for slot in (0, 1)] == [4, 4]
    again = body(batch([Row({"text": {"tokens": [5] * 7}, "target": {"tokens": [3]}}, example=0)]))["target"].values  # control: without a cache both run
    assert calls == {name: 2 * n for name, n in once.items()} and torch.isfinite(again).all()
    for hook in hooks:
        hook.remove()


def test_beams_that_part_copy_what_they_have_not_in_common() -> None:
    """Beams of two texts, ordered at random, written to and cropped; beside them the same with a list for every row."""
    dice = random.Random(0)
    cache, wanted, most = KeyValues("text", LAYERS, 2, reserve=4), [[0.0, 0.0, 0.0], [0.0, 0.0]], 0
    add(cache, [3, 2])
    for step in range(1, 61):
        beams = [0] * 4 + [1] * 4 if step == 1 else [dice.randrange(4) for _ in range(4)] + [4 + dice.randrange(4) for _ in range(4)]
        before = cache.copied
        cache.reorder(beams)
        most = max(most, cache.copied - before if step > 40 else 0)
        wanted = [list(wanted[i]) for i in beams]
        for i, row in enumerate(wanted):
            row.append(10.0 * step + i)
        k, at = torch.tensor([row[-1] for row in wanted])[:, None, None].repeat(1, HEADS, SIZE), Layout.of([1] * 8)
        for layer in range(LAYERS):
            cache[layer].self.append(k, -k, at)
        cache.advance(at)
        if step % 20 == 7:
            wanted = [row[: len(row) - dice.randrange(4)] for row in wanted]
            cache.crop([len(row) for row in wanted])
        assert held(cache) == wanted == held(cache, LAYERS - 1)
    assert most < 60  # of up to six rows that part, with 40 tokens or more each


def test_rows_that_were_let_in_have_nothing_in_common_with_those_that_were_there() -> None:
    """Both caches count their tokens from the same number on; a slot that falls free must not pass for one of the other cache's."""
    cache, other = (KeyValues("text", LAYERS, 1, reserve=8) for _ in range(2))
    add(cache, [3], 1.0)
    add(other, [3], 2.0)
    cache.admit(other)
    assert held(cache) == [[1] * 3, [2] * 3]
    cache.reorder([1, 1])
    assert held(cache) == [[2] * 3, [2] * 3]
