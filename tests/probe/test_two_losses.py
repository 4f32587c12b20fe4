"""Probe (f): masked words (per token) and next sentence (per row), through the real feed and loop: ragged micro-batches give one batch's gradient."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from nabi.batch import Batch, Row, Target, batch_of
from nabi.families.bert import FAMILY, Bert
from nabi.model import Model
from nabi.nn.linear import Linear, normal_
from nabi.tasks import NoSettings, Task
from nabi.training.feed import Feed
from nabi.training.loop import backward, total_counts
from nabi.training.plan import Plan

PLAN = Plan(batch=24, seed=1, loss_weights={"masked": 1.0, "next": 0.5})


class Pretraining(Task):
    name, targets = "pretraining", {"masked": Target("token"), "next": Target("row"), "weight": Target("row", dtype=torch.float32)}

    def build(self, body):
        self.words, self.next = Linear(body.hidden_size, 99), Linear(body.hidden_size, 2)

    def corrupt(self, row, generator):
        tokens, hidden = torch.tensor(row.parts["text"]["tokens"]), torch.rand(row.tokens, generator=generator) < 0.3
        streams = {**row.parts["text"], "tokens": tokens.masked_fill(hidden, 98).tolist()}
        return dataclasses.replace(row, parts={"text": streams}, targets={**row.targets, "masked": tokens.masked_fill(~hidden, -100).tolist()})

    def counts(self, targets):
        return {"masked": float((targets["masked"] >= 0).sum()), "next": float(targets["weight"].double().sum())}

    def loss(self, run, batch):
        where, layout = (batch.targets["masked"] >= 0).nonzero().flatten(), batch.parts["text"].layout
        kept = run(batch, keep={"text": torch.cat([layout.cu_seqlens[:-1].long(), where])})["text"].values
        first, words = kept.split([len(layout), len(where)])
        following = F.cross_entropy(self.next(first), batch.targets["next"], reduction="none") * batch.targets["weight"]
        return {"masked": F.cross_entropy(self.words(words), batch.targets["masked"][where], reduction="sum"), "next": following.sum()}


def model(dtype):
    body, task = Bert(dataclasses.replace(FAMILY.sizes["tiny"], hidden_dropout=0.0, attention_dropout=0.0)), Pretraining(NoSettings())
    task.build(body)
    for part in (body, task):
        normal_(part, 0.3, torch.Generator().manual_seed(0))
    return Model(body, task, None, None).to(dtype)


def examples():
    draw = torch.Generator().manual_seed(0)
    for i, n in enumerate(torch.randint(1, 40, (24,), generator=draw).tolist()):
        tokens = torch.randint(0, 98, (n,), generator=draw).tolist()
        yield [Row({"text": {"tokens": tokens, "segments": [0] * n}}, targets={"next": i % 2, "weight": 1.0}, example=i)]


def gradient(model, groups, plan=PLAN, mean_of_means=False):
    """Of one step, its micro-batches dealt to the ranks ``groups``."""
    model.zero_grad()
    counts = total_counts(model, [batch for batches in groups for batch in batches])
    for batches in groups:
        for batch in batches:
            own = {name: count * sum(map(len, groups)) for name, count in total_counts(model, [batch]).items()}
            backward(model, batch, own if mean_of_means else counts, plan, seed=0)
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
def test_gradient_does_not_depend_on_the_cut(dtype, bound, monkeypatch):
    built, rows = model(dtype).train(), list(examples())
    feed, whole = Feed(built, rows, dataclasses.replace(PLAN, tokens=45)), Feed(built, rows, PLAN).step(0)
    wanted, cut = gradient(built, [whole]), feed.step(0)
    ranks = [feed.step(0, rank, 4) for rank in range(4)]
    assert len(whole) == 1 and len(cut) > 8 and sum(batch.parts["text"].size < len(batch.parts["text"].ids) for b in ranks for batch in b) > 0
    for groups in ([cut], ranks):
        assert (gradient(built, groups) - wanted).norm() / wanted.norm() < bound
    assert (gradient(built, [cut], mean_of_means=True) - wanted).norm() / wanted.norm() > 1e-3
    assert (gradient(built, [cut], dataclasses.replace(PLAN, loss_weights={})) - wanted).norm() / wanted.norm() > 1e-3
    monkeypatch.setattr(Batch, "real", True)  # fillers then count
    assert (gradient(built, [feed.step(0, rank, 4) for rank in range(4)]) - wanted).norm() / wanted.norm() > 1e-3


def test_against_plain_sums():
    """The same two means, written out row by row."""
    built, (batch,) = model(torch.float64).eval(), Feed(model(torch.float64), list(examples()), PLAN).step(0)
    found, part = gradient(built, [[batch]]), batch.parts["text"]
    rows = zip(part.streams["tokens"].split(part.layout.lengths), batch.targets["masked"].split(part.layout.lengths), strict=True)
    words, firsts = [], []
    for tokens, labels in rows:
        x = built.body(batch_of([Row({"text": {"tokens": tokens, "segments": torch.zeros_like(tokens)}})], [0], {}))["text"].values
        firsts.append(built.task.next(x[0]))
        words += [F.cross_entropy(built.task.words(x[i]), labels[i]) for i in range(len(labels)) if labels[i] >= 0]
    built.zero_grad()
    (torch.stack(words).mean() + 0.5 * F.cross_entropy(torch.stack(firsts), batch.targets["next"])).backward()
    assert (torch.cat([p.grad.flatten() for p in built.parameters()]) - found).norm() / found.norm() < 1e-13
