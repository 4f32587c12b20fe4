"""SentencePiece model files: plain ones and BPE ones against SentencePiece, the reader against the protobuf, and mutants of both kinds of table."""

from __future__ import annotations

import functools
import json
import random
import resource
import time
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import transformers
from sentencepiece import sentencepiece_model_pb2 as schema

from nabi.errors import TokenizerError
from nabi.text import Tokenizer
from nabi.text.spm import read_model
from nabi.text.unigram import exact_definition
from text.form_kinds import folder_of, texts, trained_model

model = functools.cache(trained_model)
XLM_ROBERTA = {"model_type": "xlm-roberta"}


@pytest.mark.parametrize("options", [{}, {"model_type": "bpe"}, {"byte_fallback": True, "user_defined_symbols": "<sep>"}, {"add_dummy_prefix": False}], ids=str)
def test_the_reader_sees_what_the_protobuf_holds(options: dict[str, Any]) -> None:
    read, message = read_model(model(**options), ""), schema.ModelProto.FromString(model(**options))
    assert read.pieces == [piece.piece for piece in message.pieces]
    assert read.scores == [piece.score for piece in message.pieces]
    assert read.types == [piece.type for piece in message.pieces]
    assert read.kind == {1: "unigram", 2: "bpe"}[message.trainer_spec.model_type] and read.unk == message.trainer_spec.unk_id
    assert read.byte_fallback == message.trainer_spec.byte_fallback and read.charsmap == message.normalizer_spec.precompiled_charsmap
    assert (read.dummy_prefix, read.collapse_spaces) == (message.normalizer_spec.add_dummy_prefix, message.normalizer_spec.remove_extra_whitespaces)


@pytest.mark.parametrize(
    ("options", "most"),
    [
        # nothing is replaced: the same but for rounding
        ({"normalization_rule_name": "identity"}, 0.01),
        ({"normalization_rule_name": "identity", "model_type": "bpe"}, 0.0),
        ({"normalization_rule_name": "identity", "byte_fallback": True}, 0.01),
        ({"normalization_rule_name": "identity", "add_dummy_prefix": False, "remove_extra_whitespaces": False}, 0.01),
        # the library looks replacements up by grapheme, SentencePiece by longest match: marks and letters of Hangul differ
        ({}, 0.35),
        ({"model_type": "bpe"}, 0.35),
    ],
    ids=str,
)
def test_a_plain_model_has_sentencepieces_ids(options: dict[str, Any], most: float, tmp_path: Path) -> None:
    reference = sentencepiece.SentencePieceProcessor(model_proto=model(**options))
    ours = Tokenizer.load(folder_of(tmp_path / "plain", None, {"tokenizer.model": model(**options)}))
    inputs = [text for text in texts(200) if "<" not in text]  # <s> and </s> in a text are the tokens here, and letters to SentencePiece
    differing = [text for text in inputs if ours.encode(text).ids != reference.encode(ours._composed(text).text)]
    assert len(differing) <= most * len(inputs), (len(differing), differing[:3])
    assert not [text for text in differing if text.isascii()] or most == 0.01
    assert (ours.unk_id, ours.bos_id, ours.eos_id, ours.vocab_size) == (0, 1, 2, reference.get_piece_size())
    assert ours.decode(ours.encode("Hello, world! 한국어").ids) == reference.decode(reference.encode("Hello, world! 한국어"))


def test_a_bpe_model_in_a_folder_of_xlm_roberta_is_segmented_as_bpe(tmp_path: Path) -> None:
    """The incumbent takes the ranks of the merges for log-probabilities; its ids are other ones."""
    options = {"model_type": "bpe", "normalization_rule_name": "identity"}
    folder = folder_of(tmp_path / "bpe", XLM_ROBERTA, {"sentencepiece.bpe.model": model(**options)})
    ours, reference = Tokenizer.load(folder), sentencepiece.SentencePieceProcessor(model_proto=model(**options))
    plain = ["Hello, world!", "two  spaces ", "이순신이 서울에서 이겼다. 한국어", "antidisestablishmentarianism", "ㅋㅋㅋㅋㅋ"]
    for text in plain:
        assert ours.encode(text).ids == [0, *(3 if id == 0 else id + 1 for id in reference.encode(text)), 2]
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert [theirs(text)["input_ids"] for text in plain] != [ours.encode(text).ids for text in plain]


def test_hangul_letters_are_put_together_as_sentencepiece_does(tmp_path: Path) -> None:
    """The library's table leaves decomposed Hangul as it is, and so does the incumbent."""
    folder = folder_of(tmp_path / "xlm", XLM_ROBERTA, {"sentencepiece.bpe.model": model()})
    ours, theirs = Tokenizer.load(folder), transformers.AutoTokenizer.from_pretrained(folder)
    composed, apart = "한국어", "\u1112\u1161\u11ab\u1100\u116e\u11a8\u110b\u1165"
    assert ours.encode(apart).ids == ours.encode(composed).ids == theirs(composed)["input_ids"] != theirs(apart)["input_ids"]
    reference = sentencepiece.SentencePieceProcessor(model_proto=model())
    assert reference.encode(apart) == reference.encode(composed)


def test_scores_are_saved_exactly(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "xlm", XLM_ROBERTA, {"sentencepiece.bpe.model": model()})
    built = Tokenizer.load(folder).library
    scores = dict(json.loads(built.to_str())["model"]["vocab"])

    def lost(definition: bytes) -> int:
        again = json.loads(Tokenizer(definition, {}).library.to_str())["model"]["vocab"]
        return sum(scores[piece] != score for piece, score in again)

    assert lost(exact_definition(built)) <= 3 < 15 < lost(built.to_str().encode())
    assert len(read_model(model(), "").pieces) + 2 == len(scores)


