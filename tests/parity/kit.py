"""A tiny random model of the incumbent's, ragged rows, and the padded, masked run that they are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from conformance.kit import randomised
from nabi.batch import Batch, Row, batch_of

TOLERANCE = 1e-5  # of differences, as a share of the largest value where that is above 1
CONTROL = 100 * TOLERANCE  # what a wrong computation differs by at least
SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
}
LENGTHS = (7, 1, 19, 3, 40, 12, 12)


def theirs(cls: str, folder: Path, tokenizer: Path | None = None, seed: int = 0, **settings: Any) -> Any:
    """A model of the incumbent with all weights from N(0, 0.25), saved in ``folder``."""
    made = randomised(getattr(transformers, cls)(transformers.BertConfig(**{**SIZES, **settings})), seed).eval()
    made.save_pretrained(folder)
    for file in tokenizer.iterdir() if tokenizer else ():
        (folder / file.name).write_bytes(file.read_bytes())
    return made


def rows() -> list[Row]:
    """Ragged rows whose segments turn from 0 to 1 somewhere."""
    g = torch.Generator().manual_seed(1)
    made = []
    for i, n in enumerate(LENGTHS):
        turn = int(torch.randint(n + 1, (), generator=g))
        streams = {"tokens": torch.randint(5, 60, (n,), generator=g).tolist(), "segments": [0] * turn + [1] * (n - turn)}
        made.append(Row({"text": streams}, example=i))
    return made


def batch(given: list[Row] | None = None) -> Batch:
    """All rows as one batch."""
    given = given or rows()
    return batch_of(given, range(len(given)), {})


def padded(given: Batch, masked: bool = True) -> dict[str, Tensor]:
    """The same rows as the incumbent reads them."""
    part = given.parts["text"]
    tokens, segments = (
        torch.nn.utils.rnn.pad_sequence(part.streams[s].split(part.layout.lengths), batch_first=True) for s in ("tokens", "segments")
    )
    mask = torch.arange(tokens.shape[1])[None] < part.layout.sizes[:, None]
    return {"input_ids": tokens, "token_type_ids": segments, "attention_mask": mask.long() if masked else torch.ones_like(tokens)}


def packed(given: Batch, values: Tensor) -> Tensor:
    """(N, L, ...) of the incumbent -> (T, ...)."""
    return values[padded(given)["attention_mask"].bool()]


def gap(a: Tensor, b: Tensor) -> float:
    """The largest difference, as a share of the largest value of ``b`` where that is above 1."""
    assert a.shape == b.shape
    return float((a - b).abs().max() / max(1.0, float(b.abs().max())))
