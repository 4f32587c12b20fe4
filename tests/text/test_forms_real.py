"""Real vocabularies (GPT-2, CLIP, BERT, two SentencePiece models) on cases of their own projects, on strings that break software and on random text.

They lie under the folder that NABI_DATA names. Without it these tests fail.
"""

from __future__ import annotations

import functools
import gzip
import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import transformers
from tokenizers import pre_tokenizers

from nabi.text import Tokenizer
from nabi.text.marian import Pieces
from nabi.text.spm import read_model
from text.form_kinds import compare, folder_of, roles, texts

pytestmark = [pytest.mark.needs_data, pytest.mark.filterwarnings("ignore:the tokenizer takes Hangul")]
FOLDER = os.environ.get("NABI_DATA", "")


def data(name: str) -> bytes:
    assert FOLDER, "set NABI_DATA to a folder with tokenizers/, reference_vectors/ and naughty_strings/"
    whole = (Path(FOLDER) / name).read_bytes()
    return gzip.decompress(whole) if name.endswith(".gz") else whole


@functools.cache
def inputs() -> list[str]:
    naughty = json.loads(data("naughty_strings/blns.json.gz"))
    korean = [json.loads(line)["text"] for line in data("nsmc/dev.jsonl.gz").splitlines()[:150]]
    return [*naughty, *korean, *(unicodedata.normalize("NFD", text) for text in korean), *texts(400)]


def gpt2() -> dict[str, bytes | dict[str, Any]]:
    return {"vocab.json": data("tokenizers/gpt2_encoder.json.gz"), "merges.txt": data("tokenizers/gpt2_vocab.bpe.gz")}


def roberta() -> dict[str, bytes | dict[str, Any]]:
    pieces = json.loads(data("tokenizers/gpt2_encoder.json.gz"))
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pieces, key=pieces.__getitem__), "<mask>"]
    return gpt2() | {"vocab.json": {token: id for id, token in enumerate(tokens)}}


def clip() -> dict[str, bytes | dict[str, Any]]:
    lines = data("tokenizers/clip_bpe_simple_vocab_16e6.txt.gz").decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    printable = [char for char in sorted(pre_tokenizers.ByteLevel.alphabet()) if ord(char) < 256]
    alphabet = printable + [char for char in sorted(pre_tokenizers.ByteLevel.alphabet()) if ord(char) >= 256]
    tokens = [*alphabet, *(char + "</w>" for char in alphabet), *("".join(line.split()) for line in lines), "<|startoftext|>", "<|endoftext|>"]
    return {"vocab.json": {token: id for id, token in enumerate(tokens)}, "merges.txt": "\n".join(["#version: 0.2", *lines, ""]).encode()}


ENGLISH, JAPANESE = "tokenizers/sentencepiece_test_model.model.gz", "tokenizers/sentencepiece_test_ja_model.model.gz"
KINDS: dict[str, tuple[str, Callable[[], dict[str, bytes | dict[str, Any]]]]] = {
    "gpt2": ("gpt2", gpt2),
    "roberta": ("roberta", roberta),
    "clip": ("clip", clip),
    "bert": ("bert", lambda: {"vocab.txt": data("tokenizers/bert_uncased_vocab.txt.gz")}),
    "xlm-roberta": ("xlm-roberta", lambda: {"sentencepiece.bpe.model": data(ENGLISH)}),
    "xlm-roberta, Japanese": ("xlm-roberta", lambda: {"sentencepiece.bpe.model": data(JAPANESE)}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_real_vocabularies(kind: str, tmp_path: Path) -> None:
    model_type, files = KINDS[kind]
    folder = folder_of(tmp_path / "real", {"model_type": model_type}, files())
    ours, theirs = Tokenizer.load(folder), transformers.AutoTokenizer.from_pretrained(folder)
    kinds, differing = compare(ours, theirs, inputs())
    assert not differing
    assert kinds["same"] > 10_000 and not [name for name in kinds if name.startswith("wrong")], kinds
    assert roles(ours) == roles(theirs) and ours.vocab_size == len(theirs)
    ours.save(tmp_path / "saved")
    again = Tokenizer.load(tmp_path / "saved")
    assert [e.ids for e in again.encode_batch(inputs())] == [e.ids for e in ours.encode_batch(inputs())] and roles(again) == roles(ours)


def test_the_cases_of_gpt2(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(folder_of(tmp_path / "gpt2", {"model_type": "gpt2"}, gpt2()))
    cases = json.loads(data("reference_vectors/gpt2_bpe_cases.json"))["cases"]
    assert len(cases) > 20 and [case["text"] for case in cases if tokenizer.encode(case["text"]).ids != case["ids"]] == []


def test_the_cases_of_bert(tmp_path: Path) -> None:
    cases = json.loads(data("reference_vectors/bert_tokenization_cases.json"))
    vocabulary = "".join(f"{token}\n" for token in cases["wordpiece_vocab"]).encode()
    tokenizer = Tokenizer.load(folder_of(tmp_path / "bert", {"model_type": "bert"}, {"vocab.txt": vocabulary}))
    for case in cases["full_lower"]:
        assert tokenizer.encode(case["text"], special=False).ids == case["ids"]
    for case in cases["wordpiece"]:
        assert tokenizer.tokens(tokenizer.encode(case["text"], special=False).ids) == case["tokens"]


@pytest.mark.parametrize("name", [ENGLISH, JAPANESE])
def test_marians_pieces_are_sentencepieces(name: str) -> None:
    ours, reference = Pieces(read_model(data(name), ""), ""), sentencepiece.SentencePieceProcessor(model_proto=data(name))
    assert [text for text in inputs() if [piece for piece, _, _ in ours.of(text)] != reference.encode(text, out_type=str)] == []
