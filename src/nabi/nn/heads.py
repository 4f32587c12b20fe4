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
from nabi.nn.linear import Embedding, LayerNorm, Linear, activation, normal_


@dataclass(frozen=True)
class HeadSpec:
    """How one kind of head looks in a family.

    Attributes:
        reads: the part whose hidden values it reads.
        pool: which token stands for its row (``first``, ``last``), the ``mean``, or None: every token.
        dense: whether a square linear layer comes before the output layer.
        activation: after ``dense``; without it for who reads what the output layer gives, as of a layer that pools.
        dense_dropout: whether dropout also comes before ``dense``.
        norm_eps: of a layer norm between the activation and the output layer; none if None.
        tied_to: path of the body's table that takes the place of the output layer's weight.
        scaled: whether what the table is multiplied with is divided by sqrt(W) before.
        bias: of the output layer: ``learnt``, ``kept`` (saved, but never trained) or none.
    """

    reads: str = "text"
    pool: Literal["first", "last", "mean"] | None = None
    dense: bool = False
    activation: str | None = None
    dense_dropout: bool = False
    norm_eps: float | None = None
    tied_to: str | None = None
    scaled: bool = False
    bias: Literal["learnt", "kept", ""] = "learnt"

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
        self.norm = LayerNorm(hidden_size, spec.norm_eps) if spec.norm_eps is not None else None
        if spec.tied_to is None:
            self.out = Linear(hidden_size, outputs, bias=spec.bias == "learnt")
        elif spec.bias == "learnt":
            self.bias = nn.Parameter(torch.zeros(outputs))
        if spec.bias == "kept":
            self.register_buffer("bias", torch.zeros(1, outputs))

    def before(self, x: Tensor) -> Tensor:
        """(K, W) -> (K, W): what the output layer reads."""
        if self.spec.dense:
            if self.spec.dense_dropout:
                x = drop(x, self.dropout, self.training)
            x = self.dense(x)
            x = self.act(x) if self.act else x
        if self.norm is not None:
            x = self.norm(x)
        x = drop(x, self.dropout, self.training)
        return x * x.shape[-1] ** -0.5 if self.spec.scaled else x

    def output(self, run: Run) -> tuple[Tensor, Tensor | None]:
        """The output layer's weight (C, W) and bias (C,), for a loss that never makes all the logits."""
        bias = self.bias.flatten() if self.spec.bias and hasattr(self, "bias") else None
        if self.spec.tied_to is not None:
            return run.table(self.spec.tied_to).weight, bias
        return self.out.weight, self.out.bias if bias is None else bias

    def forward(self, x: Tensor, table: Embedding | None = None) -> Tensor:
        """(K, W) -> (K, C); ``table`` is what the head is tied to."""
        x = self.before(x)
        bias = self.bias.flatten() if hasattr(self, "bias") else None
        if table is not None:
            return table.scores(x, bias)
        y: Tensor = self.out(x)
        return y if bias is None else y + bias.to(y.dtype)

    def logits(self, run: Run, x: Tensor) -> Tensor:
        """Hidden values (K, W) -> (K, C), in float32 at least."""
        y: Tensor = self(x, run.table(self.spec.tied_to) if self.spec.tied_to else None)
        return y if y.dtype == torch.float64 else y.float()

    def read(self, run: Run, batch: Batch) -> Tensor:
        """Run the body as far as this head needs: (N, C) if it pools, else (T, C)."""
        layout = run.layout(batch, self.spec.reads)
        hidden = run(batch, keep={self.spec.reads: self.spec.kept(layout)})[self.spec.reads]
        x = hidden.values
        if self.spec.pool == "mean":
            x = (hidden.layout or layout).mean(x)
        return self.logits(run, x)

    def initialise(self, generator: torch.Generator) -> None:
        """Weights from N(0, std), biases 0."""
        normal_(self, self.std, generator)
