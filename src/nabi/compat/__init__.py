"""What scripts written for version 4 of the incumbent type: ``import nabi.compat as transformers``, or ``from nabi.compat import AutoTokenizer, ...``.

Padded tensors go in and out at this door only; below it everything is packed. Unusual: what can't be done raises, and an argument that is not known is an
error with the nearest name; names are found when first used, so importing this loads no torch.
"""

from __future__ import annotations

import re
from importlib import import_module
from typing import TYPE_CHECKING, Any

from nabi.compat.names import AUTO_MODELS, FOREIGN, IMAGE_PROCESSORS, NOT_HERE, PROCESSORS, STEMS, TOKENIZER_CLASSES
from nabi.errors import nearest

if TYPE_CHECKING:
    from nabi.compat import verbosity as logging
    from nabi.compat.batch_encoding import BatchEncoding, CharSpan, TokenSpan
    from nabi.compat.configs import AutoConfig, PretrainedConfig
    from nabi.compat.models import PreTrainedModel
    from nabi.compat.outputs import ModelOutput
    from nabi.compat.pipes import pipeline
    from nabi.compat.processors import BatchFeature
    from nabi.compat.seeds import set_seed
    from nabi.compat.streams import ConstantLengthDataset, load_dataset
    from nabi.compat.tokens import AutoTokenizer, PreTrainedTokenizer, PreTrainedTokenizerFast
    from nabi.compat.writing import GenerationConfig
    from nabi.pipelines import Pipeline

_HOME = {
    "AutoConfig": "nabi.compat.configs",
    "AutoTokenizer": "nabi.compat.tokens",
    "BatchEncoding": "nabi.compat.batch_encoding",
    "BatchFeature": "nabi.compat.processors",
    "CharSpan": "nabi.compat.batch_encoding",
    "ConstantLengthDataset": "nabi.compat.streams",
    "GenerationConfig": "nabi.compat.writing",
    "ModelOutput": "nabi.compat.outputs",
    "Pipeline": "nabi.pipelines",
    "PreTrainedModel": "nabi.compat.models",
    "PreTrainedTokenizer": "nabi.compat.tokens",
    "PreTrainedTokenizerFast": "nabi.compat.tokens",
    "PretrainedConfig": "nabi.compat.configs",
    "TokenSpan": "nabi.compat.batch_encoding",
    "load_dataset": "nabi.compat.streams",
    "pipeline": "nabi.compat.pipes",
    "set_seed": "nabi.compat.seeds",
}
__all__ = [
    "AutoConfig",
    "AutoTokenizer",
    "BatchEncoding",
    "BatchFeature",
    "CharSpan",
    "ConstantLengthDataset",
    "GenerationConfig",
    "ModelOutput",
    "Pipeline",
    "PreTrainedModel",
    "PreTrainedTokenizer",
    "PreTrainedTokenizerFast",
    "PretrainedConfig",
    "TokenSpan",
    "load_dataset",
    "logging",
    "pipeline",
    "set_seed",
]
_STEM = re.compile(rf"({'|'.join(sorted(STEMS, key=len, reverse=True))})(Config|Model|For[A-Z]\w+|LMHeadModel|MTModel|EncoderModel)")


def _found(name: str) -> Any:
    if name == "logging":
        return import_module("nabi.compat.verbosity")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in AUTO_MODELS:
        return import_module("nabi.compat.autos").auto_class(name)
    if name in IMAGE_PROCESSORS:
        return import_module("nabi.compat.processors").class_named(name)
    if name in PROCESSORS:
        return import_module("nabi.compat.processors").processor_named(name)
    if name.removesuffix("Fast") in TOKENIZER_CLASSES:
        return import_module("nabi.compat.tokens").class_named(name)
    match = _STEM.fullmatch(name)
    if match and match[2] == "Config":
        return import_module("nabi.compat.configs").class_named(match[1])
    return import_module("nabi.compat.models").class_named(match[1], match[2]) if match else None


def _missing(name: str) -> AttributeError:
    reason = NOT_HERE.get(name) or next((why for start, why in FOREIGN.items() if re.match(rf"{start}[A-Z]", name)), "")
    if not reason and not name.startswith("_"):
        models = import_module("nabi.compat.models").class_names()
        known = [*_HOME, "logging", *AUTO_MODELS, *models, *(f"{stem}Config" for stem in STEMS), *TOKENIZER_CLASSES, *IMAGE_PROCESSORS, *PROCESSORS]
        near = nearest(name, known)
        reason = f"{near[:1].upper()}{near[1:]} " * bool(near) + f"There are {', '.join([*__all__, *AUTO_MODELS])}, and the classes of {', '.join(STEMS)}"
    return AttributeError(f"nabi.compat has no '{name}'. {reason[:1].upper()}{reason[1:]}.")


def __getattr__(name: str) -> Any:
    value = None if name.startswith("_") or name in NOT_HERE else _found(name)
    if value is None:
        raise _missing(name)
    globals()[name] = value  # found once
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *AUTO_MODELS])
