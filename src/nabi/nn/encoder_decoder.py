"""The encoder-decoder that BART, Marian, T5 and the Transformer of 2017 share: the post-norm decoder layer, and the body around two stacks of layers.

Unusual: without a target the decoder is fed the text, shifted by one (BART's way to classify). Keys and values of the encoder are computed once, by
``begin``, and shared by all rows (beams) that read them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nabi.batch import Batch, Cache, Part
from nabi.layout import Layout, Packed
from nabi.memory import trimmed
from nabi.nn.attention import CrossAttention
from nabi.nn.body import Body
from nabi.nn.cache import KeyValues, Slots
from nabi.nn.encoder import PostNormLayer
from nabi.nn.kernels import Pattern, PositionBias
from nabi.nn.linear import LayerNorm

Keys = Packed | tuple[Tensor, Tensor, Layout]  # what an encoder said, or the keys and values that were made of it for one layer


class PostNormDecoderLayer(PostNormLayer):
    """Causal self-attention, attention to the encoder, feed-forward, a norm after each residual (Vaswani et al. 2017, section 3.1).

    Args:
        hidden_size, num_heads, intermediate_size: W, H and the inner size of the feed-forward.
        activation: its name.
        norm_eps: of the three norms.
        dropout: on the three results, before the residual is added.
        attention_dropout: on the attention weights.
        inner_dropout: inside the feed-forward, after the activation; none if None.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        intermediate_size: int,
        *,
        activation: str,
        norm_eps: float,
        dropout: float,
        attention_dropout: float,
        inner_dropout: float | None = None,
    ) -> None:
        super().__init__(
            hidden_size,
            num_heads,
            intermediate_size,
            activation=activation,
            norm_eps=norm_eps,
            dropout=dropout,
            attention_dropout=attention_dropout,
            inner_dropout=inner_dropout,
            pattern=Pattern(causal=True),
        )
        self.cross = CrossAttention(hidden_size, num_heads, dropout=dropout, attention_dropout=attention_dropout)
        self.cross_norm = LayerNorm(hidden_size, norm_eps)

    def forward(  # type: ignore[override]
        self, x: Tensor, layout: Layout, keys: Keys, cache: Any = None, bias: PositionBias | None = None
    ) -> Tensor:
        """(T, W) -> (T, W), with what the encoder said and this layer's own share of a past."""
        x = self.attention_norm(self.attention(x, layout, add=x, cache=cache, bias=bias))
        x = self.cross_norm(self.cross(x, layout, keys, add=x))
        y: Tensor = self.norm(self.feed_forward(x, add=x))
        return y


