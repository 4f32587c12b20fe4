"""What several probes share: a cache of slots, and a small encoder-decoder (post-norm, Vaswani et al. 2017) with its twin made of torch's layers."""

from functools import partial
from types import SimpleNamespace

import torch
from torch import nn

from nabi.batch import Part
from nabi.layout import Layout, Packed
from nabi.nn.attention import Attention, attend
from nabi.nn.body import Body
from nabi.nn.heads import HeadSpec
from nabi.nn.kernels import Pattern
from nabi.nn.linear import Embedding, FeedForward, LayerNorm, Linear, normal_

SHIFTED = 1  # the token that a decoder reads first


class Slots:
    """Keys and values of all layers: (layers, 2, slots * size, H, D). Row i has slot ``rows[i]``, ``shared`` by others or not."""

    def __init__(self, layers, like, lengths, size, shared=False):
        self.size, self.shared, self.rows, self.filled = size, shared, list(range(len(lengths))), list(lengths)
        self.buffer = like.new_zeros(layers, 2, len(lengths) * size, *like.shape[-2:])
        self.at = self.of = None

    def layout(self, more=None):
        used = sorted(set(self.rows))  # the slots that hold something, then the rows that look at them: shared, not copied
        filled = [self.filled[s] + (more[self.rows.index(s)] if more else 0) for s in used]
        return Layout.slots(filled, [s * self.size for s in used]).take([used.index(s) for s in self.rows])

    def append(self, layer, k, v, at):
        if self.at is not at:  # once a forward: all layers write at the same places and read by the same layout
            self.grow(len(self.filled), max(self.filled[s] + n for s, n in zip(self.rows, at.lengths, strict=True)))
            self.at, self.of = at, self.layout(at.lengths)
            self.index = torch.tensor(self.rows)[at.rows] * self.size + at.positions
        self.buffer[layer, 0, self.index], self.buffer[layer, 1, self.index] = k, v
        return *self.buffer[layer], self.of

    def read(self, layer):
        self.of = self.of or self.layout()
        return *self.buffer[layer], self.of

    def grow(self, slots, size):
        if slots > len(self.filled) or size > self.size:
            old = self.buffer.unflatten(2, (-1, self.size))
            new = old.new_zeros(*old.shape[:2], max(slots, len(self.filled)), max(size, self.size), *old.shape[-2:])
            new[:, :, : len(self.filled), : self.size] = old
            self.filled += [0] * (slots - len(self.filled))
            self.size, self.buffer = new.shape[3], new.flatten(2, 3)

    def put(self, other, slots):
        """Copy these slots of ``other`` into free slots here; returns old -> new."""
        free = [s for s in range(len(self.filled)) if s not in self.rows]
        free += range(len(self.filled), len(self.filled) + len(slots) - len(free))
        self.grow(max(free, default=-1) + 1, other.size)
        for to, s in zip(free, slots, strict=False):
            self.filled[to] = n = other.filled[s]
            self.buffer[:, :, to * self.size : to * self.size + n] = other.buffer[:, :, s * other.size : s * other.size + n]
        return free[: len(slots)]

    def reorder(self, rows):
        self.rows, self.of, self.at = [self.rows[i] for i in rows], None, None
        if not self.shared:  # the first heir of a slot keeps it, the others get copies
            twice = [i for i, s in enumerate(self.rows) if s in self.rows[:i]]
            for i, s in zip(twice, self.put(self, [self.rows[i] for i in twice]), strict=True):
                self.rows[i] = s

    def admit(self, other):
        used = sorted(set(other.rows))
        to = dict(zip(used, self.put(other, used), strict=True))
        self.rows, self.of, self.at = self.rows + [to[s] for s in other.rows], None, None


class KeyValues:
    """A ``nabi.batch.Cache``: slots for what the decoder read, shared slots for what the encoder said."""

    def __init__(self, part, mine, cross):
        self.part, self.mine, self.cross = part, mine, cross

    lengths = property(lambda self: [self.mine.filled[s] for s in self.mine.rows])
    capacity = property(lambda self: self.mine.size)
    nbytes = property(lambda self: self.mine.buffer.nbytes + self.cross.buffer.nbytes)

    def __getitem__(self, layer):
        own = SimpleNamespace(append=partial(self.mine.append, layer))
        return SimpleNamespace(self=own, cross=SimpleNamespace(read=partial(self.cross.read, layer)))

    def advance(self, at):
        for s, n in zip(self.mine.rows, at.lengths, strict=True):
            self.mine.filled[s] += n

    def crop(self, lengths):
        for s, n in zip(self.mine.rows, lengths, strict=True):
            self.mine.filled[s] = min(n, self.mine.filled[s])

    def reorder(self, rows):
        self.mine.reorder(rows), self.cross.reorder(rows)

    def admit(self, other):
        self.mine.admit(other.mine), self.cross.admit(other.cross)

    def release(self, rows):
        self.reorder([i for i in range(len(self.lengths)) if i not in rows])


class Embed(nn.Module):
    def __init__(self, vocab, size, positions=64):
        super().__init__()
        self.tokens, self.positions = Embedding(vocab, size), Embedding(positions, size)

    def forward(self, tokens, positions):
        return self.tokens(tokens) + self.positions(positions)


