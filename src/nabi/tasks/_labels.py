"""The names of a classifier's outputs, as the incumbent's config.json has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nabi.errors import CheckpointError


def stated(config: Mapping[str, Any], count: int) -> tuple[str, ...]:
    """The names in the order of the outputs; LABEL_0 and so on where there are none.

    Args:
        config: config.json.
        count: outputs of the head.

    Raises:
        CheckpointError: the names are not as many, or no names.
    """
    names = config.get("id2label") or {str(i): f"LABEL_{i}" for i in range(count)}
    if not isinstance(names, Mapping) or {str(k) for k in names} != {str(i) for i in range(count)}:
        raise CheckpointError("id2label does not fit the classifier", value=names, expected=f"names for 0 to {count - 1}")
    by_number = {int(k): str(v) for k, v in names.items()}
    return tuple(by_number[i] for i in range(count))


def as_hf(labels: Sequence[str]) -> dict[str, Any]:
    """``id2label`` and ``label2id``."""
    return {"id2label": {str(i): name for i, name in enumerate(labels)}, "label2id": {name: i for i, name in enumerate(labels)}}
