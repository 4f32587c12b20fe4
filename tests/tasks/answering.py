"""Tiny models that answer questions, the same on any machine for their weights are drawn from a seed, and the texts that they read.

``tests/golden/v4_answers.py`` gives these folders to the incumbent's version 4; ``test_question_answering.py`` gives them to nabi.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers, processors

import nabi
from golden.committed import committed
from nabi import checkpoint, tasks
from nabi.model import Model

KINDS = ("bert", "distilbert", "roberta", "bart")
SIZES: dict[str, dict[str, Any]] = {
    "bert": {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 64, "max_positions": 96},
    "distilbert": {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 64, "max_positions": 96},
    "roberta": {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 64, "max_positions": 98},
    "bart": {
        "hidden_size": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_heads": 4, "decoder_heads": 4, "encoder_intermediate_size": 64,
        "decoder_intermediate_size": 48, "max_positions": 96,
    },
}  # fmt: skip
WORDS = [
    *("the", "a", "cat", "sat", "on", "mat", "dog", "in", "garden", "who", "where", "what", "was", "is", "it", "of", "and", "by", "river", "house"),
    *("red", "blue", "color", "나비", "##가", "##는", "꽃", "##에", "앉", "##았다", "하늘", "##로", "서울", "##에서", "어디"),
]
CONTEXT = "The cat sat on the red mat in the garden, and the dog was by the river. It is a blue house of the cat; who sat on the Red Mat?"
LONG = " ".join([CONTEXT, "A dog sat in the house by the river and the cat was in the garden."] * 3)
KOREAN = "나비가 서울에서 꽃에 앉았다. 고양이는 하늘로 갔다. It was 2024년 by the 강가에서."
QUESTION = "Where was the cat?"


def wordpiece(folder: Path, kind: str) -> None:
    """Whole words, and letters for what is none."""
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()] + list("나비가서울에꽃앉았다고양이는하늘로갔년강")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = dict.fromkeys([*special, *WORDS, *letters, *("##" + c for c in letters)])
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    name = {"bert": "BertTokenizer", "distilbert": "DistilBertTokenizer"}[kind]
    settings = {"tokenizer_class": name, "model_max_length": 96, "do_lower_case": True, "strip_accents": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def bytewise(folder: Path, kind: str) -> None:
    """Bytes, and a few longer pieces."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("h", "e"), ("Ġ", "t"), ("Ġt", "he"), ("a", "t"), ("Ġ", "c"), ("Ġc", "at"), ("i", "n"), ("Ġ", "in"), ("Ġ", "w"), ("m", "at"), ("Ġ", "mat")]
    pieces = list(dict.fromkeys([*special, *alphabet, *("".join(pair) for pair in merges)]))
    library = Library(models.BPE({piece: number for number, piece in enumerate(pieces)}, merges))
    library.add_special_tokens(special)
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False)
    library.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {f"{role}_token": name for role, name in zip(("bos", "pad", "eos", "unk", "mask"), special, strict=True)}
    name = {"roberta": "RobertaTokenizer", "bart": "BartTokenizer"}[kind]
    settings |= {"tokenizer_class": name, "cls_token": "<s>", "sep_token": "</s>", "model_max_length": 96}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def answerer(kind: str, folder: Path, seed: int = 0) -> Model:
    """A fresh model, whose tokenizer lies in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (wordpiece if kind in ("bert", "distilbert") else bytewise)(folder, kind)
    task = tasks.find("question_answering")
    made = nabi.create(kind, SIZES[kind], task.name, task.Settings(), folder)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(made.named_parameters()):
            if parameter.dim() > 1:
                std = 0.35 if "span" in name else 0.2
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return made.eval()


def folder(kind: str, base: Path, seed: int = 0) -> Path:
    """The model's folder in the incumbent's form, with nothing of ours."""
    if seed == 0:
        return committed(f"answers-{kind}", base / "model", lambda path: write(kind, path))
    return write(kind, base / "model", seed)


def write(kind: str, path: Path, seed: int = 0) -> Path:
    """Such a folder, from its recipe."""
    checkpoint.save(answerer(kind, path.with_name("tokenizer"), seed), path)
    (path / "nabi.json").unlink()
    return path
