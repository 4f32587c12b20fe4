"""A model of the incumbent as ``Steps``: each row is read alone and from its beginning, so that no row can depend on another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import BartConfig, BartForConditionalGeneration, GenerationConfig, GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

from nabi.layout import Layout

VOCAB, END, START, PAD = 32, 1, 2, 0


class PlainCache:
    """Rows as lists of tokens, and the number of the request that each belongs to."""

    part = "text"

    def __init__(self, requests: Sequence[int], rows: Sequence[Sequence[int]]) -> None:
        self.requests, self.rows = list(requests), [list(row) for row in rows]

    @property
    def lengths(self) -> list[int]:
        return [len(row) for row in self.rows]

    @property
    def capacity(self) -> int:
        return max(self.lengths)

    @property
    def nbytes(self) -> int:
        return 8 * sum(self.lengths)

    def __getitem__(self, layer: int) -> Any:
        raise AssertionError("decoding looks into a cache")

    def advance(self, at: Layout) -> None:
        raise AssertionError("decoding advances a cache")

    def crop(self, lengths: Sequence[int]) -> None:
        self.rows = [row[:length] for row, length in zip(self.rows, lengths, strict=True)]

    def reorder(self, rows: Sequence[int]) -> None:
        self.requests, self.rows = [self.requests[i] for i in rows], [list(self.rows[i]) for i in rows]

    def admit(self, other: PlainCache) -> None:
        self.requests, self.rows = self.requests + other.requests, self.rows + other.rows

    def release(self, rows: Sequence[int]) -> None:
        self.reorder([i for i in range(len(self.rows)) if i not in set(rows)])


KNOWN: WeakKeyDictionary[Any, dict[tuple[tuple[int, ...] | None, tuple[int, ...]], Tensor]] = WeakKeyDictionary()  # a model's logits for a text


class PlainSteps:
    """``Steps`` of an incumbent's model; ``widest`` is the most rows it was given at once, ``begun`` the requests in order."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], sources: Sequence[Sequence[int]] | None = None) -> None:
        self.model, self.prompts, self.sources = model, prompts, sources
        self.vocab_size = model.config.vocab_size
        self.widest, self.begun, self.reserves = 0, [], []
        self._known = KNOWN.setdefault(model, {})

    def begin(self, rows: Sequence[int], reserve: int) -> tuple[PlainCache, Tensor]:
        self.begun += rows
        self.reserves.append(reserve)
        cache = PlainCache(rows, [self.prompts[i] for i in rows])
        return cache, self._read(cache)

    def next(self, tokens: Sequence[int], cache: PlainCache) -> Tensor:
        assert len(tokens) == len(cache.rows)
        for row, token in zip(cache.rows, tokens, strict=True):
            row.append(token)
        return self._read(cache)

    def _read(self, cache: PlainCache) -> Tensor:
        self.widest = max(self.widest, len(cache.rows))
        return torch.stack([self._row(i, tuple(row)) for i, row in zip(cache.requests, cache.rows, strict=True)])

    def _row(self, request: int, tokens: tuple[int, ...]) -> Tensor:
        source = None if self.sources is None else tuple(self.sources[request])
        key = (source, tokens)
        if key not in self._known:
            ids = torch.tensor([tokens])
            given = {"input_ids": ids} if source is None else {"input_ids": torch.tensor([source]), "decoder_input_ids": ids}
            with torch.no_grad():
                self._known[key] = self.model(**given).logits[0, -1].float()
        return self._known[key]


def spread(model: Any, std: float, seed: int, end: float = 1.5) -> Any:
    """The model with all its matrices drawn anew, far apart, so that answers vary; generation settings without anything of the model's own.

    Logits are brought to one scale, and ``end`` is added to that of the end token, which would hardly come otherwise.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, std, generator=generator)
    bias = torch.zeros(model.config.vocab_size)
    bias[END] = end
    model.lm_head.register_forward_hook(lambda module, given, logits: 2 * (logits - logits.mean(-1, True)) / logits.std(-1, keepdim=True) + bias)
    model.generation_config = GenerationConfig(pad_token_id=PAD)
    return model.eval()


def gpt2(vocab: int = VOCAB, std: float = 0.8) -> Any:
    config = GPT2Config(vocab_size=vocab, n_positions=128, n_embd=16, n_layer=2, n_head=2, bos_token_id=START, eos_token_id=END, tie_word_embeddings=False)
    return spread(GPT2LMHeadModel(config), std, 1)


def t5(std: float = 0.8) -> Any:
    ids = {"decoder_start_token_id": START, "eos_token_id": END, "pad_token_id": PAD, "tie_word_embeddings": False}
    config = T5Config(vocab_size=VOCAB, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, **ids)
    return spread(T5ForConditionalGeneration(config), std, 2, end=3.5)


def bart(std: float = 0.8) -> Any:
    config = BartConfig(
        vocab_size=VOCAB, d_model=16, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
        decoder_ffn_dim=32, max_position_embeddings=128, decoder_start_token_id=START, eos_token_id=END, pad_token_id=PAD, bos_token_id=START,
        forced_eos_token_id=None, tie_word_embeddings=False,
    )  # fmt: skip
    return spread(BartForConditionalGeneration(config), std, 3)
