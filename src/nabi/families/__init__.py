"""The architectures, ONE file each; this folder's listing is the registry.

A family file ends with ``FAMILY = Family(...)``. Families import neither tasks nor each other. A user's own family lives in a user's file and comes in
as a plugin (``load(..., plugins=[module])``, ``--plugin my_family.py``); a checkpoint can never name one.
"""

from __future__ import annotations

import dataclasses
import typing
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from nabi import plugins
from nabi.config import convert, to_dict
from nabi.data.pixels import ImageSettings
from nabi.errors import CheckpointError, OptionError, UserError, shortened, unknown
from nabi.nn.body import Body
from nabi.weights.names import Entry

# keys of the incumbent's config.json that say nothing about the mathematics of an encoder: kept for saving, no warning
HARMLESS = frozenset(
    {
        "architectures", "model_type", "transformers_version", "torch_dtype", "dtype", "id2label", "label2id", "num_labels", "problem_type",
        "use_cache", "pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id", "gradient_checkpointing",
        "output_attentions", "output_hidden_states", "return_dict", "tie_word_embeddings", "finetuning_task", "_name_or_path", "_num_labels",
        "tokenizer_class", "task_specific_params", "torchscript", "directionality", "pooler_fc_size", "pooler_num_attention_heads",
        "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type", "is_encoder_decoder", "embedding_size", "hidden_dropout",
        "attn_implementation", "sinusoidal_pos_embds", "tie_weights_", "output_past",
        "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id", "max_length", "min_length", "length_penalty", "no_repeat_ngram_size",
        "num_beams", "num_return_sequences", "early_stopping", "do_sample", "temperature", "top_k", "top_p", "repetition_penalty", "bad_words_ids",
        "prefix", "n_ctx", "summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout",
        "reorder_and_upcast_attn", "predict_special_tokens", "remove_invalid_values", "suppress_tokens", "begin_suppress_tokens",
        "encoder_no_repeat_ngram_size", "diversity_penalty", "num_beam_groups", "typical_p", "output_scores", "return_dict_in_generate",
        "cross_attention_hidden_size", "tf_legacy_loss", "use_bfloat16", "is_decoder", "exponential_decay_length_penalty",
        "n_positions", "dense_act_fn", "is_gated_act", "add_bias_logits", "classif_dropout", "classifier_dropout", "extra_pos_embeddings",
        "force_bos_token_to_be_generated", "num_hidden_layers", "encoder_stride", "pooler_act", "pooler_output_size",
        "replacing_rate", "save_step", "student_encoder_layers", "student_decoder_layers", "initializer_factor", "projection_dim",
        "out_features", "out_indices", "stage_names",
    }
)


@dataclass(frozen=True)
class HF:
    """How the incumbent writes this family, read both ways.

    Attributes:
        types: the ``model_type`` values -> what the names of their classes begin with.
        fields: their key in config.json -> our field; ``text_config.hidden_size`` is a key of the object under ``text_config``.
        fixed: keys that change the mathematics and must have this value; anything else is refused by name.
        weights: name entries of the body.
        prefix: what stands before them when a head is there.
        shared: entries of head weights that the incumbent keeps with its body (BERT's pooler), ours named ``kind.module``.
        heads: the kinds of a task -> (end of the class name, entries of their weights, ours named ``kind.module``). An output layer that the body's
            ``HeadSpec`` ties to a table is written like any other; its weight is then read as a second name of the table.
        bare: kinds whose class holds the body without ``prefix``.
        task: the task that a checkpoint with a vocabulary head is for, where its class leaves it open.
        legacy: old suffix -> new, for loading only.
        ignore: pattern -> reason, tensors that carry nothing.
        stated: (config.json, their tensors) -> config.json with what its version left to the model type or to the tensors.
        lacks: whether the incumbent has no model of a configuration of ours; it is then saved under a ``model_type`` that only nabi knows.
    """

    types: Mapping[str, str]
    fields: Mapping[str, str]
    fixed: Mapping[str, object]
    weights: tuple[Entry, ...]
    prefix: str
    heads: Mapping[tuple[str, ...], tuple[str, tuple[Entry, ...]]]
    shared: tuple[Entry, ...] = ()
    bare: frozenset[tuple[str, ...]] = frozenset()
    task: str | None = None
    legacy: Mapping[str, str] = field(default_factory=dict)
    ignore: Mapping[str, str] = field(default_factory=dict)
    stated: Callable[[Mapping[str, Any], Mapping[str, Tensor]], Mapping[str, Any]] = lambda config, tensors: config
    lacks: Callable[[Any], bool] = lambda config: False

    def kinds(self, architecture: str) -> tuple[str, ...] | None:
        """The head kinds of one of the incumbent's classes, such as BertForSequenceClassification; None if it is none of this family's."""
        named = {stem + end: kinds for stem in self.types.values() for kinds, (end, _) in self.heads.items()}
        return named.get(architecture)


