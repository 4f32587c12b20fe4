"""Marian folders give the ids of the incumbent's tokenizer on both sides, and SentencePiece's own offsets."""

from __future__ import annotations

import functools
import itertools
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from nabi.errors import TokenizerError
from nabi.text import Tokenizer
from nabi.text.spm import Charsmap, read_model
from text.form_kinds import folder_of, judged, roles, texts, trained_model
from text.tokenizer_kinds import metaspace

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
SPECIAL = (">>fra<<", ">>kor<<")


@functools.cache
def files() -> dict[str, bytes | dict[str, Any]]:
    """A source and a target of different vocabularies; a tenth of their pieces is missing in vocab.json."""
    sides = {"source.spm": trained_model(), "target.spm": trained_model(vocab_size=900, character_coverage=0.98)}
    pieces = sorted({piece for model in sides.values() for piece in read_model(model, "").of_type(1)})
    random.Random(1).shuffle(pieces)
    tokens = ["</s>", "<unk>", *pieces[: len(pieces) * 9 // 10], *SPECIAL, "<pad>"]
    return {**sides, "vocab.json": {token: id for id, token in enumerate(tokens)}}


@functools.cache
def separate() -> dict[str, bytes | dict[str, Any]]:
    source, target = (["</s>", "<unk>", *read_model(files()[f"{side}.spm"], "").of_type(1), "<pad>"] for side in ("source", "target"))
    tables = {"vocab.json": source, "target_vocab.json": target}
    found = {name: {token: id for id, token in enumerate(tokens)} for name, tokens in tables.items()}
    return files() | found | {"tokenizer_config.json": {"tokenizer_class": "MarianTokenizer", "separate_vocabs": True, "pad_token": "<pad>"}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("marian")
    named = {"tokenizer_config.json": {"tokenizer_class": "MarianTokenizer", "source_lang": "eng", "target_lang": "kor", "model_max_length": 512}}
    return {
        "shared": folder_of(base / "shared", {"model_type": "marian"}, files()),
        "named": folder_of(base / "named", None, files() | named),
        "separate": folder_of(base / "separate", {"model_type": "marian"}, separate()),
    }


def inputs() -> list[str]:
    plain = texts(300)
    coded = [f">>fra<< {text}" for text in plain[::4]] + [f">>xyz<<{text}" for text in plain[::6]]
    odd = [">><<", ">>a", "a >>fra<< b", "</s>>>kor<< a", "<unk>", " <pad> a<pad>", "<s>x", "a</s></s> b", "▁ ▁a▁b▁"]
    return [*plain, *coded, *odd, *(f"{text}</s>{text}" for text in plain[::9])]


@pytest.mark.parametrize("kind", ["shared", "named", "separate"])
def test_ids_are_the_incumbents(kind: str, folders: dict[str, Path]) -> None:
    ours, theirs = Tokenizer.load(folders[kind]), transformers.AutoTokenizer.from_pretrained(folders[kind])
    assert type(theirs).__name__ == "MarianTokenizer"
    given = inputs()
    assert [text for text in given if ours.encode(text).ids != theirs(text)["input_ids"]] == []
    # of a target vocabulary of its own nabi takes the ids of special tokens too, where the incumbent takes the source's
    apart = [text for text in given if ours.target.encode(text).ids != theirs(text_target=text)["input_ids"]]
    assert [text for text in apart if kind != "separate" or "<pad>" not in text] == []
    if kind != "separate":
        assert [text for text in given if ours.decode(theirs(text)["input_ids"]) != theirs.decode(theirs(text)["input_ids"], skip_special_tokens=True)] == []
    assert roles(ours) == roles(theirs) and ours.vocab_size == len(theirs) and ours.eos_id == ours.encode("a").ids[-1] == 0
    pairs = list(itertools.pairwise(given[:40]))
    assert [ours.encode(*pair).ids for pair in pairs] == [theirs(text, pair or None)["input_ids"] for text, pair in pairs]
    # negative control: the sides differ
    assert sum(ours.encode(text).ids != ours.target.encode(text).ids for text in given) > len(given) / 2


@given(st.text(st.characters(codec="utf-8"), max_size=30))
@settings(deadline=None, database=None, derandomize=True, max_examples=300)
def test_pieces_of_any_text_are_sentencepieces(text: str) -> None:
    ours, reference = both()
    assert [piece for piece, _, _ in ours(text)] == reference.encode(text, out_type=str)


@functools.cache
def both() -> tuple[Callable[[str], list[tuple[str, int, int]]], sentencepiece.SentencePieceProcessor]:
    from nabi.text.marian import Pieces

    model = files()["source.spm"]
    assert isinstance(model, bytes)
    return Pieces(read_model(model, ""), "").of, sentencepiece.SentencePieceProcessor(model_proto=model)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalization_rule_name": "identity"},
        {"byte_fallback": True},
        {"remove_extra_whitespaces": False},
        {"add_dummy_prefix": False},
        {"user_defined_symbols": "<sep>,lo"},
    ],
    ids=str,
)
def test_pieces_are_sentencepieces_whatever_the_settings(options: dict[str, Any]) -> None:
    from nabi.text.marian import Pieces

    model = trained_model(**options)
    ours, reference = Pieces(read_model(model, ""), ""), sentencepiece.SentencePieceProcessor(model_proto=model)
    given = [text.replace("\u2581", "") for text in inputs()] + ["a<sep>b lo", "<sep>", "hello<sep> lolo"]
    differing = [text for text in given if [piece for piece, _, _ in ours.of(text)] != reference.encode(text, out_type=str)]
    assert differing == []
    pieces = [reference.encode(text, out_type=str) for text in given]
    assert [ours.joined(each) for each in pieces] == [reference.decode_pieces(each) for each in pieces]


def test_offsets_are_sentencepieces(folders: dict[str, Path]) -> None:
    tokenizer, (_, reference) = Tokenizer.load(folders["shared"]), both()
    kinds: Counter[str] = Counter()
    for text in texts(300):
        if any(token in text for token in ("<unk>", "</s>", "<pad>", ">>")):
            continue
        got = tokenizer.encode(text, special=False)
        pieces = reference.encode(text, return_type="proto").pieces
        for mine, piece in zip(got.offsets, pieces, strict=True):
            begin, end = (len(text.encode()[:at].decode()) for at in (piece.begin, piece.end))
            kind = judged(mine, (begin, end), text, piece.piece)
            # SentencePiece counts what vanishes (spaces, controls, marks of width zero) to the piece before, and U+0085 is no space to it
            around = text[begin : mine[0]] + text[mine[1] : end]
            if begin <= mine[0] < mine[1] <= end and not reference.normalize(around).strip("▁ \x85\xad"):
                kind = "same" if mine == (begin, end) else "without what vanishes"
            kinds[kind] += 1
    assert kinds["same"] > 1000 and not [kind for kind in kinds if kind.startswith("wrong")], kinds


def test_a_saved_folder_is_as_it_was_found(folders: dict[str, Path], tmp_path: Path) -> None:
    for kind, folder in folders.items():
        first = Tokenizer.load(folder)
        first.save(tmp_path / kind)
        again = Tokenizer.load(tmp_path / kind)
        assert again.fingerprint == first.fingerprint != first.target.fingerprint
        assert [again.encode(text).ids for text in texts(20)] == [first.encode(text).ids for text in texts(20)]
        assert not (tmp_path / kind / "tokenizer.json").exists()
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / kind)
        assert theirs("hello world")["input_ids"] == again.encode("hello world").ids
    # a tokenizer.json beside it can't hold both sides, so it is not read
    (tmp_path / "named" / "tokenizer.json").write_text(metaspace().to_str())
    assert Tokenizer.load(tmp_path / "named").encode("hello world").ids == Tokenizer.load(folders["named"]).encode("hello world").ids


