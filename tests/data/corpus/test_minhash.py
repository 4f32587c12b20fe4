"""Shingles and band keys, against a slow form that says what they are; how often near texts share a key, against the formula."""

from __future__ import annotations

import math
import random
import re
import unicodedata

import numpy as np
import pytest

from nabi.data.corpus import minhash
from nabi.data.corpus.minhash import MinHash, Near, jaccard, tokens
from nabi.errors import OptionError

ALL = (1 << 64) - 1
SIGNS = "\u1680\u2000-\u206f\u3000-\u303f\ufe00-\ufe0f\ufeff\uff00-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
TOKEN = re.compile(f"[0-9A-Za-z_\u00c0-\u07ff]+|[^\u0000-\u07ff{SIGNS}]")
TEXTS = {
    "code": 'class Reader:\n    """Reads."""\n\n    def __init__(self, path, *, encoding="utf-8") -> None:\n\tself.path, self._x1 = path, [i**2]\n',
    "long words": "a bb ccc dddd eeeee " + " ".join("x" * n + str(n) for n in (6, 7, 8, 9, 15, 16, 17, 23, 24, 25, 100, 1000)),
    "Korean": "한국어는 띄어쓰기가 다를 수 있다. 그래서, 음절 하나가 토큰이다! (2024년 GPT-4와 함께)",
    "jamo": unicodedata.normalize("NFD", "나비는 한국어로 butterfly 이다"),
    "Japanese": "日本語には、空白がない。カタカナ・ひらがな「漢字」とＡＢＣ１２３！",
    "other scripts": "naïve café, Ωmega ведь это шалом שלום ½ × ¿qué? a\u00a0b ᚠᚡ ठीक है\u200bx",
    "emoji": "😀😃 ok 👩‍💻❤️🏳️‍🌈 done 🦋",
    "lone surrogate": "a b \ud800 c d e f",
    "controls": "a\x00b\x1cc\x7fd e\r\nf\x0bg h i",
}


def slow_tokens(text: str) -> list[bytes]:
    return [found.encode("utf-8", "surrogatepass") for found in TOKEN.findall(unicodedata.normalize("NFC", text))]


def slow_mixed(x: int) -> int:
    x ^= x >> 32
    x = x * 0xB7E151628AED2A6B & ALL
    x ^= x >> 29
    x = x * 0xBB67AE8584CAA73B & ALL
    return x ^ x >> 32


def slow_hash(token: bytes) -> int:
    first, *more = [int.from_bytes(token[i : i + 8], "little") for i in range(0, len(token), 8)]
    if more:
        first = slow_mixed(first) + sum(slow_mixed(part) * pow(0x9E3779B97F4A7C15, i, 1 << 64) for i, part in enumerate(more, 1)) & ALL
    return slow_mixed(first)


def slow_shingles(text: str, words: int = 5) -> set[int]:
    hashes = [slow_hash(token) for token in slow_tokens(text)]
    found = set()
    for i in range(len(hashes) - words + 1):
        joined = 0
        for h in hashes[i : i + words]:
            joined = (joined * 0x6A09E667F3BCC909 + h) & ALL
        found.add(slow_mixed(joined))
    return found


def slow_splitmix(seed: int, count: int) -> list[int]:
    drawn = []
    for i in range(1, count + 1):
        x = (seed + i * 0x9E3779B97F4A7C15) & ALL
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & ALL
        x = (x ^ x >> 27) * 0x94D049BB133111EB & ALL
        drawn.append(x ^ x >> 31)
    return drawn


def slow_keys(text: str, near: Near) -> list[int] | None:
    shingles = slow_shingles(text, near.words)
    if not shingles:
        return None
    drawn = iter(slow_splitmix(near.seed, near.bands * near.rows + near.rows + near.bands))
    minima = [min((next_ * (s >> 32)) & 0xFFFFFFFF for s in shingles) for next_ in [(next(drawn) >> 32) | 1 for _ in range(near.bands * near.rows)]]
    by_row = [next(drawn) | 1 for _ in range(near.rows)]
    return [slow_mixed((sum(m * r for m, r in zip(minima[band * near.rows :], by_row, strict=False)) + next(drawn)) & ALL) or 1 for band in range(near.bands)]


def lowest_common(words: int, shared: int, count: int, draw: random.Random) -> tuple[str, str]:
    """Two texts of ``count`` shingles each, no shingle twice, of which ``shared`` are in both."""
    names = [f"w{draw.getrandbits(60):x}" for _ in range(2 * (count + words - 1))]
    head = names[: shared + words - 1]
    tail = count - shared
    return " ".join(head + names[len(head) :][:tail]), " ".join(head + names[len(head) + tail :][:tail])


@pytest.mark.parametrize("name", TEXTS)
def test_tokens_shingles_and_keys_are_those_of_the_slow_form(name: str) -> None:
    text, near = TEXTS[name], Near(words=3, bands=5, rows=3, seed=7)
    assert tokens(minhash.encoded(text)).tolist() == [slow_hash(token) for token in slow_tokens(text)]
    assert MinHash(near).shingles(text).tolist() == sorted(slow_shingles(text, 3))
    keys = MinHash(near).keys(text)
    assert keys is not None and keys.tolist() == slow_keys(text, near)