@dataclass(frozen=True)
class Family:
    """One architecture: its configuration class, its body, where it comes from, how the incumbent writes it.

    Attributes:
        config: a frozen dataclass.
        body: built from a configuration.
        paper: the source.
        sizes: named configurations; ``tiny`` must be among them.
        hf: None if the incumbent has no such family; its checkpoints then hold our own names.
        images: configuration -> how a model from scratch reads images; None if the family reads none.
    """

    config: type[Any]
    body: type[Body]
    paper: str
    sizes: Mapping[str, Any]
    hf: HF | None = None
    images: Callable[[Any], ImageSettings] | None = None


def find(name: str) -> Family:
    """The family in ``families/NAME.py`` or in a plugin.

    Raises:
        OptionError: there is none of this name.
    """
    found = plugins.find("families", name)
    if found is None:
        raise unknown("family", name, names())
    assert isinstance(found, Family)
    return found


def names() -> list[str]:
    """All family names, plugins included."""
    return plugins.names("families")


def of_type(model_type: str) -> str | None:
    """The name of the family that reads checkpoints of this ``model_type``; None if no family does."""
    for name in names():
        family = find(name)
        if model_type in (family.hf.types if family.hf else (name,)):
            return name
    return None


def config_from(family: Family, data: Mapping[str, Any], where: str) -> Any:
    """A family's configuration from a config.json.

    Raises:
        CheckpointError: a fixed key has another value, a field is missing or has the wrong type; all of them in one error.
    """
    theirs = family.hf.fields if family.hf else {f.name: f.name for f in dataclasses.fields(family.config)}
    fixed = family.hf.fixed if family.hf else {}
    data = _flat(data, {key.partition(".")[0] for key in (*theirs, *fixed) if "." in key})
    hints = {f.name: f for f in dataclasses.fields(family.config)}
    problems = [
        f"'{key}' is {shortened(data[key])}, but this family computes only {value!r}" for key, value in fixed.items() if key in data and data[key] != value
    ]
    kinds = typing.get_type_hints(family.config)
    values: dict[str, Any] = {}
    for key, name in theirs.items():
        if key in data:
            try:
                values[name] = convert(kinds[name], data[key], key)
            except UserError as error:
                problems.append(str(error).rstrip("."))
        elif hints[name].default is dataclasses.MISSING:
            problems.append(f"'{key}' is missing")
    for name, value in values.items():
        least = 0 if name.endswith("_id") else 1
        if isinstance(value, int) and not isinstance(value, bool) and value < least:
            problems.append(f"'{name}' is {value}, expected at least {least}")
    if problems:
        fix = "this checkpoint needs another family, or its config was edited"
        raise CheckpointError(f"{where} can't be used: " + "; ".join(problems), fix=fix)
    strange = sorted(key for key in set(data) - set(theirs) - set(fixed) if key.rpartition(".")[2] not in HARMLESS)
    if strange:
        warnings.warn(f"{where}: keys that nabi does not know are kept but have no effect: {', '.join(strange)}", stacklevel=2)
    return family.config(**values)


def agreed(family: Family, config: Any, stated: Mapping[str, Any]) -> Any:
    """The configuration with what these keys of config.json state about it, such as the token that a decoder reads first."""
    theirs = family.hf.fields if family.hf else {}
    return dataclasses.replace(config, **{name: stated[key] for key, name in theirs.items() if key in stated})


def config_to(family: Family, config: Any) -> dict[str, Any]:
    """The config.json keys of a configuration, the fixed ones included."""
    ours = to_dict(config)
    if family.hf is None:
        return dict(ours)
    found: dict[str, Any] = {}
    for key, value in (*family.hf.fixed.items(), *((key, ours[name]) for key, name in family.hf.fields.items())):
        outer, _, inner = key.rpartition(".")
        (found.setdefault(outer, {}) if outer else found)[inner] = value
    return found


def _flat(data: Mapping[str, Any], nested: Collection[str]) -> dict[str, Any]:
    """With the keys of the objects under these names in place of the objects."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        inner = value if key in nested and isinstance(value, Mapping) else None
        found |= {key: value} if inner is None else {f"{key}.{name}": x for name, x in inner.items()}
    return found


def build(family: Family, config: Any) -> Body:
    """The body of a configuration, on whatever device is current, its parameters not filled.

    Raises:
        OptionError: the configuration is of another family.
    """
    if not isinstance(config, family.config):
        raise OptionError("the configuration is of another family", value=type(config).__name__, expected=family.config.__name__)
    return family.body(config)
