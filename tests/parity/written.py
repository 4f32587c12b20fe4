"""Texts that a folder's model writes, here by ``nabi.load`` and its real cache, there by the incumbent's ``generate``; and where the two differ.

The incumbent reads one prompt at a time, or greedily a group of prompts of one length, so that its padding plays no part. A folder's model is tiny and
random; which token ends its texts, and which ones the settings forbid, is chosen by how often it writes them.
"""

from __future__ import annotations

import random
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
import transformers
from blocks import filled
from torch import Tensor, nn
from transformers import StoppingCriteriaList
from transformers.utils import logging

from decoding.against import Said
from nabi import checkpoint, families, load
from nabi.batch import Row, batch_of
from nabi.inputs import Inputs
from nabi.model import Model, Origin
from nabi.tasks import find
from nabi.tasks._generating import Piece

VOCAB, START, PAD = 60, 3, 0
NEAR = 1e-5  # below this two scores are equal: both sides round
SAME = 1e-4  # of log-probabilities and scores of the same tokens
_DECODER = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128}
_T5 = {
    "vocab_size": VOCAB, "d_model": 32, "d_kv": 6, "d_ff": 48, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 4, "decoder_start_token_id": START,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20, "pad_token_id": PAD,
}  # fmt: skip
_BART = {
    "vocab_size": VOCAB, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 8,
    "encoder_ffn_dim": 64, "decoder_ffn_dim": 48, "max_position_embeddings": 128, "scale_embedding": False, "pad_token_id": PAD, "bos_token_id": 0,
    "eos_token_id": 2, "decoder_start_token_id": START,
}  # fmt: skip
# name -> (the incumbent's class, its config, std of the weights)
KINDS: Mapping[str, tuple[str, dict[str, Any], float]] = {
    "gpt2": ("GPT2LMHeadModel", _DECODER, 0.5),
    "gpt": ("OpenAIGPTLMHeadModel", _DECODER, 0.5),
    "t5 1.0": ("T5ForConditionalGeneration", _T5, 0.5),
    "t5 1.1": ("T5ForConditionalGeneration", {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, 0.4),
    "bart": ("BartForConditionalGeneration", _BART, 0.5),
    "marian": ("MarianMTModel", {**_BART, "scale_embedding": True, "activation_function": "swish"}, 0.75),
}
EVERY = [*KINDS, "transformer"]

logging.set_verbosity_error()
logging.disable_progress_bar()
warnings.filterwarnings("ignore", message=".*(generation flags|Unfeasible length).*")


def _std(path: str, p: Tensor, attention: float) -> float:
    """Of a random weight: attention outweighs what would make a text repeat its last token, or all texts one."""
    if p.dim() == 1 or "fc" in path or "mlp" in path or "feed_forward" in path:
        return 0.1
    return 0.3 if path.endswith(("wte.weight", "tokens_embed.weight", "shared.weight", "embeddings.tokens.weight")) else attention


def theirs(kind: str, folder: Path, tokenizer: Path) -> Any:
    """A model of the incumbent, all weights random, saved in ``folder`` with a tokenizer and without settings of its own."""
    name, settings, std = KINDS[kind]
    cls = getattr(transformers, name)
    made = cls(cls.config_class(**settings)).eval()
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        if not getattr(made.config, "tie_word_embeddings", True):
            made.lm_head.weight = nn.Parameter(torch.empty(VOCAB, 32))
        for path, p in made.named_parameters():
            if not path.endswith("embed_positions.weight") or kind == "bart":  # Marian's are computed
                norm = p.dim() == 1 and path.endswith("weight")
                p.copy_(torch.randn(p.shape, generator=g) * _std(path, p, std) + (p.dim() == 1 and path.endswith("weight")))
        if hasattr(made, "final_logits_bias"):
            made.final_logits_bias.copy_(torch.randn(1, VOCAB, generator=g) * 0.1)
    made.generation_config = transformers.GenerationConfig(pad_token_id=PAD, decoder_start_token_id=START)
    made.save_pretrained(folder)
    for file in tokenizer.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return made


class Torch2017(nn.Module):
    """The Transformer of 2017 from torch's own layers, without a cache, with the weights of one of ours; answers as the incumbent's models do."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        c = body_config = families.find("transformer").sizes["tiny"]
        self.config = transformers.PretrainedConfig(vocab_size=len(body.embeddings.tokens.weight))
        self.table, self.size = body.embeddings.tokens.weight, body_config.hidden_size
        twin: dict[str, Any] = {"dim_feedforward": c.intermediate_size, "dropout": 0.0, "layer_norm_eps": c.norm_eps, "batch_first": True}
        self.encoder = nn.ModuleList(filled(nn.TransformerEncoderLayer(self.size, c.num_heads, **twin), _Probe(x)) for x in body.encoder)
        self.decoder = nn.ModuleList(filled(nn.TransformerDecoderLayer(self.size, c.num_heads, **twin), _Probe(x)) for x in body.decoder)
        # written out as in section 3.5, number by number
        angle = torch.tensor([[p / 10000 ** (2 * i / self.size) for i in range(self.size // 2)] for p in range(128)], dtype=torch.float64)
        self.places = torch.stack([angle.sin(), angle.cos()], 2).flatten(1).float()
        self.eval()

    def forward(self, input_ids: Tensor, decoder_input_ids: Tensor) -> Any:
        """(N, L), (N, M) -> logits (N, M, V)."""
        x, y = (self.table[ids] * self.size**0.5 + self.places[: ids.shape[1]] for ids in (input_ids, decoder_input_ids))
        for layer in self.encoder:
            x = layer(x)
        mask = nn.Transformer.generate_square_subsequent_mask(decoder_input_ids.shape[1])
        for layer in self.decoder:
            y = layer(y, x, tgt_mask=mask)
        return transformers.modeling_outputs.Seq2SeqLMOutput(logits=y @ self.table.T)


class _Probe(nn.Module):
    """A layer of ours as tests/probe/blocks.py names its parts."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        cross = hasattr(layer, "cross")
        self.attention, self.feed_forward = layer.attention, layer.feed_forward
        self.norms = nn.ModuleList([layer.attention_norm, *([layer.cross_norm] if cross else []), layer.norm])
        if cross:
            self.q, self.kv, self.out = layer.cross.q, layer.cross.kv, layer.cross.out


def of_2017(folder: Path, tokenizer: Path) -> None:
    """A tiny model of 2017, saved by us: the incumbent has none."""
    family, task = families.find("transformer"), find("text2text_generation")
    config = replace(family.sizes["tiny"], vocab_size=VOCAB, first_id=START)
    body = families.build(family, config)
    inputs = Inputs.load(tokenizer, limit=128, vocab_size=VOCAB)
    built = task(task.completed(task.Settings(), {"decoder_start_token_id": START, "pad_token_id": PAD}, {}, inputs))
    built.build(body)
    model, g = Model(body, built, inputs, Origin("transformer", family, config)), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for path, p in model.named_parameters():
            p.copy_(torch.randn(p.shape, generator=g) * _std(path, p, 0.5) + (p.dim() == 1 and path.endswith("weight")))
    checkpoint.save(model.eval(), folder)


@dataclass
class Pair:
    """Our model of a folder and the incumbent's (or torch's, of 2017)."""

    kind: str
    mine: Model
    other: Any

    @classmethod
    def made(cls, kind: str, folder: Path, tokenizer: Path) -> Pair:
        """Both, of a folder that the incumbent writes."""
        other = None
        if kind == "transformer":
            of_2017(folder, tokenizer)
        else:
            other = theirs(kind, folder, tokenizer)
        mine = load(folder, "text_generation" if kind.startswith("gpt") else "text2text_generation")
        return cls(kind, mine, Torch2017(mine.body) if other is None else other)

    @property
    def decoder_only(self) -> bool:
        return self.kind.startswith("gpt")

    def texts(self, count: int, seed: int, lengths: Sequence[int] = range(1, 13)) -> list[list[int]]:
        """Random ones."""
        dice = random.Random(seed)
        return [[dice.randrange(4, VOCAB) for _ in range(dice.choice(lengths))] for _ in range(count)]

    @cached_property
    def frequent(self) -> list[int]:
        """The tokens by how often they are written when none of them ends a text."""
        found = self.write(self.texts(60, 5), {"max_new_tokens": 12, "eos_token_id": ()})
        return [token for token, _ in Counter(token for (piece,) in found for token in piece.tokens).most_common()]

    @property
    def end(self) -> int:
        """The end token: one that is written, but not often."""
        return self.frequent[min(4, len(self.frequent) - 1)]

    def write(self, texts: Sequence[Sequence[int]], settings: Mapping[str, Any]) -> list[list[Piece]]:
        """Our answers to each text."""
        options = self.mine.options({"eos_token_id": (self.end,), **settings} if "eos_token_id" not in settings else settings)
        return list(self.mine.readings(rows_of(texts), options))

    def cases(self) -> dict[str, dict[str, Any]]:
        """Every penalty and stop, laid over ``{"max_new_tokens": 10}``."""
        f, end = [token for token in self.frequent if token != self.end], self.end
        f += [token for token in range(4, VOCAB) if token not in f and token != end]
        said = self.mine.run().text_of
        assert said is not None
        words = tuple(said([token]) for token in f[:6] if said([token]))
        bad = ((f[0],), (f[2],), (end,), (f[1], f[1]), (f[3], f[1]), (f[4], f[4]), (f[5], f[6], f[7]))
        return {
            "nothing": {},
            "max_length": {"max_new_tokens": None, "max_length": 20},
            "min_length": {"min_length": 13},
            "min_new_tokens": {"min_new_tokens": 6},
            "repetition_penalty": {"repetition_penalty": 1.7},
            "repetition_penalty below 1": {"repetition_penalty": 0.6},
            "no_repeat_ngram_size 1": {"no_repeat_ngram_size": 1},
            "no_repeat_ngram_size 2": {"no_repeat_ngram_size": 2},
            "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 1},
            "bad_words_ids": {"bad_words_ids": bad},
            "suppress_tokens": {"suppress_tokens": tuple(f[:3])},
            "begin_suppress_tokens": {"begin_suppress_tokens": (*f[:6], end)},
            "forced_bos_token_id": {"forced_bos_token_id": f[3]},
            "forced_bos_token_id and begin_suppress_tokens": {"forced_bos_token_id": f[3], "begin_suppress_tokens": tuple(f[:4])},
            "forced_eos_token_id": {"forced_eos_token_id": end, "min_new_tokens": 8},
            "two eos_token_id": {"eos_token_id": (end, f[1])},
            "no eos_token_id": {"eos_token_id": ()},
            "stop_strings": {"stop_strings": words},
            "several": {
                "repetition_penalty": 1.2, "no_repeat_ngram_size": 2, "bad_words_ids": bad[:2], "min_new_tokens": 3, "suppress_tokens": (f[4],),
                "forced_eos_token_id": end, "eos_token_id": (end, f[1]), "encoder_no_repeat_ngram_size": 3,
            },
        }  # fmt: skip


OF_BEAMS: dict[str, dict[str, Any]] = {
    "length_penalty 2": {"length_penalty": 2.0},
    "length_penalty 0": {"length_penalty": 0.0},
    "length_penalty -1": {"length_penalty": -1.0},
    "early_stopping": {"early_stopping": True, "num_return_sequences": 3},
    "early_stopping never": {"early_stopping": "never", "length_penalty": 2.0},
    "early_stopping never, shorter": {"early_stopping": "never", "length_penalty": -0.5},
    "renormalize_logits": {"renormalize_logits": True, "num_return_sequences": 2},
    "num_return_sequences": {"num_return_sequences": 4},
}
SHORT = {"forced_bos_token_id", "forced_bos_token_id and begin_suppress_tokens"}  # a forced first token follows only a beginning of one token


def rows_of(texts: Sequence[Sequence[int]]) -> list[Row]:
    return [Row({"text": {"tokens": list(text)}}, example=i) for i, text in enumerate(texts)]


def alone(model: Model, text: Sequence[int], number: int, options: Any) -> list[Piece]:
    """The answers to row ``number`` without the others, each draw with the row's own number."""
    rows = rows_of([[1]] * number + [text])
    with torch.no_grad():
        ((found, pieces),) = model.task.read(model.run(), [batch_of(rows, [number], {})], options)
    assert found == number
    return list(pieces)


@dataclass
class Theirs:
    """The incumbent's answer: its tokens with the end token, log-probabilities (greedy) or score (beams), and the scores of each greedy step."""

    tokens: list[int]
    logprobs: list[float]
    score: float | None
    steps: list[Tensor]


def written(pair: Pair, texts: Sequence[Sequence[int]], settings: Mapping[str, Any]) -> list[list[Theirs]]:
    """The incumbent's answers to texts of one length (beams: one text)."""
    options = {key: _listed(value) for key, value in settings.items()}
    ends = options.setdefault("eos_token_id", [pair.end])
    options["eos_token_id"] = ends or None
    strings, beams, count = options.pop("stop_strings", None), options.get("num_beams", 1), options.get("num_return_sequences", 1)
    prompt = len(texts[0]) if pair.decoder_only else 1
    assert len({len(text) for text in texts}) == 1 and (len(texts) == 1 or (beams == 1 and not strings))
    if strings:
        text_of = pair.mine.run().text_of
        assert text_of is not None
        options["stopping_criteria"] = StoppingCriteriaList([_Said(strings, prompt, text_of)])
    ids = torch.tensor([list(text) for text in texts])
    mask = torch.ones_like(ids)
    found = pair.other.generate(ids, attention_mask=mask, do_sample=False, return_dict_in_generate=True, output_scores=True, **options)
    told = pair.other.compute_transition_scores(found.sequences, found.scores, normalize_logits=True).tolist() if beams == 1 else None
    answers: list[list[Theirs]] = []
    for i, sequence in enumerate(found.sequences[:, prompt:].tolist()):
        stop = next((at for at, token in enumerate(sequence) if token in ends), len(sequence))
        tokens = sequence[: stop + 1]
        if i % count == 0:
            answers.append([])
        steps = [] if told is None else [score[i] for score in found.scores[: len(tokens)]]
        answers[-1].append(Theirs(tokens, [] if told is None else told[i][: len(tokens)], None if told else float(found.sequences_scores[i]), steps))
    return answers


class _Said(Said):
    """Of any model: its own texts of tokens."""

    def __init__(self, strings: Sequence[str], prompt: int, text_of: Any) -> None:
        super().__init__(strings, prompt)
        self.text_of = text_of

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        texts = [self.text_of(row[self.prompt :]) for row in input_ids.tolist()]
        return torch.tensor([any(string in text for string in self.strings) for text in texts])


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, tuple) else value


