"""What a model is made of: ``nabi inspect``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from nabi import checkpoint
from nabi.errors import MissingHeadError
from nabi.layout import Layout
from nabi.model import Model
from nabi.nn.kernels import Call, Pattern, explain_kernels
from nabi.nn.lora import adapted


def inspect_model(model: str, plugins: Iterable[str | Path | ModuleType] = ()) -> dict[str, Any]:
    """Facts about a model folder, in the order in which a reader wants them.

    Args:
        model: a folder or shipped name, with or without a head.
        plugins: files with families and tasks of your own.
    """
    loaded, task = opened(model, plugins)
    body = loaded.body if isinstance(loaded, Model) else loaded
    groups = loaded.groups()
    total = sum(p.numel() for p in loaded.parameters())
    facts: dict[str, Any] = {"model": model, "task": task, "parameters": f"{total:,}"}
    facts["groups"] = [f"{i}: {type(m).__name__}, {sum(p.numel() for p in m.parameters()):,} parameters" for i, m in enumerate(groups)]
    if isinstance(loaded, Model) and loaded.origin.adapter is not None:
        learnt, own = loaded.origin.adapter, sum(p.numel() for p in loaded.parameters() if p.requires_grad)
        layers = sum(len(layer.adapters()) for layer in adapted(body).values())
        share = f"{own:,} of {total:,} parameters were trained ({own / total:.2%})"
        facts["adapter"] = [f"{share}: the heads, and LoRA of rank {learnt.lora.rank} on {layers} layers", f"it belongs to {learnt.base}"]
    patterns = dict.fromkeys(pattern for m in body.modules() if isinstance(pattern := getattr(m, "pattern", None), Pattern))
    lengths = {"64 rows of 24 tokens": [24] * 64, "32 rows of 5 to 60 tokens": sorted(5 + i * 55 // 31 for i in range(32))}
    layouts = {name: Layout.of(sizes) for name, sizes in lengths.items()}
    facts["kernels"] = [f"{name}, {pattern}: {line}" for pattern in patterns for name, at in layouts.items() for line in explain_kernels(Call(at, at, pattern))]
    if isinstance(loaded, Model):
        if (images := loaded.inputs.pictures) is not None:
            facts["images"] = [f"{name}: {value}" for name, value in vars(images.settings).items() if name != "clusters"]
        tokenizer = loaded.inputs.words
        facts["tokenizer"] = [] if tokenizer is None else [f"{tokenizer.vocab_size:,} tokens, at most {loaded.inputs.max_length} in a row"]
        if tokenizer is not None and (tokenizer.stored_truncation or tokenizer.stored_padding):
            facts["tokenizer"].append(f"its file stores truncation {tokenizer.stored_truncation} and padding {tokenizer.stored_padding}; neither is applied")
        facts["golden"] = loaded.check_golden() or f"{len(loaded.origin.golden)} vectors, all as saved"
    return facts


def opened(model: str, plugins: Iterable[str | Path | ModuleType]) -> tuple[Any, str]:
    """The model and its task's name; of a folder without a head the body, and words in place of the name."""
    try:
        loaded = checkpoint.load(model, plugins=plugins)
    except MissingHeadError:
        return checkpoint.load_body(model, plugins=plugins), "none: a bare encoder, to be trained"
    return loaded, loaded.task.name
