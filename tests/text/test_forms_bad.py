"""Broken vocab.json, merges.txt and settings end in a TokenizerError that names the file."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from nabi.errors import TokenizerError
from nabi.text import Tokenizer
from text.form_kinds import byte_level_files, folder_of

ANGLED = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
bpe = functools.cache(byte_level_files)


def said(path: Path, changes: dict[str, bytes | dict[str, Any]], kind: str = "roberta") -> str:
    with pytest.raises(TokenizerError) as caught:
        Tokenizer.load(folder_of(path / "folder", {"model_type": kind}, bpe(ANGLED) | changes))
    return str(caught.value)


def vocabulary() -> dict[str, int]:
    found = bpe(ANGLED)["vocab.json"]
    assert isinstance(found, dict)
    return dict(found)


def merges() -> list[str]:
    found = bpe(ANGLED)["merges.txt"]
    assert isinstance(found, bytes)
    return found.decode().splitlines()


def test_the_files_are_right_to_begin_with(tmp_path: Path) -> None:
    Tokenizer.load(folder_of(tmp_path / "right", {"model_type": "roberta"}, dict(bpe(ANGLED))))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("h", r"line 6 of the merges is not two tokens.*merges\.txt"),
        ("", "line 6 of the merges is not two tokens"),
        ("h e l", "line 6 of the merges is not two tokens"),
        ("h  e", "line 6 of the merges is not two tokens"),
        ("q 한", "line 6 of the merges names a token that the vocabulary lacks.*한"),
        ("Q Z", "line 6 of the merges names a token that the vocabulary lacks.*QZ"),
    ],
)
def test_a_bad_line_of_merges_is_named(line: str, message: str, tmp_path: Path) -> None:
    lines = merges()
    lines[5] = line
    assert re.search(message, said(tmp_path, {"merges.txt": "\n".join(lines).encode()}))


def test_merges_that_are_cut_off_or_of_another_encoding(tmp_path: Path) -> None:
    whole = "\n".join(merges()).encode()
    at = next(i for i in range(len(whole) // 2, len(whole)) if whole[i : i + 1] == b" ")
    assert "merges.txt" in said(tmp_path / "cut", {"merges.txt": whole[: at + 1]})
    assert "the merges are not UTF-8" in said(tmp_path / "bytes", {"merges.txt": b"\xff\xfe" + whole})
    assert "merges.txt" in said(tmp_path / "zero", {"merges.txt": b"\0" * 50})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[]", "does not hold tokens"),
        (b"{}", "does not hold tokens"),
        (b'{"a": 0, "b": 0}', "'a' and 'b' have the id 0"),
        (b'{"a": 0, "a": 1}', "'a' is there twice"),
        (b'{"a": 0, "b": 2}', "no token has the id 1"),
        (b'{"a": -1}', "'a' has the id -1"),
        (b'{"a": true}', "'a' has the id True"),
        (b'{"a": "0"}', "'a' has the id"),
        (b'{"a": 0.0}', "'a' has the id 0.0"),
        (b'{"a": 1000000000000}', "'a' has the id 1000000000000"),
        (b'{"a": 1e400}', "'a' has the id inf"),
        (b'{"a": %s}' % (b"9" * 5000), "not valid JSON"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_a_bad_vocabulary_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    error = said(tmp_path, {"vocab.json": content, "merges.txt": b""})
    assert message in error and "vocab.json" in error


def test_one_wrong_id_among_many(tmp_path: Path) -> None:
    table = vocabulary()
    table["Ġ"], token = table["!"], "Ġ"
    assert f"'!' and '{token}' have the id {table['!']}" in said(tmp_path / "twice", {"vocab.json": table})
    assert "is there twice" in said(tmp_path / "key", {"vocab.json": json.dumps(vocabulary())[:-1].encode() + b', "!": 99999}'})


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer_config.json", b"{", "not valid JSON: 'tokenizer_config.json"),
        ("tokenizer_config.json", b"[]", "does not hold an object: 'tokenizer_config.json"),
        ("tokenizer_config.json", b'{"add_prefix_space": "yes"}', "do not fit together"),
        ("tokenizer_config.json", b'{"trim_offsets": 3}', "do not fit together"),
        ("tokenizer_config.json", b'{"sep_token": {"content": "</s>", "lstrip": "no"}}', "'</s>' has options that can't be used: lstrip = 'no'"),
        ("special_tokens_map.json", b'{"sep_token": {"content": "</s>", "left": true}}', "left = True: 'tokenizer_config.json or special_tokens_map.json'"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"x": {"content": "a"}}}', "added tokens can't be read: 'tokenizer_config.json"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"7000": {"content": "<new>"}}}', "gets the id 900, not 7000: 'tokenizer_config.json"),
        ("special_tokens_map.json", b"3", "special_tokens_map.json"),
        ("added_tokens.json", b'{"<new>": "x"}', "added tokens can't be read: 'added_tokens.json"),
        ("added_tokens.json", b'{"<new>": 1e999}', "added tokens can't be read: 'added_tokens.json"),
        ("added_tokens.json", b'{"<new>": 903}', "gets the id 900, not 903: 'added_tokens.json"),
        ("config.json", b"{", "not valid JSON: 'config.json"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_bad_settings_are_named(file: str, content: bytes, message: str, tmp_path: Path) -> None:
    assert message in said(tmp_path, {file: content})


def test_a_special_token_that_is_nowhere(tmp_path: Path) -> None:
    table = {token: id for id, token in enumerate(token for token in vocabulary() if token != "</s>")}
    assert "the sep token '</s>' is not in the vocabulary" in said(tmp_path, {"vocab.json": table})
