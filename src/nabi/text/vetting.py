"""Checks of a tokenizer definition from a foreign source before and after the library reads it.

The library answers most bad definitions with an error or a panic, which are caught. What is checked here would instead end the process, since
it makes the library ask for more memory than there is: a replacement that lets a text grow without end, a table that gives itself a wrong
size, thousands of special tokens around each text. A definition is only parsed if it has a part that can do so.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from typing import Any

_CAN_HURT = re.compile(rb"Precompiled|Replace|Prepend|\\u00[4-7]")  # the latter: ASCII letters written as escapes, which can hide the others
GROWTH = 64  # how many times longer than the text a normaliser's replacements may make it
PREPENDED = 1024  # characters before each text
SPECIAL = 1024  # tokens around each text
LARGEST = 256 << 20  # bytes of a definition


def vet(definition: bytes) -> None:
    """Refuse a definition that could end the process.

    Args:
        definition: the bytes of a tokenizer.json.

    Raises:
        ValueError: what is wrong, as a phrase.
    """
    if len(definition) > LARGEST:
        raise ValueError(f"it has {len(definition):,} bytes, at most {LARGEST:,} are read")
    if not _CAN_HURT.search(definition):
        return
    whole = json.loads(definition)
    for part in ("normalizer", "decoder") if isinstance(whole, dict) else ():
        growth, before = 1.0, 0
        for step in _steps(whole.get(part)):
            if step.get("type") == "Replace":
                growth *= _growth(step)
            elif step.get("type") == "Prepend" and isinstance(step.get("prepend"), str):
                before += len(step["prepend"])
            elif step.get("type") == "Precompiled":
                _check_table(step.get("precompiled_charsmap"))
        if growth > GROWTH or before > PREPENDED:
            raise ValueError(f"its {part} makes a text {growth:.3g} times longer and puts {before:,} characters before it, at most {GROWTH} and {PREPENDED}")


def vet_loaded(library: Any) -> None:
    """Refuse a tokenizer that puts more special tokens around a text than any model takes.

    Args:
        library: the library's tokenizer.

    Raises:
        ValueError: how many they are.
    """
    special = library.num_special_tokens_to_add(is_pair=True)
    if special > SPECIAL:
        raise ValueError(f"it puts {special:,} special tokens around a text, at most {SPECIAL}")


def rows(library: Any) -> int:
    """How many vectors an embedding needs for all ids of a tokenizer: one more than the highest, which can lie above the number of tokens.

    Args:
        library: the library's tokenizer.
    """
    # what is put around a text has ids of its own, which need not be the vocabulary's
    around = max((id for encoded in (library.encode(""), library.encode("", "")) for id in encoded.ids), default=-1)
    size: int = library.get_vocab_size(with_added_tokens=True)
    # if so many tokens have all the ids below that, none has another: faster than asking for the vocabulary
    if None in map(library.id_to_token, range(size)):
        size = 1 + max(library.get_vocab(with_added_tokens=True).values())
    return max(size, 1 + around)


def _steps(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        yield part
        for key in ("normalizers", "decoders"):
            for step in part[key] if isinstance(part.get(key), list) else ():
                yield from _steps(step)


def _growth(step: dict[str, Any]) -> float:
    content, pattern = step.get("content"), step.get("pattern")
    if not isinstance(content, str) or not isinstance(pattern, dict):
        return 1.0  # the library refuses it
    literal = pattern.get("String")
    size = len(content.encode("utf-8", "surrogatepass"))
    if isinstance(literal, str) and literal:
        return max(1.0, size / len(literal.encode("utf-8", "surrogatepass")))
    return 1.0 + size  # an expression can match between any two characters


def _check_table(text: Any) -> None:
    """A SentencePiece table begins with the bytes of its trie, which the library believes."""
    data = base64.b64decode(text) if isinstance(text, str) else b""
    size = int.from_bytes(data[:4], "little")
    if len(data) < 8 or size % 4 or not 0 < size <= len(data) - 4:
        raise ValueError(f"its table of characters has {len(data):,} bytes and says {size:,}")
