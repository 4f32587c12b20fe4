"""A model as the loop runs it: alone, or spread over several processes by DDP or FSDP2; and recomputation instead of keeping activations.

Unusual: gradients are summed and not averaged, since each loss is divided by what it counts over all processes; so uneven shares are exact. FSDP2 cuts a
copy, so that the caller's model stays a plain one; it gets the weights when they are asked for.
"""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from nabi.batch import Batch
from nabi.model import Model
from nabi.nn import convolution
from nabi.nn.kernels import DistanceBias
from nabi.ranks import Ranks
from nabi.training.plan import Plan


class Spread:
    """The caller's model for one run of the loop.

    Args:
        model: the caller's, whole on every process and with the same weights.
        plan: ``parallel`` and ``recompute``.
        ranks: the processes.

    Attributes:
        model: whose parameters learn: the caller's own, or under FSDP2 a copy of it that is cut.
    """

    def __init__(self, model: Model, plan: Plan, ranks: Ranks) -> None:
        self.caller, self.ranks = model, ranks
        self.cut = ranks.world > 1 and plan.parallel == "fsdp"
        self.model = _copied(model) if self.cut else model
        self._recomputed = [_recompute(module) for module in _layers(self.model)] if plan.recompute else []
        self._ddp: DistributedDataParallel | None = None
        self._learning: list[bool] = []
        if self.cut:
            from torch.distributed.fsdp import fully_shard  # a second to import

            for module in [*_layers(self.model), self.model]:
                sharded = fully_shard(module)
                sharded.set_force_sum_reduction_for_comms(True)  # gloo knows no other
                sharded.set_gradient_divide_factor(1.0)

    def begin(self) -> None:
        """Make ready for a step, once it is known which parameters learn."""
        learning = [p.requires_grad for p in self.model.parameters()]
        if self.ranks.world > 1 and not self.cut and learning != self._learning:  # DDP fixes at its making what it waits for
            self._ddp = DistributedDataParallel(self.model, forward_sync_buffers=False)
            self._ddp.register_comm_hook(None, lambda _, bucket: _summed(bucket))
        self._learning = learning

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The sums by name, with gradient."""
        found: dict[str, Tensor] = (self._ddp or self.model)(batch)
        return found

    @contextlib.contextmanager
    def exchanging(self, now: bool) -> Iterator[None]:
        """Forward and backward of one micro-batch; the processes add up their gradients after the last one of a step."""
        if self.cut:
            self.model.set_requires_gradient_sync(now)  # type: ignore[operator]
            yield
        elif self._ddp is not None and not now:
            with self._ddp.no_sync():
                yield
        else:
            yield

    def refresh(self) -> None:
        """Put the weights into the caller's model; every process has to call it."""
        if self.cut:
            mine = {**dict(self.caller.named_parameters()), **dict(self.caller.named_buffers())}
            with torch.no_grad():
                for name, tensor in (*self.model.named_parameters(), *self.model.named_buffers()):
                    mine[name].copy_(whole(tensor))

    def end(self) -> None:
        """Leave the caller's model as it was wrapped."""
        self._ddp = None
        for module in self._recomputed:
            del module.forward


def is_cut(x: Tensor) -> bool:
    """Whether each process holds a part of this tensor."""
    tensor = sys.modules.get("torch.distributed.tensor")  # a second to import; without it none is
    return tensor is not None and isinstance(x, tensor.DTensor)


def whole(x: Tensor) -> Tensor:
    """A tensor that is cut, put together on each process, which all have to call it; another one as it is."""
    return x.full_tensor() if is_cut(x) else x  # type: ignore[attr-defined]


def here(x: Tensor) -> Tensor:
    """What this process holds of a tensor."""
    return x.to_local() if is_cut(x) else x  # type: ignore[attr-defined]


def cut_as(x: Tensor, parameter: Tensor) -> Tensor:
    """A tensor that is whole on every process, placed and cut as the parameter is; a single number as it is."""
    if not x.dim():
        return x
    if not is_cut(parameter):
        return x.to(parameter.device)
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = parameter.device_mesh, parameter.placements  # type: ignore[attr-defined]
    return distribute_tensor(x.to(parameter.device), mesh, placements, src_data_rank=None)


def _summed(bucket: Any) -> Any:
    """What DDP puts in place of a bucket of gradients, once it is there."""
    return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda done: done.value()[0])


def _copied(model: Model) -> Model:
    return copy.deepcopy(model, {id(model.inputs): model.inputs, id(model.origin): model.origin})


def _layers(model: Model) -> list[nn.Module]:
    """The groups that are called as one; what lies below and above them, tied tables among it, stays with the root."""
    listed = {id(layer) for module in model.body.modules() if isinstance(module, nn.ModuleList) for layer in module}
    return [module for module in model.body.groups() if id(module) in listed]


def _recompute(module: nn.Module) -> nn.Module:
    """Let a layer keep only what it was given and compute the rest again in the backward pass (Chen et al. 2016, section 3)."""
    inner = module.forward

    def again(*args: Any, **kwargs: Any) -> Any:
        return inner(*map(_anew, args), **{name: _anew(value) for name, value in kwargs.items()})

    def forward(*args: Any, **kwargs: Any) -> Any:
        if not (module.training and torch.is_grad_enabled()):
            return inner(*args, **kwargs)
        return checkpoint(again, *args, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), convolution.again()), **kwargs)

    module.forward = forward
    return module


def _anew(value: Any) -> Any:
    return value.anew() if isinstance(value, DistanceBias) else value
