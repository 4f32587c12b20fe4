"""What the tests of denoising share: a small language, a tokenizer with sentinels and a mask, and what a row says was taken out."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

import nabi
from nabi.batch import Row
from nabi.model import Model
from nabi.tasks.denoise import DenoiseSettings

SENTINELS = [f"<extra_id_{i}>" for i in range(24)]
WHO = {"나비가": "꽃에 앉았다", "고양이가": "집에서 잤다", "the cat": "sat on the mat", "a butterfly": "flew over the hill"}


def documents(count: int, seed: int = 0) -> list[str]:
    """Sentences of which the second half follows from the first."""
    dice = random.Random(seed)
    return [" ".join(f"{who} {WHO[who]}." for who in dice.choices(list(WHO), k=dice.randint(1, 2))) for _ in range(count)]


TEXTS = documents(200)
LONG = "나비가 꽃에 앉았다. The butterfly sat on a flower, and flew away over the hill! 고양이가 집에서 잤다. " * 12
# Korean words in two pieces, English ones whole, and letters for all else
WORDS = "▁나비 가 ▁고양이 ▁꽃 에 ▁집 에서 ▁앉 았다 ▁잤 다 ▁the ▁cat ▁sat ▁on ▁mat ▁a ▁butterfly ▁flew ▁over ▁hill"
PIECES = ["▁", *WORDS.split(" "), *".!?'abcdefghijklmnopqrstuvwxyz"]


def tokenizer(path: Path, sentinels: int = 24) -> Path:
    """A tokenizer with sentinels and a mask."""
    special = ["<pad>", "</s>", "<unk>", "<mask>", *(f"<extra_id_{i}>" for i in range(sentinels))]
    pieces = [*((name, 0.0) for name in special), *((piece, -2.0 - (len(piece) == 1)) for piece in PIECES)]
    library = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=2))
    library.pre_tokenizer, library.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    library.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    library.add_special_tokens(special)
    path.mkdir(parents=True, exist_ok=True)
    library.save(str(path / "tokenizer.json"))
    told = {"tokenizer_class": "T5Tokenizer", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>", "extra_ids": 0}
    (path / "tokenizer_config.json").write_text(json.dumps(told))
    return path


def made(words: Path, family: str = "t5", size: Any = "tiny", **given: Any) -> Model:
    """A fresh model."""
    return nabi.create(family, size, "denoise", DenoiseSettings(**given), words, seed=1)


def rows(model: Model, text: str, use: Any = "train") -> list[Row]:
    return model.encode({"text": text}, model.options(), use, "a text")


def ids(model: Model, text: str) -> list[int]:
    return model.inputs.tokenizer.encode(text, special=False).ids


def sentinels(model: Model) -> list[int]:
    return [int(str(model.inputs.tokenizer.id(name))) for name in SENTINELS]


def put_back(row: Row, marks: list[int]) -> list[int]:
    """The tokens of a row of spans: what its target says stood at each sentinel of its source, checked on the way."""
    source, target = list(row.parts["text"]["tokens"]), list(row.targets["next"])
    assert source.pop() == target.pop() == 1, "both end with the end token"
    used = [id for id in source if id in marks]
    assert [id for id in target if id in marks] == marks[: len(used) + 1] and used == marks[: len(used)], "the same sentinels, in order, and a last one"
    assert target[0] == marks[0] and target[-1] == marks[len(used)]
    found: dict[int, list[int]] = {}
    for id in target:
        if id in marks:
            found[id] = last = []
        else:
            last.append(id)
    assert all(found[id] for id in used) and row.parts["target"]["tokens"] == [0, *row.targets["next"][:-1]]
    return [x for id in source for x in (found[id] if id in marks else [id])]


def inputs_words(model: Model, text: str) -> list[int]:
    """The word of each token: a token with the mark of a space begins one."""
    tokens = model.inputs.tokenizer.tokens(ids(model, text))
    return list(itertools.accumulate(int(token.startswith("▁")) for token in tokens))


def dropped_places(row: Row, whole: list[int], marks: list[int], style: str) -> set[int]:
    """Where in the text the tokens lie that are in spans."""
    spans = row.targets["spans"]
    if style == "infilling":
        return {i for i, of in enumerate(spans[: len(whole)]) if of >= 0}
    at, found = 0, set()
    sizes = Counter(of for of in spans if of >= 0)
    for id in row.parts["text"]["tokens"][:-1]:
        size = sizes[marks.index(id)] if id in marks else 1
        found |= set(range(at, at + size)) if id in marks else set()
        at += size
    return found
