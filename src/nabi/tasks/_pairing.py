"""What the tasks that hold images against texts have in common: reading both, the vectors of a whole batch, texts that are read once for many images.

A row of training holds an image and a text that belongs to it; in use each is a row of its own, and rows of equal texts are read once. A text has to
stay in one row, since it is read at its end: one that is too long is cut or refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from nabi.batch import FILLER, Batch, Row, Target
from nabi.inputs import Inputs, Reading
from nabi.metrics.detail import Array
from nabi.nn.body import Run
from nabi.nn.heads import Pairing
from nabi.tasks import Cut
from nabi.tasks._seeing import Looking, Seeing


@dataclass(frozen=True)
class PairingOptions(Looking):
    """How an image and a text are read.

    Attributes:
        long: whether a text that is too long is cut, which an answer tells as ``truncated``, or refused.
        max_length: tokens in a text, special ones included; at most, and if None, the model's own limit.
    """

    long: Literal["truncate", "error"] = "truncate"
    max_length: int | None = None


class ImageText(Seeing):
    """Base of the tasks of two towers; their ``Options`` are ``PairingOptions``, their ``Settings`` have ``augmentation``."""

    parts = frozenset({"image", "text"})
    heads = ("pair",)
    whole_batch = True
    targets: Mapping[str, Target] = {"label": Target("row", "image")}

    def outputs(self) -> dict[str, int]:
        return {"pair": 1}

    @property
    def head(self) -> Pairing:
        """What holds one against the other."""
        found = self.pair
        assert isinstance(found, Pairing)
        return found

    def updated(self) -> None:
        self.head.limit()

    # ---- rows ----------------------------------------------------------------------------------------------------------------------------------

    def tokens_of(self, text: str, inputs: Inputs, options: PairingOptions, where: str) -> tuple[list[int], bool]:
        """The tokens of a text, and whether any were cut off.

        Raises:
            InputError: it is too long and shall be refused.
        """
        (encoding,), cut = inputs.read(text, None, Reading(long=options.long, max_length=options.max_length), where=where)
        return encoding.ids, cut

    def pairs(self, example: Mapping[str, Any], texts: Sequence[str], label: int, inputs: Inputs, options: PairingOptions, where: str) -> list[Row]:
        """The row of training of an image and texts that belong to it, of which each epoch takes one."""
        tokens = []
        for text in texts:
            ids, cut = self.tokens_of(text, inputs, options, where)
            if cut:
                whole, limit = len(inputs.tokenizer.encode(text)), len(ids)
                warnings.warn(Cut("text", where, whole, limit, whole - limit), stacklevel=2)
            tokens.append(ids)
        row = self.seen(example, inputs, options, where, side=inputs.images.side)
        row.parts["text"], row.targets = {"tokens": tokens[0]}, {"label": label}
        if len(tokens) > 1:
            row.notes["texts"] = tokens
        return [row]

    def shared(self, texts: Sequence[str], inputs: Inputs, options: PairingOptions, where: str) -> list[Row]:
        """A row of its own for each text, which is read once for all images that it is held against."""
        found = [self.tokens_of(text, inputs, options, where) for text in texts]
        return [Row({"text": {"tokens": tokens}}, notes={"shared": True, "truncated": cut}) for tokens, cut in found]

    def corrupt(self, row: Row, generator: torch.Generator) -> Row:
        row = self.settings.augmentation.applied(row, generator)
        if "texts" not in row.notes:
            return row
        chosen = int(torch.randint(len(row.notes["texts"]), (1,), generator=generator))
        return replace(row, parts={**row.parts, "text": {"tokens": row.notes["texts"][chosen]}})

    # ---- a batch -------------------------------------------------------------------------------------------------------------------------------

    def counts(self, targets: Mapping[str, Tensor]) -> dict[str, float]:
        return {"pair": float(len(targets["label"]))}

    def loss(self, run: Run, batch: Batch) -> dict[str, Tensor]:
        found, label = self.head.vectors(run, batch), batch.targets["label"]
        real = run.gather(batch.parts["image"].example) != FILLER
        images, texts, labels = (run.gather(x)[real] for x in (found[self.head.spec.reads], found[str(self.head.spec.against)], label))
        # every process computes the loss of the whole batch; what they add up is that loss, so each has a share of it
        return {"pair": self.contrast(images, texts, labels) * (1 / run.world)}

    def contrast(self, images: Tensor, texts: Tensor, labels: Tensor) -> Tensor:
        """The loss of all pairs of a step, as a sum: (N, W), (N, W), (N,) the label of each -> ()."""
        raise NotImplementedError

    def read(self, run: Run, batches: Iterable[Batch], options: PairingOptions) -> Iterator[tuple[int, Array]]:
        """(row id, (W,) the vector of an image or a text, of length 1)."""
        for batch in batches:
            for part, vectors in self.head.vectors(run, batch).items():
                source = run.part(batch, part)
                for row, example, vector in zip(source.ids, source.example.tolist(), vectors.cpu().numpy(), strict=True):
                    if example != FILLER:
                        yield row, vector.copy()  # not a view, which would keep the whole batch
