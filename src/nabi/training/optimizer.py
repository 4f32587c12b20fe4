"""AdamW over the groups of a model, and which of them learn at a step: layer-wise rates, no-decay groups, gradual unfreezing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nabi.model import Model
from nabi.training.plan import Plan


def build(model: Model, plan: Plan) -> torch.optim.AdamW:
    """AdamW with a group for each (layer group, decayed or not); ``scale`` in a group is its share of the peak rate.

    Matrices decay; biases, norms and other vectors do not (Loshchilov and Hutter 2017; Devlin et al. 2018, appendix A.2).
    """
    groups = model.groups()
    top = len(groups) - 1
    parameters: list[dict[str, object]] = []
    for i, module in enumerate(groups):
        scale = plan.layer_decay ** (top - i)
        if i == top and plan.head_rate is not None:
            scale = plan.head_rate / plan.learning_rate
        for decayed in (True, False):
            chosen = [p for p in module.parameters() if (p.dim() > 1) == decayed]
            if chosen:
                parameters.append({"params": chosen, "scale": scale, "lr": 0.0, "weight_decay": plan.weight_decay if decayed else 0.0})
    fused = all(p.dtype == torch.float32 for p in model.parameters())
    return torch.optim.AdamW(parameters, lr=plan.learning_rate, betas=(plan.beta1, plan.beta2), eps=plan.eps, fused=fused)


def set_rates(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give each group its share of ``rate``."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def set_trainable(model: Model, plan: Plan, epoch: int) -> None:
    """Gradual unfreezing (Howard and Ruder 2018, section 3.3): in epoch e the top ``unfreeze * (e + 1)`` groups learn."""
    groups = model.groups()
    learning = len(groups) if plan.unfreeze == 0 else min(len(groups), plan.unfreeze * (epoch + 1))
    for i, module in enumerate(groups):
        module.requires_grad_(i >= len(groups) - learning)


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors by ``parameter name + . + what``, copied."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        f"{names[id(p)]}.{what}": torch.as_tensor(x).detach().clone() for p, state in optimizer.state.items() for what, x in state.items()
    }


def restore(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what :func:`state_of` gave."""
    parameters = dict(model.named_parameters())
    for name, x in tensors.items():
        parameter, _, what = name.rpartition(".")
        optimizer.state[parameters[parameter]][what] = x.clone()
