"""Probe (a): an encoder-decoder with ``begin``, slots, beams that share the encoder's keys, and classification on it without a target."""

import pytest
import torch
from blocks import EncoderDecoder, by_torch

from nabi.batch import Row, batch_of
from nabi.errors import InputError

TEXTS, PREFIXES = [[5, 9, 3], [8, 2, 2, 7, 30, 11, 4], [6]], [[1, 4], [1], [1, 12, 13]]


def body():
    torch.manual_seed(0)
    made = EncoderDecoder().double().eval()
    made.initialise(torch.Generator().manual_seed(0))
    return made


def batch(texts, targets, rows=None):
    """Sources, and targets of which each names its source."""
    made = [Row({"text": {"tokens": t}}, example=i) for i, t in enumerate(texts)]
    made += [Row({"target": {"tokens": t}}, example=i) for i, t in zip(rows or range(len(targets)), targets, strict=True)]
    return batch_of(made, range(len(made)), {})


def logits(body, hidden, layout):
    return layout.last(hidden["target"].values) @ body.embeddings.tokens.weight.T


@torch.no_grad()
def beams(model, *, wrong=False, width=4, steps=6):
    """The largest difference between cached and uncached logits over a beam search."""
    cache = model.begin(batch(TEXTS, PREFIXES), reserve=12)
    memory, beams, fed, source, totals, gap = cache.cross.buffer, PREFIXES, PREFIXES, list(range(3)), torch.zeros(3, 1), 0.0
    for step in range(steps):
        now = batch(TEXTS, fed, source).after(cache)
        found = logits(model, model(now, cache, keep={"target": None}), now.parts["target"].layout)
        whole = batch(TEXTS, beams, source)
        gap = max(gap, (found - logits(model, model(whole), whole.parts["target"].layout)).abs().max().item())
        scores = (totals.flatten()[:, None] + found.log_softmax(-1)).view(3, -1)
        totals, best = scores.topk(width)
        parents = (best // 31 + torch.arange(3)[:, None] * (len(beams) // 3)).flatten().tolist()
        cache.reorder([p // width * width for p in parents] if wrong and step else parents)
        source = [source[p] for p in parents]
        fed = [[t] for t in (best % 31).flatten().tolist()]
        beams = [beams[p] + t for p, t in zip(parents, fed, strict=True)]
    assert len({(s, *b) for s, b in zip(source, beams, strict=True)}) == 12
    assert cache.cross.buffer is memory and memory.shape[2] == 3 * 7  # twelve beams read three sources where they lie
    return gap


def test_uncached_forward_is_torchs():
    model, packed = body(), batch(TEXTS, PREFIXES)
    rows = [by_torch(model, text, prefix) for text, prefix in zip(TEXTS, PREFIXES, strict=True)]
    found = model(packed)["target"].values
    torch.testing.assert_close(found, torch.cat(rows), rtol=0, atol=1e-12)
    assert (found - torch.cat([rows[0], rows[2], rows[1]])).abs().max() > 0.1


def test_beams_equal_the_uncached_forward():
    assert beams(body()) < 1e-12
    assert beams(body(), wrong=True) > 0.1


@torch.no_grad()
def test_rows_leave_and_come():
    model, late = body(), [[4, 4, 8, 19, 20, 21, 22, 23, 9], [3]]
    cache, other = model.begin(batch(TEXTS, PREFIXES), 5), model.begin(batch(late, [[1], [1]]), 9)
    for texts, rows, into in ((TEXTS, PREFIXES, cache), (late, [[1, 2], [1]], other)):
        model(batch(texts, rows).after(into), into, keep={"target": None})
    cache.release([1])
    cache.admit(other)
    assert cache.mine.rows == [0, 2, 1, 3] and cache.lengths == [2, 3, 2, 1] and cache.capacity == 9  # the freed slot is taken, another is added
    texts, rows = [TEXTS[0], TEXTS[2], *late], [PREFIXES[0], PREFIXES[2], [1, 2], [1]]
    for fed, cropped in (([[7], [8, 9, 10], [11], [12]], None), ([[14, 15], [16], [17], [18]], [2, 4, 3, 2])):
        if cropped:
            cache.crop(cropped)
            rows = [row[:n] for row, n in zip(rows, cropped, strict=True)]
        rows, now = [row + more for row, more in zip(rows, fed, strict=True)], batch(texts, fed).after(cache)
        found, whole = model(now, cache, keep={"target": None}), batch(texts, rows)
        wanted = model(whole)["target"]
        torch.testing.assert_close(now.parts["target"].layout.last(found["target"].values), wanted.layout.last(wanted.values), rtol=0, atol=1e-12)
    assert (wanted.values - model(batch(texts[::-1], rows))["target"].values).abs().max() > 0.1
    with pytest.raises(InputError, match="another number of rows"):
        batch(TEXTS, PREFIXES).after(cache)