class EncoderDecoder(Body):
    """A body that reads ``text`` and writes ``target``. A family adds its constructor, ``embed_part``, ``first`` and ``initialise``.

    Its decoder layers have ``cross`` (a ``CrossAttention``) and ``forward(x, layout, keys, cache, bias)``, its encoder layers ``forward(x, layout)`` or,
    with a bias, ``forward(x, layout, bias=...)``. A layer is only ever called as a whole, so that it can be cut over processes or computed twice.

    Attributes:
        encoder, decoder: the two stacks.
        first: the token that a decoder reads first, for a target that is made from the text.
    """

    needs = {"text": frozenset({"tokens"}), "target": frozenset({"tokens"})}
    sources = {"target": frozenset({"text"})}
    makes = {"target": "text"}
    generates = "target"
    encoder: nn.ModuleList
    decoder: nn.ModuleList
    first: int

    def embed_part(self, part: Part, role: str) -> Tensor:
        """The vectors (T, W) that enter the encoder (``role`` text) or the decoder (target), dropout included."""
        raise NotImplementedError

    def bias(self, role: str) -> PositionBias | None:
        """What is added to the scores of all layers of the encoder (text) or of the decoder (target), made anew for each forward."""
        return None

    def finish(self, x: Tensor, role: str) -> Tensor:
        """What comes after the last layer: (T, W) -> (T, W)."""
        return x

    @property
    def whole(self) -> bool:
        """Whether there is a decoder; a body that is cut for heads which read the text has none."""
        return "decoder" not in self.without

    def embed(self, batch: Batch) -> dict[str, Packed]:
        parts = {"text": batch.parts["text"], "target": self._target(batch)} if self.whole else {"text": batch.parts["text"]}
        return {role: Packed(self.embed_part(part, role), part.layout) for role, part in parts.items()}

    def encode(self, batch: Batch, embedded: Mapping[str, Packed] | None = None) -> Packed:
        """What the encoder says about the text, (T, W)."""
        part = batch.parts["text"]
        x = embedded["text"].values if embedded else self.embed_part(part, "text")
        bias = self.bias("text")
        for layer in _of(self.encoder):
            x = layer(x, part.layout) if bias is None else layer(x, part.layout, bias=bias)
        return Packed(self.finish(x, "text"), part.layout)

    def begin(self, batch: Batch, reserve: int) -> Cache:
        if not self.whole:
            return super().begin(batch, reserve)
        memory = self._encoded(batch)
        assert memory.layout is not None
        cross = Slots(len(self.decoder), len(memory.layout), memory.layout.longest, shared=True)
        for i, layer in enumerate(_of(self.decoder)):
            k, v = layer.cross.keys(memory.values)
            cross.fill(i, k, v, memory.layout)
        return KeyValues("target", len(self.decoder), len(memory.layout), reserve, cross)

    def _encoded(self, batch: Batch) -> Packed:
        """:meth:`encode` in passes, for what lies between two layers is much larger than what stays."""
        part = batch.parts["text"]
        most = 2048 if part.example.device.type == "cpu" else 8192  # tokens, or one longer row
        passes: list[list[int]] = []
        filled = 0
        for row, length in enumerate(part.layout.lengths):
            if not passes or filled + length > most:
                passes.append([])
                filled = 0
            passes[-1].append(row)
            filled += length
        if len(passes) == 1:
            return self.encode(batch)
        found, begin = [], 0
        on_cpu = part.example.device.type == "cpu"
        for rows in trimmed(passes, lambda rows: int(on_cpu), 1):
            some = slice(rows[0], rows[-1] + 1)
            lengths = part.layout.lengths[some]
            streams, of_rows = {name: x[begin : begin + sum(lengths)] for name, x in part.streams.items()}, {name: x[some] for name, x in part.rows.items()}
            here = Part(Layout.of(lengths, device=part.example.device), streams, of_rows, part.example[some], len(rows), part.ids[some])
            found.append(self.encode(Batch({"text": here})).values)
            begin += sum(lengths)
        return Packed(torch.cat(found), part.layout)

    def _target(self, batch: Batch) -> Part:
        """The target, or what stands for it: the text, shifted to the right by one."""
        if "target" in batch.parts:
            return batch.parts["target"]
        text = batch.parts["text"]
        assert text.layout.cu_seqlens is not None
        shifted = text.streams["tokens"].roll(1).index_fill(0, text.layout.cu_seqlens[:-1].long(), self.first)
        return Part(text.layout, {"tokens": shifted}, {}, text.example, text.size, text.ids)

    def forward(
        self,
        batch: Batch,
        cache: Cache | None = None,
        *,
        embedded: Mapping[str, Packed] | None = None,
        keep: Mapping[str, Tensor | None] | None = None,
    ) -> dict[str, Packed]:
        every = [role for role in ("text", "target") if self.whole or role == "text"] if cache is None else ["target"]
        wanted: Mapping[str, Tensor | None] = dict.fromkeys(every) if keep is None else keep
        hidden: dict[str, Packed] = {}
        memory = self.encode(batch, embedded) if cache is None else None
        if memory is not None and "text" in wanted:
            hidden["text"] = _kept(memory, wanted["text"])
        if "target" in wanted:
            part = self._target(batch)
            of = None if memory is None else self._read_by(batch, memory)
            x = embedded["target"].values if embedded else self.embed_part(part, "target")
            bias = self.bias("target")
            for i, layer in enumerate(_of(self.decoder)):
                if cache is not None:
                    x = layer(x, part.layout, cache[i].cross.read(), cache[i].self, bias)
                else:
                    assert memory is not None
                    x = layer(x, part.layout, Packed(memory.values, of), None, bias)
            if cache is not None:
                cache.advance(part.layout)
            # the norm and what follows read token by token, so only what is kept goes through
            rows = Packed(x, part.layout) if wanted["target"] is None else Packed(x.index_select(0, wanted["target"]), None)
            hidden["target"] = Packed(self.finish(rows.values, "target"), rows.layout)
        return hidden

    def _read_by(self, batch: Batch, memory: Packed) -> Layout:
        """Where the encoder's rows lie, one for each row of the target; several targets of one text share it."""
        assert memory.layout is not None
        if "target" not in batch.parts:
            return memory.layout
        tied = batch.tied("target", "text")
        return memory.layout if tied == list(range(len(memory.layout))) else memory.layout.take(tied)


def post_norm_stacks(
    hidden_size: int,
    encoder: tuple[int, int, int],
    decoder: tuple[int, int, int],
    *,
    activation: str,
    norm_eps: float,
    dropout: float,
    attention_dropout: float,
    inner_dropout: float | None = None,
) -> tuple[nn.ModuleList, nn.ModuleList]:
    """An encoder's and a decoder's layers, post-norm.

    Args:
        hidden_size: W.
        encoder, decoder: of each stack the number of layers, of heads, and the inner size of the feed-forward.
        activation, norm_eps, dropout, attention_dropout, inner_dropout: as of :class:`PostNormDecoderLayer`, the same in both.
    """

    def stack(layer: type[PostNormLayer | PostNormDecoderLayer], count: int, heads: int, inner: int) -> nn.ModuleList:
        return nn.ModuleList(
            layer(
                hidden_size,
                heads,
                inner,
                activation=activation,
                norm_eps=norm_eps,
                dropout=dropout,
                attention_dropout=attention_dropout,
                inner_dropout=inner_dropout,
            )
            for _ in range(count)
        )

    return stack(PostNormLayer, *encoder), stack(PostNormDecoderLayer, *decoder)


def _of(layers: nn.ModuleList) -> Iterable[Any]:
    """Layers by what they can do, which ``nn.Module`` does not say."""
    return layers


def _kept(x: Packed, tokens: Tensor | None) -> Packed:
    return x if tokens is None else Packed(torch.index_select(x.values, 0, tokens), None)