class Layer(nn.Module):
    def __init__(self, size, heads, cross):
        super().__init__()
        self.heads, self.attention = heads, Attention(size, heads, pattern=Pattern(causal=cross))
        self.feed_forward = FeedForward(size, 2 * size, "relu", 0.0)
        self.norms = nn.ModuleList(LayerNorm(size, 1e-5) for _ in range(3 if cross else 2))
        if cross:
            self.q, self.kv, self.out = Linear(size, size), Linear(size, 2 * size), Linear(size, size)

    entries = ("keys",)  # what ``begin`` calls besides forward, for FSDP; forward itself must not call it, or the layer would be resharded half-way

    def keys(self, memory):
        return self._keys(memory)

    def _keys(self, memory):
        return self.kv(memory).unflatten(-1, (2, self.heads, -1)).unbind(1)

    def forward(self, x, layout, memory=None, keep=None, cache=None):
        x = self.norms[0](self.attention(x, layout, add=x, cache=cache and cache.self))
        if memory is not None or cache is not None:
            k, v, of = cache.cross.read() if cache else (*self._keys(memory.values), memory.layout)
            y = attend(self.q(x).unflatten(-1, (self.heads, -1)), k, v, layout, of, Pattern()).flatten(1)
            x = self.norms[1](self.out(y, add=x))
        x = x if keep is None else x[keep]
        return self.norms[-1](self.feed_forward(x, add=x))


class EncoderDecoder(Body):
    needs = {"text": frozenset({"tokens"}), "target": frozenset({"tokens"})}
    sources, makes = {"target": frozenset({"text"})}, {"target": "text"}
    heads = {"row": HeadSpec(reads="target", pool="last", dense=True, activation="tanh")}

    def __init__(self, vocab=31, size=16, heads=4, layers=2):
        super().__init__()
        self.hidden_size, self.embeddings = size, Embed(vocab, size)
        self.encoder, self.decoder = (nn.ModuleList(Layer(size, heads, cross) for _ in range(layers)) for cross in (False, True))

    def encode(self, part):
        x = self.embeddings(part.streams["tokens"], part.layout.positions)
        for layer in self.encoder:
            x = layer(x, part.layout)
        return Packed(x, part.layout)

    def begin(self, batch, reserve):
        memory = self.encode(batch.parts["text"])
        keys = [torch.stack(layer.keys(memory.values)) for layer in self.decoder]
        cross = Slots(len(keys), keys[0], memory.layout.lengths, memory.layout.longest, shared=True)
        cross.buffer[:, :, memory.layout.rows * cross.size + memory.layout.positions] = torch.stack(keys)
        return KeyValues("target", Slots(len(keys), keys[0], [0] * len(memory.layout), reserve), cross)

    def target(self, batch):
        if "target" in batch.parts:
            return batch.parts["target"]
        text = batch.parts["text"]
        shifted = text.streams["tokens"].roll(1).index_fill(0, text.layout.cu_seqlens[:-1].long(), SHIFTED)
        return Part(text.layout, {"tokens": shifted}, {}, text.example, text.size, text.ids)

    def forward(self, batch, cache=None, *, embedded=None, keep=None):
        keep = dict.fromkeys(batch.parts) if keep is None else keep
        memory = self.encode(batch.parts["text"]) if cache is None else None
        hidden = {} if memory is None else {"text": memory}
        if "target" in keep:
            part = self.target(batch)
            tied = batch.tied("target", "text") if memory is not None and "target" in batch.parts else []
            if tied and tied != list(range(len(memory.layout))):  # several targets of a text share its keys
                memory = Packed(memory.values, memory.layout.take(tied))
            x = self.embeddings(part.streams["tokens"], part.layout.positions)
            for i, layer in enumerate(self.decoder):
                x = layer(x, part.layout, memory, keep["target"] if i == len(self.decoder) - 1 else None, cache[i] if cache else None)
            if cache is not None:
                cache.advance(part.layout)
            hidden["target"] = Packed(x, part.layout if keep["target"] is None else None)
        return {part: hidden[part] for part in keep}

    def groups(self):
        return [self.embeddings, *self.encoder, *self.decoder]

    def initialise(self, generator):
        normal_(self, 0.3, generator)


def by_torch(body, text, target):
    """The same network from torch's own layers, for one row."""
    size, twin = body.hidden_size, {"dim_feedforward": 32, "dropout": 0.0, "dtype": torch.float64}
    places = body.embeddings.positions.weight
    x, y = ((body.embeddings.tokens.weight[t] + places[: len(t)])[None] for t in (text, target))
    for layer in body.encoder:
        x = filled(nn.TransformerEncoderLayer(size, 4, batch_first=True, **twin), layer)(x)
    mask = nn.Transformer.generate_square_subsequent_mask(len(target), dtype=torch.float64)
    for layer in body.decoder:
        y = filled(nn.TransformerDecoderLayer(size, 4, batch_first=True, **twin), layer)(y, x, tgt_mask=mask)
    return y[0]


def filled(theirs, ours):
    cross = hasattr(ours, "q")
    order = [ours.attention.qkv, ours.attention.out]
    order += [nn.ParameterDict({n: torch.cat([getattr(ours.q, n), getattr(ours.kv, n)]) for n in ("weight", "bias")}), ours.out] if cross else []
    order += [ours.feed_forward.up, ours.feed_forward.down, *ours.norms]
    values = [getattr(module, name) for module in order for name in ("weight", "bias")]
    for (_, theirs_), value in zip(theirs.named_parameters(), values, strict=True):
        theirs_.data.copy_(value)
    return theirs.eval()
