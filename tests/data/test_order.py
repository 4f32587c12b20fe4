"""The order of reading: a permutation that can be asked for any place, the same for any number of ranks and workers, from any position on."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from nabi.data.order import Order, mixed, permuted, permuted_many
from nabi.errors import OptionError

MANY = 5_000_000


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_permuted_is_a_bijection(n: int, key: int) -> None:
    assert sorted(permuted(i, n, key) for i in range(n)) == list(range(n))


def test_permuted_is_a_bijection_for_every_small_n() -> None:
    assert all(sorted(permuted(i, n, n) for i in range(n)) == list(range(n)) for n in range(1, 200))


def test_permutations_look_random() -> None:
    # over many keys each place gets each value about equally often (chi squared over its degrees of freedom), and neighbours do not stay neighbours
    hits = Counter((i, permuted(i, 40, mixed(key))) for key in range(2000) for i in range(40))
    assert 0.85 < sum((hits[i, j] - 50) ** 2 / 50 for i in range(40) for j in range(40)) / 39**2 < 1.15
    near = sum(abs(permuted(i, 1000, 1) - permuted(i + 1, 1000, 1)) < 3 for i in range(999))
    assert near < 20


def test_the_permutation_is_the_one_that_runs_were_begun_with() -> None:
    # a saved run resumes from its seed and step, so these may never change
    assert [permuted(i, 1000, mixed(7, 2)) for i in range(6)] == [429, 322, 243, 673, 553, 418]
    assert mixed(1, 2, 3) == 17734181060442946735


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_many_at_once_are_each_the_one_alone(data: st.DataObject) -> None:
    n = data.draw(st.one_of(st.integers(1, 300), st.integers(1, 2**62), st.integers(1, 30).map(lambda bits: 2**bits + 1), st.just(2**62)))
    key, step = data.draw(st.integers(0, 2**64 - 1)), data.draw(st.integers(1, 1000))
    first = data.draw(st.integers(0, n - 1))
    count = min(data.draw(st.integers(0, 50)), len(range(first, n, step)))
    found = permuted_many(first, count, n, key, step)
    assert found.dtype == np.int64 and found.tolist() == [permuted(i, n, key) for i in range(first, first + count * step, step)]


def test_a_large_power_of_two_and_one_is_no_special_case() -> None:
    # 2 ** 60 + 1 places: a logarithm in floating point would make the square one bit too small and put places outside of it
    n = 2**60 + 1
    assert all(0 <= permuted(i, n, 5) < n for i in (0, 1, n - 2, n - 1)) and len({permuted(i, n, 5) for i in (0, 1, n - 2, n - 1)}) == 4


def test_an_order_is_indexed_as_a_list() -> None:
    order = Order(1000, seed=3, epoch=2)
    whole = [order[i] for i in range(1000)]
    assert whole == list(order) == order[:].tolist() and sorted(whole) == list(range(1000)) and len(order) == 1000
    assert order[-1] == whole[-1] and order[10:500:7].tolist() == whole[10:500:7] and order[990:2000].tolist() == whole[990:]
    assert order[::-3].tolist() == whole[::-3] and order[5:5].tolist() == []
    with pytest.raises(IndexError):
        order[1000]
    assert whole != list(Order(1000, seed=3, epoch=3)) and whole != list(Order(1000, seed=4, epoch=2))
    assert list(Order(0)) == [] and list(Order(1)) == [0]


def in_turn(readers: Sequence[Iterator[int]], run: int = 1) -> Iterator[int]:
    """What is read from several readers in turn, ``run`` ids each time, until one has no more."""
    while True:
        for reader in readers:
            got = list(islice(reader, run))
            yield from got
            if len(got) < run:
                return


def read_on(order: Order, position: int, world: int, workers: int, run: int, most: int | None = None) -> list[int]:
    """What all the ranks read from a position on, each by its workers, in the order of the places."""
    ranks = [
        in_turn([order.read(position, rank=rank, world=world, worker=w, workers=workers, run=run) for w in range(max(1, workers))], run)
        for rank in range(world)
    ]
    first = position % world
    return list(islice(in_turn(ranks[first:] + ranks[:first]), most))


@settings(max_examples=120, deadline=None)
@given(st.integers(1, 400), st.data())
def test_any_readers_from_any_position_read_the_rest_of_the_epoch(n: int, data: st.DataObject) -> None:
    order, position = Order(n, seed=1), data.draw(st.integers(0, n))
    world, workers, run = data.draw(st.integers(1, 6)), data.draw(st.integers(0, 4)), data.draw(st.integers(1, 9))
    assert read_on(order, position, world, workers, run) == order[position:].tolist()


def test_five_million_rows_stopped_at_a_hundred_places_go_on_as_if_they_had_not() -> None:
    order, dice = Order(MANY, seed=11), random.Random(0)
    unbroken = order[:]
    seen = np.zeros(MANY, bool)
    seen[unbroken] = True
    assert seen.all(), "a bijection: none lost and, as there are as many places as ids, none repeated"
    ways = [(world, workers) for world in (1, 2, 4) for workers in (0, 1, 2, 3)]
    for number in range(100):
        position = dice.randrange(MANY - 10_000)
        world, workers = ways[number % len(ways)]
        found = read_on(order, position, world, workers, run=dice.choice((1, 8, 32)), most=10_000)
        assert found == unbroken[position : position + 10_000].tolist(), (position, world, workers)


def test_every_rank_s_share_of_a_whole_epoch_is_read_once_by_its_workers() -> None:
    order = Order(100_003, seed=4)
    for world, workers in ((4, 3), (2, 2), (1, 3)):
        shares = [list(order.read(50, rank=r, world=world, worker=w, workers=workers)) for r in range(world) for w in range(workers)]
        assert sorted(i for share in shares for i in share) == sorted(order[50:].tolist())
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def buffered(ids: Iterator[int], size: int, seed: int) -> Iterator[int]:
    """A shuffle buffer, as streams are usually shuffled."""
    dice, held = random.Random(seed), []
    for i in ids:
        if len(held) < size:
            held.append(i)
            continue
        place = dice.randrange(size)
        yield held[place]
        held[place] = i
    dice.shuffle(held)
    yield from held


def test_control_a_shuffle_buffer_that_skips_what_was_read_loses_rows_and_repeats_others() -> None:
    n, stopped = 100_000, 40_000
    before = list(islice(buffered(iter(range(n)), 1000, 0), stopped))
    after = list(buffered(iter(range(stopped, n)), 1000, 0))  # it goes on behind as many rows as were drawn, its buffer empty
    both = Counter(before + after)
    assert n - len(both) > 300 and sum(count - 1 for count in both.values()) > 300
    order = Order(n, 0)
    ours = Counter(order[:stopped].tolist() + read_on(order, stopped, 2, 3, 8))
    assert len(ours) == n and set(ours.values()) == {1}


class Ids(IterableDataset[int]):
    def __init__(self, order: Order, position: int, run: int) -> None:
        self.order, self.position, self.run = order, position, run

    def __iter__(self) -> Iterator[int]:
        info = get_worker_info()
        worker, workers = (0, 0) if info is None else (info.id, info.num_workers)
        return self.order.read(self.position, rank=1, world=2, worker=worker, workers=workers, run=self.run)


def test_workers_of_torch_give_the_rank_s_sequence_whatever_their_number() -> None:
    order = Order(3001, seed=2)
    wanted = list(order.read(100, rank=1, world=2))
    for workers in (0, 1, 2):
        loader: DataLoader[int] = DataLoader(Ids(order, 100, run=8), batch_size=8, num_workers=workers)
        assert torch.cat(list(loader)).tolist() == wanted
    mismatched = DataLoader(Ids(order, 100, run=1), batch_size=8, num_workers=2)
    assert torch.cat(list(mismatched)).tolist() != wanted, "control: runs of another length than the batches change the order"


def test_readers_that_can_t_be_are_refused() -> None:
    order = Order(100)
    with pytest.raises(OptionError, match=r"position is 101, must be 0 to 100.*rank is 2, must be 0 to 1"):
        order.read(101, rank=2, world=2)
    with pytest.raises(OptionError, match=r"worker is 3, must be 0 to 2"):
        order.read(worker=3, workers=3)
    with pytest.raises(OptionError, match=r"run is 0"):
        order.read(run=0)
    with pytest.raises(OptionError, match="so many ids"):
        Order(-1)
