"""What is drawn and what reads it: texts of many scripts, tokenizers of four kinds, and for each text task a tiny model with random weights."""

from __future__ import annotations

import json
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

import nabi
from nabi import decoding, tasks
from nabi.model import Model
from tasks.written import randomised

SCRIPTS: dict[str, list[str]] = {
    "korean": ["나비가 ", "서울에서", "박근혜는 ", "꽃에 앉았다. ", "ㅋㅋ", "뷁"],
    "jamo": [unicodedata.normalize("NFD", x) for x in ("한국어 ", "이순신이 ", "값을")],
    "english": ["The cat ", "sat on ", "Mr. O'Neill's ", "New York", ", and ", "state-of-the-art", "(1984) ", "café"],
    "japanese": ["東京に", "カナガ", "ｱﾊﾞ", "です。", "「猫」", "㌀"],
    "arabic": ["مرحبا ", "كِتَابٌ", "؟ ", "\u0640", "\u0651"],
    "thai": ["ภาษาไทย", "น้ำ", "เก่ง "],
    "emoji": ["👩\u200d🔬", "👍🏽", "🇰🇷", "❤\ufe0f", "👨\u200d👩\u200d👧 ", "1\ufe0f\u20e3"],
    "controls": ["\x00", "\x07", "\x1b[0m", "\x7f", "\x85", "\ufffd", "\ue000"],
    "invisible": ["\u200b", "\u200d", "\u200e", "\u2060", "\ufeff", "\xad"],
    "marks": ["\u0301", "e\u0301\u0323", "\u0308", "Å", "ﬁ", "İ", "ß", "\u1161", "\u20dd"],
    "ends": ["\n", "\r\n", "\r", "\t", "\u2028", "  ", "\u00a0", "\u3000", "\u2003"],
    "long": ["a" * 70, "가" * 40, "ab1" * 25, "ᄒ" * 20, "-" * 30],
    "other": ["Ёжик ", "ελληνικά ", "हिन्दी", "①㎏", "\U00020000", "\U0001d49c"],
}
TEXTS = st.one_of(
    st.lists(st.sampled_from(sorted(SCRIPTS)).flatmap(lambda name: st.sampled_from(SCRIPTS[name])), max_size=14).map("".join),
    st.text(st.characters(codec="utf-8"), max_size=25),
    st.text("ab .가\u0301\n", max_size=30),
)
SHORT = st.one_of(st.sampled_from([x for script in SCRIPTS.values() for x in script if len(x) < 20]), st.text(st.characters(codec="utf-8"), max_size=5))

READING = (
    "text_classification", "token_classification", "question_answering", "fill_mask", "next_sentence", "multiple_choice", "zero_shot_classification",
    "feature_extraction",
)  # fmt: skip
WRITING = ("text_generation", "denoise", "translation", "summarization", "text2text_generation")
KINDS = ("cased", "lower", "bytes", "pieces")
SENTINELS = [f"<extra_id_{i}>" for i in range(8)]  # of "pieces" alone
MASKS = {"cased": "[MASK]", "lower": "[MASK]", "bytes": "<mask>", "pieces": "<mask>"}
LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
LIMIT = 24  # tokens of a source that is written from


def letters() -> list[str]:
    """Every character of the scripts, as it stands and normalised; not all, so that some text is unknown."""
    every = "".join(x for script in SCRIPTS.values() for x in script)
    forms = "".join(unicodedata.normalize(form, every + every.lower()) for form in ("NFC", "NFD", "NFKC", "NFKD"))
    return sorted({c for c in forms if not c.isspace() and c not in "뷁Ё"})