def test_windows_and_truncation_cut_whole_tokens(folders: dict[str, Path]) -> None:
    tokenizer = Tokenizer.load(folders["shared"])
    text = "hello world, 한국어 문장을 하나 더 적는다. " * 10
    windows = tokenizer.windows(text, max_length=30, stride=4)
    assert all(len(window) <= 30 and window.ids[-1] == tokenizer.eos_id for window in windows)
    cut, was_cut = tokenizer.truncated(text, None, 10)
    assert was_cut and len(cut) == 10 and cut.ids == [*tokenizer.encode(text).ids[:9], tokenizer.eos_id]
    assert [e.ids for e in tokenizer.encode_batch([text, "a"])] == [tokenizer.encode(text).ids, tokenizer.encode("a").ids]
    other = Tokenizer.load(folders["shared"]).target
    assert other.target is other and tokenizer.target is not tokenizer


def test_added_tokens(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["shared"], tmp_path / "added")
    size = len(json.loads((tmp_path / "added" / "vocab.json").read_text()))
    (tmp_path / "added" / "added_tokens.json").write_text(json.dumps({"<new>": size + 3, "zz": size}))
    ours, theirs = Tokenizer.load(tmp_path / "added"), transformers.AutoTokenizer.from_pretrained(tmp_path / "added")
    for text in ("a <new> b", "zzz pizza", "<new></s>", *texts(20)):
        assert ours.encode(text).ids == theirs(text)["input_ids"]
    assert ours.vocab_size == size + 4 and ours.token(size + 3) == "<new>" and size + 3 in ours.encode("<new>").ids


