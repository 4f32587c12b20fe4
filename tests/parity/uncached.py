"""The Transformer of 2017 as ``torch.nn.Transformer`` with the weights of one of ours, and greedy and beam search over it, each step read from the beginning.

The searches are written out from their definitions and hold nothing between two steps; what changes scores is the incumbent's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from blocks import filled
from torch import Tensor, nn
from transformers import LogitsProcessorList

from nabi import families

START = 3  # what each output begins with


@dataclass
class Theirs:
    """An answer: its tokens with the end token, log-probabilities (greedy) or ranked score (beams), and the scores of each greedy step (V,)."""

    tokens: list[int]
    logprobs: list[float] = field(default_factory=list)
    score: float | None = None
    steps: list[Tensor] = field(default_factory=list)


def processors(settings: Mapping[str, Any], prompt: Sequence[int], source: Sequence[int], ends: Sequence[int]) -> LogitsProcessorList:
    """The incumbent's, in its order; ``prompt`` is what lies before the first generated token."""
    made: list[Any] = []
    most = settings.get("max_new_tokens")
    length = settings["max_length"] if most is None else len(prompt) + most
    if (penalty := settings.get("repetition_penalty", 1.0)) != 1:
        made.append(transformers.RepetitionPenaltyLogitsProcessor(penalty))
    if n := settings.get("no_repeat_ngram_size"):
        made.append(transformers.NoRepeatNGramLogitsProcessor(n))
    if n := settings.get("encoder_no_repeat_ngram_size"):
        made.append(transformers.EncoderNoRepeatNGramLogitsProcessor(n, torch.tensor([list(source)])))
    if words := settings.get("bad_words_ids"):
        made.append(transformers.NoBadWordsLogitsProcessor([list(word) for word in words], list(ends) or None))
    if (least := settings.get("min_length")) and ends:
        made.append(transformers.MinLengthLogitsProcessor(least, list(ends)))
    if (least := settings.get("min_new_tokens")) and ends:
        made.append(transformers.MinNewTokensLengthLogitsProcessor(len(prompt), least, list(ends)))
    if (first := settings.get("forced_bos_token_id")) is not None:
        made.append(transformers.ForcedBOSTokenLogitsProcessor(first))
    if (last := settings.get("forced_eos_token_id")) is not None:
        made.append(transformers.ForcedEOSTokenLogitsProcessor(length, last))
    if tokens := settings.get("suppress_tokens"):
        made.append(transformers.SuppressTokensLogitsProcessor(list(tokens)))
    if tokens := settings.get("begin_suppress_tokens"):
        begin = len(prompt) + (len(prompt) == 1 and settings.get("forced_bos_token_id") is not None)
        made.append(transformers.SuppressTokensAtBeginLogitsProcessor(list(tokens), begin))
    if (temperature := settings.get("temperature", 1.0)) != 1:
        made.append(transformers.TemperatureLogitsWarper(temperature))
    if k := settings.get("top_k", 0):
        made.append(transformers.TopKLogitsWarper(k))
    if (p := settings.get("top_p", 1.0)) < 1:
        made.append(transformers.TopPLogitsWarper(p))
    return LogitsProcessorList(made)


