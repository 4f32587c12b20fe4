"""Offsets point at a token's own characters in the text as it was given, in every script and with every kind of tokenizer."""

from __future__ import annotations

import itertools
import json
import random
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import normalizers

from nabi.text import Encoding, Tokenizer
from nabi.text.tokenizer import UNUSUAL, _joins
from text.tokenizer_kinds import ALPHABETS, byte_level, characters, made, metaspace, random_text

pytestmark = pytest.mark.filterwarnings("ignore:the tokenizer takes Hangul")  # a test of its own reads it

MIXED = st.lists(st.sampled_from(sorted(ALPHABETS)).flatmap(lambda name: st.text(ALPHABETS[name], max_size=12)), max_size=5).map("".join)
TEXTS = st.one_of(MIXED, MIXED.map(lambda text: unicodedata.normalize("NFD", text)), st.text(st.characters(codec="utf-8"), max_size=30))

# the same examples in each run: what a longer random run finds becomes an example here
EXAMPLES = settings(deadline=None, database=None, derandomize=True)


def in_order(encoding: Encoding, text: str) -> None:
    spans = [span for span, side in zip(encoding.offsets, encoding.sequence, strict=True) if side == 0]
    assert all(0 <= start <= end <= len(text) for start, end in spans)
    for (start, end), (next_start, next_end) in itertools.pairwise(spans):
        assert start <= next_start and end <= next_end
        # two tokens share characters only if one character makes both
        assert end <= next_start or start == next_start or end - next_start <= 1, (text, spans)
    assert all(span == (0, 0) for span, added in zip(encoding.offsets, encoding.special, strict=True) if added)


def no_mark_is_lost(encoding: Encoding, text: str) -> None:
    """A combining mark or a conjoining letter right behind a token's character is in some token."""
    held = {i for start, end in encoding.offsets for i in range(start, end)}
    for i, char in enumerate(text):
        if i and i not in held and i - 1 in held:
            assert unicodedata.category(char)[0] != "M" and not "\u1160" <= char <= "\u11ff", (text, i)


@pytest.mark.parametrize("kind", ["uncased", "cased", "vocab"])
def test_wordpiece(kind: str, minilm: Path, vocab_only: Path) -> None:
    definition = json.loads((minilm / "tokenizer.json").read_text())
    if kind == "cased":
        definition["normalizer"] |= {"lowercase": False, "strip_accents": False}
    tokenizer = Tokenizer.load(vocab_only) if kind == "vocab" else Tokenizer(json.dumps(definition).encode(), {})
    normalise = Library.from_str(json.dumps(definition)).normalizer.normalize_str

    @given(TEXTS)
    @settings(EXAMPLES, max_examples=300)
    def check(text: str) -> None:
        encoding = tokenizer.encode(text)
        in_order(encoding, text)
        if kind != "cased":
            no_mark_is_lost(encoding, text)
        rows = [row for row in zip(encoding.ids, encoding.offsets, encoding.words, encoding.special, strict=True) if not row[3]]
        for _, group in itertools.groupby(rows, key=lambda row: row[2]):
            pieces = list(group)
            tokens = [tokenizer.token(id).removeprefix("##") for id, *_ in pieces]
            spans = [span for _, span, *_ in pieces]
            if "[UNK]" in tokens or all(token.startswith("[") and len(token) > 1 for token in tokens):
                continue
            for span, same in itertools.groupby(zip(tokens, spans, strict=True), key=lambda pair: pair[1]):
                assert "".join(token for token, _ in same) == normalise(text[slice(*span)]).strip(), (text, tokens, spans)
            assert "".join(tokens) == normalise(text[spans[0][0] : spans[-1][1]]).strip()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer, "_breaks_hangul", False)
        check()


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_normal_forms_keep_every_character(form: str) -> None:
    tokenizer = made(characters(getattr(normalizers, form)()))

    @given(TEXTS)
    @settings(EXAMPLES, max_examples=200)
    def check(text: str) -> None:
        encoding = tokenizer.encode(text)
        in_order(encoding, text)
        held = {i for start, end in encoding.offsets for i in range(start, end)}
        assert held == set(range(len(text)))

    check()