def test_a_text_cut_into_blocks_has_the_shingles_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(1)
    text = "".join(draw.choice(["word ", "x", "한글", "日本", " ", "\n", "é", "y" * 30, "😀", ", "]) for _ in range(4000))
    whole_keys, whole = MinHash(Near()).keys(text), MinHash(Near()).shingles(text)
    for block in (1, 10, 97, 1000):
        monkeypatch.setattr(minhash, "BLOCK", block)
        data = minhash.encoded(text)
        cuts = list(minhash.blocks(data))
        assert len(cuts) > 5 and b"".join(data[a:b] for a, b in cuts) == data
        assert np.array_equal(MinHash(Near()).shingles(text), whole) and np.array_equal(MinHash(Near()).keys(text), whole_keys)
    assert whole.tolist() == sorted(slow_shingles(text))


def test_composed_and_decomposed_korean_is_the_same_text() -> None:
    text = "나비는 한국어 음절로 셈한다"
    assert np.array_equal(MinHash(Near()).keys(text), MinHash(Near()).keys(unicodedata.normalize("NFD", text)))


def test_indentation_and_punctuation_only_separate() -> None:
    keys = [MinHash(Near()).keys(text) for text in ("if a:\n    b = c + d[0]\n", "if(a): b=c+d [0];", "if a:\n\tb = c - e[0]\n")]
    assert np.array_equal(keys[0], keys[1]) and not np.array_equal(keys[0], keys[2])


@pytest.mark.parametrize("text", ["", " \n\t", "word", "one two three four", "a" * 1_000_000, "한국어다", "😀" * 4, "... --- !!!", "\ufeff\u3000\u200b"])
def test_texts_too_short_to_shingle_have_no_keys(text: str) -> None:
    assert MinHash(Near()).keys(text) is None and len(MinHash(Near()).shingles(text)) == 0


def test_degenerate_texts_that_are_long_enough_have_keys() -> None:
    for text, different in (("a " * 100_000, 1), ("😀" * 5, 1), ("가" * 200_000, 1), ("한국어이다", 1), ("a" * 300_000 + " b c d e", 1)):
        assert MinHash(Near()).keys(text) is not None
        assert len(MinHash(Near()).shingles(text)) == different


def test_keys_depend_on_the_seed_and_bands_do_not_share_any() -> None:
    text = TEXTS["code"]
    drawn = [MinHash(Near(seed=seed)).keys(text) for seed in range(3)]
    assert all(keys is not None for keys in drawn)
    assert len({key for keys in drawn if keys is not None for key in keys.tolist()}) == 3 * 14


def test_keys_are_pinned() -> None:
    keys = MinHash(Near(bands=2)).keys("def add(a, b):\n    return a + b  # 더하기\n")
    assert keys is not None and keys.tolist() == [0x9CA9F9702FA36617, 0xB1EBA31924A655DF]


def test_jaccard_is_that_of_sets() -> None:
    draw = np.random.default_rng(0)
    for _ in range(50):
        a, b = (set(draw.integers(0, 40, draw.integers(0, 30)).tolist()) for _ in range(2))
        arrays = [np.array(sorted(s), np.uint64) for s in (a, b)]
        assert jaccard(*arrays) == (len(a & b) / len(a | b) if a and b else 0)


def test_texts_share_a_key_as_often_as_the_formula_says() -> None:
    draw, near = random.Random(3), Near()
    hashing, pairs = MinHash(near), 400
    for similarity, shared, count in ((0.7, 140, 170), (0.8, 152, 171), (0.9, 162, 171)):
        hits = 0
        for i in range(pairs):
            a, b = lowest_common(near.words, shared, count, draw)
            if i < 3:
                assert len(slow_shingles(a)) == count
                assert len(slow_shingles(a) & slow_shingles(b)) / len(slow_shingles(a) | slow_shingles(b)) == pytest.approx(similarity)
            one, other = hashing.keys(a), hashing.keys(b)
            assert one is not None and other is not None
            hits += bool((one == other).any())
        expected = near.probability(similarity)
        error = math.sqrt(expected * (1 - expected) / pairs)
        assert abs(hits / pairs - expected) < 3.5 * error + 1e-3, similarity
        if similarity == 0.7:  # the control: one row less or more would be seen
            assert all(abs(hits / pairs - Near(rows=rows).probability(similarity)) > 3.5 * error for rows in (7, 9))


def test_single_minima_agree_as_often_as_the_jaccard_similarity() -> None:
    draw, near = random.Random(4), Near(bands=200, rows=1)
    hashing = MinHash(near)
    rates = []
    for _ in range(100):
        a, b = lowest_common(near.words, 200, 250, draw)  # 200 / 300
        one, other = hashing.keys(a), hashing.keys(b)
        assert one is not None and other is not None
        rates.append(float((one == other).mean()))
    assert abs(np.mean(rates) - 2 / 3) < 0.012
    # as 200 independent draws would scatter: the permutations do not go together
    assert np.std(rates) < 1.25 * math.sqrt(2 / 9 / 200)


@pytest.mark.parametrize(
    ("name", "value"), [("threshold", 0.0), ("threshold", 1.01), ("threshold", float("nan")), ("bands", 0), ("rows", 65), ("words", 0), ("seed", -1)]
)
def test_impossible_numbers_are_refused(name: str, value: float) -> None:
    with pytest.raises(OptionError, match=name):
        Near(**{name: value})  # type: ignore[arg-type]
