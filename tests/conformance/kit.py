"""What the conformance tests start from: every family's tiny body, every task that fits it, and inputs for both.

Nothing here names a family or a task. A family whose streams are new adds a line to ``STREAMS`` or ``OF_ROWS``, a task
whose columns are new one to ``COLUMNS``.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nabi import checkpoint, families, tasks
from nabi.batch import Batch, Row, batch_of
from nabi.data.pixels import FILE, Images
from nabi.model import Model
from nabi.nn.body import Body
from nabi.nn.convolution import BatchNorm
from nabi.nn.linear import LayerNorm, RMSNorm
from nabi.tasks import Task

FAMILIES = families.names()
# a task without columns has nothing to train on: it is tested with its own file
CELLS = [(family, task) for family in FAMILIES for task in tasks.names() if tasks.find(task).columns and tasks.find(task).fits(families.find(family).body)]
COUNT = int(os.environ.get("NABI_CONFORMANCE_CELLS", "64"))  # how many cells there must be; tests/test_one_file.py adds a family and a task
LENGTHS = (5, 1, 12, 3, 7, 12, 20)
STD = 0.25  # of all weights, so that no value is near to what another formula gives

STREAMS: Mapping[str, Callable[[Any, int, torch.Generator], list[Any]]] = {
    "tokens": lambda config, n, g: torch.randint(config.vocab_size, (n,), generator=g).tolist(),
    "segments": lambda config, n, g: torch.randint(config.num_segments, (n,), generator=g).tolist(),
    "patches": lambda config, n, g: torch.randn(n, config.channels * getattr(config, "patch_size", 1) ** 2, generator=g).numpy(),
}
# part -> what belongs to a whole row of so many tokens; an image is as square as its number of tokens lets it
OF_ROWS: Mapping[str, Callable[[int], dict[str, Any]]] = {
    "image": lambda n: {"grid": [side := max(d for d in range(1, int(n**0.5) + 1) if n % d == 0), n // side]},
}
# eight examples of each column, by the names of the data formats (design, section 8)
COLUMNS: Mapping[str, Sequence[Any]] = {
    "text": ["good", "bad", "a good film", "a bad film", "it was good and long", "it was bad and long", "so good", "so bad"],
    "label": ["yes", "no"] * 4,
    "text_pair": ["good", "good", "a film", "a film", "long and dull", "long and dull", "so", "so"],
    "score": [3.5, 1.5, 3.0, 1.0, 2.0, 0.0, 2.5, 0.5],
    "tokens": [words.split() for words in ("good", "bad", "a good film", "a bad film", "it was good", "it was bad", "so good", "so bad")],
    "tags": [tags.split() for tags in ("B-P", "B-N", "O B-P I-P", "O B-N I-N", "O O B-P", "O O B-N", "O B-P", "O B-N")],
    "question": ["good", "bad", "a good film", "a bad film", "it was good and long", "it was bad and long", "so good", "so bad"],
    "choices": [["yes", "no"]] * 8,
    "source": ["good", "bad", "a good film", "a bad film", "it was good and long", "it was bad and long", "so good", "so bad"],
    "next": ["so good", "so bad", "good film", "bad film", "long and good", "long and bad", "good", "bad"],
    "is_next": [True, False] * 4,
    "context": ["a good film", "a bad film", "so good it was", "so bad it was", "it was good", "it was bad", "long and dull", "film and film"],
    "answers": [*([{"text": word, "start": start}] for word, start in (("good", 2), ("bad", 2), ("good", 3), ("bad", 3), ("good", 7), ("bad", 7))), [], []],
    "target": ["so good", "so bad", "good film", "bad film", "long and good", "long and bad", "good", "bad"],
    "image": list(np.random.default_rng(0).integers(0, 256, (8, 20, 16, 3), dtype=np.uint8)),
}


def config_of(family: str) -> Any:
    """The tiny configuration."""
    return families.find(family).sizes["tiny"]


def body_of(family: str, seed: int = 0) -> Body:
    """A tiny body, every weight from N(0, STD), a norm's around 1."""
    made = families.build(families.find(family), config_of(family))
    return randomised(made, seed).eval()


