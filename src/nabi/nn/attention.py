"""Attention over packed rows (Vaswani et al. 2017, section 3.2).

Positions come from the layouts and nowhere else, so prefill, a chunk and one decoding step are one case. Under ``torch.compile`` the kernels are one
opaque operator, so a graph is compiled once whatever the lengths.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nabi.errors import OptionError
from nabi.layout import Layout, Packed
from nabi.nn import kernels
from nabi.nn.kernels import Biased, Call, DistanceBias, Kernel, Pattern, PositionBias
from nabi.nn.linear import Linear, residual
from nabi.nn.watch import WATCHING


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    at: Layout,
    of: Layout,
    pattern: Pattern,
    *,
    bias: PositionBias | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Softmax attention; row i of the queries sees row i of the keys.

    Args:
        q: (Tq, H, D) laid out as ``at``.
        k, v: (Tk, H, D) laid out as ``of``; ``of.take(rows)`` shares them among beams.
        pattern: who may see whom, by positions in the row.
        bias: added to the scores.
        scale: of the scores; 1 / sqrt(D) if None.
        dropout: on the weights.

    Returns:
        (Tq, H, D); zeros where a query sees no key.

    Raises:
        OptionError: dropout or a bias under ``torch.compile``, or another number of rows on the two sides.
    """
    if torch.compiler.is_compiling():
        if dropout or bias is not None:
            raise OptionError("attention dropout and position biases can't be compiled", value=dropout, fix="set attention_dropout=0")
        from nabi.nn import opaque  # not above: registering operators takes as long as reading a small model, and only a compiler needs them

        marks = at.leading if at.leading is not None else of.leading
        out: Tensor = torch.ops.nabi.attend(q, k, v, at.sizes, at.start, of.sizes, of.begin, of.start, marks, opaque.encoded(pattern), scale)
        return out
    if len(at) != len(of):
        raise OptionError("queries and keys have different numbers of rows", value=(len(at), len(of)))
    watching = WATCHING.get()
    biased: Biased = "" if bias is None else "by distance" if isinstance(bias, DistanceBias) else "by row"
    if watching is not None:
        weights: list[Tensor] = []
        out = kernels.dense(q, k, v, Call(at, of, pattern, biased, watched=True, dropout=dropout), scale, bias, weights)
        return watching.record(q, k, v, weights, out)
    kernel, call, prepared = _plan(at, of, pattern, biased, dropout, q.device)
    return kernel.run(q, k, v, call, prepared, scale, bias)


def _plan(at: Layout, of: Layout, pattern: Pattern, biased: Biased, dropout: float, device: torch.device) -> tuple[Kernel, Call, Any]:
    """The kernel for this pair of layouts and what it prepared: made by the first layer, found by the others."""
    key = (None if of.plans is at.plans else id(of.plans), pattern, biased, dropout, device)  # a copied layout shares its plans
    found: tuple[Kernel, Call, Any] | None = at.plans.get(key)
    if found is None:
        call = Call(at, of, pattern, biased, dropout=dropout)
        kernel = kernels.choose(call)
        found = at.plans[key] = (kernel, call, kernel.prepare(call, device))  # the call keeps ``of`` alive, so its id stays its own
    return found


