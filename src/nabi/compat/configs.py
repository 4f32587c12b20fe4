"""``AutoConfig`` and the configurations of the families: the incumbent's names, its defaults of version 4, over nabi's own configurations.

Unusual: a name that says nothing is an error with the nearest one, both as an argument and as an attribute that is set.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from nabi import families
from nabi.compat.names import STEMS, TYPES
from nabi.config import read_file
from nabi.errors import CheckpointError, OptionError, unknown
from nabi.families import Family
from nabi.files import whole
from nabi.weights.download import with_token
from nabi.weights.hub import offline
from nabi.weights.sources import resolve

# what version 4 fills in where that is not what nabi's family does
_SPECIAL = ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id")
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "bert": {"pad_token_id": 0},
    "distilbert": {"pad_token_id": 0},
    "roberta": {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2},
    "xlm-roberta": {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "vocab_size": 30522},
    "camembert": {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "vocab_size": 30522},
    "gpt2": {"bos_token_id": 50256, "eos_token_id": 50256},
    "openai-gpt": {},
    "t5": {"d_model": 512, "d_ff": 2048, "num_layers": 6, "num_heads": 8, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": None},
    "mt5": {
        "vocab_size": 250112, "d_model": 512, "d_ff": 1024, "num_layers": 8, "num_heads": 6, "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0,
    },
    "bart": {
        "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "forced_eos_token_id": 2, "is_encoder_decoder": True,
        "id2label": {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"},
    },
    "marian": {"eos_token_id": 0, "forced_eos_token_id": 0, "is_encoder_decoder": True},
    "vit": {},
}  # fmt: skip
_COMMON = {
    "architectures": None, "output_attentions": False, "output_hidden_states": False, "return_dict": True, "use_cache": True, "problem_type": None,
    "is_encoder_decoder": False, "tie_word_embeddings": True, "torch_dtype": None, "tokenizer_class": None, "task_specific_params": None, "prefix": None,
    "_name_or_path": "",
}  # fmt: skip
_ALIASES = {"hidden_size": "hidden_size", "num_hidden_layers": "num_layers", "num_attention_heads": "num_heads", "max_position_embeddings": "max_positions",
            "head_dim": "head_size"}  # fmt: skip
# nabi derives it from the rest (T5): version 4 has no such key
_NOT_THEIRS = frozenset({"scale_decoder_outputs"})


class PretrainedConfig:
    """The sizes and settings of a model; the classes of the families say what for.

    Args:
        settings: under the incumbent's names, over its defaults; ``num_labels``, ``id2label`` and ``label2id`` for heads.

    Raises:
        OptionError: a name that this family does not know.
    """

    model_type: ClassVar[str] = ""
    _data: dict[str, Any]

    def __init__(self, **settings: Any) -> None:
        if not self.model_type:
            raise OptionError("a configuration without a family", expected="a class of a family, such as BertConfig, or AutoConfig.from_pretrained")
        self._fill({}, settings, "")

    def _fill(self, stated: Mapping[str, Any], settings: Mapping[str, Any], name: str) -> None:
        family = self._family
        known = _theirs(family) - _NOT_THEIRS
        ours = {key: value for key, value in families.config_to(family, family.config()).items() if key in known}
        object.__setattr__(self, "_data", {**_COMMON, **dict.fromkeys(_SPECIAL), **ours, "id2label": None, **DEFAULTS.get(self.model_type, {})})
        object.__setattr__(self, "_stated", frozenset(stated))
        self._data.update({key: value for key, value in stated.items() if key != "model_type"})
        self._data["_name_or_path"] = name or stated.get("_name_or_path") or ""
        labels = self._data["id2label"] or {i: f"LABEL_{i}" for i in range(int(stated.get("num_labels") or stated.get("_num_labels") or 2))}
        self._name_labels(labels)
        self._data.pop("num_labels", None)
        self.update(settings)

    @property
    def _family(self) -> Family:
        return families.find(str(families.of_type(self.model_type)))

    @property
    def _known(self) -> set[str]:
        return {*self._data, *_theirs(self._family), *self.attribute_map, *families.HARMLESS, "num_labels"} - _NOT_THEIRS

    @property
    def attribute_map(self) -> dict[str, str]:
        """The usual name of a size -> the key under which this family has it."""
        return dict(_attribute_map(self.model_type))

    @property
    def use_return_dict(self) -> bool:
        """Whether models return named results."""
        return bool(self._data["return_dict"])

    @property
    def num_labels(self) -> int:
        """Outputs of a classifying head."""
        return len(self._data["id2label"])

    @property
    def name_or_path(self) -> str:
        """Where it was read from."""
        return str(self._data["_name_or_path"])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_data" not in self.__dict__:
            raise AttributeError(name)
        key = self.attribute_map.get(name, name)
        if key in self._data:
            value = self._data[key]
            # these follow another size where nobody says otherwise
            follows = {"num_decoder_layers": "num_layers", "decoder_vocab_size": "vocab_size"}.get(key)
            return self._data[follows] if value is None and follows else value
        if key == "num_hidden_layers" and "encoder_layers" in self._data:
            return self._data["encoder_layers"]
        raise AttributeError(str(unknown(f"setting of {type(self).__name__}", name, self._known)))

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "num_labels":
            if value != self.num_labels:
                self._name_labels({i: f"LABEL_{i}" for i in range(_count(value))})
        elif name == "id2label":
            self._name_labels(value)
        elif name not in self._known:
            raise unknown(f"setting of {type(self).__name__}", name, self._known)
        else:
            key = self.attribute_map.get(name, name)
            self._data[key] = value
            if key == "feed_forward_proj":  # the keys that follow from it
                self._data.pop("dense_act_fn", None)
                self._data.pop("is_gated_act", None)

    def _name_labels(self, labels: Mapping[Any, str]) -> None:
        named = {int(number): label for number, label in labels.items()}
        if sorted(named) != list(range(len(named))) or not named:
            raise OptionError("id2label does not number its labels from 0 on", value=labels, expected="{0: ..., 1: ...}")
        said = self._data.get("label2id")
        self._data["id2label"] = named
        self._data["label2id"] = said if said and set(said.values()) == set(named) else {label: number for number, label in named.items()}

    def update(self, settings: Mapping[str, Any]) -> None:
        """Set several settings at once.

        Raises:
            OptionError: a name that this family does not know.
        """
        given = dict(settings)
        labels, ids, count = given.pop("id2label", None), given.pop("label2id", None), given.pop("num_labels", None)
        for name, value in given.items():
            setattr(self, name, value)
        if count is not None and labels is not None and _count(count) != len(labels):
            raise OptionError("num_labels and id2label contradict each other", value=f"{count} and {len(labels)}", expected="as many labels as num_labels")
        if count is not None and labels is None and ids is None:
            setattr(self, "num_labels", count)  # noqa: B010 - __setattr__ takes it
        if labels is None and ids is not None:
            labels = {number: label for label, number in ids.items()}
        if labels is not None:
            self._data["label2id"] = ids
            self._name_labels(labels)

    # ---- in and out ----------------------------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """All settings, under the incumbent's names."""
        return {**copy.deepcopy(self._data), "model_type": self.model_type}

    def to_json_string(self, use_diff: bool = True) -> str:
        """The settings as JSON; all of them, whatever ``use_diff`` says."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, sort_keys=True, default=str) + "\n"

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write ``config.json`` into a folder."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        with whole(folder / "config.json") as draft:
            draft.write_text(self.to_json_string(), encoding="utf-8")

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], **settings: Any) -> PretrainedConfig:
        """A configuration of the class that ``model_type`` names, with settings over it."""
        return _made(cls, config_dict, settings, "")

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        token: Any = None,
        use_auth_token: Any = None,
        **settings: Any,
    ) -> PretrainedConfig:
        """The configuration of a model folder, or of a model of the hub, with settings over it.

        Raises:
            CheckpointError: there is none, or it is of another family.
            OptionError: a setting that this family does not know.
        """
        settings = without_hub(settings)
        with with_token(token if token is not None else use_auth_token):
            folder = resolve(pretrained_model_name_or_path, revision, weights=False, needs=("config.json",))
        if not (folder / "config.json").is_file():
            what = "there is no such folder" if not folder.is_dir() else "the folder has no config.json"
            raise CheckpointError(what, value=str(folder), fix="check the path, or fetch the model again")
        return _made(cls, read_file(folder / "config.json", CheckpointError), settings, str(pretrained_model_name_or_path))

    def sizes(self, tensors: Mapping[str, Any] | None = None) -> Any:
        """The configuration as nabi's family has it.

        Args:
            tensors: of the checkpoint, which some versions left a setting to.

        Raises:
            CheckpointError: a value that the family does not compute.
        """
        family = self._family
        assert family.hf is not None
        stated = family.hf.stated({key: value for key, value in self.to_dict().items() if key in self._stated or value is not None}, tensors or {})
        return families.config_from(family, {key: value for key, value in stated.items() if key in _theirs(family)}, type(self).__name__)

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PretrainedConfig) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __deepcopy__(self, memo: Any) -> PretrainedConfig:
        made = object.__new__(type(self))
        for name, value in self.__dict__.items():
            object.__setattr__(made, name, copy.deepcopy(value, memo))
        return made

    def __reduce__(self) -> Any:
        return _made, (PretrainedConfig, self.to_dict(), {}, self.name_or_path)


class AutoConfig:
    """Finds the class of a configuration by its ``model_type``."""

    from_pretrained = PretrainedConfig.from_pretrained

    @staticmethod
    def for_model(model_type: str, **settings: Any) -> PretrainedConfig:
        """A configuration of this type with the incumbent's defaults, and settings over it."""
        return _made(PretrainedConfig, {"model_type": model_type}, settings, "")