def tokenizer(kind: str, folder: Path) -> Path:
    """The tokenizer's files."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind in ("cased", "lower"):
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        words = ["the", "The", "cat", "##at", "new", "New", "york", "York", "나비", "##가", "서울", "##에서", "東京", "##aa", "##가가"]
        vocabulary = list(dict.fromkeys([*special, *words, *letters(), *(f"##{c}" for c in letters())]))
        library = Library(models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]", max_input_chars_per_word=60))
        library.normalizer = normalizers.BertNormalizer(lowercase=kind == "lower", strip_accents=kind == "lower")
        library.pre_tokenizer, library.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
        ends = [("[CLS]", 2), ("[SEP]", 3)]
        library.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends)
        names = dict(zip(("pad", "unk", "cls", "sep", "mask"), special, strict=True))
    elif kind == "bytes":
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        merges = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("a", "t"), ("Ġ", "a"), ("ë", "Ĥ"), ("Ġ", "Ġ"), ("Ċ", "Ċ")]
        pieces = list(dict.fromkeys([*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]))
        library = Library(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
        library.pre_tokenizer, library.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        library.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False)
        names = dict(zip(("cls", "pad", "sep", "unk", "mask"), special, strict=True)) | {"bos": "<s>", "eos": "</s>"}
    else:
        special = ["<pad>", "</s>", "<unk>", "<mask>", *SENTINELS]
        pieces = [*special, *dict.fromkeys(["▁", "▁the", "▁The", "▁나비", "가", "▁a", "aa", *letters(), *(f"▁{c}" for c in letters()[::3])])]
        library = Library(models.Unigram([(piece, 0.0 if i < len(special) else -2.0 - (len(piece) == 1)) for i, piece in enumerate(pieces)], unk_id=2))
        library.normalizer = normalizers.NFKC()
        library.pre_tokenizer, library.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        library.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
        names = dict(zip(("pad", "eos", "unk", "mask"), special, strict=False))
    library.add_special_tokens(special)
    library.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **{f"{role}_token": name for role, name in names.items()}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@cache
def model(task: str, kind: str, base: Path) -> Model:
    """A tiny model."""
    folder = tokenizer(kind, base / kind)
    found = tasks.find(task)
    size: dict[str, Any] = {"hidden_size": 16, "num_heads": 2, "intermediate_size": 24}
    family, settings = "bert", {}
    if task in READING:
        size |= {"num_layers": 2, "max_positions": 1024}
        named = {"text_classification": ("a", "b", "c"), "token_classification": LABELS, "zero_shot_classification": ("contradiction", "entailment")}
        settings = {"labels": named[task]} if task in named else {}
    else:
        bos, eos = ((0, 2) if kind == "bytes" else (0, 1) if kind == "pieces" else (2, 3))
        settings = {"decoding": decoding.Settings(decoder_start_token_id=bos, bos_token_id=bos, eos_token_id=(eos,), pad_token_id=bos)}
        if task == "text_generation":
            family, size = "gpt2", {"hidden_size": 16, "num_heads": 2, "num_layers": 2, "max_positions": 64}
        elif task in ("text2text_generation", "denoise"):
            family, size = "t5", {**size, "num_layers": 2, "head_size": 8}
        else:
            family = "bart"
            size = {"hidden_size": 16, "max_positions": LIMIT}
            size |= {f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in (("layers", 1), ("heads", 2), ("intermediate_size", 24))}
    made = nabi.create(family, size, task, found.Settings(**settings), folder)
    return randomised(made, 3, 0.4).eval()  # type: ignore[no-any-return]


def example(task: str, kind: str, text: str, other: str) -> dict[str, Any]:
    """What the task reads, made of two texts; what it refuses is made acceptable."""
    if task == "text_classification":
        return {"text": text, "text_pair": other} if other else {"text": text}
    if task == "question_answering":
        return {"question": other or "?", "context": text or "."}
    if task == "fill_mask":
        return {"text": f"{text}{MASKS[kind]}{other}{MASKS[kind]}"}
    if task == "next_sentence":
        return {"text": text, "next": other}
    if task == "multiple_choice":
        return {"question": text, "choices": [other, "a b", "나비"]}
    if task == "zero_shot_classification":
        return {"text": text if text.strip() else "a", "candidate_labels": [other if other.strip() else "a", "b", "나비"]}
    if task == "denoise":
        blanks = SENTINELS[:2] if kind == "pieces" else [MASKS[kind]] * 2
        return {"text": f"{text}{blanks[0]}{other}{blanks[1]}"}
    return {"source" if task in WRITING[2:] else "text": text}


def options(task: str, given: list[dict[str, Any]], built: Model, room: int) -> dict[str, Any]:
    """What makes each text be read in windows with room for so many of its tokens."""
    encode = built.inputs.tokenizer.encode
    if task == "question_answering":
        return {"max_seq_len": max(len(encode(x["question"], "")) for x in given) + room, "doc_stride": room // 3, "top_k": 3}
    if task == "next_sentence":
        return {"max_length": 5 + room}
    if task == "zero_shot_classification":
        longest = max(len(encode("", f"This example is {name}.")) for x in given for name in x["candidate_labels"])
        return {"max_length": longest + room, "stride": room // 3}
    if task == "multiple_choice":  # windows run over the longer of the two
        longest = max(len(encode("", choice)) for x in given for choice in x["choices"])
        shorter = max(min(len(encode("", choice)), len(encode(x["question"], ""))) for x in given for choice in x["choices"])
        return {"max_length": max(longest, shorter) + room, "stride": room // 3}
    if task == "text_classification":
        return {"max_length": max(len(encode("", x.get("text_pair", ""))) for x in given) + room, "stride": room // 3}
    if task in ("token_classification", "fill_mask"):
        return {"max_length": 4 + room, "stride": room // 3}
    if task == "feature_extraction":
        return {"max_length": 4 + room, "stride": room // 3}
    if task == "text_generation":
        return {"max_new_tokens": 4, "handle_long_generation": "hole"}
    return {"max_new_tokens": 4, "num_beams": 1, **({"long": "truncate"} if task == "text2text_generation" else {})}
