"""Probe (b): a GRU encoder-decoder with additive attention (Bahdanau et al. 2014) over packed rows: index in, index out, no padding."""

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from nabi.batch import Row, batch_of
from nabi.layout import Packed
from nabi.nn.body import Body
from nabi.nn.linear import Embedding, Linear

PAIRS = [([3, 4], [1, 2, 3]), ([7, 5, 6, 8, 2], [1]), ([9], [1, 9, 8, 7, 6]), ([1, 2, 3, 4, 5, 6], [1, 4])]


def by_time(layout):
    """The packed tokens in PackedSequence's order, how many rows each time step has, and the rows from long to short."""
    longest_first = layout.sizes.argsort(descending=True, stable=True)
    order = torch.argsort(layout.positions * len(layout) + longest_first.argsort()[layout.rows])
    return order, (layout.sizes[:, None] > torch.arange(layout.longest)).sum(0), longest_first


class Recurrent(Body):
    needs = {"text": frozenset({"tokens"}), "target": frozenset({"tokens"})}
    sources = {"target": frozenset({"text"})}

    def __init__(self, vocab=11, size=8, rank=None):
        super().__init__()
        self.hidden_size, self.by_time = size, rank or by_time
        self.tokens, self.encoder = Embedding(vocab, size), nn.GRU(size, size)
        self.cell, self.query, self.key, self.score = nn.GRUCell(2 * size, size), Linear(size, size), Linear(size, size), Linear(size, 1)

    def forward(self, batch, cache=None, *, embedded=None, keep=None):
        text, target = batch.parts["text"], batch.parts["target"]
        order, sizes, rows = self.by_time(text.layout)
        x = PackedSequence(self.tokens(text.streams["tokens"])[order], sizes, rows, rows.argsort())
        memory = self.encoder(x)[0].data[order.argsort()]
        keys, y = self.key(memory), self.tokens(target.streams["tokens"])
        order, sizes, rows = by_time(target.layout)
        state, steps = text.layout.last(memory)[rows], []  # as many states as there are rows that still go on
        for now, size in zip(order.split(sizes.tolist()), sizes.tolist(), strict=True):
            state, mine = state[:size], torch.isin(text.layout.rows, rows[:size]).nonzero().flatten()
            of = rows.argsort()[text.layout.rows[mine]]
            score = self.score(torch.tanh(self.query(state)[of] + keys[mine]))[:, 0]
            weight = (score - score.max()).exp()[:, None]
            context, total = (x.new_zeros(size, x.shape[1]).index_add(0, of, x) for x in (weight * memory[mine], weight))
            state = self.cell(torch.cat([y[now], context / total], -1), state)
            steps.append(state)
        return {"text": Packed(memory, text.layout), "target": Packed(torch.cat(steps)[order.argsort()], target.layout)}


def alone(body, text, target):
    """One row by torch.nn.GRU and the paper's equations."""
    memory, states = body.encoder(body.tokens.weight[text])[0], []
    state = memory[-1:]
    for token in target:
        weight = (torch.tanh(body.query(state) + body.key(memory)) @ body.score.weight.T).softmax(0)
        state = body.cell(torch.cat([body.tokens.weight[[token]], (weight * memory).sum(0, keepdim=True)], -1), state)
        states.append(state)
    return memory, torch.cat(states)


def made(rank=None):
    torch.manual_seed(0)
    body = Recurrent(rank=rank).double()
    nn.utils.vector_to_parameters(torch.randn(sum(p.numel() for p in body.parameters())).double() / 2, body.parameters())
    return body, batch_of([Row({"text": {"tokens": a}, "target": {"tokens": b}}) for a, b in PAIRS], range(4), {})


def test_pack_is_each_row_alone():
    for rank, equal in ((None, True), (lambda layout: (torch.arange(14), *by_time(layout)[1:]), False)):  # the control leaves the tokens in row order
        body, batch = made(rank)
        wanted = zip(*(alone(body, a, b) for a, b in PAIRS), strict=True)
        gaps = [(found.values - torch.cat(each)).abs().max() for found, each in zip(body(batch).values(), wanted, strict=True)]
        assert max(gaps) < 1e-12 if equal else min(gaps) > 0.05


def test_learns():
    body, batch = made()
    optimizer, losses, tokens = torch.optim.Adam(body.parameters(), 0.02), [], batch.parts["target"].streams["tokens"]
    for _ in range(60):
        losses.append(nn.functional.cross_entropy(body(batch)["target"].values @ body.tokens.weight.T, (tokens + 1) % 11))
        optimizer.zero_grad()
        losses[-1].backward()
        assert all(p.grad.abs().max() > 0 for name, p in body.named_parameters() if name != "score.bias")  # a softmax does not feel a constant
        optimizer.step()
    assert losses[-1] < 0.3 * losses[0]
