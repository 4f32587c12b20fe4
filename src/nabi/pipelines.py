"""``pipeline(task, model)``: the incumbent's v4 interface, its argument names and its result shapes, over nabi's models.

Unusual: there is no batch size to find; rows are sorted by length, packed by tokens, and come back in order as plain Python values.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

from torch.utils.data import Dataset

from nabi import checkpoint, tasks
from nabi.data import read_table
from nabi.errors import InputError, OptionError, nearest
from nabi.model import Model
from nabi.weights import hub
from nabi.weights.download import with_token

# v4's arguments that steer what nabi decides by itself: taken, and said once to have no effect
_NO_EFFECT = frozenset(
    {
        "use_fast", "batch_size", "num_workers", "binary_output", "padding", "truncation", "device_map", "model_kwargs",
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
        """The model's tokenizer; None for one that reads no text."""
        return self.model.inputs.words

    @property
    def device(self) -> Any:
        """Where the model's tensors are."""
        return self.model.device

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model's folder."""
        checkpoint.save(self.model, folder)

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Answers in v4's shapes: one for one input, a list for a list, an iterator for an iterator or a data set (in constant memory).

        Args:
            args: one: a str, a mapping with the task's columns, a list of these, a DataFrame or a column of one, a data set, or any iterable of them. A
                task may also take its inputs by name, as v4 does: ``question=..., context=...``.
            options: of the task, over the pipeline's own.

        Raises:
            OptionError: an unknown option.
            InputError: an input can't be read; it is named by its number.
        """
        inputs, options = self.model.task.called(args, options)
        opts = self.model.options({**self._defaults, **_known(self.model, options)})
        if self.model.task.single(inputs):
            alone = self.model.task.alone("mapping" if isinstance(inputs, Mapping) else "text", options)
            return self.postprocess(self._forward(self.preprocess(inputs, opts)), opts, alone)
        if hasattr(inputs, "itertuples"):  # a DataFrame, which would give its column names
            inputs = read_table(inputs)
        lazy = isinstance(inputs, Iterator)
        if isinstance(inputs, Dataset):  # torch's need not be iterable
            data, lazy = inputs, True
            inputs = (data[i] for i in range(len(data)))  # type: ignore[arg-type]
        if not isinstance(inputs, Iterable):
            raise InputError("this is no input", value=repr(inputs), expected="a str, a mapping, or an iterable of these")
        results = self._many(inputs, opts, self.model.task.alone("stream" if lazy else "list", options))
        return results if lazy else list(results)

    def _many(self, inputs: Iterable[Any], options: Any, alone: bool) -> Iterator[Any]:
        hooks = ("preprocess", "_forward", "postprocess")
        if any(getattr(type(self), name) is not getattr(Pipeline, name) for name in hooks):  # a subclass sees its inputs one by one, as in v4
            return (self.postprocess(self._forward(self.preprocess(item, options)), options, alone) for item in inputs)
        return (self.model.task.present(answer, options, alone) for answer in self.model.answers(inputs, options))

    def preprocess(self, item: Any, options: Any = None) -> dict[str, Any]:
        """v4's first hook for subclasses: one input -> its ``example`` and its ``rows``."""
        options = self.model.options(self._defaults) if options is None else options
        example = self.model.task.example_of(item)
        return {"example": example, "rows": self.model.encode(example, options, where="input 1"), "options": options}

    def _forward(self, encoded: Mapping[str, Any]) -> dict[str, Any]:
        """v4's second hook: what ``preprocess`` made -> the same with the model's ``answer``."""
        (answer,) = self.model.answered([encoded["example"]], [encoded["rows"]], encoded["options"])
        return {**encoded, "answer": answer}

    def postprocess(self, found: Mapping[str, Any], options: Any = None, alone: bool = False) -> Any:
        """v4's third hook: what ``_forward`` made -> the result in v4's shape; ``alone`` as ``Task.alone`` says."""
        return self.model.task.present(found["answer"], options or found["options"], alone)


