"""``pipeline(task, model)``: the incumbent's v4 interface, its argument names and its result shapes, over nabi's models.

Unusual: there is no batch size to find; rows are sorted by length, packed by tokens, and come back in order as plain Python values.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

from nabi import checkpoint, tasks
from nabi.data import read_table
from nabi.errors import InputError, OptionError, nearest
from nabi.model import Model

# v4's arguments that steer what nabi decides by itself: taken, and said once to have no effect
_NO_EFFECT = frozenset(
    {
        "framework", "use_fast", "batch_size", "num_workers", "binary_output", "padding", "truncation", "device_map", "model_kwargs", "token",
        "use_auth_token",
    }
)  # fmt: skip
_DTYPES = {"float32": "fp32", "fp32": "fp32", "torch.float32": "fp32", "bfloat16": "bf16", "bf16": "bf16", "torch.bfloat16": "bf16", "auto": None}


class Pipeline:
    """A model that is called with raw inputs.

    Args:
        model: what answers.
        defaults: options of the task for every call.

    Attributes:
        task: its name; model, tokenizer, device: what it works with.
    """

    def __init__(self, model: Model, defaults: Mapping[str, Any]) -> None:
        self.model, self._defaults = model, dict(defaults)
        self.task = model.task.name.replace("_", "-")
        model.options(self._defaults)

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.model.inputs.tokenizer

    @property
    def device(self) -> Any:
        """Where the model's tensors are."""
        return self.model.device

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model's folder."""
        checkpoint.save(self.model, folder)

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Answers in v4's shapes: one for one input, a list for a list, an iterator for an iterator (in constant memory).

        Args:
            inputs: a str, a mapping with the task's columns, a list of these, a DataFrame, or any iterable of them.
            options: of the task, over the pipeline's own.

        Raises:
            OptionError: an unknown option.
            InputError: an input can't be read; it is named by its number.
        """
        opts = self.model.options({**self._defaults, **_known(self.model, options)})
        if isinstance(inputs, str | Mapping):
            (answer,) = self.model.answers([inputs], opts)
            return self.model.task.present(answer, opts, isinstance(inputs, str))
        if hasattr(inputs, "itertuples"):  # a DataFrame, which would give its column names
            inputs = read_table(inputs)
        if not isinstance(inputs, Iterable):
            raise InputError("this is no input", value=repr(inputs), expected="a str, a mapping, or an iterable of these")
        results = (self.model.task.present(answer, opts, False) for answer in self.model.answers(inputs, opts))
        return results if isinstance(inputs, Iterator) else list(results)


def pipeline(
    task: str | None = None,
    model: str | Path | Model | None = None,
    *,
    tokenizer: Any = None,
    device: Any = None,
    dtype: Any = None,
    torch_dtype: Any = None,
    precision: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool | None = None,
    plugins: Iterable[str | Path | ModuleType] = (),
    **options: Any,
) -> Pipeline:
    """Make a pipeline.

    Args:
        task: its v4 name, with - or _ alike; by what the model says if None.
        model: a folder, a shipped name, or a model.
        tokenizer: taken with a model object only if it is that model's own.
        device: None, -1, ``cpu``, a CUDA number or name.
        dtype, torch_dtype: float32 or bfloat16; ``precision`` is nabi's own word for it.
        revision: for hub ids, which this version does not fetch yet.
        trust_remote_code: refused if true: code from a checkpoint is never run.
        plugins: files or modules with families and tasks of your own.
        options: of the task, for every call.

    Raises:
        OptionError: an unknown task or option.
        CheckpointError: the model can't be loaded, or has no head for the task.
    """
    if trust_remote_code:
        raise OptionError("trust_remote_code=True is refused", fix="nabi never runs code from a checkpoint; give your own family with plugins=[...]")
    if revision is not None:
        raise OptionError("a revision belongs to a hub id, and this version reads folders only", value=revision, fix="give the folder of that revision")
    if model is None:
        raise OptionError(
            "no model was given", value=task, expected="a model folder", fix="train one: nabi train --task ... --base minilm --data FILE --out DIR"
        )
    if isinstance(model, Model):
        if task is not None and tasks.find(task).name != model.task.name:
            raise OptionError("the model answers another task", value=task, expected=model.task.name)
        if tokenizer is not None and tokenizer is not model.inputs.tokenizer:
            raise OptionError("the tokenizer is not this model's own", fix="leave it out; a model carries its tokenizer")
        loaded = model
    else:
        if tokenizer is not None and str(tokenizer) != str(model):
            raise OptionError("a tokenizer of its own can't be given with a model folder", value=str(tokenizer), fix="the folder's tokenizer is used")
        wanted = precision or _precision(dtype if dtype is not None else torch_dtype)
        where = _device(device)
        loaded = checkpoint.load(model, task, plugins=plugins, device=where, precision=wanted or ("fp32" if where == "cpu" else None))
    return Pipeline(loaded, _known(loaded, options))


def _known(model: Model, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the arguments that are options of the model's task; v4's others are told, anything else is refused."""
    known = {f.name for f in fields(model.task.Options)}
    if "long" in known and options.get("truncation") and "long" not in options:
        options = {**{k: v for k, v in options.items() if k != "truncation"}, "long": "truncate"}  # what v4's word asks for
    unused = sorted(options.keys() & (_NO_EFFECT - known))
    if unused:
        warnings.warn(f"{', '.join(unused)}: accepted without effect; nabi packs rows by length and never pads", stacklevel=3)
    for name in sorted(options.keys() - known - _NO_EFFECT):
        raise OptionError("unknown argument of the pipeline", value=name, expected=f"one of {', '.join(sorted(known))}", fix=nearest(name, known))
    return {name: value for name, value in options.items() if name in known}


def _precision(dtype: Any) -> str | None:
    if dtype is None:
        return None
    if str(dtype) not in _DTYPES:
        raise OptionError("unknown dtype", value=str(dtype), expected=f"one of {', '.join(_DTYPES)}")
    return _DTYPES[str(dtype)]


def _device(device: Any) -> str:
    if device is None or device == -1:
        return "cpu"
    return f"cuda:{device}" if isinstance(device, int) else str(device)
