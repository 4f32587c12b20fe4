"""``set_seed`` of version 4: the global generators of Python, NumPy and torch."""

from __future__ import annotations

import random

import numpy as np
import torch


def set_seed(seed: int, deterministic: bool = False) -> None:
    """Begin the draws of Python, NumPy and torch anew.

    Args:
        seed: where they begin.
        deterministic: also let torch take deterministic operators alone.
    """
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - scripts of version 4 draw from the global one
    torch.manual_seed(seed)  # CUDA's generators too
    if deterministic:
        torch.use_deterministic_algorithms(True)
