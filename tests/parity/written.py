"""Texts that a folder's model writes, here by ``nabi.load`` and its real cache, there by the incumbent's ``generate``; and where the two differ.

The incumbent reads one prompt at a time, or greedily a group of prompts of one length, so that its padding plays no part. A folder's model is tiny and
random, spread so that texts vary; which token ends them, and which ones the settings forbid, is chosen by how often it writes them.
"""

from __future__ import annotations

import random
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers
from torch import Tensor, nn
from transformers import StoppingCriteriaList
from transformers.utils import logging

from decoding.against import Said
from nabi import checkpoint, load
from nabi.batch import Row, batch_of
from nabi.model import Model
from nabi.tasks import find
from nabi.tasks._generating import Piece
from parity.uncached import START, Theirs, Uncached

VOCAB, PAD = 60, 0
NEAR = 1e-5  # below this two scores are equal: both sides round
SAME = 1e-5  # of log-probabilities of the same tokens; of beams' scores, which are sums and products, as a share where they are above 1
BASE: Mapping[str, Any] = {"max_new_tokens": 10}

logging.set_verbosity_error()
logging.disable_progress_bar()
warnings.filterwarnings("ignore", message=".*(generation flags|Unfeasible length).*")


@dataclass(frozen=True)
class Kind:
    """A tiny random model.

    Attributes:
        cls, config: of the incumbent; its config's settings.
        table: std of the token table, which sets the scale of the scores.
        attention: of values and output projections: more of it makes all tokens of a text alike.
        look: of queries and keys: more of it magnifies rounding.
        inner: of the feed-forward: less of it makes a text repeat its last token.
    """

    cls: str
    config: Mapping[str, Any]
    table: float
    attention: float
    look: float
    inner: float


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
_GATED = {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
_MARIAN = {**_BART, "scale_embedding": True, "activation_function": "swish"}
KINDS: Mapping[str, Kind] = {
    "gpt2": Kind("GPT2LMHeadModel", _DECODER, 0.3, 0.2, 0.4, 0.3),
    "gpt": Kind("OpenAIGPTLMHeadModel", _DECODER, 0.3, 0.15, 0.3, 0.3),
    "t5 1.0": Kind("T5ForConditionalGeneration", _T5, 0.6, 0.2, 0.25, 0.3),
    "t5 1.1": Kind("T5ForConditionalGeneration", _GATED, 0.2, 0.15, 0.16, 0.3),
    "bart": Kind("BartForConditionalGeneration", _BART, 0.3, 0.15, 0.3, 0.3),
    "marian": Kind("MarianMTModel", _MARIAN, 0.2, 0.1, 0.5, 0.5),
}
OF_2017 = Kind("", {}, 0.2, 0.1, 0.5, 0.5)
EVERY = [*KINDS, "transformer"]
_TABLES = ("wte.weight", "tokens_embed.weight", "shared.weight", "lm_head.weight", "embeddings.tokens.weight")
_PLACES = ("wpe", "positions_embed", "embed_positions", "relative_attention_bias")


def spread(named: Iterable[tuple[str, Tensor]], kind: Kind) -> None:
    """Fill the parameters. A norm's weights are 1 or -1 and a tenth around it: so a tied table does not prefer the token that was read."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for path, p in named:
            x = torch.randn(p.shape, generator=generator)
            if p.dim() == 1:
                p.copy_((1 + 0.1 * x) * torch.randn(p.shape, generator=generator).sign() if path.endswith("weight") else 0.1 * x)
                continue
            if path.endswith(_TABLES):
                x *= kind.table
            elif any(name in path for name in ("mlp", "fc", "feed_forward", "DenseRelu")):
                x *= kind.inner
            elif not any(name in path for name in _PLACES):
                x *= kind.look if path.endswith((".q.weight", ".k.weight", "q_proj.weight", "k_proj.weight")) else kind.attention
                if "c_attn" in path:  # (W, 3 * W): queries and keys first
                    x[:, : 2 * len(x)] *= kind.look / kind.attention
                elif "qkv" in path or "cross.kv" in path:  # (3 * W, W) and (2 * W, W)
                    x[: -x.shape[1]] *= kind.look / kind.attention
            p.copy_(x)


def theirs(name: str, folder: Path, tokenizer: Path) -> Any:
    """A model of the incumbent's, saved in ``folder`` with a tokenizer and without settings of its own."""
    kind = KINDS[name]
    cls = getattr(transformers, kind.cls)
    made = cls(cls.config_class(**kind.config)).eval()
    if not getattr(made.config, "tie_word_embeddings", True):
        made.lm_head.weight = nn.Parameter(torch.empty(VOCAB, 32))
    spread(((path, p) for path, p in made.named_parameters() if name == "bart" or not path.endswith("embed_positions.weight")), kind)  # Marian's are computed
    if hasattr(made, "final_logits_bias"):
        made.final_logits_bias.copy_(torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(1)) * 0.1)
    made.generation_config = transformers.GenerationConfig(pad_token_id=PAD, decoder_start_token_id=START)
    made.save_pretrained(folder)
    for file in tokenizer.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return made