def mutant(data: bytes, dice: random.Random) -> bytes:
    changed = bytearray(data)
    at, other = dice.randrange(len(data)), dice.randrange(len(data))
    way = dice.randrange(5)
    if way == 0:
        return data[:at]
    if way == 1:
        for _ in range(dice.choice([1, 3, 20])):
            changed[dice.randrange(len(data))] = dice.randrange(256)
    elif way == 2:
        changed[at : at + dice.randrange(1, 9)] = b"\xff" * 8
    elif way == 3:
        changed[at:at] = data[other : other + dice.randrange(64)]
    else:
        for _ in range(3):
            changed[dice.randrange(len(data) // 10, len(data))] ^= 1 << dice.randrange(8)
    return bytes(changed)


@pytest.mark.parametrize(("config", "name", "count"), [(XLM_ROBERTA, "sentencepiece.bpe.model", 140), ({"model_type": "t5"}, "spiece.model", 60)])
def test_mutants_are_errors_or_tokenizers(config: dict[str, Any], name: str, count: int, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "mutants", config, {name: model()})
    dice, failed, slowest = random.Random(count), 0, 0.0
    inputs = ["한국어 ｶﾞ ﬁ ① e\u0301 \u1112\u1161\u11ab a  b \U0001d49c", *texts(12)]
    for _ in range(count):
        (folder / name).write_bytes(mutant(model(), dice))
        begin = time.perf_counter()
        try:
            Tokenizer.load(folder).encode_batch(inputs)
        except TokenizerError as error:
            assert name in str(error)
            failed += 1
        slowest = max(slowest, time.perf_counter() - begin)
    assert failed > count / 2 and slowest <= 2


def test_huge_numbers_take_no_memory(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    huge = b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f"
    for data in (b"\n" + huge, b"\n\x05\n\x03abc\x15", b"\x08" + huge * 3, b"\x1a\x0a\x12\x08" + b"\xfc\xff\xff\xff" + b"\0" * 4, b"\0" * 100, b"\n" * 10_000):
        with pytest.raises(TokenizerError, match=r"sentencepiece\.bpe\.model"):
            Tokenizer.load(folder_of(tmp_path / str(len(data)), XLM_ROBERTA, {"sentencepiece.bpe.model": data}))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes


def changed(**fields: Any) -> bytes:
    message = schema.ModelProto.FromString(model())
    for name, value in fields.items():
        if name in ("piece", "score", "type"):
            setattr(message.pieces[50], name, value)
        else:
            part, _, field = name.partition("__")
            setattr(getattr(message, part), field, value)
    return bytes(message.SerializeToString())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"piece": ""}, "piece 50 is 0 characters long"),
        ({"piece": "x" * 2000}, "piece 50 is 2000 characters long"),
        ({"piece": "<s>"}, "a piece is there twice"),
        ({"score": float("nan")}, "the score nan"),
        ({"score": float("inf")}, "the score inf"),
        ({"type": 2}, "2 unknown pieces"),
        ({"trainer_spec__model_type": 4}, "models of the kind 'char' are not read"),
        ({"trainer_spec__model_type": 3}, "models of the kind 'word' are not read"),
        ({"trainer_spec__treat_whitespace_as_suffix": True}, "spaces are marked behind words"),
        ({"normalizer_spec__escape_whitespaces": False}, "spaces are not marked"),
        ({"normalizer_spec__precompiled_charsmap": b"abc"}, "replacements is cut off"),
        ({"normalizer_spec__precompiled_charsmap": b"\xff\xff\xff\x7f" + b"\0" * 2000}, "replacements is cut off"),
        ({"normalizer_spec__precompiled_charsmap": b"\0\x04\0\0" + b"\xff" * 1024 + b"a\0"}, "points outside"),
    ],
    ids=str,
)
def test_what_the_library_would_follow_blindly_is_checked(fields: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=said) as caught:
        Tokenizer.load(folder_of(tmp_path / "changed", XLM_ROBERTA, {"sentencepiece.bpe.model": changed(**fields)}))
    assert "sentencepiece.bpe.model" in str(caught.value)


def test_settings_that_do_not_fit_the_model(tmp_path: Path) -> None:
    for number, (settings, said) in enumerate(
        [({"extra_ids": "many"}, "extra_ids is 'many'"), ({"extra_ids": -1}, "extra_ids is -1"), ({"eos_token": "<end>"}, "'<end>' is not among the pieces")]
    ):
        files = {"spiece.model": model(pad_id=0, eos_id=1, unk_id=2, bos_id=-1), "tokenizer_config.json": settings}
        if "eos_token" in settings:
            # named in a file, it is added; not named, it is missed
            assert Tokenizer.load(folder_of(tmp_path / f"named{number}", {"model_type": "t5"}, files)).eos_id == 1200 + 100
            continue
        with pytest.raises(TokenizerError, match=said):
            Tokenizer.load(folder_of(tmp_path / str(number), {"model_type": "t5"}, files))
    without = {"spiece.model": model(normalization_rule_name="identity")}
    with pytest.raises(TokenizerError, match=r"\[CLS\].*not among the pieces"):
        Tokenizer.load(folder_of(tmp_path / "albert", {"model_type": "albert"}, without))
    with pytest.raises(TokenizerError, match="first three pieces"):
        fewer = {"sentencepiece.bpe.model": model(pad_id=-1, bos_id=-1, eos_id=-1)}
        Tokenizer.load(folder_of(tmp_path / "xlm", XLM_ROBERTA, fewer))
