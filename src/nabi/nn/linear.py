"""The leaves that hold weights: Linear, LayerNorm, RMSNorm, Embedding, TokenEmbeddings, PatchEmbedding, FeedForward.

Unusual: a residual is an argument, so that a prepared copy can fuse it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nabi.errors import unknown
from nabi.nn import fast
from nabi.nn.dropout import dropout as drop
from nabi.nn.dropout import dropout_add

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x), an approximation of GELU (Hendrycks and Gimpel 2016, section 2)."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "quick_gelu": quick_gelu,
    **{name: function for name, (_, _, function) in fast.FUSED.items()},
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The activation with this name, as checkpoints spell it.

    Raises:
        OptionError: nabi does not know it.
    """
    if name not in ACTIVATIONS:
        raise unknown("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]


class Linear(nn.Module):
    """y = x W^T + b (+ add).

    Args:
        inputs, outputs: sizes of the last axis.
        bias: whether there is a b.
        parts: names of several layers of one size that this one computes at once, one behind the other in the output.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True, parts: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.parts = parts
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def forward(self, x: Tensor, add: Tensor | None = None, *, act: str = "") -> Tensor:
        """(..., inputs) -> (..., outputs); ``add`` (..., outputs) is a residual, ``act`` the name of an activation that comes after."""
        y = fast.linear(x, self.weight, self.bias)
        if act:
            y = ACTIVATIONS[act](y)
        return y if add is None else y + add

    def part(self, x: Tensor, outputs: slice) -> Tensor:
        """(..., inputs) -> (..., some outputs): only these are computed."""
        return fast.linear(x, self.weight[outputs], None if self.bias is None else self.bias[outputs])

    def prepared(self, precision: str) -> fast.PreparedLinear:
        """A copy packed for inference in this precision ("fp32", "bf16").

        Raises:
            OptionError: an unknown precision.
        """
        return _packed(self.weight, self.bias, precision)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]} -> {self.weight.shape[0]}"


def _packed(weight: Tensor, bias: Tensor | None, precision: str) -> fast.PreparedLinear:
    """A linear layer packed in a precision that is known."""
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    return fast.PreparedLinear(weight, bias, PRECISIONS[precision])


class LayerNorm(nn.LayerNorm):
    """Layer normalisation (Ba et al. 2016) whose result is float32 whatever comes in under a bfloat16 copy."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__(size, eps)

    def forward(self, x: Tensor) -> Tensor:
        """(..., size) -> (..., size)."""
        return F.layer_norm(x.to(self.weight.dtype), self.normalized_shape, self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """Division by the root mean square, without a bias (Zhang and Sennrich 2019), in float32 at least."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.empty(size)), eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., size) -> (..., size)."""
        return F.rms_norm(x.to(self.weight.dtype), self.weight.shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}"


class Embedding(nn.Module):
    """A table of vectors: (T,) numbers -> (T, W).

    Attributes:
        sparse: whether its gradient comes by rows, for an optimizer that asks for that.
        scored: whether a head multiplies by it too (Press and Wolf 2017), so that its gradient is never by rows.
    """

    def __init__(self, count: int, size: int) -> None:
        super().__init__()
        self.weight, self.sparse, self.scored = nn.Parameter(torch.empty(count, size)), False, False
        self._packed: tuple[fast.PreparedLinear, ...] = ()  # a tuple, so that it is no submodule

    def forward(self, ids: Tensor) -> Tensor:
        """(T,) int64 -> (T, W)."""
        return F.embedding(ids, self.weight, sparse=self.sparse)

    def scores(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """(K, W) -> (K, count): the product with every vector, plus ``bias`` (count,)."""
        y: Tensor = self._packed[0](x, bias=bias) if self._packed else fast.linear(x, self.weight, bias)
        return y

    def prepared(self, precision: str) -> Embedding:
        """A copy that shares the table and holds it once more, packed for :meth:`scores` in this precision.

        Raises:
            OptionError: an unknown precision.
        """
        made = Embedding(0, 0)
        made.weight, made.scored, made._packed = self.weight, True, (_packed(self.weight, None, precision),)
        return made

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]} x {self.weight.shape[1]}"


class TokenEmbeddings(nn.Module):
    """Token + learned position (Radford et al. 2018, section 3.1).

    Args:
        vocab_size, max_positions: rows of the two tables.
        hidden_size: W.
    """

    def __init__(self, vocab_size: int, max_positions: int, hidden_size: int) -> None:
        super().__init__()
        self.tokens, self.positions = Embedding(vocab_size, hidden_size), Embedding(max_positions, hidden_size)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """(T,) each -> (T, W)."""
        y: Tensor = self.tokens(tokens) + self.positions(positions)
        return y


class PatchEmbedding(nn.Module):
    """A linear layer over patches whose weight is kept as a convolution's, (W, C, side, side), since its stride is its size.

    Args:
        channels, side: of a patch.
        hidden_size: W.
        bias: whether there is one.
    """

    def __init__(self, channels: int, side: int, hidden_size: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(hidden_size, channels, side, side))
        self.bias = nn.Parameter(torch.empty(hidden_size)) if bias else None

    def forward(self, patches: Tensor) -> Tensor:
        """(T, C * side * side), each channel by channel -> (T, W)."""
        return fast.linear(patches, self.weight.flatten(1), self.bias)


class FeedForward(nn.Module):
    """Two linear layers with an activation between (Vaswani et al. 2017, section 3.3), plus the residual.

    Args:
        hidden_size, intermediate_size: W and the inner size.
        act: name of the activation.
        dropout: on the result, before the residual is added.
        inner_dropout: between the activation and the second layer; none if None.
        bias: whether the layers have one.
    """

    def __init__(
        self, hidden_size: int, intermediate_size: int, act: str, dropout: float, inner_dropout: float | None = None, *, bias: bool = True
    ) -> None:
        super().__init__()
        self.up, self.down = Linear(hidden_size, intermediate_size, bias=bias), Linear(intermediate_size, hidden_size, bias=bias)
        self.act, self.fused, self.dropout = activation(act), act if act in fast.FUSED else "", dropout
        self.inner_dropout = inner_dropout

    def forward(self, x: Tensor, add: Tensor) -> Tensor:
        """(T, W), residual (T, W) -> (T, W)."""
        inner = self.up(x, act=self.fused) if self.fused else self.act(self.up(x))
        if self.inner_dropout is not None:
            inner = drop(inner, self.inner_dropout, self.training)
        return residual(self.down, inner, add, self.dropout if self.training else 0.0)


class GatedFeedForward(nn.Module):
    """``down(act(gate(x)) * up(x))`` without biases (Shazeer 2020, section 2), plus the residual; gate and up are one product.

    Args:
        hidden_size, intermediate_size: W and the inner size.
        act: name of the activation.
        dropout: on the result, before the residual is added.
        inner_dropout: before the last layer; none if None.
    """

    def __init__(self, hidden_size: int, intermediate_size: int, act: str, dropout: float, inner_dropout: float | None = None) -> None:
        super().__init__()
        self.gate_up = Linear(hidden_size, 2 * intermediate_size, bias=False, parts=("gate", "up"))
        self.down = Linear(intermediate_size, hidden_size, bias=False)
        self.act, self.dropout, self.inner_dropout = activation(act), dropout, inner_dropout

    def forward(self, x: Tensor, add: Tensor) -> Tensor:
        """(T, W), residual (T, W) -> (T, W)."""
        gate, up = self.gate_up(x).chunk(2, -1)
        inner = self.act(gate) * up
        if self.inner_dropout is not None:
            inner = drop(inner, self.inner_dropout, self.training)
        return residual(self.down, inner, add, self.dropout if self.training else 0.0)


def residual(linear: Linear, x: Tensor, add: Tensor, dropout: float) -> Tensor:
    """``linear(x)``, dropped out, plus ``add``; without dropout the sum is left to the linear layer, which may fuse it."""
    if dropout == 0.0:
        y: Tensor = linear(x, add)
        return y
    return dropout_add(linear(x), add, dropout)


def normal_(module: nn.Module, std: float, generator: torch.Generator) -> None:
    """Fill every leaf below ``module``: weights from N(0, std), biases 0, norms 1 and 0 (Devlin et al. 2018, appendix A.2)."""
    for leaf in module.modules():
        if isinstance(leaf, Linear | Embedding | PatchEmbedding):
            nn.init.normal_(leaf.weight, 0.0, std, generator=generator)
            if not isinstance(leaf, Embedding) and leaf.bias is not None:
                nn.init.zeros_(leaf.bias)
        elif isinstance(leaf, LayerNorm | RMSNorm):
            nn.init.ones_(leaf.weight)
            if isinstance(leaf, LayerNorm):
                nn.init.zeros_(leaf.bias)


def uniform_(linear: Linear, generator: torch.Generator) -> None:
    """Fill a linear layer from U(-1/sqrt(inputs), 1/sqrt(inputs)), the usual start of a layer without a table of its own."""
    bound = 1 / math.sqrt(linear.weight.shape[1])
    nn.init.uniform_(linear.weight, -bound, bound, generator=generator)
    if linear.bias is not None:
        nn.init.uniform_(linear.bias, -bound, bound, generator=generator)
