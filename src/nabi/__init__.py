"""nabi: task transformers, from raw files to served models. The public names are found when first used, so importing nabi loads no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nabi.checkpoint import create, load, save
    from nabi.errors import NabiError
    from nabi.evaluation import evaluate
    from nabi.fitting import fit
    from nabi.model import Model
    from nabi.nn.lora import Lora
    from nabi.pipelines import pipeline
    from nabi.predicting import predict_file
    from nabi.training.loop import train
    from nabi.training.plan import Plan

__version__ = "0.1.0"
__all__ = ["Lora", "Model", "NabiError", "Plan", "__version__", "create", "evaluate", "fit", "load", "pipeline", "predict_file", "save", "train"]

_HOME = {
    "Lora": "nabi.nn.lora",
    "Model": "nabi.model",
    "NabiError": "nabi.errors",
    "Plan": "nabi.training.plan",
    "create": "nabi.checkpoint",
    "evaluate": "nabi.evaluation",
    "fit": "nabi.fitting",
    "load": "nabi.checkpoint",
    "pipeline": "nabi.pipelines",
    "predict_file": "nabi.predicting",
    "save": "nabi.checkpoint",
    "train": "nabi.training.loop",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'nabi' has no attribute '{name}'")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value  # found once
    return value


def __dir__() -> list[str]:
    return __all__
