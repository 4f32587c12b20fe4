"""Training of tokenizers beside the library's own call, and under a memory bound."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as Library
from tokenizers import models, pre_tokenizers, trainers

from nabi.errors import InputError, OptionError
from nabi.text import Tokenizer, feeding
from nabi.text.feeding import Feeder, held, size_of
from nabi.text.measuring import keywords, measure
from nabi.text.reading import CHUNK, chunks
from nabi.text.retraining import retrain
from nabi.text.sketch import Sketches, levels_of
from nabi.text.training import USUAL, TokenizerSettings, train_tokenizer, trained, trainer, untrained


def corpus(seed: int = 0, lines: int = 300) -> list[str]:
    dice = random.Random(seed)
    parts = ["tok", "train", "merge", "pair", "나비", "꽃", "에서", "def", "    return", "self.", "(x)", "\n", "12", "naïve", "中文"]
    words = ["".join(dice.choices(parts, k=dice.randint(1, 3))) for _ in range(150)]
    return [" ".join(dice.choices(words, weights=range(150, 0, -1), k=12)) for _ in range(lines)]


def plain_byte_bpe(texts: Any, size: int) -> Library:
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    end = ["<|endoftext|>"]
    library.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, special_tokens=end, initial_alphabet=alphabet, show_progress=False))
    return library


@pytest.mark.parametrize("memory", [None, "4GB"])
def test_ids_are_the_librarys_own(memory: str | None) -> None:
    texts = [*corpus(), " ".join(corpus(1, 200))]  # the last one is longer than what is given at once
    assert len(texts[-1]) > CHUNK
    made = train_tokenizer(iter(texts), TokenizerSettings(vocab_size=450), memory=memory)
    plain = plain_byte_bpe(texts, 450)
    assert made.library.get_vocab() == plain.get_vocab()
    assert [made.encode(text).ids for text in corpus(2, 40)] == [plain.encode(text).ids for text in corpus(2, 40)]


def test_unigram_is_the_same_each_time_and_the_librarys_but_for_ties() -> None:
    settings = TokenizerSettings("unigram", 120)
    made = [train_tokenizer(corpus(), settings) for _ in range(3)]
    assert len({tokenizer.definition() for tokenizer in made}) == 1
    runs = []
    for _ in range(4):
        plain = untrained(settings)
        plain.train_from_iterator(corpus(), trainer(settings))
        runs.append(dict(json.loads(plain.to_str())["model"]["vocab"]))
    assert len({json.dumps(run) for run in runs}) > 1, "control: the library's own runs differ"
    ours = dict(json.loads(made[0].definition())["model"]["vocab"])
    for run in runs:
        assert ours.keys() == run.keys() and sorted(ours.values()) == pytest.approx(sorted(run.values()), abs=1e-8)
        assert max(abs(ours[piece] - score) for piece, score in run.items()) < 1e-4 * len(run)
        assert max(abs(ours[piece] - score) for piece, score in run.items() if len(piece) > 1) < 1e-8


def test_control_other_texts_give_other_ids() -> None:
    made = train_tokenizer(corpus(), TokenizerSettings(vocab_size=450))
    assert made.library.get_vocab() != plain_byte_bpe([text[::-1] for text in corpus()], 450).get_vocab()


@pytest.mark.parametrize(("kind", "size"), [("wordpiece", 260), ("unigram", 120), ("character", 40)])
def test_every_kind_reads_what_it_was_trained_on(kind: Any, size: int, tmp_path: Path) -> None:
    made = train_tokenizer(corpus(), TokenizerSettings(kind, size))
    assert made.vocab_size <= size
    assert [made.id(token) for token in USUAL[kind].values()] == list(range(len(USUAL[kind])))
    made.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    for text in corpus(3, 20):
        ids = made.encode(text).ids
        assert again.encode(text).ids == ids and made.unk_id not in ids
    assert again.pad_id == 0 and again.unk_id == made.unk_id == made.id(USUAL[kind]["unk"])
    if kind == "character":
        assert made.decode(made.encode("def  (x)\n").ids) == "def  (x)\n"


def test_what_stands_around_a_text_is_as_usual() -> None:
    texts = corpus()
    bert = train_tokenizer(texts, TokenizerSettings("wordpiece", 200))
    pair = bert.encode("tok", "pair")
    assert [bert.token(id) for id in pair.ids].count("[SEP]") == 2 and pair.segments[-1] == 1 and pair.ids[0] == bert.cls_id
    assert train_tokenizer(texts, TokenizerSettings("character", 40)).encode("tok").ids[-1] == 1
    assert train_tokenizer(texts, TokenizerSettings(vocab_size=300)).encode("").ids == []


def test_settings_do_what_they_say() -> None:
    texts = corpus() + ["Ab 1234 가"] * 50
    base = TokenizerSettings(vocab_size=420)

    def tokens(settings: TokenizerSettings, text: str) -> list[str]:
        made = train_tokenizer(texts, settings)
        return made.tokens(made.encode(text).ids)

    assert "1234" in "".join(tokens(base, "1234")) and len(tokens(base, " 1234")) == 1
    assert len(tokens(replace(base, split_digits=True), "1234")) == 4
    assert tokens(replace(base, lowercase=True), "AB") == tokens(replace(base, lowercase=True), "ab")
    assert tokens(replace(base, nfc=True), "가") == tokens(replace(base, nfc=True), "가")
    assert max(map(len, tokens(replace(base, max_token_length=3), " ".join(texts[:20])))) <= 3
    indented = "def x\n        return"
    keeps, drops = (train_tokenizer(texts, replace(base, keep_whitespace=kept)) for kept in (True, False))
    assert keeps.decode(keeps.encode(indented).ids) == indented and drops.decode(drops.encode(indented).ids) == "def x return"
    pieces = train_tokenizer(texts, TokenizerSettings("unigram", 120, keep_whitespace=True))
    assert pieces.decode(pieces.encode(indented, special=False).ids) == indented
    named = train_tokenizer(texts, replace(base, special_tokens=("<|a|>", "<|b|>")))
    assert (named.id("<|a|>"), named.id("<|b|>"), named.eos_id) == (0, 1, None)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (TokenizerSettings("bpe"), "unknown kind of tokenizer"),  # type: ignore[arg-type]
        (TokenizerSettings(vocab_size=256), "smaller than the alphabet and the special tokens"),
        (TokenizerSettings("character", 10), "smaller than the alphabet of the texts|^$"),
        (TokenizerSettings("wordpiece", 40), "smaller than the alphabet of the texts"),
        (TokenizerSettings(special_tokens=("a", "b", "a")), "given twice: 'a'"),
        (TokenizerSettings(special_tokens=("",)), "is empty"),
        (TokenizerSettings("wordpiece", special_tokens=("[PAD]",)), r"needs the special token \[UNK\]"),
        (TokenizerSettings("unigram", min_frequency=2), "no setting min_frequency"),
        (TokenizerSettings(limit_alphabet=50), "no setting limit_alphabet"),
        (TokenizerSettings(min_frequency=0), "min_frequency is too small"),
        (TokenizerSettings("wordpiece", keep_whitespace=True), "can't keep white space"),
    ],
)
def test_settings_that_can_not_be_are_refused(settings: TokenizerSettings, words: str) -> None:
    if settings.kind == "character":  # fewer characters are kept, the rest is unknown
        assert train_tokenizer(corpus(), settings).vocab_size == 10
        return
    with pytest.raises(OptionError, match=words):
        train_tokenizer(corpus(), settings)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ([], "there is no text to train on: 'an empty iterator'"),
        (["", ""], "all empty"),
        (["a", None], "text 2 is not a str but NoneType"),
        ([["a", "b"], ["c", b"d"]], "text 4 is not a str but bytes"),
        (["a", "\ud83d"], "text 2 holds half of a surrogate pair"),
        ("abc", "one text was given"),
        (3, "these are no texts"),
    ],
)
@pytest.mark.parametrize("memory", [None, "4GB"])
def test_what_is_no_text_is_refused(texts: Any, words: str, memory: str | None) -> None:
    with pytest.raises(InputError, match=words):
        train_tokenizer(texts, TokenizerSettings(vocab_size=300), memory=memory)


@pytest.mark.parametrize(("memory", "words"), [("10MB", "too small"), (1000, "too small"), ("much", "no amount"), (0, "no amount"), (True, "no amount")])
def test_a_bound_that_can_not_be_is_refused(memory: Any, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        train_tokenizer(corpus(), TokenizerSettings(vocab_size=300), memory=memory)


def test_sizes_are_read() -> None:
    assert [size_of(x) for x in ("1GB", "512 MiB", "1.5k", 7, None)] == [10**9, 512 << 20, 1500, 7, None]


@pytest.mark.parametrize(("words", "splitter"), [
    ("classes", pre_tokenizers.ByteLevel(add_prefix_space=False)), ("signs", pre_tokenizers.BertPreTokenizer()),
    ("spaces", pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])), ("blanks", pre_tokenizers.Metaspace()),
])  # fmt: skip
def test_the_count_of_distinct_words_is_right(words: Any, splitter: Any) -> None:
    dice = random.Random(5)
    texts = [" ".join(f"{dice.choice('abc가나')}{dice.randrange(40000):x}가,{dice.randrange(99)}" for _ in range(60)) + "\n\tx" for _ in range(600)]
    true = {piece for text in texts for piece, _ in splitter.pre_tokenize_str(text)}
    counted = Sketches(words, in_bytes=words == "classes")
    for i in range(0, len(texts), 50):
        counted.add(texts[i : i + 50])
    found, symbols = counted.distinct(0)
    assert found == pytest.approx(len(true), rel=0.06)
    assert 0.93 < symbols / sum(map(len, true)) < 1.3  # more, for a blank is counted with each word
    few = counted.distinct(4)[0]
    assert 0.2 * found < few < 0.45 * found  # a quarter of the texts, whose words are mostly their own


def test_samples_are_nested_even_and_the_same_each_time() -> None:
    levels = levels_of(0, 100_000)
    assert np.array_equal(levels[500:600], levels_of(500, 100))
    shares = [(levels >= level).mean() for level in range(8)]
    assert shares == pytest.approx([2 ** (-level / 2) for level in range(8)], rel=0.05)


def test_long_texts_are_cut_where_no_word_notices() -> None:
    text = " ".join(corpus(4, 300))
    pieces = list(chunks(text, 1000, 4000))
    assert "".join(pieces) == text and len(pieces) > 10
    for splitter in (pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Metaspace()):
        together = [piece for piece, _ in splitter.pre_tokenize_str(text)]
        assert [piece for part in pieces for piece, _ in splitter.pre_tokenize_str(part)] == together
    assert max(map(len, chunks("가" * 10_000, 1000, 4000))) == 4000


def spaceless(seed: int, texts: int) -> Iterator[str]:
    dice = random.Random(9)
    words = ["".join(dice.choices("가나다라마바사아자차카타파하거너더러머버서어저처커터퍼허", k=dice.randint(1, 4))) for _ in range(3000)]
    dice = random.Random(seed)
    for _ in range(texts):
        yield "".join(dice.choices(words, weights=[1 / rank for rank in range(1, 3001)], k=150))


@pytest.mark.parametrize("once", [False, True])
def test_where_the_bound_is_met_a_sample_trains_as_well(once: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for a part of the texts only: a warning, and on other texts as many tokens as without a bound, within 1 %."""
    texts = list(spaceless(0, 900))
    settings = TokenizerSettings(vocab_size=380)
    full = train_tokenizer(texts, settings, memory=None)
    room = 68_000_000
    monkeypatch.setattr(Feeder, "_room", lambda self: room)
    with pytest.warns(UserWarning, match=r"even sample of \d+\.\d% of them, with words cut at 60 symbols"):
        done = trained(iter(texts) if once else texts, settings, memory=held() + room)
    assert 0.1 < done.fed.share < 0.75 and done.fed.texts == 900
    other = list(spaceless(1, 60))
    ours, theirs = (sum(len(e) for e in made.encode_batch(other)) for made in (done.tokenizer, full))
    assert ours == pytest.approx(theirs, rel=0.01)
    bytes_only = train_tokenizer(["x"], TokenizerSettings(vocab_size=380))
    assert sum(len(e) for e in bytes_only.encode_batch(other)) > 1.5 * theirs  # control: a vocabulary of nothing misses by 50 times the tolerance


