"""A small byte-level tokenizer, in which a syllable of Hangul is two or three tokens, and tiny models that write with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

import nabi
from nabi import tasks
from nabi.model import Model

TEXTS = ("나비가 꽃에 앉았다.", "나비가 하늘로 날았다.", "the butterfly sat on a flower.", "the butterfly flew away.")
SOURCES = ("나비 꽃", "나비 하늘", "sat", "flew")
PAIRS = [{"source": source, "target": text} for source, text in zip(SOURCES, TEXTS, strict=True)]


def bytewise(folder: Path) -> Path:
    """A folder with a byte-level BPE of few merges that puts each text between two special tokens."""
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=285, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    library.train_from_iterator(TEXTS, trainer)
    library.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    folder.mkdir(parents=True, exist_ok=True)
    library.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}')
    return folder


def writer(family: str, task: str, tokenizer: Path, *, seed: int = 0, std: float = 0.25, **size: Any) -> Model:
    """A fresh tiny model, of weights so large that its answers are not all the same; ``size`` sets fields of its configuration."""
    kind = tasks.find(task)
    sizes: dict[str, Mapping[str, Any]] = {
        "gpt2": {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_positions": 64},
        "bart": {"hidden_size": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_heads": 4, "decoder_heads": 4, "encoder_intermediate_size": 64,
                 "decoder_intermediate_size": 48, "max_positions": 64},
    }  # fmt: skip
    made = nabi.create(family, {**sizes[family], **size}, task, kind.Settings(), tokenizer, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return made.eval()
