"""What a tokenizer makes of texts that it was not trained on: fertility, unknown tokens, bytes a token by script, keywords of Python, longest tokens.

A word is a run of characters without white space. Fertility is tokens a word (Rust et al., 2021, section 4.1); special tokens count nowhere.
"""

from __future__ import annotations

import keyword
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from nabi.text.replay import readable
from nabi.text.tokenizer import Tokenizer

SCRIPTS = ("LATIN", "HANGUL", "CJK", "HIRAGANA", "KATAKANA", "CYRILLIC", "GREEK", "ARABIC", "HEBREW", "DEVANAGARI", "THAI")
TEXTS_AT_ONCE = 256


def measure(tokenizer: Tokenizer, texts: Iterable[str]) -> dict[str, Any]:
    """The figures of a tokenizer on some texts.

    Args:
        tokenizer: any.
        texts: such as it was not trained on.

    Returns:
        Plain data: ``vocab_size``, ``texts``, ``characters``, ``words``, ``tokens``, ``tokens_per_word``, ``tokens_per_character``, ``unknown_rate`` (of
        tokens), ``bytes_per_token``, ``bytes_per_token_by_script``, ``python_keywords``, ``longest_tokens``, ``words_once``. Rates are None without tokens.
    """
    counts: Counter[str] = Counter()
    scripts: dict[str, list[int]] = {}
    words: Counter[str] = Counter()
    for group in _groups(texts):
        for text, encoding in zip(group, tokenizer.encode_batch(group, special=False), strict=True):
            counts.update(texts=1, characters=len(text), bytes=len(text.encode("utf-8")), tokens=len(encoding.ids))
            counts["unknown"] += encoding.ids.count(tokenizer.unk_id) if tokenizer.unk_id is not None and tokenizer.unk_id != tokenizer.eos_id else 0
            words.update(text.split())
            end = 0
            for start, stop in encoding.offsets:
                # a token of a part of a character has the offsets of all of it: its bytes count once
                held = text[max(start, end) : stop]
                end = max(end, stop)
                entry = scripts.setdefault(_script(text[start:stop]), [0, 0])
                entry[0] += len(held.encode("utf-8"))
                entry[1] += 1
    once = [word for word, count in words.items() if count == 1]
    tokens, of_words = counts["tokens"], words.total()
    pieces = [len(e.ids) for group in _groups(once) for e in tokenizer.encode_batch(group, special=False)]
    return {
        "vocab_size": tokenizer.vocab_size,
        "texts": counts["texts"],
        "characters": counts["characters"],
        "words": of_words,
        "tokens": tokens,
        "tokens_per_word": _share(tokens, of_words),
        "tokens_per_character": _share(tokens, counts["characters"]),
        "unknown_rate": _share(counts["unknown"], tokens),
        "bytes_per_token": _share(counts["bytes"], tokens),
        "bytes_per_token_by_script": {name: round(size / n, 4) for name, (size, n) in sorted(scripts.items(), key=lambda item: -item[1][1])},
        "python_keywords": keywords(tokenizer),
        "longest_tokens": longest(tokenizer),
        "words_once": {
            "distinct_words": len(words), "once": len(once), "share": _share(len(once), len(words)), "tokens_per_word": _share(sum(pieces), len(once)),
            "examples": [word for word in sorted(once, key=lambda word: (-len(word), word)) if len(word) <= 40][:10],
        },
    }  # fmt: skip


def keywords(tokenizer: Tokenizer) -> dict[str, Any]:
    """Which keywords of Python are one token, alone and behind a space, and which are not."""

    def single(text: str) -> bool:
        ids = tokenizer.encode(text, special=False).ids
        return len(ids) == 1 and ids[0] != tokenizer.unk_id

    alone, behind = ([word for word in keyword.kwlist if single(before + word)] for before in ("", " "))
    return {
        "of": len(keyword.kwlist), "alone": len(alone), "behind_a_space": len(behind),
        "lacking_alone": [word for word in keyword.kwlist if word not in alone],
        "lacking_behind_a_space": [word for word in keyword.kwlist if word not in behind],
    }  # fmt: skip


def longest(tokenizer: Tokenizer, most: int = 10) -> list[str]:
    """The longest tokens, as a reader sees them."""
    library = tokenizer.library
    kind = "BPE" if type(library.decoder).__name__ == "ByteLevel" else ""
    added = {token.content for token in library.get_added_tokens_decoder().values()}
    names = sorted((token for token in library.get_vocab(with_added_tokens=False) if token not in added), key=lambda token: (-len(token), token))
    return [readable(token, kind) for token in names[:most]]


def page(facts: dict[str, Any], settings: dict[str, Any], told: Iterable[str], command: str) -> str:
    """A README.md of the figures."""
    rows = {
        "vocabulary": f"{facts['vocab_size']:,} tokens",
        "measured on": f"{facts['texts']:,} held-back texts, {facts['characters']:,} characters",
        "tokens a word": _shown(facts["tokens_per_word"]),
        "tokens a character": _shown(facts["tokens_per_character"]),
        "bytes a token": _shown(facts["bytes_per_token"]),
        "unknown tokens": "-" if facts["unknown_rate"] is None else f"{facts['unknown_rate']:.4%}",
        "keywords of Python that are one token": f"{facts['python_keywords']['alone']} of {facts['python_keywords']['of']}, "
        f"behind a space {facts['python_keywords']['behind_a_space']}",
        "words seen once": f"{facts['words_once']['once']:,} of {facts['words_once']['distinct_words']:,} distinct words, "
        f"{_shown(facts['words_once']['tokens_per_word'])} tokens each",
        "longest tokens": " ".join(f"`{name}`" for name in facts["longest_tokens"]),
    }
    lines = ["# Tokenizer", "", f"    {command}", "", *told, "", "| | |", "| --- | --- |", *(f"| {name} | {_cell(value)} |" for name, value in rows.items())]
    lines += ["", "| script | bytes a token |", "| --- | --- |", *(f"| {name} | {value:.3f} |" for name, value in facts["bytes_per_token_by_script"].items())]
    lines += ["", "| setting | value |", "| --- | --- |", *(f"| {name} | {_cell(str(value))} |" for name, value in settings.items()), ""]
    return "\n".join(lines)


def _cell(value: str) -> str:
    return value.replace("|", "\\|")


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _groups(texts: Iterable[str]) -> Iterator[list[str]]:
    group: list[str] = []
    for text in texts:
        group.append(text)
        if len(group) == TEXTS_AT_ONCE:
            yield group
            group = []
    if group:
        yield group


@lru_cache(maxsize=1 << 16)
def _script(text: str) -> str:
    """The script of the first letter; digits, signs and spaces have names of their own."""
    for char in text:
        kind = unicodedata.category(char)[0]
        if kind in "LM":
            name = unicodedata.name(char, "").partition(" ")[0]
            return name.capitalize() if name in SCRIPTS and name != "CJK" else "Han" if name == "CJK" else "other letters"
        if kind == "N":
            return "digits"
        if not char.isspace():
            return "signs"
    return "spaces"
