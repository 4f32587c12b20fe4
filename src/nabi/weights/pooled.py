"""How the makers of a sentence encoder make one vector of a text: the ``modules.json`` of sentence-transformers, with the ``config.json`` of its pooling.

The format is as that library's folders have it: a list of modules, each with a ``type`` and a ``path`` below the folder; of a pooling either a switch a mode
(``pooling_mode_cls_token``) or one name (``pooling_mode``). Unusual: what nabi does not compute, another mode, several at once, a further module, keeps its
name, so that a task refuses it by name where it would matter, and a folder opens for all else.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, get_args

from nabi.config import read_file
from nabi.errors import CheckpointError, OptionError
from nabi.weights.files import is_plain_name

Pooling = Literal["mean", "max", "cls", "last"]  # those that nabi computes
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
MODULES = "modules.json"
_SWITCH = "pooling_mode_"
_OURS = {"mean_tokens": "mean", "max_tokens": "max", "cls_token": "cls", "lasttoken": "last"}  # the others have one name


def stated_pooling(folder: Path) -> tuple[str, bool] | None:
    """The pooling of a folder and whether vectors are scaled to length 1; None if the folder does not say.

    Raises:
        CheckpointError: a file of it is missing or can't be read.
    """
    path = folder / MODULES
    if not path.is_file():
        return None
    try:
        modules: Any = json.loads(path.read_text(encoding="utf-8"))
        named = [(str(module["type"]).rpartition(".")[2], str(module.get("path") or "")) for module in modules]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError("modules.json is no list of modules", value=str(path), fix="it was edited; fetch the folder again") from None
    found, normalize = [], False
    for kind, place in named:
        if kind == "Normalize":
            normalize = True
        elif kind == "Pooling":
            if not is_plain_name(place, folders=True):
                raise CheckpointError("modules.json names a folder that is none below it", value=f"{path}: {place}", fix="do not use this model")
            found.append(_mode(folder / place / "config.json"))
        elif kind != "Transformer":
            found.append(kind)
    return (" and ".join(found), normalize) if found else None


def _mode(path: Path) -> str:
    if not path.is_file():
        raise CheckpointError("the folder's pooling has no config.json", value=str(path), fix="fetch the folder again")
    config = read_file(path, CheckpointError)
    if isinstance(config.get("pooling_mode"), str):
        on = [config["pooling_mode"]]
    else:
        on = [key.removeprefix(_SWITCH) for key, value in config.items() if key.startswith(_SWITCH) and value is True]
    return " and ".join(_OURS.get(name, name) for name in on) or "no mode"


def checked(pooling: str) -> Pooling:
    """The pooling itself, if nabi computes it.

    Raises:
        OptionError: it does not.
    """
    for known in POOLINGS:
        if known == pooling:
            return known
    fix = "take another model; features and training take a pooling of your own"
    raise OptionError("nabi does not pool in this way", value=pooling, expected=f"one of {', '.join(POOLINGS)}", fix=fix)
