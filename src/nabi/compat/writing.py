"""``generate`` and ``GenerationConfig`` of version 4, over nabi's decoding.

A length counts as in version 4: of a decoder the padded prompt's width is part of ``max_length`` and ``min_length``. Unusual: rows never wait for each other,
and draws follow from torch's global generator but are not the incumbent's.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nabi import decoding
from nabi.compat.padding import Grid
from nabi.config import read_file
from nabi.decoding import Generated, Settings
from nabi.decoding.settings import ABSENT
from nabi.errors import CheckpointError, InputError, OptionError, unknown
from nabi.files import whole
from nabi.nn.body import Run
from nabi.tasks._writing import Asked, TaskSteps
from nabi.weights.sources import resolve

if TYPE_CHECKING:
    from nabi.compat.models import PreTrainedModel

_KNOWN = frozenset({field.name for field in dataclasses.fields(Settings)} - {"seed", "top_alternatives"})
_NO_EFFECT = {"use_cache": None, "transformers_version": None, "_from_model_config": None, "return_dict_in_generate": (False,), "output_scores": (False,),
              "output_attentions": (False,), "output_hidden_states": (False,), "output_logits": (False,), "synced_gpus": None,
              "low_memory": None, "cache_implementation": (), "num_assistant_tokens": None, "is_assistant": None}  # fmt: skip
USUAL_LENGTH = 20  # version 4 writes it into files; it then stands for so many new tokens


class GenerationConfig:
    """Settings of :meth:`PreTrainedModel.generate`, as attributes.

    Args:
        settings: the incumbent's names.

    Raises:
        OptionError: an unknown setting.
    """

    def __init__(self, **settings: Any) -> None:
        self.__dict__["_given"] = {}
        for name, value in settings.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        known = {*_KNOWN, *ABSENT, *_NO_EFFECT}
        if name not in known:
            raise unknown("setting of generation", name, known)
        self._given[name] = value

    def __getattr__(self, name: str) -> Any:
        if "_given" not in self.__dict__ or name not in {*_KNOWN, *ABSENT, *_NO_EFFECT}:
            raise AttributeError(name)
        default = next((field.default for field in dataclasses.fields(Settings) if field.name == name), None)
        return self._given.get(name, None if default == () else default)

    @classmethod
    def from_pretrained(cls, pretrained_model_name: str | Path, **settings: Any) -> GenerationConfig:
        """The generation_config.json of a model folder, with settings over it."""
        path = resolve(pretrained_model_name, weights=False, needs=("generation_config.json",)) / "generation_config.json"
        if not path.is_file():
            raise CheckpointError("the folder has no generation_config.json", value=str(path.parent))
        return cls(**{**read_file(path, CheckpointError), **settings})

    def to_dict(self) -> dict[str, Any]:
        """What was set."""
        return dict(self._given)

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write ``generation_config.json``, if anything is set."""
        if self._given:
            with whole(Path(save_directory) / "generation_config.json") as draft:
                draft.write_text(json.dumps(self._given, indent=1, default=list) + "\n", encoding="utf-8")


