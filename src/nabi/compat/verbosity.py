"""``logging`` of version 4: how much this package says through Python's own logging, under the name ``nabi``."""

from __future__ import annotations

import logging as _logging
from typing import Any

CRITICAL, ERROR, WARNING, INFO, DEBUG = _logging.CRITICAL, _logging.ERROR, _logging.WARNING, _logging.INFO, _logging.DEBUG
ROOT = _logging.getLogger("nabi")


def get_logger(name: str | None = None) -> Any:
    """The logger of this name, ``nabi``'s own if None."""
    return ROOT if name is None else _logging.getLogger(name)


def get_verbosity() -> int:
    """The level from which on something is said."""
    return ROOT.getEffectiveLevel()


def set_verbosity(verbosity: int) -> None:
    """Say what is of this level or above."""
    ROOT.setLevel(verbosity)


def set_verbosity_error() -> None:
    """Say errors alone."""
    set_verbosity(ERROR)


def set_verbosity_warning() -> None:
    """Say warnings and errors."""
    set_verbosity(WARNING)


def set_verbosity_info() -> None:
    """Say all but what helps to find mistakes in nabi."""
    set_verbosity(INFO)


def set_verbosity_debug() -> None:
    """Say everything."""
    set_verbosity(DEBUG)