@cache
def class_named(stem: str) -> type[PretrainedConfig]:
    """The class of a family, such as ``BertConfig``."""
    return type(f"{stem}Config", (PretrainedConfig,), {"model_type": STEMS[stem], "__doc__": f"The configuration of {stem}.", "__module__": __name__})


def without_hub(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without version 4's words for the hub that ask for nothing, or for what is so anyway.

    Raises:
        OptionError: one of them asks for something.
    """
    if settings.get("trust_remote_code"):
        raise OptionError("nabi never runs the code of a checkpoint", value="trust_remote_code=True", fix="leave it out")
    if settings.get("local_files_only") and not offline():
        raise OptionError("whether the network is used is set outside", value="local_files_only=True", fix="set HF_HUB_OFFLINE=1")
    for name, fix in (("force_download", "delete the model from the cache"), ("cache_dir", "set HF_HUB_CACHE"), ("subfolder", "name the folder itself")):
        if settings.get(name):
            raise OptionError(f"{name} is not taken here", value=settings[name], fix=fix)
    words = {"trust_remote_code", "local_files_only", "force_download", "cache_dir", "subfolder", "resume_download"}
    return {name: value for name, value in settings.items() if name not in words}


def _made(cls: type[Any], data: Mapping[str, Any], settings: Mapping[str, Any], name: str) -> PretrainedConfig:
    model_type = data.get("model_type")
    if model_type not in TYPES or families.of_type(str(model_type)) is None:
        raise CheckpointError("the configuration is of an unknown family", value=model_type, expected=f"one of {', '.join(TYPES)}")
    found = class_named(TYPES[model_type])
    wanted = getattr(cls, "model_type", "")
    if wanted and wanted != model_type:
        raise CheckpointError(f"this is no configuration of {cls.__name__}", value=model_type, expected=wanted, fix=f"take {found.__name__} or AutoConfig")
    made = object.__new__(found)
    made._fill(data, settings, name)
    return made


def _theirs(family: Family) -> frozenset[str]:
    assert family.hf is not None
    return frozenset({*family.hf.fields, *family.hf.fixed})


@cache
def _attribute_map(model_type: str) -> tuple[tuple[str, str], ...]:
    family = families.find(str(families.of_type(model_type)))
    assert family.hf is not None
    keys = {ours: theirs for theirs, ours in family.hf.fields.items()}
    found = {name: keys[ours] for name, ours in _ALIASES.items() if ours in keys and name not in family.hf.fields}
    if "encoder_heads" in keys:
        found["num_attention_heads"] = keys["encoder_heads"]
    return tuple(found.items())


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise OptionError("num_labels is no number of labels", value=value, expected="a whole number of 1 or more")
    return value
