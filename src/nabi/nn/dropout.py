"""Dropout (Srivastava et al. 2014) that costs little on the CPU, alone or with a residual.

Unusual: torch draws a whole random number for each element; here one 64-bit draw of the same generator decides four elements, so a share p is rounded
to 1/65536 and what stays is scaled by exactly what that share asks for. Other devices take torch's own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

STEPS = 1 << 16  # how finely a share can be drawn


def _drawn(x: Tensor, p: float) -> bool:
    return x.device.type == "cpu" and 0 < round(p * STEPS) < STEPS and not torch.compiler.is_compiling()


def kept(count: int, p: float, dtype: torch.dtype) -> tuple[Tensor, float]:
    """Which of ``count`` elements stay, on the CPU: (count,) of 1 and 0, and the factor that keeps the expectation.

    Args:
        count: how many.
        p: the share that is dropped, rounded to 1/65536.
        dtype: of the result.
    """
    dropped = round(p * STEPS)
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:count]
    keep = torch.empty(count, dtype=dtype)
    torch.ge(bits, dropped - STEPS // 2, out=keep)
    return keep, STEPS / (STEPS - dropped)


def dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """(...) -> (...): each element zero with probability ``p``, the others scaled by 1 / (1 - p); ``x`` itself when not training."""
    if not training or p == 0.0:
        return x
    if not _drawn(x, p):
        return F.dropout(x, p)
    keep, scale = kept(x.numel(), p, x.dtype)
    return x * keep.mul_(scale).view(x.shape)


def dropout_add(x: Tensor, add: Tensor, p: float) -> Tensor:
    """``dropout(x, p) + add``, both (...), in one pass over the memory."""
    if not _drawn(x, p) or x.dtype != add.dtype or x.shape != add.shape:
        return dropout(x, p) + add
    keep, scale = kept(x.numel(), p, x.dtype)
    return torch.addcmul(add, x, keep.view(x.shape), value=scale)