def randomised(module: Any, seed: int = 0) -> Any:
    """Fill every parameter from N(0, STD), a norm's weight around 1."""
    generator = torch.Generator().manual_seed(seed)
    norms = {id(m.weight) for m in module.modules() if isinstance(m, LayerNorm | RMSNorm | BatchNorm | torch.nn.LayerNorm | torch.nn.BatchNorm2d)}
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * STD + (id(parameter) in norms))
    return module


def rows_of(family: str, lengths: Sequence[int] = LENGTHS, seed: int = 1) -> list[Row]:
    """Rows with all the streams that the family's body reads."""
    generator, needs = torch.Generator().manual_seed(seed), families.find(family).body.needs
    unknown = {stream for streams in needs.values() for stream in streams} - STREAMS.keys()
    assert not unknown, f"add these streams to STREAMS in tests/conformance/kit.py: {unknown}"
    grain = families.find(family).body.grain  # of pixels, so that a body that shrinks them has as many places left as others have tokens
    return [
        Row(
            {part: {s: STREAMS[s](config_of(family), n * grain.get(part, 1), generator) for s in sorted(streams)} for part, streams in needs.items()},
            {part: OF_ROWS[part](n * grain.get(part, 1)) for part in needs if part in OF_ROWS},
            example=i,
        )
        for i, n in enumerate(lengths)
    ]


def batch(rows: Sequence[Row], order: Sequence[int] | None = None) -> Batch:
    """The rows, in this order, as one batch."""
    return batch_of(rows, range(len(rows)) if order is None else order, {})


def examples_of(task: str) -> list[dict[str, Any]]:
    """Eight labelled examples."""
    kind = tasks.find(task)
    unknown = set(kind.columns) - COLUMNS.keys()
    assert not unknown, f"add these columns to COLUMNS in tests/conformance/kit.py: {unknown}"
    return [{name: COLUMNS[name][i] for name in kind.columns} for i in range(8)]


def model_of(family: str, task: str, tokenizer: Path) -> Model:
    """A tiny model for a task, all of its weights from N(0, STD)."""
    settings = tasks.find(task).fitted(examples_of(task), "conformance", {})
    return randomised(checkpoint.create(family, "tiny", task, settings, words_of(family, tokenizer)))


def words_of(family: str, tokenizer: Path) -> Path | None:
    """The tokenizer, for a family that reads text."""
    return tokenizer if "text" in families.find(family).body.needs else None


def complete(folder: Path, family: str, tokenizer: Path) -> None:
    """Put what the incumbent's folder lacks beside its weights: a tokenizer's files, image settings."""
    found = families.find(family)
    for file in tokenizer.iterdir() if "text" in found.body.needs else ():
        (folder / file.name).write_bytes(file.read_bytes())
    if found.images is not None:
        (folder / FILE).write_text(json.dumps(Images(found.images(config_of(family))).to_hf()), encoding="utf-8")


def encoded(model: Model) -> list[Row]:
    """The training rows of the eight examples."""
    return [row for i, e in enumerate(examples_of(model.task.name)) for row in model.encode(e, model.options(), "train", f"example {i}", i)]


def gap(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    return float((a - b).abs().max() / b.abs().max())


def task_with(heads: tuple[str, ...], outputs: int | Mapping[str, int]) -> type[Task]:
    """A task that does nothing but build these heads, of one size or each of its own."""
    sizes = dict.fromkeys(heads, outputs) if isinstance(outputs, int) else dict(outputs)

    class HeadsOnly(Task):
        name, columns, parts = "heads_only", (), frozenset()
        Options = dataclasses.make_dataclass("Options", [], frozen=True)

        def outputs(self) -> dict[str, int]:
            return sizes

        def golden_examples(self) -> list[Any]:
            return []

    HeadsOnly.heads = heads
    return HeadsOnly
