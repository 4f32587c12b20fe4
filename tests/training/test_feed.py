"""What each step reads: a pure function of (seed, step), the same whole for any number of processes."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pytest

from nabi.batch import FILLER, Batch
from nabi.errors import DataError
from nabi.model import Model
from nabi.tasks.text_classification import ClassificationSettings
from nabi.training.feed import Feed
from nabi.training.loop import total_counts
from nabi.training.plan import Plan
from training.small import BAD, GOOD, feed, model, rows, text

PLAN = Plan(epochs=3, batch=8, tokens=64, seed=5)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Model:
    from training.small import vocabulary

    return model(vocabulary(tmp_path_factory.mktemp("tokenizer")))


def ids(batches: list[Batch]) -> list[tuple[int, ...]]:
    return [tuple(b.parts["text"].example.tolist()) for b in batches]


def tokens(batches: list[Batch]) -> list[list[int]]:
    return [b.parts["text"].streams["tokens"].tolist() for b in batches]


def test_pure_in_seed_and_step(built: Model) -> None:
    examples = rows(30)
    forward, backward = feed(built, examples, PLAN), feed(built, examples, PLAN)
    assert [ids(forward.step(n)) for n in range(12)] == [ids(backward.step(n)) for n in reversed(range(12))][::-1]
    assert [tokens(forward.step(n)) for n in range(12)] == [tokens(backward.step(n)) for n in reversed(range(12))][::-1]
    other = feed(built, examples, dataclasses.replace(PLAN, seed=6))
    assert other.examples(0) != forward.examples(0)


def test_each_epoch_is_a_permutation_and_another_one(built: Model) -> None:
    fed = feed(built, rows(30), PLAN)
    assert fed.steps_per_epoch == 4 and fed.total == 12
    orders = [[e for n in range(epoch * 4, epoch * 4 + 4) for e in fed.examples(n)] for epoch in range(5)]
    assert all(sorted(order) == list(range(30)) for order in orders)
    assert len({tuple(order) for order in orders}) == 5
    assert [len(fed.examples(n)) for n in range(4)] == [8, 8, 8, 6]


def test_micro_batches_hold_at_most_the_tokens_and_all_rows(built: Model) -> None:
    fed = feed(built, rows(30), PLAN)
    for n in range(8):
        batches = fed.step(n)
        assert sorted(e for batch in ids(batches) for e in batch) == sorted(fed.examples(n))
        assert all(batch.tokens <= 64 for batch in batches) and len(batches) == 1 + (n % 4 < 3)
    tight = feed(built, rows(30), dataclasses.replace(PLAN, tokens=2))
    assert all(len(batch.parts["text"].layout) == 1 for batch in tight.step(0)), "a row over the limit gets a batch of its own"


@pytest.mark.parametrize("world", [1, 2, 3, 5, 8])
def test_the_processes_together_read_the_whole_step(built: Model, world: int) -> None:
    fed = feed(built, rows(30), PLAN)
    for n in range(5):
        whole, shares = fed.step(n), [fed.step(n, rank, world) for rank in range(world)]
        assert len({len(share) for share in shares}) == 1
        real = sorted(e for share in shares for batch in ids(share) for e in batch if e != FILLER)
        assert real == sorted(e for batch in ids(whole) for e in batch)
        counts = total_counts(built, [batch for share in shares for batch in share])
        assert counts == total_counts(built, whole), "fillers count nothing"
        fillers = [batch for share in shares for batch in share if batch.parts["text"].size == 0]
        assert len(fillers) == -len(whole) % world
        assert all(set(b.parts["text"].example.tolist()) == {FILLER} for b in fillers)


def test_balanced_sampler_evens_the_classes(built: Model) -> None:
    examples = [r for r in rows(400) if r["label"] == "pos"][:180] + [r for r in rows(400) if r["label"] == "neg"][:20]
    fed = feed(built, examples, dataclasses.replace(PLAN, sampler="balanced", batch=50))
    drawn = Counter(examples[e]["label"] for n in range(20) for e in fed.examples(n))
    assert sum(drawn.values()) == 1000 and 430 < drawn["neg"] < 570, drawn
    usual = Counter(examples[e]["label"] for n in range(20) for e in feed(built, examples, dataclasses.replace(PLAN, batch=50)).examples(n))
    assert usual["neg"] == 100


def test_balanced_needs_classes(tmp_path: Path) -> None:
    from training.small import vocabulary

    numbers = model(vocabulary(tmp_path), ClassificationSettings(labels=("score",), problem="regression"))
    with pytest.raises(DataError, match=r"no classes that could be balanced.*plan.sampler=shuffle"):
        feed(numbers, [{"text": "a", "label": 0.5}], dataclasses.replace(PLAN, sampler="balanced"))


def test_of_a_long_text_some_windows_are_drawn_anew_each_epoch(built: Model) -> None:
    import random

    dice = random.Random(0)
    examples = [{"text": text(dice, GOOD + BAD, 400, 500), "label": "pos"}, {"text": "a good film", "label": "pos"}]
    plan = Plan(batch=2, windows=3, epochs=20)
    fed = feed(built, examples, plan)
    count = len(fed.rows[0])
    assert count > 6
    seen = []
    for epoch in range(20):
        (batch,) = fed.step(epoch)
        part = batch.parts["text"]
        assert Counter(part.example.tolist()) == {0: 3, 1: 1}
        rows_ = part.streams["tokens"].split(list(part.layout.lengths))
        seen.append(frozenset(tuple(r.tolist()) for r, e in zip(rows_, part.example.tolist(), strict=True) if e == 0))
    assert all(len(windows) == 3 for windows in seen) and len(set(seen)) > 5
    assert len(frozenset.union(*seen)) == count, "in time every window is read"
    everything = feed(built, examples, dataclasses.replace(plan, windows=100)).step(0)[0].parts["text"].example.tolist()
    assert everything.count(0) == count


def test_nothing_to_train_on(built: Model) -> None:
    with pytest.raises(DataError, match="nothing to train on"):
        Feed(built, [], PLAN)