@pytest.mark.parametrize(("kind", "count"), [("byte_bpe", 500), ("wordpiece", 500), ("unigram", 130)])
def test_a_larger_sample_is_taken_where_the_first_took_little(kind: Any, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the model takes is measured, so the share that is trained on is larger than what the constants allow."""
    texts, levels = list(spaceless(0, count)), []
    room = 75_000_000
    monkeypatch.setattr(Feeder, "_room", lambda self: room)
    of = feeding.sampled
    monkeypatch.setattr(feeding, "sampled", lambda batches, level: levels.append(level) or of(batches, level))
    with pytest.warns(UserWarning, match="words cut at 60 symbols"):
        done = trained(texts, TokenizerSettings(kind, 380), memory=held() + room)
    assert levels == sorted(levels, reverse=True) and len(levels) > 1 and done.fed.share == pytest.approx(2 ** (-levels[-1] / 2))
    assert done.fed.words and done.fed.symbols and done.fed.need


PEAK = """
import sys, warnings
from nabi.memory import peak
sys.path.insert(0, sys.argv[2])
from text_without_spaces import lines
from nabi.text.training import TokenizerSettings, train_tokenizer
warnings.simplefilter("ignore")
memory = None if sys.argv[1] == "none" else int(sys.argv[1])
train_tokenizer(lines, TokenizerSettings(vocab_size=300), memory=memory)
print(peak())
"""
LINES = """
import random
def lines():
    dice = random.Random(0)
    for _ in range(1700):
        yield "".join(dice.choices("가나다라마바사아자차카타파하거너더러머버서어저처커터퍼허", k=600))
"""


def test_the_process_stays_under_the_bound(tmp_path: Path) -> None:
    (tmp_path / "text_without_spaces.py").write_text(LINES)

    def peak(memory: str) -> int:
        return int(subprocess.run([sys.executable, "-c", PEAK, memory, str(tmp_path)], capture_output=True, text=True, check=True).stdout)

    bound = 150_000_000
    assert peak(str(bound)) <= bound < peak("none")  # the second: a control that the bound was met at all


def test_retraining_keeps_what_the_tokenizer_is(tmp_path: Path) -> None:
    first = train_tokenizer(corpus(), TokenizerSettings("wordpiece", 220, lowercase=True))
    second = retrain(first, corpus(7), 240, new_special_tokens=["[CELL]"], special_tokens_map={"[MASK]": "<hole>"})
    assert [second.id(token) for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "<hole>", "[CELL]")] == list(range(6))
    assert second.mask_id == 4 and second.encode("TOK").ids == second.encode("tok").ids and second.encode("tok").ids[0] == second.cls_id
    second.save(tmp_path)
    assert Tokenizer.load(tmp_path).encode("tok [CELL]").ids == second.encode("tok [CELL]").ids
    with pytest.raises(OptionError, match="(?i)did you mean 'min_frequency'"):
        retrain(first, corpus(), 240, min_frequenzy=2)


def test_the_figures_are_counted_right() -> None:
    made = train_tokenizer(["def return 나비 x"] * 30, TokenizerSettings(vocab_size=300))
    facts = measure(made, ["def 나비", "zq def"])
    assert (facts["texts"], facts["characters"], facts["words"]) == (2, 12, 4)
    tokens = sum(len(made.encode(text).ids) for text in ("def 나비", "zq def"))
    assert facts["tokens"] == tokens and facts["tokens_per_word"] == tokens / 4 and facts["tokens_per_character"] == tokens / 12
    assert facts["bytes_per_token"] == 16 / tokens and facts["unknown_rate"] == 0
    assert facts["bytes_per_token_by_script"]["Hangul"] == 6.0  # without its blank
    assert facts["words_once"]["once"] == 2 and set(facts["words_once"]["examples"]) == {"나비", "zq"}
    assert "return" not in keywords(made)["lacking_behind_a_space"] and "lambda" in keywords(made)["lacking_alone"]
    assert json.dumps(facts) and re.match("␣", facts["longest_tokens"][0])


def test_unknown_tokens_are_counted() -> None:
    made = train_tokenizer(["ab"] * 9, TokenizerSettings("character", 10))
    assert measure(made, ["abzz"])["unknown_rate"] == 0.5


def test_no_warning_where_the_bound_is_not_met() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = trained(corpus(), TokenizerSettings(vocab_size=300))
    assert done.fed.share == 1.0 and done.fed.words is None and done.fed.need  # so few that nothing was counted