@dataclass
class Count:
    """Answers that were compared; what differed by near ties; what differed truly; the largest gap of log-probabilities and scores."""

    answers: int = 0
    ties: int = 0
    wrong: int = 0
    gap: float = 0.0
    first: str = ""

    def add(self, other: Count) -> None:
        self.answers, self.ties, self.wrong = self.answers + other.answers, self.ties + other.ties, self.wrong + other.wrong
        self.gap, self.first = max(self.gap, other.gap), self.first or other.first

    def agreed(self) -> None:
        assert not self.wrong and self.ties <= 0.01 * self.answers, (self.wrong, self.ties, self.answers, self.first)


def compare(pair: Pair, texts: Sequence[Sequence[int]], settings: Mapping[str, Any], mine: Mapping[str, Any] | None = None) -> Count:
    """Our answers under ``mine`` (or the same settings) and the incumbent's, text by text."""
    count = Count()
    ours = pair.write(texts, mine or settings)
    single = settings.get("num_beams", 1) > 1 or "stop_strings" in settings
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for _, same in groupby(order, key=lambda i: i if single else len(texts[i])):
        group = list(same)
        for i, wanted in zip(group, written(pair, [texts[i] for i in group], settings), strict=True):
            assert len(ours[i]) == len(wanted)
            for piece, want in zip(ours[i], wanted, strict=True):
                judge(count, piece, want, settings.get("eos_token_id", (pair.end,)), f"{pair.kind} {dict(settings)} {texts[i]}")
    return count


