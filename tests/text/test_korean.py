"""Hangul taken apart (NFD) is read as if it were composed, with offsets into the text as it was given; lower-casing that breaks it is told."""

from __future__ import annotations

import itertools
import random
import unicodedata
import warnings

import pytest
from tokenizers import Tokenizer as Library
from tokenizers import models, normalizers, pre_tokenizers

from nabi.text import Encoding, Tokenizer
from text.tokenizer_kinds import byte_level, characters, made, metaspace

TEXT = "이순신이 서울에서 Ada를 이겼다. 한국어 각각 값, 닭이 café 꽃!"
APART = unicodedata.normalize("NFD", TEXT)


def wordpiece(text: str, *, lowercase: bool = False) -> Tokenizer:
    """A vocabulary of the characters of a text, within words and at their begin."""
    letters = sorted(set(text))
    library = Library(models.WordPiece({t: i for i, t in enumerate(["[UNK]", *letters, *("##" + c for c in letters)])}, unk_token="[UNK]"))
    library.normalizer, library.pre_tokenizer = normalizers.BertNormalizer(lowercase=lowercase), pre_tokenizers.BertPreTokenizer()
    return made(library, tokenizer_config__json={"unk_token": "[UNK]"})


KINDS = {
    "wordpiece": lambda: wordpiece(TEXT), "byte level": lambda: byte_level(False, True), "metaspace": metaspace, "as it is": lambda: made(characters(None)),
    "NFC": lambda: made(characters(normalizers.NFC())), "NFD": lambda: made(characters(normalizers.NFD())),
}  # fmt: skip


def tokenizer_of(kind: str) -> Tokenizer:
    found = KINDS[kind]()
    return found if isinstance(found, Tokenizer) else made(found)


def surfaces(encoding: Encoding, text: str) -> list[str]:
    """What the offsets hold, composed."""
    return [unicodedata.normalize("NFC", text[a:b]) for a, b in encoding.offsets]


HANGUL_APART = "".join(unicodedata.normalize("NFD", c) if "가" <= c <= "힣" else c for c in TEXT)  # é stays: only Hangul is composed


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:the tokenizer takes Hangul")  # of NFD; a test of its own reads it
def test_hangul_that_is_taken_apart_has_the_tokens_of_its_syllables_and_its_own_offsets(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    for text, apart in ((TEXT, HANGUL_APART), ("나", "\u1102\u1161"), ("가ㅏ각", "\u1100\u1161ㅏ가\u11a8"), ("a 값", "a 가\u11b9")):
        plain, found = tokenizer.encode(text), tokenizer.encode(apart)
        assert found.ids == plain.ids
        assert max(b for _, b in found.offsets) == len(apart) and all(0 <= a <= b <= len(apart) for a, b in found.offsets)
        if kind != "NFD":  # there each letter is a token of its own
            assert surfaces(found, apart) == surfaces(plain, text)
        pairs, (first, second) = tokenizer.encode_batch([text, apart], [apart, text]), (tokenizer.encode(text, apart), tokenizer.encode(apart, text))
        assert pairs == [first, second] and first.ids == second.ids


def test_a_text_in_syllables_is_read_as_it_is() -> None:
    tokenizer = wordpiece(TEXT)
    assert tokenizer._composed(TEXT).places is None and tokenizer._composed("ㅋㅋ ㅠㅠ").places is None
    assert tokenizer._composed(APART).text != APART and unicodedata.normalize("NFC", tokenizer._composed(APART).text) == TEXT


def test_places_are_those_of_the_library_of_unicode() -> None:
    dice, tokenizer = random.Random(0), made(characters(None))
    alphabet = "\u1100\u1112\u1161\u1175\u11a8\u11c2\u1113\u1176\u11c3가각힣aé \u0301"
    for _ in range(3000):
        text = "".join(dice.choices(alphabet, k=dice.randint(0, 12)))
        read, places = tokenizer._composed(text)
        if places is None:
            assert read == text
            continue
        assert len(places) == len(read) + 1 and places[0] == 0 and places[-1] == len(text)
        assert [unicodedata.normalize("NFC", text[a:b]) if b - a > 1 else text[a:b] for a, b in itertools.pairwise(places)] == list(read)
        # composed as Unicode composes Hangul; marks of other scripts stay where they are
        assert read == "".join(unicodedata.normalize("NFC", part) for part in runs(text))


def runs(text: str) -> list[str]:
    """Hangul together, each other character apart."""
    found: list[str] = []
    for char in text:
        hangul = "\u1100" <= char <= "\u11ff" or "가" <= char <= "힣"
        if hangul and found and ("\u1100" <= found[-1][-1] <= "\u11ff" or "가" <= found[-1][-1] <= "힣"):
            found[-1] += char
        else:
            found.append(char)
    return found


def test_a_vocabulary_of_letters_reads_letters() -> None:
    """KR-BERT's sub-characters and the like: texts are taken apart on purpose."""
    letters = wordpiece(unicodedata.normalize("NFD", TEXT))
    found = letters.encode(APART)
    assert letters.unk_id not in found.ids and len(found) > 2 * len(wordpiece(TEXT).encode(TEXT))
    assert letters.unk_id in letters.encode(TEXT).ids


def test_without_composition_the_syllables_would_be_lost() -> None:
    tokenizer = wordpiece(TEXT)
    assert tokenizer.unk_id not in tokenizer.encode(HANGUL_APART).ids
    assert tokenizer.unk_id in tokenizer.library.encode(HANGUL_APART).ids  # control


def test_lower_casing_that_breaks_hangul_is_told_once() -> None:
    for text in (TEXT, APART):
        broken = wordpiece(TEXT, lowercase=True)
        with pytest.warns(UserWarning, match="takes Hangul syllables apart .* set lowercase and strip_accents to false"):
            assert broken.unk_id in broken.encode(text).ids
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            broken.encode(text)
            wordpiece(TEXT).encode(text)
            wordpiece(unicodedata.normalize("NFD", TEXT.lower()), lowercase=True).encode("이순신이")  # its vocabulary has the letters: nothing is lost
