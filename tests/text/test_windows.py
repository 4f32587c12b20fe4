"""Windows and truncation: against the incumbent, and as properties with several post-processors."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import transformers
from tokenizers import Tokenizer as Library
from tokenizers import normalizers, processors

from nabi.errors import InputError, OptionError, TokenizerError
from nabi.text import Encoding, Tokenizer
from text.tokenizer_kinds import byte_level, characters, made, metaspace, random_text

pytestmark = pytest.mark.filterwarnings("ignore:the tokenizer takes Hangul")  # a test of its own reads it


def templated(**template: object) -> Library:
    library = characters(None)
    library.add_special_tokens(["[X]"])
    library.post_processor = processors.TemplateProcessing(special_tokens=[("[X]", library.token_to_id("[X]"))], **template)
    return library


MADE: dict[str, Callable[[], Library]] = {
    "roberta": lambda: byte_level(trim=True, prefix=True),
    "byte level": lambda: byte_level(trim=False, prefix=False),
    "sentencepiece": metaspace,
    "no post-processor": lambda: characters(normalizers.NFC()),
    "pair first": lambda: templated(single="$A", pair="[X] $B:1 [X] [X] $A:0"),
}


def columns(encoding: Encoding) -> list[tuple[object, ...]]:
    return list(zip(encoding.ids, encoding.segments, encoding.offsets, encoding.words, encoding.special, encoding.sequence, strict=True))


@pytest.mark.parametrize("kind", ["minilm", *MADE])
@pytest.mark.parametrize("over", ["text", "pair"])
def test_windows_hold_every_token_once_in_order(kind: str, over: Literal["text", "pair"], minilm: Path) -> None:
    tokenizer = Tokenizer.load(minilm) if kind == "minilm" else made(MADE[kind]())
    dice, seen = random.Random(5), 0
    for _ in range(60):
        text, pair = random_text(dice, 80), random_text(dice, 12) if over == "pair" or dice.random() < 0.5 else None
        if over == "pair":
            text, pair = pair, text
        full, side = tokenizer.encode(text, pair), int(over == "pair")
        run = [row for row in columns(full) if row[5] == side]
        frame = len(full) - len(run)
        length = frame + dice.randint(1, 30)
        stride = dice.randrange(length - frame)
        windows = tokenizer.windows(text, pair, max_length=length, stride=stride, over=over)
        if len(full) <= length:
            assert windows == [full]
            continue
        seen += 1
        joined: list[tuple[object, ...]] = []
        for number, window in enumerate(windows):
            assert len(window) <= length
            held = [row for row in columns(window) if row[5] == side]
            assert held and [row for row in columns(window) if row[5] != side] == [row for row in columns(full) if row[5] != side]
            if number:
                assert joined[-stride:] == held[:stride] if stride else True
                assert len(held) > stride
            if number < len(windows) - 1:
                assert len(window) == length
            joined += held[stride if number else 0 :]
        assert joined == run
    assert seen > 20


@pytest.mark.parametrize(("max_length", "stride"), [(8, 0), (16, 5), (32, 31 - 3), (128, 64)])
def test_windows_equal_the_incumbents(minilm: Path, max_length: int, stride: int) -> None:
    ours, theirs = Tokenizer.load(minilm), transformers.AutoTokenizer.from_pretrained(minilm)
    dice = random.Random(7)
    for _ in range(40):
        text, pair = random_text(dice, 300), random_text(dice, 4)
        got = ours.windows(text, max_length=max_length, stride=stride)
        reference = theirs(text, max_length=max_length, stride=stride, truncation=True, return_overflowing_tokens=True)
        assert [window.ids for window in got] == reference["input_ids"]
        room = max_length - len(ours.encode("", pair))
        if room > stride:
            got = ours.windows(pair, text, max_length=max_length, stride=stride, over="pair")
            reference = theirs(pair, text, max_length=max_length, stride=stride, truncation="only_second", return_overflowing_tokens=True)
            assert [window.ids for window in got] == reference["input_ids"]
            assert [window.segments for window in got] == reference["token_type_ids"]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", ["minilm", "byte level", "roberta"])
def test_truncation_equals_the_incumbents(kind: str, side: str, minilm: Path) -> None:
    library = Library.from_file(str(minilm / "tokenizer.json")) if kind == "minilm" else MADE[kind]()
    library.no_padding()
    ours = made(library, tokenizer_config__json={"truncation_side": side})
    dice = random.Random(9)
    for _ in range(150):
        text, pair = random_text(dice, dice.choice([4, 80])), random_text(dice, dice.choice([4, 80])) if dice.random() < 0.7 else None
        length = dice.randint(4, 60)
        library.enable_truncation(length, direction=side)
        reference = library.encode(ours._composed(text).text, pair and ours._composed(pair).text)
        got, cut = ours.truncated(text, pair, length)
        assert (got.ids, got.segments) == (reference.ids, reference.type_ids), (text, pair, length)
        assert cut == (len(ours.encode(text, pair)) > length)
        assert set(columns(got)) <= set(columns(ours.encode(text, pair)))


def test_truncation_equals_the_incumbents_tokenizer(minilm: Path) -> None:
    ours, theirs = Tokenizer.load(minilm), transformers.AutoTokenizer.from_pretrained(minilm)
    dice = random.Random(11)
    for _ in range(60):
        text, pair, length = random_text(dice, 120), random_text(dice, 120), dice.randint(3, 40)
        assert ours.truncated(text, pair, length)[0].ids == theirs(text, pair, max_length=length, truncation=True)["input_ids"]
        assert ours.truncated(text, None, length)[0].ids == theirs(text, max_length=length, truncation=True)["input_ids"]


def test_what_leaves_no_room_is_said_with_its_numbers(minilm: Path) -> None:
    tokenizer = Tokenizer.load(minilm)
    for stride in (-1, 6, 100):
        with pytest.raises(OptionError, match=rf"{stride}.*room of max_length 8 - 2 special tokens = 6"):
            tokenizer.windows("short", max_length=8, stride=stride)
    with pytest.raises(OptionError):
        tokenizer.windows("short", max_length=2, stride=0)
    with pytest.raises(InputError, match=r"pair that each window repeats is too long.*20 tokens, which leave 0 of max_length 16"):
        tokenizer.windows("a " * 50, "b " * 20, max_length=16, stride=0)
    with pytest.raises(InputError, match=r"text that each window repeats.*10 tokens, which leave 3 of max_length 16.*stride of 3"):
        tokenizer.windows("b " * 10, "a " * 50, max_length=16, stride=3, over="pair")
    for over in ("pair", "neither"):
        with pytest.raises(OptionError, match="'pair' where a pair is given"):
            tokenizer.windows("a", max_length=8, stride=0, over=over)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="3 or more"):
        tokenizer.truncated("a", "b", 2)
    assert tokenizer.truncated("a", "b", 3)[0].ids == [101, 102, 102]


def test_a_text_that_the_post_processor_repeats_is_not_cut() -> None:
    tokenizer = made(templated(single="$A [X] $A", pair="$A $B"))
    with pytest.raises(TokenizerError, match="repeats or divides"):
        tokenizer.windows("a b c d e f", max_length=8, stride=0)
    with pytest.raises(TokenizerError, match="repeats or divides"):
        tokenizer.truncated("a b c d e f", None, 8)