class Uncached(nn.Module):
    """Torch's own model, without its final norms, and its answers.

    Args:
        body: ours.
    """

    def __init__(self, body: Any) -> None:
        super().__init__()
        c = families.find("transformer").sizes["tiny"]
        self.table, self.size = body.embeddings.tokens.weight.detach(), c.hidden_size
        twin: dict[str, Any] = {"dim_feedforward": c.intermediate_size, "dropout": 0.0, "layer_norm_eps": c.norm_eps, "batch_first": True}
        encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(self.size, c.num_heads, **twin), c.num_layers, enable_nested_tensor=False)
        decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(self.size, c.num_heads, **twin), c.num_layers)
        self.model = nn.Transformer(self.size, c.num_heads, custom_encoder=encoder, custom_decoder=decoder, batch_first=True)
        for theirs, mine in zip([*encoder.layers, *decoder.layers], [*body.encoder, *body.decoder], strict=True):  # only now: torch has drawn them anew
            filled(theirs, _Named(mine))
        # written out as in section 3.5, number by number
        angle = torch.tensor([[p / 10000 ** (2 * i / self.size) for i in range(self.size // 2)] for p in range(64)], dtype=torch.float64)
        self.places = torch.stack([angle.sin(), angle.cos()], 2).flatten(1).float()
        self.eval()

    @torch.no_grad()
    def read(self, sources: Tensor, written: Tensor) -> Tensor:
        """(N, L), (N, M) -> logits (N, M, V)."""
        x, y = (self.table[ids] * self.size**0.5 + self.places[: ids.shape[1]] for ids in (sources, written))
        mask = nn.Transformer.generate_square_subsequent_mask(written.shape[1])
        logits: Tensor = self.model(x, y, tgt_mask=mask, tgt_is_causal=True) @ self.table.T
        return logits

    def logits(self, text: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """(M, V): of each of the ``tokens`` that were written to a text."""
        return self.read(torch.tensor([list(text)]), torch.tensor([[START, *tokens[:-1]]]))[0]

    def answers(
        self, texts: Sequence[Sequence[int]], settings: Mapping[str, Any], ends: Sequence[int], text_of: Callable[[Sequence[int]], str]
    ) -> list[list[Theirs]]:
        """Of each text."""
        if settings.get("num_beams", 1) > 1:
            return [self._search(text, settings, ends, text_of) for text in texts]
        return [[self._best(text, settings, ends, text_of)] for text in texts]

    def _best(self, text: Sequence[int], settings: Mapping[str, Any], ends: Sequence[int], text_of: Callable[[Sequence[int]], str]) -> Theirs:
        change, said = processors(settings, [START], text, ends), settings.get("stop_strings", ())
        most = settings["max_length"] - 1 if settings["max_new_tokens"] is None else settings["max_new_tokens"]
        found = Theirs([])
        for _ in range(most):
            ids = torch.tensor([[START, *found.tokens]])
            (scores,) = change(ids, self.read(torch.tensor([list(text)]), ids)[:, -1])
            found.tokens.append(int(scores.argmax()))
            found.logprobs.append(float(scores.log_softmax(0)[found.tokens[-1]]))
            found.steps.append(scores)
            if found.tokens[-1] in ends or any(string in text_of(found.tokens) for string in said):
                break
        return found

    def _search(self, text: Sequence[int], settings: Mapping[str, Any], ends: Sequence[int], text_of: Callable[[Sequence[int]], str]) -> list[Theirs]:
        change, said = processors(settings, [START], text, ends), settings.get("stop_strings", ())
        most = settings["max_length"] - 1 if settings["max_new_tokens"] is None else settings["max_new_tokens"]
        beams, penalty, early = settings["num_beams"], settings.get("length_penalty", 1.0), settings.get("early_stopping", False)
        going: list[tuple[float, list[int]]] = [(0.0, [])]
        ended: list[tuple[float, list[int]]] = []
        for length in range(1, most + 1):
            ids = torch.tensor([[START, *tokens] for _, tokens in going])
            scores = self.read(torch.tensor([list(text)] * len(going)), ids)[:, -1].log_softmax(1)
            scores = torch.cat([change(ids[i : i + 1], scores[i : i + 1].clone()) for i in range(len(going))])
            scores = scores.log_softmax(1) if settings.get("renormalize_logits") else scores
            every = [(total + p, [*tokens, token]) for (total, tokens), row in zip(going, scores.tolist(), strict=True) for token, p in enumerate(row)]
            best = sorted(every, key=lambda x: -x[0])[: max(2, 1 + len(ends)) * beams]
            over = [t[-1] in ends or length == most or any(string in text_of(t) for string in said) for _, t in best]
            # an end counts only among the best; the others merely give their place to hypotheses that go on
            ended += [(total / length**penalty, tokens) for (total, tokens), end in zip(best[:beams], over, strict=False) if end]
            ended = sorted(ended, key=lambda x: -x[0])[:beams]
            going = [x for x, end in zip(best, over, strict=True) if not end][:beams]
            if not going or (early is True and len(ended) == beams):
                break
            reach = most if early == "never" and penalty > 0 else length
            if len(ended) == beams and going[0][0] / reach**penalty <= ended[-1][0]:
                break
        return [Theirs(tokens, score=score) for score, tokens in ended[: settings.get("num_return_sequences", 1)]]


class _Named(nn.Module):
    """A layer of ours as tests/probe/blocks.py names its parts."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        cross = hasattr(layer, "cross")
        self.attention, self.feed_forward = layer.attention, layer.feed_forward
        self.norms = nn.ModuleList([layer.attention_norm, *([layer.cross_norm] if cross else []), layer.norm])
        if cross:
            self.q, self.kv, self.out = layer.cross.q, layer.cross.kv, layer.cross.out
