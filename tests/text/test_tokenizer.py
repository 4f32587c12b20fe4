"""Loading, saving, parity with the incumbent, and errors."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import unicodedata
import warnings
from pathlib import Path

import pytest
import transformers
from tokenizers import Tokenizer as Library
from tokenizers import models, normalizers, pre_tokenizers

from nabi.errors import InputError, StorageError, TokenizerError
from nabi.text import Encoding, Tokenizer
from text.tokenizer_kinds import byte_level, made, metaspace, random_text

pytestmark = pytest.mark.filterwarnings("ignore:the tokenizer takes Hangul")  # a test of its own reads it

SENTENCES = [
    "",
    " ",
    "Hello, world!",
    "It's a DON'T-stop café naïve façade.",
    "이순신이 서울에서 이겼다.",
    "中文 test 日本語",
    "[CLS] a [MASK] b [SEP] [UNK] [PAD]",
    "a\x00b\ufeffc\td\ne",
    "antidisestablishmentarianism " * 40,
    "x" * 101,
    "👩\u200d🔬 👍🏽 ok",
    "שלום مرحبا",
    "ﬁne ½ ① İstanbul ß",
]


def texts(count: int, seed: int = 0) -> list[str]:
    dice = random.Random(seed)
    return SENTENCES + [random_text(dice, dice.choice([8, 40, 200])) for _ in range(count)]


def is_joined(char: str) -> bool:
    return (
        unicodedata.category(char).startswith("M")
        or "HANGUL JUNG" in unicodedata.name(char, "")
        or "HANGUL JONG" in unicodedata.name(char, "")
    )


def compare(ours: Tokenizer, theirs: transformers.PreTrainedTokenizerBase, inputs: list[tuple[str, str | None]], **options: bool) -> int:
    """The number of inputs on which anything differs; an offset may also hold the marks that the incumbent leaves in no token."""
    differing = 0
    for text, pair in inputs:
        reference = theirs(text, pair, return_offsets_mapping=True, return_special_tokens_mask=True, return_token_type_ids=True, **options)
        got = ours.encode(text, pair)
        same = got.ids == reference["input_ids"] and got.segments == reference["token_type_ids"]
        same = same and [int(s) for s in got.special] == reference["special_tokens_mask"]
        same = same and got.words == reference.word_ids() and got.sequence == reference.sequence_ids()
        for mine, other, side in zip(got.offsets, reference["offset_mapping"], got.sequence, strict=False):
            more = ((text, pair)[side or 0] or "")[other[1] : mine[1]]
            same = same and mine[0] == other[0] and mine[1] >= other[1] and all(map(is_joined, more))
        differing += not same
    return differing


@pytest.fixture(scope="module")
def inputs() -> list[tuple[str, str | None]]:
    firsts, seconds = texts(240), texts(60, seed=1)
    # the incumbent takes an empty pair for none
    return [(text, None) for text in firsts] + [(text, pair) for text, pair in zip(firsts, seconds, strict=False) if pair]


@pytest.mark.parametrize("folder", ["minilm", "vocab_only"])
def test_parity_with_the_incumbent(folder: str, inputs: list[tuple[str, str | None]], request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(folder)
    ours, theirs = Tokenizer.load(path), transformers.AutoTokenizer.from_pretrained(path)
    assert compare(ours, theirs, inputs, truncation=False, padding=False) == 0
    special = (ours.cls_id, ours.sep_id, ours.pad_id, ours.mask_id, ours.unk_id)
    assert special == (theirs.cls_token_id, theirs.sep_token_id, theirs.pad_token_id, theirs.mask_token_id, theirs.unk_token_id)
    assert ours.vocab_size == len(theirs) == 30522 and ours.max_length == 512


def test_parity_would_see_a_difference(minilm: Path, inputs: list[tuple[str, str | None]], monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(minilm)
    cased = Tokenizer(
        (minilm / "tokenizer.json")
        .read_bytes()
        .replace(b'"lowercase":true', b'"lowercase":false')
        .replace(b'"lowercase": true', b'"lowercase": false'),
        {},
    )
    assert compare(cased, theirs, inputs, truncation=False, padding=False) > len(inputs) / 4
    left_in_place = Tokenizer.load(minilm)
    left_in_place.library = Library.from_file(str(minilm / "tokenizer.json"))
    assert compare(left_in_place, theirs, inputs, truncation=False, padding=False) == len(inputs)


def test_what_is_stored_never_applies_but_is_known_and_saved(minilm: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(minilm)
    assert tokenizer.stored_truncation is not None and tokenizer.stored_truncation["max_length"] == 128
    assert tokenizer.stored_padding is not None and tokenizer.stored_padding["length"] == 128
    assert len(tokenizer.encode("a " * 300)) == 302 and len(tokenizer.encode("a")) == 3
    tokenizer.save(tmp_path / "new")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        assert (tmp_path / "new" / name).read_bytes() == (minilm / name).read_bytes()
    assert len(list((tmp_path / "new").iterdir())) == 4


@pytest.mark.parametrize("folder", ["minilm", "vocab_only"])
def test_saved_and_loaded_is_the_same(
    folder: str, inputs: list[tuple[str, str | None]], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(folder)
    first = Tokenizer.load(path)
    first.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.fingerprint == first.fingerprint and again.max_length == first.max_length
    assert [again.encode(*each) for each in inputs] == [first.encode(*each) for each in inputs]
    shutil.copy(path / "config.json", tmp_path)
    assert compare(again, transformers.AutoTokenizer.from_pretrained(tmp_path), inputs[:100], truncation=False, padding=False) == 0


def test_vocab_settings_are_followed(vocab_only: Path, tmp_path: Path) -> None:
    sentences = [text for text in texts(60) if text.strip()]
    for number, change in enumerate([{"do_lower_case": False}, {"strip_accents": False}, {"tokenize_chinese_chars": False}]):
        folder = shutil.copytree(vocab_only, tmp_path / str(number))
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps(settings | change))
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
        assert compare(Tokenizer.load(folder), theirs, [(text, None) for text in sentences], truncation=False, padding=False) == 0
        assert compare(Tokenizer.load(vocab_only), theirs, [(text, None) for text in sentences], truncation=False, padding=False) > 0


def test_added_tokens_of_a_vocab_folder(vocab_only: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(vocab_only, tmp_path / "x")
    (folder / "added_tokens.json").write_text('{"<e2>": 30523, "<e1>": 30522}')
    tokenizer = Tokenizer.load(folder)
    reference = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer.encode("a <e1>b<e2>").ids == reference("a <e1>b<e2>")["input_ids"]
    assert tokenizer.id("<e1>") == 30522 and tokenizer.vocab_size == 30524
    (folder / "added_tokens.json").write_text('{"<e1>": 40000}')
    with pytest.raises(TokenizerError, match="30522, not 40000"):
        Tokenizer.load(folder)


@pytest.mark.parametrize("special", [True, False])
def test_a_batch_is_what_its_texts_are_alone(minilm: Path, special: bool) -> None:
    tokenizer = Tokenizer.load(minilm)
    firsts, seconds = texts(50), texts(50, seed=3)
    assert tokenizer.encode_batch(firsts, special=special) == [tokenizer.encode(text, special=special) for text in firsts]
    paired = [tokenizer.encode(text, pair, special=special) for text, pair in zip(firsts, seconds, strict=True)]
    assert tokenizer.encode_batch(firsts, seconds, special=special) == paired
    assert tokenizer.encode_batch(iter(firsts[:3])) == tokenizer.encode_batch(firsts[:3]) and tokenizer.encode_batch([]) == []


def test_small_things(minilm: Path) -> None:
    tokenizer = Tokenizer.load(minilm)
    expected = Encoding([101, 102], [0, 0], [(0, 0), (0, 0)], [None, None], [True, True], [None, None])
    assert tokenizer.encode("") == expected and len(expected) == 2
    ids = tokenizer.encode("hello there").ids
    assert tokenizer.tokens(ids) == ["[CLS]", "hello", "there", "[SEP]"]
    assert tokenizer.decode(ids) == "hello there" and tokenizer.decode(ids, skip_special=False) == "[CLS] hello there [SEP]"
    assert tokenizer.id("hello") == 7592 and tokenizer.token(7592) == "hello" and tokenizer.id("no such") is None
    for wrong in (30522, -1, "a"):
        with pytest.raises(InputError):
            tokenizer.token(wrong)  # type: ignore[arg-type]
    for wrong in ([-1], ["a"], 3):
        with pytest.raises(InputError):
            tokenizer.decode(wrong)  # type: ignore[arg-type]


def test_the_fingerprint_is_of_what_decides_the_ids(minilm: Path) -> None:
    definition = json.loads((minilm / "tokenizer.json").read_text())
    first = Tokenizer.load(minilm).fingerprint

    def changed(**keys: object) -> str:
        return Tokenizer(json.dumps(definition | keys, indent=2).encode(), {}).fingerprint

    assert changed(truncation=None, padding=None) == first
    assert changed(pre_tokenizer={"type": "WhitespaceSplit"}) != first


def test_special_names_come_from_the_files() -> None:
    library = byte_level(trim=True, prefix=False)
    assert (made(library).cls_id, made(library).sep_id, made(library).mask_id, made(library).unk_id) == (0, 2, 3, None)
    renamed = made(
        library,
        special_tokens_map__json={"cls_token": {"content": "a"}},
        tokenizer_config__json={"mask_token": "b", "model_max_length": 1e30},
    )
    assert (renamed.cls_id, renamed.mask_id, renamed.max_length) == (library.token_to_id("a"), library.token_to_id("b"), None)
    assert made(metaspace()).eos_id == 1 and made(metaspace()).cls_id is None


@pytest.mark.parametrize("wrong", [None, float("nan"), b"abc", 3, ["a"], ("a", "b"), "half \ud83d of it"])
def test_a_wrong_text_is_named(minilm: Path, wrong: str) -> None:
    tokenizer = Tokenizer.load(minilm)
    for call in (
        lambda: tokenizer.encode(wrong),
        lambda: tokenizer.windows(wrong, max_length=8, stride=1),
        lambda: tokenizer.truncated(wrong, None, 8),
    ):
        with pytest.raises(InputError):
            call()
    with pytest.raises(InputError, match=r"text 1"):
        tokenizer.encode_batch(["fine", wrong])
    if wrong is not None:
        with pytest.raises(InputError):
            tokenizer.encode("fine", wrong)
    with pytest.raises(InputError):
        tokenizer.encode_batch(["a", "b"], ["a", wrong])


def test_a_wrong_batch_is_named(minilm: Path) -> None:
    tokenizer = Tokenizer.load(minilm)
    with pytest.raises(InputError, match="list"):
        tokenizer.encode_batch("one text")
    with pytest.raises(InputError, match="2 texts, 1 pairs"):
        tokenizer.encode_batch(["a", "b"], ["c"])


def small(**parts: object) -> str:
    unknown = {"type": "WordLevel", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"}
    return json.dumps({"version": "1.0", "added_tokens": [], "model": unknown} | parts)


PANICS = [small(normalizer={"type": "Precompiled", "precompiled_charsmap": charsmap}) for charsmap in ("", "BAAAAAECAwRhYmM=")]


@pytest.mark.parametrize(
    "content",
    ["", "x", "{", "[]", "null", "{}", '{"version": "1.0"}', b"\xff\xfe", b"\xef\xbb\xbf{}", *PANICS, "[" * 100_000],
)
def test_a_broken_definition_is_a_tokenizer_error(content: str | bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TokenizerError, match=r"tokenizer\.json.*fetch or write it again"):
        Tokenizer.load(tmp_path)


def test_a_cut_off_definition_is_a_tokenizer_error(minilm: Path, tmp_path: Path) -> None:
    whole = (minilm / "tokenizer.json").read_bytes()
    for length in (1, 1000, len(whole) // 2, len(whole) - 1):
        (tmp_path / "tokenizer.json").write_bytes(whole[:length])
        with pytest.raises(TokenizerError):
            Tokenizer.load(tmp_path)


def test_a_panic_becomes_an_error_and_an_interrupt_does_not(minilm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = {"type": "Split", "pattern": {"Regex": "(a+)+b"}, "behavior": "Isolated", "invert": False}
    panicking = Tokenizer(small(pre_tokenizer=pattern).encode(), {})
    with pytest.raises(InputError, match="retry-limit"):
        panicking.encode("a" * 60)
    with pytest.raises(InputError, match="retry-limit"):
        panicking.encode_batch(["b", "a" * 60])
    assert panicking.encode("b").ids == [0]

    class Interrupted:
        def encode(self, *_: object, **__: object) -> None:
            raise KeyboardInterrupt

    tokenizer = Tokenizer.load(minilm)
    monkeypatch.setattr(tokenizer, "library", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        tokenizer.encode("abc")


@pytest.mark.parametrize(
    ("vocabulary", "said"),
    [
        ("[CLS]\n[SEP]\na\n", r"'\[UNK\]' is missing"),
        ("[UNK]\n[SEP]\na\n", r"'\[CLS\]' is missing"),
        ("[UNK]\n[CLS]\n[SEP]\na\nb\na\n", "'a' is on lines 4 and 6"),
        ("", r"'\[UNK\]' is missing"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_a_broken_vocabulary_is_a_tokenizer_error(vocabulary: str | bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(vocabulary if isinstance(vocabulary, bytes) else vocabulary.encode())
    with pytest.raises(TokenizerError, match=said):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    "settings", ["[]", "{", '{"do_lower_case": "yes"}', '{"added_tokens_decoder": {"5": 3}}', '{"added_tokens_decoder": [1]}']
)
def test_broken_settings_are_a_tokenizer_error(settings: str, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\na\n")
    (tmp_path / "tokenizer_config.json").write_text(settings)
    with pytest.raises(TokenizerError):
        Tokenizer.load(tmp_path)


def test_nothing_to_load(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"no tokenizer in the folder.*tokenizer\.json or vocab\.txt"):
        Tokenizer.load(tmp_path)
    with pytest.raises(TokenizerError, match="no such folder"):
        Tokenizer.load(tmp_path / "missing")


def test_a_file_that_cannot_be_written(minilm: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="could not be written"):
        Tokenizer.load(minilm).save(tmp_path / "file")


def test_hangul_that_the_vocabulary_cannot_hold_is_warned_of_once() -> None:
    def wordpiece(lowercase: bool) -> Tokenizer:
        library = Library(models.WordPiece({"[UNK]": 0, "한": 1, "국": 2, "##국": 3, "a": 4}, unk_token="[UNK]"))
        library.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
        library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        return made(library)

    broken = wordpiece(lowercase=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert wordpiece(lowercase=False).encode("한국").ids == [1, 3]
        assert broken.encode("zzz a").ids == [0, 4]
    with pytest.warns(UserWarning, match="lowercase and strip_accents") as seen:
        ids = [broken.encode("한국").ids, broken.encode("한국").ids, broken.encode_batch(["한국"])[0].ids]
    assert ids == [[0]] * 3 and len(seen) == 1 and seen[0].filename == __file__


def test_importing_is_light() -> None:
    code = "import sys, nabi.text; print(sorted({'tokenizers', 'torch', 'numpy', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
