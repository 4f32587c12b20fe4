"""Looking inside: under ``with watch(body) as seen`` the dense kernel runs and keeps weights, q, k and v by module path.

Unusual: nothing is configured beforehand and no model is rebuilt; ``attend`` consults one context variable.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from torch import Tensor, nn

from nabi.errors import unknown


@dataclass
class Attended:
    """What one attention saw: q (Tq, H, D), k and v (Tk, H, D), and a row's weights (H, Lq, Lk) each."""

    q: Tensor
    k: Tensor
    v: Tensor
    weights: list[Tensor]


@dataclass
class Watch:
    """What was seen so far: ``seen[path]`` is a list with one entry a forward of that module."""

    paths: dict[nn.Module, str]
    _seen: dict[str, list[Attended]] = field(default_factory=dict)
    _muted: set[tuple[str, int]] = field(default_factory=set)
    _current: list[str] = field(default_factory=list)

    def __getitem__(self, path: str) -> list[Attended]:
        if path not in self._seen:
            raise unknown("attention", path, self._seen)
        return self._seen[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._seen)

    def mute(self, layer: str, head: int) -> None:
        """Set one head's output to zero from now on, to see what it is good for.

        Args:
            layer: the path of an attention module, such as ``layers.0.attention``.
            head: its number.

        Raises:
            OptionError: no such module.
        """
        if layer not in self.paths.values():
            raise unknown("attention", layer, self.paths.values())
        self._muted.add((layer, head))

    def record(self, q: Tensor, k: Tensor, v: Tensor, weights: list[Tensor], out: Tensor) -> Tensor:
        """Keep one attention's inside; returns ``out`` (Tq, H, D) with the muted heads at zero."""
        path = self._current[-1] if self._current else ""
        self._seen.setdefault(path, []).append(Attended(q.detach(), k.detach(), v.detach(), [w.detach() for w in weights]))
        heads = [head for layer, head in self._muted if layer == path]
        if heads:
            out = out.clone()
            out[:, heads] = 0.0
        return out


WATCHING: ContextVar[Watch | None] = ContextVar("nabi.watching", default=None)


@contextmanager
def watch(body: nn.Module) -> Iterator[Watch]:
    """Keep the inside of every module of ``body`` that attends (has a ``pattern``) while the block runs."""
    paths = {module: path for path, module in body.named_modules() if hasattr(module, "pattern")}
    seen = Watch(paths)
    handles = []
    for module in paths:
        handles.append(module.register_forward_pre_hook(lambda m, _: seen._current.append(paths[m])))
        handles.append(module.register_forward_hook(lambda m, _, out: (seen._current.pop(), out)[1]))
    token = WATCHING.set(seen)
    try:
        yield seen
    finally:
        WATCHING.reset(token)
        for handle in handles:
            handle.remove()