def written(model: PreTrainedModel, ids: Tensor | None, config: Any, options: Mapping[str, Any]) -> Tensor:
    """As ``PreTrainedModel.generate``.

    Args:
        model: that writes.
        ids: (N, L) prompts or sources.
        config: the settings of the model.
        options: of the call.
    """
    given = {name: value for name, value in options.items() if value is not None}
    mask = given.pop("attention_mask", None)
    given.pop("token_type_ids", None)  # a tokenizer's; a model that writes reads none
    start = given.pop("decoder_input_ids", None)
    stated = {**config.to_dict()} if hasattr(config, "to_dict") else dict(config)
    for name, value in given.items():
        if name not in {*_KNOWN, *ABSENT, *_NO_EFFECT}:
            raise unknown("setting of generate", name, {*_KNOWN, "attention_mask", "decoder_input_ids"})
        allowed = _NO_EFFECT.get(name)
        if allowed is not None and value not in allowed:
            raise OptionError(f"{name} is not built", value=value, fix="leave it out; nabi.Model.stream tells scores and beams")
    decoder_only = model.body.generates == "text"
    if ids is None:
        raise InputError("there is nothing to go on with", expected="input_ids")
    ids = ids.to(model.device)
    grid = Grid.of(ids, mask, "input_ids")
    rows = [row.tolist() for row in torch.split(grid.take(ids), list(grid.layout.lengths))]
    settings = _settings(model, stated, given, ids.shape[1] if decoder_only else 1 if start is None else start.shape[1], decoder_only)
    if decoder_only:
        if start is not None:
            raise OptionError("a decoder has no decoder_input_ids", value=type(model).__name__, fix="give input_ids")
        asked, fronts = [Asked(row, None, model.device) for row in rows], ids.tolist()
    else:
        first = settings.decoder_start_token_id if settings.decoder_start_token_id is not None else settings.bos_token_id
        if start is None and first is None:
            raise OptionError("the model does not say which token its output begins with", fix="set decoder_start_token_id")
        fronts = [[first]] * len(rows) if start is None else start.tolist()
        asked = [Asked(list(front), row, model.device) for front, row in zip(fronts, rows, strict=True)]
    head, size = model._head("vocabulary"), model.body.tables["tokens"]
    steps = TaskSteps(Run(model.body), head, str(model.body.generates), asked, size)
    if settings.stop_strings:
        raise OptionError("stop_strings need a tokenizer, which a model has not", value=settings.stop_strings, fix="use nabi.pipeline")
    results = decoding.generate(
        steps,
        [row.prompt for row in asked],
        settings,
        decoder_only=decoder_only,
        room=model.body.limits.get(str(model.body.generates)),
        sources=None if decoder_only else rows,
        events=False,
        logprobs=False,
    )
    found = sorted((result for result in results if isinstance(result, Generated)), key=lambda result: (result.row, result.index))
    texts = [[*fronts[each.row], *each.tokens, *([] if each.end is None else [each.end])] for each in found]
    pad = settings.pad_token_id if settings.pad_token_id is not None else next(iter(settings.eos_token_id), 0)
    if settings.num_beams > 1:
        pad = pad or next(iter(settings.eos_token_id), 0)  # version 4 takes the padding 0 for none there
    longest = max(map(len, texts))
    return torch.tensor([text + [pad] * (longest - len(text)) for text in texts], device=model.device)


def _settings(model: PreTrainedModel, stated: dict[str, Any], given: dict[str, Any], width: int, decoder_only: bool) -> Settings:
    """The settings of a call, whose lengths count the padded prompt."""
    config = model.config.to_dict()
    for name in _NO_EFFECT:
        stated.pop(name, None)
    if "max_length" not in given and stated.get("max_length", config.get("max_length")) == USUAL_LENGTH:
        stated.pop("max_length", None)
        config.pop("max_length", None)
    if "max_length" in given and "max_new_tokens" not in given:
        stated.pop("max_new_tokens", None)
    known = {name: value for name, value in given.items() if name not in _NO_EFFECT}
    eos = known.get("eos_token_id")
    if isinstance(eos, list):
        known["eos_token_id"] = tuple(eos)
    found = Settings.from_hf({**stated, **known}, config) if stated else Settings.from_hf(None, {**config, **known})
    lengths: dict[str, Any] = {}
    room = model.body.limits.get("text") if decoder_only else None
    if found.max_new_tokens is None and found.max_length is None and room is not None and room > width:
        lengths = {"max_new_tokens": min(USUAL_LENGTH, room - width)}  # version 4 stops the usual length, and no other, where the positions end
    elif found.max_new_tokens is None and found.max_length is not None:
        lengths = {"max_new_tokens": found.max_length - width, "max_length": None}
        if lengths["max_new_tokens"] < 1:
            fix = "set max_new_tokens, or a greater max_length"
            raise InputError("the prompt leaves no room for an answer", value=f"{width} tokens", expected=f"fewer than max_length={found.max_length}", fix=fix)
    if found.min_length and found.min_new_tokens is None:
        lengths |= {"min_new_tokens": max(0, found.min_length - width), "min_length": 0}
    return dataclasses.replace(found, **lengths, seed=int(torch.randint(1 << 31, ())) if found.do_sample else 0)
