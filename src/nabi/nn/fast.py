"""Private torch operators and precision settings: the only file that knows them, each with a public fallback.

What was measured is in benchmarks/linear.py: torch's default float32 product runs at half speed on some CPUs while oneDNN in the same wheel does not.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALL = 1 << 18  # numbers in a matrix
# How many products oneDNN and torch's binding to it remember, each by its exact shape, with code and buffers. Hardly two packed batches have the same number of
# tokens, so most never come back, and 1,024 of them, which is the usual number, are gigabytes. A step of a small encoder in bfloat16 needs about 200 of
# the first kind again and again (with 64 it took half as long again). Both are read at the first product; who sets them otherwise is obeyed.
for _name, _most in (("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256"), ("LRU_CACHE_CAPACITY", "32")):
    os.environ.setdefault(_name, _most)


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by the tanh formula (Hendrycks and Gimpel 2016, section 2)."""
    return F.gelu(x, approximate="tanh")


# activations that a prepared layer computes with its product: checkpoints' names -> (oneDNN's name, its algorithm, the function)
FUSED: dict[str, tuple[str, str, Callable[[Tensor], Tensor]]] = {
    "gelu": ("gelu", "none", F.gelu),
    "gelu_new": ("gelu", "tanh", gelu_tanh),
    "gelu_pytorch_tanh": ("gelu", "tanh", gelu_tanh),
    "relu": ("relu", "", F.relu),
    "silu": ("swish", "", F.silu),
    "swish": ("swish", "", F.silu),
}


@functools.cache
def has_amx() -> bool:
    """Whether the CPU has AMX tiles, where "medium" float32 precision would really compute in bfloat16."""
    info = Path("/proc/cpuinfo")
    return "amx_bf16" in info.read_text() if info.exists() else True  # unknown machine: keep true float32


@functools.cache
def has_onednn() -> bool:
    """Whether torch can route float32 products to oneDNN and the CPU then still computes them in float32."""
    return bool(torch.backends.mkldnn.is_available()) and not has_amx()  # type: ignore[no-untyped-call]


@functools.cache
def prefers_onednn() -> bool:
    """Whether training takes oneDNN too: where torch's default (MKL) takes a slow path, as it does on CPUs other than Intel's.

    Twice as fast on an AMD Zen 5; on an Intel Xeon without AMX a step of MiniLM was 12 % slower.
    """
    return has_onednn() and "GenuineIntel" not in Path("/proc/cpuinfo").read_text()


class _OneDnnLinear(torch.autograd.Function):
    """``F.linear`` whose three products run in oneDNN; true float32 where the CPU has no AMX."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.with_bias = bias is not None
        return in_onednn(F.linear, x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad = grads[0]
        flat = grad.reshape(-1, grad.shape[-1])
        to_x = in_onednn(torch.matmul, grad, weight) if ctx.needs_input_grad[0] else None
        to_weight = in_onednn(torch.matmul, flat.t(), x.reshape(-1, x.shape[-1])) if ctx.needs_input_grad[1] else None
        to_bias = flat.sum(0) if ctx.with_bias and ctx.needs_input_grad[2] else None
        return to_x, to_weight, to_bias


def in_onednn(product: Any, *args: Any) -> Tensor:
    """``product(*args)``, its float32 matrix product computed by oneDNN."""
    # the setting is global: set around one product only, because under it scaled_dot_product_attention is several times slower
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        result: Tensor = product(*args)
        return result
    finally:
        torch.set_float32_matmul_precision(before)


def product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b``, (M, K) x (K, N), by oneDNN where :func:`linear` goes there, without gradient."""
    plain = a.device.type != "cpu" or a.dtype != torch.float32 or torch.is_autocast_enabled("cpu") or not prefers_onednn()
    return a @ b if plain else in_onednn(torch.matmul, a, b)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.linear``, on the CPU in float32 through oneDNN where that computes the same precision.

    Args:
        x: (..., W) input.
        weight: (C, W).
        bias: (C,) or None.
    """
    plain = torch.compiler.is_compiling() or x.device.type != "cpu" or x.dtype != torch.float32 or weight.dtype != torch.float32
    if plain or torch.is_autocast_enabled("cpu") or not prefers_onednn() or type(weight) not in (Tensor, torch.nn.Parameter):
        return F.linear(x, weight, bias)
    if not torch.is_grad_enabled():
        # one row by a small matrix takes less time than oneDNN's setting up; by a large one oneDNN's threads read memory faster than MKL's single one
        small = x.numel() == x.shape[-1] and (weight.numel() < SMALL or torch.get_num_threads() == 1)
        return F.linear(x, weight, bias) if small else in_onednn(F.linear, x, weight, bias)
    return _OneDnnLinear.apply(x, weight, bias)  # type: ignore[no-any-return,no-untyped-call]


class PreparedLinear(nn.Module):
    """A linear layer packed once for inference on the CPU, with an activation or the residual fused in; falls back to public operators.

    Args:
        weight: (C, W); copied into the kernel's own order.
        bias: (C,) or None.
        dtype: float32 or bfloat16.
        fused: False takes the public fallback.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, *, fused: bool = True) -> None:
        super().__init__()
        self.dtype = dtype
        self.weight = weight.detach().to(dtype).contiguous()
        self.bias = None if bias is None else bias.detach().to(dtype).contiguous()
        self.fused = fused and self.weight.device.type == "cpu" and has_onednn()
        if self.fused:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, 1024)

    def forward(self, x: Tensor, add: Tensor | None = None, *, act: str = "", bias: Tensor | None = None) -> Tensor:
        """(..., W) -> (..., C): x @ weight.T + bias, then one of ``FUSED``, or plus ``add`` (..., C); ``bias`` (C,) is for a layer without its own."""
        x, bias = x.to(self.dtype), self.bias if bias is None else bias.to(self.dtype)
        if self.fused and not x.requires_grad:
            if add is not None:
                y: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, add.to(self.dtype).contiguous(), self.weight, bias, "add")
                return y
            name, algorithm, _ = FUSED[act] if act else ("none", "", None)
            y = torch.ops.mkldnn._linear_pointwise(x, self.weight, bias, name, [], algorithm)
            return y
        weight = self.weight.to_dense() if self.weight.is_mkldnn else self.weight
        y = F.linear(x, weight, bias)
        if act:
            y = FUSED[act][2](y)
        return y if add is None else y + add.to(self.dtype)