def of_2017(folder: Path, tokenizer: Path) -> None:
    """A tiny model of 2017, saved by us: the incumbent has none."""
    task = find("text2text_generation")
    model = checkpoint.create("transformer", "tiny", task.name, task.Settings(), tokenizer)
    spread(model.named_parameters(), OF_2017)
    settings = replace(model.task.settings, decoding=replace(model.task.decoding, decoder_start_token_id=START))
    model.task.settings, model.task.decoding = settings, settings.decoding
    checkpoint.save(model.eval(), folder)


class Other(Protocol):
    """What our answers are compared with."""

    def logits(self, text: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """(M, V): of each of the ``tokens`` that were written to a text, without a cache."""
        ...

    def answers(
        self, texts: Sequence[Sequence[int]], settings: Mapping[str, Any], ends: Sequence[int], text_of: Callable[[Sequence[int]], str]
    ) -> list[list[Theirs]]:
        """Its answers to texts of one length."""
        ...


@dataclass
class Incumbent:
    """A model of the incumbent's."""

    model: Any
    decoder_only: bool

    def logits(self, text: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """See ``Other.logits``."""
        with torch.no_grad():
            if self.decoder_only:
                whole: Tensor = self.model(torch.tensor([[*text, *tokens[:-1]]])).logits[0, len(text) - 1 :]
            else:
                whole = self.model(torch.tensor([list(text)]), decoder_input_ids=torch.tensor([[START, *tokens[:-1]]])).logits[0]
        return whole

    def answers(
        self, texts: Sequence[Sequence[int]], settings: Mapping[str, Any], ends: Sequence[int], text_of: Callable[[Sequence[int]], str]
    ) -> list[list[Theirs]]:
        """See ``Other.answers``; of beams and stop strings one text at a time."""
        options = {key: _listed(value) for key, value in settings.items()}
        options["eos_token_id"] = list(ends) or None
        strings, beams, count = options.pop("stop_strings", None), options.get("num_beams", 1), options.get("num_return_sequences", 1)
        prompt = len(texts[0]) if self.decoder_only else 1
        assert len({len(text) for text in texts}) == 1 and (len(texts) == 1 or (beams == 1 and not strings))
        if strings:
            options["stopping_criteria"] = StoppingCriteriaList([_Said(strings, prompt, text_of)])
        ids = torch.tensor([list(text) for text in texts])
        mask = torch.ones_like(ids)
        found = self.model.generate(ids, attention_mask=mask, do_sample=False, return_dict_in_generate=True, output_scores=True, **options)
        told = self.model.compute_transition_scores(found.sequences, found.scores, normalize_logits=True).tolist() if beams == 1 else None
        answers: list[list[Theirs]] = []
        for i, sequence in enumerate(found.sequences[:, prompt:].tolist()):
            tokens = sequence[: next((at for at, token in enumerate(sequence) if token in ends), len(sequence)) + 1]
            if i % count == 0:
                answers.append([])
            if told is None:
                answers[-1].append(Theirs(tokens, score=float(found.sequences_scores[i])))
            else:
                answers[-1].append(Theirs(tokens, told[i][: len(tokens)], steps=[score[i] for score in found.scores[: len(tokens)]]))
        return answers


class _Said(Said):
    """Of any model: its own texts of tokens."""

    def __init__(self, strings: Sequence[str], prompt: int, text_of: Callable[[Sequence[int]], str]) -> None:
        super().__init__(strings, prompt)
        self.text_of = text_of

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        texts = [self.text_of(row[self.prompt :]) for row in input_ids.tolist()]
        return torch.tensor([any(string in text for string in self.strings) for text in texts])


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, tuple) else value


@dataclass
class Pair:
    """Our model of a folder, and what it is compared with.

    Attributes:
        kind: its name.
        mine, other: both.
        source: texts to begin, in place of random ones.
        ends: the end token; found by how often it is written if None.
    """

    kind: str
    mine: Model
    other: Other
    source: list[list[int]] = field(default_factory=list, repr=False)
    ends: int | None = None

    @classmethod
    def made(cls, kind: str, folder: Path, tokenizer: Path) -> Pair:
        """Both, of a folder that the incumbent writes (of 2017: that we write)."""
        decoder_only = kind.startswith("gpt")
        if kind == "transformer":
            of_2017(folder, tokenizer)
        else:
            model = theirs(kind, folder, tokenizer)
        mine = load(folder, "text_generation" if decoder_only else "text2text_generation")
        return cls(kind, mine, Uncached(mine.body) if kind == "transformer" else Incumbent(model, decoder_only))

    @property
    def decoder_only(self) -> bool:
        return self.mine.task.generates == "text"

    def texts(self, count: int, seed: int, lengths: Sequence[int] = range(1, 13)) -> list[list[int]]:
        """Random ones, or beginnings of the source's."""
        dice = random.Random(seed)
        if self.source:
            return [text[: dice.choice(lengths)] for text in dice.choices(self.source, k=count)]
        return [[dice.randrange(4, VOCAB) for _ in range(dice.choice(lengths))] for _ in range(count)]

    def text_of(self, tokens: Sequence[int]) -> str:
        """As stop strings read it."""
        said = self.mine.run().text_of
        assert said is not None
        return said(tokens)

    @cached_property
    def frequent(self) -> list[int]:
        """The tokens by how often they are written when none of them ends a text."""
        found = self.write(self.texts(60, 5), {**BASE, "eos_token_id": ()})
        return [token for token, _ in Counter(token for (piece,) in found for token in piece.tokens).most_common()]

    @property
    def end(self) -> int:
        """The end token: one that is written, but not often."""
        return self.frequent[min(4, len(self.frequent) - 1)] if self.ends is None else self.ends

    def write(self, texts: Sequence[Sequence[int]], settings: Mapping[str, Any]) -> list[list[Piece]]:
        """Our answers to each text."""
        return list(self.mine.readings(rows_of(texts), self.options(settings)))

    def options(self, settings: Mapping[str, Any]) -> Any:
        """As a call to our model takes them."""
        return self.mine.options(settings if "eos_token_id" in settings else {"eos_token_id": (self.end,), **settings})

    @cached_property
    def cases(self) -> dict[str, dict[str, Any]]:
        """Every penalty and stop, laid over ``BASE``."""
        f, end = [token for token in self.frequent if token != self.end], self.end
        f += [token for token in range(4, VOCAB) if token not in f and token != end]
        words = tuple(text for token in f[:6] if (text := self.text_of([token])))
        bad = ((f[0],), (f[2],), (end,), (f[1], f[1]), (f[3], f[1]), (f[4], f[4]), (f[5], f[6], f[7]))
        return {
            "nothing": {},
            "max_new_tokens": {"max_new_tokens": 3},
            "max_length": {"max_new_tokens": None, "max_length": 20},
            "min_length": {"min_length": 9},
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
    "renormalize_logits": {"renormalize_logits": True, "repetition_penalty": 1.3, "num_return_sequences": 2},
    "num_return_sequences": {"num_return_sequences": 4},
}
SHORT = {"forced_bos_token_id", "forced_bos_token_id and begin_suppress_tokens"}  # a forced first token follows only a beginning of one token


def given(pair: Pair, name: str, count: int, seed: int) -> list[list[int]]:
    """Texts for a case."""
    return pair.texts(count, seed, [1] if name in SHORT and pair.decoder_only else range(1, 13))


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
        assert self.answers and not self.wrong and self.ties <= 0.01 * self.answers, (self.wrong, self.ties, self.answers, self.first)

    def __str__(self) -> str:
        return f"{self.answers} texts, {self.ties} near ties, {self.wrong} wrong, largest difference {self.gap:.1e}"


def compare(pair: Pair, texts: Sequence[Sequence[int]], settings: Mapping[str, Any], mine: Mapping[str, Any] | None = None) -> Count:
    """Our answers under ``mine`` (or the same settings) and the other's, text by text."""
    count = Count()
    ours = pair.write(texts, mine or settings)
    ends = settings.get("eos_token_id", (pair.end,))
    single = settings.get("num_beams", 1) > 1 or "stop_strings" in settings
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for _, same in groupby(order, key=lambda i: i if single else len(texts[i])):
        group = list(same)
        found = pair.other.answers([texts[i] for i in group], {k: x for k, x in settings.items() if k != "eos_token_id"}, ends, pair.text_of)
        for i, wanted in zip(group, found, strict=True):
            for piece, want in zip(ours[i], wanted, strict=True):
                judge(count, piece, want, ends, f"{pair.kind} {dict(settings)} {texts[i]}")
    return count


def judge(count: Count, piece: Piece, want: Theirs, ends: Sequence[int], where: str) -> None:
    """Count one answer."""
    assert piece.logprobs is not None and piece.score is not None
    count.answers += 1
    ended = len(piece.logprobs) > len(piece.tokens)
    said = want.tokens[:-1] if want.tokens[-1] in ends else want.tokens
    if list(piece.tokens) == said and ended == (want.tokens[-1] in ends):
        told, right = (piece.logprobs, want.logprobs) if want.score is None else ((piece.score,), [want.score])
        scale = 1.0 if want.score is None else max(1.0, abs(want.score))
        gap = max(abs(a - b) for a, b in zip(told, right, strict=True)) / scale
        count.gap = max(count.gap, gap)
        if not gap <= SAME:
            count.wrong += 1
            count.first = count.first or f"{where}: log-probabilities differ by {gap}"
    elif _near(piece, want, ends):
        count.ties += 1
    else:
        count.wrong += 1
        count.first = count.first or f"{where}: {list(piece.tokens)} {piece.score}, wanted {want.tokens} {want.score}"


def _near(piece: Piece, want: Theirs, ends: Sequence[int]) -> bool:
    """Whether a choice between scores that are equal within rounding is all that parts them."""
    assert piece.score is not None
    if want.score is not None:
        return abs(piece.score - want.score) < NEAR * max(1.0, abs(want.score))
    at = next((i for i, (a, b) in enumerate(zip(piece.tokens, want.tokens, strict=False)) if a != b), len(piece.tokens))
    if at >= len(want.steps):
        return False
    chosen = [piece.tokens[at]] if at < len(piece.tokens) else list(ends)
    return float(want.steps[at].max() - want.steps[at][chosen].max()) < NEAR
