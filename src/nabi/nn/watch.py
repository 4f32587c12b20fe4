"""Looking inside: under ``with watch(body) as seen`` the dense kernel runs and keeps weights, q, k and v by module path.

Unusual: nothing is configured beforehand and no model is rebuilt; ``attend`` consults one context variable.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from torch import Tensor, nn

from nabi.errors import OptionError, unknown


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
            OptionError: no such module or head.
        """
        found = [module for module, path in self.paths.items() if path == layer]
        if not found:
            raise unknown("attention", layer, self.paths.values())
        heads = getattr(found[0], "num_heads", head + 1)
        if not 0 <= head < heads:
            raise OptionError(f"'{layer}' has no such head", value=head, expected=f"0 to {heads - 1}")
        self._muted.add((layer, head))

    def record(self, q: Tensor, k: Tensor, v: Tensor, weights: list[Tensor], out: Tensor) -> Tensor:
        """Keep one attention's inside; returns ``out`` (Tq, H, D) with the muted heads at zero."""
        if not self._current:  # another body, run inside the block
            return out
        path = self._current[-1]
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

    # hooks are the module's, so other threads and inner watches run into them as well; only the watch of this context may note anything
    def enter(module: nn.Module, _: object) -> None:
        if WATCHING.get() is seen:
            seen._current.append(paths[module])

    def leave(module: nn.Module, _: object, __: object) -> None:
        if WATCHING.get() is seen and seen._current[-1:] == [paths[module]]:
            seen._current.pop()

    for module in paths:
        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)]
    token = WATCHING.set(seen)
    try:
        yield seen
    finally:
        WATCHING.reset(token)
        for handle in handles:
            handle.remove()
