"""LoRA (Hu et al. 2021, section 4.1): a linear layer's weight stays as it is and a product of two narrow matrices, which alone learns, is added to it.

Unusual: an adapted layer is still a ``Linear`` and keeps its parameters under their names, so whatever walks leaves (packing, checkpointing,
sharding, decoding) treats it like any other; and the layers that we compute at once (query, key, value) are adapted one by one, as the paper does.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nabi.errors import OptionError
from nabi.nn import fast
from nabi.nn.dropout import dropout as drop
from nabi.nn.linear import ACTIVATIONS, Linear

WHOLE = "whole"  # names the adapter of a layer that is adapted as one, whatever parts it has


@dataclass(frozen=True)
class Lora:
    """Which layers are adapted and how (Hu et al. 2021, section 4.1).

    Attributes:
        rank: of the product that is added to a weight.
        alpha: the product is scaled by ``alpha / rank``.
        dropout: on what an adapter reads, in training.
        targets: which linear layers of the body: the ends of their paths, ``*`` for any one part of a name, such as ``q``, ``cross.out``,
            ``encoder.*.*.out``. ``*``, the usual choice, is every linear layer: query and value alone (``q,v``, the paper's choice) can fall
            behind full tuning where all layers do not (Dettmers et al. 2023, section 4). One text with commas will do.
        rslora: scale by ``alpha / sqrt(rank)`` (Kalajdzievski 2023), for ranks above 32 or so.

    Raises:
        OptionError: a number is out of its range, or there is no target.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: str | tuple[str, ...] = ("*",)
    rslora: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.targets, str):
            object.__setattr__(self, "targets", tuple(target.strip() for target in self.targets.split(",")))
        problems = [] if self.rank >= 1 else [f"rank is {self.rank}, must be at least 1"]
        problems += [] if 0 < self.alpha < math.inf else [f"alpha is {self.alpha}, must be above 0"]
        problems += [] if 0 <= self.dropout < 1 else [f"dropout is {self.dropout}, must be in [0, 1)"]
        problems += [] if self.targets and all(self.targets) else ["targets names no layer"]
        if problems:
            raise OptionError("these settings of lora can't be followed: " + "; ".join(problems))

    @property
    def scale(self) -> float:
        """What the product is multiplied by."""
        return scale_of(self.alpha, self.rank, self.rslora)


def scale_of(alpha: float, rank: int, rslora: bool) -> float:
    """What a product of this rank is multiplied by."""
    return alpha / (math.sqrt(rank) if rslora else rank)


@dataclass(frozen=True)
class Adaptation:
    """What a model's adapters were made for.

    Attributes:
        lora: the settings.
        base: the model that they belong to, as it was named.
        sha256: of that model's body, as :func:`fingerprint` gives it.
    """

    lora: Lora
    base: str
    sha256: str


