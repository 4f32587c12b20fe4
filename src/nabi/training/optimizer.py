"""AdamW over the groups of a model: layer-wise rates, no-decay groups, gradual unfreezing, clipping.

Unusual: a large embedding table on the CPU is updated by rows. Rows that no gradient ever reached have zero moments, so dense AdamW would only decay them;
doing just that gives the same weights and spares most of the memory traffic of a step, since a small data set touches a small part of a vocabulary. One of
several processes updates all rows, since each reaches others; what is saved of either can be gone on from with the other.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nabi.model import Model
from nabi.nn.linear import Embedding
from nabi.ranks import ALONE, Ranks
from nabi.training.plan import Plan
from nabi.training.spread import cut_as, here, is_cut, whole
from nabi.weights import dealt

LARGE = 4096  # rows from which a table is worth updating by rows


class Optimizer:
    """AdamW (Loshchilov and Hutter 2017) for one model.

    Matrices decay; biases, norms and other vectors do not (Devlin et al. 2018, appendix A.2).

    Args:
        model: its groups, from bottom to top, give layer-wise rates.
        plan: rates, decay, betas, clipping, unfreezing.
        ranks: the processes that update together; each holds the same sums of gradients, or its part of them.
    """

    def __init__(self, model: Model, plan: Plan, ranks: Ranks = ALONE) -> None:
        self.model, self.plan, self.ranks = model, plan, ranks
        self.cut = any(is_cut(p) for p in model.parameters())
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
            tables = [m for m in module.modules() if ranks.world == 1 and isinstance(m, Embedding) and _by_rows(m, shared)]
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
        if self.ranks.world == 1:
            return float(nn.utils.get_total_norm(self._gradients()))
        # in float64, so that a gradient gives the same number whole and in parts
        squares = [float(torch.linalg.vector_norm(gradient, dtype=torch.float64)) ** 2 for gradient in self._gradients()]
        return math.sqrt(self.ranks.sums({"squares": sum(squares)})["squares"] if self.cut else sum(squares))

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
        """What this process holds of them."""
        found = []
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                if parameter.grad.is_sparse:
                    parameter.grad = parameter.grad.coalesce()
                found.append(parameter.grad.values() if parameter.grad.is_sparse else here(parameter.grad))
        return found

    def state(self) -> dict[str, Tensor]:
        """All tensors to go on from, copied, by ``parameter name + . + what``; of several processes, which all have to call it, each gets its share."""
        sizes = {f"{self.names[id(p)]}.{what}": 8 * torch.as_tensor(x).numel() for p, s in self.dense.state.items() for what, x in s.items()}
        mine = set(dealt(sizes, self.ranks.world)[self.ranks.rank])
        found = {}
        for p, s in self.dense.state.items():
            for what, x in s.items():
                tensor = whole(torch.as_tensor(x))
                if (name := f"{self.names[id(p)]}.{what}") in mine:
                    found[name] = tensor.detach().clone()
        for table in self.tables:
            found |= {f"{self.names[id(table.module.weight)]}.{what}": x for what, x in table.state().items()}
        return found

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put back what :meth:`state` gave, put together again, of however many processes."""
        tables = {self.names[id(table.module.weight)]: table for table in self.tables}
        parameters = dict(self.model.named_parameters())
        by_name: dict[str, dict[str, Tensor]] = {}
        for key, x in tensors.items():
            name, _, what = key.rpartition(".")
            by_name.setdefault(name, {})[what] = x.clone()
        for name, state in by_name.items():
            parameter = parameters[name]
            if name in tables:
                tables[name].restore(_by_row(state))
            else:
                self.dense.state[parameter].update({what: cut_as(x, parameter) for what, x in _of_all_rows(state, len(parameter)).items()})


def _by_row(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The moments of the rows that a gradient has reached, if these are those of all rows: the others' are zero."""
    if "rows" in state:
        return state
    mean, square = state["exp_avg"], state["exp_avg_sq"]
    rows = ((mean != 0) | (square != 0)).any(1).nonzero()[:, 0]
    return {"step": state["step"], "rows": rows, "exp_avg": mean[rows], "exp_avg_sq": square[rows]}


def _of_all_rows(state: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """The moments of all rows, if these are those of the rows that a gradient has reached."""
    if "rows" not in state:
        return state
    spread = {name: x.new_zeros(count, x.shape[1]).index_copy_(0, state["rows"], x) for name, x in state.items() if name.startswith("exp_avg")}
    return {"step": state["step"].float(), **spread}


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
