"""Probe (c): two strided convolutions over ragged audio: rows come out shorter than they went in, and heads still read them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nabi.batch import Row, batch_of, pack
from nabi.errors import InputError
from nabi.layout import Layout, Packed
from nabi.nn.body import Body, Run
from nabi.nn.heads import Head, HeadSpec


class Strided(nn.Module):
    """A convolution over each row (valid, no padding): the windows of all rows, gathered, times one matrix."""

    def __init__(self, inputs, outputs, width, stride):
        super().__init__()
        self.width, self.stride = width, stride
        self.weight, self.bias = nn.Parameter(torch.randn(outputs, inputs, width)), nn.Parameter(torch.randn(outputs))

    def layout(self, layout):
        return Layout.of([max(0, (n - self.width) // self.stride + 1) for n in layout.lengths])

    def forward(self, x, across=False):
        out = self.layout(x.layout)
        begins = x.layout.cu_seqlens[:-1][out.rows] + out.positions * self.stride
        if across:  # the control: one convolution over the whole pack, blind to where rows end
            begins = torch.arange(len(out.rows)) * self.stride
        windows = x.values[begins[:, None] + torch.arange(self.width)]
        return Packed(torch.tanh(torch.einsum("tki,oik->to", windows, self.weight) + self.bias), out)


class Audio(Body):
    needs = {"audio": frozenset({"samples"})}
    heads = {"row": HeadSpec(reads="audio", pool="last"), "mean": HeadSpec(reads="audio", pool="mean")}

    def __init__(self):
        super().__init__()
        self.hidden_size, self.first, self.second = 6, Strided(1, 4, 5, 3), Strided(4, 6, 3, 2)

    def layout(self, batch, part):
        return self.second.layout(self.first.layout(batch.parts[part].layout))

    def forward(self, batch, cache=None, *, embedded=None, keep=None, across=False):
        part = batch.parts["audio"]
        x = self.second(self.first(Packed(part.streams["samples"][:, None], part.layout), across), across)
        kept = (keep or {}).get("audio")
        return {"audio": x if kept is None else Packed(x.values[kept], None)}


def made(lengths=(97, 13, 40, 14)):
    noise = np.random.default_rng(0)
    rows = [Row({"audio": {"samples": noise.normal(size=n)}}) for n in lengths]  # NumPy's float64, as a reader of audio files gives it
    torch.manual_seed(0)
    return Audio(), rows, batch_of(rows, range(len(rows)), {})


def alone(body, row):
    x = torch.tensor(row.parts["audio"]["samples"], dtype=torch.float32)[None]
    for layer in (body.first, body.second):
        x = torch.tanh(F.conv1d(x, layer.weight, layer.bias, layer.stride))
    return x.T


def test_pack_is_each_row_alone():
    body, rows, batch = made()
    wanted = [alone(body, row) for row in rows]
    found = body(batch)["audio"]
    assert found.layout.lengths == tuple(map(len, wanted)) == (15, 1, 5, 1)
    torch.testing.assert_close(found.values, torch.cat(wanted), rtol=0, atol=1e-5)
    assert (body(batch, across=True)["audio"].values - torch.cat(wanted)).abs().max() > 0.1
    for again in pack(rows, tokens=60):
        torch.testing.assert_close(body(again)["audio"].values, torch.cat([wanted[i] for i in again.parts["audio"].ids]), rtol=0, atol=1e-5)


def test_heads_read_the_shorter_rows():
    body, rows, batch = made()
    for kind, pooled in (("row", lambda x: x[-1]), ("mean", lambda x: x.mean(0))):
        head = Head(body.heads[kind], 6, 3, dropout=0.0, std=1.0)
        head.initialise(torch.Generator().manual_seed(0))
        wanted = head(torch.stack([pooled(alone(body, row)) for row in rows]))
        torch.testing.assert_close(head.read(Run(body), batch), wanted, rtol=0, atol=1e-5)
    with pytest.raises(IndexError):  # the control: the places in the samples are no places in what comes out
        body(batch, keep={"audio": body.heads["row"].kept(batch.parts["audio"].layout)})


def test_too_short_is_named():
    body, _, batch = made((97, 10))
    with pytest.raises(InputError, match=r"without a token.*\[1\]"):
        body(batch)
