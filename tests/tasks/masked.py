"""Tiny models with a masked language model's head, each with a tokenizer of its own kind; the same on any machine, for their weights are drawn from a seed.

``tests/golden/v4_filled.py`` gives these folders to the incumbent's version 4; the tests of fill_mask give them to nabi.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Library

import nabi
from golden.committed import committed
from nabi.tasks.fill_mask import FillMaskSettings
from training.small import BAD, GOOD, PLAIN

KINDS = ("bert", "roberta", "distilbert")
MASKS = {"bert": "[MASK]", "roberta": "<mask>", "distilbert": "[MASK]"}
SYLLABLES = "나비가는이은좋싫다날았꽃에"


def wordpiece(folder: Path) -> Path:
    """Whole words, letters, syllables, marks."""
    letters = [*"abcdefghijklmnopqrstuvwxyz", *SYLLABLES]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *GOOD, *BAD, *PLAIN, *letters, *("##" + c for c in letters), *".,!?'-"]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    library = Library(models.WordPiece(vocabulary, unk_token="[UNK]"))
    library.normalizer = normalizers.BertNormalizer(lowercase=False)
    library.pre_tokenizer, library.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    ends = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    library.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends)
    library.add_special_tokens(list(vocabulary)[:5])
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), vocabulary, strict=False))
    return _written(library, folder, names)


def byte_level(folder: Path) -> Path:
    """Bytes and a few merges; the mask takes the space before it, as RoBERTa's does."""
    merges = [("Ġ", "g"), ("o", "o"), ("Ġg", "oo"), ("Ġgoo", "d"), ("t", "h"), ("th", "e"), ("Ġ", "f"), ("i", "l"), ("Ġf", "il"), ("Ġfil", "m")]
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    library = Library(models.BPE({piece: number for number, piece in enumerate(pieces)}, merges))
    library.pre_tokenizer, library.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    library.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    library.add_special_tokens([*pieces[:4], AddedToken("<mask>", lstrip=True, special=True)])
    names = dict(zip(("cls_token", "pad_token", "sep_token", "unk_token"), pieces, strict=False))
    mask = {"__type": "AddedToken", "content": "<mask>", "lstrip": True, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    return _written(library, folder, {**names, "mask_token": mask})


def _written(library: Library, folder: Path, settings: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    library.save(str(folder / "tokenizer.json"))
    usual = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "attention_mask"]}
    (folder / "tokenizer_config.json").write_text(json.dumps({**usual, **settings}))
    return folder


def tokenizer_of(kind: str, folder: Path) -> Path:
    """The tokenizer of such a model."""
    return byte_level(folder) if kind == "roberta" else wordpiece(folder)


def folder(kind: str, path: Path, seed: int = 0) -> Path:
    """A model's folder, all of its weights from N(0, 0.3), norms around 1."""
    if seed == 0:
        return committed(f"filled-{kind}", path / "model", lambda path: write(kind, path))
    return write(kind, path / "model", seed)


def write(kind: str, path: Path, seed: int = 0) -> Path:
    """Such a folder, from its recipe."""
    size: dict[str, Any] = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 64, "max_positions": 48}
    made = nabi.create(kind, size, "fill_mask", FillMaskSettings(), tokenizer_of(kind, path.with_name("tokenizer")))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + name.endswith("norm.weight"))
    nabi.save(made, path)
    return path
