"""pytorch_model.bin: the weights of older checkpoints, a pickle that is never run.

torch's restricted reader builds tensors and plain containers and refuses every other name that the pickle asks for. What it gives is checked
again: a flat mapping from names to dense tensors, each no larger than the memory behind it. Files since torch 1.6 (zip) are memory-mapped; older
ones are read whole.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import KeysView
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

from nabi.errors import CheckpointError, shortened


class PickledTensors:
    """The tensors of one .bin file, with the methods of a safetensors handle.

    Raises:
        CheckpointError: the file is damaged, wants to run code, or holds something else than named tensors.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tensors = _load(path)
        self._given: dict[int, str] = {}

    def keys(self) -> KeysView[str]:
        """The names of the tensors."""
        return self._tensors.keys()

    def get_tensor(self, name: str) -> Tensor:
        """One tensor; of several that share memory (tied weights) each after the first is a copy, as it is in a safetensors file."""
        tensor = self._tensors[name]
        first = self._given.setdefault(tensor.untyped_storage().data_ptr(), name)
        return tensor if first == name else tensor.clone()

    def get_slice(self, name: str) -> SimpleNamespace:
        """An object whose ``get_shape()`` is the tensor's shape."""
        return SimpleNamespace(get_shape=lambda: list(self._tensors[name].shape))


def _load(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, on the age of the format
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as problem:
        if not any(sign in str(problem) for sign in ("GLOBAL", "Can only", "Only persistent_load")):
            raise _damaged(path, "it is no pickle that torch wrote") from None
        what = "the pickle holds more than weights, or wants to run code, which nabi never does"
        raise CheckpointError(what, value=str(path), fix="do not use it if you do not know who made it; take model.safetensors") from None
    except Exception as problem:  # noqa: BLE001 - the reader is Python code over hostile bytes: it fails in any way that bytes can make Python fail
        raise _damaged(path, shortened(str(problem).partition("\n")[0] or type(problem).__name__)) from None
    if not isinstance(found, dict):
        raise _foreign(path, f"a {type(found).__name__}")
    wrong = [seen for name, value in found.items() if (seen := _strange(name, value))]
    if wrong or not found:
        raise _foreign(path, wrong[0] if wrong else "nothing")
    return {name: value.detach() for name, value in found.items()}


def _strange(name: object, value: object) -> str:
    if not isinstance(name, str):
        return f"the name {shortened(name)}"
    if type(value) not in (Tensor, torch.nn.Parameter):
        return f"{shortened(name)} ({type(value).__name__})"
    assert isinstance(value, Tensor)
    if value.layout is not torch.strided or value.device.type != "cpu" or value.is_quantized or value.is_complex():
        return f"{shortened(name)}, which is no plain tensor of numbers"
    # a stride of 0 makes a tensor of any size out of one number
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return f"{shortened(name)}, which is larger than its data"
    return ""


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path.name} can't be read ({reason})", value=str(path), fix="the file is cut off or damaged; fetch it again")


def _foreign(path: Path, found: str) -> CheckpointError:
    expected = "tensors by name, as state_dict() gives them"
    return CheckpointError(f"{path.name} holds something else than weights: {found}", value=str(path), expected=expected, fix="save the state_dict alone")
