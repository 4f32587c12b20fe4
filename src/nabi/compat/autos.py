"""``AutoModel`` and the ``AutoModelFor...``: the class of a folder's model, found by its ``model_type`` and the heads that the name stands for."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from nabi import families
from nabi.compat.configs import PretrainedConfig
from nabi.compat.models import NO_EFFECT, PreTrainedModel, class_named, dtype_of
from nabi.compat.names import AUTO_MODELS, TYPES
from nabi.errors import MissingHeadError, OptionError, unknown


class _Auto:
    """Finds the class of a model by its ``model_type``; made by :func:`auto_class`."""

    kinds: ClassVar[tuple[str, ...]]
    writes: ClassVar[str | None]

    def __init__(self, *_: Any, **__: Any) -> None:
        raise OptionError(f"{type(self).__name__} is not made by calling it", fix=f"{type(self).__name__}.from_pretrained(...) or .from_config(...)")

    @classmethod
    def _chosen(cls, config: PretrainedConfig) -> type[PreTrainedModel]:
        stem = TYPES[config.model_type]
        family = families.find(str(families.of_type(config.model_type)))
        assert family.hf is not None
        kinds = cls.kinds
        if cls.__name__ == "AutoModelForPreTraining" and kinds not in family.hf.heads:
            kinds = ("vocabulary",)  # what the family is trained on first
        end = "Model" if not kinds else family.hf.heads.get(kinds, ("", ()))[0]
        writes = "any" if cls.__name__ == "AutoModelForPreTraining" else cls.writes
        found = class_named(stem, end) if end else None
        # a row is a text or an image, which the class's name says
        if kinds == ("row",) and end != cls.__name__.removeprefix("AutoModel"):
            found = None
        if found is None or (writes != "any" and family.body.generates != writes):
            known = [name for name, (kinds, part) in AUTO_MODELS.items() if (kinds in family.hf.heads or not kinds) and part in ("any", family.body.generates)]
            known = [name for name in known if AUTO_MODELS[name][0] != ("row",) or family.hf.heads[("row",)][0] == name.removeprefix("AutoModel")]
            raise MissingHeadError(f"{stem} has no class for {cls.__name__}", expected=f"one of {', '.join(known)}")
        return found

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **settings: Any) -> PreTrainedModel:
        """As ``PreTrainedModel.from_pretrained``, of the class that the folder's ``model_type`` stands for."""
        bound: type[PreTrainedModel] = type(cls.__name__, (PreTrainedModel,), {"_chosen": classmethod(lambda _, config: cls._chosen(config))})
        return bound.from_pretrained(pretrained_model_name_or_path, **settings)

    @classmethod
    def from_config(cls, config: PretrainedConfig, **strange: Any) -> PreTrainedModel:
        """A model with fresh weights."""
        for name in strange.keys() - NO_EFFECT - {"torch_dtype", "dtype"}:
            raise unknown("argument of from_config", name, ["config", "torch_dtype", "dtype"])
        made = cls._chosen(config)(config)
        kind = strange.get("dtype", strange.get("torch_dtype"))
        return made if kind is None else made.to(dtype_of(kind, None))


@cache
def auto_class(name: str) -> type[_Auto]:
    """The automatic class of this name."""
    kinds, writes = AUTO_MODELS[name]
    return type(name, (_Auto,), {"kinds": kinds, "writes": writes, "__doc__": f"Version 4's {name}.", "__module__": __name__})