class Adapter(nn.Module):
    """What is added to some rows of a linear layer's output: ``scale * (x A^T) B^T``.

    Args:
        a: (R, inputs).
        b: (rows, R).
        first: the layer's output that the first row of ``b`` is added to.
        scale, dropout: as in :class:`Lora`.
    """

    def __init__(self, a: Tensor, b: Tensor, first: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(a), nn.Parameter(b)
        # not `dropout`: that is the name by which a plan's own finds the layers of the model
        self.rows, self.scale, self.share = range(first, first + len(b)), scale, dropout

    def forward(self, x: Tensor, rows: range) -> Tensor:
        """(..., inputs) -> (..., len(rows)): its share of these outputs of the layer, all of them its own."""
        narrow = fast.linear(drop(x, self.share, self.training), self.a, None)
        b = self.b if rows == self.rows else self.b[rows.start - self.rows.start : rows.stop - self.rows.start]
        return fast.linear(narrow, b, None) * self.scale

    def product(self) -> Tensor:
        """(rows, inputs): what it amounts to as a weight."""
        return fast.product(self.b.detach(), self.a.detach()) * self.scale

    def extra_repr(self) -> str:
        return f"rank {len(self.a)}, outputs {self.rows.start} to {self.rows.stop - 1}, scale={self.scale:g}"


class Adapted(Linear):
    """A linear layer with adapters; its weight and bias are the very parameters of the one that it takes the place of, frozen.

    Args:
        linear: the layer.
        adapters: by the part that they adapt, or ``WHOLE``.
    """

    def __init__(self, linear: Linear, adapters: dict[str, Adapter]) -> None:
        nn.Module.__init__(self)
        self.weight, self.bias, self.parts = linear.weight, linear.bias, linear.parts
        self.lora = nn.ModuleDict(adapters)
        self._kept: tuple[nn.Parameter, ...] = ()  # the weight without adapters while they are merged; a tuple, so that it is no parameter
        self.requires_grad_(False)
        self.lora.requires_grad_(True)

    def adapters(self) -> list[Adapter]:
        """Of all parts, in the order of their rows."""
        return sorted((a for a in self.lora.values() if isinstance(a, Adapter)), key=lambda a: a.rows.start)

    def forward(self, x: Tensor, add: Tensor | None = None, *, act: str = "") -> Tensor:
        """As :class:`Linear`."""
        y = self.part(x, slice(None))
        if act:
            y = ACTIVATIONS[act](y)
        return y if add is None else y + add

    def part(self, x: Tensor, outputs: slice) -> Tensor:
        """As :class:`Linear`."""
        y = fast.linear(x, self.weight, self.bias) if outputs == slice(None) else super().part(x, outputs)
        if self._kept:
            return y
        chosen = range(self.weight.shape[0])[outputs]
        for adapter in self.adapters():
            rows = range(max(adapter.rows.start, chosen.start), min(adapter.rows.stop, chosen.stop))
            if len(rows) == len(chosen):
                y = y + adapter(x, rows)
            elif rows:
                y[..., rows.start - chosen.start : rows.stop - chosen.start] += adapter(x, rows)
        return y

    def train(self, mode: bool = True) -> Adapted:
        """Set the mode.

        Raises:
            OptionError: the adapters are merged, so they could not learn.
        """
        if mode and self._kept:
            raise OptionError("merged adapters can't be trained", fix="take them out first: nabi.nn.lora.unmerge(model)")
        super().train(mode)
        return self

    def whole(self) -> Tensor:
        """(outputs, inputs): the weight with the adapters in it, a copy."""
        weight = (self._kept or (self.weight,))[0].detach().clone()
        for adapter in self.adapters():
            weight[adapter.rows.start : adapter.rows.stop] += adapter.product()
        return weight

    def merge(self) -> None:
        """Compute with :meth:`whole` from now on; the weight itself is kept aside."""
        if not self._kept:
            self._kept, self.weight = (self.weight,), nn.Parameter(self.whole(), requires_grad=False)

    def unmerge(self) -> None:
        """Put back the weight, the very one that :meth:`merge` kept, and compute with adapters again."""
        if self._kept:
            (self.weight,), self._kept = self._kept, ()

    def plain(self) -> Linear:
        """An ordinary layer with the adapters in its weight."""
        made = Linear(0, 0, bias=False, parts=self.parts)
        made.weight = nn.Parameter(self.whole())
        made.bias = None if self.bias is None else nn.Parameter(self.bias.detach().clone())
        return made

    def prepared(self, precision: str) -> fast.PreparedLinear:
        """As :class:`Linear`, the adapters merged."""
        return self.plain().prepared(precision)


def adapt(body: nn.Module, lora: Lora, generator: torch.Generator) -> None:
    """Freeze a body and put adapters that change nothing yet into it: A from U(-1/sqrt(inputs), 1/sqrt(inputs)), B zero, as the paper's own program.

    Args:
        body: changed in place.
        lora: which layers and how.
        generator: on the CPU, so that every device starts from the same numbers.

    Raises:
        OptionError: a target names no linear layer of this body.
    """
    body.requires_grad_(False)
    for path, parts in chosen(body, lora.targets).items():
        linear = body.get_submodule(path)
        assert isinstance(linear, Linear)
        adapters = {}
        for part in parts:
            rows, inputs = span(linear, part), linear.weight.shape[1]
            a = torch.empty(lora.rank, inputs).uniform_(-1 / math.sqrt(inputs), 1 / math.sqrt(inputs), generator=generator).to(linear.weight)
            adapters[part] = Adapter(a, a.new_zeros(len(rows), lora.rank), rows.start, lora.scale, lora.dropout)
        replace_layer(body, path, Adapted(linear, adapters))


def replace_layer(body: nn.Module, path: str, layer: Linear) -> None:
    """Put a linear layer in the place of the one at ``path``."""
    parent, _, name = path.rpartition(".")
    layer.training = body.training
    setattr(body.get_submodule(parent), name, layer)


def linears(body: nn.Module) -> dict[str, Linear]:
    """The linear layers of a body by path."""
    return {path: module for path, module in body.named_modules() if isinstance(module, Linear)}


def adapted(body: nn.Module) -> dict[str, Adapted]:
    """Those that have adapters."""
    return {path: module for path, module in linears(body).items() if isinstance(module, Adapted)}


def span(linear: Linear, part: str) -> range:
    """The outputs of a part; all of them if it is ``WHOLE``."""
    if part == WHOLE:
        return range(linear.weight.shape[0])
    size, place = linear.weight.shape[0] // len(linear.parts), linear.parts.index(part)
    return range(place * size, (place + 1) * size)


def chosen(body: nn.Module, targets: Sequence[str]) -> dict[str, list[str]]:
    """By the path of a layer, the parts of it that ``targets`` name: all of them for ``*``, ``WHOLE`` where it has none or it itself is named.

    Raises:
        OptionError: a target names none; all such in one error.
    """
    found: dict[str, list[str]] = {}
    idle = set(targets)
    for path, linear in linears(body).items():
        for part in linear.parts:
            if hits := {t for t in targets if _names(t, f"{path}.{part}")}:
                found.setdefault(path, []).append(part)
                idle -= hits
        if hits := {t for t in targets if _names(t, path)}:
            found.setdefault(path, list(linear.parts) if linear.parts and any(t.endswith("*") for t in hits) else [WHOLE])
            idle -= hits
    if idle:
        ends = sorted({end for path, linear in linears(body).items() for end in (path.rpartition(".")[2], *linear.parts)})
        raise OptionError(
            "lora.targets names no linear layer of this body", value=", ".join(sorted(idle)), expected=f"the end of a path, such as {', '.join(ends)}; * is all"
        )
    return found


def _names(target: str, path: str) -> bool:
    wants, parts = target.split("."), path.split(".")
    return len(wants) <= len(parts) and all(w in ("*", p) for w, p in zip(reversed(wants), reversed(parts), strict=False))


def merge(model: nn.Module) -> None:
    """Put every adapter into its weight, in place, for speed; saving still writes the adapters, training is refused until :func:`unmerge`."""
    for layer in adapted(model).values():
        layer.merge()


def unmerge(model: nn.Module) -> None:
    """Undo :func:`merge` bit for bit."""
    for layer in adapted(model).values():
        layer.unmerge()


def fingerprint(body: nn.Module) -> str:
    """SHA-256 of a body's own weights: their names, shapes and values, adapters left out; the same however the files they came from are cut."""
    found = hashlib.sha256()
    for name, x in sorted(_own(body)):
        found.update(f"{name} {tuple(x.shape)} {x.dtype}\n".encode())
        found.update(x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _own(body: nn.Module) -> Iterator[tuple[str, Tensor]]:
    kept = {f"{path}.weight": layer._kept[0] for path, layer in adapted(body).items() if layer._kept}
    inside = tuple(f"{path}.lora." for path in adapted(body))
    return ((name, kept.get(name, x)) for name, x in body.state_dict().items() if not name.startswith(inside))