def pipeline(
    task: str | None = None,
    model: str | Path | Model | None = None,
    config: Any = None,
    tokenizer: Any = None,
    feature_extractor: Any = None,
    image_processor: Any = None,
    processor: Any = None,
    framework: str | None = None,
    revision: str | None = None,
    *,
    device: Any = None,
    dtype: Any = None,
    torch_dtype: Any = None,
    precision: str | None = None,
    token: str | bool | None = None,
    use_auth_token: str | bool | None = None,
    trust_remote_code: bool | None = None,
    pipeline_class: type[Pipeline] | None = None,
    plugins: Iterable[str | Path | ModuleType] = (),
    **options: Any,
) -> Pipeline:
    """Make a pipeline.

    Args:
        task: its v4 name, with - or _ alike; by what the model says if None.
        model: a folder, a hub id, a shipped name, or a model; v4's own default for the task, if it is in the cache, if None.
        config, feature_extractor, image_processor, processor: refused unless they name the model: a model carries its own.
        tokenizer: taken if it is the model's own or names its folder.
        framework: ``pt`` or None.
        revision: branch, tag or commit of a hub id.
        device: None, -1, ``cpu``, a CUDA number or name; a model is moved there.
        dtype, torch_dtype: float32 or bfloat16; ``precision`` is nabi's own word for it.
        token, use_auth_token: for the hub; never printed.
        trust_remote_code: refused if true: code from a checkpoint is never run.
        pipeline_class: a subclass of :class:`Pipeline` with hooks of its own.
        plugins: files or modules with families and tasks of your own.
        options: of the task, for every call.

    Raises:
        OptionError: an unknown task or option.
        CheckpointError: the model can't be loaded, or has no head for the task.
    """
    if trust_remote_code:
        raise OptionError("trust_remote_code=True is refused", fix="nabi never runs code from a checkpoint; give your own family with plugins=[...]")
    if framework not in (None, "pt"):
        raise OptionError("nabi computes with torch", value=framework, expected="framework='pt', or none")
    parts = {"config": config, "feature_extractor": feature_extractor, "image_processor": image_processor, "processor": processor}
    for name, value in parts.items():
        if value is not None and str(value) != str(model):
            raise OptionError(f"{name} can't be given apart from the model", value=str(value), fix=f"leave {name} out; a model carries its own")
    make = pipeline_class or Pipeline
    if isinstance(model, Model):
        if task is not None and tasks.find(task).name != model.task.name:
            raise OptionError("the model answers another task", value=task, expected=model.task.name)
        if tokenizer is not None and tokenizer is not model.inputs.words:
            raise OptionError("the tokenizer is not this model's own", fix="leave it out; a model carries its tokenizer")
        asked = precision or dtype or torch_dtype
        if asked is not None:
            raise OptionError("the precision of a model that is loaded can't be chosen any more", value=str(asked), fix="give it to nabi.load")
        if device is not None:
            model.to(_device(device))
        return make(model, _known(model, options))
    if model is None:
        model = _default(task)
    if tokenizer is not None and str(tokenizer) != str(model):
        raise OptionError("a tokenizer of its own can't be given with a model folder", value=str(tokenizer), fix="the folder's tokenizer is used")
    wanted = precision or _precision(dtype if dtype is not None else torch_dtype)
    where = _device(device)
    with with_token(token if token is not None else use_auth_token):
        loaded = checkpoint.load(
            model, task, plugins=plugins, device=where, precision=wanted or ("fp32" if where == "cpu" else None), revision=revision
        )
    named = loaded.task.named(task.replace("-", "_").lower()) if task else None
    return make(loaded, _known(loaded, {**(named or {}), **options}))


def _default(task: str | None) -> str:
    """v4's default model of a task, if it is in the hub's cache."""
    cached = hub.cached()
    for name in (name for name in (tasks.find(task).defaults if task else ()) if name in cached):
        print(f"No model was given: {name} from the cache is used.", file=sys.stderr)
        return name
    there = ", ".join(cached) or "none"
    fix = f"give a folder or an id; in the cache: {there}; or train one: nabi train --task ... --base minilm --data FILE --out DIR"
    raise OptionError("no model was given, and the task's usual one is not here", value=task, expected="a model", fix=fix)


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
