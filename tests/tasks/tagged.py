"""Tiny models that tag, each with a tokenizer of its own, in the incumbent's form and the same on any machine: the golden file's models, and the tests'."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nabi
from golden.committed import committed
from nabi import checkpoint
from nabi.model import Model
from nabi.tasks.token_classification import TokenSettings
from tasks.written import LETTERS, byte_level, randomised

BIO = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
# name -> (family, its labels)
MODELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "bio": ("bert", BIO),
    "bioes": ("bert", ("O", *(f"{p}-{t}" for t in ("PER", "LOC") for p in "BIES"))),
    "plain": ("bert", ("O", "PER", "LOC")),
    "bytes": ("roberta", BIO),
}
SIZE = {"vocab_size": 1, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 48, "max_positions": 34}
LIMIT = 24  # tokens in a row
WORDS = ("Ada", "Ber", "##lin", "##gen", "went", "to", "from", "New", "York", "##er", "the", "in", "met", "박근혜", "서울", "##가", "##에서", "##은")
TEXTS = (
    "Ada went to Berlin and met Bergen , the New Yorker .",
    "Mr. O'Neill-Smith's (Berliner) friend: Ada!",
    "박근혜가 서울에서 Ada를 만났다. 나비는 꽃에 앉았다",
    "★ Ada ★★ zigzag  in\tthe   York",
    "Ada",
    " ",
)
LONG = "Ada went from New York to Berlin and Bergen met the Yorker in 서울에서 , Ada . " * 4


def tokens(family: str, folder: Path, limit: int = LIMIT) -> Path:
    """The tokenizer's files."""
    folder.mkdir(parents=True, exist_ok=True)
    if family == "roberta":
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        byte_level(special, roberta=True).save(str(folder / "tokenizer.json"))
        settings: dict[str, Any] = {f"{role}_token": name for role, name in zip(("bos", "pad", "eos", "unk", "mask"), special, strict=True)}
        settings |= {"cls_token": "<s>", "sep_token": "</s>", "tokenizer_class": "RobertaTokenizer"}
    else:
        letters = [c for c in dict.fromkeys(LETTERS + LETTERS.upper() + ".,!?()") if c.isascii()] + list("나비는꽃에앉았다를만")
        vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *letters, *("##" + c for c in letters)]
        (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(vocabulary)) + "\n", encoding="utf-8")
        settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": False}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": limit}))
    return folder


def made(name: str, folder: Path, *, seed: int = 0, **settings: Any) -> Model:
    """A model with weights from ``seed``; ``folder`` gets its tokenizer."""
    family, labels = MODELS[name]
    size = {**SIZE, "max_positions": 40} if family == "roberta" else SIZE
    model = nabi.create(family, size, "token_classification", TokenSettings(labels=labels, **settings), tokens(family, folder))
    return randomised(model, seed, 0.5)  # type: ignore[no-any-return]


def folder(name: str, path: Path, *, seed: int = 0) -> Path:
    """A folder as the incumbent writes it, without nabi.json."""
    if seed == 0:
        return committed(f"tagged-{name}", path, lambda path: write(name, path))
    return write(name, path, seed)


def write(name: str, path: Path, seed: int = 0) -> Path:
    """Such a folder, from its recipe."""
    checkpoint.save(made(name, path.with_name(path.name + "-tokens"), seed=seed), path)
    (path / "nabi.json").unlink()
    return path


GOLDEN = Path(__file__).parents[1] / "golden" / "v4_tagged.json"


def golden() -> list[dict[str, Any]]:
    """What version 4 answers: see ``tests/golden/v4_tagged.py``."""
    found: list[dict[str, Any]] = json.loads(GOLDEN.read_text(encoding="utf-8"))["cases"]
    return found