# ---- the leaf -------------------------------------------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Multi-head self-attention with its output projection and residual.

    Args:
        hidden_size: W.
        num_heads: H; W must be divisible by it unless ``head_size`` is given.
        pattern: who may see whom.
        head_size: D.
        bias: whether the projections have one.
        scale: of the scores; 1 / sqrt(D) if None.
        dropout: on the result before the residual is added.
        attention_dropout: on the weights.

    Raises:
        OptionError: W is not divisible by H.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        *,
        pattern: Pattern | None = None,
        head_size: int | None = None,
        bias: bool = True,
        scale: float | None = None,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if head_size is None and hidden_size % num_heads:
            raise OptionError("hidden_size is not divisible by num_heads", value=(hidden_size, num_heads))
        inner = num_heads * (head_size or hidden_size // num_heads)
        self.qkv = Linear(hidden_size, 3 * inner, bias=bias, parts=("q", "k", "v"))
        self.out = Linear(inner, hidden_size, bias=bias)
        self.num_heads, self.pattern, self.scale = num_heads, pattern or Pattern(), scale
        self.dropout, self.attention_dropout = dropout, attention_dropout

    def forward(self, x: Tensor, layout: Layout, *, add: Tensor, keep: Tensor | None = None, cache: Any = None, bias: PositionBias | None = None) -> Tensor:
        """Tokens look at their rows.

        Args:
            x: (T, W).
            layout: where the rows lie.
            add: (T, W) the residual.
            keep: (K,) the tokens whose result is wanted; all if None.
            cache: this layer's share of a cache.
            bias: added to the scores.

        Returns:
            (T, W), or (K, W) in the order of ``keep``.
        """
        dropout = self.attention_dropout if self.training else 0.0
        if keep is not None and cache is None and bias is None and self._one_a_row(keep, layout):
            # every token is a key, but only the tokens that are read need a query
            inner = self.qkv.weight.shape[0] // 3
            q = self.qkv.part(x.index_select(0, keep), slice(0, inner)).view(len(keep), self.num_heads, -1)
            k, v = self.qkv.part(x, slice(inner, None)).view(len(x), 2, self.num_heads, -1).unbind(1)
            at = Layout.of([1] * len(layout), device=x.device)
            y = attend(q, k, v, at, layout, self.pattern, scale=self.scale, dropout=dropout).flatten(1)
            return residual(self.out, y, add.index_select(0, keep), self.dropout if self.training else 0.0)
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(1)
        of = layout
        if cache is not None:
            k, v, of = cache.append(k, v, layout)
        y = attend(q, k, v, layout, of, self.pattern, bias=bias, scale=self.scale, dropout=dropout).flatten(1)
        if keep is not None:
            y, add = y.index_select(0, keep), add.index_select(0, keep)
        return residual(self.out, y, add, self.dropout if self.training else 0.0)

    def _one_a_row(self, keep: Tensor, layout: Layout) -> bool:
        """Whether the kept tokens are one of each row, in order, and may be anywhere in it; asked only where the answer costs no synchronisation."""
        if torch.compiler.is_compiling() or keep.device.type != "cpu" or WATCHING.get() is not None or not isinstance(self.qkv, Linear):
            return False
        if not self.pattern.everything or self.pattern.causal or layout.rows is None or len(keep) != len(layout):
            return False
        return bool(torch.equal(layout.rows[keep], torch.arange(len(layout))))


class CrossAttention(nn.Module):
    """Multi-head attention to what an encoder said, with its output projection and residual.

    Args:
        hidden_size: W.
        num_heads: H.
        head_size: D; W / H if None.
        bias: whether the projections have one.
        scale: of the scores; 1 / sqrt(D) if None.
        dropout: on the result before the residual is added.
        attention_dropout: on the weights.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        *,
        head_size: int | None = None,
        bias: bool = True,
        scale: float | None = None,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if head_size is None and hidden_size % num_heads:
            raise OptionError("hidden_size is not divisible by num_heads", value=(hidden_size, num_heads))
        inner = num_heads * (head_size or hidden_size // num_heads)
        self.q, self.kv = Linear(hidden_size, inner, bias=bias), Linear(hidden_size, 2 * inner, bias=bias, parts=("k", "v"))
        self.out = Linear(inner, hidden_size, bias=bias)
        self.num_heads, self.scale = num_heads, scale
        self.dropout, self.attention_dropout = dropout, attention_dropout

    def keys(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """(T, W) of the encoder -> keys and values (T, H, D), computed once for all that read them."""
        k, v = self.kv(memory).unflatten(-1, (2, self.num_heads, -1)).unbind(1)
        return k, v

    def forward(self, x: Tensor, layout: Layout, keys: Packed | tuple[Tensor, Tensor, Layout], *, add: Tensor) -> Tensor:
        """Tokens look at their row of the encoder.

        Args:
            x: (T, W).
            layout: where the rows lie.
            keys: what :meth:`keys` gave and where its rows lie, row by row; or what the encoder said, for it to be called here.
            add: (T, W) the residual.
        """
        k, v, of = (*self.keys(keys.values), keys.layout) if isinstance(keys, Packed) else keys
        assert of is not None
        dropout = self.attention_dropout if self.training else 0.0
        q = self.q(x).unflatten(-1, (self.num_heads, -1))
        y = attend(q, k, v, layout, of, Pattern(), scale=self.scale, dropout=dropout).flatten(1)
        return residual(self.out, y, add, self.dropout if self.training else 0.0)
