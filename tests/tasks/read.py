"""Tiny BERTs that read: folders in the incumbent's form, the same on any machine for their weights are drawn from a seed.

``tests/golden/v4_read.py`` gives these folders to the incumbent's version 4; the tests of zero-shot classification, features and multiple choice give
them to nabi.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import nabi
from conformance.kit import randomised
from golden.committed import committed
from nabi import checkpoint, tasks
from training.small import vocabulary

SIZE = {"vocab_size": 1, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 64, "max_positions": 64, "activation": "gelu"}
# what the three labels of an inference model are called; entailment last, first, in the middle, and nowhere
LABELS: dict[str, tuple[str, ...]] = {
    "nli": ("contradiction", "neutral", "entailment"),
    "nli_first": ("ENTAILMENT", "NEUTRAL", "CONTRADICTION"),
    "nli_middle": ("not", "Entails", "unknown"),
    "nli_nameless": ("LABEL_0", "LABEL_1"),
}
GOLDEN = Path(__file__).parents[1] / "golden" / "v4_read.json"


def folder(name: str, path: Path, seed: int = 0) -> Path:
    """The folder of one of ``LABELS``' models, or of ``encoder``: no nabi.json, so that it is read as the incumbent's."""
    if seed == 0:
        return committed(f"read-{name}", path, lambda path: write(name, path))
    return write(name, path, seed)


def write(name: str, path: Path, seed: int = 0) -> Path:
    """Such a folder, from its recipe."""
    tokens = vocabulary(path.with_name(path.name + "-tokens"))
    (tokens / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", "model_max_length": 64, "do_lower_case": False}))
    settings = tasks.find("text_classification").Settings(labels=LABELS.get(name, ("a", "b")))
    checkpoint.save(randomised(nabi.create("bert", SIZE, "text_classification", settings, tokens), seed), path)
    (path / "nabi.json").unlink()
    if name == "encoder":
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    return path


@cache
def golden() -> dict[str, Any]:
    """What version 4 answers: see ``tests/golden/v4_read.py``."""
    found = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found
