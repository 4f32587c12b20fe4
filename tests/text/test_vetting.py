"""Definitions that would end the process are refused before the library sees them; what real tokenizers do passes."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from typing import Any

import pytest
import tokenizers

from nabi.text.vetting import LARGEST, rows, vet, vet_loaded
from text.tokenizer_kinds import byte_level, metaspace


def definition(**parts: Any) -> bytes:
    model = {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1, "b": 2}, "unk_token": "[UNK]"}
    empty = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    return json.dumps({"version": "1.0", "added_tokens": [], **empty, "model": model, **parts}).encode()


def replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def steps(*inner: dict[str, Any], key: str = "normalizers") -> dict[str, Any]:
    return {"type": "Sequence", key: list(inner)}


def table(data: bytes) -> dict[str, Any]:
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}


LONGER = replace({"String": "a"}, "a" * 60)
HOSTILE = {
    "growth": definition(normalizer=steps(LONGER, LONGER)),
    "growth, nested": definition(normalizer=steps(steps(LONGER), steps(steps(LONGER)))),
    "growth by an expression": definition(normalizer=replace({"Regex": "a*"}, "a" * 64)),
    "growth of nothing": definition(normalizer=replace({"String": ""}, "a" * 64)),
    "growth of an answer": definition(decoder=steps(LONGER, LONGER, key="decoders")),
    "escapes": definition(normalizer=steps(LONGER, LONGER)).replace(b"Replace", b"\\u0052epl\\u0061ce"),
    "prepended": definition(normalizer=steps(*[{"type": "Prepend", "prepend": "a" * 600}] * 2)),
    "a table too short": definition(normalizer=table(b"\0\1")),
    "a table that says more": definition(normalizer=table(b"\xff\xff\xff\xff" + bytes(64))),
    "a table of no size": definition(normalizer=table(bytes(64))),
    "a table that is none": definition(normalizer={"type": "Precompiled", "precompiled_charsmap": 5}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_refused(name: str) -> None:
    with pytest.raises(ValueError, match="times longer|its table of characters"):
        vet(HOSTILE[name])


def test_a_definition_too_large() -> None:
    class Large(bytes):
        def __len__(self) -> int:
            return LARGEST + 1

    with pytest.raises(ValueError, match="at most"):
        vet(Large(b"{}"))


FINE = {
    "as SentencePiece does it": definition(normalizer=steps({"type": "Prepend", "prepend": "▁"}, replace({"String": " "}, "▁"))),
    "quotes": definition(normalizer=steps(replace({"String": "``"}, '"'), replace({"Regex": " {2,}"}, " "), {"type": "NFKC"})),
    "a table": definition(normalizer=table((8).to_bytes(4, "little") + bytes(8) + b"a\0")),
    "odd values, which the library refuses": definition(normalizer=steps(replace({"String": "a"}, "b"), {"type": "Replace", "pattern": 5, "content": None})),
    "no object": b'["Replace"]',
}


@pytest.mark.parametrize("name", FINE)
def test_control_usual_parts_pass(name: str) -> None:
    vet(FINE[name])


@pytest.mark.parametrize("name", ["growth of nothing", "a table that says more"])
def test_control_the_library_does_die_of_them(name: str) -> None:
    """In another process with little memory, at loading or at the first text."""
    data = HOSTILE[name] if "table" in name else definition(normalizer=replace({"String": ""}, "a" * 10**7))
    code = (
        "import resource, sys, tokenizers\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 29), -1))\n"
        "tokenizers.Tokenizer.from_str(sys.stdin.read()).encode('a' * 100)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], input=data.decode(), capture_output=True, text=True).returncode == -6


def test_rows() -> None:
    """One more than the highest id, wherever it is: with a gap in the vocabulary, among added tokens, in what is put around a text."""
    for library in (byte_level(True, True), metaspace()):
        assert rows(library) == library.get_vocab_size() == 1 + max(library.get_vocab().values())
    holes = {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1, "b": 9}, "unk_token": "[UNK]"}
    assert rows(tokenizers.Tokenizer.from_str(definition(model=holes).decode())) == 10

    def around(ids: list[int], times: int = 1) -> bytes:
        piece = {"SpecialToken": {"id": "[X]", "type_id": 0}}
        text = [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}]
        known = {"[X]": {"id": "[X]", "ids": ids, "tokens": ["[X]"] * len(ids)}}
        processor = {"type": "TemplateProcessing", "single": [piece, text[0]], "pair": [piece] * times + text, "special_tokens": known}
        return definition(post_processor=processor)

    assert rows(tokenizers.Tokenizer.from_str(around([5]).decode())) == 6 and rows(tokenizers.Tokenizer.from_str(around([1]).decode())) == 3
    with pytest.raises(ValueError, match="2,000 special tokens around a text"):
        vet_loaded(tokenizers.Tokenizer.from_str(around([1] * 20, 100).decode()))
