"""Folders of tokenizers without tokenizer.json, with small vocabularies that are trained here, and the comparison with the incumbent."""

from __future__ import annotations

import io
import json
import random
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sentencepiece
import transformers
from tokenizers import Regex, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Library

from nabi.text import Tokenizer
from nabi.text.bpe import CLIP_WORD
from text.tokenizer_kinds import random_text

SENTENCES = [
    "Hello, world! It's a DON'T-stop café naïve façade.",
    "이순신이 서울에서 이겼다. 한국어 문장을 하나 더 적는다.",
    unicodedata.normalize("NFD", "이순신이 서울에서 이겼다. 한국어"),
    "中文 test 日本語 かなカナ ｶﾞ ㌀ １２３",
    "a\x00b\ufeffc\td\ne  two   spaces   ",
    "   leading and trailing   ",
    "antidisestablishmentarianism " * 8,
    "x" * 101,
    "ㅋㅋㅋㅋㅋ ㅠㅠ ...... aaaaaaa",
    "👩\u200d🔬 👍🏽 ok ❤\ufe0f🇰🇷",
    "שלום מרחבא كِتَابٌ مرحبا",
    "ﬁne ½ ① İstanbul ß Ångström e\u0301\u0323",
    "<s> a </s> <mask> [CLS] [MASK] <pad> <unk> <|endoftext|> <|startoftext|> <extra_id_0> >>fra<<",
    "``quoted'' text, 1,000 and 3.14",
    "",
    " ",
    "\n\t",
]


def texts(count: int, seed: int = 0) -> list[str]:
    dice = random.Random(seed)
    return SENTENCES + [random_text(dice, dice.choice([8, 40, 120])) for _ in range(count)]


def corpus() -> list[str]:
    return [text.replace("\0", "") for text in texts(250, seed=7) if text.strip()] * 2


def folder_of(path: Path, config: dict[str, Any] | None, files: dict[str, bytes | dict[str, Any]]) -> Path:
    path.mkdir(parents=True)
    for name, content in (files if config is None else {"config.json": config, **files}).items():
        (path / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def byte_level_files(special: Iterable[str], *, clip: bool = False) -> dict[str, bytes | dict[str, Any]]:
    suffix = "</w>" if clip else ""
    library = Library(models.BPE(end_of_word_suffix=suffix))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.pre_tokenizer = level
    if clip:
        library.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
        library.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(CLIP_WORD), "removed", invert=True), level])
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=list(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        end_of_word_suffix=suffix,
        show_progress=False,
    )
    library.train_from_iterator(corpus(), trainer)
    return _saved(library)


def by_character_files() -> dict[str, bytes | dict[str, Any]]:
    library = Library(models.BPE(end_of_word_suffix="</w>", unk_token="<unk>"))
    library.normalizer, library.pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    trainer = trainers.BpeTrainer(vocab_size=1500, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False)
    library.train_from_iterator(corpus(), trainer)
    return _saved(library)


def _saved(library: Library) -> dict[str, bytes | dict[str, Any]]:
    model = json.loads(library.to_str())["model"]
    merges = "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in model["merges"])
    return {"vocab.json": model["vocab"], "merges.txt": merges.encode()}


def trained_model(**options: Any) -> bytes:
    """A SentencePiece model."""
    written = io.BytesIO()
    options = {"vocab_size": 1200, "hard_vocab_limit": False, "minloglevel": 2, "num_threads": 1} | options
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(corpus()), model_writer=written, **options)
    return written.getvalue()


def is_joined(char: str) -> bool:
    name = unicodedata.name(char, "")
    return unicodedata.category(char).startswith("M") or "HANGUL JUNG" in name or "HANGUL JONG" in name or "SOUND MARK" in name


def judged(mine: tuple[int, int], theirs: tuple[int, int], text: str, token: str) -> str:
    """How an offset relates to the incumbent's: the same, or one of the repairs that nabi makes on purpose, or wrong."""
    if mine == theirs:
        return "same"
    if token in ("▁", "Ġ") and mine[0] == mine[1] == theirs[0]:
        return "a space only for the tokenizer is empty"
    start, end = theirs
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    if mine == (start, end):
        return "no space at the ends"
    more = text[end : mine[1]]
    if mine[0] in (theirs[0], start) and more and all(map(is_joined, more)):
        return "all of the letter"
    return f"wrong: {mine} for {theirs}"


def compare(ours: Tokenizer, theirs: transformers.PreTrainedTokenizerBase, inputs: list[str]) -> tuple[Counter[str], list[str]]:
    """Offsets by kind of relation, and the texts on which ids, segments or special tokens differ; every fourth input has a pair."""
    kinds: Counter[str] = Counter()
    differing = []
    for i, text in enumerate(inputs):
        pair = inputs[(i * 7 + 1) % len(inputs)] if i % 4 == 0 else None
        pair = pair or None  # the incumbent takes an empty pair for none
        read = [each and ours._composed(each).text for each in (text, pair)]  # Hangul in syllables: tests/text/test_korean.py
        want = theirs(*read, return_offsets_mapping=True, return_special_tokens_mask=True, return_token_type_ids=True)
        got = ours.encode(text, pair)
        mask = [int(special) for special in got.special]
        if (got.ids, got.segments, mask) != (want["input_ids"], want["token_type_ids"], want["special_tokens_mask"]):
            differing.append(text)
            continue
        if read != [text, pair]:
            continue  # their offsets count another text
        for id, mine, other, side in zip(got.ids, got.offsets, want["offset_mapping"], got.sequence, strict=True):
            kinds[judged(mine, tuple(other), (text, pair or "")[side or 0], ours.token(id))] += 1
    return kinds, differing


def roles(tokenizer: Tokenizer | transformers.PreTrainedTokenizerBase) -> dict[str, int | None]:
    ending = "_id" if isinstance(tokenizer, Tokenizer) else "_token_id"
    return {role: getattr(tokenizer, role + ending) for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")}
