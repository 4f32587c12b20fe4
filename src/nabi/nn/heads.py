"""Heads: what a task puts on a body. A family says how each kind looks (``HeadSpec``, no weights); a task builds and owns the modules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from nabi.batch import Batch
from nabi.layout import Layout
from nabi.nn.body import Run
from nabi.nn.dropout import dropout as drop
from nabi.nn.linear import Linear, activation, normal_


@dataclass(frozen=True)
class HeadSpec:
    """How one kind of head looks in a family.

    Attributes:
        reads: the part whose hidden values it reads.
        pool: which token stands for its row (``first``, ``last``), the ``mean``, or None: every token.
        dense: whether a square linear layer comes before the output layer.
        activation: after ``dense``.
        dense_dropout: whether dropout also comes before ``dense``.
    """

    reads: str = "text"
    pool: Literal["first", "last", "mean"] | None = None
    dense: bool = False
    activation: str | None = None
    dense_dropout: bool = False

    def kept(self, layout: Layout) -> Tensor | None:
        """(N,) indexes of the tokens that are read, or None if all are."""
        if self.pool not in ("first", "last"):
            return None
        assert layout.rows is not None
        tokens = torch.arange(layout.rows.shape[0], device=layout.rows.device)  # not the sum of the lengths, which no compiled region may read
        return layout.first(tokens) if self.pool == "first" else layout.last(tokens)


class Head(nn.Module):
    """One head: pool, dropout, perhaps a dense layer with an activation, dropout, output layer.

    Args:
        spec: how it looks.
        hidden_size: W of what it reads.
        outputs: C.
        dropout: before the output layer.
        std: of the initial weights.
    """

    def __init__(self, spec: HeadSpec, hidden_size: int, outputs: int, *, dropout: float, std: float) -> None:
        super().__init__()
        self.spec, self.dropout, self.std = spec, dropout, std
        if spec.dense:
            self.dense = Linear(hidden_size, hidden_size)
        self.act = activation(spec.activation) if spec.activation else None
        self.out = Linear(hidden_size, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(K, W) -> (K, C)."""
        if self.spec.dense:
            if self.spec.dense_dropout:
                x = drop(x, self.dropout, self.training)
            x = self.dense(x)
            x = self.act(x) if self.act else x
        y: Tensor = self.out(drop(x, self.dropout, self.training))
        return y

    def read(self, run: Run, batch: Batch) -> Tensor:
        """Run the body as far as this head needs: (N, C) if it pools, else (T, C)."""
        layout = run.layout(batch, self.spec.reads)
        hidden = run(batch, keep={self.spec.reads: self.spec.kept(layout)})[self.spec.reads]
        x = hidden.values
        if self.spec.pool == "mean":
            x = (hidden.layout or layout).mean(x)
        logits: Tensor = self(x)
        return logits if logits.dtype == torch.float64 else logits.float()

    def initialise(self, generator: torch.Generator) -> None:
        """Weights from N(0, std), biases 0."""
        normal_(self, self.std, generator)