def judge(count: Count, piece: Piece, want: Theirs, ends: Sequence[int], where: str) -> None:
    """Count one answer."""
    assert piece.logprobs is not None and piece.score is not None
    count.answers += 1
    ended = len(piece.logprobs) > len(piece.tokens)
    said = want.tokens[:-1] if want.tokens[-1] in ends else want.tokens
    if list(piece.tokens) == said and ended == (want.tokens[-1] in ends):
        told = max((abs(a - b) for a, b in zip(piece.logprobs, want.logprobs, strict=True)), default=0.0) if want.score is None else abs(piece.score - want.score)
        count.gap = max(count.gap, told)
        if told > SAME:
            count.wrong += 1
            count.first = count.first or f"{where}: log-probabilities differ by {told}"
    elif _near(piece, want):
        count.ties += 1
    else:
        count.wrong += 1
        count.first = count.first or f"{where}: {list(piece.tokens)} {piece.score}, wanted {want.tokens} {want.score}"


def _near(piece: Piece, want: Theirs) -> bool:
    """Whether a choice between scores that are equal within rounding is all that parts them."""
    assert piece.score is not None
    if want.score is not None:
        return abs(piece.score - want.score) < NEAR
    at = next((i for i, (a, b) in enumerate(zip(piece.tokens, want.tokens, strict=False)) if a != b), len(piece.tokens))
    if at >= len(want.steps):
        return False
    best = want.steps[at].topk(2).values
    return float(best[0] - best[1]) < NEAR
