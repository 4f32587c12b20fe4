"""``pipeline`` of version 4: nabi's own, which here also takes a model and a tokenizer of this package."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from nabi import families, pipelines, tasks
from nabi.compat.models import PreTrainedModel
from nabi.compat.processors import ImageProcessor
from nabi.compat.tokens import PreTrainedTokenizer
from nabi.errors import OptionError
from nabi.folder import UNLIMITED
from nabi.inputs import Inputs
from nabi.model import Model, Origin
from nabi.pipelines import Pipeline


def pipeline(task: str | None = None, model: Any = None, config: Any = None, tokenizer: Any = None, **options: Any) -> Pipeline:
    """Make a pipeline.

    Args:
        task: its name; by what the model says if None.
        model: as for ``nabi.pipeline``, or a model of this package, whose weights are shared.
        config: left out.
        tokenizer: the model's; of a model of this package it must be given.
        options: as for ``nabi.pipeline``.

    Raises:
        OptionError: a model of this package without task or tokenizer, or with the heads of another task.
    """
    seen = [name for name in ("feature_extractor", "image_processor", "processor") if isinstance(options.get(name), ImageProcessor)]
    given = [options.pop(name) for name in seen]
    if given and not isinstance(model, PreTrainedModel):
        if given[0].name_or_path != str(model):
            what = "the image processor is not the model's own"
            raise OptionError(what, value=given[0].name_or_path or "made here", expected=str(model), fix="save it with the model and open that folder")
    elif given and isinstance(model, PreTrainedModel):
        return pipelines.pipeline(task, _seeing(model, given[0], task), config=config, **options)
    if isinstance(model, PreTrainedModel):
        if task is None or not isinstance(tokenizer, PreTrainedTokenizer):
            what = "a model that is no folder needs its task and its tokenizer"
            raise OptionError(what, value="task" if task is None else "tokenizer", fix="pass pipeline(task, model=model, tokenizer=tokenizer)")
        if (device := options.pop("device", None)) not in (None, -1):
            model.to(f"cuda:{device}" if isinstance(device, int) else device)
        return pipelines.pipeline(task, _model(model, tokenizer, task), config=config, **options)
    if isinstance(tokenizer, PreTrainedTokenizer):
        if tokenizer._changed:
            raise OptionError("the tokenizer is not as its files have it", value=tokenizer.name_or_path, fix="save it with the model and open that folder")
        tokenizer = tokenizer.name_or_path
    return pipelines.pipeline(task, model, config=config, tokenizer=tokenizer, **options)


def _seeing(model: PreTrainedModel, processor: ImageProcessor, task: str | None) -> Model:
    """The same body and heads as a model of nabi that reads images."""
    kind = tasks.find(task or "image_classification")
    if not kind.fits(type(model.body)) or kind.heads != model.kinds:
        heads = ", ".join(model.kinds) or "none"
        raise OptionError(f"{type(model).__name__} has not the heads of {kind.name}", value=heads, expected=", ".join(kind.heads) or "none")
    config = json.loads(json.dumps(model.config.to_dict(), default=str))
    built = kind(kind.from_hf(config, {name: int(model._head(name).out.weight.shape[0]) for name in model.kinds}, {}))
    built.build(model.body)
    for name in model.kinds:
        setattr(built, name, model._head(name))
    name = str(families.of_type(model.model_type))
    origin = Origin(name, families.find(name), model.body.cut(model.config.sizes(), model.kinds), config)
    images = replace(processor.images, side=model.body.side)
    return Model(model.body, built, Inputs(None, UNLIMITED, images), origin).train(model.training)


def _model(model: PreTrainedModel, tokenizer: PreTrainedTokenizer, task: str) -> Model:
    """The same body and heads as a model of nabi."""
    kind = tasks.find(task)
    if kind.heads != model.kinds or (kind.generates or model.body.generates) != model.body.generates:
        heads = ", ".join(model.kinds) or "none"
        raise OptionError(f"{type(model).__name__} has not the heads of {kind.name}", value=heads, expected=", ".join(kind.heads) or "none")
    if tokenizer._changed:
        raise OptionError("the tokenizer has tokens that its files have not", value=tokenizer.name_or_path, fix="save model and tokenizer and open that folder")
    config, generation = json.loads(json.dumps(model.config.to_dict(), default=str)), model.generation_config.to_dict()
    sizes = {name: model.body.tables["tokens"] if name == "vocabulary" else int(model._head(name).out.weight.shape[0]) for name in model.kinds}
    settings = kind.completed(kind.from_hf(config, sizes, generation), config, generation, tokenizer._nabi)
    built = kind(settings)
    built.build(model.body)
    for name in model.kinds:
        setattr(built, name, model._head(name))
    name = str(families.of_type(model.model_type))
    origin = Origin(name, families.find(name), model.body.cut(model.config.sizes(), model.kinds), config)
    limit = min(model.body.limits.get("text", tokenizer.model_max_length), tokenizer.model_max_length)
    return Model(model.body, built, Inputs(tokenizer._nabi, limit), origin).train(model.training)
