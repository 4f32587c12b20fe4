"""Probe (g): a Longformer-like body: a window, and global leading tokens, as many as each row says, through ``pack``."""

import torch
from blocks import Embed, Layer
from torch import nn

from nabi.batch import Row, pack
from nabi.layout import Packed
from nabi.nn.body import Body
from nabi.nn.kernels import Pattern
from nabi.nn.linear import normal_

LENGTHS, LEADING = [9, 4, 12, 9, 1], [1, 2, 3, None, 1]


class Windowed(Body):
    needs = {"text": frozenset({"tokens"})}

    def __init__(self, pattern):
        super().__init__()
        self.embeddings, self.layers = Embed(31, 16), nn.ModuleList(Layer(16, 4, cross=False) for _ in range(2))
        self.layers[0].attention.pattern = self.layers[1].attention.pattern = pattern

    def forward(self, batch, cache=None, *, embedded=None, keep=None):
        layout = batch.parts["text"].layout
        x = self.layers[0](self.embeddings(batch.parts["text"].streams["tokens"], layout.positions), layout)
        return {"text": Packed(self.layers[1](x, layout), layout)}


def body(**pattern):
    made = Windowed(Pattern(**{"window": 2, "leading": True, **pattern})).double().eval()
    normal_(made, 0.5, torch.Generator().manual_seed(0))
    return made


def rows(leading=LEADING):
    tokens = [[(7 * i + 3 * t) % 31 for t in range(n)] for i, n in enumerate(LENGTHS)]
    return [Row({"text": {"tokens": t}}, rows={} if n is None else {"text": {"leading": n}}) for t, n in zip(tokens, leading, strict=True)]


def outputs(body, rows, tokens=8192):
    """Each row's values, in the rows' order."""
    found = {}
    for batch in pack(rows, tokens=tokens):
        values, layout = body(batch)["text"]
        found |= dict(zip(batch.parts["text"].ids, values.split(list(layout.lengths)), strict=True))
    return [found[i] for i in range(len(rows))]


def by_torch(body, row):
    """One row through torch's own attention, under a mask written out."""
    tokens, marked = row.parts["text"]["tokens"], row.rows.get("text", {}).get("leading", 0)
    x, at = body.embeddings(torch.tensor(tokens), torch.arange(len(tokens))), range(len(tokens))
    mask = torch.tensor([[abs(a - b) < 2 or a < marked or b < marked for b in at] for a in at])
    for layer in body.layers:
        q, k, v = layer.attention.qkv(x).view(-1, 3, 4, 4).permute(1, 2, 0, 3)
        y = nn.functional.scaled_dot_product_attention(q, k, v, mask).transpose(0, 1).flatten(1)
        x = layer.norms[0](layer.attention.out(y) + x)
        x = layer.norms[1](layer.feed_forward(x, add=x))
    return x


def test_each_row_has_its_own_global_tokens():
    model, want = body(), torch.cat([by_torch(body(), row) for row in rows()])
    assert all((torch.cat(outputs(model, rows(), tokens)) - want).abs().max() < 1e-12 for tokens in (8192, 12))
    for wrong, given in ((body(window=3), rows()), (body(leading=False), rows()), (model, rows([2, 2, 3, None, 1])), (model, rows([1, 2, 3, 1, 1]))):
        assert (torch.cat(outputs(wrong, given)) - want).abs().max() > 0.05  # the controls
