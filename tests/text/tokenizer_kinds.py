"""Tokenizers of several kinds, one real and the others made here, and texts of many scripts."""

from __future__ import annotations

import json
import random
import unicodedata

from tokenizers import Tokenizer as Library
from tokenizers import models, normalizers, pre_tokenizers, processors

from nabi.text import Tokenizer

SYLLABLES = (
    "가각간감강거걸게고곳구국그기길나날내너네노는늘다달대더도동된들라람로를리마말며모무문물미바밖보부비빠사산살상서선성세소수순술스시신싶아안않앞"
    "어언얼에여연영오옷와왔요우운울위유으은을음의이인일입있자장재저적전정제조종좋주중지진집차참처천첫추출치크타태터통트판패평포표푸품프하학한할함합해향현호화환활회후힘"
)
ALPHABETS = {
    "latin": "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ .,!?'\"-()0123456789",
    "accents": "éèêëñöüçåßøÉÑÖŞİıﬁ½Åé ",
    "combining": "aeionA \u0301\u0300\u0302\u0308\u0323\u0327\u030a",
    "hangul": SYLLABLES + " .,",
    "jamo": unicodedata.normalize("NFD", SYLLABLES[:40]) + " ",
    "emoji": "👍🏽👩\u200d🔬👨\u200d👩\u200d👧❤\ufe0f🇰🇷😀 ",
    "rtl": "مرحبا بالعالم كِتَابٌ שלום עולם שָׁלוֹם ,؟",
    "cjk": "中文漢字日本語かなカナがパ、。々 ｱﾊﾞ㌀ㄱㅏㅋﾡￂ",
    "controls": "ab \x00\x07\x1b\x7f\x85\u200b\u200c\u200d\u200e\u2028\ufeff\ufffd\xad",
    "spaces": "ab \t\n\r\u00a0\u3000\u2003",
    "other": "кириллица Ёй ελληνικά हिन्दी ไทย ①㎏ｶ\U00020000\U0001d49c",
}


def random_text(dice: random.Random, most: int = 40) -> str:
    names = dice.sample(sorted(ALPHABETS), dice.randint(1, 4))
    text = "".join("".join(dice.choices(ALPHABETS[name], k=dice.randint(1, max(1, most // len(names))))) for name in names)
    return unicodedata.normalize(dice.choice(["NFC", "NFD"]), text) if dice.random() < 0.3 else text


def made(library: Library, **files: object) -> Tokenizer:
    data = {name.replace("__", "."): json.dumps(content).encode() for name, content in files.items()}
    return Tokenizer(library.to_str().encode(), data)


def characters(normalizer: normalizers.Normalizer | None) -> Library:
    """One token a character, for what is left of all alphabets by the normaliser."""
    joined = "".join(ALPHABETS.values())
    forms = {form for f in ("NFC", "NFD", "NFKC", "NFKD") for form in unicodedata.normalize(f, joined)} | set(joined + joined.lower())
    vocabulary = {char: number for number, char in enumerate(["[UNK]", *sorted(forms)])}
    library = Library(models.WordLevel(vocabulary, unk_token="[UNK]"))
    if normalizer is not None:
        library.normalizer = normalizer
    library.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return library


def byte_level(trim: bool, prefix: bool) -> Library:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "a"), ("Ġa", "b"), ("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("Ġ", "Ġ")]
    pieces = ["<s>", "<pad>", "</s>", "<mask>", *alphabet, *("".join(pair) for pair in merges)]
    library = Library(models.BPE({piece: number for number, piece in enumerate(pieces)}, merges))
    library.add_special_tokens(["<s>", "<pad>", "</s>", "<mask>"])
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    library.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=trim, add_prefix_space=prefix)
    return library


def metaspace() -> Library:
    forms = sorted({char for text in ALPHABETS.values() for char in unicodedata.normalize("NFKC", text)} - {" "})
    pieces = ["<unk>", "</s>", "▁", "▁a", "▁ab", "▁한", "▁이", "the", "▁the", *forms]
    library = Library(models.Unigram([(piece, -1.0 - (len(piece) == 1)) for piece in pieces], unk_id=0))
    library.normalizer = normalizers.NFKC()
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.add_special_tokens(["</s>"])
    library.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    return library