def test_composed_hangul_holds_all_its_letters() -> None:
    tokenizer, raw = made(characters(normalizers.NFC())), characters(normalizers.NFC())
    text = unicodedata.normalize("NFD", "한국어 이순신")
    encoding = tokenizer.encode(text)
    assert "".join(tokenizer.tokens(encoding.ids)) == "한국어 이순신"
    assert [unicodedata.normalize("NFC", text[start:end]) for start, end in encoding.offsets] == list("한국어 이순신")
    # the library alone gives the first letter of each syllable
    assert [text[start:end] for start, end in raw.encode(text).offsets][:2] == ["\u1112", "\u1100"]


@pytest.mark.parametrize("trim", [True, False])
@pytest.mark.parametrize("prefix", [True, False])
def test_byte_level(trim: bool, prefix: bool) -> None:
    tokenizer = made(byte_level(trim, prefix))

    @given(TEXTS)
    @settings(EXAMPLES, max_examples=200)
    def check(text: str) -> None:
        encoding = tokenizer.encode(text)
        in_order(encoding, text)
        for start, end in encoding.offsets:
            held = text[start:end]
            assert held.isspace() or held == held.strip()
        assert {i for start, end in encoding.offsets for i in range(start, end)} >= {i for i, c in enumerate(text) if not c.isspace()}

    check()
    encoding = tokenizer.encode("the ab  한")
    tokens = dict(zip(tokenizer.tokens(encoding.ids), encoding.offsets, strict=True))
    assert tokens["Ġab"] == (4, 6) and tokens["í"] == (8, 9) and tokens["Ġthe" if prefix else "he"] == ((0, 3) if prefix else (1, 3))


def test_a_space_only_for_the_tokenizer_is_empty() -> None:
    for library in (metaspace(), byte_level(False, True)):
        encoding = made(library).encode("국 ab")
        content = [span for span, added in zip(encoding.offsets, encoding.special, strict=True) if not added]
        assert content[0] == (0, 0) and content[1] == (0, 1) and content[-1] == (2, 4)


def test_sentencepiece() -> None:
    tokenizer = made(metaspace())

    def letters(text: str) -> str:
        return "".join(char for char in unicodedata.normalize("NFKD", text) if unicodedata.category(char)[0] != "M")

    @given(MIXED)
    @settings(EXAMPLES, max_examples=300)
    def check(text: str) -> None:
        encoding = tokenizer.encode(text)
        in_order(encoding, text)
        no_mark_is_lost(encoding, text)
        for token, (start, end) in zip(tokenizer.tokens(encoding.ids), encoding.offsets, strict=True):
            # of its letters only: the library does not follow which mark of a character went where when they are put into order
            plain, held = letters(token.removeprefix("▁")), letters(text[start:end])
            assert token in ("<unk>", "</s>") or plain in held or (not plain and not held.strip()), (text, token, held)

    check()


def test_pairs_keep_their_own_offsets(minilm: Path) -> None:
    dice = random.Random(3)
    for tokenizer in (Tokenizer.load(minilm), made(metaspace()), made(byte_level(False, True))):
        for _ in range(50):
            text, pair = random_text(dice), random_text(dice)
            both = tokenizer.encode(text, pair)
            for side, alone in enumerate((text, pair)):
                want = tokenizer.encode(alone)
                assert [o for o, s in zip(both.offsets, both.sequence, strict=True) if s == side] == [
                    o for o, s in zip(want.offsets, want.sequence, strict=True) if s == 0
                ]


def test_the_quick_look_misses_no_mark() -> None:
    assert not [hex(i) for i in range(0x110000) if _joins(chr(i)) and not UNUSUAL.search(chr(i))]
