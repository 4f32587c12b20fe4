"""A bound on what is built for a checkpoint: a config that asks for a billion layers is refused, not built for ever."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.nn.modules.module import register_module_parameter_registration_hook

from nabi.errors import CheckpointError

_SLACK = 8  # one tensor of a file may be split into several parameters (fused entries)


@contextmanager
def filled_by(tensors: int, where: str) -> Iterator[None]:
    """Modules that are built inside may have no more parameters than so many tensors can fill.

    Args:
        tensors: how many the files hold.
        where: the config's name for the error.

    Raises:
        CheckpointError: one parameter too many was made; the rest is not built.
    """
    count, thread, most = 0, threading.get_ident(), _SLACK * (tensors + 8)

    def seen(module: Any, name: str, parameter: Any) -> None:
        nonlocal count
        if threading.get_ident() != thread:
            return
        count += 1
        if count > most:
            fix = "config.json was edited, or the weights are of another model; fetch the folder again"
            raise CheckpointError(f"the config describes a larger model than the {tensors:,} tensors of its weights can fill", value=where, fix=fix)

    handle = register_module_parameter_registration_hook(seen)
    try:
        yield
    finally:
        handle.remove()
