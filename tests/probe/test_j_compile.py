"""Probe (j): one compiled graph of BERT and a head serves any layout, in inference and in a training step, as long as nothing reads host lengths.

Only sizes are marked dynamic. Torch throws graphs away while it compiles, so those that ran are counted.
"""

import dataclasses

import pytest
import torch

from nabi.batch import Row, batch_of
from nabi.families.bert import FAMILY, Bert
from nabi.nn.body import Run
from nabi.nn.heads import Head

ROWS = [[5, 3, 9], [4, 4], [7, 2, 11, 6, 3], [12, 1], [2, 2, 2, 2], [9, 8, 7, 6, 5, 4], [3, 17]]


def model(attention_dropout=0.0):
    body = Bert(dataclasses.replace(FAMILY.sizes["tiny"], hidden_dropout=0.0, attention_dropout=attention_dropout))
    head = Head(Bert.heads["row"], 32, 3, dropout=0.0, std=0.5)
    body.initialise(torch.Generator().manual_seed(0)), head.initialise(torch.Generator().manual_seed(1))
    return lambda batch: head.read(Run(body), batch), [*body.parameters(), *head.parameters()]


def batch(lengths, g):
    rows = [Row({"text": {"tokens": torch.randint(99, (n,), generator=g), "segments": torch.randint(2, (n,), generator=g)}}) for n in lengths]
    part = (made := batch_of(rows, range(len(rows)), {})).parts["text"]
    for x in (*part.streams.values(), part.layout.rows, part.layout.positions, part.layout.cu_seqlens, part.layout.sizes):
        torch._dynamo.maybe_mark_dynamic(x, 0)
    return made


def compiled(region, layouts, backend, results=lambda out: [out]):
    """How many graphs ran, and the largest difference from eager."""
    torch._dynamo.reset()
    compiler, ran, gap = torch._dynamo.lookup_backend(backend), set(), 0.0

    def counting(graph, inputs):
        run = compiler(graph, inputs)
        return lambda *args: (ran.add(run), run(*args))[1]

    fast = torch.compile(region, fullgraph=True, dynamic=True, backend=counting)
    for i, lengths in enumerate(layouts):
        eager, other = (results(f(batch(lengths, torch.Generator().manual_seed(i)))) for f in (region, fast))
        gap = max(gap, *(((a - b).abs().max() / a.abs().max()).item() for a, b in zip(eager, other, strict=True)))
    return len(ran), gap


@torch.no_grad()
def test_one_graph_in_inference():
    region, _ = model()
    graphs, gap = compiled(region, ROWS, "eager")
    assert graphs == 1 and gap < 1e-6
    assert compiled(region, [*ROWS[:2], [6], [9]], "eager")[0] == 2  # torch has a graph of its own for the size 1: a single row
    assert compiled(lambda batch: region(batch) * sum(batch.parts["text"].layout.lengths), ROWS[:3], "eager")[0] > 1  # the control


def test_one_graph_of_a_training_step():
    region, params = model()
    step = region, ROWS, "aot_eager", lambda loss: [loss, *torch.autograd.grad(loss.log_softmax(-1)[:, 0].sum(), params)]
    graphs, gap = compiled(*step)
    assert graphs == 1 and gap < 1e-4
    with pytest.raises(Exception, match="attention dropout and position biases can't be compiled"):
        compiled(model(0.1)[0], ROWS[:1], "eager")
