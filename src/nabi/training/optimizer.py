"""AdamW over the groups of a model: layer-wise rates, no-decay groups, gradual unfreezing, clipping.

Unusual: a large embedding table on the CPU is updated by rows. Rows that no gradient ever reached have zero moments, so dense AdamW would only decay them;
doing just that gives the same weights and spares most of the memory traffic of a step, since a small data set touches a small part of a vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nabi.model import Model
from nabi.nn.linear import Embedding
from nabi.training.plan import Plan

LARGE = 4096  # rows from which a table is worth updating by rows


class Optimizer:
    """AdamW (Loshchilov and Hutter 2017) for one model.

    Matrices decay; biases, norms and other vectors do not (Devlin et al. 2018, appendix A.2).

    Args:
        model: its groups, from bottom to top, give layer-wise rates.
        plan: rates, decay, betas, clipping, unfreezing.
    """

    def __init__(self, model: Model, plan: Plan) -> None:
        self.model, self.plan = model, plan
        self.names = {id(p): name for name, p in model.named_parameters()}
        self.learning = {id(p) for p in model.parameters() if p.requires_grad}  # what the caller froze stays frozen
        groups = model.groups()
        top = len(groups) - 1
        shared = _shared(model)
        self.tables: list[_Table] = []
        dense: list[dict[str, object]] = []
        for i, module in enumerate(groups):
            scale = plan.layer_decay ** (top - i)
            if i == top and plan.head_rate is not None:
                scale = plan.head_rate / plan.learning_rate
            tables = [m for m in module.modules() if isinstance(m, Embedding) and _by_rows(m, shared)]
            self.tables += [_Table(m, scale, plan) for m in tables]
            apart = {id(m.weight) for m in tables}
            for decayed in (True, False):
                chosen = [p for p in module.parameters() if (p.dim() > 1) == decayed and id(p) not in apart]
                if chosen:
                    decay = plan.weight_decay if decayed else 0.0
                    dense.append({"params": chosen, "scale": scale, "lr": 0.0, "weight_decay": decay})
        self.dense = torch.optim.AdamW(dense, lr=plan.learning_rate, betas=(plan.beta1, plan.beta2), eps=plan.eps, fused=True)

    def begin(self, epoch: int) -> None:
        """Forget the old gradients and let the groups of this epoch learn: gradual unfreezing (Howard and Ruder 2018, section 3.3)."""
        groups, step = self.model.groups(), self.plan.unfreeze
        frozen = 0 if step == 0 else max(0, len(groups) - step * (epoch + 1))
        for i, module in enumerate(groups):
            for parameter in module.parameters():
                parameter.requires_grad_(i >= frozen and id(parameter) in self.learning)
        for parameter in self.model.parameters():
            parameter.grad = None
        for table in self.tables:
            table.module.sparse = True

    def end(self) -> None:
        """Give the tables back as they were."""
        for table in self.tables:
            table.module.sparse = False

    def norm(self) -> float:
        """Of the whole gradient."""
        return float(nn.utils.get_total_norm(self._gradients()))

    def step(self, rate: float, norm: float) -> None:
        """One update at this peak rate, its gradient of this norm scaled down to ``plan.clip`` if it is larger."""
        if self.plan.clip and norm > self.plan.clip:
            for gradient in self._gradients():
                gradient.mul_(self.plan.clip / (norm + 1e-6))
        for group in self.dense.param_groups:
            group["lr"] = rate * group["scale"]
        self.dense.step()
        for table in self.tables:
            table.step(rate)

    def _gradients(self) -> list[Tensor]:
        found = []
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                if parameter.grad.is_sparse:
                    parameter.grad = parameter.grad.coalesce()
                found.append(parameter.grad.values() if parameter.grad.is_sparse else parameter.grad)
        return found

    def state(self) -> dict[str, Tensor]:
        """All tensors to go on from, copied, by ``parameter name + . + what``."""
        found = {f"{self.names[id(p)]}.{what}": torch.as_tensor(x).detach().clone() for p, s in self.dense.state.items() for what, x in s.items()}
        for table in self.tables:
            found |= {f"{self.names[id(table.module.weight)]}.{what}": x for what, x in table.state().items()}
        return found

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put back what :meth:`state` gave."""
        tables = {self.names[id(table.module.weight)]: table for table in self.tables}
        parameters = dict(self.model.named_parameters())
        by_name: dict[str, dict[str, Tensor]] = {}
        for name, x in tensors.items():
            parameter, _, what = name.rpartition(".")
            by_name.setdefault(parameter, {})[what] = x.clone()
        for name, state in by_name.items():
            if name in tables:
                tables[name].restore(state)
            else:
                self.dense.state[parameters[name]].update(state)


class _Table:
    """AdamW over the rows of one embedding table that a gradient has reached; the others only decay."""

    def __init__(self, module: Embedding, scale: float, plan: Plan) -> None:
        self.module, self.scale, self.plan, self.steps = module, scale, plan, 0
        count, width = module.weight.shape
        self.place = torch.full((count,), -1, dtype=torch.int64)  # row -> its place among the reached ones
        self.rows = torch.empty(0, dtype=torch.int64)
        self.mean, self.square = torch.empty(0, width), torch.empty(0, width)

    def step(self, rate: float) -> None:
        weight, plan, rate = self.module.weight, self.plan, rate * self.scale
        if weight.grad is None:
            return
        assert weight.grad.is_sparse, "a table whose weights are also used densely is not updated by rows"
        grad = weight.grad.coalesce()
        self._reach(grad.indices()[0])
        places, values = self.place[grad.indices()[0]], grad.values()
        self.steps += 1
        self.mean.mul_(plan.beta1).index_add_(0, places, values, alpha=1 - plan.beta1)
        self.square.mul_(plan.beta2).index_add_(0, places, values * values, alpha=1 - plan.beta2)
        size = rate / (1 - plan.beta1**self.steps)
        spread = self.square.sqrt().div_(math.sqrt(1 - plan.beta2**self.steps)).add_(plan.eps)
        with torch.no_grad():
            if plan.weight_decay:
                weight.mul_(1 - rate * plan.weight_decay)
            weight.index_add_(0, self.rows, self.mean / spread, alpha=-size)

    def _reach(self, rows: Tensor) -> None:
        new = rows[self.place[rows] < 0]
        if len(new):
            self.place[new] = torch.arange(len(self.rows), len(self.rows) + len(new))
            self.rows = torch.cat([self.rows, new])
            zeros = self.mean.new_zeros(len(new), self.mean.shape[1])
            self.mean, self.square = torch.cat([self.mean, zeros]), torch.cat([self.square, zeros])

    def state(self) -> dict[str, Tensor]:
        return {"step": torch.tensor(self.steps), "rows": self.rows.clone(), "exp_avg": self.mean.clone(), "exp_avg_sq": self.square.clone()}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.steps, self.rows, self.mean, self.square = int(state["step"]), state["rows"], state["exp_avg"], state["exp_avg_sq"]
        self.place[self.rows] = torch.arange(len(self.rows))


def _by_rows(module: Embedding, shared: set[int]) -> bool:
    weight = module.weight
    return weight.shape[0] >= LARGE and weight.device.type == "cpu" and id(weight) not in shared and not module.scored


def _shared(model: nn.Module) -> set[int]:
    """Parameters that several modules hold: a tied output layer gives them a dense gradient."""
    seen: set[int] = set()
    return {id(p) for module in model.modules() for p in module.parameters(recurse=False) if id(p) in seen or seen.add(id(p))}  # type: ignore[func-returns-value]