def test_bad_folders(folders: dict[str, Path], tmp_path: Path) -> None:
    def said(name: str, change: Callable[[Path], object], kind: str = "shared") -> str:
        shutil.copytree(folders[kind], tmp_path / name)
        change(tmp_path / name)
        with pytest.raises(TokenizerError) as caught:
            Tokenizer.load(tmp_path / name)
        return str(caught.value)

    assert "target.spm is missing" in said("side", lambda folder: (folder / "target.spm").unlink())
    assert "the unk token is not in the vocabulary" in said("unk", lambda folder: (folder / "vocab.json").write_text('{"</s>": 0, "a": 1}'))
    assert "source.spm" in said("cut", lambda folder: (folder / "source.spm").write_bytes((folder / "source.spm").read_bytes()[:5000]))
    assert "have the id 0" in said("twice", lambda folder: (folder / "vocab.json").write_text('{"</s>": 0, "<unk>": 0}'))
    assert "target_vocab.json, which is missing" in said("separate", lambda folder: (folder / "target_vocab.json").unlink(), "separate")
    bpe = trained_model(model_type="bpe", vocab_size=600)
    assert "unigram models only" in said("bpe", lambda folder: (folder / "source.spm").write_bytes(bpe))


def test_the_table_of_replacements_matches_the_longest_entry() -> None:
    table = Charsmap(read_model(trained_model(), "").charsmap)
    composed = "\u1112\u1161\u11ab".encode()
    assert table.longest(composed, 0) == (9, "한") and table.longest(composed[:6], 0) == (6, "하")
    assert table.longest("ｶﾞ".encode(), 0) == (6, "ガ") and table.longest(b"q", 0) is None


def test_a_definition_is_read_where_there_are_no_models_of_two_sides(folders: dict[str, Path], tmp_path: Path) -> None:
    """As models of the family have that were trained with another tokenizer; where both lie, the two sides win."""
    from tokenizers import Tokenizer as Library
    from tokenizers import models

    definition = Library(models.WordLevel({"</s>": 0, "<unk>": 1, "a": 2, "<pad>": 3}, "<unk>")).to_str().encode()
    alone = folder_of(tmp_path / "alone", {"model_type": "marian"}, {"tokenizer.json": definition})
    found = Tokenizer.load(alone)
    assert (found.encode("a").ids, found.eos_id, found.pad_id) == ([2], 0, 3)
    both = folder_of(tmp_path / "both", {"model_type": "marian"}, {**files(), "tokenizer.json": definition})
    assert Tokenizer.load(both).encode("a").ids == Tokenizer.load(folders["shared"]).encode("a").ids != [2]
